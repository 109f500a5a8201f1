//! Who watches the scheduler work, for metrics and traces: nothing is lost to it, as it can be to a
//! subscription.

use crate::event::Event;
use crate::job::Alias;
use chrono::{DateTime, Utc};
use std::time::Duration;

/// A turn that was committed.
#[derive(Debug)]
pub struct Observed<'a> {
    pub jobstore: &'a Alias,
    /// When the turn began, by the scheduler's clock, and when it was durable.
    pub now: DateTime<Utc>,
    pub committed: DateTime<Utc>,
    /// How long the store took.
    pub took: Duration,
    /// Jobs in line for a slot after it.
    pub waiting: usize,
    pub events: &'a [Event],
}

/// The contract: called by the loop of each job store, in the order of its turns, before anybody hears
/// of their events. It answers at once and does not block.
pub trait Observer: Send + Sync {
    fn turned(&self, turn: &Observed<'_>);

    /// A turn failed and will be tried again.
    fn store_failed(&self, jobstore: &Alias);
}
