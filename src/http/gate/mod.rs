//! Who gets in. What every request passes, in this order: whether it was meant for this daemon
//! (`origin.rs`), who sent it (tokens, sessions), and then, for the operation that it asks for,
//! whether the caller may, what its body claims to be, and whether it was done already.

pub mod origin;
pub mod session;
pub mod token;

use super::Api;
use super::access::{Access, Caller, Peer};
use super::audit::{Entry, Later};
use super::operation::{Body, Operation};
use super::problem::Problem;
use crate::error::{Error, Result as AppResult};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use chrono::{DateTime, TimeDelta, Utc};
use origin::Hosts;
use session::Sessions;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use token::Tokens;
use tokio::sync::watch;

/// Wrong tokens that are answered within [`FAILURES_WITHIN`]; further ones are told to wait. Right ones
/// always get in, so nobody can be locked out.
const FAILURES_MAX: u32 = 20;
const FAILURES_WITHIN: TimeDelta = TimeDelta::seconds(60);

/// What the checks need.
pub struct Gate {
    pub tokens: Tokens,
    pub sessions: Sessions,
    pub hosts: Hosts,
    /// Counts tokens and sessions that ended.
    pub changes: watch::Sender<u64>,
    failures: Mutex<(DateTime<Utc>, u32)>,
}

impl Gate {
    pub fn open(home: &Path) -> AppResult<Self> {
        Ok(Gate {
            tokens: Tokens::open(home)?,
            sessions: Sessions::default(),
            hosts: Hosts::default(),
            changes: watch::Sender::new(0),
            failures: Mutex::default(),
        })
    }

    /// The refusal of a wrong token or code.
    pub fn failed(&self, now: DateTime<Utc>) -> Problem {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if now - failures.0 > FAILURES_WITHIN || now < failures.0 {
            *failures = (now, 0);
        }
        failures.1 += 1;
        if failures.1 > FAILURES_MAX {
            let detail = "too many wrong tokens (wait a minute)";
            return Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", detail);
        }
        let detail = "the token is wrong (`sandclock token list` shows which there are)";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
    }

    fn identify(&self, peer: Peer, headers: &HeaderMap, now: DateTime<Utc>) -> Result<Caller, Problem> {
        let nobody = Caller::of(peer);
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        if let Some(given_token) = given.next() {
            let text = given_token.to_str().ok().and_then(|text| text.split_once(' '));
            let bearer = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer") && given.next().is_none());
            let token = bearer.and_then(|(_, text)| self.tokens.find(text.trim()));
            return match token {
                Some(credential) => Ok(nobody.with(credential)),
                // The own user's file may be older than the daemon's tokens; the socket is enough.
                None if !matches!(peer, Peer::Tcp { .. }) => Ok(nobody),
                None => Err(self.failed(now)),
            };
        }
        let Some(text) = cookie(peer, headers) else { return Ok(nobody) };
        let credential = self.sessions.find(text, now).filter(|credential| self.tokens.is_valid(credential));
        Ok(match credential {
            Some(credential) => Caller { session: Some(text.into()), ..nobody.with(credential) },
            None => nobody,
        })
    }

    /// Whether a caller may still do what they might when they came.
    pub fn holds(&self, caller: &Caller, now: DateTime<Utc>) -> bool {
        caller.credential.as_ref().is_none_or(|credential| self.tokens.is_valid(credential))
            && caller.session.as_ref().is_none_or(|text| self.sessions.find(text, now).is_some())
    }

    /// Tells those who stream that somebody may have lost what they had.
    pub fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

/// The name of a session's cookie: cookies do not know ports, and there may be several daemons.
pub fn cookie_name(port: u16) -> String {
    format!("sandclock_{port}")
}

/// The text of the session that a request belongs to.
pub fn cookie(peer: Peer, headers: &HeaderMap) -> Option<&str> {
    let Peer::Tcp { port, .. } = peer else { return None };
    let name = cookie_name(port);
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The checks that do not depend on the operation. Every answer leaves with the headers that keep
/// browsers from doing more with it than the page does.
pub async fn enter(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let now = api.app.scheduler.clock().now();
    let mut response = match admit(&api, &request, now) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => {
            let caller = request.extensions().get::<Peer>().copied().map(Caller::of);
            let response = problem.into_response();
            api.audit.refused(Entry::new(now, caller.as_ref(), None, &request).ended(&response));
            response
        }
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(*name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

fn admit(api: &Api, request: &Request, now: DateTime<Utc>) -> Result<Caller, Problem> {
    let Some(peer) = request.extensions().get::<Peer>().copied() else {
        // A way in that was forgotten here must lead nowhere.
        return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "it is not known where the request comes from"));
    };
    if let Peer::Tcp { port, .. } = peer {
        api.gate.hosts.check(request.method(), request.uri(), request.headers(), port)?;
    }
    api.gate.identify(peer, request.headers(), now)
}

/// An operation's handler behind the checks that depend on it.
pub fn guard(api: &Api, operation: Operation) -> MethodRouter<Api> {
    let (once, recorded) = (operation.is_once(), operation.is_recorded());
    let Operation { id, access, body, handler, body_bytes_max, .. } = operation;
    let guard = Guard { api: api.clone(), id, access, body, once, recorded };
    let handler = match body_bytes_max {
        Some(max) => handler.layer(axum::extract::DefaultBodyLimit::max(max)),
        None => handler,
    };
    handler.layer(from_fn_with_state(guard, check))
}

#[derive(Clone)]
struct Guard {
    api: Api,
    id: &'static str,
    access: Access,
    body: Body,
    /// A request with a key is done once.
    once: bool,
    /// What came of it goes into the audit log.
    recorded: bool,
}

async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let now = guard.api.app.scheduler.clock().now();
    let caller = request.extensions().get::<Caller>().cloned();
    let entry = || Entry::new(now, caller.as_ref(), Some(guard.id), &request);
    if let Err(problem) = guard.admit(caller.as_ref(), &request) {
        let response = problem.into_response();
        guard.api.app.metrics.answered(guard.id, response.status().as_u16());
        guard.api.audit.refused(entry().ended(&response));
        return response;
    }
    let entry = guard.recorded.then(entry);
    let key = request.headers().get("idempotency-key").filter(|_| guard.once).cloned();
    if entry.is_none() && key.is_none() {
        return guard.handle(caller, entry, key, request, next).await;
    }
    // On its own, because a caller that goes away must leave nothing half done, and is on record.
    let handled = tokio::spawn(async move { guard.handle(caller, entry, key, request, next).await });
    let broken = |e| Problem::from(Error::host("handling the request broke off", e)).into_response();
    handled.await.unwrap_or_else(broken)
}

impl Guard {
    /// Has the handler answer, and writes what came of it into the audit log.
    async fn handle(
        &self,
        caller: Option<Caller>,
        entry: Option<Entry>,
        key: Option<HeaderValue>,
        request: Request,
        next: Next,
    ) -> Response {
        let mut response = match (key, caller) {
            (Some(key), Some(caller)) => super::idempotency::once(&self.api, &key, &caller, request, next).await,
            _ => next.run(request).await,
        };
        self.api.app.metrics.answered(self.id, response.status().as_u16());
        let Some(entry) = entry.map(|entry| entry.ended(&response)) else { return response };
        match response.extensions_mut().remove::<Later>() {
            Some(later) => later.hand(entry),
            // Somebody who tries tokens must not fill the log.
            None if self.access == Access::None && entry.status >= 400 => self.api.audit.refused(entry),
            None => self.api.audit.write(entry),
        }
        response
    }

    fn admit(&self, caller: Option<&Caller>, request: &Request) -> Result<(), Problem> {
        let has = caller.map_or(Access::None, |caller| caller.access);
        if has < self.access {
            return Err(refusal(has, self.access, caller.map(|caller| caller.peer)));
        }
        let wanted = match self.body {
            Body::Absent => return Ok(()),
            Body::Json => "application/json",
            Body::Wasm => "application/wasm",
        };
        let given = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let given = given.map(|given| given.split(';').next().unwrap_or_default().trim());
        if given.is_some_and(|given| given.eq_ignore_ascii_case(wanted)) {
            return Ok(());
        }
        let detail = format!("the request must say `Content-Type: {wanted}`");
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", detail))
    }
}

fn refusal(has: Access, wanted: Access, peer: Option<Peer>) -> Problem {
    if has == Access::None {
        let detail = "a token is needed (`sandclock token create NAME` makes one, `sandclock open` signs a browser in)";
        return Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    }
    let detail = match (wanted, peer) {
        (Access::Grant, Some(Peer::Unix { .. })) => {
            "plugins, grants, secrets, tokens and backups need an operator token, on the socket too \
             (the daemon keeps one for its own user in HOME/operator.token)"
        }
        _ => "this token is only for looking (an operator token may do this)",
    };
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}
