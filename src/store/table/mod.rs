//! The jobs of one store as a state machine in memory: what each turn means, without any disk.
//!
//! The memory store and the sled store hold one `Table`; a shared store makes one for each turn. It applies a turn and says in a
//! [`Delta`] what changed; the sled store makes the delta durable before anybody hears of it.

mod ahead;
mod change;
mod claim;
mod jobs;
mod queue;
mod watch;
mod working;

use super::row::Standing;
use super::{Claim, Claimed, Counts, Finished, JobEntry, JobFilter, Reply, Started, TURN_RUNS_MAX, Turn, Turned};
use crate::error::{Error, Result};
use crate::event::{Event, EventKind};
use crate::job::{Alias, Arguments, Job, JobId, JobState, OnInterrupted, PendingRun, RemoveReason, RunningRun, Status};
use crate::run::{Outcome, OutcomeKind, Run, RunId, RunLogs, RunState};
use crate::values::ValueChanges;
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
pub use jobs::Definitions;
use jobs::{Entry, Jobs};
use queue::{Place, Queues};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use ulid::Ulid;
pub use working::Position;

/// Attempts that a run whose process keeps dying gets, however `on_interrupted` is set.
pub const RERUNS_MAX: u32 = 10;
/// Runs that callers may have waiting on one job.
pub const PENDING_MAX: usize = 30;
/// Jobs of one executor that a turn decides about at most, so that a commit stays small.
const VISITS_MAX: usize = 1024;

/// What a turn changed, for a store to keep.
#[derive(Debug, Default)]
pub struct Delta {
    /// Jobs whose state changed or that are gone.
    pub touched: BTreeSet<JobId>,
    /// Of these, the ones whose definition changed too.
    pub defined: BTreeSet<JobId>,
    pub ended: Vec<(Run, RunLogs)>,
    /// Arguments of runs that wait or go on: to be kept, or to be forgotten.
    pub arguments: BTreeMap<RunId, Option<Arc<Arguments>>>,
    /// Changes of jobs' own states, in order; `None` forgets all of one.
    pub values: Vec<(JobId, Option<ValueChanges>)>,
    /// Runs that are as if they had not been claimed.
    pub withdrawn: Vec<RunId>,
    /// Runs that go on elsewhere and that a caller wants to end.
    pub cancelled: Vec<RunId>,
}

pub struct Table {
    alias: Alias,
    node: Arc<str>,
    jobs: Jobs,
    queues: Queues,
    /// When jobs that expect a success will be late.
    alarms: BTreeSet<(DateTime<Utc>, JobId)>,
    /// When jobs that stand somewhere already have a fire time of their own.
    wakes: BTreeSet<(DateTime<Utc>, JobId)>,
    /// Jobs with a run that a caller asked for and that could start.
    manual: BTreeSet<JobId>,
    /// Runs that wait, with their jobs.
    promised: HashMap<RunId, JobId>,
    /// Jobs whose trigger, a plugin, is to be asked.
    unasked: BTreeSet<JobId>,
    live: HashMap<RunId, Run>,
    /// Runs that a store kept as going, until they are adopted.
    restored: Vec<(JobId, RunningRun)>,
    last_seq: u64,
    last_id: Ulid,
    /// What fences the runs that are claimed from now on, in a store that several nodes share.
    epoch: Option<u64>,
    /// Executors that no node has; `None` where there is one node, so that what it lacks nobody has.
    lacking: Option<BTreeSet<Alias>>,
    /// Jobs that others have changed since this node claimed runs of them ahead.
    changed: BTreeSet<JobId>,
    /// How long before its time a run may be claimed, if at all.
    lead: Option<TimeDelta>,
    /// The time of the turn under way.
    now: DateTime<Utc>,
    /// When the watchdog last looked, if there is one.
    watched: Option<DateTime<Utc>>,
    /// The watchdog has looked at the jobs up to this one.
    watch_after: Option<JobId>,
    events: Vec<Event>,
    delta: Delta,
}

impl Table {
    /// An empty table. `entropy` makes run ids differ between tables that start in one millisecond.
    pub fn new(alias: Alias, node: String, entropy: u128) -> Self {
        Table {
            alias,
            node: node.into(),
            jobs: Jobs::default(),
            queues: Queues::default(),
            alarms: BTreeSet::new(),
            wakes: BTreeSet::new(),
            manual: BTreeSet::new(),
            promised: HashMap::new(),
            unasked: BTreeSet::new(),
            live: HashMap::new(),
            restored: Vec::new(),
            last_seq: 0,
            last_id: Ulid::from_parts(0, entropy),
            epoch: None,
            lacking: None,
            changed: BTreeSet::new(),
            lead: None,
            now: DateTime::<Utc>::MIN_UTC,
            watched: Some(DateTime::<Utc>::MIN_UTC),
            watch_after: None,
            events: Vec::new(),
            delta: Delta::default(),
        }
    }

    /// Without the watchdog, which is of no use on a virtual clock.
    pub fn unwatched(self) -> Self {
        Table { watched: None, ..self }
    }

    /// With definitions that stay with the store while jobs only wait, but for some `warm_max`.
    pub fn with_definitions(self, definitions: Definitions, warm_max: usize) -> Self {
        Table { jobs: Jobs::with_definitions(definitions, warm_max), ..self }
    }

    /// Puts back a job that a store kept, in the line of `executor` if it cannot be decoded. To be
    /// followed by one [`Table::adopt`].
    pub fn restore(&mut self, id: JobId, job: Option<Arc<Job>>, state: JobState, executor: Option<Alias>) {
        self.promised.extend(state.pending.iter().map(|run| (run.id, id.clone())));
        if state.question.is_some() {
            self.unasked.insert(id.clone());
        }
        self.restored.extend(state.running.iter().map(|run| (id.clone(), run.clone())));
        let executor = job.as_ref().map(|job| job.executor.clone()).or(executor).unwrap_or_default();
        let entry = Entry { job, state, executor, place: Place::Nowhere, alarm: None, wake: None, waiting: false };
        self.jobs.insert(id.clone(), entry);
        self.reindex(&id);
    }

    /// The same for one that only waits, by its row alone. False if it does more than that.
    pub fn restore_row(&mut self, id: &JobId, row: &[u8], state: &JobState, standing: &Standing) -> bool {
        let JobState { running, pending, question, backfill, .. } = state;
        if !(running.is_empty() && pending.is_empty() && question.is_none() && backfill.is_none()) {
            return false;
        }
        let place =
            self.queues.put(&standing.executor, id, Place::Nowhere, standing.due, (self.now, standing.priority));
        self.alarms.extend(state.expected_by.map(|at| (at, id.clone())));
        self.jobs.insert_row(id.clone(), row, standing.clone(), place, state.expected_by);
        true
    }

    pub fn restore_seq(&mut self, last_seq: u64) {
        self.last_seq = last_seq;
    }

    /// Takes in the runs that a store kept as going: those in `known` go on in this process, the
    /// others end as interrupted. Nothing is known after a process has died; when a store is opened
    /// again in a living one, unknown runs were claimed by a turn whose caller was told that it failed.
    pub fn adopt(&mut self, known: &HashSet<RunId>, now: DateTime<Utc>) -> (Vec<Event>, Delta) {
        for (id, running) in std::mem::take(&mut self.restored) {
            match self.run_of(&id, &running) {
                Some(run) => drop(self.live.insert(run.id, run)),
                None => self.lose(now, &id, &running),
            }
            if !known.contains(&running.id) {
                self.finish(Finished::of(running.id, now, Outcome::Interrupted));
            }
        }
        (std::mem::take(&mut self.events), std::mem::take(&mut self.delta))
    }

    /// Lets go of a run of a job that cannot be decoded: of what it was, only its id is left.
    fn lose(&mut self, now: DateTime<Utc>, id: &JobId, running: &RunningRun) {
        if let Some(entry) = self.jobs.get_mut(id) {
            entry.state.running.retain(|run| run.id != running.id);
        }
        self.delta.touched.insert(id.clone());
        let mut event = told(EventKind::JobInterrupted, now).job(id);
        event.run_id = Some(running.id);
        self.record(event.detail("its job cannot be decoded, so no more than this is known of it"));
        self.leave_if_exhausted(now, id);
    }

    /// A run of a job that is here whole.
    fn run_of(&self, id: &JobId, running: &RunningRun) -> Option<Run> {
        let job = self.jobs.warm(id)?.job.as_ref()?;
        let RunningRun { id, scheduled_time, attempt, origin, coalesced, arguments } = running.clone();
        let run = Run::claimed(id, job, scheduled_time, self.node.clone());
        let (jobstore, epoch) = (self.alias.clone(), self.epoch);
        Some(Run { jobstore, attempt, epoch, origin, coalesced, arguments, ..run })
    }

    /// Applies a turn.
    pub fn turn(&mut self, turn: Turn) -> (Turned, Delta) {
        let Turn { now, started, finished, withdrawn, changes, claim, ahead, mut slots } = turn;
        // Stores keep microseconds; a finer time would not survive a restart.
        let now = now.trunc_subsecs(6);
        self.now = now;
        let mut turned = Turned::default();
        for started in started {
            self.start(&started);
        }
        for finished in finished {
            self.finish(finished);
        }
        for run in withdrawn {
            self.withdraw(now, run);
        }
        for change in changes {
            turned.replies.push(self.change(now, change));
        }
        if claim != Claim::Nothing {
            self.sound_alarms(now);
            self.claim_manual(now, claim, &mut slots, &mut turned);
        }
        match claim {
            Claim::Nothing => {}
            Claim::Manual => {
                let due = |id: &JobId| self.jobs.warm(id).and_then(|entry| entry.state.manual_due());
                let manual = self.manual.iter().filter_map(due).filter(|due| *due > now).min();
                turned.next_due = manual;
            }
            Claim::Due => {
                self.watch(now);
                self.wake(now);
                self.ask(&slots, &mut turned);
                self.claim_due(now, &mut slots, &mut turned);
                if let Some(lead) = self.lead.filter(|_| ahead) {
                    self.claim_ahead(now, now + lead, &mut slots, &mut turned);
                }
                let executors = self.queues.executors();
                let here = |alias: &&Alias| self.lacking.is_none() || slots.contains_key(*alias);
                let free = executors.iter().filter(here).filter(|alias| slots.get(*alias) != Some(&0));
                let wake = self.wakes.first().map(|(at, _)| *at);
                turned.next_due = free.filter_map(|alias| self.queues.next_due(alias, now)).chain(wake).min();
                turned.starved |= executors
                    .iter()
                    .any(|alias| slots.get(alias) == Some(&0) && self.queues.first(alias, now).is_some());
            }
        }
        for id in std::mem::take(&mut self.jobs.broken) {
            self.report_broken(now, &id);
        }
        if claim != Claim::Nothing {
            let alarm = self.alarms.first().map(|(at, _)| *at);
            turned.next_due = [turned.next_due, alarm].into_iter().flatten().min();
        }
        self.recall(&mut turned);
        let delta = std::mem::take(&mut self.delta);
        turned.waiting = self.queues.in_line();
        turned.events = std::mem::take(&mut self.events);
        (turned, delta)
    }

    fn start(&mut self, started: &Started) {
        if let Some(run) = self.live.get_mut(&started.run)
            && run.state == RunState::Claimed
        {
            let submitted = run.starts.take().map(|_| told(EventKind::JobSubmitted, started.at).run(run));
            run.state = RunState::Running;
            run.started = Some(started.at);
            let event = told(EventKind::JobStarted, started.at).run(run);
            submitted.into_iter().chain([event]).for_each(|event| self.record(event));
        }
    }

    fn finish(&mut self, finished: Finished) {
        let Finished { run: id, started, ended, outcome, usage, plugin_digest, logs, uses, values } = finished;
        let ended = ended.trunc_subsecs(6);
        if let Some(at) = started {
            self.start(&Started { run: id, at });
        }
        let Some(mut run) = self.live.remove(&id) else { return };
        if run.starts.take().is_some() {
            self.record(told(EventKind::JobSubmitted, ended).run(&run));
        }
        let kind = outcome.kind();
        run.usage = usage;
        run.plugin_digest = plugin_digest;
        run.uses = uses;
        run.has_logs = !logs.is_empty();
        run.end(ended, outcome);
        run.trim();
        match kind {
            OutcomeKind::Cancelled => {
                self.record(told(EventKind::JobCancelled, ended).run(&run));
            }
            OutcomeKind::Interrupted => {
                self.record(told(EventKind::JobInterrupted, ended).run(&run));
            }
            _ => {}
        }
        let event = if kind == OutcomeKind::Succeeded { EventKind::JobExecuted } else { EventKind::JobError };
        self.record(told(event, ended).run(&run));
        if kind == OutcomeKind::Succeeded && !values.is_empty() && self.contains(&run.job_id) {
            self.delta.values.push((run.job_id.clone(), Some(values)));
        }
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
        if run.arguments.is_some() {
            self.delta.arguments.insert(run.id, None);
        }
        let Some(job) = entry.job.clone() else { return };
        if kind == OutcomeKind::Succeeded {
            entry.state.late = false;
            entry.state.expect_success(&job, now);
        }
        let rerun =
            kind == OutcomeKind::Interrupted && job.on_interrupted == OnInterrupted::Rerun && run.attempt < RERUNS_MAX;
        let delay = if rerun { Some(TimeDelta::zero()) } else { job.retry.delay_after(run.id, run.attempt, kind) };
        entry.state.failures = match kind {
            // Somebody wanted it to end, which says nothing about the job; or it is not over yet.
            OutcomeKind::Cancelled => entry.state.failures,
            _ if delay.is_some() => entry.state.failures,
            kind if kind.is_failure() => entry.state.failures.saturating_add(1),
            _ => 0,
        };
        let room = entry.state.pending.len() < PENDING_MAX;
        if delay.is_some() && !room {
            let event = told(EventKind::JobRetry, now).run(run);
            self.record(event.detail(format!("given up: {PENDING_MAX} attempts of this job wait already")));
        } else if let Some(delay) = delay.filter(|_| entry.state.leaving != Some(RemoveReason::Removed)) {
            let attempt = run.attempt + 1;
            let pending = PendingRun {
                id: retry_id,
                scheduled_time: run.scheduled_time,
                attempt,
                due: now + delay,
                origin: run.origin,
                arguments: run.arguments.clone(),
            };
            let event = told(EventKind::JobRetry, now).run(run);
            self.record(event.detail(format!("attempt {attempt} at {}", pending.due.to_rfc3339())));
            self.promise(id, pending);
        } else if kind == OutcomeKind::Invalid && run.arguments.is_none() {
            let reason = run.outcome.as_ref().and_then(Outcome::error).unwrap_or("it cannot run").to_owned();
            let _ = self.quarantine(now, id, reason);
        }
        if let Some(entry) = self.jobs.get_mut(id)
            && job.pause_after.is_some_and(|after| entry.state.failures >= after)
            && entry.state.status() == Status::Active
        {
            entry.state.paused = true;
            (entry.state.failures, entry.state.expected_by) = (0, None);
            let event = told(EventKind::JobPaused, now).job(id);
            self.record(event.detail("too many runs in a row did not succeed"));
        }
        self.leave_if_exhausted(now, id);
        self.reindex(id);
    }

    /// A job without further fire times is finished, and leaves with its last run.
    fn leave_if_exhausted(&mut self, now: DateTime<Utc>, id: &JobId) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let over = entry.state.next_run_time.is_none() && entry.state.question.is_none();
        if over && entry.state.leaving.is_none() && entry.job.is_some() {
            entry.state.leaving = Some(RemoveReason::Finished);
        }
        let Some(reason) = entry.state.leaving else { return };
        // A quarantined job is kept until its reason is mended, or somebody removes it.
        if entry.state.quarantine.is_some() && reason != RemoveReason::Removed {
            return;
        }
        if entry.state.running.is_empty() && entry.state.pending.is_empty() && entry.state.backfill.is_none() {
            self.forget(id);
            let mut event = told(EventKind::JobRemoved, now).job(id);
            event.reason = Some(reason);
            self.record(event);
        }
    }

    fn forget(&mut self, id: &JobId) {
        self.detach(id);
        self.delta.touched.insert(id.clone());
        self.delta.defined.insert(id.clone());
        // A job that takes its id in the same turn begins without its state.
        self.delta.values.push((id.clone(), None));
    }

    /// Takes a job out of every index.
    fn detach(&mut self, id: &JobId) -> Option<JobState> {
        self.leave_line(id);
        let mut entry = self.jobs.remove(id)?;
        set_time(&mut self.alarms, id, &mut entry.alarm, None);
        set_time(&mut self.wakes, id, &mut entry.wake, None);
        for pending in &entry.state.pending {
            self.promised.remove(&pending.id);
        }
        self.manual.remove(id);
        self.unasked.remove(id);
        Some(entry.state)
    }

    /// Has an attempt wait for its time.
    fn promise(&mut self, id: &JobId, pending: PendingRun) {
        if pending.arguments.is_some() {
            self.delta.arguments.insert(pending.id, pending.arguments.clone());
        }
        self.promised.insert(pending.id, id.clone());
        if let Some(entry) = self.jobs.get_mut(id) {
            entry.state.pending.push(pending);
        }
        self.delta.touched.insert(id.clone());
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

    /// Makes the indexes agree with the job's state.
    fn reindex(&mut self, id: &JobId) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let due = entry.job.as_ref().filter(|_| !entry.waiting).and_then(|job| entry.state.due(job));
        let urgency = (self.now, entry.urgency(self.now));
        entry.place = self.queues.put(&entry.executor, id, entry.place, due, urgency);
        set_time(&mut self.alarms, id, &mut entry.alarm, entry.state.expected_by);
        let fire = entry.job.as_ref().and_then(|job| entry.state.own_fire(job)).filter(|at| *at > self.now);
        let wake = fire.filter(|_| entry.waiting || entry.state.backfill.is_some());
        set_time(&mut self.wakes, id, &mut entry.wake, wake);
        if entry.waiting || !entry.state.has_manual() || entry.state.quarantine.is_some() {
            self.manual.remove(id);
        } else if !self.manual.contains(id) {
            self.manual.insert(id.clone());
        }
    }

    pub fn get(&self, id: &JobId) -> Option<JobEntry> {
        self.jobs.get(id).map(|(job, state)| JobEntry { id: id.clone(), job, state })
    }

    /// Jobs of a filter with an id greater than `after`, by id.
    pub fn entries<'a>(&'a self, after: Option<&str>, filter: &'a JobFilter) -> impl Iterator<Item = JobEntry> + 'a {
        let after = after.and_then(|after| after.parse::<JobId>().ok());
        let jobs = self.jobs.copies(after, |state| filter.matches_state(state));
        let entries = jobs.map(|(id, job, state)| JobEntry { id: id.clone(), job, state });
        entries.filter(|entry| filter.matches(entry))
    }

    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is such a job.
    pub fn contains(&self, id: &JobId) -> bool {
        self.jobs.contains_key(id)
    }

    /// The definition and the row of a job that a turn has touched, for a store that writes them.
    pub fn stored(&self, id: &JobId) -> Option<(Option<&Arc<Job>>, Vec<u8>)> {
        self.jobs.warm(id).map(|entry| (entry.job.as_ref(), entry.row()))
    }

    /// To be called when what the last turn changed is stored.
    pub fn cool(&mut self) {
        self.jobs.cool();
    }

    /// A run that goes on or waits for its time.
    pub fn run(&self, id: RunId) -> Option<Run> {
        self.live.get(&id).cloned().or_else(|| {
            let job = self.promised.get(&id)?;
            let pending = self.jobs.warm(job)?.state.pending.iter().find(|pending| pending.id == id)?;
            self.run_of(job, &pending.clone().into())
        })
    }

    pub fn live(&self) -> &HashMap<RunId, Run> {
        &self.live
    }

    /// What the table knows of the store's counts; how many ended runs are kept, it does not.
    pub fn counts(&self, runs: u64) -> Counts {
        Counts {
            jobs: self.jobs.len() as u64,
            paused: self.jobs.count(Status::Paused),
            quarantined: self.jobs.count(Status::Quarantined),
            running: self.live.len() as u64,
            runs,
            last_event: self.last_seq,
        }
    }
}

/// Moves a job within an index of times; `held` is where it stands there.
fn set_time(
    index: &mut BTreeSet<(DateTime<Utc>, JobId)>,
    id: &JobId,
    held: &mut Option<DateTime<Utc>>,
    new: Option<DateTime<Utc>>,
) {
    if *held != new {
        held.map(|at| index.remove(&(at, id.clone())));
        new.map(|at| index.insert((at, id.clone())));
        *held = new;
    }
}

/// An event of this store, which [`Table::record`] numbers and names.
fn told(kind: EventKind, time: DateTime<Utc>) -> Event {
    Event::new(kind, time, Alias::default())
}
