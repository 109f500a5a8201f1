//! The database itself: opening it safely and committing durably.
//!
//! sled's own `flush` does not survive a power cut on Linux (it does not call fsync), half-written
//! snapshots make it unopenable, and a damaged file can make it panic. So: an own lock file, left-over
//! snapshots removed, panics caught, every directory synced when opening; and every commit is one
//! transaction over all trees, then `flush`, then `fdatasync` through a second handle on the file.
//! Each commit also writes the sum over all rows and its own number; opening compares the sum with
//! what is there. Because a log that lost its end looks like a log before its last commits, the
//! number is noted in a file beside the database too, after the commit and without a sync: the
//! database is never older than the note, or it is damaged.

use super::codec::{seal, unseal, weight};
use super::copy::keep_format;
use crate::error::{Error, Result};
use crate::files::{create_private_dir, sync_dir};
use sled::transaction::{ConflictableTransactionError, TransactionError, Transactional};
use sled::{Batch, Db, Tree};
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The layout that this program writes. Version 1 had no arguments, no listeners and other rows of
/// states, version 2 no states of jobs and no secrets; they are read, and are of the new version from
/// then on.
pub const FORMAT: u32 = 3;
const FORMAT_OLDEST: u32 = 1;

/// The trees, in the order of their names below.
pub const META: usize = 0;
/// Job definitions: cold JSON, in pieces.
pub const JOB: usize = 1;
/// Job states: hot rows.
pub const HOT: usize = 2;
/// Ended runs, many to a block.
pub const RUN: usize = 3;
/// Events, many to a block.
pub const LOG: usize = 4;
/// What is too large for a block: outputs, logs, backtraces, in pieces.
pub const DETAIL: usize = 5;
pub const PLUGIN: usize = 6;
/// Arguments of runs that wait or go on, where they are not their job's, in pieces.
pub const ARGUMENTS: usize = 7;
/// Listeners that are told of stored events, and how far they are, in pieces.
pub const LISTENER: usize = 8;
/// Jobs' own key-value states, in pieces.
pub const VALUE: usize = 9;
pub const SECRET: usize = 10;
const TREES: usize = 11;
const NAMES: [&str; TREES] =
    ["meta", "job", "hot", "run", "log", "detail", "plugin", "arguments", "listener", "value", "secret"];

const FORMAT_KEY: &[u8] = b"format";
const SUM_KEY: &[u8] = b"sum";
/// Pages of the database that are kept in memory.
const CACHE_BYTES: u64 = 64 << 20;
/// How long sled's own lock is waited for.
const LOCK_TRIES: u32 = 500;
const LOCK_WAIT: Duration = Duration::from_millis(10);
/// The thread that opens databases; a panic in it is a diagnosis, not a bug report.
pub const OPENER: &str = "sandclock-store";

/// Rows to write, the last write of a key wins; `None` removes it.
#[derive(Default)]
pub struct Writes {
    rows: [BTreeMap<Vec<u8>, Option<Vec<u8>>>; TREES],
    /// Keys of DETAIL whose pieces are to go; resolved before the commit.
    pub remove_pieces: Vec<Vec<u8>>,
}

impl Writes {
    pub fn put(&mut self, tree: usize, key: Vec<u8>, sealed: Vec<u8>) {
        self.rows[tree].insert(key, Some(sealed));
    }

    pub fn remove(&mut self, tree: usize, key: Vec<u8>) {
        self.rows[tree].insert(key, None);
    }

    /// Turns what is to be written under a prefix into its removal.
    pub fn remove_prefix(&mut self, tree: usize, prefix: &[u8]) {
        for (_, value) in self.rows[tree].range_mut(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)) {
            *value = None;
        }
    }
}

pub struct Disk {
    trees: [Tree; TREES],
    db: Db,
    file: File,
    /// Where the number of the last commit is noted.
    note: File,
    /// Sum of the weights of all rows but META's.
    sum: u64,
    commits: u64,
    /// The format of an earlier program that wrote it.
    outdated: Option<u32>,
}

/// Held as long as a process uses a directory.
pub struct DirLock(#[expect(dead_code, reason = "the lock lives as long as the file is open")] File);

impl DirLock {
    pub fn take(dir: &Path) -> Result<Self> {
        let failed = |e| Error::host(format!("cannot use `{}` as a home", dir.display()), e);
        create_private_dir(dir).map_err(failed)?;
        let path = dir.join("lock");
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
                return Err(Error::StoreHeld { dir: dir.to_owned(), holder: holder.to_owned() });
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let mut note = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            write!(file, "process {}", std::process::id())
        };
        note().map_err(failed)?;
        Ok(DirLock(file))
    }
}

impl Disk {
    /// Opens the database in `home/db`, verified row by row.
    pub fn open(home: &Path) -> Result<Self> {
        let dir = home.join("db");
        let opener = std::thread::Builder::new().name(OPENER.to_owned());
        let opened = {
            let dir = dir.clone();
            opener.spawn(move || std::panic::catch_unwind(AssertUnwindSafe(|| Disk::open_unguarded(&dir))))
        };
        let opened = opened.map_err(|e| Error::host("cannot start a thread", e))?.join();
        match opened {
            Ok(Ok(Ok(disk))) => Ok(disk),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(panic)) | Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it cannot be read");
                Err(damaged(&dir, format!("opening it failed: {}", crate::invalid::printable(text, 200))))
            }
        }
    }

    /// A new database is made beside its place and moved there when it is sound: sled writes its
    /// first files without a sync, and what a power cut leaves of them it cannot open.
    fn open_unguarded(dir: &Path) -> Result<Self> {
        let io = |e: std::io::Error| Error::host("cannot create the store", e);
        if !dir.exists() {
            if note_path(dir).exists() {
                return Err(damaged(dir, "it is gone"));
            }
            let new = dir.with_extension("new");
            if new.exists() {
                fs::remove_dir_all(&new).map_err(io)?;
            }
            let _ = fs::remove_file(note_path(&new));
            drop(Disk::open_in(&new, true)?);
            let _ = fs::remove_file(note_path(&new));
            fs::rename(&new, dir).map_err(io)?;
            sync_dir(dir.parent().unwrap_or(dir)).map_err(io)?;
        }
        Disk::open_in(dir, false)
    }

    fn open_in(dir: &Path, fresh: bool) -> Result<Self> {
        let io = |what: &'static str| move |e: std::io::Error| Error::host(format!("{what} the store"), e);
        create_private_dir(dir).map_err(io("cannot create"))?;
        remove_half_snapshots(dir).map_err(io("cannot clean"))?;
        let db = open_unlocked(dir).map_err(|e| opening(dir, e))?;
        let open_tree = |name: &str| db.open_tree(name).map_err(|e| opening(dir, e));
        let mut trees = Vec::with_capacity(NAMES.len());
        for name in NAMES {
            trees.push(open_tree(name)?);
        }
        let trees: [Tree; TREES] = trees.try_into().map_err(|_| damaged(dir, "a tree is missing"))?;
        let file = File::options().read(true).open(dir.join("db")).map_err(io("cannot open"))?;
        for name in ["conf", "db"] {
            File::open(dir.join(name)).and_then(|file| file.sync_all()).map_err(io("cannot sync"))?;
        }
        for path in [dir.join("blobs"), dir.to_owned(), dir.parent().unwrap_or(dir).to_owned()] {
            if path.exists() {
                sync_dir(&path).map_err(io("cannot sync"))?;
            }
        }
        let note = note_path(dir);
        if fresh && note.exists() {
            return Err(damaged(dir, "its main file is gone"));
        }
        let note = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(note)
            .map_err(io("cannot open"))?;
        let mut disk = Disk { trees, db, file, note, sum: 0, commits: 0, outdated: None };
        disk.check_format(dir, fresh)?;
        disk.verify(dir)?;
        if let Some(found) = disk.outdated.take() {
            let kept = keep_format(dir, found).map_err(io("cannot keep a copy of"))?;
            tracing::info!(from = found, to = FORMAT, kept = %kept.display(), "the store is given a new format");
            let mut writes = Writes::default();
            writes.put(META, FORMAT_KEY.to_vec(), seal(&FORMAT.to_le_bytes()));
            disk.commit(writes)?;
        }
        Ok(disk)
    }

    fn check_format(&mut self, dir: &Path, fresh: bool) -> Result<()> {
        let row = self.trees[META].get(FORMAT_KEY).map_err(|e| opening(dir, e))?;
        match row.as_deref().map(unseal) {
            None if fresh => {
                let mut writes = Writes::default();
                writes.put(META, FORMAT_KEY.to_vec(), seal(&FORMAT.to_le_bytes()));
                self.commit(writes)
            }
            Some(Some(bytes)) => {
                let found = bytes.try_into().map_or(0, u32::from_le_bytes);
                if (FORMAT_OLDEST..=FORMAT).contains(&found) {
                    self.outdated = (found < FORMAT).then_some(found);
                    return Ok(());
                }
                Err(Error::StoreFormat { dir: dir.to_owned(), found, known: FORMAT })
            }
            _ => Err(damaged(dir, "its format is not recorded")),
        }
    }

    /// Reads every row: each has its checksum, and together they have the recorded sum.
    fn verify(&mut self, dir: &Path) -> Result<()> {
        let mut sum = 0u64;
        for (tree, name) in NAMES.iter().enumerate().skip(1) {
            for row in self.trees[tree].iter() {
                let (key, value) = row.map_err(|e| opening(dir, e))?;
                if unseal(&value).is_none() {
                    return Err(damaged(dir, format!("a row of `{name}` has a wrong checksum")));
                }
                sum = sum.wrapping_add(weight(tree, &key, &value));
            }
        }
        let row = self.trees[META].get(SUM_KEY).map_err(|e| opening(dir, e))?;
        let recorded: Option<[u8; 16]> = row.as_deref().and_then(unseal).and_then(|bytes| bytes.try_into().ok());
        let recorded = recorded.map(u128::from_le_bytes).map(|both| (both as u64, (both >> 64) as u64));
        match recorded {
            Some((recorded, commits)) if recorded == sum => (self.sum, self.commits) = (sum, commits),
            _ => return Err(damaged(dir, "rows are missing or out of date")),
        }
        let noted = self.noted();
        if noted > self.commits {
            return Err(damaged(dir, format!("its newest {} commits are missing", noted - self.commits)));
        }
        Ok(())
    }

    /// The noted number of the last commit; 0 if a power cut tore the note.
    fn noted(&mut self) -> u64 {
        let mut bytes = Vec::new();
        let read = self.note.rewind().and_then(|()| self.note.read_to_end(&mut bytes));
        let noted = read.ok().and_then(|_| unseal(&bytes)).and_then(|bytes| bytes.try_into().ok());
        noted.map_or(0, u64::from_le_bytes)
    }

    fn put_note(&mut self) -> std::io::Result<()> {
        self.note.rewind()?;
        self.note.write_all(&seal(&self.commits.to_le_bytes()))
    }

    /// One transaction, durable when this returns. After an error the database must be reopened.
    pub fn commit(&mut self, writes: Writes) -> Result<()> {
        let guarded = AssertUnwindSafe(|| self.commit_unguarded(writes));
        std::panic::catch_unwind(guarded).unwrap_or_else(|_| Err(failed("a commit broke off", None)))
    }

    fn commit_unguarded(&mut self, mut writes: Writes) -> Result<()> {
        let mut sum = self.sum;
        for (tree, rows) in writes.rows.iter().enumerate().skip(1) {
            for (key, value) in rows {
                if let Some(old) = self.trees[tree].get(key).map_err(broken)? {
                    sum = sum.wrapping_sub(weight(tree, key, &old));
                }
                if let Some(value) = value {
                    sum = sum.wrapping_add(weight(tree, key, value));
                }
            }
        }
        let commits = self.commits + 1;
        let both = u128::from(commits) << 64 | u128::from(sum);
        writes.put(META, SUM_KEY.to_vec(), seal(&both.to_le_bytes()));
        let used: Vec<(&Tree, Batch)> = self
            .trees
            .iter()
            .zip(writes.rows)
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(tree, rows)| (tree, batch(rows)))
            .collect();
        let trees: Vec<&Tree> = used.iter().map(|(tree, _)| *tree).collect();
        let done = trees.as_slice().transaction(|views| {
            for (view, (_, batch)) in views.iter().zip(&used) {
                view.apply_batch(batch)?;
            }
            Ok::<(), ConflictableTransactionError<()>>(())
        });
        match done {
            Ok(()) => {}
            Err(TransactionError::Storage(error)) => return Err(broken(error)),
            Err(TransactionError::Abort(())) => return Err(failed("a transaction was aborted", None)),
        }
        self.db.flush().map_err(broken)?;
        self.file.sync_data().map_err(|e| failed("the disk did not take a commit", Some(Box::new(e))))?;
        (self.sum, self.commits) = (sum, commits);
        self.put_note().map_err(|e| failed("the number of a commit cannot be noted", Some(Box::new(e))))
    }

    pub fn tree(&self, tree: usize) -> &Tree {
        &self.trees[tree]
    }

    /// All rows of a tree, checked.
    pub fn rows(&self, tree: usize) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec)>> {
        self.trees[tree].iter().map(|row| row.map_err(broken))
    }

    /// Bytes on disk.
    pub fn size(&self) -> Result<u64> {
        self.db.size_on_disk().map_err(broken)
    }
}

/// sled's own lock may still be held for a moment by a thread of a database that this process has
/// just closed; nobody else can hold it, because the home is ours.
fn open_unlocked(dir: &Path) -> sled::Result<Db> {
    let config = sled::Config::new().path(dir).flush_every_ms(Some(500)).cache_capacity(CACHE_BYTES);
    for _ in 0..LOCK_TRIES {
        match config.open() {
            // sled hides the error's kind in its text.
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                std::thread::sleep(LOCK_WAIT);
            }
            opened => return opened,
        }
    }
    config.open()
}

fn batch(rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Batch {
    let mut batch = Batch::default();
    for (key, value) in rows {
        match value {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
    }
    batch
}

/// The note of the database in `dir`.
pub fn note_path(dir: &Path) -> PathBuf {
    dir.with_extension(if dir.extension().is_some() { "new-commits" } else { "commits" })
}

/// A kill while sled wrote a snapshot leaves a file that later stops it from opening.
fn remove_half_snapshots(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

pub fn damaged(dir: &Path, reason: impl Into<String>) -> Error {
    let home = dir.parent().unwrap_or(dir);
    Error::StoreDamaged {
        dir: dir.to_owned(),
        reason: reason.into(),
        way_back: format!(
            "`sandclock --home {} recover` keeps the damaged files and restores plugins and jobs from the last automatic export",
            home.display()
        ),
    }
}

fn opening(dir: &Path, error: sled::Error) -> Error {
    match error {
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) | sled::Error::Unsupported(_) => {
            damaged(dir, crate::invalid::printable(&error.to_string(), 200))
        }
        sled::Error::Io(ref io) if io.kind() == std::io::ErrorKind::InvalidData => {
            damaged(dir, crate::invalid::printable(&error.to_string(), 200))
        }
        other => failed("it cannot be opened", Some(Box::new(other))),
    }
}

pub fn broken(error: sled::Error) -> Error {
    failed("the database failed", Some(Box::new(error)))
}

fn failed(what: &str, source: Option<crate::error::Source>) -> Error {
    Error::StoreFailed { what: what.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home whose database says that it has format 2.
    fn older() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let mut disk = Disk::open(home.path()).unwrap();
        let mut writes = Writes::default();
        writes.put(META, FORMAT_KEY.to_vec(), seal(&2u32.to_le_bytes()));
        disk.commit(writes).unwrap();
        home
    }

    fn format(disk: &Disk) -> u32 {
        let row = disk.tree(META).get(FORMAT_KEY).unwrap().unwrap();
        u32::from_le_bytes(unseal(&row).unwrap().try_into().unwrap())
    }

    #[test]
    fn a_store_of_an_older_format_is_kept_beside_the_new_one() {
        let home = older();
        assert_eq!(format(&Disk::open(home.path()).unwrap()), FORMAT);
        let kept = home.path().join("db.format-2");
        let back = tempfile::tempdir().unwrap();
        fs::rename(&kept, back.path().join("db")).unwrap();
        assert_eq!(format(&Disk::open_in(&back.path().join("db"), false).unwrap()), FORMAT, "it can be opened");
        assert!(back.path().join("db.format-2").exists(), "so it was of the old format");
        Disk::open(home.path()).unwrap();
        assert!(!kept.exists(), "a store of this format needs no copy");
    }
}
