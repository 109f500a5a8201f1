//! What stands alone among the jobs of a store: those of other nodes' executors, and those that something
//! is wrong with.

use crate::servers::{Databases, Server};
use chrono::{DateTime, TimeDelta, Utc};
use sandclock::store::{Change, Claim, Conflict, JobStore, PostgresStore, SharedOptions, Turn, Turned};
use sandclock::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(1_800_000_000)
}

fn alias(name: &str) -> Alias {
    name.parse().expect("an alias")
}

/// How a store is opened.
trait Open: AsyncFn(String, SharedOptions) -> PostgresStore {}
impl<F: AsyncFn(String, SharedOptions) -> PostgresStore> Open for F {}

fn options(node: &str, patience: Duration) -> SharedOptions {
    SharedOptions { node: node.into(), lead: Duration::ZERO, patience, ..SharedOptions::default() }
}

async fn add(store: &PostgresStore, id: &str, executor: &str) {
    let func = "m:f".parse().expect("a func");
    let mut job = Job::new(id.parse().expect("an id"), func, Trigger::at(now() - TimeDelta::seconds(1)));
    job.executor = alias(executor);
    let add = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
    let turned = store.turn(Turn { now: now(), changes: vec![add], ..Turn::default() }).await.expect("a turn");
    assert!(turned.replies[0].is_ok(), "{:?}", turned.replies);
}

async fn claim(store: &PostgresStore, executor: &str) -> Turned {
    let slots = BTreeMap::from([(alias(executor), 8)]);
    store.turn(Turn { now: now(), claim: Claim::Due, slots, ..Turn::default() }).await.expect("a turn")
}

fn claimed(turned: &Turned) -> Vec<&str> {
    turned.claimed.iter().map(|claimed| claimed.job.id.as_str()).collect()
}

async fn status(store: &PostgresStore, id: &str) -> (Status, Option<String>) {
    let entry = store.get_job(&id.parse().expect("an id")).await.expect("an answer").expect("a job");
    (entry.state.status(), entry.state.quarantine)
}

async fn runs_apart(server: Server, open: impl Open) {
    let url = server.database();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut nodes = Vec::new();
    for (node, executor) in [("plain", "default"), ("strong", "gpu")] {
        let store = open(url.clone(), options(node, Duration::from_secs(30))).await;
        let clock: Arc<dyn Clock> = Arc::new(store.clock());
        let scheduler = Scheduler::new(clock.clone());
        let told = told.clone();
        let native = NativeExecutor::new(4, clock).with("m:f".parse().expect("a func"), move |claimed| {
            let _ = told.send((node, claimed.job.id.to_string()));
            async { Ok(serde_json::Value::Null) }
        });
        scheduler.add_executor(alias(executor), Arc::new(native)).await.expect("it is added");
        scheduler.add_jobstore(Alias::default(), Arc::new(store)).await.expect("it is added");
        scheduler.start().await.expect("it starts");
        nodes.push(scheduler);
    }
    let add = async |at: &Scheduler, id: &str, executor: &str| {
        let mut job = Job::new(id.parse().expect("an id"), "m:f".parse().expect("a func"), Trigger::now());
        job.executor = alias(executor);
        at.add_job(job, AddOptions::default()).await
    };
    // Which executors a node has, others know once it has taken a turn.
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while let Err(error) = add(&nodes[0], "a", "gpu").await {
        assert!(tokio::time::Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Err(error) = add(&nodes[1], "b", "default").await {
        assert!(tokio::time::Instant::now() < until, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let nowhere = add(&nodes[0], "c", "none").await.expect_err("nobody has it");
    assert_eq!(nowhere.code(), "executor_not_found");
    let mut ran = Vec::new();
    for _ in 0..2 {
        ran.push(tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.expect("it runs").expect("a run"));
    }
    ran.sort();
    assert_eq!(ran, [("plain", "b".to_owned()), ("strong", "a".to_owned())]);
    for node in nodes {
        node.shutdown(Drain::For(Duration::from_secs(5))).await.expect("it ends");
    }
}

/// A node that brings what a job was quarantined for, while another one is at work that has not heard of it.
async fn comes_back_with_its_executor(server: Server, open: impl Open) {
    let url = server.database();
    let here = Arc::new(open(url.clone(), options("here", Duration::ZERO)).await);
    let turn = |claim, changes| {
        let slots = BTreeMap::from([(Alias::default(), 8)]);
        Turn { now: Utc::now(), claim, slots, changes, ..Turn::default() }
    };
    let every = Trigger::every(Duration::from_secs(1)).expect("an interval");
    let mut job = Job::new("a".parse().expect("an id"), "m:f".parse().expect("a func"), every);
    job.executor = alias("gpu");
    let add = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
    here.turn(turn(Claim::Due, vec![add])).await.expect("a turn");
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while status(&here, "a").await.0 != Status::Quarantined {
        assert!(tokio::time::Instant::now() < until, "nobody has it");
        here.turn(turn(Claim::Due, Vec::new())).await.expect("a turn");
    }
    let store = open(url, options("strong", Duration::ZERO)).await;
    store.announce(&BTreeSet::from([alias("gpu")])).await.expect("it is told");
    let release = Change::Release { id: "a".parse().expect("an id") };
    store.turn(turn(Claim::Nothing, vec![release])).await.expect("a turn");
    for _ in 0..3 {
        here.turn(turn(Claim::Due, Vec::new())).await.expect("a turn");
    }
    assert_eq!(status(&here, "a").await.0, Status::Active, "before anything was claimed for it");
    let works = here.clone();
    let works = tokio::spawn(async move {
        loop {
            works.turn(turn(Claim::Due, Vec::new())).await.expect("a turn");
        }
    });
    let clock: Arc<dyn Clock> = Arc::new(store.clock());
    let scheduler = Scheduler::new(clock.clone());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let native = NativeExecutor::new(4, clock).with("m:f".parse().expect("a func"), move |_| {
        let _ = tell.send(());
        async { Ok(serde_json::Value::Null) }
    });
    scheduler.add_executor(alias("gpu"), Arc::new(native)).await.expect("it is added");
    scheduler.add_jobstore(Alias::default(), Arc::new(store)).await.expect("it is added");
    scheduler.start().await.expect("it starts");
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(20), told.recv()).await.expect("it runs").expect("a run");
    }
    works.abort();
    let of = |kind| move |event: &&Event| event.kind == kind;
    let events = here.list_events(0, 10_000).await.expect("events");
    assert_eq!(events.iter().filter(of(EventKind::JobQuarantined)).count(), 1, "and not again");
    scheduler.shutdown(Drain::For(Duration::from_secs(5))).await.expect("it ends");
}

async fn waits_for_nodes(server: Server, open: impl Open) {
    let url = server.database();
    for (patience, expected) in [(Duration::from_secs(3600), Status::Active), (Duration::ZERO, Status::Quarantined)] {
        let store = open(url.clone(), options("here", patience)).await;
        let id = format!("{expected:?}");
        add(&store, &id, "gpu").await;
        assert!(claim(&store, "default").await.claimed.is_empty());
        assert_eq!(status(&store, &id).await.0, expected);
        store.close().await.expect("it closes");
    }
}

async fn sets_aside_what_cannot_be_read(server: Server, open: impl Open) {
    let url = server.database();
    let store = open(url.clone(), options("here", Duration::ZERO)).await;
    add(&store, "a", "default").await;
    add(&store, "b", "default").await;
    let name = url.rsplit_once('/').expect("a name").1;
    let sound = server.psql(name, "SELECT encode(state, 'hex') FROM sandclock.job WHERE id = 'a'").expect("a state");
    server.psql(name, "UPDATE sandclock.job SET state = '\\xfffe' WHERE id = 'a'").expect("it is spoiled");
    let turned = claim(&store, "default").await;
    assert_eq!(claimed(&turned), ["b"]);
    let told = turned.events.iter().filter(|event| event.kind == EventKind::JobQuarantined);
    assert_eq!(told.map(|event| event.job_id.as_ref().expect("a job").as_str()).collect::<Vec<_>>(), ["a"]);
    let (is, why) = status(&store, "a").await;
    assert_eq!((is, why.as_deref()), (Status::Quarantined, Some("its state cannot be decoded")));
    assert!(claim(&store, "default").await.events.is_empty(), "it is told once");
    let kept = server.psql(name, "SELECT encode(state, 'hex') FROM sandclock.job WHERE id = 'a'");
    assert_eq!(kept.as_deref(), Some("fffe"), "what is stored of it stays as it is");
    // Another program may be able to read it: then it can be released.
    server.psql(name, &format!("UPDATE sandclock.job SET state = '\\x{sound}' WHERE id = 'a'")).expect("it is mended");
    assert_eq!(status(&store, "a").await.0, Status::Quarantined);
    let changes = vec![Change::Release { id: "a".parse().expect("an id") }];
    let turned = store.turn(Turn { now: now(), changes, ..Turn::default() }).await.expect("a turn");
    assert!(turned.replies[0].is_ok(), "{:?}", turned.replies);
    assert_eq!(claimed(&claim(&store, "default").await), ["a"]);
}

async fn sets_aside_what_was_claimed(server: Server, open: impl Open) {
    let url = server.database();
    let store = open(url.clone(), options("here", Duration::ZERO)).await;
    for id in ["a", "b", "c"] {
        add(&store, id, "default").await;
    }
    // As it is when jobs come from an older backup than runs.
    let before = "INSERT INTO sandclock.run (id, job, scheduled, fire, revision, lease, ended, body) \
                  SELECT decode(repeat('00', 16), 'hex'), id, line, 1799999999000000, revision, 0, true, '{}' FROM sandclock.job WHERE id = 'b'";
    server.psql(url.rsplit_once('/').expect("a name").1, before).expect("it is recorded");
    let mut all = Vec::new();
    for _ in 0..6 {
        all.extend(claimed(&claim(&store, "default").await).into_iter().map(str::to_owned));
    }
    all.sort();
    assert_eq!(all, ["a", "c"]);
    let (is, why) = status(&store, "b").await;
    assert_eq!(is, Status::Quarantined);
    assert!(why.expect("a reason").contains("claimed before"));
}

/// The same for a fire time that no run starts for: it is missed.
async fn sets_aside_what_was_missed(server: Server, open: impl Open) {
    let url = server.database();
    let store = open(url.clone(), options("here", Duration::ZERO)).await;
    let func = "m:f".parse().expect("a func");
    let mut job = Job::new("b".parse().expect("an id"), func, Trigger::at(now() - TimeDelta::seconds(1)));
    job.misfire_grace_time = Some(Duration::from_millis(1));
    let change = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
    let early = Turn { now: now() - TimeDelta::seconds(2), changes: vec![change], ..Turn::default() };
    assert!(store.turn(early).await.expect("a turn").replies[0].is_ok());
    add(&store, "a", "default").await;
    let before = "INSERT INTO sandclock.run (id, job, scheduled, fire, revision, lease, ended, body) \
                  SELECT decode(repeat('00', 16), 'hex'), id, line, line, revision, 0, true, '{}' \
                  FROM sandclock.job WHERE id = 'b'";
    server.psql(url.rsplit_once('/').expect("a name").1, before).expect("it is recorded");
    assert_eq!(claimed(&claim(&store, "default").await), ["a"]);
    assert_eq!(status(&store, "b").await.0, Status::Quarantined);
}

/// Runs of a node that is gone end whatever is left of them and of their jobs, and are no obstacle.
async fn takes_over_what_is_damaged(server: Server, open: impl Open) {
    let url = server.database();
    let name = url.rsplit_once('/').expect("a name").1;
    let leased = |node: &str| SharedOptions { lease: Duration::from_secs(1), ..options(node, Duration::ZERO) };
    let gone = open(url.clone(), leased("gone")).await;
    let ids = ["state", "record", "job", "sound"];
    for id in ids {
        add(&gone, id, "default").await;
    }
    assert_eq!(claim(&gone, "default").await.claimed.len(), ids.len());
    let idle = open(url.clone(), leased("idle")).await;
    claim(&idle, "default").await;
    drop((gone, idle));
    for spoil in [
        "UPDATE sandclock.job SET state = '\\xfffe' WHERE id = 'state'",
        "UPDATE sandclock.run SET body = '?' WHERE job = 'record'",
        "DELETE FROM sandclock.job WHERE id = 'job'",
        "INSERT INTO sandclock.record VALUES ('plugin', 'spoiled', '?', 0)",
        "UPDATE sandclock.counter SET value = value + 1 WHERE name = 'catalog'",
    ] {
        server.psql(name, spoil).expect("it is spoiled");
    }
    let here = open(url.clone(), leased("here")).await;
    let mut events = Vec::new();
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    let left = |sql| server.psql(name, sql).expect("an answer").trim().to_owned();
    while left("SELECT count(*) FROM sandclock.lease") != "1" {
        assert!(tokio::time::Instant::now() < until, "both leases are taken over");
        tokio::time::sleep(Duration::from_millis(20)).await;
        events.extend(claim(&here, "default").await.events);
    }
    assert_eq!(left("SELECT count(*) FROM sandclock.run WHERE NOT ended"), "0");
    let of = |kind| events.iter().filter(move |event| event.kind == kind);
    assert_eq!(of(EventKind::NodeLost).count(), 2, "each is told once, also of the one that had nothing: {events:#?}");
    assert_eq!(of(EventKind::JobInterrupted).count(), ids.len(), "{events:#?}");
}

test_on!(
    a_fire_time_that_was_missed_before_stops_its_job_alone,
    "postgres",
    PostgresStore,
    Server::postgres(false),
    sets_aside_what_was_missed
);
test_on!(
    what_a_dead_node_left_is_taken_over_however_damaged,
    "postgres",
    PostgresStore,
    Server::postgres(false),
    takes_over_what_is_damaged
);
test_on!(
    a_job_runs_where_its_executor_is_and_is_added_anywhere,
    "postgres",
    PostgresStore,
    Server::postgres(false),
    runs_apart
);
test_on!(
    a_job_comes_back_with_the_node_that_has_its_executor,
    "postgres",
    PostgresStore,
    Server::postgres(false),
    comes_back_with_its_executor
);
test_on!(
    a_node_that_is_away_for_a_moment_quarantines_nothing,
    "postgres",
    PostgresStore,
    Server::postgres(false),
    waits_for_nodes
);
test_on!(
    a_job_that_cannot_be_read_is_quarantined_as_it_is_and_holds_up_no_other,
    "postgres",
    PostgresStore,
    Server::postgres(false),
    sets_aside_what_cannot_be_read
);
test_on!(
    a_fire_time_that_was_claimed_before_stops_its_job_alone,
    "postgres",
    PostgresStore,
    Server::postgres(false),
    sets_aside_what_was_claimed
);
