//! The `async` executor: sandboxes in this process, on a tokio runtime of their own, so that a busy
//! guest cannot hold up the scheduler.

use super::host::{PAUSES_BEFORE_A_LOOK, PluginHost, Ready};
use super::{Began, Executor, Report};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::run::{Outcome, RunId, RunLogs};
use crate::store::Claimed;
use crate::trigger::AskedTrigger;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// Threads for what blocks: files, and looking up names.
const BLOCKING_THREADS: usize = 64;

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
    plugins: PluginHost,
    slots: usize,
    /// Taken when the executor shuts down: a runtime must not be dropped on a runtime's thread.
    guests: Option<Runtime>,
}

impl AsyncExecutor {
    /// The sandbox must have been made for at least as many runs as there are slots.
    pub fn new(plugins: PluginHost, options: &AsyncOptions) -> Result<Self> {
        let guests = Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("sandclock-guest")
            // Sockets of guests that are granted HTTP.
            .enable_all()
            .event_interval(PAUSES_BEFORE_A_LOOK)
            .build()
            .map_err(|e| Error::host("cannot start the guests' threads", e))?;
        Ok(AsyncExecutor { plugins, slots: options.slots, guests: Some(guests) })
    }

    /// Tasks that live on the guests' threads now: none while no run goes on.
    pub fn tasks(&self) -> usize {
        self.guests.as_ref().map_or(0, |guests| guests.metrics().num_alive_tasks())
    }
}

#[async_trait]
impl Executor for AsyncExecutor {
    fn slots(&self) -> usize {
        self.slots
    }

    async fn check(&self, job: &Job) -> Result<()> {
        self.plugins.check(job).await
    }

    async fn execute(&self, claimed: Claimed, began: Began, cancel: CancellationToken) -> Report {
        let Some(guests) = &self.guests else {
            return Report::not_started(self.plugins.clock().now(), Outcome::Cancelled);
        };
        let call = |ready: Ready| async {
            let ended = guests.spawn(ready.run(cancel)).await;
            ended.map_err(|error| format!("the host panicked: {error}"))
        };
        self.plugins.execute(claimed, began, call).await
    }

    async fn logs_so_far(&self, run: RunId) -> Option<RunLogs> {
        self.plugins.logs_so_far(run).await
    }

    async fn next_fire_time(
        &self,
        trigger: &AskedTrigger,
        previous: Option<DateTime<Utc>>,
        from: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>> {
        self.plugins.next_fire_time(trigger, previous, from, self).await
    }
}

impl Drop for AsyncExecutor {
    fn drop(&mut self) {
        if let Some(guests) = self.guests.take() {
            guests.shutdown_background();
        }
    }
}
