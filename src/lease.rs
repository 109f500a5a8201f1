//! Until when this process may act: a node of a shared store that nobody has heard of for a while must
//! stop before others take over what it was doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// Nanoseconds since the machine started, which go on while it sleeps and which nobody can set.
pub fn boottime() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

/// How long this process may act; clones are the same lease.
#[derive(Clone)]
pub struct Lease {
    until: Arc<AtomicI64>,
    changed: watch::Sender<()>,
}

impl Lease {
    /// One that never ends: of a store that no other process has.
    pub fn forever() -> Self {
        Lease { until: Arc::new(AtomicI64::new(i64::MAX)), changed: watch::Sender::new(()) }
    }

    /// One that has run out, until it is extended.
    pub fn lapsed() -> Self {
        Lease { until: Arc::new(AtomicI64::new(0)), changed: watch::Sender::new(()) }
    }

    /// Whether it holds now.
    pub fn holds(&self) -> bool {
        boottime() < self.until.load(Ordering::Acquire)
    }

    /// Sets its end, as nanoseconds of [`boottime`].
    pub fn set(&self, until: i64) {
        self.until.store(until, Ordering::Release);
        self.changed.send_replace(());
    }

    /// Waits until it has run out.
    pub async fn ended(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            let left = self.until.load(Ordering::Acquire).saturating_sub(boottime());
            let Ok(left) = u64::try_from(left) else { return };
            if left == 0 {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_nanos(left)) => {}
                _ = changed.changed() => {}
            }
        }
    }
}
