//! The `process` executor: guests run in worker processes that have locked themselves in, so that even
//! a hole in the engine opens only a room without doors. A worker that dies takes its own runs with it
//! and no other.

mod broker;
mod child;
mod handle;
mod pool;
mod wire;

pub use child::worker;
pub use pool::PoolOptions;

use super::{Began, Executor, PluginHost, Report};
use crate::error::Result;
use crate::job::{Job, Limits};
use crate::run::{Outcome, RunId, RunLogs};
use crate::sandbox::{Ended, Setting};
use crate::store::Claimed;
use crate::trigger::AskedTrigger;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use handle::{Died, Worker};
use pool::{Pool, Wanted};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use wire::CallFrame;

/// How long a worker may take beyond a run's deadline, or its cancellation, before it is killed.
const GRACE: Duration = Duration::from_secs(1);

/// Runs plugins in worker processes.
#[derive(Clone)]
pub struct ProcessExecutor {
    plugins: PluginHost,
    pool: Arc<Pool>,
    slots: usize,
    going: Arc<Going>,
}

/// Where each run goes on.
type Going = Mutex<HashMap<RunId, Whereabouts>>;

/// Where a run goes on, and within which limits.
#[derive(Clone)]
struct Whereabouts {
    worker: Arc<Worker>,
    call: u64,
    limits: Limits,
}

/// Whose fault it is that a worker was killed.
enum Overdue {
    Deadline,
    Cancelled,
}

impl ProcessExecutor {
    /// To be called on a tokio runtime, which the workers' sockets are driven by.
    pub fn new(plugins: PluginHost, slots: usize, options: PoolOptions) -> Result<Self> {
        Ok(ProcessExecutor { plugins, pool: Pool::new(options)?, slots, going: Arc::default() })
    }

    /// The same workers under another name, with slots of its own.
    #[must_use]
    pub fn with_slots(&self, slots: usize) -> Self {
        ProcessExecutor { slots, ..self.clone() }
    }

    /// Workers that live now.
    pub fn workers(&self) -> usize {
        self.pool.len()
    }

    fn going(&self) -> MutexGuard<'_, HashMap<RunId, Whereabouts>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, claimed: Claimed, began: Began, cancel: CancellationToken) -> Result<Report> {
        // A call that reaches its worker in another one does nothing there.
        let term = self.pool.term();
        let Claimed { run, job, values } = claimed;
        let (component, grants) = self.plugins.resolve(&job).await?;
        let given = self.plugins.given(&component, grants, values).await?;
        let wanted =
            Wanted { digest: component.digest.clone(), grants: component.grants.clone(), memory: job.limits.memory };
        let place = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(Report::not_started(self.plugins.clock().now(), Outcome::Cancelled)),
            place = self.pool.place(&wanted, &self.plugins) => place,
        };
        let (worker, waiting) = place?;
        let started = self.plugins.clock().now();
        began.tell(started);
        let base = given.values.clone();
        let id = waiting.id;
        let frame = CallFrame {
            id,
            func: job.func.clone(),
            args: job.args.clone(),
            kwargs: job.kwargs.clone(),
            picks: job.grants.clone(),
            setting: Setting::new(&run, &job, started).in_term(&term).given(given),
        };
        let _place = Place { executor: self, worker: &worker, id, run: run.id };
        if let Err(error) = worker.send(frame) {
            let outcome = Outcome::Internal { error: format!("the call cannot be sent to a worker: {error}") };
            return Ok(self.plugins.report(started, component.digest, Ended::without_a_call(outcome)));
        }
        // After the call is on its way, because a question about it must not overtake it.
        self.going().insert(run.id, Whereabouts { worker: worker.clone(), call: id, limits: job.limits });
        let (answer, overdue) = self.wait(&worker, waiting, job.limits.timeout, &cancel).await;
        let ended = match answer {
            Ok(ended) => ended.checked(&job.limits, &base),
            Err(died) => Ended::without_a_call(lost(&died, overdue, &job)),
        };
        Ok(self.plugins.report(started, component.digest, ended))
    }

    /// Waits for a call's answer. A worker that gives none in time is killed.
    async fn wait(
        &self,
        worker: &Worker,
        waiting: handle::Waiting,
        timeout: Duration,
        cancel: &CancellationToken,
    ) -> (Result<Box<wire::EndedFrame>, Died>, Option<Overdue>) {
        let handle::Waiting { mut answer, id } = waiting;
        let gone = |_| Err(Died { how: "unknown".into(), calls: 1 });
        let overdue = tokio::select! {
            biased;
            ended = &mut answer => return (ended.unwrap_or_else(gone), None),
            () = cancel.cancelled() => {
                worker.cancel(id);
                if let Ok(ended) = tokio::time::timeout(GRACE, &mut answer).await {
                    return (ended.unwrap_or_else(gone), None);
                }
                Overdue::Cancelled
            }
            () = tokio::time::sleep(timeout + GRACE) => Overdue::Deadline,
        };
        worker.kill();
        (answer.await.unwrap_or_else(gone), Some(overdue))
    }
}

/// A call's place in its worker, given back when the run is over or not waited for any more.
struct Place<'a> {
    executor: &'a ProcessExecutor,
    worker: &'a Worker,
    id: u64,
    run: RunId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.executor.going().remove(&self.run);
        // Ended calls are not known any more; of one that was dropped, nobody wants the answer.
        self.worker.cancel_and_release(self.id);
    }
}

/// The outcome of a run whose worker is gone.
fn lost(died: &Died, overdue: Option<Overdue>, job: &Job) -> Outcome {
    match overdue {
        Some(Overdue::Cancelled) => Outcome::Cancelled,
        Some(Overdue::Deadline) => {
            let timeout = crate::trigger::duration_text(job.limits.timeout);
            Outcome::TimedOut { error: format!("it did not stop after {timeout}, so its worker was killed") }
        }
        // It was alone, so it was this one; but what kills by this signal is outside of it.
        None if died.calls <= 1 && died.how != "signal 9" => {
            Outcome::Internal { error: format!("it broke its worker, which died of {}", died.how) }
        }
        None => Outcome::Interrupted,
    }
}

#[async_trait]
impl Executor for ProcessExecutor {
    fn slots(&self) -> usize {
        self.slots
    }

    async fn check(&self, job: &Job) -> Result<()> {
        self.plugins.check(job).await
    }

    async fn execute(&self, claimed: Claimed, began: Began, cancel: CancellationToken) -> Report {
        self.run(claimed, began, cancel).await.unwrap_or_else(|error| self.plugins.cannot(&error))
    }

    async fn logs_so_far(&self, run: RunId) -> Option<RunLogs> {
        let Whereabouts { worker, call, limits } = self.going().get(&run).cloned()?;
        // A worker that does not answer is about to be killed.
        let written = tokio::time::timeout(GRACE, worker.show(call)).await.ok()?.ok()?;
        Some(wire::checked_logs(written, &limits))
    }

    async fn next_fire_time(
        &self,
        trigger: &AskedTrigger,
        previous: Option<DateTime<Utc>>,
        from: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>> {
        self.plugins.next_fire_time(trigger, previous, from, self).await
    }

    async fn shutdown(&self) {
        // Others may share the pool; their runs go on.
        self.pool.retire_idle();
    }
}
