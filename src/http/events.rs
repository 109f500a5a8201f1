//! Events over HTTP: stored ones as a list, live ones as server-sent events.

use super::problem::Problem;
use crate::config::App;
use crate::event::{Event, EventMask};
use crate::scheduler::Heard;
use crate::store::List;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::sse::{self, KeepAlive, Sse};
use futures::Stream;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::convert::Infallible;

/// Stored events that one answer or one step of a stream reads.
const EVENTS_PAGE: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    /// Only events with a larger sequence number.
    #[serde(default)]
    since: u64,
    mask: Option<String>,
    limit: Option<usize>,
}

impl ListQuery {
    fn mask(&self) -> Result<EventMask, Problem> {
        Ok(self.mask.as_deref().map_or(Ok(EventMask::ALL), str::parse)?)
    }
}

pub async fn list(
    State(app): State<App>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<List<Event>>, Problem> {
    let Query(query) = query?;
    let mask = query.mask()?;
    let limit = query.limit.unwrap_or(100).clamp(1, EVENTS_PAGE);
    let mut items = Vec::new();
    let mut since = query.since;
    loop {
        let events = app.scheduler.list_events(&super::default_store(), since, EVENTS_PAGE).await?;
        let more = events.len() == EVENTS_PAGE;
        since = events.last().map_or(since, |event| event.seq);
        let wanted = limit - items.len();
        items.extend(events.into_iter().filter(|event| mask.contains(event.kind)).take(wanted));
        if items.len() == limit {
            let next = items.last().map(|event| event.seq.to_string());
            return Ok(Json(List { items, next }));
        }
        if !more {
            return Ok(Json(List { items, next: None }));
        }
    }
}

/// What a stream sends: events, or how many were lost before they could be sent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way to a socket")]
pub enum Follow {
    Lagged { lagged: u64 },
    Event(Event),
}

/// Stored events after `since`, then live ones. The stream's ids are sequence numbers.
pub async fn stream(
    State(app): State<App>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let Query(query) = query?;
    let mask = query.mask()?;
    // Listening begins before reading what is stored, so that nothing falls between.
    let live = app.scheduler.subscribe(EventMask::ALL);
    let first = app.scheduler.list_events(&super::default_store(), query.since, EVENTS_PAGE).await?;
    let follower = Follower { app, mask, last: query.since, stored: first.into(), reading: true, live };
    let events = futures::stream::unfold(follower, |mut follower| async move {
        let follow = follower.next().await?;
        let id = match &follow {
            Follow::Event(event) if event.seq > 0 && event.jobstore == super::default_store() => {
                Some(event.seq.to_string())
            }
            _ => None,
        };
        let data = serde_json::to_string(&follow).unwrap_or_default();
        let event = sse::Event::default().data(data);
        Some((Ok(id.map_or(event.clone(), |id| event.id(id))), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

struct Follower {
    app: App,
    mask: EventMask,
    /// The last sequence number sent or passed over.
    last: u64,
    stored: VecDeque<Event>,
    /// There may be more stored events to read.
    reading: bool,
    live: crate::scheduler::Subscription,
}

impl Follower {
    async fn next(&mut self) -> Option<Follow> {
        loop {
            if let Some(event) = self.stored.pop_front() {
                self.last = event.seq;
                if self.mask.contains(event.kind) {
                    return Some(Follow::Event(event));
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
            match self.live.next().await? {
                // Events of the scheduler before it started are not stored and have no number; those of
                // other stores have numbers of their own.
                Heard::Event(event) if event.jobstore != super::default_store() || event.seq == 0 => {
                    if self.mask.contains(event.kind) {
                        return Some(Follow::Event((*event).clone()));
                    }
                }
                Heard::Event(event) if event.seq > self.last => {
                    self.last = event.seq;
                    if self.mask.contains(event.kind) {
                        return Some(Follow::Event((*event).clone()));
                    }
                }
                Heard::Event(_) => {}
                // What was lost is still stored, unless it was a great deal.
                Heard::Lagged(lagged) => {
                    self.reading = true;
                    return Some(Follow::Lagged { lagged });
                }
            }
        }
    }
}
