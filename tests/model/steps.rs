//! The steps of a sequence, taken on both stores.

use crate::ledger::Ledger;
use crate::stores::Other;
use chrono::{DateTime, TimeDelta, Utc};
use sandclock::store::{Change, Claim, Conflict, Finished, JobStore, Page, Reply, Retention, Started, Turn, Turned};
use sandclock::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const STEPS: usize = 40;
const JOBS: [&str; 4] = ["a", "b", "c", "d"];

/// Numbers that look random and are the same each time (SplitMix64).
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}

/// The two stores, and what each calls the runs: ids differ between them, their order does not.
pub struct Pair {
    runtime: tokio::runtime::Runtime,
    memory: MemoryStore,
    other: Box<dyn Other>,
    runs: Vec<(RunId, RunId)>,
    now: DateTime<Utc>,
    /// Sequence numbers of the stores before this sequence.
    seq: (u64, u64),
    /// After a crash the line of waiting jobs is formed anew, and the other store goes on alone.
    alone: bool,
}

pub fn retention() -> Retention {
    Retention { runs_per_job: 20, events: 500, ..Retention::default() }
}

impl Pair {
    pub fn new(make: impl FnOnce(&tokio::runtime::Runtime, DateTime<Utc>) -> Box<dyn Other>) -> Self {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let memory = MemoryStore::with_retention(Alias::default(), "local", retention());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let other = make(&runtime, now);
        Pair { runtime, memory, other, runs: Vec::new(), now, seq: (0, 0), alone: false }
    }

    /// One sequence, from an empty store to an empty store.
    pub fn sequence(&mut self, seed: u64) {
        let mut random = Random(seed.wrapping_mul(0x1234_5678_9abc_def1));
        let mut ledger = Ledger::default();
        self.runs.clear();
        for _ in 0..STEPS {
            self.step(&mut random, &mut ledger);
        }
        self.settle(&mut ledger);
        let last = ledger.check_all();
        self.seq = (self.seq.0 + last, self.seq.1 + last);
        if std::mem::take(&mut self.alone) {
            self.memory = MemoryStore::with_retention(Alias::default(), "local", retention());
            self.seq.0 = 0;
        }
    }

    fn step(&mut self, random: &mut Random, ledger: &mut Ledger) {
        match random.below(20) {
            0..=3 => {
                let job = job(random, self.now);
                let conflict = random.of(&[Conflict::Refuse, Conflict::Replace, Conflict::Keep]);
                let paused = random.one_in(6);
                let change = || Change::Add { job: Box::new(job.clone()), paused, conflict, first: None };
                self.change(ledger, change);
            }
            4..=6 => self.change_one(random, ledger),
            7..=13 => {
                let slots = random.below(5) as usize;
                let claim = random.of(&[Claim::Due, Claim::Due, Claim::Due, Claim::Due, Claim::Manual]);
                self.turn(ledger, slots, claim, Vec::new());
            }
            14..=16 => {
                let live = ledger.live();
                if !live.is_empty() {
                    let run = random.of(&live);
                    let outcome = outcome(random);
                    let claim = random.of(&[Claim::Nothing, Claim::Due]);
                    self.turn(ledger, 2, claim, vec![(run, outcome)]);
                }
            }
            17 if random.one_in(8) => self.crash(ledger),
            17 => {
                let live = ledger.live();
                if !live.is_empty() {
                    self.begin(ledger, random.of(&live));
                }
            }
            18 if random.one_in(6) => self.now -= TimeDelta::seconds(random.below(40) as i64),
            18 if random.one_in(6) => self.now += TimeDelta::seconds(3600 + random.below(7200) as i64),
            _ => self.now += TimeDelta::milliseconds(random.below(30_000) as i64),
        }
    }

    fn change_one(&mut self, random: &mut Random, ledger: &mut Ledger) {
        let id: JobId = random.of(&JOBS).parse().expect("an id");
        let now = self.now;
        match random.below(10) {
            0 => self.change(ledger, || Change::Pause { id: id.clone() }),
            1 => self.change(ledger, || Change::Resume { id: id.clone() }),
            2 => self.change(ledger, || Change::Remove { id: id.clone() }),
            3 => {
                let own = Arc::new(Arguments { args: vec![json!(random.below(9))], ..Arguments::default() });
                let arguments = Some(own).filter(|_| random.one_in(2));
                self.change(ledger, || Change::Run { id: id.clone(), arguments: arguments.clone() });
            }
            4 => {
                let from = now - TimeDelta::seconds(random.below(300) as i64);
                let range = Some((from, from + TimeDelta::seconds(1 + random.below(100) as i64)));
                let range = range.filter(|_| !random.one_in(5));
                self.change(ledger, || Change::Backfill { id: id.clone(), range });
            }
            5 => self.change(ledger, || Change::Quarantine { id: id.clone(), reason: "a reason".into() }),
            6 => self.change(ledger, || Change::Release { id: id.clone() }),
            7 | 8 => {
                let entry = self.runtime.block_on(self.other().get_job(&id)).expect("a read");
                let Some(base) = entry.and_then(|entry| entry.job) else { return };
                let mut changed = job(random, now);
                changed.id = id.clone();
                if random.one_in(2) {
                    changed.trigger = base.trigger.clone();
                }
                self.change(ledger, || Change::Modify {
                    base: base.clone(),
                    job: Box::new(changed.clone()),
                    first: None,
                });
            }
            _ => {
                let Some(run) = ledger.a_waiting_run() else { return };
                let (ours, theirs) = self.runs[run];
                self.both(ledger, |memory| {
                    let run = if memory { ours } else { theirs };
                    Turn { changes: vec![Change::Cancel { run }], ..Turn::default() }
                });
            }
        }
    }

    fn change(&mut self, ledger: &mut Ledger, change: impl Fn() -> Change) {
        self.both(ledger, |_| Turn { changes: vec![change()], ..Turn::default() });
    }

    fn turn(&mut self, ledger: &mut Ledger, slots: usize, claim: Claim, ended: Vec<(usize, Outcome)>) {
        let (now, runs) = (self.now, self.runs.clone());
        self.both(ledger, |memory| Turn {
            claim,
            slots: BTreeMap::from([
                (Alias::default(), slots),
                ("second".parse().expect("an alias"), slots.div_ceil(2)),
            ]),
            finished: ended.iter().map(|(run, outcome)| finished(pick(runs[*run], memory), now, outcome)).collect(),
            ..Turn::default()
        });
    }

    fn begin(&mut self, ledger: &mut Ledger, run: usize) {
        let (now, run) = (self.now, self.runs[run]);
        self.both(ledger, |memory| Turn {
            started: vec![Started { run: pick(run, memory), at: now }],
            ..Turn::default()
        });
    }

    fn other(&self) -> &dyn JobStore {
        self.other.store()
    }

    /// The process dies: the other store finds out when it is opened again; the memory store is told.
    fn crash(&mut self, ledger: &mut Ledger) {
        self.other.crash(&self.runtime, self.now);
        let now = self.now;
        let running = ledger.live_by_job();
        let interrupted =
            |run: &usize| Finished { started: None, ..finished(self.runs[*run].0, now, &Outcome::Interrupted) };
        let memory = Turn { now, finished: running.iter().map(interrupted).collect(), ..Turn::default() };
        self.take(ledger, [memory, Turn { now, ..Turn::default() }]);
        self.alone = true;
    }

    /// The same turn on both.
    fn both(&mut self, ledger: &mut Ledger, turn: impl Fn(bool) -> Turn) {
        let now = self.now;
        ledger.expect(&turn(true));
        self.take(ledger, [true, false].map(|memory| Turn { now, ..turn(memory) }));
    }

    /// A turn on each, which do the same and leave the same, and what the ledger says to it.
    fn take(&mut self, ledger: &mut Ledger, [ours, theirs]: [Turn; 2]) {
        let mut other = self.runtime.block_on(self.other().turn(theirs)).expect("a turn");
        let before = self.seq.1;
        self.seq.1 += set_aside_lost_nodes(&mut other);
        if self.alone {
            let new = ids(&other).into_iter().filter(|id| self.number(*id).is_none()).collect::<BTreeSet<_>>();
            self.runs.extend(new.into_iter().map(|id| (id, id)));
            return ledger.record(&other, self.now, before, |id| self.number(id).expect("it was told of"));
        }
        let memory = self.runtime.block_on(self.memory.turn(ours)).expect("a turn");
        for (ours, theirs) in ids(&memory).into_iter().zip(ids(&other)) {
            if self.number(ours).is_none() {
                assert!(self.number(theirs).is_none(), "a run id is never issued twice");
                self.runs.push((ours, theirs));
            }
        }
        assert_eq!(self.text(&memory, self.seq.0), self.text(&other, before), "both stores do the same");
        let all = async |store: &dyn JobStore| {
            let list = store.list_jobs(&Default::default(), &Page::default()).await.expect("a list");
            list.items.into_iter().map(|entry| self.entry_text(&entry)).collect::<Vec<_>>()
        };
        let (memory_jobs, other_jobs) =
            self.runtime.block_on(async { (all(&self.memory).await, all(self.other()).await) });
        assert_eq!(memory_jobs, other_jobs, "both hold the same jobs in the same states");
        ledger.record(&memory, self.now, self.seq.0, |id| self.number(id).expect("it was told of"));
    }

    /// A turn without what may differ.
    fn text(&self, turned: &Turned, before: u64) -> Vec<String> {
        let run = |id: &RunId| format!("run {:?}", self.number(*id));
        let replies = turned.replies.iter().map(|reply| match reply {
            Ok(Reply::Job(entry)) => self.entry_text(entry),
            Ok(Reply::Run(id)) => run(id),
            Ok(Reply::Done) => "done".to_owned(),
            Err(error) => error.code().to_owned(),
        });
        let claimed = turned.claimed.iter().map(|claimed| {
            let Run { id, scheduled_time, attempt, origin, coalesced, .. } = &claimed.run;
            format!("claimed {} {scheduled_time} {attempt} {origin:?} {coalesced} {:?}", run(id), claimed.job.args)
        });
        let events = turned.events.iter().map(|event| {
            let outcome = event.run.as_ref().map(|run| (run.scheduled_time, run.coalesced, run.outcome.clone()));
            let run = event.run_id.as_ref().map(run);
            let Event { seq, time, kind, job_id, reason, .. } = event;
            let seq = seq - before;
            format!("{seq} {time} {kind} {job_id:?} {run:?} {outcome:?} {reason:?}")
        });
        let cancel = turned.cancel.iter().map(|id| format!("cancel {}", run(id)));
        let rest = format!("{:?} {} {}", turned.next_due, turned.starved, turned.questions.len());
        replies.chain(claimed).chain(events).chain(cancel).chain([rest]).collect()
    }

    fn entry_text(&self, entry: &JobEntry) -> String {
        let mut state = entry.state.clone();
        let running: Vec<_> =
            state.running.drain(..).map(|r| (self.number(r.id), r.scheduled_time, r.arguments)).collect();
        // A retry has an id that nobody was told of yet.
        let pending: Vec<_> =
            state.pending.drain(..).map(|p| (p.due, p.scheduled_time, p.attempt, p.origin, p.arguments)).collect();
        // Jitter of a retry depends on the run's id; none is used here.
        format!("{} {:?} {state:?} {running:?} {pending:?}", entry.id, entry.job)
    }

    fn number(&self, id: RunId) -> Option<usize> {
        self.runs.iter().position(|(ours, theirs)| *ours == id || *theirs == id)
    }

    /// Lets everything that was promised happen, and then removes all jobs.
    fn settle(&mut self, ledger: &mut Ledger) {
        for id in JOBS {
            let id: JobId = id.parse().expect("an id");
            self.change(ledger, || Change::Release { id: id.clone() });
            self.change(ledger, || Change::Resume { id: id.clone() });
            self.change(ledger, || Change::Backfill { id: id.clone(), range: None });
        }
        self.now += TimeDelta::seconds(200);
        let until = self.now;
        for _ in 0..2000 {
            let ended = ledger.live().into_iter().map(|run| (run, success())).collect();
            // The clock stands still, or jobs would go on for ever.
            self.turn(ledger, 8, Claim::Due, ended);
            if ledger.live().is_empty() && ledger.is_settled(until) {
                break;
            }
        }
        ledger.settled(self.now);
        for id in JOBS {
            let id: JobId = id.parse().expect("an id");
            self.change(ledger, || Change::Remove { id: id.clone() });
        }
    }
}

/// Runs that a turn tells of.
fn ids(turned: &Turned) -> Vec<RunId> {
    let asked = turned.replies.iter().filter_map(|reply| match reply {
        Ok(Reply::Run(run)) => Some(*run),
        _ => None,
    });
    asked.chain(turned.events.iter().filter_map(|event| event.run_id)).collect()
}

fn pick((ours, theirs): (RunId, RunId), memory: bool) -> RunId {
    if memory { ours } else { theirs }
}

fn success() -> Outcome {
    Outcome::Succeeded { value: json!(1) }
}

fn outcome(random: &mut Random) -> Outcome {
    let error = || "e".to_owned();
    match random.below(8) {
        0 | 1 => Outcome::Failed { error: error() },
        2 => Outcome::OutOfFuel { error: error() },
        3 => Outcome::Cancelled,
        4 if random.one_in(4) => Outcome::Invalid { error: error() },
        _ => success(),
    }
}

fn finished(run: RunId, now: DateTime<Utc>, outcome: &Outcome) -> Finished {
    Finished { started: Some(now), ..Finished::of(run, now, outcome.clone()) }
}

/// A job of random policies.
fn job(random: &mut Random, now: DateTime<Utc>) -> Job {
    let every = Duration::from_secs(2 + random.below(40));
    let mut trigger = match random.below(6) {
        0 => Trigger::at(now + TimeDelta::seconds(random.below(60) as i64 - 20)),
        1 => Trigger::every(every).expect("an interval").max_runs(1 + random.below(5)),
        _ => Trigger::every(every).expect("an interval"),
    };
    if random.one_in(5) {
        trigger = trigger.end(now + TimeDelta::seconds(120));
    }
    let mut job = Job::new(random.of(&JOBS).parse().expect("an id"), "m:f".parse().expect("a func"), trigger);
    job.coalesce = random.of(&[Coalesce::Earliest, Coalesce::Latest, Coalesce::All]);
    job.max_catchup = 1 + random.below(6) as u32;
    job.max_instances = 1 + random.below(3) as u32;
    job.overlap = random.of(&[Overlap::Skip, Overlap::Queue, Overlap::Cancel]);
    job.misfire_grace_time = random.of(&[None, None, Some(Duration::from_secs(5))]);
    job.executor = random.of(&["default", "default", "second"]).parse().expect("an alias");
    job.priority = random.of(&[0, 0, 5, -5]);
    job.retry.max_attempts = 1 + random.below(3) as u32;
    job.retry.outcomes = random.of(&[vec![], vec![OutcomeKind::OutOfFuel]]);
    job.on_interrupted = random.of(&[OnInterrupted::Fail, OnInterrupted::Rerun]);
    job.pause_after = random.of(&[None, None, Some(2)]);
    job.expect = random.of(&[None, Some(Expect { period: Duration::from_secs(60), grace: Duration::ZERO })]);
    job
}

/// Takes the news of lost nodes, which a store without nodes does not have, out of a turn. Says how much
/// that was.
fn set_aside_lost_nodes(turned: &mut Turned) -> u64 {
    let mut lost = 0;
    turned.events.retain_mut(|event| {
        let is_lost = event.kind == EventKind::NodeLost;
        lost += u64::from(is_lost);
        event.seq -= lost;
        !is_lost
    });
    lost
}
