//! A run: one recorded execution for one fire time, and what became of it.

use crate::func::FuncRef;
use crate::grant::Use;
use crate::job::{Alias, Arguments, Job, JobId, Origin};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use ulid::Ulid;

/// Longest output that is stored, in bytes of JSON; more is cut with a mark.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Longest error text that is stored, in bytes.
pub const ERROR_BYTES_MAX: usize = 4 * 1024;

/// Different things beyond computing that one run is recorded to have reached for.
pub const USES_MAX: usize = 64;

/// Bytes of their names together: a run's record has to stay small.
pub const USES_BYTES_MAX: usize = 1024;
/// Bytes of the name of a trap, or of what was denied.
const NAME_BYTES_MAX: usize = 300;

/// A run's id: a ULID, so that ids sort by the time they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub Ulid);

impl schemars::JsonSchema for RunId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RunId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-7][0-9A-HJKMNP-TV-Z]{25}$" })
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = crate::invalid::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ulid::from_str(text).map(RunId).map_err(|_| {
            crate::invalid::Invalid::new("run id", text, "it is 26 letters and digits")
                .hint("`sandclock run list` shows them")
        })
    }
}

/// claimed → running → ended. Every other step is illegal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Recorded as due; it may start now.
    Claimed,
    /// An executor has begun it.
    Running,
    /// It has its one outcome.
    Ended,
}

/// Why a fire time did not become a run that started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// `max_instances` runs were still going.
    MaxInstances,
    /// One catch-up may start at most `max_catchup` runs.
    CatchupLimit,
    /// The job was paused.
    Paused,
}

/// How a run ended. A guest's failure is data here, never a Rust error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    Succeeded {
        /// The returned value as JSON; null where the export returns nothing.
        value: Value,
    },
    /// The guest returned `err`, or its command exited with a failure.
    Failed {
        error: String,
    },
    Trapped {
        /// `stack_overflow`, `unreachable`, `abi`, …
        trap: String,
        error: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        backtrace: Vec<String>,
    },
    OutOfFuel {
        error: String,
    },
    OutOfMemory {
        error: String,
    },
    TimedOut {
        error: String,
    },
    /// The guest used something that was not granted.
    Denied {
        capability: String,
        error: String,
    },
    Cancelled,
    /// Its process died before the end was recorded.
    Interrupted,
    /// It could not start within `misfire_grace_time`.
    Missed,
    Skipped {
        reason: SkipReason,
    },
    /// It could not be started as described: the plugin is gone, the arguments no longer fit.
    Invalid {
        error: String,
    },
    /// The host failed, not the guest.
    Internal {
        error: String,
    },
}

/// The outcome without its data: what filters, retry policies and counters use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OutcomeKind {
    Succeeded,
    Failed,
    Trapped,
    OutOfFuel,
    OutOfMemory,
    TimedOut,
    Denied,
    Cancelled,
    Interrupted,
    Missed,
    Skipped,
    Invalid,
    Internal,
}

impl OutcomeKind {
    pub const ALL: [OutcomeKind; 13] = [
        OutcomeKind::Succeeded,
        OutcomeKind::Failed,
        OutcomeKind::Trapped,
        OutcomeKind::OutOfFuel,
        OutcomeKind::OutOfMemory,
        OutcomeKind::TimedOut,
        OutcomeKind::Denied,
        OutcomeKind::Cancelled,
        OutcomeKind::Interrupted,
        OutcomeKind::Missed,
        OutcomeKind::Skipped,
        OutcomeKind::Invalid,
        OutcomeKind::Internal,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            OutcomeKind::Succeeded => "succeeded",
            OutcomeKind::Failed => "failed",
            OutcomeKind::Trapped => "trapped",
            OutcomeKind::OutOfFuel => "out_of_fuel",
            OutcomeKind::OutOfMemory => "out_of_memory",
            OutcomeKind::TimedOut => "timed_out",
            OutcomeKind::Denied => "denied",
            OutcomeKind::Cancelled => "cancelled",
            OutcomeKind::Interrupted => "interrupted",
            OutcomeKind::Missed => "missed",
            OutcomeKind::Skipped => "skipped",
            OutcomeKind::Invalid => "invalid",
            OutcomeKind::Internal => "internal",
        }
    }

    /// Whether a run that began ended without success: what raises JOB_ERROR and counts towards
    /// `pause_after`.
    pub fn is_failure(self) -> bool {
        !matches!(self, OutcomeKind::Succeeded | OutcomeKind::Missed | OutcomeKind::Skipped)
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OutcomeKind {
    type Err = crate::invalid::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OutcomeKind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = OutcomeKind::ALL.iter().map(|kind| kind.as_str()).collect();
            crate::invalid::Invalid::new("outcome", text, format!("it is one of {}", all.join(", ")))
        })
    }
}

impl Outcome {
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Outcome::Succeeded { .. } => OutcomeKind::Succeeded,
            Outcome::Failed { .. } => OutcomeKind::Failed,
            Outcome::Trapped { .. } => OutcomeKind::Trapped,
            Outcome::OutOfFuel { .. } => OutcomeKind::OutOfFuel,
            Outcome::OutOfMemory { .. } => OutcomeKind::OutOfMemory,
            Outcome::TimedOut { .. } => OutcomeKind::TimedOut,
            Outcome::Denied { .. } => OutcomeKind::Denied,
            Outcome::Cancelled => OutcomeKind::Cancelled,
            Outcome::Interrupted => OutcomeKind::Interrupted,
            Outcome::Missed => OutcomeKind::Missed,
            Outcome::Skipped { .. } => OutcomeKind::Skipped,
            Outcome::Invalid { .. } => OutcomeKind::Invalid,
            Outcome::Internal { .. } => OutcomeKind::Internal,
        }
    }

    /// The error text, where the outcome has one.
    pub fn error(&self) -> Option<&str> {
        match self {
            Outcome::Failed { error }
            | Outcome::Trapped { error, .. }
            | Outcome::OutOfFuel { error }
            | Outcome::OutOfMemory { error }
            | Outcome::TimedOut { error }
            | Outcome::Denied { error, .. }
            | Outcome::Invalid { error }
            | Outcome::Internal { error } => Some(error),
            _ => None,
        }
    }
}

impl Outcome {
    /// The texts of a failure: its error, and the lines of its backtrace.
    pub(crate) fn texts_mut(&mut self) -> Vec<&mut String> {
        match self {
            Outcome::Trapped { error, backtrace, .. } => std::iter::once(error).chain(backtrace).collect(),
            Outcome::Failed { error }
            | Outcome::OutOfFuel { error }
            | Outcome::OutOfMemory { error }
            | Outcome::TimedOut { error }
            | Outcome::Invalid { error }
            | Outcome::Internal { error } => vec![error],
            Outcome::Denied { capability, error } => vec![capability, error],
            _ => Vec::new(),
        }
    }
}

/// What one run used, as far as its executor can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Usage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel_used: Option<u64>,
    /// Peak of linear memory summed over all memories, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
}

/// What a run wrote, each stream cut at the job's output limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RunLogs {
    #[serde(default)]
    pub stdout: String,
    #[serde(default)]
    pub stderr: String,
    /// Lines logged through `sandclock:plugin/log`.
    #[serde(default)]
    pub log: Vec<LogLine>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LogLine {
    pub level: LogLevel,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl RunLogs {
    pub fn is_empty(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty() && self.log.is_empty()
    }
}

/// One run, as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[non_exhaustive]
pub struct Run {
    pub id: RunId,
    pub job_id: JobId,
    pub jobstore: Alias,
    pub func: FuncRef,
    /// SHA-256 of the component that ran; absent for native functions and runs that never started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_digest: Option<Arc<str>>,
    /// The fire time that this run stands for.
    pub scheduled_time: DateTime<Utc>,
    /// How many further fire times it stands for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub coalesced: u64,
    /// Who asked for it.
    #[serde(default, alias = "manual", deserialize_with = "origin")]
    pub origin: Origin,
    /// What it calls its function with, where that is not what its job says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Arc<Arguments>>,
    /// It was claimed ahead and starts then; nobody was told of it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<DateTime<Utc>>,
    pub attempt: u32,
    /// In a store that several nodes share: a number that is greater for each later claim of its job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The node that has it; empty while it waits to be claimed by one of several.
    pub node: Arc<str>,
    pub state: RunState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(flatten)]
    pub usage: Usage,
    /// What it reached for beyond computing, at most 64 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<Use>,
    /// Whether stdout or stderr were kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_logs: bool,
}

/// The first stores knew only whether a caller had asked.
fn origin<'de, D: Deserializer<'de>>(from: D) -> Result<Origin, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Manual(bool),
        Origin(Origin),
    }
    Ok(match Form::deserialize(from)? {
        Form::Manual(manual) => {
            if manual {
                Origin::Manual
            } else {
                Origin::Trigger
            }
        }
        Form::Origin(origin) => origin,
    })
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Run {
    /// A run of a job as it is claimed.
    pub(crate) fn claimed(id: RunId, job: &Job, scheduled_time: DateTime<Utc>, node: Arc<str>) -> Self {
        Run {
            id,
            job_id: job.id.clone(),
            jobstore: job.jobstore.clone(),
            func: job.func.clone(),
            plugin_digest: None,
            scheduled_time,
            coalesced: 0,
            origin: Default::default(),
            arguments: None,
            starts: None,
            started: None,
            ended: None,
            attempt: 1,
            epoch: None,
            node,
            state: RunState::Claimed,
            outcome: None,
            usage: Usage::default(),
            uses: Vec::new(),
            has_logs: false,
        }
    }

    /// Ends the run. An ended run keeps its first outcome.
    pub fn end(&mut self, ended: DateTime<Utc>, outcome: Outcome) {
        if self.state != RunState::Ended {
            self.state = RunState::Ended;
            self.ended = Some(ended);
            self.outcome = Some(outcome);
        }
    }

    /// What tells failures of the same kind from others: the class, the frames or, without any, the
    /// error with its numbers left out, and the component. `None` if the run has not failed.
    pub fn fingerprint(&self) -> Option<String> {
        let outcome = self.outcome.as_ref().filter(|outcome| outcome.kind().is_failure())?;
        let mut hash = Sha256::new();
        hash.update(outcome.kind().as_str());
        hash.update(self.plugin_digest.as_deref().unwrap_or(self.func.module.as_str()));
        match outcome {
            Outcome::Trapped { trap, backtrace, .. } if !backtrace.is_empty() => {
                hash.update(trap);
                for frame in backtrace {
                    // How deep a recursion went differs from run to run.
                    hash.update(frame.split(" (").next().unwrap_or(frame));
                    hash.update("\n");
                }
            }
            outcome => {
                let error = outcome.error().unwrap_or_default();
                hash.update(error.replace(|c: char| c.is_ascii_digit(), ""));
            }
        }
        Some(hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Cuts what the guest chose the size of to what may be stored.
    pub fn trim(&mut self) {
        let mut left = USES_BYTES_MAX;
        self.uses.truncate(USES_MAX);
        self.uses.retain(|used| {
            let bytes = used.what.to_string().len();
            let fits = bytes <= left;
            left -= if fits { bytes } else { 0 };
            fits
        });
        match &mut self.outcome {
            Some(Outcome::Trapped { trap, .. }) => cut(trap, NAME_BYTES_MAX),
            Some(Outcome::Denied { capability, .. }) => cut(capability, NAME_BYTES_MAX),
            _ => {}
        }
        if let Some(Outcome::Succeeded { value }) = &mut self.outcome {
            let text = value.to_string();
            if text.len() > OUTPUT_BYTES_MAX {
                let keep = text.floor_char_boundary(OUTPUT_BYTES_MAX / 4);
                *value = serde_json::json!({ "cut": true, "bytes": text.len(), "beginning": text[..keep] });
            }
        }
    }
}

/// `text` cut to `max` bytes at a character boundary, with a mark that says so.
pub fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push_str(" … [cut]");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Pick;
    use crate::trigger::Trigger;

    #[test]
    fn a_record_stays_small_whatever_names_a_guest_reached_for() -> Result<(), crate::Invalid> {
        let job = Job::new("j".parse()?, "m:f".parse()?, Trigger::now());
        let mut run = Run::claimed(RunId(Ulid::nil()), &job, DateTime::UNIX_EPOCH, "n".into());
        let long = |at: usize| Pick::Dir { guest: format!("/{at}{}", "x".repeat(1000)), writable: true };
        run.uses = (0..64).map(|at| Use { what: long(at), denied: true }).collect();
        run.uses.push(Use { what: Pick::State, denied: false });
        run.end(DateTime::UNIX_EPOCH, Outcome::Denied { capability: "c".repeat(5000), error: String::new() });
        run.trim();
        // A block of the history holds 4 KiB.
        assert!(serde_json::to_vec(&run).is_ok_and(|record| record.len() < 2500));
        Ok(())
    }
}
