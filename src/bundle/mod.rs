//! Plugins and jobs as one file: what `export` writes, `import` reads, and `apply` brings about. Data
//! only: nothing in it is run, and what a plugin offers or asks for is found out anew when it comes
//! in.

pub mod apscheduler;
mod desired;

pub use desired::{Action, Change, plan_changes};

use crate::job::Job;
use crate::plugin::Plugin;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const VERSION: u32 = 1;

/// An installation's plugins and jobs. `J` is what a job is read as: a job, or JSON that is looked at
/// one by one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Bundle<J = BundledJob> {
    pub version: u32,
    pub exported: DateTime<Utc>,
    pub plugins: Vec<Plugin>,
    /// Components by digest, in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, String>,
    pub jobs: Vec<J>,
}

/// A job, and what of its state goes with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BundledJob {
    pub job: Job,
    pub paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
    /// Runs that its trigger has started.
    #[serde(default)]
    pub started: u64,
}

impl BundledJob {
    /// The job as it goes on elsewhere: with the runs that its trigger has left. `None` if it has
    /// none, or its one time is past: it may have run.
    pub fn continued(&self, now: DateTime<Utc>) -> Option<Job> {
        let mut job = self.job.clone();
        if let Some(most) = job.trigger.runs_max() {
            let left = most.checked_sub(self.started).filter(|left| *left > 0)?;
            job.trigger = job.trigger.max_runs(left);
        }
        let asked = job.trigger.asked().is_some();
        (asked || job.trigger.next_fire_time(None, now).is_some_and(|next| next >= now)).then_some(job)
    }
}
