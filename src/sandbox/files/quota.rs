//! What the granted directories of a run hold, and may hold: measured when the run begins, counted
//! while it writes, measured anew when little is left.

use super::super::setting::Given;
use crate::grant::DirGrant;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use wasmtime_wasi::filesystem::{Dir, OpenMode};
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

/// What a file, directory or link counts beside its bytes, so that there are not too many.
pub const ENTRY_BYTES: u64 = 1024;
/// Instead of the number of a directory: a root that is not there, of a run that is audited.
pub const PHANTOM: usize = usize::MAX;
/// Directories within each other that are measured; a deeper tree counts as full.
const DEPTH_MAX: usize = 64;
/// How often a directory is measured at most.
const MEASURE_EVERY: Duration = Duration::from_millis(200);

/// Bytes that a directory may still grow by.
pub type Left = Arc<AtomicU64>;

struct Tree {
    host: PathBuf,
    guest: String,
    writable: bool,
    quota: u64,
    left: Left,
    measured: Instant,
}

/// What is left in each directory that runs of this process have, so that those that go on at one time
/// share it. Runs in other processes find out when they measure.
#[derive(Default)]
pub struct Shares(Mutex<HashMap<(PathBuf, u64), Weak<AtomicU64>>>);

impl Shares {
    fn of(&self, dir: &DirGrant) -> Left {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, left| left.strong_count() > 0);
        let share = shares.entry((PathBuf::from(&dir.host), dir.quota)).or_default();
        share.upgrade().unwrap_or_else(|| {
            let left = Arc::new(AtomicU64::new(u64::MAX));
            *share = Arc::downgrade(&left);
            left
        })
    }
}

/// The directories of a run.
pub struct Quotas {
    trees: Vec<Tree>,
    /// Which directory an open descriptor is of.
    of: HashMap<u32, usize>,
    pub listings: usize,
    audit: bool,
}

impl Quotas {
    /// Gives a run its directories. Errors: one that is not what was granted; in words.
    pub async fn open(wasi: &mut WasiCtxBuilder, given: &Given, shares: &Shares) -> Result<Self, String> {
        let audit = given.audit && !given.grants.dirs.iter().any(|dir| dir.guest == "/");
        let mut quotas = Quotas { trees: Vec::new(), of: HashMap::new(), listings: 0, audit };
        for dir in &given.grants.dirs {
            check(Path::new(&dir.host))?;
            let perms = if dir.writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            wasi.preopened_dir(&dir.host, &dir.guest, perms)
                .map_err(|error| format!("the directory `{}` of its grant cannot be opened: {error}", dir.host))?;
            quotas.trees.push(Tree::new(dir, shares).await);
        }
        Ok(quotas)
    }

    pub fn dir_of(&self, rep: u32) -> Option<usize> {
        self.of.get(&rep).copied()
    }

    pub fn opened(&mut self, rep: u32, dir: usize) {
        self.of.insert(rep, dir);
    }

    pub fn closed(&mut self, rep: u32) {
        self.of.remove(&rep);
    }

    pub fn guest(&self, dir: usize) -> &str {
        self.trees.get(dir).map_or("/", |tree| &tree.guest)
    }

    pub fn is_writable(&self, dir: usize) -> bool {
        self.trees.get(dir).is_some_and(|tree| tree.writable)
    }

    pub fn left(&self, rep: u32) -> Option<Left> {
        self.trees.get(self.dir_of(rep)?).map(|tree| tree.left.clone())
    }

    /// Takes bytes from what is left. False if there is too little.
    pub fn charge(&self, dir: usize, bytes: u64) -> bool {
        self.trees.get(dir).is_none_or(|tree| take(&tree.left, bytes))
    }

    /// What was deleted meanwhile may be used again.
    pub async fn remeasure_if_low(&mut self, dir: usize) {
        let Some(tree) = self.trees.get_mut(dir) else { return };
        let low = tree.left.load(Ordering::Relaxed) < tree.quota / 8;
        if low && tree.measured.elapsed() > MEASURE_EVERY {
            tree.measure().await;
        }
    }

    /// The root of an audited run that was granted none: whatever is opened in it is recorded and
    /// refused, so what stands behind it does not matter.
    pub fn phantom(&self) -> wasmtime::Result<Option<Dir>> {
        if !self.audit {
            return Ok(None);
        }
        let nothing = rustix::fs::memfd_create("sandclock-nothing", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Some(Dir::new(std::fs::File::from(nothing), FsPerms::ReadOnly, OpenMode::READ, false)))
    }
}

impl Tree {
    async fn new(dir: &DirGrant, shares: &Shares) -> Self {
        let mut tree = Tree {
            host: PathBuf::from(&dir.host),
            guest: dir.guest.clone(),
            writable: dir.writable,
            quota: dir.quota,
            left: if dir.writable { shares.of(dir) } else { Arc::new(AtomicU64::new(u64::MAX)) },
            measured: Instant::now(),
        };
        if dir.writable {
            tree.measure().await;
        }
        tree
    }

    async fn measure(&mut self) {
        let (host, quota) = (self.host.clone(), self.quota);
        let used = tokio::task::spawn_blocking(move || measure(&host, quota)).await.unwrap_or(quota);
        self.left.store(self.quota.saturating_sub(used), Ordering::Relaxed);
        self.measured = Instant::now();
    }
}

/// The directory that was granted, and not where a link leads that somebody put in its place.
fn check(path: &Path) -> Result<(), String> {
    let real = path
        .canonicalize()
        .map_err(|e| format!("the directory `{}` of its grant is not there: {e}", path.display()))?;
    if real != path || !real.is_dir() {
        return Err(format!("`{}` is not the directory that was granted any more", path.display()));
    }
    Ok(())
}

fn take(left: &AtomicU64, bytes: u64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
}

/// What a directory holds, or `most` if that is more.
fn measure(root: &Path, most: u64) -> u64 {
    let mut used = 0u64;
    let mut open = vec![(root.to_owned(), 0)];
    while let Some((dir, depth)) = open.pop() {
        // What cannot be looked at may hold anything.
        let Ok(entries) = std::fs::read_dir(dir) else { return most };
        for entry in entries.flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            let bytes = if meta.is_file() { meta.len() } else { 0 };
            used = used.saturating_add(ENTRY_BYTES).saturating_add(bytes);
            if used >= most {
                return most;
            }
            if meta.is_dir() {
                if depth == DEPTH_MAX {
                    return most;
                }
                open.push((entry.path(), depth + 1));
            }
        }
    }
    used
}

/// A stream into a file, whose growth is charged.
pub struct Metered {
    inner: DynOutputStream,
    left: Left,
    /// Bytes that overwrite what is there.
    free: u64,
}

impl Metered {
    pub fn new(inner: DynOutputStream, left: Left, free: u64) -> Self {
        Metered { inner, left, free }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Metered {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Metered {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        let growth = (bytes.len() as u64).saturating_sub(self.free);
        if !take(&self.left, growth) {
            let full = std::io::Error::from_raw_os_error(rustix::io::Errno::DQUOT.raw_os_error());
            return Err(StreamError::LastOperationFailed(full.into()));
        }
        self.free = self.free.saturating_sub(bytes.len() as u64);
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_measured_with_its_entries_and_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), [0; 100]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        assert_eq!(measure(dir.path(), u64::MAX), 3 * ENTRY_BYTES + 100);
        assert_eq!(measure(dir.path(), 500), 500);
    }

    #[test]
    fn what_lies_too_deep_counts_as_full() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_owned();
        for _ in 0..DEPTH_MAX {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(measure(dir.path(), u64::MAX), DEPTH_MAX as u64 * ENTRY_BYTES);
        std::fs::create_dir_all(deep.join("d")).unwrap();
        assert_eq!(measure(dir.path(), 1 << 30), 1 << 30);
    }

    #[test]
    fn a_link_in_the_place_of_a_granted_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(check(&real).is_ok());
        assert!(check(&link).unwrap_err().contains("not the directory that was granted"));
        assert!(check(&dir.path().join("none")).unwrap_err().contains("not there"));
    }
}
