//! The scheduler's verbs about jobs. Everything about a job is checked here before a store sees it.

use super::Scheduler;
use super::dispatch::TURN_CHANGES_MAX;
use crate::error::{Error, Result};
use crate::event::{Event, EventKind};
use crate::executor::Executor;
use crate::func::PluginName;
use crate::invalid::Invalid;
use crate::job::{Alias, Arguments, Backfill, Job, JobId, Status};
use crate::plan::count_fire_times;
use crate::run::RunId;
use crate::scheduler::AddOptions;
use crate::store::{Change, JobEntry, JobFilter, JobStore, List, Page, Reply};
use crate::trigger::Trigger;
use crate::values::Values;
use chrono::{DateTime, SubsecRound, Utc};
use futures::future::try_join_all;
use std::sync::Arc;

/// Runs that one backfill may ask for.
pub const BACKFILL_MAX: u64 = 100_000;

impl Scheduler {
    /// Adds a job, checked as a whole first: its own rules, its executor, its function and arguments.
    pub async fn add_job(&self, job: Job, options: AddOptions) -> Result<JobEntry> {
        let first = self.check(&job).await?;
        let store = job.jobstore.clone();
        let AddOptions { paused, conflict } = options;
        let change = Change::Add { job: Box::new(job), paused, conflict, first };
        self.change_job(&store, change).await
    }

    /// Changes a job: all of it is checked, then all of it applies, or nothing. A changed trigger
    /// recomputes the next run time. The id and the job store stay.
    pub async fn modify_job(&self, id: &JobId, change: impl Fn(&mut Job)) -> Result<JobEntry> {
        self.try_modify_job(id, |job| {
            change(job);
            Ok(())
        })
        .await
    }

    /// The same with a change that may be refused; then nothing changes.
    pub async fn try_modify_job(&self, id: &JobId, change: impl Fn(&mut Job) -> Result<()>) -> Result<JobEntry> {
        loop {
            let entry = self.get_job(id).await?;
            let base = entry.job.ok_or_else(|| Error::JobNotFound(id.clone()))?;
            let mut job = (*base).clone();
            change(&mut job)?;
            (job.id, job.jobstore) = (base.id.clone(), base.jobstore.clone());
            let first = self.check(&job).await?;
            let store = base.jobstore.clone();
            match self.change_job(&store, Change::Modify { base, job: Box::new(job), first }).await {
                // Somebody else was faster: apply the change to what is there now.
                Err(Error::JobChanged(_)) => {}
                result => return result,
            }
        }
    }

    /// Gives a job another trigger.
    pub async fn reschedule_job(&self, id: &JobId, trigger: Trigger) -> Result<JobEntry> {
        self.modify_job(id, |job| job.trigger = trigger.clone()).await
    }

    pub async fn pause_job(&self, id: &JobId) -> Result<JobEntry> {
        let store = self.store_of(id).await?;
        self.change_job(&store, Change::Pause { id: id.clone() }).await
    }

    /// Fire times that the pause passed over are recorded as skipped, the next one is ahead.
    pub async fn resume_job(&self, id: &JobId) -> Result<JobEntry> {
        let store = self.store_of(id).await?;
        let entry = self.change_job(&store, Change::Resume { id: id.clone() }).await?;
        match (&entry.state.quarantine, &entry.job) {
            // What it was quarantined for may be mended.
            (Some(_), Some(job)) if self.check_call(job).await.is_ok() => {
                self.change_job(&store, Change::Release { id: id.clone() }).await
            }
            _ => Ok(entry),
        }
    }

    /// No further runs; runs that go on end, and then the job is gone.
    pub async fn remove_job(&self, id: &JobId) -> Result<()> {
        let store = self.store_of(id).await?;
        self.change(&store, Change::Remove { id: id.clone() }).await.map(|_| ())
    }

    /// Removes the jobs that one store has, in turns of some at a time, however many they are. One that
    /// is added meanwhile may stay. After an error some are removed, and it can be called again.
    pub async fn remove_all_jobs(&self, store: &Alias) -> Result<()> {
        let mut page = Page { after: None, limit: TURN_CHANGES_MAX };
        loop {
            let list = self.list_jobs(store, &JobFilter::default(), &page).await?;
            let removals = list.items.into_iter().map(|entry| self.still_there(store, Change::Remove { id: entry.id }));
            try_join_all(removals).await?;
            page.after = list.next;
            if page.after.is_none() {
                break;
            }
        }
        let event = Event::new(EventKind::AllJobsRemoved, self.clock().now(), store.clone());
        self.change(store, Change::Record { event: Box::new(event) }).await.map(drop)
    }

    /// Asks for one run now, whatever the trigger says. It starts when a slot is free and fewer than
    /// `max_instances` runs go on.
    pub async fn run_job(&self, id: &JobId) -> Result<RunId> {
        self.ask_for_run(id, None).await
    }

    /// The same with other arguments, which are checked as the job's own are.
    pub async fn run_job_with(&self, id: &JobId, arguments: Arguments) -> Result<RunId> {
        let job = self.get_job(id).await?.job.ok_or_else(|| Error::JobNotFound(id.clone()))?;
        self.check(&job.with_arguments(&arguments)).await?;
        self.ask_for_run(id, Some(Arc::new(arguments))).await
    }

    async fn ask_for_run(&self, id: &JobId, arguments: Option<Arc<Arguments>>) -> Result<RunId> {
        let store = self.store_of(id).await?;
        match self.change(&store, Change::Run { id: id.clone(), arguments }).await? {
            Reply::Run(run) => Ok(run),
            Reply::Job(_) | Reply::Done => Err(Error::JobNotFound(id.clone())),
        }
    }

    /// Asks for a run for each fire time from `from` to before `to`, which must not lie ahead. They
    /// start one after the other while nothing else of the job is due, up to `max_instances` at a
    /// time, and when no other job waits. Says how many they are.
    pub async fn backfill(&self, id: &JobId, from: DateTime<Utc>, to: DateTime<Utc>) -> Result<u64> {
        crate::trigger::check_instant(from)?;
        crate::trigger::check_instant(to)?;
        let range = Backfill { next: from.trunc_subsecs(6), until: to.trunc_subsecs(6) };
        let bad = |reason: String| Error::Invalid(Invalid::new("backfill", id.as_str(), reason));
        if range.next >= range.until || range.until > self.clock().now() {
            return Err(bad("its range must begin before it ends, and end by now".into()));
        }
        let job = self.get_job(id).await?.job.ok_or_else(|| Error::JobNotFound(id.clone()))?;
        if job.trigger.asked().is_some() {
            return Err(bad("a plugin decides when the job fires, and cannot be asked about the past".into()));
        }
        // A nasty trigger takes its time.
        let count = tokio::task::spawn_blocking(move || count_fire_times(&job, range, BACKFILL_MAX + 1)).await;
        let count = count.map_err(|error| Error::host("counting fire times broke off", error))?;
        match count {
            0 => return Err(bad("the job has no fire time in this range".into())),
            1..=BACKFILL_MAX => {}
            _ => return Err(bad(format!("the range has more than {BACKFILL_MAX} fire times; take a shorter one"))),
        }
        let store = self.store_of(id).await?;
        let range = Some((range.next, range.until));
        self.change_job(&store, Change::Backfill { id: id.clone(), range }).await.map(|_| count)
    }

    /// Ends a backfill; runs of it that go on are left to end.
    pub async fn cancel_backfill(&self, id: &JobId) -> Result<JobEntry> {
        let store = self.store_of(id).await?;
        self.change_job(&store, Change::Backfill { id: id.clone(), range: None }).await
    }

    pub async fn get_job(&self, id: &JobId) -> Result<JobEntry> {
        for store in self.all_stores() {
            if let Some(entry) = store.get_job(id).await? {
                return Ok(entry);
            }
        }
        Err(Error::JobNotFound(id.clone()))
    }

    /// A job's own key-value state.
    pub async fn get_values(&self, id: &JobId) -> Result<Values> {
        for store in self.all_stores() {
            if store.get_job(id).await?.is_some() {
                return store.get_values(id).await;
            }
        }
        Err(Error::JobNotFound(id.clone()))
    }

    /// Forgets a job's own key-value state.
    pub async fn clear_values(&self, id: &JobId) -> Result<JobEntry> {
        let store = self.store_of(id).await?;
        self.change_job(&store, Change::ClearValues { id: id.clone() }).await
    }

    /// Jobs of one store, by id.
    pub async fn list_jobs(&self, store: &Alias, filter: &JobFilter, page: &Page) -> Result<List<JobEntry>> {
        self.store(store)?.list_jobs(filter, page).await
    }
}

impl Scheduler {
    /// Everything about a job that must hold before a store sees it. If a plugin decides when it
    /// fires, the first time that it says.
    pub(super) async fn check(&self, job: &Job) -> Result<Option<DateTime<Utc>>> {
        let executor = self.check_call(job).await?;
        let Some(asked) = job.trigger.asked() else { return Ok(None) };
        if executor.slots() == 0 {
            return Err(Error::RunsNothing);
        }
        let from = job.trigger.ask_from(self.clock().now());
        let next = executor.next_fire_time(asked, None, from).await?;
        let next = next.map(|at| job.trigger.accept(None, from, at).map_err(Error::TriggerFailed)).transpose()?;
        next.flatten().map(Some).ok_or_else(|| Error::NeverFires(job.trigger.to_string()))
    }

    /// The same but for when it fires. Gives the executor that checked it.
    async fn check_call(&self, job: &Job) -> Result<Arc<dyn Executor>> {
        job.validate()?;
        let store = self.store(&job.jobstore)?;
        let executor = match self.executor(&job.executor) {
            // What is a good call here is one there.
            Err(missing) if store.has_executor(&job.executor).await? => self.any_executor().ok_or(missing)?,
            found => found?,
        };
        executor.check(job).await?;
        Ok(executor)
    }
}

/// What a plugin means for the jobs that name it.
impl Scheduler {
    /// A plugin was added or has another current version: jobs that no longer fit it are
    /// quarantined, quarantined ones that fit it come back. Says how many of each.
    pub async fn plugin_added(&self, name: &PluginName, digest: &str) -> Result<(usize, usize)> {
        self.store_event(EventKind::PluginAdded, Some(format!("{name} {digest}"))).await?;
        self.release_mended(&JobFilter { module: Some(name.clone()), ..JobFilter::default() }).await
    }

    pub async fn plugin_removed(&self, name: &PluginName) -> Result<()> {
        self.store_event(EventKind::PluginRemoved, Some(name.to_string())).await
    }

    /// Checks quarantined jobs against their executors again.
    pub(super) async fn release_quarantined(&self) -> Result<()> {
        let filter = JobFilter { state: Some(Status::Quarantined), ..JobFilter::default() };
        self.release_mended(&filter).await.map(drop)
    }

    /// Checks the jobs of a filter against their executors again.
    async fn release_mended(&self, filter: &JobFilter) -> Result<(usize, usize)> {
        let (mut quarantined, mut released) = (0, 0);
        let stores: Vec<(Alias, Arc<dyn JobStore>)> =
            self.stores().iter().map(|(alias, entry)| (alias.clone(), entry.store.clone())).collect();
        for (alias, store) in stores {
            let mut page = Page { after: None, limit: crate::store::PAGE_MAX };
            loop {
                let list = store.list_jobs(filter, &page).await?;
                for entry in list.items {
                    let Some(job) = entry.job else { continue };
                    let was = entry.state.quarantine.is_some();
                    match self.check_call(&job).await {
                        Ok(_) if was => {
                            released += self.still_there(&alias, Change::Release { id: entry.id }).await?;
                        }
                        // Its executor may be back before it is due.
                        Err(Error::ExecutorNotFound { .. }) if !was => {}
                        Err(error) if !was && !error.is_host() => {
                            let reason = error.to_string();
                            quarantined +=
                                self.still_there(&alias, Change::Quarantine { id: entry.id, reason }).await?;
                        }
                        _ => {}
                    }
                }
                page.after = list.next;
                if page.after.is_none() {
                    break;
                }
            }
        }
        Ok((quarantined, released))
    }

    /// Makes a change unless its job has left meanwhile. Says how many jobs that was.
    async fn still_there(&self, store: &Alias, change: Change) -> Result<usize> {
        match self.change(store, change).await {
            Ok(_) => Ok(1),
            Err(Error::JobNotFound(_)) => Ok(0),
            Err(error) => Err(error),
        }
    }
}
