//! Listeners that outlive the process: they are stored, are told of stored events in order, and are
//! told again until they take it.

use crate::event::{Event, EventKind, EventMask};
use crate::func::FuncRef;
use crate::invalid::Invalid;
use crate::job::{Alias, JobId, Limits, Retry};
use crate::secret::Secret;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Jobs that a listener may name.
pub const JOBS_MAX: usize = 256;
/// Dead letters kept of one listener; the oldest goes first.
pub const DEAD_MAX: usize = 100;
const URL_MAX: usize = 2048;
/// Longest time that a listener that is a plugin may take for one event.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);

/// Who is told of which events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub name: Alias,
    /// Default: every event.
    #[serde(default)]
    pub mask: EventMask,
    /// Only events about these jobs; empty means all events.
    #[serde(default)]
    pub jobs: Vec<JobId>,
    pub target: Target,
    /// How often and how far apart an event is tried before it becomes a dead letter.
    #[serde(default = "patient")]
    pub retry: Retry,
}

/// Where events go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// Posted as a CloudEvent (1.0, structured JSON), signed as Standard Webhooks say if there is a
    /// secret. An answer of 2xx takes it.
    Webhook {
        url: String,
        /// Never shown again; at least 16 characters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secret: Option<Secret>,
    },
    /// An export that takes the event as JSON text: world `listener`, `on-event: func(event: string)
    /// -> result<_, string>`.
    Plugin {
        func: FuncRef,
        #[serde(default)]
        limits: Limits,
    },
}

fn patient() -> Retry {
    Retry { max_attempts: 10, ..Retry::default() }
}

impl Listener {
    pub fn new(name: Alias, target: Target) -> Self {
        Listener { name, mask: EventMask::ALL, jobs: Vec::new(), target, retry: patient() }
    }

    pub fn hears(&self, event: &Event) -> bool {
        let of_job = self.jobs.is_empty() || event.job_id.as_ref().is_some_and(|id| self.jobs.contains(id));
        of_job && self.mask.contains(event.kind)
    }

    /// The rules that need nothing but the listener.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.jobs.len() > JOBS_MAX {
            return Err(Invalid::new("listener", self.name.as_str(), format!("it names more than {JOBS_MAX} jobs")));
        }
        if self.mask.0 == 0 {
            return Err(Invalid::new("event mask", "0", "it has no events"));
        }
        self.retry.validate()?;
        let (url, secret) = match &self.target {
            Target::Webhook { url, secret } => (url, secret),
            Target::Plugin { limits, .. } if limits.timeout > TIMEOUT_MAX => {
                let given = crate::trigger::duration_text(limits.timeout);
                return Err(Invalid::new("limits.timeout", given, "it must be at most 30s for a listener"));
            }
            Target::Plugin { .. } => return Ok(()),
        };
        let bad = |reason: &str| Err(Invalid::new("url", url, reason).hint("such as `https://example.org/hook`"));
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        match rest {
            None => return bad("it must begin with `https://` or `http://`"),
            Some(rest) if rest.is_empty() || rest.starts_with('/') => return bad("it has no host"),
            _ => {}
        }
        if url.len() > URL_MAX || !url.bytes().all(|b| b.is_ascii_graphic()) {
            return bad(&format!("it must be at most {URL_MAX} visible ASCII characters"));
        }
        if secret.as_ref().is_some_and(|secret| secret.reveal().len() < 16) {
            return Err(Invalid::new("secret", "", "it must be at least 16 characters"));
        }
        Ok(())
    }

    /// Takes over the secret of the listener that this one replaces, unless it has one of its own or
    /// another address.
    pub(crate) fn keep_secret(&mut self, old: &Listener) {
        if let (Target::Webhook { url, secret: secret @ None }, Target::Webhook { url: old_url, secret: old }) =
            (&mut self.target, &old.target)
            && url == old_url
        {
            secret.clone_from(old);
        }
    }

    /// The listener as it may be shown: a secret is only said to be there.
    pub fn redacted(&self) -> Self {
        let mut shown = self.clone();
        if let Target::Webhook { secret: Some(secret), .. } = &mut shown.target {
            *secret = "(set)".into();
        }
        shown
    }
}

/// How far a listener is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Progress {
    /// Grows when a caller sets how far it is: what is told by an earlier number is not stored.
    pub generation: u64,
    /// Sequence number of the last event that it is done with.
    pub after: u64,
    /// Events that it took.
    pub delivered: u64,
    /// Events that were no longer stored when their turn came.
    pub missed: u64,
    /// Of these, the ones that it has been told of.
    pub missed_told: u64,
    /// Failed tries of the event that is next.
    pub attempt: u32,
    pub retry_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
    /// Events that it never took.
    pub dead: VecDeque<DeadLetter>,
    /// All there ever were.
    pub dead_count: u64,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DeadLetter {
    pub seq: u64,
    pub kind: EventKind,
    pub job_id: Option<JobId>,
    pub time: DateTime<Utc>,
    pub attempts: u32,
    pub error: String,
}

impl Progress {
    /// Books that an event was taken.
    pub fn took(&mut self, seq: u64) {
        self.delivered += 1;
        self.pass(seq);
        self.last_error = None;
    }

    /// Goes on to the next event.
    pub fn pass(&mut self, seq: u64) {
        (self.after, self.attempt, self.retry_at) = (seq, 0, None);
    }

    /// Books a failed try: the event is tried again later, or is a dead letter now.
    pub fn failed(&mut self, retry: &Retry, event: &Event, now: DateTime<Utc>, error: String) {
        self.attempt += 1;
        let error = crate::invalid::printable(&error, 400);
        self.last_error = Some(error.clone());
        match retry.wait_after(&event.seq.to_be_bytes(), self.attempt) {
            Some(wait) => self.retry_at = Some(now + wait),
            None => {
                let (attempts, job_id) = (self.attempt, event.job_id.clone());
                let letter = DeadLetter { seq: event.seq, kind: event.kind, job_id, time: event.time, attempts, error };
                self.dead.push_back(letter);
                self.dead_count += 1;
                if self.dead.len() > DEAD_MAX {
                    self.dead.pop_front();
                }
                self.pass(event.seq);
            }
        }
    }
}
