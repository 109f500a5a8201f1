//! The machine's own time-zone data, where it is newer than what is compiled in.

use crate::trigger::{Zone, ZoneSource};
use std::path::{Path, PathBuf};

/// Where systems keep compiled zones; `TZDIR` comes before them.
const DIRS: [&str; 3] = ["/usr/share/zoneinfo", "/usr/lib/zoneinfo", "/usr/share/lib/zoneinfo"];
/// Largest zone file that is read; the largest real one has a few kilobytes.
const FILE_MAX: u64 = 256 * 1024;

/// Lets [`Zone`]s be read from the machine's data if that says it is newer than the copy compiled
/// in. To be called before any zone is used; the `sandclock` command does.
pub fn use_newer() -> bool {
    let dirs = std::env::var_os("TZDIR").map(PathBuf::from).into_iter().chain(DIRS.map(PathBuf::from));
    dirs.into_iter().any(|dir| version(&dir).is_some_and(|version| Zone::prefer(source(dir, version))))
}

fn source(dir: PathBuf, version: String) -> ZoneSource {
    let origin = dir.display().to_string();
    let read = move |name: &str| {
        // Names come from the database compiled in, so they cannot leave the directory.
        let path = dir.join(name);
        let sound = std::fs::metadata(&path).is_ok_and(|file| file.is_file() && file.len() <= FILE_MAX);
        sound.then(|| std::fs::read(&path).ok()).flatten()
    };
    ZoneSource { version, origin, read: Box::new(read) }
}

/// What the data says of itself: `2026f`.
fn version(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join("+VERSION")).ok().or_else(|| first_line(&dir.join("tzdata.zi")))?;
    let version = text.trim().trim_start_matches("# version ").to_owned();
    let sound = version.len() == 5 && version.starts_with("20") && version.ends_with(|c: char| c.is_ascii_lowercase());
    sound.then_some(version)
}

fn first_line(path: &Path) -> Option<String> {
    use std::io::{BufRead, BufReader, Read};
    let mut line = String::new();
    BufReader::new(std::fs::File::open(path).ok()?.take(64)).read_line(&mut line).ok()?;
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_either_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(version(dir.path()), None);
        std::fs::write(dir.path().join("tzdata.zi"), "# version 2099a\n# more\n").unwrap();
        assert_eq!(version(dir.path()).as_deref(), Some("2099a"));
        std::fs::write(dir.path().join("+VERSION"), "2099b\n").unwrap();
        assert_eq!(version(dir.path()).as_deref(), Some("2099b"));
        std::fs::write(dir.path().join("+VERSION"), "whatever").unwrap();
        assert_eq!(version(dir.path()), None);
    }
}
