//! Where one node claims at a time, the others stand by, and one of them takes over when its process is
//! gone.

use crate::servers::{Databases, Files, Server};
use chrono::{DateTime, TimeDelta, Utc};
use sandclock::store::{Change, Claim, Conflict, Nodes, SharedOptions, Turn};
use sandclock::{Alias, EventKind, Job, JobId, JobStore, Outcome, Trigger};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LEASE: Duration = Duration::from_secs(1);

fn options(node: &str) -> SharedOptions {
    let poll = Duration::from_millis(50);
    SharedOptions { node: node.into(), lease: LEASE, poll, ..SharedOptions::default() }
}

/// A job that is due once, now.
fn due(name: &str) -> (JobId, Turn) {
    let id: JobId = name.parse().expect("a legal id");
    let at = Utc::now() - TimeDelta::seconds(1);
    let job = Job::new(id.clone(), "m:f".parse().expect("a legal func"), Trigger::at(at));
    let add = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: Some(at) };
    (id, Turn { changes: vec![add], ..claim() })
}

fn claim() -> Turn {
    let now: DateTime<Utc> = Utc::now();
    Turn { now, claim: Claim::Due, slots: BTreeMap::from([(Alias::default(), 8)]), ..Turn::default() }
}

async fn stands_by<S: JobStore + Nodes>(server: impl Databases, open: impl AsyncFn(String, SharedOptions) -> S) {
    let url = server.database();
    let first = open(url.clone(), options("first")).await;
    let second = open(url.clone(), options("second")).await;
    let (_, add) = due("one");
    let run = first.turn(add).await.expect("a turn").claimed.remove(0).run;
    let (two, add) = due("two");
    let turned = second.turn(add).await.expect("who stands by may change jobs");
    assert!(turned.replies[0].is_ok() && turned.claimed.is_empty(), "and claims none");
    let claims = async || {
        let nodes = second.list_nodes().await.expect("a read");
        nodes.into_iter().filter(|node| node.claims).map(|node| node.name).collect::<Vec<_>>()
    };
    assert_eq!(claims().await, ["first"]);

    let gone = Instant::now();
    drop(first);
    let claimed = loop {
        let turned = second.turn(claim()).await.expect("a turn");
        if let Some(claimed) = turned.claimed.into_iter().next() {
            break claimed;
        }
        assert!(gone.elapsed() < LEASE * 3 / 2, "the second takes over in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(gone.elapsed() > LEASE / 2, "and not before the first has run out");
    assert_eq!(claimed.job.id, two);
    let of_the_first = second.get_run(run.id).await.expect("a read").expect("it is kept");
    assert_eq!(of_the_first.outcome, Some(Outcome::Interrupted));
    assert_eq!(claims().await, ["second"]);
    second.close().await.expect("it closes");
}

/// What is due again meanwhile has nothing in its way.
async fn ends_what_the_dead_ran_before_it_claims<S: JobStore + Nodes>(
    server: impl Databases,
    open: impl AsyncFn(String, SharedOptions) -> S,
) {
    let url = server.database();
    let lives = async |store: &S, name: &str| {
        let trigger = Trigger::every(Duration::from_secs(1)).expect("an interval");
        let job = Job::new(name.parse().expect("a legal id"), "m:f".parse().expect("a legal func"), trigger);
        let add = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
        store.turn(Turn { changes: vec![add], ..claim() }).await.expect("a turn");
        let since = Instant::now();
        while store.turn(claim()).await.expect("a turn").claimed.is_empty() {
            assert!(since.elapsed() < LEASE * 3, "it is claimed in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let first = open(url.clone(), options("first")).await;
    lives(&first, "one").await;
    drop(first);
    let second = open(url.clone(), options("second")).await;
    lives(&second, "two").await;
    drop(second);
    tokio::time::sleep(LEASE * 3 / 2).await;
    let third = open(url, options("third")).await;
    let (mut told, mut claimed) = (Vec::new(), 0);
    let since = Instant::now();
    while claimed < 2 {
        let turned = third.turn(claim()).await.expect("a turn");
        told.extend(turned.events.into_iter().map(|event| event.kind));
        claimed += turned.claimed.len();
        assert!(since.elapsed() < LEASE * 3, "it takes over in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!told.contains(&EventKind::JobMaxInstances), "{told:?}");
    third.close().await.expect("it closes");
}

/// A node without executors, which serves the API perhaps, is there first.
async fn leaves_the_right_to_who_can_run<S: JobStore + Nodes>(
    server: impl Databases,
    open: impl AsyncFn(String, SharedOptions) -> S,
) {
    let url = server.database();
    let serves = open(url.clone(), options("serves")).await;
    let look = || Turn { slots: BTreeMap::new(), ..claim() };
    serves.turn(look()).await.expect("a turn");
    let runs = open(url, options("runs")).await;
    let (one, add) = due("one");
    let mut claimed = runs.turn(add).await.expect("a turn").claimed;
    let since = Instant::now();
    while claimed.is_empty() {
        assert!(since.elapsed() < LEASE * 3, "the right is given back in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
        serves.turn(look()).await.expect("a turn");
        claimed = runs.turn(claim()).await.expect("a turn").claimed;
    }
    assert_eq!(claimed[0].job.id, one);
}

test_on!(
    nobody_holds_the_right_in_vain_on_mysql,
    "mysql",
    MysqlStore,
    Server::mariadb(false),
    leaves_the_right_to_who_can_run
);
test_on!(
    nobody_holds_the_right_in_vain_on_sqlite,
    "sqlite",
    SqliteStore,
    Files::new(),
    leaves_the_right_to_who_can_run
);
test_on!(
    nobody_holds_the_right_in_vain_on_redis,
    "redis",
    RedisStore,
    Server::redis(false),
    leaves_the_right_to_who_can_run
);
test_on!(one_claims_on_mysql, "mysql", MysqlStore, Server::mariadb(false), stands_by);
test_on!(one_claims_on_sqlite, "sqlite", SqliteStore, Files::new(), stands_by);
test_on!(one_claims_on_redis, "redis", RedisStore, Server::redis(false), stands_by);
test_on!(
    the_dead_are_in_nobodys_way_on_mysql,
    "mysql",
    MysqlStore,
    Server::mariadb(false),
    ends_what_the_dead_ran_before_it_claims
);
test_on!(
    the_dead_are_in_nobodys_way_on_postgres,
    "postgres",
    PostgresStore,
    Server::postgres(false),
    ends_what_the_dead_ran_before_it_claims
);
test_on!(
    the_dead_are_in_nobodys_way_on_redis,
    "redis",
    RedisStore,
    Server::redis(false),
    ends_what_the_dead_ran_before_it_claims
);
test_on!(
    the_dead_are_in_nobodys_way_on_sqlite,
    "sqlite",
    SqliteStore,
    Files::new(),
    ends_what_the_dead_ran_before_it_claims
);
