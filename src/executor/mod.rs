//! What runs a run. An executor is given a claimed run and answers with how it ended; it may do so
//! in this process or in another.

mod host;
mod native;
mod pool;
mod process;
mod threads;

pub use host::{ASIDES_MAX, PluginHost};
pub use native::{NativeExecutor, NativeResult};
pub use pool::{AsyncExecutor, AsyncOptions};
pub use process::{PoolOptions, ProcessExecutor, worker};
pub use threads::ThreadPoolExecutor;

use crate::error::{Error, Result};
use crate::grant::Use;
use crate::job::Job;
use crate::run::{Outcome, RunId, RunLogs, Usage};
use crate::store::Claimed;
use crate::trigger::AskedTrigger;
use crate::values::ValueChanges;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How a run ended, as its executor saw it.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// When it began; absent if it never did.
    pub started: Option<DateTime<Utc>>,
    pub ended: DateTime<Utc>,
    pub outcome: Outcome,
    pub usage: Usage,
    pub plugin_digest: Option<Arc<str>>,
    pub logs: RunLogs,
    /// What it reached for beyond computing.
    pub uses: Vec<Use>,
    /// What it changed of its job's state; stored if it succeeded.
    pub values: ValueChanges,
}

impl Report {
    /// The report of a run that never began.
    pub fn not_started(ended: DateTime<Utc>, outcome: Outcome) -> Self {
        Report {
            started: None,
            ended,
            outcome,
            usage: Usage::default(),
            plugin_digest: None,
            logs: RunLogs::default(),
            uses: Vec::new(),
            values: ValueChanges::default(),
        }
    }
}

/// The contract: `execute` never panics for anything that a guest does and always returns, within
/// the job's timeout and a little; when `cancel` is raised it returns soon, with `Cancelled` unless
/// the run had ended by itself. What a guest did wrong is an [`Outcome`], never an error.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Runs that may be claimed for this executor at one time; never changes. One with none only checks
    /// jobs: other nodes run them.
    fn slots(&self) -> usize;

    /// Whether the job's function exists here and its arguments fit. Called when a job is added or
    /// modified, and when a quarantined job is looked at again.
    async fn check(&self, job: &Job) -> Result<()>;

    /// Runs it. `began` is to be called once, when the function is about to be called.
    async fn execute(&self, claimed: Claimed, began: Began, cancel: CancellationToken) -> Report;

    /// What a run that goes on has written so far, if that can be known. Each text begins with what it
    /// was before.
    async fn logs_so_far(&self, run: RunId) -> Option<RunLogs> {
        let _ = run;
        None
    }

    /// When a job fires next, by a function that decides it: the first time after `previous`, at or
    /// after `from`; `None` if there is none. Asked outside of any run and slot, and bounded: it
    /// answers within a second or so. Errors: `TriggerFailed` if the function failed, else as
    /// [`Executor::check`] does.
    async fn next_fire_time(
        &self,
        trigger: &AskedTrigger,
        previous: Option<DateTime<Utc>>,
        from: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>> {
        let _ = (previous, from);
        Err(Error::TriggerFailed(format!("this executor has no triggers, so `{}` is none", trigger.func)))
    }

    /// Lets go of what the executor holds. No run goes on when this is called.
    async fn shutdown(&self) {}
}

/// Tells the scheduler that a run has begun.
pub struct Began(Box<dyn FnOnce(DateTime<Utc>) + Send>);

impl Began {
    pub fn new(tell: impl FnOnce(DateTime<Utc>) + Send + 'static) -> Self {
        Began(Box::new(tell))
    }

    pub fn tell(self, at: DateTime<Utc>) {
        (self.0)(at);
    }
}
