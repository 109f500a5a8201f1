//! The scheduler: the handle with its verbs, and one dispatch loop for each job store.
//!
//! It names neither wasmtime nor any database. What it knows are the traits of floor 1:
//! [`JobStore`], [`Executor`] and [`Clock`].

mod background;
mod builder;
mod bus;
mod dispatch;
mod follow;
mod jobs;
mod listeners;
mod observer;
mod runs;
mod transfer;

pub use background::BackgroundScheduler;
pub use builder::SchedulerBuilder;
pub use bus::{EVENTS_MAX, Heard, ListenerId, Subscription};
pub use dispatch::CHANGES_MAX;
pub use jobs::BACKFILL_MAX;
pub use listeners::{LISTENERS_MAX, Listeners};
pub use observer::{Observed, Observer};
pub use transfer::{ImportOptions, ImportResult, ImportedJob};

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::event::{Event, EventKind, EventMask};
use crate::executor::Executor;
use crate::job::{Alias, JobId};
use crate::store::{Change, Conflict, Counts, JobEntry, JobStore, Reply};
use bus::Bus;
use dispatch::{Dispatcher, Request, Running};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the scheduler is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing starts; jobs can be changed.
    Stopped,
    /// What is due starts.
    Running,
    /// Only runs that a caller asks for start.
    Paused,
}

/// A handle on a scheduler; clones are the same scheduler. Its methods must be called on a tokio
/// runtime; for programs without one there is [`BackgroundScheduler`].
#[derive(Clone)]
pub struct Scheduler(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    phase: watch::Sender<Phase>,
    executors: Mutex<BTreeMap<Alias, ExecutorEntry>>,
    stores: Mutex<BTreeMap<Alias, StoreEntry>>,
    bus: Bus,
    observer: OnceLock<Arc<dyn Observer>>,
    /// Slots were given back by one store's loop that another's may wait for.
    freed: Notify,
    wake: Notify,
}

#[derive(Clone)]
struct ExecutorEntry {
    executor: Arc<dyn Executor>,
    slots: Arc<Semaphore>,
}

struct StoreEntry {
    store: Arc<dyn JobStore>,
    requests: mpsc::Sender<Request>,
    running: Running,
    stop: CancellationToken,
    cancel_all: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Runs that an executor may have at one time, and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Slots {
    pub total: usize,
    pub used: usize,
}

/// How a job is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddOptions {
    pub conflict: Conflict,
    pub paused: bool,
}

impl AddOptions {
    /// Takes the place of a job with the same id; its running runs go on.
    #[must_use]
    pub fn replace_existing(self) -> Self {
        AddOptions { conflict: Conflict::Replace, ..self }
    }

    /// Leaves a job with the same id as it is.
    #[must_use]
    pub fn keep_existing(self) -> Self {
        AddOptions { conflict: Conflict::Keep, ..self }
    }

    #[must_use]
    pub fn paused(self) -> Self {
        AddOptions { paused: true, ..self }
    }
}

/// Whether shutting down waits for runs that go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Waits so long, then cancels them.
    For(Duration),
    /// Cancels them at once.
    Cancel,
}

impl Default for Scheduler {
    fn default() -> Self {
        Scheduler::new(Arc::new(SystemClock))
    }
}

impl Scheduler {
    /// A stopped scheduler without job stores and executors.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Scheduler(Arc::new(Shared {
            clock,
            phase: watch::Sender::new(Phase::Stopped),
            executors: Mutex::default(),
            stores: Mutex::default(),
            bus: Bus::new(),
            observer: OnceLock::new(),
            freed: Notify::new(),
            wake: Notify::new(),
        }))
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Has an observer see each turn from now on. The first one stays.
    pub fn observe(&self, observer: Arc<dyn Observer>) {
        let _ = self.0.observer.set(observer);
    }

    // --- life ---

    /// Starts firing. Jobs that were quarantined are looked at again.
    pub async fn start(&self) -> Result<()> {
        self.enter(Phase::Running).await
    }

    /// Starts without firing: only runs that callers ask for start, until [`Scheduler::resume`].
    pub async fn start_paused(&self) -> Result<()> {
        self.enter(Phase::Paused).await
    }

    async fn enter(&self, phase: Phase) -> Result<()> {
        if self.phase() != Phase::Stopped {
            return Err(Error::AlreadyRunning);
        }
        self.store_event(EventKind::SchedulerStarted, None).await?;
        self.announce().await?;
        self.release_quarantined().await?;
        self.0.phase.send_replace(phase);
        Ok(())
    }

    /// Has whoever shares a store know what can run here: jobs that wait for that would be quarantined again.
    async fn announce(&self) -> Result<()> {
        let able: BTreeSet<Alias> = lock(&self.0.executors)
            .iter()
            .filter(|(_, entry)| entry.executor.slots() > 0)
            .map(|(alias, _)| alias.clone())
            .collect();
        let stores: Vec<_> = self.stores().values().map(|entry| entry.store.clone()).collect();
        for store in stores {
            store.announce(&able).await?;
        }
        Ok(())
    }

    /// Stops firing; runs that go on are untouched.
    pub async fn pause(&self) -> Result<()> {
        self.shift(Phase::Running, Phase::Paused, EventKind::SchedulerPaused).await
    }

    /// Fires again; what was due meanwhile is a misfire question of each job.
    pub async fn resume(&self) -> Result<()> {
        self.shift(Phase::Paused, Phase::Running, EventKind::SchedulerResumed).await
    }

    async fn shift(&self, from: Phase, to: Phase, kind: EventKind) -> Result<()> {
        match self.phase() {
            Phase::Stopped => Err(Error::NotRunning),
            phase if phase == from => {
                self.0.phase.send_replace(to);
                self.record(kind, None).await
            }
            _ => Ok(()),
        }
    }

    /// Has every loop look at its store now.
    pub fn wakeup(&self) {
        self.0.wake.notify_waiters();
    }

    /// Stops claiming, lets runs end as `drain` says, records what became of each, and closes the
    /// stores.
    pub async fn shutdown(&self, drain: Drain) -> Result<()> {
        // Whatever fails on the way, everything is brought to its end.
        let mut first_error = None;
        if self.phase() != Phase::Stopped {
            first_error = self.record(EventKind::SchedulerShutdown, None).await.err();
            self.0.phase.send_replace(Phase::Stopped);
        }
        // The stores stay in their places while runs drain, so that callers can see and cancel them.
        let mut tasks = Vec::new();
        for entry in self.stores().values_mut() {
            entry.stop.cancel();
            tasks.extend(entry.task.take());
        }
        let mut drained = futures::future::join_all(tasks);
        if let Drain::For(grace) = drain
            && tokio::time::timeout(grace, &mut drained).await.is_ok()
        {
            drained = futures::future::join_all(Vec::new());
        }
        for entry in self.stores().values() {
            entry.cancel_all.cancel();
        }
        // A loop ends when its runs have; an executor keeps its promise to return soon.
        drained.await;
        let stores = std::mem::take(&mut *self.stores());
        for (_, mut entry) in stores {
            first_error = first_error.or(entry.finish().await.err());
        }
        let executors = std::mem::take(&mut *lock(&self.0.executors));
        for (_, entry) in executors {
            entry.executor.shutdown().await;
        }
        first_error.map_or(Ok(()), Err)
    }

    // --- executors and job stores ---

    /// Adds an executor under an alias. Jobs that were quarantined for lack of it come back.
    pub async fn add_executor(&self, alias: Alias, executor: Arc<dyn Executor>) -> Result<()> {
        let slots = Arc::new(Semaphore::new(executor.slots()));
        {
            let mut executors = lock(&self.0.executors);
            if executors.contains_key(&alias) {
                return Err(Error::AliasTaken(alias));
            }
            executors.insert(alias.clone(), ExecutorEntry { executor, slots });
        }
        self.record(EventKind::ExecutorAdded, Some(alias.to_string())).await?;
        if self.phase() != Phase::Stopped {
            self.announce().await?;
        }
        self.release_quarantined().await?;
        self.wakeup();
        Ok(())
    }

    /// Removes an executor; runs that go on in it end there. Its jobs are quarantined when due.
    pub async fn remove_executor(&self, alias: &Alias) -> Result<()> {
        self.executor(alias)?;
        lock(&self.0.executors).remove(alias);
        self.record(EventKind::ExecutorRemoved, Some(alias.to_string())).await
    }

    /// The aliases of the job stores.
    pub fn jobstores(&self) -> Vec<Alias> {
        self.stores().keys().cloned().collect()
    }

    /// The slots of each executor, and how many of them have a run.
    pub fn slots(&self) -> BTreeMap<Alias, Slots> {
        let executors = lock(&self.0.executors);
        let total = |entry: &ExecutorEntry| Slots { total: entry.executor.slots(), used: 0 };
        let mut slots: BTreeMap<Alias, Slots> =
            executors.iter().map(|(alias, entry)| (alias.clone(), total(entry))).collect();
        drop(executors);
        for entry in self.stores().values() {
            for going in lock(&entry.running).values() {
                if let Some(slots) = slots.get_mut(&going.alias) {
                    slots.used += 1;
                }
            }
        }
        slots
    }

    /// Adds a job store under an alias and starts its loop.
    pub async fn add_jobstore(&self, alias: Alias, store: Arc<dyn JobStore>) -> Result<()> {
        let (requests, receiver) = mpsc::channel(CHANGES_MAX);
        let (running, stop, cancel_all) = (Running::default(), CancellationToken::new(), CancellationToken::new());
        {
            let mut stores = self.stores();
            if stores.contains_key(&alias) {
                return Err(Error::AliasTaken(alias));
            }
            let dispatcher = Dispatcher {
                alias: alias.clone(),
                store: store.clone(),
                shared: self.0.clone(),
                running: running.clone(),
                stop: stop.clone(),
                cancel_all: cancel_all.clone(),
                held: Default::default(),
            };
            let task = Some(tokio::spawn(dispatcher.run(receiver)));
            stores.insert(alias.clone(), StoreEntry { store, requests, running, stop, cancel_all, task });
        }
        self.record(EventKind::JobstoreAdded, Some(alias.to_string())).await
    }

    /// Removes a job store: its runs are cancelled, it is closed, its jobs stay in it.
    pub async fn remove_jobstore(&self, alias: &Alias) -> Result<()> {
        let entry = self.stores().remove(alias);
        let Some(mut entry) = entry else { return Err(self.no_jobstore(alias)) };
        entry.finish().await?;
        self.record(EventKind::JobstoreRemoved, Some(alias.to_string())).await
    }

    // --- events ---

    /// Calls `listener` for each event of the mask, on a thread of its own, after the commit that the event reports.
    pub fn add_listener(&self, mask: impl Into<EventMask>, listener: impl Fn(&Heard) + Send + 'static) -> ListenerId {
        self.0.bus.listen(mask.into(), listener)
    }

    /// False if there is no such listener.
    pub fn remove_listener(&self, id: ListenerId) -> bool {
        self.0.bus.unlisten(id)
    }

    pub fn subscribe(&self, mask: impl Into<EventMask>) -> Subscription {
        self.0.bus.subscribe(mask.into())
    }

    /// Stored events of one store after a sequence number.
    pub async fn list_events(&self, store: &Alias, since: u64, limit: usize) -> Result<Vec<Event>> {
        self.store(store)?.list_events(since, limit).await
    }

    /// The number of a store's last event.
    pub async fn last_event(&self, store: &Alias) -> Result<u64> {
        self.store(store)?.last_event().await
    }

    pub async fn counts(&self, store: &Alias) -> Result<Counts> {
        self.store(store)?.counts().await
    }

    // --- inside ---

    fn executor(&self, alias: &Alias) -> Result<Arc<dyn Executor>> {
        let executors = lock(&self.0.executors);
        executors
            .get(alias)
            .map(|entry| entry.executor.clone())
            .ok_or_else(|| Error::ExecutorNotFound { alias: alias.clone(), available: names(executors.keys()) })
    }

    fn any_executor(&self) -> Option<Arc<dyn Executor>> {
        lock(&self.0.executors).values().next().map(|entry| entry.executor.clone())
    }

    fn store(&self, alias: &Alias) -> Result<Arc<dyn JobStore>> {
        let found = self.stores().get(alias).map(|entry| entry.store.clone());
        found.ok_or_else(|| self.no_jobstore(alias))
    }

    fn no_jobstore(&self, alias: &Alias) -> Error {
        Error::JobstoreNotFound { alias: alias.clone(), available: names(self.stores().keys()) }
    }

    fn stores(&self) -> std::sync::MutexGuard<'_, BTreeMap<Alias, StoreEntry>> {
        lock(&self.0.stores)
    }

    fn all_stores(&self) -> Vec<Arc<dyn JobStore>> {
        self.stores().values().map(|entry| entry.store.clone()).collect()
    }

    async fn store_of(&self, id: &JobId) -> Result<Alias> {
        let stores: Vec<_> = self.stores().iter().map(|(alias, entry)| (alias.clone(), entry.store.clone())).collect();
        for (alias, store) in stores {
            if store.get_job(id).await?.is_some() {
                return Ok(alias);
            }
        }
        Err(Error::JobNotFound(id.clone()))
    }

    async fn change_job(&self, store: &Alias, change: Change) -> Result<JobEntry> {
        match self.change(store, change).await? {
            Reply::Job(entry) => Ok(*entry),
            Reply::Run(_) | Reply::Done => Err(Error::NotRunning),
        }
    }

    /// Hands a change to the store's loop and waits for its commit.
    async fn change(&self, store: &Alias, change: Change) -> Result<Reply> {
        let requests = self.stores().get(store).map(|entry| entry.requests.clone());
        let requests = requests.ok_or_else(|| self.no_jobstore(store))?;
        let (reply, answer) = oneshot::channel();
        requests.try_send(Request { change, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy { max: CHANGES_MAX },
            mpsc::error::TrySendError::Closed(_) => Error::NotRunning,
        })?;
        answer.await.unwrap_or(Err(Error::NotRunning))
    }

    /// Tells of something about the scheduler as a whole: stored while it runs, so that opening a
    /// store for a moment leaves no trace in it.
    async fn record(&self, kind: EventKind, detail: Option<String>) -> Result<()> {
        if self.phase() != Phase::Stopped {
            return self.store_event(kind, detail).await;
        }
        let mut event = Event::new(kind, self.0.clock.now(), Alias::default());
        event.detail = detail;
        self.0.bus.publish(vec![event]);
        Ok(())
    }

    /// Records an event that is about no run, in the default store or the first there is.
    async fn store_event(&self, kind: EventKind, detail: Option<String>) -> Result<()> {
        let alias = {
            let stores = self.stores();
            let default = Alias::default();
            if stores.contains_key(&default) { Some(default) } else { stores.keys().next().cloned() }
        };
        let mut event = Event::new(kind, self.0.clock.now(), alias.clone().unwrap_or_default());
        event.detail = detail;
        match alias {
            Some(alias) => self.change(&alias, Change::Record { event: Box::new(event) }).await.map(|_| ()),
            None => {
                self.0.bus.publish(vec![event]);
                Ok(())
            }
        }
    }
}

impl StoreEntry {
    /// Ends the loop, cancelling what still runs, and closes the store.
    async fn finish(&mut self) -> Result<()> {
        self.stop.cancel();
        self.cancel_all.cancel();
        if let Some(task) = self.task.take() {
            // The loop ends when its runs have; an executor keeps its promise to return soon.
            let _ = task.await;
        }
        self.store.close().await
    }
}

fn names<'a>(aliases: impl Iterator<Item = &'a Alias>) -> String {
    let names: Vec<String> = aliases.map(|alias| format!("`{alias}`")).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
