//! What a run wrote: as a document, or as an event stream that goes on while the run does.

use super::Api;
use super::access::Caller;
use super::operation::{Draft, Gives};
use super::problem::Problem;
use super::stream::{EventStream, Followed, describe_stream, frame, wants_stream};
use crate::config::App;
use crate::run::{RunId, RunLogs, RunState};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::{Extension, Json};
use bytes::Bytes;
use serde_json::json;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// How often a run that is followed is asked what it has written: less often the more that is, because
/// all of it is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(10);
const LOOK_BYTES: usize = 256 << 10;

impl Gives for Followed<RunLogs> {
    fn describe(draft: &mut Draft<'_>) {
        draft.json::<RunLogs>(200, "what it wrote");
        let about = "`stdout` and `stderr` with `{\"text\"}`, `log` with a line, then `end`";
        describe_stream(draft, about);
    }
}

pub async fn logs(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Followed<RunLogs>, Problem> {
    let id: RunId = id.parse()?;
    if !wants_stream(&headers) {
        return Ok(Followed::Document(Json(api.app.scheduler.get_logs(id).await?)));
    }
    let place = EventStream::place(&api)?;
    api.app.scheduler.get_run(id).await?;
    let follower = Follower {
        app: api.app.clone(),
        id,
        sent: Sent::default(),
        queue: VecDeque::new(),
        ended: false,
        _place: place,
    };
    let events = futures::stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((event, follower))
    });
    Ok(Followed::Stream(EventStream::new(&api, caller, events)))
}

/// Sends what is new, until the run has ended.
struct Follower {
    app: App,
    id: RunId,
    sent: Sent,
    queue: VecDeque<Bytes>,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

/// How much has been sent: bytes of each text, and lines.
#[derive(Default)]
struct Sent {
    stdout: usize,
    stderr: usize,
    lines: usize,
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            // In this order, so that what it wrote last is read after its end.
            let run = self.app.scheduler.get_run(self.id).await;
            let ended = run.as_ref().map_or(true, |run| run.state == RunState::Ended);
            let logs = self.app.scheduler.get_logs(self.id).await.unwrap_or_default();
            self.take(logs);
            if ended {
                self.ended = true;
                self.queue.push_back(frame(Some("end"), None, "{}"));
            } else if self.queue.is_empty() {
                let times = 1 + (self.sent.stdout + self.sent.stderr) / LOOK_BYTES;
                let wait = LOOK_EVERY.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX));
                tokio::time::sleep(wait.min(LOOK_EVERY_MAX)).await;
            }
        }
    }

    fn take(&mut self, logs: RunLogs) {
        let texts = [("stdout", &mut self.sent.stdout, &logs.stdout), ("stderr", &mut self.sent.stderr, &logs.stderr)];
        for (name, sent, now) in texts {
            if let Some(text) = now.get(now.floor_char_boundary(*sent)..).filter(|text| !text.is_empty()) {
                self.queue.push_back(frame(Some(name), None, &json!({ "text": text }).to_string()));
                *sent = now.len();
            }
        }
        for line in logs.log.iter().skip(self.sent.lines) {
            let data = serde_json::to_string(line).unwrap_or_default();
            self.queue.push_back(frame(Some("log"), None, &data));
        }
        self.sent.lines = self.sent.lines.max(logs.log.len());
    }
}
