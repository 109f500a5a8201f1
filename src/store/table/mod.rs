//! The jobs of one store as a state machine in memory: what each turn means, without any disk.
//!
//! Both the memory store and the sled store hold one `Table`. It applies a turn and says in a
//! [`Delta`] what changed; the sled store makes the delta durable before anybody hears of it.

mod change;

use super::{Claim, Claimed, Counts, Finished, JobEntry, Reply, Started, TURN_RUNS_MAX, Turn, Turned};
use crate::error::{Error, Result};
use crate::event::{Event, EventKind};
use crate::job::{Alias, Job, JobId, JobState, OnInterrupted, PendingRun, RemoveReason, RunningRun, Status};
use crate::plan::{FireTimes, plan};
use crate::run::{Outcome, OutcomeKind, Run, RunId, RunLogs, RunState, SkipReason, Usage};
use chrono::{DateTime, SubsecRound, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use ulid::Ulid;

/// Attempts that a run whose process keeps dying gets, however `on_interrupted` is set.
pub const RERUNS_MAX: u32 = 10;
/// Runs that callers may have waiting on one job.
pub const PENDING_MAX: usize = 30;

/// What a turn changed, for a store to keep.
#[derive(Debug, Default)]
pub struct Delta {
    /// Jobs whose state changed or that are gone.
    pub touched: BTreeSet<JobId>,
    /// Of these, the ones whose definition changed too.
    pub defined: BTreeSet<JobId>,
    pub ended: Vec<(Run, RunLogs)>,
}

struct Entry {
    job: Option<Arc<Job>>,
    state: JobState,
    /// Where the job stands in the due index.
    indexed: Option<DateTime<Utc>>,
    /// Due, but nothing can be decided before one of its runs ends.
    waiting: bool,
}

pub struct Table {
    alias: Alias,
    node: Arc<str>,
    jobs: BTreeMap<JobId, Entry>,
    /// By executor: (due, id) of every job that has something due some day.
    due: BTreeMap<Alias, BTreeSet<(DateTime<Utc>, JobId)>>,
    /// Jobs with a run that a caller asked for and that waits.
    manual: BTreeSet<JobId>,
    live: HashMap<RunId, Run>,
    last_seq: u64,
    last_id: Ulid,
    events: Vec<Event>,
    delta: Delta,
}

impl Table {
    /// An empty table. `entropy` makes run ids differ between tables that start in one millisecond.
    pub fn new(alias: Alias, node: String, entropy: u128) -> Self {
        Table {
            alias,
            node: node.into(),
            jobs: BTreeMap::new(),
            due: BTreeMap::new(),
            manual: BTreeSet::new(),
            live: HashMap::new(),
            last_seq: 0,
            last_id: Ulid::from_parts(0, entropy),
            events: Vec::new(),
            delta: Delta::default(),
        }
    }

    /// Puts back a job that a store kept. To be followed by one [`Table::adopt`].
    pub fn restore(&mut self, id: JobId, job: Option<Arc<Job>>, state: JobState) {
        self.jobs.insert(id.clone(), Entry { job, state, indexed: None, waiting: false });
        self.reindex(&id);
    }

    pub fn restore_seq(&mut self, last_seq: u64) {
        self.last_seq = last_seq;
    }

    /// Takes in the runs that a store kept as going: those in `known` go on in this process, the
    /// others end as interrupted. Nothing is known after a process has died; when a store is opened
    /// again in a living one, unknown runs were claimed by a turn whose caller was told that it failed.
    pub fn adopt(&mut self, known: &HashSet<RunId>, now: DateTime<Utc>) -> (Vec<Event>, Delta) {
        let running: Vec<(JobId, RunningRun)> =
            self.jobs.iter().flat_map(|(id, entry)| entry.state.running.iter().map(|run| (id.clone(), *run))).collect();
        for (id, running) in running {
            if let Some(run) = self.run_of(&id, &running) {
                self.live.insert(run.id, run);
            }
            if !known.contains(&running.id) {
                self.finish(Finished {
                    run: running.id,
                    started: None,
                    ended: now,
                    outcome: Outcome::Interrupted,
                    usage: Usage::default(),
                    plugin_digest: None,
                    logs: RunLogs::default(),
                });
            }
        }
        (std::mem::take(&mut self.events), std::mem::take(&mut self.delta))
    }

    fn run_of(&self, id: &JobId, running: &RunningRun) -> Option<Run> {
        let job = self.jobs.get(id)?.job.as_ref()?;
        Some(Run {
            id: running.id,
            job_id: id.clone(),
            jobstore: self.alias.clone(),
            func: job.func.clone(),
            plugin_digest: None,
            scheduled_time: running.scheduled_time,
            coalesced: running.coalesced,
            manual: running.manual,
            started: None,
            ended: None,
            attempt: running.attempt,
            node: self.node.clone(),
            state: RunState::Claimed,
            outcome: None,
            usage: Usage::default(),
            has_logs: false,
        })
    }

    /// Applies a turn.
    pub fn turn(&mut self, turn: Turn) -> (Turned, Delta) {
        let Turn { now, started, finished, changes, claim, mut slots } = turn;
        // Stores keep microseconds; a finer time would not survive a restart.
        let now = now.trunc_subsecs(6);
        let mut turned = Turned::default();
        for started in started {
            self.start(&started);
        }
        for finished in finished {
            self.finish(finished);
        }
        for change in changes {
            turned.replies.push(self.change(now, change));
        }
        if claim != Claim::Nothing {
            let waiting: Vec<JobId> = self.manual.iter().take(TURN_RUNS_MAX).cloned().collect();
            for id in waiting {
                self.claim_pending(now, &id, claim, &mut slots, &mut turned);
            }
        }
        if claim == Claim::Manual {
            let due = |id: &JobId| {
                self.jobs.get(id).filter(|entry| !entry.waiting).and_then(|entry| entry.state.manual_due())
            };
            turned.next_due = self.manual.iter().filter_map(due).filter(|due| *due > now).min();
        }
        if claim == Claim::Due {
            self.claim_due(now, &mut slots, &mut turned);
            turned.next_due = self.next_due(&slots);
            turned.starved |= self
                .due
                .iter()
                .any(|(alias, due)| slots.get(alias) == Some(&0) && due.first().is_some_and(|(at, _)| *at <= now));
        }
        let delta = std::mem::take(&mut self.delta);
        turned.events = std::mem::take(&mut self.events);
        (turned, delta)
    }

    /// The earliest due time in an executor that could take a run.
    fn next_due(&self, slots: &BTreeMap<Alias, usize>) -> Option<DateTime<Utc>> {
        let free = self.due.iter().filter(|(alias, _)| slots.get(*alias) != Some(&0));
        free.filter_map(|(_, due)| due.first().map(|(at, _)| *at)).min()
    }

    fn claim_due(&mut self, now: DateTime<Utc>, slots: &mut BTreeMap<Alias, usize>, turned: &mut Turned) {
        let executors: Vec<Alias> = self.due.keys().cloned().collect();
        for alias in executors {
            while turned.claimed.len() < TURN_RUNS_MAX {
                let first = self.due.get(&alias).and_then(BTreeSet::first).filter(|(at, _)| *at <= now);
                let Some((_, id)) = first.cloned() else { break };
                match slots.get(&alias) {
                    None => {
                        let _ = self.quarantine(now, &id, format!("no executor `{alias}`"));
                        // Whatever its state says, the job does not stand at the front any more.
                        if let Some(entry) = self.jobs.get_mut(&id) {
                            entry.waiting = true;
                        }
                        self.reindex(&id);
                    }
                    Some(0) => break,
                    Some(_) => {
                        self.claim_pending(now, &id, Claim::Due, slots, turned);
                        self.claim_fire_times(now, &id, slots, turned);
                    }
                }
            }
        }
    }

    /// Starts attempts of one job that wait and whose time has come.
    fn claim_pending(
        &mut self,
        now: DateTime<Utc>,
        id: &JobId,
        claim: Claim,
        slots: &mut BTreeMap<Alias, usize>,
        turned: &mut Turned,
    ) {
        loop {
            let Some(entry) = self.jobs.get_mut(id) else { return };
            let (Some(job), status) = (entry.job.clone(), entry.state.status()) else { return };
            let ready = |run: &PendingRun| {
                let wanted = run.manual || (claim == Claim::Due && status != Status::Paused);
                run.due <= now && wanted && status != Status::Quarantined
            };
            let Some(at) = entry.state.pending.iter().position(ready) else { break };
            if entry.state.running.len() >= job.max_instances as usize {
                entry.waiting = true;
                break;
            }
            let Some(slot) = slots.get_mut(&job.executor).filter(|free| **free > 0) else {
                turned.starved = true;
                break;
            };
            *slot -= 1;
            let pending = entry.state.pending.remove(at);
            let times = FireTimes { scheduled_time: pending.scheduled_time, coalesced: 0 };
            self.begin(now, &job, pending.id, times, pending.attempt, pending.manual, turned);
        }
        self.reindex(id);
    }

    fn claim_fire_times(
        &mut self,
        now: DateTime<Utc>,
        id: &JobId,
        slots: &mut BTreeMap<Alias, usize>,
        turned: &mut Turned,
    ) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let Some(job) = entry.job.clone().filter(|_| entry.state.status() == Status::Active) else { return };
        let Some(slot) = slots.get_mut(&job.executor).filter(|free| **free > 0) else { return };
        let plan = plan(&job, &entry.state, now, *slot);
        if plan.wait {
            entry.waiting = true;
            if plan.cancel_oldest {
                turned.cancel.extend(entry.state.running.first().map(|run| run.id));
            }
            return self.reindex(id);
        }
        *slot -= plan.start.len();
        entry.state.next_run_time = plan.next_run_time;
        entry.state.carried = plan.carried;
        entry.state.started += plan.start.len() as u64;
        entry.state.backlog_until = plan.backlog_until;
        self.delta.touched.insert(id.clone());
        for (times, outcome) in plan.skipped {
            self.skip(now, &job, times, outcome);
        }
        for times in plan.start {
            let run = self.next_id(now);
            self.begin(now, &job, run, times, 1, false, turned);
        }
        self.leave_if_exhausted(now, id);
        self.reindex(id);
    }

    /// Records a claimed run.
    #[expect(clippy::too_many_arguments, reason = "the parts of a run that two callers know differently")]
    fn begin(
        &mut self,
        now: DateTime<Utc>,
        job: &Arc<Job>,
        id: RunId,
        times: FireTimes,
        attempt: u32,
        manual: bool,
        turned: &mut Turned,
    ) {
        let FireTimes { scheduled_time, coalesced } = times;
        let running = RunningRun { id, scheduled_time, attempt, manual, coalesced };
        let Some(run) = self.run_of(&job.id, &running) else { return };
        if let Some(entry) = self.jobs.get_mut(&job.id) {
            entry.state.running.push(running);
        }
        self.delta.touched.insert(job.id.clone());
        self.record(Event::new(EventKind::JobSubmitted, now, self.alias.clone()).run(&run));
        self.live.insert(id, run.clone());
        turned.claimed.push(Claimed { run, job: job.clone() });
    }

    /// Records fire times that end without starting.
    fn skip(&mut self, now: DateTime<Utc>, job: &Arc<Job>, times: FireTimes, outcome: Outcome) {
        let id = self.next_id(now);
        let FireTimes { scheduled_time, coalesced } = times;
        let running = RunningRun { id, scheduled_time, attempt: 1, manual: false, coalesced };
        let Some(mut run) = self.run_of(&job.id, &running) else { return };
        let kind = match &outcome {
            Outcome::Missed => EventKind::JobMissed,
            Outcome::Skipped { reason: SkipReason::MaxInstances } => EventKind::JobMaxInstances,
            _ => EventKind::JobSkipped,
        };
        run.end(now, outcome);
        self.record(Event::new(kind, now, self.alias.clone()).run(&run));
        self.delta.ended.push((run, RunLogs::default()));
    }

    fn start(&mut self, started: &Started) {
        if let Some(run) = self.live.get_mut(&started.run)
            && run.state == RunState::Claimed
        {
            run.state = RunState::Running;
            run.started = Some(started.at);
            let event = Event::new(EventKind::JobStarted, started.at, self.alias.clone()).run(run);
            self.record(event);
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { run: id, started, ended, outcome, usage, plugin_digest, logs } = finished;
        if let Some(at) = started {
            self.start(&Started { run: id, at });
        }
        let Some(mut run) = self.live.remove(&id) else { return };
        let kind = outcome.kind();
        run.usage = usage;
        run.plugin_digest = plugin_digest;
        run.has_logs = !logs.is_empty();
        run.end(ended, outcome);
        run.trim();
        match kind {
            OutcomeKind::Cancelled => {
                self.record(Event::new(EventKind::JobCancelled, ended, self.alias.clone()).run(&run));
            }
            OutcomeKind::Interrupted => {
                self.record(Event::new(EventKind::JobInterrupted, ended, self.alias.clone()).run(&run));
            }
            _ => {}
        }
        let event = if kind == OutcomeKind::Succeeded { EventKind::JobExecuted } else { EventKind::JobError };
        self.record(Event::new(event, ended, self.alias.clone()).run(&run));
        self.settle(ended, &run, kind);
        self.delta.ended.push((run, logs));
    }

    /// What the end of a run means for its job.
    fn settle(&mut self, now: DateTime<Utc>, run: &Run, kind: OutcomeKind) {
        let id = &run.job_id;
        let retry_id = self.next_id(now);
        let Some(entry) = self.jobs.get_mut(id) else { return };
        entry.state.running.retain(|running| running.id != run.id);
        entry.waiting = false;
        self.delta.touched.insert(id.clone());
        let Some(job) = entry.job.clone() else { return };
        let rerun =
            kind == OutcomeKind::Interrupted && job.on_interrupted == OnInterrupted::Rerun && run.attempt < RERUNS_MAX;
        let delay = if rerun { Some(chrono::TimeDelta::zero()) } else { job.retry.delay_after(run.attempt, kind) };
        entry.state.failures = match kind {
            // Somebody wanted it to end, which says nothing about the job; or it is not over yet.
            OutcomeKind::Cancelled => entry.state.failures,
            _ if delay.is_some() => entry.state.failures,
            kind if kind.is_failure() => entry.state.failures.saturating_add(1),
            _ => 0,
        };
        let room = entry.state.pending.len() < PENDING_MAX;
        if delay.is_some() && !room {
            let event = Event::new(EventKind::JobRetry, now, self.alias.clone()).run(run);
            self.record(event.detail(format!("given up: {PENDING_MAX} attempts of this job wait already")));
        } else if let Some(delay) = delay.filter(|_| entry.state.leaving != Some(RemoveReason::Removed)) {
            let attempt = run.attempt + 1;
            let pending = PendingRun {
                id: retry_id,
                scheduled_time: run.scheduled_time,
                attempt,
                due: now + delay,
                manual: run.manual,
            };
            entry.state.pending.push(pending);
            let event = Event::new(EventKind::JobRetry, now, self.alias.clone()).run(run);
            self.record(event.detail(format!("attempt {attempt} at {}", pending.due.to_rfc3339())));
        } else if kind == OutcomeKind::Invalid {
            let reason = run.outcome.as_ref().and_then(Outcome::error).unwrap_or("it cannot run").to_owned();
            let _ = self.quarantine(now, id, reason);
        }
        if let Some(entry) = self.jobs.get_mut(id)
            && job.pause_after.is_some_and(|after| entry.state.failures >= after)
            && entry.state.status() == Status::Active
        {
            entry.state.paused = true;
            entry.state.failures = 0;
            let event = Event::new(EventKind::JobPaused, now, self.alias.clone()).job(id);
            self.record(event.detail("too many runs in a row did not succeed"));
        }
        self.leave_if_exhausted(now, id);
        self.reindex(id);
    }

    /// A job without further fire times is finished, and leaves with its last run.
    fn leave_if_exhausted(&mut self, now: DateTime<Utc>, id: &JobId) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        if entry.state.next_run_time.is_none() && entry.state.leaving.is_none() && entry.job.is_some() {
            entry.state.leaving = Some(RemoveReason::Finished);
        }
        let Some(reason) = entry.state.leaving else { return };
        // A quarantined job is kept until its reason is mended, or somebody removes it.
        if entry.state.quarantine.is_some() && reason != RemoveReason::Removed {
            return;
        }
        if entry.state.running.is_empty() && entry.state.pending.is_empty() {
            self.forget(id);
            let mut event = Event::new(EventKind::JobRemoved, now, self.alias.clone()).job(id);
            event.reason = Some(reason);
            self.record(event);
        }
    }

    fn forget(&mut self, id: &JobId) {
        if let Some(entry) = self.jobs.remove(id)
            && let (Some(at), Some(job)) = (entry.indexed, &entry.job)
        {
            self.unindex(&job.executor, at, id);
        }
        self.manual.remove(id);
        self.delta.touched.insert(id.clone());
        self.delta.defined.insert(id.clone());
    }

    fn state(&mut self, id: &JobId) -> Result<&mut JobState> {
        let entry = self.jobs.get_mut(id).ok_or_else(|| Error::JobNotFound(id.clone()))?;
        Ok(&mut entry.state)
    }

    fn reply(&self, id: &JobId) -> Result<Reply> {
        let entry = self.get(id).ok_or_else(|| Error::JobNotFound(id.clone()))?;
        Ok(Reply::Job(Box::new(entry)))
    }

    fn record(&mut self, mut event: Event) {
        self.last_seq += 1;
        event.seq = self.last_seq;
        event.jobstore = self.alias.clone();
        self.events.push(event);
    }

    /// A fresh id, larger than every one before it, whatever the clock does.
    fn next_id(&mut self, now: DateTime<Utc>) -> RunId {
        let fresh = Ulid::from_parts(now.timestamp_millis().max(0) as u64, self.last_id.random());
        let next = self.last_id.increment().unwrap_or(fresh);
        self.last_id = fresh.max(next);
        RunId(self.last_id)
    }

    /// Makes the due index agree with the job's state.
    fn reindex(&mut self, id: &JobId) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let Some(job) = entry.job.clone() else { return };
        let due = if entry.waiting { None } else { entry.state.due(&job) };
        let old = std::mem::replace(&mut entry.indexed, due);
        if !entry.state.pending.iter().any(|run| run.manual) {
            self.manual.remove(id);
        } else if !self.manual.contains(id) {
            self.manual.insert(id.clone());
        }
        if old == due {
            return;
        }
        if let Some(at) = old {
            self.unindex(&job.executor, at, id);
        }
        if let Some(at) = due {
            self.due.entry(job.executor.clone()).or_default().insert((at, id.clone()));
        }
    }

    fn unindex(&mut self, executor: &Alias, at: DateTime<Utc>, id: &JobId) {
        if let Some(due) = self.due.get_mut(executor) {
            due.remove(&(at, id.clone()));
            if due.is_empty() {
                self.due.remove(executor);
            }
        }
    }

    pub fn get(&self, id: &JobId) -> Option<JobEntry> {
        let entry = self.jobs.get(id)?;
        Some(JobEntry { id: id.clone(), job: entry.job.clone(), state: entry.state.clone() })
    }

    /// Jobs with an id greater than `after`, by id.
    pub fn entries(&self, after: Option<&str>) -> impl Iterator<Item = JobEntry> + '_ {
        let after = after.and_then(|after| after.parse::<JobId>().ok());
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.jobs.range((from, std::ops::Bound::Unbounded)).map(|(id, entry)| JobEntry {
            id: id.clone(),
            job: entry.job.clone(),
            state: entry.state.clone(),
        })
    }

    /// The job and state of one id, without copying them: for a store that writes them.
    pub fn stored(&self, id: &JobId) -> Option<(&Option<Arc<Job>>, &JobState)> {
        self.jobs.get(id).map(|entry| (&entry.job, &entry.state))
    }

    /// A run that goes on, or one that was asked for and waits.
    pub fn run(&self, id: RunId) -> Option<Run> {
        self.live.get(&id).cloned().or_else(|| {
            self.manual.iter().find_map(|job| {
                let pending = self.jobs.get(job)?.state.pending.iter().find(|pending| pending.id == id)?;
                self.run_of(job, &(*pending).into())
            })
        })
    }

    pub fn live(&self) -> &HashMap<RunId, Run> {
        &self.live
    }

    /// What the table knows of the store's counts; how many ended runs are kept, it does not.
    pub fn counts(&self, runs: u64) -> Counts {
        let status = |wanted| self.jobs.values().filter(|e| e.state.status() == wanted).count() as u64;
        Counts {
            jobs: self.jobs.len() as u64,
            paused: status(Status::Paused),
            quarantined: status(Status::Quarantined),
            running: self.live.len() as u64,
            runs,
            last_event: self.last_seq,
        }
    }
}
