//! The reference: a ledger of what must be true whatever a store does inside.
//!
//! It books, from events and claims alone, every fire time that a job's trigger has had and what it
//! became. Whoever claims a fire time twice, forgets one, or tells things out of order, is found.

use chrono::{DateTime, Utc};
use sandclock::store::{Change, Reply, Turn, Turned};
use sandclock::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A job between two changes of its trigger.
struct Life {
    job: Job,
    /// Fire times booked: by a run or a record of one, which may stand for more.
    booked: BTreeMap<DateTime<Utc>, u64>,
    first: Option<DateTime<Utc>>,
    gone: bool,
}

struct Known {
    job: JobId,
    life: usize,
    max_instances: u32,
    scheduled: DateTime<Utc>,
    attempt: u32,
    origin: Origin,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stage {
    Submitted,
    Started,
    Ended,
}

#[derive(Default)]
pub struct Ledger {
    seq: u64,
    lives: Vec<Life>,
    /// The life that a job has now.
    now: HashMap<JobId, usize>,
    runs: BTreeMap<usize, Known>,
    /// Runs that a caller was promised, and those of them that came or were cancelled.
    promised: BTreeSet<usize>,
    kept: BTreeSet<usize>,
    /// Attempts that failed runs were promised: (life, scheduled time, attempt).
    retries: Vec<(usize, DateTime<Utc>, u32)>,
    changing: Option<Changing>,
    /// Fire times that the backfill of a job has run.
    backfilled: HashMap<JobId, BTreeSet<DateTime<Utc>>>,
    /// The furthest that the clock has been; it steps back too.
    latest: DateTime<Utc>,
}

/// What the change of the turn under way would do.
enum Changing {
    Define(Box<Job>),
    Other,
}

impl Ledger {
    /// Runs that go on, by number.
    pub fn live(&self) -> Vec<usize> {
        self.runs.iter().filter(|(_, run)| run.stage != Stage::Ended).map(|(number, _)| *number).collect()
    }

    /// The same, in the order in which a store that is opened finds them.
    pub fn live_by_job(&self) -> Vec<usize> {
        let mut live = self.live();
        live.sort_by_key(|run| (self.runs[run].job.clone(), *run));
        live
    }

    pub fn a_waiting_run(&self) -> Option<usize> {
        self.promised.difference(&self.kept).next().copied()
    }

    /// Looks at a turn before it is booked.
    pub fn expect(&mut self, turn: &Turn) {
        self.changing = turn.changes.first().map(|change| match change {
            Change::Add { job, .. } | Change::Modify { job, .. } => Changing::Define(job.clone()),
            _ => Changing::Other,
        });
    }

    /// Books what a turn did.
    pub fn record(&mut self, turned: &Turned, now: DateTime<Utc>, before: u64, number: impl Fn(RunId) -> usize) {
        self.latest = self.latest.max(now);
        let claimed: BTreeSet<usize> = turned.claimed.iter().map(|claimed| number(claimed.run.id)).collect();
        assert_eq!(claimed.len(), turned.claimed.len(), "a run is claimed once");
        // The change came before the claims; its job is in the reply.
        let reply = turned.replies.first().and_then(|reply| reply.as_ref().ok());
        if let Some(Reply::Run(id)) = reply {
            assert!(self.promised.insert(number(*id)), "a promise has an id of its own");
        }
        let mut submitted = BTreeSet::new();
        for event in &turned.events {
            self.seq += 1;
            assert_eq!(event.seq - before, self.seq, "events are numbered without gaps");
            match (event.kind, &event.run) {
                (EventKind::JobAdded | EventKind::JobModified, _) => self.define(event, reply),
                (EventKind::JobRemoved, _) => self.remove(event, now),
                (_, Some(run)) => {
                    let number = number(run.id);
                    if event.kind == EventKind::JobSubmitted {
                        submitted.insert(number);
                    }
                    self.book(event.kind, number, run);
                }
                _ => {}
            }
        }
        assert_eq!(submitted, claimed, "what is claimed is told of, and nothing else");
        self.changing = None;
    }

    /// A job begins a new life when it is added or its trigger changes.
    fn define(&mut self, event: &Event, reply: Option<&Reply>) {
        let id = event.job_id.clone().expect("an event about a job");
        if event.detail.is_some() {
            // A backfill begins or ends.
            self.backfilled.remove(&id);
        }
        let Some(Changing::Define(job)) = self.changing.as_ref().filter(|_| event.detail.is_none()) else { return };
        assert_eq!(job.id, id);
        let Some(Reply::Job(entry)) = reply else { panic!("a definition is answered with the job") };
        let job = (**entry.job.as_ref().expect("it is sound")).clone();
        let old = self.now.get(&id).copied();
        if let Some(old) = old.filter(|_| event.kind == EventKind::JobModified)
            && self.lives[old].job.trigger == job.trigger
        {
            self.lives[old].job = job;
            return;
        }
        if let Some(old) = old {
            self.lives[old].gone = true;
        }
        let first = entry.state.next_run_time;
        self.lives.push(Life { job, booked: BTreeMap::new(), first, gone: false });
        self.now.insert(id, self.lives.len() - 1);
    }

    fn remove(&mut self, event: &Event, now: DateTime<Utc>) {
        let id = event.job_id.clone().expect("an event about a job");
        let going = self.runs.values().filter(|run| run.job == id && run.stage != Stage::Ended).count();
        assert_eq!(going, 0, "job `{id}` leaves after its last run");
        let life = self.now.remove(&id).expect("a job leaves once");
        if event.reason == Some(RemoveReason::Finished) {
            self.lives[life].check(now, self.latest);
            assert!(!self.retries.iter().any(|(of, ..)| *of == life), "`{id}` left and owed a retry");
        }
        self.lives[life].gone = true;
    }

    fn book(&mut self, kind: EventKind, number: usize, run: &Run) {
        match kind {
            EventKind::JobSubmitted => self.submit(number, run),
            EventKind::JobStarted => {
                let known = self.runs.get_mut(&number).expect("started after submitted");
                assert_eq!(known.stage, Stage::Submitted, "a run starts once");
                known.stage = Stage::Started;
            }
            EventKind::JobExecuted | EventKind::JobError => match self.runs.get_mut(&number) {
                Some(known) => {
                    assert!(known.stage < Stage::Ended, "a run ends once");
                    known.stage = Stage::Ended;
                    assert_eq!((&known.job, known.scheduled), (&run.job_id, run.scheduled_time));
                    assert!(run.outcome.is_some(), "an ended run has its outcome");
                }
                // A promise that ended before it began.
                None => {
                    assert_eq!(run.outcome, Some(Outcome::Cancelled));
                    self.keep(number, run);
                }
            },
            EventKind::JobRetry if run.outcome.is_some() => {
                let known = &self.runs[&number];
                // Given up for want of room is told of too; PENDING_MAX is far from what is done here.
                self.retries.push((known.life, run.scheduled_time, run.attempt + 1));
            }
            EventKind::JobMissed | EventKind::JobMaxInstances | EventKind::JobSkipped => {
                assert!(run.scheduled_time <= self.latest, "nothing is skipped ahead of time");
                let life = self.now[&run.job_id];
                self.lives[life].account(run);
            }
            _ => {}
        }
    }

    fn submit(&mut self, number: usize, run: &Run) {
        let life = self.now[&run.job_id];
        let job = &self.lives[life].job;
        let going = self.runs.values().filter(|known| known.job == run.job_id && known.stage != Stage::Ended);
        // A replaced or modified job keeps its running runs, however many they are.
        let (going, most) =
            going.fold((0, job.max_instances), |(n, most), known| (n + 1, most.max(known.max_instances)));
        assert!(going < most, "max_instances of `{}` holds", run.job_id);
        let first_of_trigger = run.origin == Origin::Trigger && run.attempt == 1;
        if first_of_trigger {
            self.lives[life].account(run);
        }
        if run.origin == Origin::Backfill && run.attempt == 1 {
            let first = self.backfilled.entry(run.job_id.clone()).or_default().insert(run.scheduled_time);
            assert!(first, "a backfill of `{}` runs {} twice", run.job_id, run.scheduled_time);
            assert!(self.lives[life].job.trigger.fires_at(run.scheduled_time), "and only fire times");
        }
        if run.attempt > 1 || self.promised.contains(&number) {
            self.keep(number, run);
        }
        let max_instances = self.lives[life].job.max_instances;
        let known = Known {
            job: run.job_id.clone(),
            life,
            max_instances,
            scheduled: run.scheduled_time,
            attempt: run.attempt,
            origin: run.origin,
            stage: Stage::Submitted,
        };
        let twin = self.runs.values().find(|other| {
            other.life == life
                && other.origin == run.origin
                && run.origin == Origin::Trigger
                && (other.scheduled, other.attempt) == (run.scheduled_time, run.attempt)
        });
        assert!(twin.is_none(), "an attempt for {} of `{}` starts twice", run.scheduled_time, run.job_id);
        assert!(self.runs.insert(number, known).is_none(), "a run is submitted once");
    }

    /// A promise comes true, or is taken back with a record.
    fn keep(&mut self, number: usize, run: &Run) {
        if run.attempt == 1 {
            assert!(self.promised.contains(&number) && self.kept.insert(number), "a promise is kept once");
            return;
        }
        let owed = self
            .retries
            .iter()
            .position(|(_, scheduled, attempt)| (*scheduled, *attempt) == (run.scheduled_time, run.attempt));
        let owed = owed.expect("an attempt was promised before it comes");
        self.retries.remove(owed);
    }

    /// Whether every job's fire times up to `now` are booked and nothing is owed.
    pub fn is_settled(&self, now: DateTime<Utc>) -> bool {
        let booked = self.now.values().all(|life| self.lives[*life].is_booked(now));
        booked && self.retries.is_empty() && self.a_waiting_run().is_none()
    }

    /// After everything was given its time.
    pub fn settled(&self, now: DateTime<Utc>) {
        assert!(self.a_waiting_run().is_none(), "a run that was asked for never came");
        let owed: Vec<_> = self.retries.iter().filter(|(life, ..)| !self.lives[*life].gone).collect();
        assert!(owed.is_empty(), "promised attempts never came: {owed:?}");
        for life in self.now.values() {
            self.lives[*life].check(now, self.latest);
        }
    }

    /// The last sequence number, when all jobs are gone and all lives are in order.
    pub fn check_all(&self) -> u64 {
        assert!(self.now.is_empty(), "all jobs have left");
        assert!(self.live().is_empty());
        self.seq
    }
}

impl Life {
    /// Books the fire time of a run or a record, and those that it stands for.
    fn account(&mut self, run: &Run) {
        let fires = self.job.trigger.fires_at(run.scheduled_time);
        assert!(fires, "{} is a fire time of `{}`", run.scheduled_time, run.job_id);
        let twice = self.booked.insert(run.scheduled_time, 1 + run.coalesced);
        assert!(twice.is_none(), "{} of `{}` is booked twice", run.scheduled_time, run.job_id);
    }

    fn count(&self) -> u64 {
        self.booked.values().sum()
    }

    /// How many fire times the trigger has had by `now`.
    fn had(&self, now: DateTime<Utc>) -> u64 {
        let Some(first) = self.first else { return 0 };
        let next = |at: &DateTime<Utc>| self.job.trigger.next_fire_time(Some(*at), *at);
        std::iter::successors(Some(first), next).take_while(|at| *at <= now).count() as u64
    }

    fn is_booked(&self, now: DateTime<Utc>) -> bool {
        self.job.trigger.runs_max().is_some() || self.count() >= self.had(now)
    }

    /// Every fire time so far is booked once, and none that is still to come; those between are a
    /// matter of a clock that stepped back. After the last of a trigger's greatest number of runs
    /// there are none.
    fn check(&self, now: DateTime<Utc>, latest: DateTime<Utc>) {
        let id = &self.job.id;
        let (booked, had) = (self.count(), self.had(now));
        assert!(booked <= self.had(latest), "{booked} fire times of `{id}` are booked, {had} it had");
        if self.job.trigger.runs_max().is_none() {
            assert!(booked >= had, "{had} fire times of `{id}` were, {booked} are booked");
        }
    }
}
