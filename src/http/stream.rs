//! Answers that go on: server-sent events. Many streams show the same events, so each event is made into
//! text once for all of them, and each stream sends what has come together.

use super::access::Caller;
use super::events::Follow;
use super::operation::Draft;
use super::problem::Problem;
use super::{Api, STREAMS_MAX};
use crate::event::{Event, EventMask};
use crate::scheduler::{EVENTS_MAX, Heard, Scheduler};
use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use serde::Serialize;
use serde_json::json;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

/// How often a stream looks whether its caller still may, and gives a sign of life.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const ALIVE_EVERY: Duration = Duration::from_secs(15);
const ALIVE: Bytes = Bytes::from_static(b":\n\n");
/// How long the first of some events waits for company, and the bytes that go together.
const LINGER: Duration = Duration::from_millis(50);
const TOGETHER_MAX: usize = 256 << 10;

/// Whether a request would rather have an event stream than a document.
pub fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    accepted.flat_map(|accept| accept.split(',')).any(|media| media.trim().starts_with("text/event-stream"))
}

/// One event of a stream as text. The data is JSON, which has no line breaks.
pub fn frame(name: Option<&str>, id: Option<u64>, data: &str) -> Bytes {
    let name = name.map_or(String::new(), |name| format!("event: {name}\n"));
    let id = id.map_or(String::new(), |id| format!("id: {id}\n"));
    format!("{name}{id}data: {data}\n\n").into()
}

/// An answer that goes on.
pub struct EventStream(BoxStream<'static, Bytes>);

impl EventStream {
    /// It ends when the caller has lost what they came with.
    pub fn new(api: &Api, caller: Caller, events: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        let api = api.clone();
        let lost = async move {
            let mut changes = api.gate.changes.subscribe();
            while api.gate.holds(&caller, api.app.scheduler.clock().now()) {
                // Sessions end by age, too.
                let _ = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
            }
        };
        EventStream(events.take_until(Box::pin(lost)).boxed())
    }

    /// A place among the streams, held as long as one goes on.
    pub fn place(api: &Api) -> Result<OwnedSemaphorePermit, Problem> {
        let place = api.streams.clone().try_acquire_owned();
        place.map_err(|_| Problem::busy(format!("there are {STREAMS_MAX} event streams already (close one)")))
    }
}

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        let together = futures::stream::unfold(self.0, |mut events| async move {
            let bytes = together(&mut events).await?;
            Some((Ok::<_, Infallible>(bytes), events))
        });
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(together)).into_response()
    }
}

/// The next event, and those that come soon after it.
async fn together(events: &mut BoxStream<'static, Bytes>) -> Option<Bytes> {
    let Ok(first) = tokio::time::timeout(ALIVE_EVERY, events.next()).await else { return Some(ALIVE) };
    let mut all = BytesMut::from(first?.as_ref());
    // Asleep, and not woken by each of them.
    tokio::time::sleep(LINGER).await;
    // The runtime gives a task 128 messages before it makes it wait, which would be all in so long.
    while all.len() < TOGETHER_MAX
        && let Some(Some(more)) = tokio::task::unconstrained(events.next()).now_or_never()
    {
        all.extend_from_slice(&more);
    }
    Some(all.freeze())
}

/// A document, or a stream of what comes: as the request accepts.
pub enum Followed<T> {
    Document(Json<T>),
    Stream(EventStream),
}

impl<T: Serialize> IntoResponse for Followed<T> {
    fn into_response(self) -> Response {
        match self {
            Followed::Document(document) => document.into_response(),
            Followed::Stream(stream) => stream.into_response(),
        }
    }
}

/// Describes the stream of a [`Followed`].
pub fn describe_stream(draft: &mut Draft<'_>, about: &str) {
    draft.answer(200, "", "text/event-stream", json!({ "schema": { "type": "string", "description": about } }));
}

/// A live event, with its text.
pub struct Told {
    pub event: Arc<Event>,
    pub text: Bytes,
}

impl Told {
    fn new(event: Arc<Event>) -> Self {
        // Those of other stores have numbers of their own, and those before the start none.
        let id = Some(event.seq).filter(|seq| *seq > 0 && event.jobstore == super::default_store());
        let data = serde_json::to_string(&*event).unwrap_or_default();
        Told { text: frame(None, id, &data), event }
    }
}

/// Says how many events were lost.
pub fn lagged(lagged: u64) -> Bytes {
    frame(Some("lagged"), None, &serde_json::to_string(&Follow::Lagged { lagged }).unwrap_or_default())
}

/// What all streams hear.
#[derive(Clone)]
pub enum Live {
    Told(Arc<Told>),
    Lagged(u64),
}

/// Makes events into text, while somebody listens.
#[derive(Default)]
pub struct Hub(Mutex<Option<broadcast::WeakSender<Live>>>);

impl Hub {
    /// Hears what happens from now on.
    pub fn subscribe(&self, scheduler: &Scheduler) -> broadcast::Receiver<Live> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = known.as_ref().and_then(broadcast::WeakSender::upgrade) {
            let receiver = sender.subscribe();
            // The task ends when it finds nobody there; it may have looked a moment ago.
            if sender.receiver_count() > 1 {
                return receiver;
            }
        }
        let (sender, receiver) = broadcast::channel(EVENTS_MAX);
        *known = Some(sender.downgrade());
        let mut heard = scheduler.subscribe(EventMask::ALL);
        tokio::spawn(async move {
            while let Some(heard) = heard.next().await {
                let live = match heard {
                    Heard::Event(event) => Live::Told(Arc::new(Told::new(event))),
                    Heard::Lagged(lost) => Live::Lagged(lost),
                };
                if sender.send(live).is_err() {
                    // Nobody listens any more.
                    return;
                }
            }
        });
        receiver
    }
}
