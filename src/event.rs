//! What listeners hear. The codes of the first seventeen events are APScheduler 3's, so that a
//! listener's mask means the same here.

use crate::invalid::Invalid;
use crate::job::{Alias, JobId, RemoveReason};
use crate::run::{Run, RunId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $text:literal;)*) => {
        /// The kind of an event; its code is one bit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl EventKind {
            pub const ALL: &[EventKind] = &[$(EventKind::$name),*];

            /// The event's bit in a mask.
            pub fn code(self) -> u32 {
                match self { $(EventKind::$name => 1 << $bit),* }
            }

            pub fn as_str(self) -> &'static str {
                match self { $(EventKind::$name => $text),* }
            }
        }
    };
}

event_kinds! {
    SchedulerStarted = 0, "SCHEDULER_STARTED";
    SchedulerShutdown = 1, "SCHEDULER_SHUTDOWN";
    SchedulerPaused = 2, "SCHEDULER_PAUSED";
    SchedulerResumed = 3, "SCHEDULER_RESUMED";
    ExecutorAdded = 4, "EXECUTOR_ADDED";
    ExecutorRemoved = 5, "EXECUTOR_REMOVED";
    JobstoreAdded = 6, "JOBSTORE_ADDED";
    JobstoreRemoved = 7, "JOBSTORE_REMOVED";
    AllJobsRemoved = 8, "ALL_JOBS_REMOVED";
    JobAdded = 9, "JOB_ADDED";
    JobRemoved = 10, "JOB_REMOVED";
    JobModified = 11, "JOB_MODIFIED";
    /// A run succeeded.
    JobExecuted = 12, "JOB_EXECUTED";
    /// A run ended without success; its outcome says how.
    JobError = 13, "JOB_ERROR";
    JobMissed = 14, "JOB_MISSED";
    /// A run was claimed.
    JobSubmitted = 15, "JOB_SUBMITTED";
    JobMaxInstances = 16, "JOB_MAX_INSTANCES";
    JobStarted = 17, "JOB_STARTED";
    /// A further attempt was put off to a later time.
    JobRetry = 18, "JOB_RETRY";
    JobCancelled = 19, "JOB_CANCELLED";
    JobPaused = 20, "JOB_PAUSED";
    JobResumed = 21, "JOB_RESUMED";
    JobQuarantined = 22, "JOB_QUARANTINED";
    JobInterrupted = 23, "JOB_INTERRUPTED";
    PluginAdded = 24, "PLUGIN_ADDED";
    PluginRemoved = 25, "PLUGIN_REMOVED";
    StoreError = 26, "STORE_ERROR";
    JobSkipped = 27, "JOB_SKIPPED";
    /// A job did not end well within its expected period.
    JobLate = 28, "JOB_LATE";
    /// A run's end came after its node's lease had run out, and is dropped.
    JobStale = 29, "JOB_STALE";
    /// A node's lease has run out, and others take over what it ran.
    NodeLost = 30, "NODE_LOST";
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which kinds a listener hears: an `or` of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventMask(pub u32);

impl EventMask {
    /// Every event. (APScheduler's own EVENT_ALL, 131071, is the first seventeen.)
    pub const ALL: EventMask = EventMask(u32::MAX);

    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & kind.code() != 0
    }
}

impl From<EventKind> for EventMask {
    fn from(kind: EventKind) -> Self {
        EventMask(kind.code())
    }
}

impl BitOr for EventMask {
    type Output = EventMask;
    fn bitor(self, other: EventMask) -> EventMask {
        EventMask(self.0 | other.0)
    }
}

impl BitOr for EventKind {
    type Output = EventMask;
    fn bitor(self, other: EventKind) -> EventMask {
        EventMask(self.code() | other.code())
    }
}

impl Default for EventMask {
    fn default() -> Self {
        EventMask::ALL
    }
}

/// Names joined by commas, or `ALL`; what reads back as the same mask.
impl fmt::Display for EventMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<&str> =
            EventKind::ALL.iter().filter(|kind| self.contains(**kind)).map(|kind| kind.as_str()).collect();
        match named.len() {
            all if all == EventKind::ALL.len() => f.write_str("ALL"),
            _ => f.write_str(&named.join(",")),
        }
    }
}

impl schemars::JsonSchema for EventMask {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EventMask".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            { "type": "string", "description": "`ALL`, or names joined by commas: `JOB_ERROR,JOB_MISSED`" },
            { "type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32 },
        ] })
    }
}

impl Serialize for EventMask {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// As text, or as the number that APScheduler's users know.
impl<'de> Deserialize<'de> for EventMask {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Bits(u32),
            Text(String),
        }
        match Form::deserialize(from)? {
            Form::Bits(bits) => Ok(EventMask(bits)),
            Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// A number, `ALL`, or names joined by commas: `JOB_ERROR,JOB_MISSED`.
impl FromStr for EventMask {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Ok(bits) = text.parse() {
            return Ok(EventMask(bits));
        }
        if text.eq_ignore_ascii_case("all") {
            return Ok(EventMask::ALL);
        }
        text.split(',').try_fold(EventMask(0), |mask, name| {
            let name = name.trim();
            EventKind::ALL
                .iter()
                .find(|kind| kind.as_str().eq_ignore_ascii_case(name))
                .map(|kind| mask | (*kind).into())
                .ok_or_else(|| {
                    Invalid::new("event mask", text, format!("there is no event `{name}`"))
                        .hint("names such as `JOB_ERROR,JOB_MISSED`, a number, or `ALL`")
                })
        })
    }
}

/// One thing that happened. Fields that do not apply are absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[non_exhaustive]
pub struct Event {
    /// Increasing within its job store, from 1.
    pub seq: u64,
    pub time: DateTime<Utc>,
    pub kind: EventKind,
    pub jobstore: Alias,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// The run as it stood when the event was recorded; with ended runs, its outcome too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Box<Run>>,
    /// With JOB_REMOVED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<RemoveReason>,
    /// The alias, plugin, or explanation that the event is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Event {
    /// An event about no job in particular; the store that records it sets `seq`.
    pub fn new(kind: EventKind, time: DateTime<Utc>, jobstore: Alias) -> Self {
        Event { seq: 0, time, kind, jobstore, job_id: None, run_id: None, run: None, reason: None, detail: None }
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn job(mut self, id: &JobId) -> Self {
        self.job_id = Some(id.clone());
        self
    }

    #[must_use]
    pub fn run(mut self, run: &Run) -> Self {
        self.job_id = Some(run.job_id.clone());
        self.run_id = Some(run.id);
        self.run = Some(Box::new(run.clone()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_apschedulers() {
        assert_eq!(EventKind::SchedulerStarted.code(), 1);
        assert_eq!(EventKind::JobAdded.code(), 512);
        assert_eq!(EventKind::JobExecuted.code(), 4096);
        assert_eq!(EventKind::JobError.code(), 8192);
        assert_eq!(EventKind::JobMaxInstances.code(), 65536);
        let first_seventeen: u32 = EventKind::ALL[..17].iter().map(|kind| kind.code()).sum();
        assert_eq!(first_seventeen, 131_071);
        assert_eq!(EventKind::JobLate.code(), 1 << 28);
    }

    #[test]
    fn a_mask_is_numbers_or_names() {
        assert_eq!("12288".parse::<EventMask>().unwrap(), EventKind::JobExecuted | EventKind::JobError);
        assert_eq!("job_executed, JOB_ERROR".parse::<EventMask>().unwrap().0, 12288);
        assert!("JOB_EROR".parse::<EventMask>().unwrap_err().to_string().contains("JOB_EROR"));
        assert!("all".parse::<EventMask>().unwrap().contains(EventKind::JobLate));
    }
}
