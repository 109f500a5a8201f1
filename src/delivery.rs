//! The port through which stored listeners are told.

use crate::error::Result;
use crate::event::Event;
use crate::listener::Listener;
use async_trait::async_trait;

/// What a listener is told.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    Event(&'a Event),
    /// So many events before this sequence number were no longer stored when their turn came.
    Missed {
        count: u64,
        before: u64,
    },
}

impl Notice<'_> {
    /// The notice as JSON: an event, or `{"lagged": 7}` as in a stream of events.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Notice::Event(event) => serde_json::to_value(event).unwrap_or_default(),
            Notice::Missed { count, before } => serde_json::json!({ "lagged": count, "before": before }),
        }
    }
}

/// Tells listeners of some kinds of targets.
#[async_trait]
pub trait Delivery: Send + Sync {
    /// Whether the listener's target exists and fits. Called when it is added.
    async fn check(&self, listener: &Listener) -> Result<()>;

    /// Tells it once, within some ten seconds; the error says why it did not take it.
    async fn deliver(&self, listener: &Listener, notice: Notice<'_>) -> std::result::Result<(), String>;
}
