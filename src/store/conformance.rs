//! The contract of [`JobStore`] as a test suite. Every store passes it: call [`check`] with a
//! function that makes an empty store with the alias `default`.

use super::{
    Answer, Change, Claim, Conflict, Finished, JobEntry, JobFilter, JobStore, Page, Reply, RunFilter, Started, Turn,
    Turned,
};
use crate::error::Error;
use crate::event::EventKind;
use crate::grant::{Pick, Use};
use crate::job::{Alias, Arguments, Coalesce, Expect, Job, JobId, Origin, Retry, Status};
use crate::run::{LogLevel, LogLine, Outcome, OutcomeKind, RunId, RunLogs, RunState, Usage};
use crate::trigger::Trigger;
use crate::values::ValueChanges;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Runs every check on a fresh store. Panics at the first one that fails.
pub async fn check<S: JobStore>(make: impl AsyncFn() -> S) {
    a_job_is_added_once(&Bench::new(make().await)).await;
    a_due_job_is_claimed_once_and_its_end_recorded(&Bench::new(make().await)).await;
    a_finished_job_leaves_after_its_last_run(&Bench::new(make().await)).await;
    a_job_leaves_after_its_greatest_number_of_runs(&Bench::new(make().await)).await;
    jitter_delays_the_start_and_not_the_fire_time(&Bench::new(make().await)).await;
    no_more_is_claimed_than_there_are_slots(&Bench::new(make().await)).await;
    an_unknown_end_changes_nothing(&Bench::new(make().await)).await;
    a_paused_job_is_not_due_and_what_it_missed_is_recorded(&Bench::new(make().await)).await;
    a_job_without_an_executor_is_quarantined(&Bench::new(make().await)).await;
    a_failed_run_is_tried_again(&Bench::new(make().await)).await;
    attempts_that_wait_are_bounded(&Bench::new(make().await)).await;
    a_quarantined_job_is_kept_whatever_it_waits_for(&Bench::new(make().await)).await;
    a_promised_run_ends_even_if_its_job_is_removed(&Bench::new(make().await)).await;
    a_rescheduled_job_goes_on(&Bench::new(make().await)).await;
    a_fine_clock_claims_each_fire_time_once(&Bench::new(make().await)).await;
    a_run_asked_for_starts_even_when_paused(&Bench::new(make().await)).await;
    higher_priorities_come_first_and_each_job_in_its_turn(&Bench::new(make().await)).await;
    a_past_range_runs_when_nothing_else_is_due(&Bench::new(make().await)).await;
    a_run_has_its_own_arguments_at_each_attempt(&Bench::new(make().await)).await;
    a_run_that_waits_is_cancelled(&Bench::new(make().await)).await;
    a_job_that_does_not_succeed_is_late_once(&Bench::new(make().await)).await;
    a_question_is_asked_until_it_is_answered(&Bench::new(make().await)).await;
    a_job_changed_at_the_same_time_is_not_overwritten(&Bench::new(make().await)).await;
    events_are_numbered_without_gaps_and_read_again(&Bench::new(make().await)).await;
    large_outputs_and_logs_come_back_whole(&Bench::new(make().await)).await;
    what_a_run_changed_is_stored_with_its_success_alone(&Bench::new(make().await)).await;
    lists_page_in_order(&Bench::new(make().await)).await;
    a_closed_store_refuses(&Bench::new(make().await)).await;
}

/// 2027-01-15 08:00:00 UTC and so many seconds.
fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000 + seconds)
}

fn id(text: &str) -> JobId {
    text.parse().expect("a legal id")
}

/// A job that fires every ten seconds from second 10 on, added at second 0.
fn every_ten(name: &str) -> Job {
    let trigger = Trigger::every(Duration::from_secs(10)).expect("a legal interval");
    Job::new(id(name), "m:f".parse().expect("a legal func"), trigger)
}

fn once(name: &str, at: i64) -> Job {
    Job::new(id(name), "m:f".parse().expect("a legal func"), Trigger::at(time(at)))
}

/// A store and the turns that tests take on it.
struct Bench<S> {
    store: S,
    slots: BTreeMap<Alias, usize>,
}

impl<S: JobStore> Bench<S> {
    fn new(store: S) -> Self {
        Bench { store, slots: BTreeMap::from([(Alias::default(), 8)]) }
    }

    async fn turn(&self, at: i64, turn: Turn) -> Turned {
        let turn = Turn { now: time(at), slots: self.slots.clone(), ..turn };
        self.store.turn(turn).await.expect("a turn on a sound store")
    }

    async fn claim(&self, at: i64) -> Turned {
        self.turn(at, Turn { claim: Claim::Due, ..Turn::default() }).await
    }

    async fn change(&self, at: i64, change: Change) -> Result<Reply, Error> {
        let mut turned = self.turn(at, Turn { changes: vec![change], ..Turn::default() }).await;
        assert_eq!(turned.replies.len(), 1);
        turned.replies.remove(0)
    }

    async fn add(&self, job: Job) {
        let change = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
        self.change(0, change).await.expect("the job is added");
    }

    async fn end(&self, at: i64, run: RunId, outcome: Outcome) -> Turned {
        self.turn(at, Turn { finished: vec![ended(at, run, outcome)], ..Turn::default() }).await
    }

    async fn kinds(&self) -> Vec<EventKind> {
        let events = self.store.list_events(0, 1000).await.expect("events");
        events.iter().map(|event| event.kind).collect()
    }
}

fn ended(at: i64, run: RunId, outcome: Outcome) -> Finished {
    Finished {
        started: Some(time(at)),
        usage: Usage { fuel_used: Some(7), memory_peak: Some(65536) },
        plugin_digest: Some("ab".repeat(32).into()),
        ..Finished::of(run, time(at), outcome)
    }
}

fn value() -> Outcome {
    Outcome::Succeeded { value: json!("done") }
}

async fn a_job_is_added_once<S: JobStore>(bench: &Bench<S>) {
    bench.add(every_ten("a")).await;
    let add = |conflict| Change::Add { job: Box::new(every_ten("a")), paused: false, conflict, first: None };
    assert!(matches!(bench.change(0, add(Conflict::Refuse)).await, Err(Error::JobExists(_))));
    assert!(matches!(bench.change(0, add(Conflict::Keep)).await, Ok(Reply::Job(_))));
    let Ok(Reply::Job(entry)) = bench.change(5, add(Conflict::Replace)).await else { panic!("replaced") };
    assert_eq!(entry.state.next_run_time, Some(time(15)), "a replaced job starts anew");
    let never = Job {
        trigger: Trigger::crontab("0 0 30 2 *", Default::default(), Default::default()).expect("parses"),
        ..every_ten("b")
    };
    let never = Change::Add { job: Box::new(never), paused: false, conflict: Conflict::Refuse, first: None };
    assert!(matches!(bench.change(0, never).await, Err(Error::NeverFires(_))));
    assert!(bench.store.get_job(&id("b")).await.expect("a read").is_none(), "a refused change changes nothing");
}

async fn a_due_job_is_claimed_once_and_its_end_recorded<S: JobStore>(bench: &Bench<S>) {
    bench.add(every_ten("a")).await;
    assert_eq!(bench.claim(9).await.next_due, Some(time(10)));
    let turned = bench.claim(10).await;
    assert_eq!(turned.claimed.len(), 1);
    let run = turned.claimed[0].run.clone();
    assert_eq!((run.scheduled_time, run.state, run.attempt), (time(10), RunState::Claimed, 1));
    assert!(bench.claim(10).await.claimed.is_empty(), "a fire time is claimed once");
    bench.turn(11, Turn { started: vec![Started { run: run.id, at: time(11) }], ..Turn::default() }).await;
    let running = bench.store.get_run(run.id).await.expect("a read").expect("it runs");
    assert_eq!((running.state, running.started), (RunState::Running, Some(time(11))));
    bench.end(12, run.id, value()).await;
    let ended = bench.store.get_run(run.id).await.expect("a read").expect("it is kept");
    assert_eq!((ended.state, ended.started, ended.ended), (RunState::Ended, Some(time(11)), Some(time(12))));
    assert_eq!((ended.outcome, ended.usage.fuel_used), (Some(value()), Some(7)));
    let order = [EventKind::JobAdded, EventKind::JobSubmitted, EventKind::JobStarted, EventKind::JobExecuted];
    assert_eq!(bench.kinds().await, order);
}

async fn a_finished_job_leaves_after_its_last_run<S: JobStore>(bench: &Bench<S>) {
    bench.add(once("a", 10)).await;
    let run = bench.claim(10).await.claimed.remove(0).run.id;
    let entry = bench.store.get_job(&id("a")).await.expect("a read").expect("it is still there");
    assert_eq!(entry.state.status(), Status::Finished);
    bench.end(11, run, Outcome::Failed { error: "no".into() }).await;
    assert!(bench.store.get_job(&id("a")).await.expect("a read").is_none());
    let kinds = bench.kinds().await;
    assert_eq!(kinds[kinds.len() - 2..], [EventKind::JobError, EventKind::JobRemoved]);
    assert!(bench.store.get_run(run).await.expect("a read").is_some(), "its history stays");
}

async fn a_job_leaves_after_its_greatest_number_of_runs<S: JobStore>(bench: &Bench<S>) {
    let job = Job { trigger: every_ten("a").trigger.max_runs(2), ..every_ten("a") };
    bench.add(job).await;
    let first = bench.claim(10).await.claimed[0].run.id;
    bench.end(11, first, Outcome::Failed { error: "it counts all the same".into() }).await;
    assert_eq!(bench.store.get_job(&id("a")).await.expect("a read").expect("there").state.started, 1);
    let second = bench.claim(20).await.claimed[0].run.id;
    bench.end(21, second, value()).await;
    assert!(bench.store.get_job(&id("a")).await.expect("a read").is_none(), "two were all");
    assert!(bench.claim(30).await.claimed.is_empty());
}

async fn jitter_delays_the_start_and_not_the_fire_time<S: JobStore>(bench: &Bench<S>) {
    let job = Job { trigger: every_ten("a").trigger.jitter(Duration::from_secs(5)), ..every_ten("a") };
    bench.add(job).await;
    let Some(JobEntry { job: Some(job), .. }) = bench.store.get_job(&id("a")).await.expect("a read") else {
        panic!("it was added")
    };
    let start = job.start_time(time(10));
    let at = |at| Turn { now: at, claim: Claim::Due, slots: bench.slots.clone(), ..Turn::default() };
    let early = bench.store.turn(at(time(10))).await.expect("a turn");
    assert_eq!((early.claimed.len(), early.next_due), (0, Some(start)));
    let turned = bench.store.turn(at(start)).await.expect("a turn");
    assert_eq!(turned.claimed[0].run.scheduled_time, time(10));
    let next = bench.store.get_job(&id("a")).await.expect("a read").expect("there").state.next_run_time;
    assert_eq!(next, Some(time(20)), "the grid stays");
}

async fn no_more_is_claimed_than_there_are_slots<S: JobStore>(bench: &Bench<S>) {
    for n in 0..10 {
        bench.add(once(&format!("j{n}"), 10 + n)).await;
    }
    let first = bench.claim(30).await;
    let order: Vec<i64> = first.claimed.iter().map(|c| (c.run.scheduled_time - time(0)).num_seconds()).collect();
    assert_eq!(order, (10..18).collect::<Vec<_>>(), "earliest first, as many as there are slots");
    assert!(first.starved);
    assert_eq!(bench.claim(30).await.claimed.len(), 2);
}

async fn an_unknown_end_changes_nothing<S: JobStore>(bench: &Bench<S>) {
    bench.add(once("a", 10)).await;
    let run = bench.claim(10).await.claimed.remove(0).run.id;
    bench.end(11, run, value()).await;
    let before = bench.kinds().await.len();
    assert!(bench.end(12, run, Outcome::Cancelled).await.events.is_empty());
    assert_eq!(bench.kinds().await.len(), before);
    let kept = bench.store.get_run(run).await.expect("a read").expect("it is kept");
    assert_eq!(kept.outcome, Some(value()), "the first end counts");
}

async fn a_paused_job_is_not_due_and_what_it_missed_is_recorded<S: JobStore>(bench: &Bench<S>) {
    bench.add(every_ten("a")).await;
    bench.change(1, Change::Pause { id: id("a") }).await.expect("paused");
    let turned = bench.claim(35).await;
    assert!(turned.claimed.is_empty() && turned.next_due.is_none());
    let Ok(Reply::Job(entry)) = bench.change(35, Change::Resume { id: id("a") }).await else { panic!("resumed") };
    assert_eq!(entry.state.next_run_time, Some(time(40)));
    let runs = bench.store.list_runs(&RunFilter::default(), &Page::default()).await.expect("runs").items;
    assert_eq!(runs.len(), 1, "the passed fire times are one record");
    assert_eq!((runs[0].scheduled_time, runs[0].coalesced), (time(30), 2));
    assert_eq!(runs[0].outcome.as_ref().map(Outcome::kind), Some(OutcomeKind::Skipped));
}

async fn a_job_without_an_executor_is_quarantined<S: JobStore>(bench: &Bench<S>) {
    let job = Job { executor: "gone".parse().expect("an alias"), ..every_ten("a") };
    bench.add(job).await;
    assert!(bench.claim(10).await.claimed.is_empty());
    let entry = bench.store.get_job(&id("a")).await.expect("a read").expect("it is kept");
    assert_eq!(entry.state.status(), Status::Quarantined);
    assert!(entry.state.quarantine.as_deref().is_some_and(|reason| reason.contains("gone")));
    bench.change(11, Change::Release { id: id("a") }).await.expect("released");
    let entry = bench.store.get_job(&id("a")).await.expect("a read").expect("it is kept");
    assert_eq!((entry.state.status(), entry.state.next_run_time), (Status::Active, Some(time(10))), "nothing is lost");
}

async fn a_failed_run_is_tried_again<S: JobStore>(bench: &Bench<S>) {
    let retry = Retry { max_attempts: 2, first: Duration::from_secs(3), ..Retry::default() };
    bench.add(Job { retry, ..once("a", 10) }).await;
    let run = bench.claim(10).await.claimed.remove(0).run.id;
    bench.end(11, run, Outcome::Failed { error: "no".into() }).await;
    assert_eq!(bench.claim(13).await.next_due, Some(time(14)));
    let again = bench.claim(14).await.claimed.remove(0).run;
    assert_eq!((again.attempt, again.scheduled_time), (2, time(10)));
    assert_ne!(again.id, run);
    bench.end(15, again.id, Outcome::Failed { error: "no".into() }).await;
    assert!(bench.store.get_job(&id("a")).await.expect("a read").is_none(), "it gives up");
}

async fn attempts_that_wait_are_bounded<S: JobStore>(bench: &Bench<S>) {
    let retry = Retry {
        max_attempts: 9,
        first: Duration::from_secs(100_000),
        cap: Duration::from_secs(100_000),
        ..Retry::default()
    };
    bench.add(Job { retry, ..every_ten("a") }).await;
    for n in 1..300 {
        let run = bench.claim(10 * n).await.claimed.remove(0).run.id;
        bench.end(10 * n, run, Outcome::Failed { error: "no".into() }).await;
    }
    let entry = bench.store.get_job(&id("a")).await.expect("a read").expect("it is kept");
    assert_eq!(entry.state.pending.len(), super::table::PENDING_MAX);
}

async fn a_quarantined_job_is_kept_whatever_it_waits_for<S: JobStore>(bench: &Bench<S>) {
    let retry = Retry { max_attempts: 2, ..Retry::default() };
    bench.add(Job { retry, ..once("a", 10) }).await;
    let run = bench.claim(10).await.claimed.remove(0).run.id;
    bench.end(10, run, Outcome::Failed { error: "no".into() }).await;
    let none = Turn { now: time(20), claim: Claim::Due, ..Turn::default() };
    assert!(bench.store.turn(none).await.expect("a turn").claimed.is_empty(), "its executor is gone");
    let entry = bench.store.get_job(&id("a")).await.expect("a read").expect("it is kept");
    assert_eq!(entry.state.status(), Status::Quarantined);
    bench.change(21, Change::Release { id: id("a") }).await.expect("released");
    assert_eq!(bench.claim(22).await.claimed.remove(0).run.attempt, 2, "and goes on where it was");

    bench.add(once("b", 30)).await;
    let run = bench.claim(30).await.claimed.remove(0).run.id;
    bench.end(31, run, Outcome::Invalid { error: "its plugin is gone".into() }).await;
    let entry = bench.store.get_job(&id("b")).await.expect("a read").expect("it is kept");
    assert_eq!(entry.state.quarantine.as_deref(), Some("its plugin is gone"));
}

async fn a_promised_run_ends_even_if_its_job_is_removed<S: JobStore>(bench: &Bench<S>) {
    bench.add(every_ten("a")).await;
    let Ok(Reply::Run(run)) = bench.change(1, Change::Run { id: id("a"), arguments: None }).await else {
        panic!("asked for")
    };
    let waiting = bench.store.get_run(run).await.expect("a read").expect("it is known at once");
    assert_eq!(waiting.state, RunState::Claimed);
    bench.change(2, Change::Remove { id: id("a") }).await.expect("removed");
    let ended = bench.store.get_run(run).await.expect("a read").expect("it is in the history");
    assert_eq!(ended.outcome, Some(Outcome::Cancelled));
}

async fn a_rescheduled_job_goes_on<S: JobStore>(bench: &Bench<S>) {
    bench.add(once("a", 10)).await;
    let run = bench.claim(10).await.claimed.remove(0).run.id;
    let base = bench.store.get_job(&id("a")).await.expect("a read").and_then(|entry| entry.job).expect("a job");
    let job = Box::new(Job { trigger: Trigger::at(time(50)), ..(*base).clone() });
    bench.change(11, Change::Modify { base, job, first: None }).await.expect("modified");
    bench.end(12, run, value()).await;
    assert_eq!(bench.claim(50).await.claimed.len(), 1, "it did not leave with its old trigger's last run");
}

async fn a_fine_clock_claims_each_fire_time_once<S: JobStore>(bench: &Bench<S>) {
    let fine = time(0) + TimeDelta::nanoseconds(123_456_789);
    let add = Change::Add { job: Box::new(every_ten("a")), paused: false, conflict: Conflict::Refuse, first: None };
    let turn = Turn { now: fine, changes: vec![add], ..Turn::default() };
    let Ok(Reply::Job(entry)) = bench.store.turn(turn).await.expect("a turn").replies.remove(0) else {
        panic!("added")
    };
    let next = entry.state.next_run_time.expect("a fire time");
    assert_eq!(next.timestamp_subsec_nanos() % 1000, 0, "what a store keeps is what it says");
    let again = entry.job.expect("a job").trigger.next_fire_time(Some(next), next).expect("another");
    assert_eq!(again - next, TimeDelta::seconds(10));
}

async fn a_run_asked_for_starts_even_when_paused<S: JobStore>(bench: &Bench<S>) {
    bench.add(Job { coalesce: Coalesce::All, ..every_ten("a") }).await;
    bench.change(0, Change::Pause { id: id("a") }).await.expect("paused");
    let Ok(Reply::Run(run)) = bench.change(1, Change::Run { id: id("a"), arguments: None }).await else {
        panic!("asked for")
    };
    let turned = bench.turn(20, Turn { claim: Claim::Manual, ..Turn::default() }).await;
    assert_eq!(turned.claimed.len(), 1);
    assert_eq!((turned.claimed[0].run.id, turned.claimed[0].run.origin), (run, Origin::Manual));
    let Ok(Reply::Run(_)) = bench.change(21, Change::Run { id: id("a"), arguments: None }).await else {
        panic!("asked for")
    };
    let full = bench.turn(22, Turn { claim: Claim::Manual, ..Turn::default() }).await;
    assert!(full.claimed.is_empty(), "max_instances holds for runs that are asked for");
    bench.end(23, run, value()).await;
    assert_eq!(bench.turn(24, Turn { claim: Claim::Manual, ..Turn::default() }).await.claimed.len(), 1);
    assert!(matches!(
        bench.change(25, Change::Run { id: id("none"), arguments: None }).await,
        Err(Error::JobNotFound(_))
    ));
}

async fn higher_priorities_come_first_and_each_job_in_its_turn<S: JobStore>(bench: &Bench<S>) {
    let flood = Job { coalesce: Coalesce::All, max_instances: 64, ..every_ten("flood") };
    bench.add(flood).await;
    bench.add(once("plain", 500)).await;
    bench.add(Job { priority: 7, ..once("high", 600) }).await;
    let two = BTreeMap::from([(Alias::default(), 2)]);
    let mut claimed = Vec::new();
    for _ in 0..2 {
        let turn = Turn { now: time(600), claim: Claim::Due, slots: two.clone(), ..Turn::default() };
        let turned = bench.store.turn(turn).await.expect("a turn");
        assert_eq!(turned.claimed.len(), 2, "as many as there are slots");
        claimed.extend(turned.claimed.iter().map(|claimed| claimed.run.job_id.to_string()));
    }
    assert_eq!(claimed[0], "high");
    assert!(claimed.contains(&"plain".to_owned()), "sixty older fire times of one job are not all first: {claimed:?}");
}

async fn a_past_range_runs_when_nothing_else_is_due<S: JobStore>(bench: &Bench<S>) {
    bench.add(every_ten("a")).await;
    bench.add(once("b", 45)).await;
    bench.change(12, Change::Pause { id: id("a") }).await.expect("paused");
    let range = Some((time(10), time(30)));
    let backfill = || Change::Backfill { id: id("a"), range };
    bench.change(40, backfill()).await.expect("begun");
    assert!(bench.change(40, backfill()).await.is_err(), "one at a time");
    let one = BTreeMap::from([(Alias::default(), 1)]);
    let mut seen = Vec::new();
    for at in [45, 46, 47, 48] {
        let turn = Turn { now: time(at), claim: Claim::Due, slots: one.clone(), ..Turn::default() };
        for claimed in bench.store.turn(turn).await.expect("a turn").claimed {
            seen.push((claimed.run.job_id.to_string(), claimed.run.scheduled_time, claimed.run.origin));
            bench.end(at, claimed.run.id, value()).await;
        }
    }
    let backfilled = |at| ("a".to_owned(), time(at), Origin::Backfill);
    assert_eq!(seen, [("b".to_owned(), time(45), Origin::Trigger), backfilled(10), backfilled(20)]);
    assert!(bench.change(50, Change::Backfill { id: id("a"), range: None }).await.is_err(), "it is over");
}

async fn a_run_has_its_own_arguments_at_each_attempt<S: JobStore>(bench: &Bench<S>) {
    let retry = Retry { max_attempts: 2, first: Duration::ZERO, ..Retry::default() };
    bench.add(Job { retry, ..once("a", 5000) }).await;
    let own = Arc::new(Arguments { args: vec![json!("x".repeat(5000))], ..Arguments::default() });
    bench.change(1, Change::Run { id: id("a"), arguments: Some(own.clone()) }).await.expect("asked for");
    for attempt in 1..=2 {
        let claimed = bench.claim(1 + attempt).await.claimed.remove(0);
        assert_eq!((claimed.job.args.as_slice(), i64::from(claimed.run.attempt)), (own.args.as_slice(), attempt));
        bench.end(1 + attempt, claimed.run.id, Outcome::Failed { error: "e".into() }).await;
        let kept = bench.store.get_run(claimed.run.id).await.expect("a read").expect("it is kept");
        assert_eq!(kept.arguments.as_ref(), Some(&own));
    }
}

async fn a_run_that_waits_is_cancelled<S: JobStore>(bench: &Bench<S>) {
    bench.add(once("a", 5000)).await;
    let Ok(Reply::Run(run)) = bench.change(1, Change::Run { id: id("a"), arguments: None }).await else {
        panic!("asked for")
    };
    bench.change(2, Change::Cancel { run }).await.expect("cancelled");
    assert!(bench.claim(3).await.claimed.is_empty());
    let ended = bench.store.get_run(run).await.expect("a read").expect("it is on record");
    assert_eq!(ended.outcome, Some(Outcome::Cancelled));
    assert!(matches!(bench.change(4, Change::Cancel { run }).await, Err(Error::RunEnded(_))));
}

async fn a_job_that_does_not_succeed_is_late_once<S: JobStore>(bench: &Bench<S>) {
    let expect = Some(Expect { period: Duration::from_secs(20), grace: Duration::from_secs(5) });
    bench.add(Job { expect, ..once("a", 5000) }).await;
    assert_eq!(bench.claim(10).await.next_due, Some(time(25)), "somebody looks when it would be late");
    for at in [25, 30, 90] {
        bench.claim(at).await;
    }
    let late = bench.kinds().await.into_iter().filter(|kind| *kind == EventKind::JobLate).count();
    assert_eq!(late, 1);
    let entry = bench.store.get_job(&id("a")).await.expect("a read").expect("it is there");
    assert!(entry.state.late);
}

async fn a_question_is_asked_until_it_is_answered<S: JobStore>(bench: &Bench<S>) {
    let trigger = Trigger::plugin("p:next".parse().expect("a legal func"), "").expect("a legal trigger");
    bench.add(Job { trigger, ..every_ten("a") }).await;
    let asked = bench.claim(1).await.questions.remove(0);
    assert!(bench.claim(2).await.questions.is_empty(), "asked once");
    let answer =
        |at| Change::Answer { job: asked.job.clone(), question: asked.question, answer: Answer::Next(Some(time(at))) };
    bench.change(3, answer(7)).await.expect("taken");
    bench.change(3, answer(5)).await.expect("passed over: the question is not open any more");
    let turned = bench.claim(7).await;
    assert_eq!(turned.claimed[0].run.scheduled_time, time(7));
    let next = turned.questions.first().cloned();
    let next = if next.is_some() { next } else { bench.claim(8).await.questions.first().cloned() };
    assert_eq!(next.expect("the next is asked for").question.previous, Some(time(7)));
}

async fn a_job_changed_at_the_same_time_is_not_overwritten<S: JobStore>(bench: &Bench<S>) {
    bench.add(every_ten("a")).await;
    let base = bench.store.get_job(&id("a")).await.expect("a read").and_then(|entry| entry.job).expect("a job");
    let named = |name: &str| Box::new(Job { name: name.into(), ..(*base).clone() });
    bench.change(1, Change::Modify { base: base.clone(), job: named("x"), first: None }).await.expect("modified");
    let late = bench.change(2, Change::Modify { base: base.clone(), job: named("y"), first: None }).await;
    assert!(matches!(late, Err(Error::JobChanged(_))));
    let entry = bench.store.get_job(&id("a")).await.expect("a read").expect("a job");
    assert_eq!(entry.job.expect("a job").name, "x");
    assert_eq!(entry.state.next_run_time, Some(time(10)), "the trigger did not change");
}

async fn events_are_numbered_without_gaps_and_read_again<S: JobStore>(bench: &Bench<S>) {
    let mut published = Vec::new();
    for n in 0..50 {
        let change = Change::Add {
            job: Box::new(once(&format!("j{n}"), 10)),
            paused: false,
            conflict: Conflict::Refuse,
            first: None,
        };
        published.extend(bench.turn(0, Turn { changes: vec![change], ..Turn::default() }).await.events);
    }
    loop {
        let turned = bench.claim(10).await;
        published.extend(turned.events);
        let finished: Vec<Finished> = turned.claimed.iter().map(|c| ended(11, c.run.id, value())).collect();
        if finished.is_empty() {
            break;
        }
        published.extend(bench.turn(11, Turn { finished, ..Turn::default() }).await.events);
    }
    assert_eq!(published.len(), 50 * 5);
    assert!(published.iter().zip(1..).all(|(event, seq)| event.seq == seq));
    let mut read = Vec::new();
    while let Some(last) = Some(read.last().map_or(0, |event: &crate::event::Event| event.seq)) {
        let page = bench.store.list_events(last, 7).await.expect("events");
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, published, "what is read again is what was published");
    assert_eq!(bench.store.counts().await.expect("counts").last_event, 250);
}

async fn large_outputs_and_logs_come_back_whole<S: JobStore>(bench: &Bench<S>) {
    bench.add(once("a", 10)).await;
    let run = bench.claim(10).await.claimed.remove(0).run.id;
    let log = vec![LogLine { level: LogLevel::Warn, message: "careful".into() }];
    let logs = RunLogs { stdout: "x".repeat(100_000), stderr: "é".repeat(9_000), log };
    let outcome = Outcome::Succeeded { value: json!("y".repeat(50_000)) };
    let finished = Finished { logs: logs.clone(), ..ended(11, run, outcome.clone()) };
    bench.turn(11, Turn { finished: vec![finished], ..Turn::default() }).await;
    assert_eq!(bench.store.get_logs(run).await.expect("a read"), Some(logs));
    let kept = bench.store.get_run(run).await.expect("a read").expect("it is kept");
    assert_eq!((kept.outcome, kept.has_logs), (Some(outcome), true));
    let unknown = RunId(ulid::Ulid::nil());
    assert_eq!(bench.store.get_logs(unknown).await.expect("a read"), None);
}

async fn what_a_run_changed_is_stored_with_its_success_alone<S: JobStore>(bench: &Bench<S>) {
    bench.add(every_ten("a")).await;
    bench.add(every_ten("b")).await;
    let changes = |changes: &[(&str, Option<&[u8]>)]| {
        let owned = |(key, value): &(&str, Option<&[u8]>)| ((*key).to_owned(), value.map(<[u8]>::to_vec));
        ValueChanges(changes.iter().map(owned).collect())
    };
    let large = vec![7; 60_000];
    let first = changes(&[("k", Some(b"1")), ("k\0x", Some(&large)), ("\u{1}", Some(b""))]);
    let failed = Outcome::Failed { error: "no".into() };
    let rounds = [
        (10, first.clone(), failed, 0),
        (20, first, value(), 3),
        (30, changes(&[("k", None), ("l", Some(b"2"))]), value(), 3),
        (40, changes(&[("k\0x", Some(b"s"))]), Outcome::Cancelled, 3),
        (50, changes(&[]), value(), 3),
    ];
    for (at, values, outcome, expected) in rounds {
        let claimed = bench.claim(at).await.claimed;
        let of_a = claimed.iter().find(|claimed| claimed.job.id == id("a")).expect("it is due");
        let known = bench.store.get_values(&id("a")).await.expect("a read");
        assert_eq!(*of_a.values, known, "a run is given what is stored");
        let uses = vec![Use { what: Pick::State, denied: false }];
        let finished = claimed.iter().map(|claimed| {
            let ended = ended(at + 1, claimed.run.id, outcome.clone());
            if claimed.job.id == id("a") {
                Finished { values: values.clone(), uses: uses.clone(), ..ended }
            } else {
                ended
            }
        });
        bench.turn(at + 1, Turn { finished: finished.collect(), ..Turn::default() }).await;
        assert_eq!(bench.store.get_run(of_a.run.id).await.expect("a read").expect("it is kept").uses, uses);
        let stored = bench.store.get_values(&id("a")).await.expect("a read");
        assert_eq!(stored.len(), expected, "after {at}");
    }
    let stored = bench.store.get_values(&id("a")).await.expect("a read");
    let expected = [("\u{1}".to_owned(), Vec::new()), ("k\0x".to_owned(), large), ("l".to_owned(), b"2".to_vec())];
    assert_eq!(stored, expected.into());
    assert!(bench.store.get_values(&id("b")).await.expect("a read").is_empty());
    bench.change(60, Change::Remove { id: id("a") }).await.expect("removed");
    bench.add(every_ten("a")).await;
    assert!(bench.store.get_values(&id("a")).await.expect("a read").is_empty(), "it went with its job");
}

async fn lists_page_in_order<S: JobStore>(bench: &Bench<S>) {
    for n in 0..25 {
        let mut job = once(&format!("j{n:02}"), 10);
        job.tags.insert("parity".into(), if n % 2 == 0 { "even" } else { "odd" }.into());
        bench.add(job).await;
    }
    let mut ids = Vec::new();
    let mut page = Page { after: None, limit: 10 };
    loop {
        let list = bench.store.list_jobs(&JobFilter::default(), &page).await.expect("jobs");
        ids.extend(list.items.into_iter().map(|entry| entry.id.to_string()));
        page.after = list.next;
        if page.after.is_none() {
            break;
        }
    }
    assert_eq!(ids, (0..25).map(|n| format!("j{n:02}")).collect::<Vec<_>>());
    let odd = JobFilter { tags: BTreeMap::from([("parity".into(), "odd".into())]), ..JobFilter::default() };
    assert_eq!(bench.store.list_jobs(&odd, &Page::default()).await.expect("jobs").items.len(), 12);

    let claimed = bench.claim(10).await.claimed;
    let (ending, running) = claimed.split_at(5);
    let finished = ending.iter().map(|c| ended(11, c.run.id, value())).collect();
    bench.turn(11, Turn { finished, ..Turn::default() }).await;
    let mut runs = Vec::new();
    let mut page = Page { after: None, limit: 3 };
    loop {
        let list = bench.store.list_runs(&RunFilter::default(), &page).await.expect("runs");
        runs.extend(list.items.into_iter().map(|run| run.id));
        page.after = list.next;
        if page.after.is_none() {
            break;
        }
    }
    let mut newest_first: Vec<RunId> = claimed.iter().map(|c| c.run.id).collect();
    newest_first.sort_by(|a, b| b.cmp(a));
    assert_eq!(runs, newest_first, "ended and running ones, each once");
    let of_job = RunFilter { job: Some(ending[0].run.job_id.clone()), ..RunFilter::default() };
    assert_eq!(bench.store.list_runs(&of_job, &Page::default()).await.expect("runs").items.len(), 1);
    let succeeded = RunFilter { outcome: Some(OutcomeKind::Succeeded), ..RunFilter::default() };
    assert_eq!(bench.store.list_runs(&succeeded, &Page::default()).await.expect("runs").items.len(), 5);
    assert_eq!(bench.store.counts().await.expect("counts").running, running.len() as u64);
}

async fn a_closed_store_refuses<S: JobStore>(bench: &Bench<S>) {
    bench.store.close().await.expect("closed");
    assert!(bench.store.turn(Turn { now: time(0), ..Turn::default() }).await.is_err());
    assert!(bench.store.get_job(&id("a")).await.is_err());
}
