//! Copies of the store while it works: for backups, and of what an upgrade is about to change.

use super::component;
use super::disk::{DirLock, Disk, create_private_dir, note_path, sync_dir};
use super::{SledStore, State, closed, lock};
use crate::error::{Error, Result};
use crate::store::Backup;
use async_trait::async_trait;
use std::fs;
use std::path::{Path, PathBuf};

/// The database's own threads may write while its files are copied; a copy that is not sound is made
/// again.
const TRIES: usize = 3;

#[async_trait]
impl Backup for SledStore {
    async fn copy_to(&self, dir: &Path) -> Result<()> {
        let (turns, state, home, to) = (self.turns.clone(), self.state.clone(), self.home.clone(), dir.to_owned());
        let work = move || {
            let mut tries_left = TRIES;
            loop {
                {
                    let _turn = lock(&turns);
                    let State::Open(_) = &*lock(&state) else { return Err(closed()) };
                    copy_database(&home, &to).map_err(|e| failed(&to, e))?;
                }
                tries_left -= 1;
                match verify(&to) {
                    Err(Error::StoreDamaged { .. }) if tries_left > 0 => {}
                    Err(error) => return Err(error),
                    Ok(()) => break,
                }
            }
            copy_dir(&component::dir(&home), &component::dir(&to)).map_err(|e| failed(&to, e))
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::host("a copy broke off", e)))
    }
}

fn failed(to: &Path, e: std::io::Error) -> Error {
    Error::host(format!("cannot copy the store to `{}`", to.display()), e)
}

/// Copies the database in `home` to another directory, over a copy that is there.
fn copy_database(home: &Path, to: &Path) -> std::io::Result<()> {
    let (from, db) = (home.join("db"), to.join("db"));
    if db.exists() {
        fs::remove_dir_all(&db)?;
    }
    copy_dir(&from, &db)?;
    fs::copy(note_path(&from), note_path(&db)).map(|_| ())
}

/// Opens a copy, which reads and checks each of its rows.
fn verify(home: &Path) -> Result<()> {
    let lock = DirLock::take(home)?;
    Disk::open(home)?;
    drop(lock);
    fs::remove_file(home.join("lock")).map_err(|e| failed(home, e))
}

/// Keeps the database as it is, beside it, before it is given a new format. The same copy again is no
/// error. Gives its place.
pub fn keep_format(dir: &Path, format: u32) -> std::io::Result<PathBuf> {
    let kept = dir.with_extension(format!("format-{format}"));
    if kept.exists() {
        return Ok(kept);
    }
    let half = dir.with_extension("copying");
    if half.exists() {
        fs::remove_dir_all(&half)?;
    }
    copy_dir(dir, &half)?;
    fs::rename(&half, &kept)?;
    sync_dir(dir.parent().unwrap_or(dir))?;
    Ok(kept)
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    create_private_dir(to)?;
    let entries = match fs::read_dir(from) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
            continue;
        }
        match fs::copy(entry.path(), &target) {
            // A snapshot that was replaced meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied?),
        }
        fs::File::open(&target)
            .and_then(|file| file.sync_all())
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
    }
    sync_dir(to)
}
