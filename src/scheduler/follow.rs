//! Events of a store that several nodes share, in their order, to those who hear them on this node: its
//! own come from its turns, those of other nodes are read from the store.

use super::Shared;
use crate::event::Event;
use crate::store::JobStore;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How often the events of other nodes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Events that are read at a time.
const BATCH: usize = 512;

/// Publishes the events of a store; `own` brings those of this node's turns, each turn's together.
pub async fn follow(store: Arc<dyn JobStore>, shared: Arc<Shared>, mut own: mpsc::UnboundedReceiver<Vec<Event>>) {
    let mut follower = Follower { store, shared, next: None };
    loop {
        tokio::select! {
            own = own.recv() => match own {
                Some(events) => follower.take(events).await,
                None => return,
            },
            () = tokio::time::sleep(LOOK_EVERY) => follower.look(u64::MAX).await,
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
    async fn take(&mut self, events: Vec<Event>) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        let after = last.seq + 1;
        if self.shared.bus.is_heard() && self.next.is_some_and(|next| next < first.seq) {
            // What others did in between comes first, and this with it.
            self.look(after).await;
        } else {
            self.shared.bus.publish(events);
        }
        self.next = Some(self.next.map_or(after, |next| next.max(after)));
    }

    /// Reads and tells what is new, up to before `until`.
    async fn look(&mut self, until: u64) {
        let Some(next) = self.next.filter(|_| self.shared.bus.is_heard()) else {
            // Whoever listens from now on hears what happens from now on.
            if let Ok(last) = self.store.last_event().await {
                self.next = Some(last + 1);
            }
            return;
        };
        let mut next = next;
        while next < until {
            let Ok(mut events) = self.store.list_events(next - 1, BATCH).await else { return };
            events.retain(|event| event.seq < until);
            let Some(last) = events.last() else { return };
            next = last.seq + 1;
            self.shared.bus.publish(events);
            self.next = Some(next);
        }
    }
}
