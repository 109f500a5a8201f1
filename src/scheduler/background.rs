//! The scheduler for programs without a tokio runtime: it owns one.

use super::{AddOptions, Drain, Scheduler};
use crate::error::{Error, Result};
use crate::job::{Job, JobId};
use crate::run::{Run, RunId};
use crate::store::JobEntry;
use std::future::Future;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::runtime::Runtime;

/// A scheduler on threads of its own, with verbs that block. Dropping it cancels what runs.
pub struct BackgroundScheduler {
    runtime: Option<Runtime>,
    scheduler: Scheduler,
    stopped: (SyncSender<()>, Receiver<()>),
}

impl BackgroundScheduler {
    /// Builds and starts a scheduler: `build` adds its stores and executors.
    pub fn start<F>(build: impl FnOnce() -> F) -> Result<Self>
    where
        F: Future<Output = Result<Scheduler>>,
    {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("sandclock").enable_all().build();
        let runtime = runtime.map_err(|e| Error::host("cannot start the scheduler's threads", e))?;
        let scheduler = runtime.block_on(async {
            let scheduler = build().await?;
            scheduler.start().await?;
            Ok::<_, Error>(scheduler)
        })?;
        Ok(BackgroundScheduler { runtime: Some(runtime), scheduler, stopped: sync_channel(1) })
    }

    /// The scheduler itself, for listeners and for code on a runtime.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Runs any of the scheduler's verbs to its end. Not to be called on a runtime's thread.
    pub fn block_on<T>(&self, verb: impl Future<Output = T>) -> T {
        match &self.runtime {
            Some(runtime) => runtime.block_on(verb),
            None => unreachable!("the runtime is taken when the scheduler is dropped"),
        }
    }

    pub fn add_job(&self, job: Job, options: AddOptions) -> Result<JobEntry> {
        self.block_on(self.scheduler.add_job(job, options))
    }

    pub fn get_job(&self, id: &JobId) -> Result<JobEntry> {
        self.block_on(self.scheduler.get_job(id))
    }

    pub fn pause_job(&self, id: &JobId) -> Result<JobEntry> {
        self.block_on(self.scheduler.pause_job(id))
    }

    pub fn resume_job(&self, id: &JobId) -> Result<JobEntry> {
        self.block_on(self.scheduler.resume_job(id))
    }

    pub fn remove_job(&self, id: &JobId) -> Result<()> {
        self.block_on(self.scheduler.remove_job(id))
    }

    pub fn run_job(&self, id: &JobId) -> Result<RunId> {
        self.block_on(self.scheduler.run_job(id))
    }

    pub fn wait_run(&self, id: RunId) -> Result<Run> {
        self.block_on(self.scheduler.wait_run(id))
    }

    pub fn cancel_run(&self, id: RunId) -> Result<()> {
        self.block_on(self.scheduler.cancel_run(id))
    }

    /// Blocks this thread until another calls [`BackgroundScheduler::stop`]'s handle: the blocking
    /// flavour.
    pub fn wait(&self) {
        let _ = self.stopped.1.recv();
    }

    /// A handle that ends [`BackgroundScheduler::wait`] from a signal handler or another thread.
    pub fn stop(&self) -> impl Fn() + Send + 'static {
        let stopped = self.stopped.0.clone();
        move || {
            // Full means that it was told already.
            let _ = stopped.try_send(());
        }
    }

    pub fn shutdown(self, drain: Drain) -> Result<()> {
        self.block_on(self.scheduler.shutdown(drain))
    }
}

impl Drop for BackgroundScheduler {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
