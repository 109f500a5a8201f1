//! Until when this process may act: a node of a shared store that nobody has heard of for a while must
//! stop before others take over what it was doing. The end is one number in memory that worker
//! processes see too, so that it is looked at before everything that a guest does to the world.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;

/// Longest sleep before the end is looked at again: another process may have moved it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Nanoseconds since the machine started, which go on while it sleeps and which nobody can set.
pub fn boottime() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// How long this process may act; clones are the same lease.
#[derive(Clone)]
pub struct Lease(Option<Arc<Kept>>);

struct Kept {
    page: Page,
    changed: watch::Sender<()>,
}

impl Default for Lease {
    fn default() -> Self {
        Lease::forever()
    }
}

impl Lease {
    /// One that never ends: of a store that no other process has.
    pub fn forever() -> Self {
        Lease(None)
    }

    /// One that has run out, until its end is set.
    pub fn lapsed() -> io::Result<Self> {
        Ok(Lease(Some(Arc::new(Kept { page: Page::new()?, changed: watch::Sender::new(()) }))))
    }

    /// The lease of another process, whose file this is; it can be looked at and not set.
    pub fn of(file: OwnedFd) -> io::Result<Self> {
        Ok(Lease(Some(Arc::new(Kept { page: Page::map(file, ProtFlags::READ)?, changed: watch::Sender::new(()) }))))
    }

    /// The file by which another process has the same lease.
    pub fn file(&self) -> Option<io::Result<OwnedFd>> {
        self.0.as_ref().map(|kept| kept.page.file.as_fd().try_clone_to_owned())
    }

    pub fn is_forever(&self) -> bool {
        self.0.is_none()
    }

    fn until(&self) -> i64 {
        self.0.as_ref().map_or(i64::MAX, |kept| kept.page.until().load(Ordering::Acquire))
    }

    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        match self.until() {
            i64::MAX => true,
            until => boottime() < until,
        }
    }

    /// Sets its end, as nanoseconds since the machine started.
    pub fn set(&self, until: i64) {
        if let Some(kept) = &self.0 {
            kept.page.until().store(until, Ordering::Release);
            kept.changed.send_replace(());
        }
    }

    /// Ends its term: what was begun in it is over, whatever its end is set to from now on.
    pub fn lapse(&self) {
        if let Some(kept) = &self.0 {
            kept.page.until().store(0, Ordering::Release);
            kept.page.term().fetch_add(1, Ordering::AcqRel);
            kept.changed.send_replace(());
        }
    }

    /// The term that it is in.
    pub fn term(&self) -> Term {
        Term { number: self.number(), lease: self.clone() }
    }

    /// The term that has this number, which may be over.
    pub fn term_of(&self, number: i64) -> Term {
        Term { lease: self.clone(), number }
    }

    fn number(&self) -> i64 {
        self.0.as_ref().map_or(0, |kept| kept.page.term().load(Ordering::Acquire))
    }
}

/// A lease from one time that it was taken until it ran out. A new one does not bring it back.
#[derive(Clone)]
pub struct Term {
    lease: Lease,
    number: i64,
}

impl Term {
    /// By which another process knows it.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Whether it goes on.
    pub fn holds(&self) -> bool {
        // The end is looked at last: it is set to nothing before the number changes.
        self.lease.number() == self.number && self.lease.holds()
    }

    /// Waits until it is over. Whatever else wakes its task, that is looked at anew: timers stand still
    /// while a machine sleeps.
    pub async fn ended(&self) {
        let mut waiting = std::pin::pin!(self.wait());
        let end = |cx: &mut Context<'_>| if self.holds() { waiting.as_mut().poll(cx) } else { Poll::Ready(()) };
        std::future::poll_fn(end).await;
    }

    async fn wait(&self) {
        let Some(kept) = &self.lease.0 else { return std::future::pending().await };
        let mut changed = kept.changed.subscribe();
        loop {
            let left = u64::try_from(self.lease.until().saturating_sub(boottime())).unwrap_or(0);
            if left == 0 || self.lease.number() != self.number {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_nanos(left).min(LOOK_EVERY)) => {}
                _ = changed.changed() => {}
            }
        }
    }
}

/// A page of memory with two numbers, the end and the term, and the file that it is.
struct Page {
    at: *const AtomicI64,
    file: OwnedFd,
}

const PAGE: usize = 4096;

impl Page {
    /// A page that this process can write, and those that are given the file cannot.
    fn new() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("lease", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, PAGE as u64)?;
        let page = Page::map(file, ProtFlags::READ | ProtFlags::WRITE)?;
        let seals = SealFlags::FUTURE_WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&page.file, seals)?;
        Ok(page)
    }

    #[expect(unsafe_code, reason = "a shared mapping has no safe wrapper")]
    fn map(file: OwnedFd, protection: ProtFlags) -> io::Result<Self> {
        if rustix::fs::fstat(&file)?.st_size < PAGE as i64 {
            return Err(io::Error::other("the lease is too short"));
        }
        // SAFETY: a fresh mapping of a whole page, at an address of the kernel's choice.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE, protection, MapFlags::SHARED, &file, 0) }?;
        Ok(Page { at: at.cast(), file })
    }

    #[expect(unsafe_code, reason = "the number is in a shared mapping")]
    fn until(&self) -> &AtomicI64 {
        // SAFETY: the mapping lives as long as the page, cannot shrink, is aligned, and is only ever
        // accessed as atomic numbers.
        unsafe { &*self.at }
    }

    #[expect(unsafe_code, reason = "the number is in a shared mapping")]
    fn term(&self) -> &AtomicI64 {
        // SAFETY: as above; a page has room for more than one.
        unsafe { &*self.at.add(1) }
    }
}

impl Drop for Page {
    #[expect(unsafe_code, reason = "unmapping what was mapped")]
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        let _ = unsafe { rustix::mm::munmap(self.at.cast_mut().cast(), PAGE) };
    }
}

#[expect(unsafe_code, reason = "a pointer is not sent by itself")]
// SAFETY: the page is only read and written as an atomic number.
unsafe impl Send for Page {}
#[expect(unsafe_code, reason = "a pointer is not shared by itself")]
// SAFETY: as above.
unsafe impl Sync for Page {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_holder_sees_the_end_and_cannot_move_it() {
        let lease = Lease::lapsed().unwrap();
        assert!(!lease.holds());
        lease.set(boottime() + 60_000_000_000);
        let file = lease.file().unwrap().unwrap();
        assert!(Page::map(file.try_clone().unwrap(), ProtFlags::READ | ProtFlags::WRITE).is_err());
        assert!(rustix::io::pwrite(&file, &[255; 8], 0).is_err());
        let other = Lease::of(file).unwrap();
        assert!(other.holds());
        lease.set(0);
        assert!(!other.holds());
        tokio::time::timeout(Duration::from_secs(5), other.term().ended()).await.expect("it is told of the end");
    }

    #[tokio::test]
    async fn what_was_begun_before_it_ran_out_is_over_for_good() {
        let lease = Lease::lapsed().unwrap();
        lease.set(boottime() + 60_000_000_000);
        let (term, other) = (lease.term(), Lease::of(lease.file().unwrap().unwrap()).unwrap().term());
        assert!(term.holds() && other.holds());
        lease.lapse();
        lease.set(boottime() + 60_000_000_000);
        assert!(lease.holds() && lease.term().holds() && !term.holds() && !other.holds());
        tokio::time::timeout(Duration::from_secs(5), term.ended()).await.expect("it is over");
    }

    #[tokio::test]
    async fn one_that_is_for_ever_does_not_end() {
        let lease = Lease::forever();
        lease.set(0);
        assert!(lease.holds() && lease.file().is_none());
        assert!(tokio::time::timeout(Duration::from_millis(10), lease.term().ended()).await.is_err());
    }
}
