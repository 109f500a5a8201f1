//! Both stores keep the contract, and the sled store keeps it over restarts.

use chrono::{DateTime, TimeDelta, Utc};
use sandclock::store::{
    Change, Claim, Conflict, Finished, JobStore, Page, Retention, RunFilter, SecretStore, SledOptions, Turn, Turned,
    conformance,
};
use sandclock::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn open(home: &std::path::Path) -> SledStore {
    SledStore::open(home, SledOptions::default(), time(0)).unwrap()
}

async fn turn(store: &impl JobStore, at: i64, turn: Turn) -> Turned {
    let slots = BTreeMap::from([(Alias::default(), 8)]);
    store.turn(Turn { now: time(at), slots, ..turn }).await.unwrap()
}

async fn add(store: &impl JobStore, job: Job) {
    let change = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
    turn(store, 0, Turn { changes: vec![change], ..Turn::default() }).await.replies.remove(0).unwrap();
}

fn job(id: &str, trigger: Trigger) -> Job {
    Job::new(id.parse().unwrap(), "m:f".parse().unwrap(), trigger)
}

fn ended(run: RunId, at: i64) -> Finished {
    Finished { started: Some(time(at)), ..Finished::of(run, time(at), Outcome::Succeeded { value: json!(1) }) }
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    conformance::check(async || MemoryStore::new(Alias::default(), "test")).await;
}

#[tokio::test]
async fn the_sled_store_keeps_the_contract() {
    let home = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::check(async || {
        count.set(count.get() + 1);
        open(&home.path().join(count.get().to_string()))
    })
    .await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    add(&store, job("a", Trigger::every(Duration::from_secs(10)).unwrap())).await;
    let mut big = job("b", Trigger::at(time(500)));
    big.args = vec![json!("x".repeat(100_000))];
    add(&store, big).await;
    let run = turn(&store, 10, Turn { claim: Claim::Due, ..Turn::default() }).await.claimed.remove(0).run;
    turn(&store, 11, Turn { finished: vec![ended(run.id, 11)], ..Turn::default() }).await;
    let before = (store.get_run(run.id).await.unwrap(), store.list_events(0, 100).await.unwrap());
    drop(store);

    let store = open(home.path());
    assert_eq!((store.get_run(run.id).await.unwrap(), store.list_events(0, 100).await.unwrap()), before);
    let a = store.get_job(&"a".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(a.state.next_run_time, Some(time(20)));
    let b = store.get_job(&"b".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(b.job.unwrap().args[0].as_str().unwrap().len(), 100_000);
    let next = turn(&store, 20, Turn { claim: Claim::Due, ..Turn::default() }).await.claimed.remove(0).run;
    assert!(next.id > run.id, "ids go on");
}

#[tokio::test]
async fn what_a_dead_process_left_running_is_interrupted() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    add(&store, job("once", Trigger::at(time(5)))).await;
    let mut again = job("again", Trigger::at(time(5)));
    again.on_interrupted = OnInterrupted::Rerun;
    add(&store, again).await;
    let claimed = turn(&store, 5, Turn { claim: Claim::Due, ..Turn::default() }).await.claimed;
    assert_eq!(claimed.len(), 2);
    drop(store);

    let store = open(home.path());
    for claimed in &claimed {
        let run = store.get_run(claimed.run.id).await.unwrap().unwrap();
        assert_eq!(run.outcome, Some(Outcome::Interrupted));
    }
    let rerun = turn(&store, 6, Turn { claim: Claim::Due, ..Turn::default() }).await.claimed;
    assert_eq!(rerun.len(), 1, "at most once is the default");
    assert_eq!((rerun[0].run.job_id.as_str(), rerun[0].run.attempt), ("again", 2));
    assert!(store.get_job(&"once".parse().unwrap()).await.unwrap().is_none(), "it is finished");
}

#[tokio::test]
async fn an_interval_keeps_its_grid_over_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let fine = time(0) + TimeDelta::nanoseconds(123_456_789);
    let job = job("a", Trigger::every(Duration::from_secs(10)).unwrap());
    let change = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
    store.turn(Turn { now: fine, changes: vec![change], ..Turn::default() }).await.unwrap();
    drop(store);
    let store = open(home.path());
    let run = turn(&store, 11, Turn { claim: Claim::Due, ..Turn::default() }).await.claimed.remove(0).run;
    turn(&store, 11, Turn { finished: vec![ended(run.id, 11)], ..Turn::default() }).await;
    let next = store.get_job(&"a".parse().unwrap()).await.unwrap().unwrap().state.next_run_time.unwrap();
    assert_eq!(next - run.scheduled_time, TimeDelta::seconds(10));
    assert_eq!(run.coalesced, 0);
}

#[tokio::test]
async fn a_second_process_is_told_who_holds_the_directory() {
    let home = tempfile::tempdir().unwrap();
    let _first = open(home.path());
    let error = SledStore::open(home.path(), SledOptions::default(), time(0)).err().unwrap();
    assert!(matches!(error, Error::StoreHeld { .. }));
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
}

#[tokio::test]
async fn history_is_pruned_and_the_disk_stays_flat() {
    let home = tempfile::tempdir().unwrap();
    let retention = Retention { runs_per_job: 20, events: 200, ..Retention::default() };
    let options = SledOptions { retention, ..SledOptions::default() };
    let store = SledStore::open(home.path(), options.clone(), time(0)).unwrap();
    add(&store, job("fast", Trigger::every(Duration::from_secs(1)).unwrap())).await;
    add(&store, job("slow", Trigger::every(Duration::from_secs(300)).unwrap())).await;
    for at in 1..=1500 {
        let claimed = turn(&store, at, Turn { claim: Claim::Due, ..Turn::default() }).await.claimed;
        let finished = claimed.iter().map(|claimed| ended(claimed.run.id, at)).collect();
        turn(&store, at, Turn { finished, ..Turn::default() }).await;
    }
    let check = async |store: &SledStore| {
        let of = async |job: &str| {
            let filter = RunFilter { job: Some(job.parse().unwrap()), ..RunFilter::default() };
            store.list_runs(&filter, &Page { after: None, limit: 1000 }).await.unwrap().items.len()
        };
        assert_eq!((of("fast").await, of("slow").await), (20, 5), "a flood does not push out the rare job");
        let events = store.list_events(0, 1000).await.unwrap();
        assert!((200..260).contains(&events.len()), "{}", events.len());
    };
    check(&store).await;
    drop(store);
    let store = SledStore::open(home.path(), options, time(1500)).unwrap();
    check(&store).await;
    let age = time(1500) + TimeDelta::days(31);
    let slots = BTreeMap::from([(Alias::default(), 8)]);
    store.turn(Turn { now: age, slots, claim: Claim::Due, ..Turn::default() }).await.unwrap();
    assert_eq!(store.counts().await.unwrap().runs, 0, "nothing is kept longer than its age");
}

#[tokio::test]
async fn states_and_secrets_are_there_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let job = Job::new("a".parse().unwrap(), "m:f".parse().unwrap(), Trigger::every(Duration::from_secs(10)).unwrap());
    let add = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
    let slots = BTreeMap::from([(Alias::default(), 1)]);
    let turn = Turn { now: time(0), changes: vec![add], slots: slots.clone(), ..Turn::default() };
    store.turn(turn).await.unwrap();
    let claim = Turn { now: time(10), claim: Claim::Due, slots: slots.clone(), ..Turn::default() };
    let run = store.turn(claim).await.unwrap().claimed.remove(0).run.id;
    let values = ValueChanges([("k".to_owned(), Some(vec![1, 2]))].into());
    let finished = Finished { values, ..ended(run, 11) };
    store.turn(Turn { now: time(11), finished: vec![finished], ..Turn::default() }).await.unwrap();
    let name = "token".parse().unwrap();
    store.put_secret(&name, Secret::from("s3cr3t-value")).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = open(home.path());
    assert_eq!(store.secret(&name).await.unwrap(), Some(Secret::from("s3cr3t-value")));
    let claim = Turn { now: time(20), claim: Claim::Due, slots, ..Turn::default() };
    let claimed = store.turn(claim).await.unwrap().claimed.remove(0);
    assert_eq!(*claimed.values, [("k".to_owned(), vec![1, 2])].into());
    assert!(store.remove_secret(&name).await.unwrap() && !store.remove_secret(&name).await.unwrap());
}

#[tokio::test]
async fn a_format_of_the_future_is_refused() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    let db = sled::open(home.path().join("db")).unwrap();
    let format = 4u32.to_le_bytes();
    let value = [crc32fast::hash(&format).to_le_bytes(), format].concat();
    db.open_tree("meta").unwrap().insert("format", value).unwrap();
    db.flush().unwrap();
    drop(db);
    let error = SledStore::open(home.path(), SledOptions::default(), time(0)).err().unwrap();
    assert!(matches!(error, Error::StoreFormat { found: 4, known: 3, .. }), "{error}");
}

#[tokio::test]
async fn what_was_promised_and_taken_back_in_one_turn_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let own = || Some(std::sync::Arc::new(Arguments { args: vec![json!("x".repeat(9000))], ..Arguments::default() }));
    let store = open(home.path());
    add(&store, job("a", Trigger::every(Duration::from_secs(60)).unwrap())).await;
    let id: JobId = "a".parse().unwrap();
    let run = Change::Run { id: id.clone(), arguments: own() };
    let changes = vec![run, Change::Remove { id: id.clone() }];
    let replies = turn(&store, 1, Turn { changes, ..Turn::default() }).await.replies;
    let Ok(store::Reply::Run(run)) = &replies[0] else { panic!("{replies:?}") };
    let ended = store.get_run(*run).await.unwrap().unwrap();
    assert_eq!((ended.outcome, ended.arguments), (Some(Outcome::Cancelled), own()), "the record has them");
    add(&store, job("b", Trigger::every(Duration::from_secs(60)).unwrap())).await;
    store.close().await.unwrap();
    drop(store);
    let store = open(home.path());
    assert!(store.get_job(&"b".parse().unwrap()).await.unwrap().is_some());
    assert!(store.get_job(&id).await.unwrap().is_none());
}

#[tokio::test]
async fn runs_keep_their_arguments_over_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let own = std::sync::Arc::new(Arguments { args: vec![json!("x".repeat(9000))], ..Arguments::default() });
    let store = open(home.path());
    add(&store, job("a", Trigger::every(Duration::from_secs(60)).unwrap())).await;
    let run = Change::Run { id: "a".parse().unwrap(), arguments: Some(own.clone()) };
    turn(&store, 1, Turn { changes: vec![run], ..Turn::default() }).await;
    drop(store);
    let store = open(home.path());
    let turned = turn(&store, 2, Turn { claim: Claim::Due, ..Turn::default() }).await;
    assert_eq!(turned.claimed[0].job.args, own.args);
    assert_eq!(turned.claimed[0].run.arguments.as_ref(), Some(&own));
}
