//! Who hears of events. Publishing never waits for a listener: one that is slow loses the oldest
//! events and is told how many.

use crate::event::{Event, EventMask};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast::{self, error::RecvError};

/// Events that a listener may lag behind before it loses some.
pub const EVENTS_MAX: usize = 8192;

pub struct Bus {
    sender: broadcast::Sender<Arc<Event>>,
    /// What stops each of them.
    listeners: Mutex<Vec<(ListenerId, Arc<AtomicBool>)>>,
    last_id: AtomicU64,
}

/// What [`add_listener`](crate::Scheduler::add_listener) gives, to remove it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerId(u64);

/// What a subscriber receives.
#[derive(Debug, Clone)]
pub enum Heard {
    Event(Arc<Event>),
    /// So many events were lost because the subscriber was slow. Stored ones can be read again with
    /// [`list_events`](crate::store::JobStore::list_events).
    Lagged(u64),
}

/// A stream of events from now on.
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<Event>>,
    mask: EventMask,
}

impl Subscription {
    /// The next event of the mask; `None` when the scheduler is gone.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            match self.receiver.recv().await {
                Ok(event) if self.mask.contains(event.kind) => return Some(Heard::Event(event)),
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => return Some(Heard::Lagged(lost)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

impl Bus {
    pub fn new() -> Self {
        Bus { sender: broadcast::Sender::new(EVENTS_MAX), listeners: Mutex::default(), last_id: AtomicU64::new(0) }
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    pub fn publish(&self, events: Vec<Event>) {
        if self.is_heard() {
            for event in events {
                // Nobody listening is no error.
                let _ = self.sender.send(Arc::new(event));
            }
        }
    }

    pub fn subscribe(&self, mask: EventMask) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), mask }
    }

    /// Calls `listener` for each event of the mask, and for what it lost by being slow, on a thread of its own, so that one that blocks
    /// holds up nobody. One that panics is logged and goes on hearing.
    pub fn listen(&self, mask: EventMask, listener: impl Fn(&Heard) + Send + 'static) -> ListenerId {
        let Subscription { mut receiver, mask } = self.subscribe(mask);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let hear = move || {
            loop {
                let heard = receiver.blocking_recv();
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let heard = match heard {
                    Ok(event) if mask.contains(event.kind) => Heard::Event(event),
                    Ok(_) => continue,
                    Err(RecvError::Lagged(lost)) => Heard::Lagged(lost),
                    Err(RecvError::Closed) => return,
                };
                if let Heard::Lagged(lost) = heard {
                    tracing::warn!(lost, "a listener is slow and lost events");
                }
                let call = AssertUnwindSafe(|| listener(&heard));
                if std::panic::catch_unwind(call).is_err() {
                    tracing::error!("a listener panicked");
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("sandclock-listener".into()).spawn(hear) {
            tracing::error!(%error, "a listener has no thread and hears nothing");
        }
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let id = ListenerId(self.last_id.fetch_add(1, Ordering::Relaxed));
        listeners.push((id, stop));
        id
    }

    /// False if there is no such listener. A call that is under way ends.
    pub fn unlisten(&self, id: ListenerId) -> bool {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = listeners.iter().position(|(known, _)| *known == id) else { return false };
        listeners.remove(at).1.store(true, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventKind;

    #[tokio::test]
    async fn a_subscriber_that_does_not_read_is_told_what_it_lost() {
        let bus = Bus::new();
        let mut slow = bus.subscribe(EventMask::ALL);
        let event = Event::new(EventKind::JobAdded, chrono::Utc::now(), "default".parse().unwrap());
        bus.publish(vec![event; EVENTS_MAX + 10]);
        let Some(Heard::Lagged(lost)) = slow.next().await else { panic!("it lost nothing") };
        assert_eq!(lost, 10);
        assert!(matches!(slow.next().await, Some(Heard::Event(_))));
    }
}
