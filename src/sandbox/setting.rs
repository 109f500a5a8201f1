//! The circumstances of one call: whose run it is, what it may use, and what it is given.

use super::output::Written;
use crate::grant::{Grants, Pick, SecretName, Use};
use crate::job::{Job, Limits};
use crate::lease::Term;
use crate::run::{Run, RunId, RunLogs, USES_MAX};
use crate::secret::Secret;
use crate::values::Values;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Everything about a call but the function and its arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setting {
    pub job_id: Arc<str>,
    pub run_id: RunId,
    #[serde(with = "chrono::serde::ts_microseconds")]
    pub scheduled_time: DateTime<Utc>,
    pub attempt: u32,
    pub epoch: Option<u64>,
    /// The term of the lease that it belongs to; the one that it begins in, if there is none.
    pub term: Option<i64>,
    #[serde(with = "chrono::serde::ts_microseconds")]
    pub started: DateTime<Utc>,
    pub limits: Limits,
    /// Its clock stands, and its random numbers depend on job and fire time alone.
    pub deterministic: bool,
    pub given: Given,
    /// Shows what it writes while it goes on.
    #[serde(skip)]
    pub live: Live,
}

/// A window onto what a call writes, dark before it begins. Clones are the same.
#[derive(Clone, Default)]
pub struct Live(Arc<OnceLock<Written>>);

impl Live {
    pub(super) fn show(&self, written: Written) {
        let _ = self.0.set(written);
    }

    /// What it has written so far. Each text begins with what it was before.
    pub fn so_far(&self) -> RunLogs {
        self.0.get().map(Written::so_far).unwrap_or_default()
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}

/// What a call may reach beyond computing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Given {
    /// A worker knows its plugin's, so these are not sent to it.
    #[serde(skip)]
    pub grants: Arc<Grants>,
    /// The secrets that are granted and stored.
    pub secrets: BTreeMap<SecretName, Secret>,
    /// The job's own state.
    pub values: Arc<Values>,
    /// What is not granted is denied when it is used, and recorded.
    pub audit: bool,
}

impl Setting {
    /// A call for a run of a job that is given nothing.
    pub fn new(run: &Run, job: &Job, started: DateTime<Utc>) -> Self {
        Setting {
            job_id: run.job_id.as_str().into(),
            run_id: run.id,
            scheduled_time: run.scheduled_time,
            attempt: run.attempt,
            epoch: run.epoch,
            term: None,
            started,
            limits: job.limits,
            deterministic: job.deterministic,
            given: Given::default(),
            live: Live::default(),
        }
    }

    #[must_use]
    pub fn in_term(self, term: &Term) -> Self {
        Setting { term: Some(term.number()), ..self }
    }

    #[must_use]
    pub fn given(self, given: Given) -> Self {
        Setting { given, ..self }
    }

    /// Job, fire time and epoch as one word, if the store is one that several nodes share.
    pub fn fence(&self) -> Option<String> {
        let fire_time = self.scheduled_time.timestamp_micros();
        self.epoch.map(|epoch| format!("{}/{fire_time}/{epoch}", self.job_id))
    }

    /// When the run is ended as timed out.
    pub fn deadline(&self) -> DateTime<Utc> {
        self.started + chrono::TimeDelta::from_std(self.limits.timeout).unwrap_or_default()
    }
}

/// What a run reached for, each thing once.
#[derive(Debug, Clone, Default)]
pub struct Uses(Arc<Mutex<Vec<Use>>>);

impl Uses {
    pub fn record(&self, what: Pick, denied: bool) {
        let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let this = Use { what, denied };
        if uses.len() < USES_MAX && !uses.contains(&this) {
            uses.push(this);
        }
    }

    pub fn take(&self) -> Vec<Use> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
