//! `Idempotency-Key`: a POST that comes again with the same key is answered as it was the first time and
//! done once. The key is on disk before the request is handled and the answer before it is sent, so
//! this holds over a restart: of what was under way when the daemon died, the caller is told that it is
//! not known.

use super::Api;
use super::access::Caller;
use super::problem::Problem;
use crate::error::{Error, Result};
use crate::files::{append_to, write_whole};
use crate::plugin::digest;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use http_body_util::BodyExt;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// How long a key is known, and how many are at most, of all callers and of one; the oldest go.
const KEY_AGE: TimeDelta = TimeDelta::hours(24);
const KEYS_MAX: usize = 8192;
const KEYS_OF_CALLER_MAX: usize = KEYS_MAX / 4;
const KEY_BYTES_MAX: usize = 255;
/// Answers larger than this are not kept; the key then says only that it was done.
const ANSWER_BYTES_MAX: usize = 8 << 10;
/// Lines after which the file is written anew.
const LINES_MAX: usize = KEYS_MAX * 4;

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    status: u16,
    media: String,
    body: String,
}

impl Answer {
    /// What is said instead of an answer that was too long to keep.
    fn too_long() -> Self {
        let detail = "the request was done the first time; its answer was too long to keep (look at what it made)";
        let problem = Problem::new(StatusCode::CONFLICT, "idempotency_done", detail);
        let body = serde_json::to_string(&problem).unwrap_or_default();
        Answer { status: problem.status, media: "application/problem+json".into(), body }
    }
}

/// A line of the file; the last one of a key counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Line {
    /// A hash of the caller, and of the key that they gave.
    caller: String,
    key: String,
    /// A hash of the request.
    request: String,
    time: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
    /// It was not done, and may be asked for again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    forgotten: bool,
}

/// The keys of one home.
pub struct Idempotency {
    path: PathBuf,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Opened when it is first needed.
    file: Option<File>,
    lines: usize,
    /// The last line may be written in part.
    torn: bool,
    known: HashMap<String, Known>,
}

#[derive(Debug, Clone)]
struct Known {
    line: Line,
    /// It is being handled by this process.
    under_way: bool,
}

impl Idempotency {
    pub fn open(home: &Path) -> Result<Self> {
        let path = home.join("idempotency.jsonl");
        let mut known = HashMap::new();
        let mut lines = 0;
        match File::open(&path) {
            Ok(file) => {
                for line in BufReader::new(file).lines().map_while(std::result::Result::ok) {
                    lines += 1;
                    // The last line may be half written: its request was not begun.
                    let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
                    if line.forgotten {
                        known.remove(&line.key);
                    } else {
                        known.insert(line.key.clone(), Known { line, under_way: false });
                    }
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::host(format!("cannot read `{}`", path.display()), e)),
        }
        Ok(Idempotency { path, inner: Mutex::new(Inner { file: None, lines, torn: lines > 0, known }) })
    }

    /// Notes that a request is being handled, or says what became of it. Blocks.
    fn begin(
        &self,
        caller: &str,
        key: &str,
        request: &str,
        now: DateTime<Utc>,
    ) -> std::result::Result<Option<Answer>, Problem> {
        let conflict = |code, detail: &str| Err(Problem::new(StatusCode::CONFLICT, code, detail));
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = inner.known.get(key).filter(|known| now - known.line.time < KEY_AGE) {
            return match &known.line.answer {
                _ if known.line.request != request => Err(Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "idempotency_mismatch",
                    "the key was used for another request (take a new key for a new request)",
                )),
                Some(answer) => Ok(Some(answer.clone())),
                None if known.under_way => {
                    conflict("idempotency_in_progress", "the same request is being handled (ask again)")
                }
                None => conflict(
                    "idempotency_unknown",
                    "the daemon ended while it handled this request, so it may be done or not (look, and take a new key)",
                ),
            };
        }
        let (caller, request) = (caller.to_owned(), request.to_owned());
        let line = Line { caller, key: key.to_owned(), request, time: now, answer: None, forgotten: false };
        inner.append(&self.path, &line).map_err(|e| Problem::from(failed(&self.path, e)))?;
        inner.known.insert(key.to_owned(), Known { line, under_way: true });
        if let Err(error) = inner.prune(&self.path, now) {
            // What is written is right all the same, and only longer than it need be.
            tracing::warn!(%error, "the idempotency keys cannot be written anew");
        }
        Ok(None)
    }

    /// Notes the answer, or that there is none to keep. Blocks.
    fn end(&self, key: &str, answer: Option<Answer>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = inner.known.get_mut(key) else { return };
        known.under_way = false;
        known.line.answer.clone_from(&answer);
        let mut line = known.line.clone();
        if answer.is_none() {
            line.forgotten = true;
            inner.known.remove(key);
        }
        if let Err(error) = inner.append(&self.path, &line) {
            tracing::error!(%error, "an idempotency key cannot be kept");
        }
    }
}

fn failed(path: &Path, e: std::io::Error) -> Error {
    Error::host(format!("cannot write `{}`", path.display()), e)
}

impl Inner {
    fn append(&mut self, path: &Path, line: &Line) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(append_to(path)?),
        };
        // A line that was torn by a full disk must not take the next one with it.
        let mut text = if std::mem::take(&mut self.torn) { b"\n".to_vec() } else { Vec::new() };
        serde_json::to_writer(&mut text, line)?;
        text.push(b'\n');
        self.torn = true;
        file.write_all(&text)?;
        self.torn = false;
        self.lines += 1;
        file.sync_data()
    }

    /// Forgets what is too old or too much, and writes the file anew if most of it says nothing.
    fn prune(&mut self, path: &Path, now: DateTime<Utc>) -> std::io::Result<()> {
        let mut of_callers: HashMap<String, usize> = HashMap::new();
        for known in self.known.values() {
            *of_callers.entry(known.line.caller.clone()).or_default() += 1;
        }
        let greedy = of_callers.into_iter().find(|(_, count)| *count > KEYS_OF_CALLER_MAX);
        if let Some((caller, _)) = greedy {
            self.forget_older_half(now, |line| line.caller == caller);
        }
        if self.known.len() > KEYS_MAX {
            self.forget_older_half(now, |_| true);
        }
        if self.lines > LINES_MAX {
            let mut text = Vec::new();
            for known in self.known.values() {
                serde_json::to_writer(&mut text, &known.line)?;
                text.push(b'\n');
            }
            write_whole(path, &[&text])?;
            self.file = Some(append_to(path)?);
            self.lines = self.known.len();
        }
        Ok(())
    }

    /// Forgets what is too old, and of the rest the older half.
    fn forget_older_half(&mut self, now: DateTime<Utc>, of: impl Fn(&Line) -> bool) {
        self.known.retain(|_, known| known.under_way || now - known.line.time < KEY_AGE);
        let mut times: Vec<_> =
            self.known.values().filter(|known| of(&known.line)).map(|known| known.line.time).collect();
        times.sort_unstable();
        let Some(oldest_kept) = times.get(times.len() / 2).copied() else { return };
        self.known.retain(|_, known| known.under_way || !of(&known.line) || known.line.time >= oldest_kept);
    }
}

/// Handles a request once, however often it comes. To be called where a caller that goes away does not
/// end it half done.
pub async fn once(api: &Api, key: &HeaderValue, caller: &Caller, request: Request, next: Next) -> Response {
    match try_once(api, key, caller, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn try_once(
    api: &Api,
    key: &HeaderValue,
    caller: &Caller,
    request: Request,
    next: Next,
) -> std::result::Result<Response, Problem> {
    let bad =
        |reason| Err(Problem::new(StatusCode::BAD_REQUEST, "invalid", format!("invalid Idempotency-Key: {reason}")));
    let Some(text) = key.to_str().ok().filter(|key| !key.is_empty()) else { return bad("it is no plain text") };
    if text.len() > KEY_BYTES_MAX {
        return bad("it is longer than 255 bytes");
    }
    let (parts, body) = request.into_parts();
    let max = super::BODY_BYTES_MAX;
    let come = axum::body::to_bytes(body, max);
    let come = tokio::time::timeout(super::extract::BODY_TIME_MAX, come).await;
    let bytes = come.map_err(|_| Problem::too_slow(super::extract::BODY_TIME_MAX))?.map_err(|_| {
        let detail = format!("the body has more than {max} bytes, or broke off; leave the key out for a larger one");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    })?;
    let of_request = digest(format!("{} {} {}", parts.method, parts.uri, digest(&bytes)).as_bytes());
    let of_caller = digest(caller.name.as_bytes())[..16].to_owned();
    let key = digest(format!("{of_caller} {text}").as_bytes());
    let now = api.app.scheduler.clock().now();
    let keys = api.idempotency.clone();
    let begun = {
        let (keys, key) = (keys.clone(), key.clone());
        tokio::task::spawn_blocking(move || keys.begin(&of_caller, &key, &of_request, now)).await
    };
    if let Some(answer) = begun.map_err(|e| Problem::from(Error::host("noting a key broke off", e)))?? {
        return Ok(replayed(answer));
    }
    let request = Request::from_parts(parts, Body::from(bytes));
    let ended = Ended { keys, key: Some(key) };
    let response = next.run(request).await;
    Ok(ended.keep(response).await)
}

/// Notes the end of a request, whatever its end.
struct Ended {
    keys: Arc<Idempotency>,
    key: Option<String>,
}

impl Ended {
    /// Keeps the answer; one that invites to try again is not kept.
    async fn keep(mut self, response: Response) -> Response {
        let status = response.status();
        let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        let media = response.headers().get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
        let media = media.unwrap_or_default().to_owned();
        // An answer that goes on is nothing to keep; what it is about is looked at, not done.
        let whole = ["", "application/json", "application/problem+json"].contains(&media.as_str());
        if again || !whole {
            self.note(None).await;
            return response;
        }
        let (parts, body) = response.into_parts();
        let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
            self.note(None).await;
            return Problem::from(Error::host("the answer broke off", "nothing is kept of it")).into_response();
        };
        let kept = if bytes.len() <= ANSWER_BYTES_MAX {
            Answer { status: status.as_u16(), media, body: String::from_utf8_lossy(&bytes).into_owned() }
        } else {
            Answer::too_long()
        };
        self.note(Some(kept)).await;
        Response::from_parts(parts, Body::from(bytes))
    }

    async fn note(&mut self, kept: Option<Answer>) {
        if let Some(key) = self.key.take() {
            let keys = self.keys.clone();
            let _ = tokio::task::spawn_blocking(move || keys.end(&key, kept)).await;
        }
    }
}

/// A handler that panicked leaves a key that may be used again.
impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.keys.end(&key, None);
        }
    }
}

fn replayed(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if let Ok(media) = HeaderValue::from_str(&answer.media)
        && !media.is_empty()
    {
        headers.insert(header::CONTENT_TYPE, media);
    }
    headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(begun: std::result::Result<Option<Answer>, Problem>) -> Option<String> {
        begun.err().map(|problem| problem.code)
    }

    #[test]
    fn an_answer_is_kept_over_a_restart_and_what_was_under_way_is_not_known() {
        let home = tempfile::tempdir().unwrap();
        let now = DateTime::UNIX_EPOCH;
        let keys = Idempotency::open(home.path()).unwrap();
        let answer = Answer { status: 201, media: "application/json".into(), body: "{}".into() };
        assert_eq!(keys.begin("me", "a", "r", now).unwrap(), None);
        assert_eq!(code(keys.begin("me", "a", "r", now)).as_deref(), Some("idempotency_in_progress"));
        keys.end("a", Some(answer.clone()));
        assert_eq!(keys.begin("me", "b", "r", now).unwrap(), None);
        assert_eq!(keys.begin("me", "c", "r", now).unwrap(), None);
        keys.end("c", None);
        drop(keys);
        let keys = Idempotency::open(home.path()).unwrap();
        assert_eq!(keys.begin("me", "a", "r", now).unwrap(), Some(answer));
        assert_eq!(code(keys.begin("me", "a", "other", now)).as_deref(), Some("idempotency_mismatch"));
        assert_eq!(code(keys.begin("me", "b", "r", now)).as_deref(), Some("idempotency_unknown"));
        assert_eq!(keys.begin("me", "c", "r", now).unwrap(), None);
        assert_eq!(keys.begin("me", "a", "other", now + KEY_AGE).unwrap(), None);
    }

    #[test]
    fn keys_are_bounded_and_nobody_takes_those_of_others() {
        let home = tempfile::tempdir().unwrap();
        let mut inner = Inner { file: None, lines: LINES_MAX + 1, torn: false, known: HashMap::new() };
        let add = |inner: &mut Inner, caller: &str, at: usize| {
            let time = DateTime::UNIX_EPOCH + TimeDelta::milliseconds(at as i64);
            let (caller, key, request) = (caller.to_owned(), format!("{caller}{at}"), String::new());
            let line = Line { caller, key: key.clone(), request, time, answer: None, forgotten: false };
            inner.known.insert(key, Known { line, under_way: false });
        };
        add(&mut inner, "ops", 0);
        (1..=KEYS_OF_CALLER_MAX + 1).for_each(|at| add(&mut inner, "greedy", at));
        inner.prune(&home.path().join("f"), DateTime::UNIX_EPOCH).unwrap();
        assert!(inner.known.contains_key("ops0") && !inner.known.contains_key("greedy1"));
        assert!(inner.known.len() < KEYS_OF_CALLER_MAX && inner.lines == inner.known.len());
        for caller in 0..8 {
            (1..KEYS_OF_CALLER_MAX).for_each(|at| add(&mut inner, &format!("c{caller}"), at));
        }
        inner.prune(&home.path().join("f"), DateTime::UNIX_EPOCH).unwrap();
        assert!(inner.known.len() <= KEYS_MAX + KEYS_OF_CALLER_MAX);
    }
}
