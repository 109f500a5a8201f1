//! The form of backups: a tar archive that begins with `backup.json` and holds what a home needs to
//! begin again. Only names that a backup has are taken out of one; what is in the files is believed, its
//! tokens and its settings too, so a backup is to be kept as the home is.

use crate::error::{Error, Result};
use crate::invalid::{Invalid, printable};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

/// The version of the form.
const VERSION: u32 = 1;
const ABOUT: &str = "backup.json";
/// Files of a home that are taken along as they are.
const FILES: &[&str] = &["tokens.json", "sandclock.toml"];
/// What lies in an archive: directories with all they hold, and files.
const DIRS: &[&str] = &["db", "plugins"];

/// How the directories begin in a home that hold copies on their way.
pub const COPY: &str = "backup.";

/// Removes copies that a daemon left that died.
pub fn clean(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(COPY) && entry.path().is_dir() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub version: u32,
    pub taken: DateTime<Utc>,
    /// The version of the program that took it.
    pub program: String,
}

impl About {
    pub fn new(taken: DateTime<Utc>) -> Self {
        About { version: VERSION, taken, program: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// Writes an archive of a copy of a store, and of the other files of its home.
pub fn write<W: Write>(copy: &Path, home: &Path, about: &About, to: W) -> io::Result<W> {
    let mut archive = tar::Builder::new(to);
    archive.mode(tar::HeaderMode::Deterministic);
    let text = serde_json::to_vec_pretty(about)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    header.set_cksum();
    archive.append_data(&mut header, ABOUT, text.as_slice())?;
    for dir in DIRS {
        archive.append_dir_all(dir, copy.join(dir))?;
    }
    archive.append_path_with_name(copy.join("db.commits"), "db.commits")?;
    let audit = fs::read_dir(home)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let audit: Vec<String> = audit.filter(|name| is_audit(name)).collect();
    for name in FILES.iter().map(|name| (*name).to_owned()).chain(audit) {
        let path = home.join(&name);
        if let Ok(mut file) = File::open(&path) {
            // As long as it is now: a log grows while it is read.
            let length = file.metadata()?.len();
            let mut header = tar::Header::new_gnu();
            header.set_size(length);
            header.set_mode(0o600);
            header.set_cksum();
            archive.append_data(&mut header, &name, Read::take(&mut file, length))?;
        }
    }
    archive.into_inner()
}

fn is_audit(name: &str) -> bool {
    name.starts_with("audit.") && name.ends_with("jsonl")
}

/// Takes an archive out, has `check` look at it as a home, and makes it the home, which has no store
/// yet. Nothing is left if it fails, and nothing is overwritten.
pub fn restore(from: impl Read, home: &Path, check: impl FnOnce(&Path) -> Result<()>) -> Result<About> {
    let failed = |e: io::Error| Error::host(format!("cannot restore to `{}`", home.display()), e);
    let refused = |reason: &str| Err(Invalid::new("home", home.display().to_string(), reason).into());
    if home.join("db").exists() {
        return refused("there is a store already (restore to an empty home, or move that one away)");
    }
    let beside = home.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(beside).map_err(failed)?;
    let made = tempfile::Builder::new().prefix(".restore.").tempdir_in(beside).map_err(failed)?;
    let about = take_out(from, made.path())?;
    check(made.path())?;
    let entries: io::Result<Vec<_>> = fs::read_dir(made.path()).map_err(failed)?.collect();
    let names: Vec<_> = entries.map_err(failed)?.into_iter().map(|entry| entry.file_name()).collect();
    if let Some(name) = names.iter().find(|name| home.join(name).exists()) {
        return refused(&format!("`{}` is there already (move it away)", name.to_string_lossy()));
    }
    fs::create_dir_all(home).map_err(failed)?;
    set_private(home, 0o700).map_err(failed)?;
    // The database last: with it the home has a store.
    let (last, first): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name == "db");
    for name in first.into_iter().chain(last) {
        fs::rename(made.path().join(&name), home.join(&name)).map_err(failed)?;
    }
    Ok(about)
}

fn take_out(from: impl Read, home: &Path) -> Result<About> {
    let bad = |reason: String| Error::Invalid(Invalid::new("backup", "", reason));
    let broken = |e: io::Error| bad(format!("it is no whole archive: {}", printable(&e.to_string(), 100)));
    let mut archive = tar::Archive::new(from);
    let mut entries = archive.entries().map_err(broken)?;
    let first = entries.next().ok_or_else(|| bad("it is empty".into()))?.map_err(broken)?;
    if first.path().map_err(broken)? != Path::new(ABOUT) {
        return Err(bad(format!("it does not begin with `{ABOUT}` (`sandclock backup` makes one)")));
    }
    let mut text = Vec::new();
    first.take(64 << 10).read_to_end(&mut text).map_err(broken)?;
    let about: About = serde_json::from_slice(&text).map_err(|e| bad(format!("`{ABOUT}` is not understood: {e}")))?;
    if about.version != VERSION {
        return Err(bad(format!("it has version {}, this program reads {VERSION}", about.version)));
    }
    for entry in entries {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let kind = entry.header().entry_type();
        let known = belongs(&path) && (kind.is_file() || kind.is_dir());
        if !known {
            let path = printable(&path.to_string_lossy(), 100);
            return Err(bad(format!("`{path}` does not belong in one")));
        }
        let target = home.join(&path);
        let wrote = if kind.is_dir() { make_dir(&target) } else { write_file(&mut entry, &target) };
        wrote.map_err(|e| Error::host(format!("cannot write `{}`", target.display()), e))?;
    }
    if !home.join("db").is_dir() || !home.join("db.commits").is_file() {
        return Err(bad("the database is missing in it".into()));
    }
    Ok(about)
}

/// Whether a backup has something of this name: `db/…`, `plugins/…`, or one of the files.
fn belongs(path: &Path) -> bool {
    let mut parts = path.components();
    let Some(Component::Normal(first)) = parts.next() else { return false };
    let first = first.to_string_lossy();
    let inside: Vec<Component<'_>> = parts.collect();
    if inside.iter().any(|part| !matches!(part, Component::Normal(_))) {
        return false;
    }
    DIRS.contains(&&*first)
        || (inside.is_empty() && (FILES.contains(&&*first) || *first == *"db.commits" || is_audit(&first)))
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    set_private(path, 0o700)
}

fn write_file(from: &mut impl Read, to: &PathBuf) -> io::Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = File::create_new(to)?;
    set_private(to, 0o600)?;
    io::copy(from, &mut file)?;
    file.sync_all()
}

fn set_private(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, text) in entries {
            let mut header = tar::Header::new_gnu();
            // What a library would refuse to write, an attacker writes.
            let name = &mut header.as_gnu_mut().unwrap().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(text.len() as u64);
            header.set_mode(0o777);
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn nothing_but_a_backups_own_files_is_taken_out() {
        let about = serde_json::to_string(&About::new(DateTime::UNIX_EPOCH)).unwrap();
        let whole = [(ABOUT, about.as_str()), ("db/db", "d"), ("db.commits", "c"), ("audit.1.jsonl", "")];
        let home = tempfile::tempdir().unwrap();
        assert_eq!(restore(archive(&whole).as_slice(), home.path(), |_| Ok(())).unwrap().version, VERSION);
        assert_eq!(fs::read_to_string(home.path().join("db/db")).unwrap(), "d");
        assert!(
            restore(archive(&whole).as_slice(), home.path(), |_| Ok(())).unwrap_err().to_string().contains("already")
        );
        for path in ["../x", "/x", "db/../../x", "x", "operator.token", "tokens.json/x", "cache/x", "audit.jsonl/x"] {
            let home = tempfile::tempdir().unwrap();
            let with = [whole.as_slice(), &[(path, "x")]].concat();
            let error = restore(archive(&with).as_slice(), home.path(), |_| Ok(())).unwrap_err().to_string();
            assert!(error.contains("does not belong"), "{path}: {error}");
            assert!(!home.path().join("db").exists() && !home.path().parent().unwrap().join("x").exists());
        }
    }

    #[test]
    fn what_is_there_is_neither_overwritten_nor_removed() {
        let about = serde_json::to_string(&About::new(DateTime::UNIX_EPOCH)).unwrap();
        let whole =
            archive(&[(ABOUT, about.as_str()), ("db/db", "d"), ("db.commits", "c"), ("sandclock.toml", "[serve]")]);
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("sandclock.toml"), "own").unwrap();
        for bytes in [whole.as_slice(), b"noise"] {
            assert!(restore(bytes, home.path(), |_| Ok(())).is_err());
            assert_eq!(fs::read_to_string(home.path().join("sandclock.toml")).unwrap(), "own");
            assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        }
        let unsound = |_: &Path| Err(Invalid::new("home", "", "unsound").into());
        let other = home.path().join("other");
        assert!(restore(whole.as_slice(), &other, unsound).is_err() && !other.exists());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_backup_is_refused_and_leaves_nothing() {
        let about = serde_json::to_string(&About::new(DateTime::UNIX_EPOCH)).unwrap();
        let no_database = archive(&[(ABOUT, about.as_str()), ("db.commits", "c")]);
        let other_first = archive(&[("db/db", "d"), (ABOUT, about.as_str())]);
        let newer = archive(&[(ABOUT, r#"{"version":9,"taken":"2027-01-01T00:00:00Z","program":"9"}"#)]);
        let whole = archive(&[(ABOUT, about.as_str()), ("db/db", "d"), ("db.commits", "c")]);
        for bytes in [b"".as_slice(), b"noise", &no_database, &other_first, &newer, &whole[..1024 + 512 + 100]] {
            let dir = tempfile::tempdir().unwrap();
            let home = dir.path().join("home");
            assert!(restore(bytes, &home, |_| Ok(())).is_err());
            assert!(!home.exists());
        }
    }
}
