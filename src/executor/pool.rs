//! The `async` executor: sandboxes in this process, on a tokio runtime of their own, so that a busy
//! guest cannot hold up the scheduler.

use super::{Began, Executor, Report};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::run::Outcome;
use crate::sandbox::{Call, Plugin, Sandbox};
use crate::store::{Claimed, PluginStore};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// How an [`AsyncExecutor`] is made.
#[derive(Debug, Clone)]
pub struct AsyncOptions {
    /// Runs at one time. Default 64.
    pub slots: usize,
    /// Threads that run guests. Default: one for each processor.
    pub threads: usize,
}

impl AsyncOptions {
    pub const SLOTS: usize = 64;
}

impl Default for AsyncOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        AsyncOptions { slots: AsyncOptions::SLOTS, threads }
    }
}

/// Runs plugins in sandboxes inside this process.
pub struct AsyncExecutor {
    sandbox: Arc<Sandbox>,
    plugins: Arc<dyn PluginStore>,
    clock: Arc<dyn Clock>,
    slots: usize,
    /// Taken when the executor shuts down: a runtime must not be dropped on a runtime's thread.
    guests: Option<Runtime>,
}

impl AsyncExecutor {
    /// The sandbox must have been made for at least as many runs as there are slots.
    pub fn new(
        sandbox: Arc<Sandbox>,
        plugins: Arc<dyn PluginStore>,
        clock: Arc<dyn Clock>,
        options: &AsyncOptions,
    ) -> Result<Self> {
        let guests = Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .max_blocking_threads(4)
            .thread_name("sandclock-guest")
            .enable_time()
            .build()
            .map_err(|e| Error::host("cannot start the guests' threads", e))?;
        Ok(AsyncExecutor { sandbox, plugins, clock, slots: options.slots.max(1), guests: Some(guests) })
    }

    /// The component that a job means, loaded.
    async fn plugin(&self, job: &Job) -> Result<Arc<Plugin>> {
        let digest = self.plugins.resolve(&job.func).await?;
        if let Some(loaded) = self.sandbox.loaded(&digest) {
            return Ok(loaded);
        }
        let bytes = self.plugins.component(&digest).await?.ok_or_else(|| Error::PluginRefused {
            reason: format!("the component of `{}` is missing or damaged (register it again)", job.func.module),
        })?;
        let sandbox = self.sandbox.clone();
        let load = move || sandbox.load(&digest, &bytes);
        tokio::task::spawn_blocking(load).await.map_err(|e| Error::host("loading a plugin broke off", e))?
    }

    async fn bind(&self, job: &Job) -> Result<(Arc<Plugin>, Call)> {
        let plugin = self.plugin(job).await?;
        let call = plugin.bind(job)?;
        Ok((plugin, call))
    }
}

#[async_trait]
impl Executor for AsyncExecutor {
    fn slots(&self) -> usize {
        self.slots
    }

    async fn check(&self, job: &Job) -> Result<()> {
        self.bind(job).await.map(|_| ())
    }

    async fn execute(&self, claimed: Claimed, began: Began, cancel: CancellationToken) -> Report {
        let (plugin, call) = match self.bind(&claimed.job).await {
            Ok(bound) => bound,
            Err(error) => {
                let text = error.to_string();
                let outcome = if error.is_host() {
                    Outcome::Internal { error: error.chain() }
                } else {
                    Outcome::Invalid { error: text }
                };
                return Report::not_started(self.clock.now(), outcome);
            }
        };
        let Some(guests) = &self.guests else {
            return Report::not_started(self.clock.now(), Outcome::Cancelled);
        };
        let started = self.clock.now();
        began.tell(started);
        let (sandbox, digest) = (self.sandbox.clone(), plugin.digest().clone());
        let guest = async move { sandbox.call(call, &claimed.run, &claimed.job.limits, started, &cancel).await };
        let ended = guests.spawn(guest).await;
        let mut report = Report::not_started(self.clock.now(), Outcome::Cancelled);
        (report.started, report.plugin_digest) = (Some(started), Some(digest));
        match ended {
            Ok(ended) => (report.outcome, report.usage, report.logs) = (ended.outcome, ended.usage, ended.logs),
            Err(error) => report.outcome = Outcome::Internal { error: format!("the host panicked: {error}") },
        }
        report
    }
}

impl Drop for AsyncExecutor {
    fn drop(&mut self) {
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}
