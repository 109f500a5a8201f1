//! What would run: stored jobs on a virtual clock, decided by the same table and plan that decide in
//! earnest. Nothing is called; a run takes as long as the job's runs have taken.

use crate::job::{Alias, Job, JobId, JobState};
use crate::run::{Outcome, RunId, SkipReason};
use crate::store::{Claim, Finished, Table, Turn};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Doubled civil times that a report lists.
const DOUBLED_MAX: usize = 100;
/// Turns between two tellings of progress.
const TELL_EVERY: u32 = 4096;

/// What to simulate.
#[derive(Debug, Clone)]
pub struct Simulation {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub jobs: Vec<Arc<Job>>,
    /// How long a run of a job takes.
    pub durations: HashMap<JobId, Duration>,
    /// And one of a job that has never run.
    pub unknown: Duration,
    /// Runs at one time, by executor. Jobs of other executors do not run.
    pub slots: BTreeMap<Alias, usize>,
}

/// What would happen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Simulated {
    pub jobs: usize,
    pub runs: u64,
    /// Fire times that another run stands for.
    pub coalesced: u64,
    pub missed: u64,
    pub skipped_max_instances: u64,
    pub skipped_catchup_limit: u64,
    /// Most runs at one time.
    pub busiest: usize,
    pub busiest_at: Option<DateTime<Utc>>,
    /// Runs that waited for a slot or for an earlier run, and the longest wait in seconds.
    pub waited: u64,
    pub longest_wait: f64,
    /// Share of the slots' time that is used, from 0 to 1.
    pub load: f64,
    /// Jobs in trouble first: those with missed and skipped fire times, then by longest wait.
    pub by_job: Vec<SimulatedJob>,
    /// Civil times that came twice because clocks were set back, the first hundred.
    pub doubled: Vec<Doubled>,
    /// Jobs that were not simulated, with the reason.
    pub left_out: BTreeMap<JobId, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SimulatedJob {
    pub id: JobId,
    pub runs: u64,
    pub missed: u64,
    pub skipped: u64,
    /// Seconds.
    pub longest_wait: f64,
    /// Seconds that each run takes.
    pub duration: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Doubled {
    pub job_id: JobId,
    pub first: DateTime<Utc>,
    pub second: DateTime<Utc>,
}

/// The state of a simulation under way.
struct Clockwork<'a> {
    simulation: &'a Simulation,
    table: Table,
    free: BTreeMap<Alias, usize>,
    /// Runs that go on, by their ends.
    ends: BinaryHeap<Reverse<(DateTime<Utc>, RunId)>>,
    executors: HashMap<RunId, Alias>,
    by_job: BTreeMap<JobId, (SimulatedJob, Option<DateTime<Utc>>)>,
    report: Simulated,
    busy: TimeDelta,
}

impl Simulation {
    /// Runs it to its end, telling how much is done from 0 to 1, or until it is told to stop; then
    /// the report is of what was done.
    pub fn run(&self, mut tell: impl FnMut(f64) -> ControlFlow<()>) -> Simulated {
        let mut clockwork = Clockwork::new(self);
        let span = (self.to - self.from).as_seconds_f64().max(1.0);
        let mut now = self.from;
        for turn in 0u32.. {
            if turn % TELL_EVERY == 0 && tell((now - self.from).as_seconds_f64() / span).is_break() {
                break;
            }
            match clockwork.turn(now) {
                // Time goes on, whatever a turn says.
                Some(next) if next < self.to => now = next.max(now + TimeDelta::microseconds(1)),
                _ => break,
            }
        }
        clockwork.report()
    }

    fn duration(&self, id: &JobId) -> Duration {
        self.durations.get(id).copied().unwrap_or(self.unknown)
    }
}

impl<'a> Clockwork<'a> {
    fn new(simulation: &'a Simulation) -> Self {
        let mut table = Table::new(Alias::default(), "simulation".into(), 0).unwatched();
        let mut report = Simulated::default();
        let mut by_job = BTreeMap::new();
        for job in &simulation.jobs {
            let next_run_time = job.trigger.next_fire_time(None, simulation.from).map(|at| at.max(simulation.from));
            let reason = match next_run_time {
                _ if job.trigger.asked().is_some() => "a plugin decides when it fires",
                _ if !simulation.slots.contains_key(&job.executor) => "its executor has no slots here",
                None => "it does not fire any more",
                Some(_) => "",
            };
            if !reason.is_empty() {
                report.left_out.insert(job.id.clone(), reason.to_owned());
                continue;
            }
            let state = JobState { next_run_time, ..JobState::default() };
            table.restore(job.id.clone(), Some(job.clone()), state, None);
            let (id, duration) = (job.id.clone(), simulation.duration(&job.id).as_secs_f64());
            let entry = SimulatedJob { id, runs: 0, missed: 0, skipped: 0, longest_wait: 0.0, duration };
            by_job.insert(job.id.clone(), (entry, None));
        }
        report.jobs = by_job.len();
        let (free, ends, executors) = (simulation.slots.clone(), BinaryHeap::new(), HashMap::new());
        Clockwork { simulation, table, free, ends, executors, by_job, report, busy: TimeDelta::zero() }
    }

    /// Takes one turn; says when the next has something to do.
    fn turn(&mut self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut finished = Vec::new();
        while let Some(Reverse((ended, run))) = self.ends.peek().copied().filter(|Reverse((ended, _))| *ended <= now) {
            self.ends.pop();
            if let Some(free) = self.executors.remove(&run).and_then(|executor| self.free.get_mut(&executor)) {
                *free += 1;
            }
            finished.push(Finished::of(run, ended, Outcome::Succeeded { value: serde_json::Value::Null }));
        }
        let (turned, delta) =
            self.table.turn(Turn { now, finished, claim: Claim::Due, slots: self.free.clone(), ..Turn::default() });
        for (run, _) in &delta.ended {
            if let Some(outcome @ (Outcome::Missed | Outcome::Skipped { .. })) = &run.outcome {
                self.passed_over(&run.job_id, 1 + run.coalesced, outcome);
            }
        }
        for claimed in &turned.claimed {
            let duration = TimeDelta::from_std(self.simulation.duration(&claimed.job.id)).unwrap_or_default();
            self.ends.push(Reverse((now + duration, claimed.run.id)));
            self.executors.insert(claimed.run.id, claimed.job.executor.clone());
            if let Some(free) = self.free.get_mut(&claimed.job.executor) {
                *free = free.saturating_sub(1);
            }
            self.busy += duration;
            self.claimed(now, &claimed.job, claimed.run.scheduled_time, claimed.run.coalesced);
        }
        // Cancelled for the next one.
        for run in turned.cancel {
            self.ends.retain(|Reverse((_, going))| *going != run);
            self.ends.push(Reverse((now, run)));
        }
        if self.ends.len() > self.report.busiest {
            (self.report.busiest, self.report.busiest_at) = (self.ends.len(), Some(now));
        }
        let end = self.ends.peek().map(|Reverse((ended, _))| *ended);
        [end, turned.next_due].into_iter().flatten().min()
    }

    fn claimed(&mut self, now: DateTime<Utc>, job: &Job, scheduled: DateTime<Utc>, coalesced: u64) {
        let Some((entry, last)) = self.by_job.get_mut(&job.id) else { return };
        let wait = (now - job.start_time(scheduled)).as_seconds_f64();
        entry.runs += 1;
        entry.longest_wait = entry.longest_wait.max(wait);
        self.report.runs += 1;
        self.report.coalesced += coalesced;
        self.report.waited += u64::from(wait > 0.0);
        self.report.longest_wait = self.report.longest_wait.max(wait);
        let civil = |at: DateTime<Utc>| job.trigger.zone().civil_seconds(at.timestamp());
        if let Some(first) = last.filter(|last| civil(*last) == civil(scheduled) && *last != scheduled)
            && self.report.doubled.len() < DOUBLED_MAX
        {
            self.report.doubled.push(Doubled { job_id: job.id.clone(), first, second: scheduled });
        }
        *last = Some(scheduled);
    }

    fn passed_over(&mut self, id: &JobId, count: u64, outcome: &Outcome) {
        let Some((entry, _)) = self.by_job.get_mut(id) else { return };
        match outcome {
            Outcome::Missed => {
                entry.missed += count;
                self.report.missed += count;
            }
            Outcome::Skipped { reason: SkipReason::CatchupLimit } => {
                entry.skipped += count;
                self.report.skipped_catchup_limit += count;
            }
            _ => {
                entry.skipped += count;
                self.report.skipped_max_instances += count;
            }
        }
    }

    fn report(mut self) -> Simulated {
        let slots: usize = self.simulation.slots.values().sum();
        let span = (self.simulation.to - self.simulation.from).as_seconds_f64();
        self.report.load = self.busy.as_seconds_f64() / (span * slots as f64).max(1.0);
        self.report.by_job = self.by_job.into_values().map(|(entry, _)| entry).collect();
        let trouble =
            |job: &SimulatedJob| (Reverse(job.missed + job.skipped), Reverse((job.longest_wait * 1e6) as u64));
        self.report.by_job.sort_by_key(trouble);
        self.report
    }
}
