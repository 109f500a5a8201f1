//! Events over HTTP: stored ones as a list, live ones as server-sent events.

use super::Api;
use super::access::Caller;
use super::extract::Query;
use super::operation::{Draft, Gives};
use super::problem::Problem;
use super::stream::{EventStream, Followed, Live, describe_stream, frame, lagged, wants_stream};
use crate::config::App;
use crate::event::{Event, EventMask};
use crate::invalid::Invalid;
use crate::store::List;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::{self, error::RecvError};

/// Stored events that one answer or one step of a stream reads.
const EVENTS_PAGE: usize = 500;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only events with a larger sequence number.
    since: Option<u64>,
    mask: Option<String>,
    limit: Option<usize>,
}

impl ListQuery {
    fn mask(&self) -> Result<EventMask, Problem> {
        Ok(self.mask.as_deref().map_or(Ok(EventMask::ALL), str::parse)?)
    }
}

impl Gives for Followed<List<Event>> {
    fn describe(draft: &mut Draft<'_>) {
        draft.header("Last-Event-ID", "With an event stream: go on after this event.");
        draft.json::<List<Event>>(200, "events");
        let about = "each event as data, its number as id; `lagged` says how many were too fast to send";
        describe_stream(draft, about);
    }
}

pub async fn events(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Followed<List<Event>>, Problem> {
    if wants_stream(&headers) {
        return Ok(Followed::Stream(stream(&api, caller, &query, &headers).await?));
    }
    Ok(Followed::Document(Json(list(&api.app, &query).await?)))
}

async fn list(app: &App, query: &ListQuery) -> Result<List<Event>, Problem> {
    let mask = query.mask()?;
    let limit = query.limit.unwrap_or(100).clamp(1, EVENTS_PAGE);
    let mut items = Vec::new();
    let mut since = query.since.unwrap_or(0);
    loop {
        let events = app.scheduler.list_events(&super::default_store(), since, EVENTS_PAGE).await?;
        let more = events.len() == EVENTS_PAGE;
        since = events.last().map_or(since, |event| event.seq);
        let wanted = limit - items.len();
        items.extend(events.into_iter().filter(|event| mask.contains(event.kind)).take(wanted));
        if items.len() == limit {
            let next = items.last().map(|event| event.seq.to_string());
            return Ok(List { items, next });
        }
        if !more {
            return Ok(List { items, next: None });
        }
    }
}

/// What a stream sends: events, or how many were lost before they could be sent.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way to a socket")]
pub enum Follow {
    Lagged { lagged: u64 },
    Event(Event),
}

/// Stored events after the one that the caller knows, then live ones; without one, what happens from
/// now on. The stream's ids are sequence numbers.
async fn stream(api: &Api, caller: Caller, query: &ListQuery, headers: &HeaderMap) -> Result<EventStream, Problem> {
    let mask = query.mask()?;
    let place = EventStream::place(api)?;
    let app = api.app.clone();
    // Listening begins before reading what is stored, so that nothing falls between.
    let live = api.hub.subscribe(&app.scheduler);
    let known = match headers.get("last-event-id") {
        None => query.since,
        Some(id) => {
            let id = id.to_str().unwrap_or_default();
            Some(id.parse().map_err(|_| Invalid::new("Last-Event-ID", id, "it is no number of an event"))?)
        }
    };
    // A number that is not given yet is of another store, before a restore perhaps.
    let newest = app.scheduler.last_event(&super::default_store()).await?;
    let last = known.unwrap_or(newest).min(newest);
    let follower = Follower { app, mask, last, stored: VecDeque::new(), reading: known.is_some(), live, _place: place };
    Ok(EventStream::new(
        api,
        caller,
        futures::stream::unfold(follower, |mut follower| async move {
            let text = follower.next().await?;
            Some((text, follower))
        }),
    ))
}

struct Follower {
    app: App,
    mask: EventMask,
    /// The last sequence number sent or passed over.
    last: u64,
    stored: VecDeque<Event>,
    /// There may be more stored events to read.
    reading: bool,
    live: broadcast::Receiver<Live>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.stored.pop_front() {
                // What is older than what is kept is gone.
                let lost = event.seq - self.last - 1;
                if lost > 0 && self.last > 0 {
                    self.last = event.seq - 1;
                    self.stored.push_front(event);
                    return Some(lagged(lost));
                }
                self.last = event.seq;
                if self.mask.contains(event.kind) {
                    let data = serde_json::to_string(&event).unwrap_or_default();
                    return Some(frame(None, Some(event.seq), &data));
                }
                continue;
            }
            if self.reading {
                let more =
                    self.app.scheduler.list_events(&super::default_store(), self.last, EVENTS_PAGE).await.ok()?;
                self.reading = !more.is_empty();
                self.stored = more.into();
                continue;
            }
            let lost = match self.live.recv().await {
                Ok(Live::Told(told)) => {
                    let numbered = told.event.jobstore == super::default_store() && told.event.seq > 0;
                    if numbered && told.event.seq <= self.last {
                        continue;
                    }
                    if numbered {
                        self.last = told.event.seq;
                    }
                    if self.mask.contains(told.event.kind) {
                        return Some(told.text.clone());
                    }
                    continue;
                }
                Ok(Live::Lagged(lost)) | Err(RecvError::Lagged(lost)) => lost,
                Err(RecvError::Closed) => return None,
            };
            // What was lost is still stored, unless it was a great deal.
            self.reading = true;
            return Some(lagged(lost));
        }
    }
}
