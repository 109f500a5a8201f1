//! What changes while a job lives: stores keep it apart from the job, because every firing writes it.

use super::Job;
use crate::run::RunId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;

/// Whether a job may fire, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "JobStatus")]
pub enum Status {
    #[default]
    Active,
    Paused,
    /// It cannot run for the reason in [`JobState::quarantine`], and is kept until that is mended.
    Quarantined,
    /// It will never fire again and is removed when its last run has ended.
    Finished,
}

/// Why a finished job leaves, and what its JOB_REMOVED event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemoveReason {
    /// Its trigger has no further fire time.
    Finished,
    /// Somebody asked for it.
    Removed,
}

/// Who asked for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A fire time of the job's trigger.
    #[default]
    Trigger,
    /// A caller, for now.
    Manual,
    /// A caller, for a fire time of a past range.
    Backfill,
}

/// What a run calls its function with, where that is not what its job says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Arguments {
    pub args: Vec<Value>,
    pub kwargs: Map<String, Value>,
}

/// A run that was claimed and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningRun {
    pub id: RunId,
    pub scheduled_time: DateTime<Utc>,
    pub attempt: u32,
    pub origin: Origin,
    /// How many further fire times it stands for.
    pub coalesced: u64,
    /// `None`: the job's own.
    pub arguments: Option<Arc<Arguments>>,
}

/// Fire times that were counted by plans before the one that decides on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Carried {
    /// Past their grace time.
    pub missed: u64,
    pub live: u64,
    /// The oldest one that is not past its grace time.
    pub oldest_live: Option<DateTime<Utc>>,
    pub last_missed: Option<DateTime<Utc>>,
}

/// An attempt that waits for its time: a retry, a rerun, or a run that a caller asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRun {
    pub id: RunId,
    pub scheduled_time: DateTime<Utc>,
    pub attempt: u32,
    pub due: DateTime<Utc>,
    pub origin: Origin,
    pub arguments: Option<Arc<Arguments>>,
}

/// Fire times of a past range that are still to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backfill {
    /// The earliest of them.
    pub next: DateTime<Utc>,
    /// They lie before this.
    pub until: DateTime<Utc>,
}

/// A question to a trigger that is a plugin, which is not answered within a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Its last fire time.
    pub previous: Option<DateTime<Utc>>,
}

/// What changes while a job lives. Stores keep it apart from the job, because every firing writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobState {
    pub paused: bool,
    pub quarantine: Option<String>,
    pub leaving: Option<RemoveReason>,
    /// The earliest fire time that no plan has dealt with, without jitter. Kept while paused, so that
    /// resuming can tell what was passed over.
    pub next_run_time: Option<DateTime<Utc>>,
    /// Fire times of a long backlog that earlier plans have counted and not yet decided on.
    pub carried: Carried,
    /// Fire times up to here were found late together; they wait for a slot instead of being skipped.
    pub backlog_until: Option<DateTime<Utc>>,
    /// Runs that the trigger has started; it may have a greatest number of them.
    pub started: u64,
    /// Runs in a row that did not succeed.
    pub failures: u32,
    pub running: Vec<RunningRun>,
    pub pending: Vec<PendingRun>,
    pub backfill: Option<Backfill>,
    /// The next run time is being asked for.
    pub question: Option<Question>,
    /// A run must have succeeded by then, or the job is late.
    pub expected_by: Option<DateTime<Utc>>,
    /// It was late, and has not succeeded since.
    pub late: bool,
}

impl JobState {
    pub fn status(&self) -> Status {
        if self.quarantine.is_some() {
            Status::Quarantined
        } else if self.leaving.is_some() {
            Status::Finished
        } else if self.paused {
            Status::Paused
        } else {
            Status::Active
        }
    }

    /// When a store should look at this job next: when the run of its next fire time starts, or its
    /// earliest pending attempt, or at once for a backfill. A quarantined job is never due; a paused
    /// one only for what a caller asked for.
    pub fn due(&self, job: &Job) -> Option<DateTime<Utc>> {
        let backfill = self.backfill.filter(|_| self.may_backfill()).map(|backfill| backfill.next);
        [self.own_due(job), backfill].into_iter().flatten().min()
    }

    /// The same without a backfill, which waits for everything else.
    pub fn own_due(&self, job: &Job) -> Option<DateTime<Utc>> {
        let status = self.status();
        let ready = |run: &&PendingRun| match status {
            Status::Active | Status::Finished => true,
            Status::Paused => run.origin != Origin::Trigger,
            Status::Quarantined => false,
        };
        let attempt = self.pending.iter().filter(ready).map(|run| run.due).min();
        [self.own_fire(job), attempt].into_iter().flatten().min()
    }

    /// Arms the dead-man switch from `now` on, unless the job is paused or on its way out.
    pub(crate) fn expect_success(&mut self, job: &Job, now: DateTime<Utc>) {
        let watched = !self.paused && self.leaving.is_none();
        self.expected_by = job.expect.filter(|_| watched).map(|expect| expect.deadline(now));
    }

    /// When the run of the next fire time starts.
    pub(crate) fn own_fire(&self, job: &Job) -> Option<DateTime<Utc>> {
        self.next_run_time.filter(|_| self.status() == Status::Active).map(|at| job.start_time(at))
    }

    /// Whether an active job would never fire: a fault that the watchdog looks for.
    pub(crate) fn lacks_next(&self) -> bool {
        self.status() == Status::Active && self.next_run_time.is_none() && self.question.is_none()
    }

    pub(crate) fn may_backfill(&self) -> bool {
        self.quarantine.is_none() && self.leaving != Some(RemoveReason::Removed)
    }

    /// Whether a caller asked for a run that waits.
    pub(crate) fn has_manual(&self) -> bool {
        self.pending.iter().any(|run| run.origin == Origin::Manual)
    }

    /// When the earliest run that a caller asked for may start.
    pub(crate) fn manual_due(&self) -> Option<DateTime<Utc>> {
        self.pending.iter().filter(|run| run.origin == Origin::Manual).map(|run| run.due).min()
    }
}

impl From<PendingRun> for RunningRun {
    fn from(run: PendingRun) -> Self {
        let PendingRun { id, scheduled_time, attempt, origin, arguments, due: _ } = run;
        RunningRun { id, scheduled_time, attempt, origin, coalesced: 0, arguments }
    }
}
