//! Runs that start soon are claimed already, and nobody hears of one that is taken back.

use crate::servers::{Databases, Server};
use chrono::{DateTime, TimeDelta, Utc};
use sandclock::store::SharedOptions;
use sandclock::store::{Change, Claim, Conflict, Finished, PostgresStore, Started, Turn, Turned};
use sandclock::*;
use std::collections::BTreeMap;
use std::time::Duration;

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000 + seconds)
}

fn id() -> JobId {
    "a".parse().expect("an id")
}

struct Bench {
    _server: Server,
    here: PostgresStore,
    there: PostgresStore,
}

impl Bench {
    /// Two nodes, and a job that fires every ten seconds from second 10 on.
    async fn new() -> Option<Self> {
        if !crate::servers::there("postgres") {
            return None;
        }
        let server = Server::postgres(false);
        let url = server.database();
        let open = async |node: &str| {
            let options = SharedOptions {
                node: node.into(),
                lead: Duration::from_secs(2),
                poll: Duration::ZERO,
                ..SharedOptions::default()
            };
            PostgresStore::connect(&url, options).await.expect("the store opens")
        };
        let (here, there) = (open("here").await, open("there").await);
        let trigger = Trigger::every(Duration::from_secs(10)).expect("an interval");
        let job = Box::new(Job::new(id(), "m:f".parse().expect("a func"), trigger));
        let add = Change::Add { job, paused: false, conflict: Conflict::Refuse, first: None };
        change(&here, 0, add).await;
        Some(Bench { _server: server, here, there })
    }
}

async fn turn(store: &PostgresStore, at: i64, turn: Turn) -> Turned {
    let slots = BTreeMap::from([(Alias::default(), 8)]);
    store.turn(Turn { now: time(at), slots, ahead: true, ..turn }).await.expect("a turn")
}

async fn change(store: &PostgresStore, at: i64, change: Change) -> Turned {
    let turned = turn(store, at, Turn { changes: vec![change], ..Turn::default() }).await;
    assert!(turned.replies[0].is_ok(), "{:?}", turned.replies);
    turned
}

async fn claim(store: &PostgresStore, at: i64) -> Turned {
    turn(store, at, Turn { claim: Claim::Due, ..Turn::default() }).await
}

async fn kinds(store: &PostgresStore) -> Vec<EventKind> {
    let events = store.list_events(0, 100).await.expect("events");
    events.iter().map(|event| event.kind).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_claimed_before_its_time_and_told_of_when_it_starts() {
    let Some(Bench { here, there, .. }) = &Bench::new().await else { return };
    let early = claim(here, 5).await;
    assert!(early.claimed.is_empty(), "five seconds are too early");
    assert_eq!(early.next_due, Some(time(9)), "half of the lead before its time");
    let claimed = claim(here, 9).await.claimed.remove(0).run;
    assert_eq!((claimed.scheduled_time, claimed.starts), (time(10), Some(time(10))));
    assert_eq!(kinds(here).await, [EventKind::JobAdded], "nobody hears of it yet");
    assert!(claim(there, 10).await.claimed.is_empty(), "and nobody else claims it");
    let started = vec![Started { run: claimed.id, at: time(10) }];
    turn(here, 10, Turn { started, ..Turn::default() }).await;
    let finished = vec![Finished::of(claimed.id, time(11), Outcome::Succeeded { value: 1.into() })];
    turn(here, 11, Turn { finished, ..Turn::default() }).await;
    let told = [EventKind::JobAdded, EventKind::JobSubmitted, EventKind::JobStarted, EventKind::JobExecuted];
    assert_eq!(kinds(there).await, told);
    let run = there.get_run(claimed.id).await.expect("a read").expect("a run");
    assert_eq!((run.starts, run.state), (None, RunState::Ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_anywhere_takes_it_back_without_a_trace() {
    let Some(Bench { here, there, .. }) = &Bench::new().await else { return };
    for elsewhere in [false, true] {
        let claimed = claim(here, 9).await.claimed.remove(0).run;
        let by = if elsewhere { there } else { here };
        let paused = change(by, 9, Change::Pause { id: id() }).await;
        let recalled = if elsewhere { claim(here, 9).await.recalled } else { paused.recalled };
        assert_eq!(recalled, [claimed.id]);
        turn(here, 9, Turn { withdrawn: recalled, ..Turn::default() }).await;
        assert_eq!(here.get_run(claimed.id).await.expect("a read"), None);
        let state = here.get_job(&id()).await.expect("a read").expect("a job").state;
        assert_eq!((state.next_run_time, state.started, state.running.len()), (Some(time(10)), 0, 0));
        change(there, 9, Change::Resume { id: id() }).await;
    }
    assert!(!kinds(here).await.contains(&EventKind::JobSubmitted));
    assert_eq!(claim(here, 10).await.claimed[0].run.scheduled_time, time(10), "it fires after all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_trigger_takes_it_back_and_a_removal_too() {
    let Some(Bench { here, there, .. }) = &Bench::new().await else { return };
    let claimed = claim(here, 9).await.claimed.remove(0).run;
    let base = here.get_job(&id()).await.expect("a read").and_then(|entry| entry.job).expect("a job");
    let trigger = Trigger::every(Duration::from_secs(7)).expect("an interval");
    let mut job = Box::new((*base).clone());
    job.trigger = trigger;
    change(there, 9, Change::Modify { base, job, first: None }).await;
    let recalled = claim(here, 9).await.recalled;
    assert_eq!(recalled, [claimed.id]);
    turn(here, 9, Turn { withdrawn: recalled, ..Turn::default() }).await;
    let state = here.get_job(&id()).await.expect("a read").expect("a job").state;
    assert_eq!(state.next_run_time, Some(time(16)), "by the new trigger");
    let claimed = claim(here, 15).await.claimed.remove(0).run;
    change(there, 15, Change::Remove { id: id() }).await;
    let recalled = claim(here, 15).await.recalled;
    assert_eq!(recalled, [claimed.id]);
    turn(here, 15, Turn { withdrawn: recalled, ..Turn::default() }).await;
    assert!(here.get_job(&id()).await.expect("a read").is_none(), "it left with its last run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_cancelled_from_another_node() {
    let Some(Bench { here, there, .. }) = &Bench::new().await else { return };
    let claimed = claim(here, 10).await.claimed.remove(0).run;
    change(there, 10, Change::Cancel { run: claimed.id }).await;
    let told = tokio::time::timeout(Duration::from_secs(20), async {
        while !claim(here, 11).await.cancel.contains(&claimed.id) {
            here.changed().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    told.await.expect("its node is told to cancel it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_node_ran_is_taken_over_and_its_own_word_comes_too_late() {
    use sandclock::store::Nodes;
    let Some(Bench { here, there, .. }) = &Bench::new().await else { return };
    let claimed = claim(here, 10).await.claimed.remove(0).run;
    let nodes = there.list_nodes().await.expect("nodes");
    let dead = nodes.iter().find(|node| !node.own).expect("the other one");
    there.evict_node(dead.lease).await.expect("it is known to be dead");
    claim(there, 12).await;
    let run = there.get_run(claimed.id).await.expect("a read").expect("a run");
    assert_eq!(run.outcome, Some(Outcome::Interrupted));
    // It wakes, with a new lease, and says what came of its run.
    let finished = vec![Finished::of(claimed.id, time(13), Outcome::Succeeded { value: 1.into() })];
    let turned = turn(here, 13, Turn { finished, ..Turn::default() }).await;
    assert_eq!(turned.events.iter().map(|event| event.kind).collect::<Vec<_>>(), [EventKind::JobStale]);
    let run = there.get_run(claimed.id).await.expect("a read").expect("a run");
    assert_eq!(run.outcome, Some(Outcome::Interrupted), "and changes nothing");
    let again = claim(here, 20).await.claimed.remove(0).run;
    assert!(again.epoch > claimed.epoch);
}
