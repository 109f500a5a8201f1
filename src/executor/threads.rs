//! The `threadpool` executor: each slot is a thread of its own, so that a plugin that keeps its thread
//! busy takes nothing from the others but processor time.

use super::host::{PAUSES_BEFORE_A_LOOK, PluginHost, Ready};
use super::{Began, Executor, Report};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::run::{RunId, RunLogs};
use crate::sandbox::Ended;
use crate::store::Claimed;
use crate::trigger::AskedTrigger;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Threads of each slot for what blocks: files, and looking up names.
const BLOCKING_THREADS: usize = 8;

/// Runs plugins in sandboxes inside this process, one to a thread.
pub struct ThreadPoolExecutor {
    plugins: PluginHost,
    slots: usize,
    /// At most as many calls wait here as there are slots, because only claimed runs come.
    calls: Sender<Work>,
}

struct Work {
    ready: Ready,
    cancel: CancellationToken,
    ended: oneshot::Sender<Ended>,
}

impl ThreadPoolExecutor {
    /// Default number of threads.
    pub const SLOTS: usize = 10;

    /// Starts the threads; they end when the executor is dropped and their calls have ended.
    pub fn new(plugins: PluginHost, slots: usize) -> Result<Self> {
        let slots = slots.max(1);
        let (calls, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for at in 0..slots {
            let failed = |e| Error::host("cannot start the threads of an executor", e);
            let runtime = Builder::new_current_thread()
                .enable_all()
                .event_interval(PAUSES_BEFORE_A_LOOK)
                .max_blocking_threads(BLOCKING_THREADS)
                .build()
                .map_err(failed)?;
            let queue = queue.clone();
            let work = move || work(&runtime, &queue);
            std::thread::Builder::new().name(format!("sandclock-pool-{at}")).spawn(work).map_err(failed)?;
        }
        Ok(ThreadPoolExecutor { plugins, slots, calls })
    }
}

fn work(runtime: &Runtime, queue: &Mutex<Receiver<Work>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Work { ready, cancel, ended }) = next else { return };
        let call = std::panic::AssertUnwindSafe(|| runtime.block_on(ready.run(cancel)));
        // After a panic the sender is dropped, which the waiting run hears.
        if let Ok(result) = std::panic::catch_unwind(call) {
            let _ = ended.send(result);
        }
    }
}

#[async_trait]
impl Executor for ThreadPoolExecutor {
    fn slots(&self) -> usize {
        self.slots
    }

    async fn check(&self, job: &Job) -> Result<()> {
        self.plugins.check(job).await
    }

    async fn execute(&self, claimed: Claimed, began: Began, cancel: CancellationToken) -> Report {
        let call = async |ready| {
            let (tell, ended) = oneshot::channel();
            // Without its threads the sender is dropped, as after a panic.
            let _ = self.calls.send(Work { ready, cancel, ended: tell });
            ended.await.map_err(|_| "the host panicked".to_owned())
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
