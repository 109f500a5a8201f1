//! Several nodes change jobs at once, and servers fall meanwhile: what was acknowledged is there, once.

use crate::servers::{Databases, Files, Server};
use chrono::Utc;
use sandclock::store::{Change, Claim, Conflict, Finished, SharedOptions, Turn};
use sandclock::{Alias, Error, Event, EventKind, Job, JobId, JobStore, Outcome, Page, Trigger};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const JOBS: usize = 40;

fn options(node: &str) -> SharedOptions {
    SharedOptions { node: node.into(), poll: Duration::from_millis(50), ..SharedOptions::default() }
}

fn turn(changes: Vec<Change>) -> Turn {
    let slots = BTreeMap::from([(Alias::default(), 8)]);
    Turn { now: Utc::now(), claim: Claim::Due, slots, changes, ..Turn::default() }
}

/// A job that fires each second, or hourly.
fn job(name: &str, seconds: u64) -> (JobId, Change) {
    let id: JobId = name.parse().expect("a legal id");
    let every = Trigger::every(Duration::from_secs(seconds)).expect("a legal interval");
    let job = Job::new(id.clone(), "m:f".parse().expect("a legal func"), every);
    (id, Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None })
}

/// Adds jobs, changes them, removes every second one, and ends what it claims, as fast as it can.
async fn work(store: &impl JobStore, name: &str) {
    let mut finished: Vec<Finished> = Vec::new();
    for n in 0..JOBS {
        let (id, add) = job(&format!("{name}-{n}"), 1);
        let mut changes = vec![add, Change::Pause { id: id.clone() }, Change::Resume { id: id.clone() }];
        if n % 2 == 1 {
            changes.push(Change::Remove { id });
        }
        for change in changes {
            let turned = store.turn(Turn { finished: std::mem::take(&mut finished), ..turn(vec![change]) }).await;
            let turned = turned.expect("a turn");
            assert!(turned.replies.iter().all(Result::is_ok), "{:?}", turned.replies);
            let end = |run| Finished::of(run, Utc::now(), Outcome::Succeeded { value: true.into() });
            finished.extend(turned.claimed.iter().map(|claimed| end(claimed.run.id)));
        }
    }
    store.turn(Turn { finished, claim: Claim::Nothing, ..turn(Vec::new()) }).await.expect("a turn");
}

async fn all_events(store: &impl JobStore) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    loop {
        let since = events.last().map_or(0, |event| event.seq);
        let more = store.list_events(since, 1000).await.expect("events");
        if more.is_empty() {
            break;
        }
        events.extend(more);
    }
    assert!(events.iter().zip(1..).all(|(event, seq)| event.seq == seq), "events are numbered without gaps");
    events
}

async fn names(store: &impl JobStore) -> BTreeSet<String> {
    let jobs = store.list_jobs(&Default::default(), &Page { limit: 1000, ..Page::default() }).await.expect("a list");
    jobs.items.iter().map(|entry| entry.id.to_string()).collect()
}

async fn work_together<S: JobStore>(server: impl Databases, open: impl AsyncFn(String, SharedOptions) -> S) {
    let url = server.database();
    let open = async |name: &str| open(url.clone(), options(name)).await;
    let stores = [open("a").await, open("b").await, open("c").await];
    let [a, b, c] = &stores;
    tokio::join!(work(a, "a"), work(b, "b"), work(c, "c"));
    let kept: BTreeSet<String> =
        ["a", "b", "c"].iter().flat_map(|name| (0..JOBS).step_by(2).map(move |n| format!("{name}-{n}"))).collect();
    assert_eq!(names(a).await, kept);
    let mut fires = BTreeSet::new();
    for event in all_events(b).await {
        if event.kind == EventKind::JobSubmitted {
            let fire = (event.job_id.clone(), event.run.expect("its run").scheduled_time);
            assert!(fires.insert(fire), "a fire time is claimed once");
        }
    }
    let counts = c.counts().await.expect("counts");
    assert_eq!((counts.jobs, counts.running), (kept.len() as u64, 0));
}

test_on!(nodes_work_together_on_mysql, "mysql", MysqlStore, Server::mariadb(false), work_together);
test_on!(nodes_work_together_on_postgres, "postgres", PostgresStore, Server::postgres(false), work_together);
test_on!(nodes_work_together_on_redis, "redis", RedisStore, Server::redis(false), work_together);
test_on!(nodes_work_together_on_sqlite, "sqlite", SqliteStore, Files::new(), work_together);

async fn keeps_what_it_said<S: JobStore>(mut server: Server, open: impl AsyncFn(String, SharedOptions) -> S) {
    let store = open(server.database(), options("a")).await;
    let falls = tokio::task::spawn_blocking(move || {
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(700));
            server.restart();
        }
        server
    });
    let mut added = BTreeSet::new();
    let since = Instant::now();
    while !falls.is_finished() || since.elapsed() < Duration::from_secs(2) {
        let (id, add) = job(&format!("j{}", added.len()), 3600);
        // It may have been told that the turn failed, and be wrong: then the job is there.
        match store.turn(turn(vec![add])).await {
            Ok(turned) => match &turned.replies[0] {
                Ok(_) | Err(Error::JobExists(_)) => drop(added.insert(id.to_string())),
                Err(error) => panic!("{error}"),
            },
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    let _server = falls.await.expect("it was started again");
    let there = names(&store).await;
    assert!(added.is_subset(&there) && there.len() <= added.len() + 1, "all that was acknowledged is there");
    let told = all_events(&store).await;
    assert_eq!(told.iter().filter(|event| event.kind == EventKind::JobAdded).count(), there.len());
}

test_on!(mysql_falls, "mysql", MysqlStore, Server::mariadb(true), keeps_what_it_said);
test_on!(postgres_falls, "postgres", PostgresStore, Server::postgres(true), keeps_what_it_said);
test_on!(redis_falls, "redis", RedisStore, Server::redis(true), keeps_what_it_said);
