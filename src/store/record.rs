//! The forms in which stores keep definitions and events.

use crate::error::{Error, Result};
use crate::event::{Event, EventKind};
use crate::job::{Alias, Job, JobId, RemoveReason};
use crate::run::{Run, RunId, RunState, Usage};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A job's definition.
#[derive(Serialize, Deserialize)]
struct StoredJob<J> {
    v: u32,
    job: J,
}

const JOB_VERSION: u32 = 1;
/// Longest detail of an event that is kept, in characters.
const DETAIL_CHARS_MAX: usize = 512;

/// A definition without what is at its default, which is most of it.
pub fn encode_job(job: &Job) -> Result<Vec<u8>> {
    let failed = |e| Error::host("cannot encode a job", e);
    let default = Job::new(job.id.clone(), job.func.clone(), job.trigger.clone());
    let default = serde_json::to_value(default).map_err(failed)?;
    let mut stored = serde_json::to_value(job).map_err(failed)?;
    if let Some(fields) = stored.as_object_mut() {
        let own = |name: &str| matches!(name, "id" | "func" | "trigger");
        fields.retain(|name, value| own(name) || default[name] != *value);
    }
    serde_json::to_vec(&StoredJob { v: JOB_VERSION, job: stored }).map_err(failed)
}

/// The job of a definition, or why there is none.
pub fn decode_job(bytes: &[u8]) -> Result<Arc<Job>, String> {
    match serde_json::from_slice::<StoredJob<Job>>(bytes) {
        Ok(StoredJob { v: JOB_VERSION, mut job }) => {
            if job.name.is_empty() {
                job.name = job.func.to_string();
            }
            Ok(Arc::new(job))
        }
        Ok(stored) => Err(format!("its definition has version {}", stored.v)),
        Err(error) => Err(format!("its definition cannot be decoded: {error}")),
    }
}

/// An event: what its run says is read from the run.
#[derive(Serialize, Deserialize)]
pub struct StoredEvent {
    #[serde(rename = "k")]
    kind: EventKind,
    #[serde(rename = "t")]
    micros: i64,
    #[serde(rename = "j", default, skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    run_id: Option<RunId>,
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    reason: Option<RemoveReason>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl From<&Event> for StoredEvent {
    fn from(event: &Event) -> Self {
        StoredEvent {
            kind: event.kind,
            micros: event.time.timestamp_micros(),
            job_id: event.job_id.clone(),
            run_id: event.run_id,
            reason: event.reason,
            detail: event.detail.as_ref().map(|text| text.chars().take(DETAIL_CHARS_MAX).collect()),
        }
    }
}

impl StoredEvent {
    /// The event without its run; `None` if its time cannot be.
    pub fn into_event(self, seq: u64, jobstore: &Alias) -> Option<Event> {
        let StoredEvent { kind, micros, job_id, run_id, reason, detail } = self;
        let event = Event::new(kind, DateTime::from_timestamp_micros(micros)?, jobstore.clone());
        Some(Event { seq, job_id, run_id, reason, detail, ..event })
    }
}

/// The run as it stood when an event of this kind was recorded.
pub fn as_of(kind: EventKind, mut run: Run) -> Run {
    let state = match kind {
        EventKind::JobSubmitted => RunState::Claimed,
        EventKind::JobStarted => RunState::Running,
        _ => return run,
    };
    if state == RunState::Claimed {
        run.started = None;
    }
    run.state = state;
    (run.ended, run.outcome, run.plugin_digest) = (None, None, None);
    (run.usage, run.uses, run.has_logs) = (Usage::default(), Vec::new(), false);
    run
}
