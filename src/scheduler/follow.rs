//! Events of a store that several nodes share, in their order, to those who hear them on this node: its
//! own come from its turns, those of other nodes are read from the store.

use super::{Scheduler, Shared};
use crate::event::Event;
use crate::store::JobStore;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often the events of other nodes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Events that are read at a time.
const BATCH: usize = 512;

/// Turns whose events wait here. Those of more are read from the store.
pub const OWN_MAX: usize = 64;

/// Publishes the events of a store; `own` brings those of this node's turns, each turn's together. Has
/// jobs come back that lacked an executor while this node was away.
pub async fn follow(store: Arc<dyn JobStore>, shared: Arc<Shared>, own: mpsc::Receiver<Vec<Event>>) {
    tokio::select! {
        () = tell(store.clone(), shared.clone(), own) => {}
        () = mend(store, shared) => {}
    }
}

async fn tell(store: Arc<dyn JobStore>, shared: Arc<Shared>, mut own: mpsc::Receiver<Vec<Event>>) {
    let mut follower = Follower { store, shared, next: None };
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            own = own.recv() => match own {
                Some(events) => follower.take(events).await,
                None => return,
            },
            _ = looks.tick() => follower.look().await,
        }
    }
}

async fn mend(store: Arc<dyn JobStore>, shared: Arc<Shared>) {
    loop {
        store.rejoined().await;
        if let Err(error) = Scheduler(shared.clone()).release_quarantined().await {
            tracing::warn!(error = error.chain(), "jobs that lacked an executor may be quarantined still");
        }
    }
}

struct Follower {
    store: Arc<dyn JobStore>,
    shared: Arc<Shared>,
    /// The number of the next event to be told; `None` before it is known.
    next: Option<u64>,
}

impl Follower {
    /// Tells what this node did, unless it has been read already. What others did before comes first; if
    /// that cannot be read now, all of it is read later.
    async fn take(&mut self, mut events: Vec<Event>) {
        let Some(last) = events.last().map(|event| event.seq) else { return };
        if !self.shared.bus.is_heard() {
            self.next = Some(self.next.map_or(last + 1, |next| next.max(last + 1)));
            return;
        }
        let first = events[0].seq;
        if self.next.is_some_and(|next| next < first) {
            self.look().await;
        }
        if self.next.is_none_or(|next| next >= first) {
            events.retain(|event| self.next.is_none_or(|next| event.seq >= next));
            self.shared.bus.publish(events);
            self.next = Some(self.next.map_or(last + 1, |next| next.max(last + 1)));
        }
    }

    /// Reads and tells what is new.
    async fn look(&mut self) {
        let Some(mut next) = self.next.filter(|_| self.shared.bus.is_heard()) else {
            // Whoever listens from now on hears what happens from now on.
            if let Ok(last) = self.store.last_event().await {
                self.next = Some(last + 1);
            }
            return;
        };
        while let Ok(events) = self.store.list_events(next - 1, BATCH).await
            && let Some(last) = events.last().map(|event| event.seq)
        {
            next = last + 1;
            self.shared.bus.publish(events);
            self.next = Some(next);
        }
    }
}
