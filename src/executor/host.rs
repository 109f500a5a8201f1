//! What the executors that run plugins in this process share: from a job to a call in the sandbox.

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::executor::{Began, Report};
use crate::job::{Job, Limits};
use crate::run::{Outcome, Run, RunId};
use crate::sandbox::{Call, Ended, Plugin, Sandbox};
use crate::store::{Claimed, PluginStore};
use crate::trigger::{AskedTrigger, Trigger};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

/// What a function that decides when a job fires may use.
const TRIGGER_LIMITS: Limits =
    Limits { fuel: 50_000_000, memory: 16 << 20, timeout: Duration::from_secs(1), output: 1024 };

/// The sandbox and the plugins that it runs.
#[derive(Clone)]
pub struct PluginHost {
    sandbox: Arc<Sandbox>,
    store: Arc<dyn PluginStore>,
    clock: Arc<dyn Clock>,
    /// Calls that are no runs.
    asides: Arc<Semaphore>,
}

/// Calls beside runs, of triggers and of listeners, that may go on at one time; more wait.
pub const ASIDES_MAX: usize = 8;

/// A call that is ready to be made.
pub struct Ready {
    sandbox: Arc<Sandbox>,
    call: Call,
    claimed: Claimed,
    started: DateTime<Utc>,
    digest: Arc<str>,
}

impl PluginHost {
    pub fn new(sandbox: Arc<Sandbox>, store: Arc<dyn PluginStore>, clock: Arc<dyn Clock>) -> Self {
        PluginHost { sandbox, store, clock, asides: Arc::new(Semaphore::new(ASIDES_MAX)) }
    }

    pub fn shared_clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// A place for a call that is no run, so that the sandbox has room for it.
    pub async fn aside(&self) -> Option<SemaphorePermit<'_>> {
        self.asides.acquire().await.ok()
    }

    /// The component that a job means, loaded.
    async fn plugin(&self, job: &Job) -> Result<Arc<Plugin>> {
        let digest = self.store.resolve(&job.func).await?;
        if let Some(loaded) = self.sandbox.loaded(&digest) {
            return Ok(loaded);
        }
        let bytes = self.store.component(&digest).await?.ok_or_else(|| Error::PluginRefused {
            reason: format!("the component of `{}` is missing or damaged (register it again)", job.func.module),
        })?;
        let sandbox = self.sandbox.clone();
        let load = move || sandbox.load(&digest, &bytes);
        tokio::task::spawn_blocking(load).await.map_err(|e| Error::host("loading a plugin broke off", e))?
    }

    /// The job's function with its arguments.
    pub async fn bind(&self, job: &Job) -> Result<(Arc<Plugin>, Call)> {
        let plugin = self.plugin(job).await?;
        let call = plugin.bind(job)?;
        Ok((plugin, call))
    }

    /// What is needed to start a run now; the report of a run that cannot.
    pub async fn ready(&self, claimed: Claimed) -> std::result::Result<Ready, Box<Report>> {
        match self.bind(&claimed.job).await {
            Ok((plugin, call)) => {
                let (sandbox, digest) = (self.sandbox.clone(), plugin.digest().clone());
                Ok(Ready { sandbox, call, claimed, started: self.clock.now(), digest })
            }
            Err(error) => {
                let outcome = match error {
                    error if error.is_host() => Outcome::Internal { error: error.chain() },
                    error => Outcome::Invalid { error: error.to_string() },
                };
                Err(Box::new(Report::not_started(self.clock.now(), outcome)))
            }
        }
    }

    /// A run from its beginning to its report. `call` makes the call where the executor makes its
    /// calls; its error is the text of an internal failure.
    pub async fn execute<C>(&self, claimed: Claimed, began: Began, call: impl FnOnce(Ready) -> C) -> Report
    where
        C: Future<Output = Result<Ended, String>>,
    {
        let ready = match self.ready(claimed).await {
            Ok(ready) => ready,
            Err(report) => return *report,
        };
        let (started, digest) = (ready.started, ready.digest.clone());
        began.tell(started);
        let ended = call(ready).await;
        let mut report = Report::not_started(self.clock.now(), Outcome::Cancelled);
        (report.started, report.plugin_digest) = (Some(started), Some(digest));
        match ended {
            Ok(ended) => (report.outcome, report.usage, report.logs) = (ended.outcome, ended.usage, ended.logs),
            Err(error) => report.outcome = Outcome::Internal { error },
        }
        report
    }

    /// Asks a function when a job fires next, within narrow limits.
    pub async fn next_fire_time(
        &self,
        trigger: &AskedTrigger,
        previous: Option<DateTime<Utc>>,
        from: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>> {
        let mut job = Job::new("trigger".parse()?, trigger.func.clone(), Trigger::now());
        let previous = previous.map_or(Value::Null, |at| at.timestamp_millis().into());
        job.args = vec![previous, from.timestamp_millis().into(), trigger.parameters.clone().into()];
        job.limits = TRIGGER_LIMITS;
        let (plugin, call) = self.bind(&job).await?;
        let failed = |reason: String| Error::TriggerFailed(format!("`{}` {reason}", trigger.func));
        if !plugin.is_pure() {
            let reason = "is of a plugin with imports, and a trigger has none (see `wit/`, world `trigger`)";
            return Err(failed(reason.into()));
        }
        let _place = self.aside().await;
        let run = Run::claimed(RunId(ulid::Ulid::nil()), &job, from, "local".into());
        let ended = self.sandbox.call(call, &run, &job.limits, from, &CancellationToken::new()).await;
        let milliseconds = match ended.outcome {
            Outcome::Succeeded { value: Value::Null } => return Ok(None),
            Outcome::Succeeded { value } => value.as_i64().ok_or_else(|| failed(format!("answered {value}")))?,
            outcome => {
                return Err(failed(format!("ended as {}: {}", outcome.kind(), outcome.error().unwrap_or_default())));
            }
        };
        let at = DateTime::from_timestamp_millis(milliseconds);
        at.map(Some).ok_or_else(|| failed(format!("answered {milliseconds}, which is no time in milliseconds")))
    }
}

impl Ready {
    /// Makes the call.
    pub async fn run(self, cancel: CancellationToken) -> Ended {
        let Claimed { run, job } = &self.claimed;
        self.sandbox.call(self.call, run, &job.limits, self.started, &cancel).await
    }
}
