//! What the executors that run plugins share: from a job to a call with what it is given.

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::executor::{Began, Executor, Report};
use crate::grant::Grants;
use crate::job::{Job, Limits};
use crate::run::{Outcome, Run, RunId, RunLogs};
use crate::sandbox::{Call, Ended, Given, Live, Plugin, Sandbox, Setting};
use crate::store::{Claimed, Component, PluginStore, SecretStore};
use crate::trigger::{AskedTrigger, Trigger};
use crate::values::Values;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What a function that decides when a job fires may use.
const TRIGGER_LIMITS: Limits =
    Limits { fuel: 50_000_000, memory: 16 << 20, timeout: Duration::from_secs(1), output: 1024 };

/// Pauses of guests after which a runtime looks at its clock and its sockets. tokio's own number is 61,
/// which is long where a pause is preceded by a dear host call; each look is a system call.
pub const PAUSES_BEFORE_A_LOOK: u32 = 4;

/// The sandbox and the plugins that it runs, with what they are granted.
#[derive(Clone)]
pub struct PluginHost {
    sandbox: Arc<Sandbox>,
    store: Arc<dyn PluginStore>,
    secrets: Arc<dyn SecretStore>,
    clock: Arc<dyn Clock>,
    /// Calls that are no runs.
    asides: Arc<Semaphore>,
    /// The runs that go on in this process.
    live: Arc<Mutex<HashMap<RunId, Live>>>,
}

/// Calls beside runs, of triggers and of listeners, that may go on at one time; more wait.
pub const ASIDES_MAX: usize = 8;

/// A call that is ready to be made.
pub struct Ready {
    sandbox: Arc<Sandbox>,
    call: Call,
    setting: Setting,
    digest: Arc<str>,
}

impl PluginHost {
    pub fn new(
        sandbox: Arc<Sandbox>,
        store: Arc<dyn PluginStore>,
        secrets: Arc<dyn SecretStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        PluginHost {
            sandbox,
            store,
            secrets,
            clock,
            asides: Arc::new(Semaphore::new(ASIDES_MAX)),
            live: Arc::default(),
        }
    }

    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// The component that a job means, and the part of its grants that the job has. Errors: it asks
    /// for more than it is granted, or the job names what is not.
    pub async fn resolve(&self, job: &Job) -> Result<(Component, Arc<Grants>)> {
        let component = self.store.resolve(&job.func).await?;
        let missing = |missing| Error::GrantMissing { plugin: job.func.module.clone(), missing };
        if !component.missing.is_empty() {
            return Err(missing(component.missing));
        }
        let Some(picks) = &job.grants else {
            let grants = component.grants.clone();
            return Ok((component, grants));
        };
        Ok((component.clone(), Arc::new(component.grants.narrowed(picks)?)))
    }

    /// What a run of the job is given.
    pub async fn given(&self, component: &Component, grants: Arc<Grants>, values: Arc<Values>) -> Result<Given> {
        let mut given = Given { values, audit: component.audit, ..Given::default() };
        for secret in &grants.secrets {
            if let Some(value) = self.secrets.secret(&secret.name).await? {
                given.secrets.insert(secret.name.clone(), value);
            }
        }
        given.grants = grants;
        Ok(given)
    }

    /// Compiled code of a component, for another process.
    pub async fn code(&self, digest: &Arc<str>) -> Result<Vec<u8>> {
        let bytes = self.store.required_component(digest).await?;
        let (sandbox, digest) = (self.sandbox.clone(), digest.clone());
        let work = move || sandbox.code(&digest, &bytes);
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::host("compiling a plugin broke off", e))?
    }

    async fn load(&self, digest: &Arc<str>) -> Result<Arc<Plugin>> {
        if let Some(loaded) = self.sandbox.loaded(digest) {
            return Ok(loaded);
        }
        let bytes = self.store.required_component(digest).await?;
        let (sandbox, digest) = (self.sandbox.clone(), digest.clone());
        let work = move || sandbox.load(&digest, &bytes);
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::host("loading a plugin broke off", e))?
    }

    /// Whether the job's function exists, its arguments fit, and its plugin may run.
    pub async fn check(&self, job: &Job) -> Result<()> {
        let (component, _) = self.resolve(job).await?;
        self.load(&component.digest).await?.bind(job).map(|_| ())
    }

    /// What is needed to start a run now.
    async fn ready(&self, claimed: Claimed) -> Result<Ready> {
        let term = self.sandbox.term();
        let Claimed { run, job, values } = claimed;
        let (component, grants) = self.resolve(&job).await?;
        let call = self.load(&component.digest).await?.bind(&job)?;
        let given = self.given(&component, grants, values).await?;
        let setting = Setting::new(&run, &job, self.clock.now()).in_term(&term).given(given);
        Ok(Ready { sandbox: self.sandbox.clone(), call, setting, digest: component.digest })
    }

    /// The report of a run that cannot start.
    pub fn cannot(&self, error: &Error) -> Report {
        let outcome = match error {
            error if error.is_host() => Outcome::Internal { error: error.chain() },
            error => Outcome::Invalid { error: error.to_string() },
        };
        Report::not_started(self.clock.now(), outcome)
    }

    /// The report of a run that was started.
    pub fn report(&self, started: DateTime<Utc>, digest: Arc<str>, ended: Ended) -> Report {
        let Ended { outcome, usage, logs, uses, values } = ended;
        let (started, plugin_digest) = (Some(started), Some(digest));
        Report { started, ended: self.clock.now(), outcome, usage, plugin_digest, logs, uses, values }
    }

    /// A run from its beginning to its report, in this process. `call` makes the call where the
    /// executor makes its calls; its error is the text of an internal failure.
    pub async fn execute<C>(&self, claimed: Claimed, began: Began, call: impl FnOnce(Ready) -> C) -> Report
    where
        C: Future<Output = Result<Ended, String>>,
    {
        let ready = match self.ready(claimed).await {
            Ok(ready) => ready,
            Err(error) => return self.cannot(&error),
        };
        let (started, digest) = (ready.setting.started, ready.digest.clone());
        let _shown = Shown::new(&self.live, &ready.setting);
        began.tell(started);
        let ended = call(ready).await;
        let ended = ended.unwrap_or_else(|error| Ended::without_a_call(Outcome::Internal { error }));
        self.report(started, digest, ended)
    }

    /// What a run that goes on in this process has written.
    pub async fn logs_so_far(&self, run: RunId) -> Option<RunLogs> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner).get(&run).cloned()?;
        // A long text takes its time.
        tokio::task::spawn_blocking(move || live.so_far()).await.ok()
    }

    /// Asks a function when a job fires next, within narrow limits. `executor` runs it as a run.
    pub async fn next_fire_time(
        &self,
        trigger: &AskedTrigger,
        previous: Option<DateTime<Utc>>,
        from: DateTime<Utc>,
        executor: &dyn Executor,
    ) -> Result<Option<DateTime<Utc>>> {
        let mut job = Job::new("trigger".parse()?, trigger.func.clone(), Trigger::now());
        let previous = previous.map_or(Value::Null, |at| at.timestamp_millis().into());
        job.args = vec![previous, from.timestamp_millis().into(), trigger.parameters.clone().into()];
        job.limits = TRIGGER_LIMITS;
        let failed = |reason: String| Error::TriggerFailed(format!("`{}` {reason}", trigger.func));
        if !self.store.resolve(&job.func).await?.pure {
            let reason = "is of a plugin with imports, and a trigger has none (see `wit/`, world `trigger`)";
            return Err(failed(reason.into()));
        }
        self.check(&job).await?;
        // Never closed, so this only waits.
        let _place = self.asides.acquire().await;
        let run = Run::claimed(RunId(ulid::Ulid::nil()), &job, from, "local".into());
        let claimed = Claimed { run, job: job.into(), values: Arc::default() };
        let report = executor.execute(claimed, Began::new(|_| ()), CancellationToken::new()).await;
        let milliseconds = match report.outcome {
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

/// A run among those whose writing can be seen.
struct Shown<'a> {
    live: &'a Mutex<HashMap<RunId, Live>>,
    run: RunId,
}

impl<'a> Shown<'a> {
    fn new(live: &'a Mutex<HashMap<RunId, Live>>, setting: &Setting) -> Self {
        live.lock().unwrap_or_else(PoisonError::into_inner).insert(setting.run_id, setting.live.clone());
        Shown { live, run: setting.run_id }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.run);
    }
}

impl Ready {
    /// Makes the call.
    pub async fn run(self, cancel: CancellationToken) -> Ended {
        self.sandbox.call(self.call, &self.setting, &cancel).await
    }
}
