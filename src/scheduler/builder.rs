//! Putting a scheduler together.

use super::Scheduler;
use crate::clock::{Clock, SystemClock};
use crate::error::Result;
use crate::executor::Executor;
use crate::job::Alias;
use crate::store::JobStore;
use std::sync::Arc;

/// What [`Scheduler::builder`] gives: a clock, executors and job stores by alias.
///
/// ```
/// # async fn example() -> sandclock::Result<()> {
/// use sandclock::{Alias, MemoryStore, NativeExecutor, Scheduler, SystemClock};
/// use std::sync::Arc;
///
/// let native = NativeExecutor::new(4, Arc::new(SystemClock)).with("native:f".parse()?, |_| async { Ok(1.into()) });
/// let scheduler = Scheduler::builder()
///     .executor(Alias::default(), native)
///     .jobstore(Alias::default(), MemoryStore::new(Alias::default(), "me"))
///     .build()
///     .await?;
/// scheduler.start().await
/// # }
/// ```
#[must_use]
pub struct SchedulerBuilder {
    clock: Arc<dyn Clock>,
    executors: Vec<(Alias, Arc<dyn Executor>)>,
    stores: Vec<(Alias, Arc<dyn JobStore>)>,
}

impl Scheduler {
    /// Begins a scheduler on the machine's clock.
    pub fn builder() -> SchedulerBuilder {
        SchedulerBuilder { clock: Arc::new(SystemClock), executors: Vec::new(), stores: Vec::new() }
    }
}

impl SchedulerBuilder {
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub fn executor(mut self, alias: Alias, executor: impl Executor + 'static) -> Self {
        self.executors.push((alias, Arc::new(executor)));
        self
    }

    pub fn jobstore(mut self, alias: Alias, store: impl JobStore + 'static) -> Self {
        self.stores.push((alias, Arc::new(store)));
        self
    }

    /// The scheduler, stopped. Errors: `AliasTaken` if an alias was given twice.
    pub async fn build(self) -> Result<Scheduler> {
        let scheduler = Scheduler::new(self.clock);
        for (alias, executor) in self.executors {
            scheduler.add_executor(alias, executor).await?;
        }
        for (alias, store) in self.stores {
            scheduler.add_jobstore(alias, store).await?;
        }
        Ok(scheduler)
    }
}
