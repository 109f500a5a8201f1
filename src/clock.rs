//! The one source of time. A sleep is a hint; `now` is the truth.

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Longest sleep before the clock is read again, so that a step of the wall clock or a suspended
/// machine is noticed within it.
const SLEEP_MAX: Duration = Duration::from_secs(1);

#[async_trait]
pub trait Clock: Send + Sync {
    fn now(&self) -> DateTime<Utc>;

    /// Returns at `until` or earlier, never much later. The caller looks at `now` again.
    async fn sleep_until(&self, until: DateTime<Utc>) {
        let left = (until - self.now()).to_std().unwrap_or(Duration::ZERO);
        tokio::time::sleep(left.min(SLEEP_MAX)).await;
    }
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A clock that moves only when told to, for tests and simulation.
#[derive(Debug, Clone)]
pub struct SimClock(Arc<watch::Sender<DateTime<Utc>>>);

impl SimClock {
    pub fn new(now: DateTime<Utc>) -> Self {
        SimClock(Arc::new(watch::Sender::new(now)))
    }

    pub fn advance(&self, by: TimeDelta) {
        self.0.send_modify(|now| *now += by);
    }

    /// Steps the clock to any instant, backwards too.
    pub fn set(&self, now: DateTime<Utc>) {
        self.0.send_replace(now);
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.borrow()
    }

    async fn sleep_until(&self, until: DateTime<Utc>) {
        let mut clock = self.0.subscribe();
        // The sender lives in `self`, so waiting ends with the time, not with an error.
        let _ = clock.wait_for(|now| *now >= until).await;
    }
}
