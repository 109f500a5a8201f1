//! Removes old files, with nothing but Rust's own `std::fs`: what is granted is simply there.

wit_bindgen::generate!({ path: ["../../wit", "wit"], world: "sample:tidier/tidier", generate_all });

use std::fs;
use std::time::{Duration, SystemTime};

struct Tidier;

fn tidy(directory: &str, older_than: Duration, dry_run: bool) -> std::io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let age = SystemTime::now().duration_since(meta.modified()?).unwrap_or_default();
        if !meta.is_file() || age < older_than {
            continue;
        }
        if !dry_run {
            fs::remove_file(entry.path())?;
        }
        removed.push(entry.file_name().to_string_lossy().into_owned());
    }
    removed.sort();
    Ok(removed)
}

impl Guest for Tidier {
    fn tidy(directory: String, older_than: u64, dry_run: bool) -> Result<Vec<String>, String> {
        tidy(&directory, Duration::from_secs(older_than), dry_run).map_err(|error| format!("{directory}: {error}"))
    }
}

export!(Tidier);
