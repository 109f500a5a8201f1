//! Copies of the store while it works: for backups, and of what an upgrade is about to change.

use super::component;
use super::disk::{DirLock, Disk, note_path};
use super::{SledStore, State, closed, lock};
use crate::error::{Error, Result};
use crate::files::{create_private_dir, sync_dir};
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
                clear(&to).map_err(|e| failed(&to, e))?;
                {
                    // Turns wait, reads do not.
                    let _turn = lock(&turns);
                    let open = matches!(&*lock(&state), State::Open(_));
                    if !open {
                        return Err(closed());
                    }
                    copy_files(&home, &to).map_err(|e| failed(&to, e))?;
                }
                tries_left -= 1;
                match verify(&to) {
                    Err(Error::StoreDamaged { .. }) if tries_left > 0 => {}
                    verified => return verified,
                }
            }
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::host("a copy broke off", e)))
    }
}

fn failed(to: &Path, e: std::io::Error) -> Error {
    Error::host(format!("cannot copy the store to `{}`", to.display()), e)
}

/// Removes a copy that was made before.
fn clear(to: &Path) -> std::io::Result<()> {
    for dir in [to.join("db"), component::dir(to)] {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
    }
    Ok(())
}

/// Copies the database in `home` and the components that it speaks of. They never change, so a second
/// name is as good as a copy.
fn copy_files(home: &Path, to: &Path) -> std::io::Result<()> {
    let (from, db) = (home.join("db"), to.join("db"));
    copy_dir(&from, &db)?;
    fs::copy(note_path(&from), note_path(&db))?;
    let components = component::dir(to);
    create_private_dir(&components)?;
    for entry in fs::read_dir(component::dir(home)).into_iter().flatten() {
        let entry = entry?;
        let target = components.join(entry.file_name());
        fs::hard_link(entry.path(), &target).or_else(|_| fs::copy(entry.path(), &target).map(|_| ()))?;
    }
    Ok(())
}

/// Opens a copy, which reads and checks each of its rows.
fn verify(home: &Path) -> Result<()> {
    let lock = DirLock::take(home)?;
    Disk::open(home)?;
    drop(lock);
    fs::remove_file(home.join("lock")).map_err(|e| failed(home, e))
}

/// Keeps the database as it is, beside it, before it is given a new format. Gives its place.
pub fn keep_format(dir: &Path, format: u32) -> std::io::Result<PathBuf> {
    let half = dir.with_extension("copying");
    if half.exists() {
        fs::remove_dir_all(&half)?;
    }
    copy_dir(dir, &half)?;
    sync_all(&half)?;
    // One that was kept before is of another time.
    let name = |at: u32| if at == 0 { format!("format-{format}") } else { format!("format-{format}.{at}") };
    let free = (0..).map(|at| dir.with_extension(name(at))).find(|kept| !kept.exists());
    let kept = free.unwrap_or_else(|| half.clone());
    fs::rename(&half, &kept)?;
    sync_dir(dir.parent().unwrap_or(dir))?;
    Ok(kept)
}

fn copy_dir(from: &Path, to: &Path) -> std::io::Result<()> {
    create_private_dir(to)?;
    for entry in fs::read_dir(from)? {
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
    }
    Ok(())
}

fn sync_all(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}
