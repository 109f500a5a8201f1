//! No more runs of a job are kept than its store is to keep.

use crate::servers::{Databases, Files, Server};
use chrono::Utc;
use sandclock::store::{Change, Claim, Conflict, Finished, Nodes, Page, Retention, RunFilter, SharedOptions, Turn};
use sandclock::{Alias, Job, JobStore, Outcome, Trigger};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const KEPT: usize = 2;

async fn forgets<S: JobStore + Nodes>(server: impl Databases, open: impl AsyncFn(String, SharedOptions) -> S) {
    let retention = Retention { runs_per_job: KEPT, ..Retention::default() };
    let store = open(server.database(), SharedOptions { retention, ..SharedOptions::default() }).await;
    let turn = || Turn {
        now: Utc::now(),
        claim: Claim::Due,
        slots: BTreeMap::from([(Alias::default(), 8)]),
        ..Turn::default()
    };
    let hourly = Trigger::every(Duration::from_secs(3600)).expect("an interval");
    let job = Job::new("a".parse().expect("an id"), "m:f".parse().expect("a func"), hourly);
    let add = Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None };
    store.turn(Turn { changes: vec![add], ..turn() }).await.expect("a turn");
    for _ in 0..KEPT + 3 {
        let run = Change::Run { id: "a".parse().expect("an id"), arguments: None };
        let claimed = store.turn(Turn { changes: vec![run], ..turn() }).await.expect("a turn").claimed.remove(0);
        let ended = Finished::of(claimed.run.id, Utc::now(), Outcome::Cancelled);
        store.turn(Turn { finished: vec![ended], ..turn() }).await.expect("a turn");
    }
    let since = Instant::now();
    let page = Page { after: None, limit: 100 };
    while store.list_runs(&RunFilter::default(), &page).await.expect("a read").items.len() != KEPT {
        assert!(since.elapsed() < Duration::from_secs(20), "what is more than is kept goes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.close().await.expect("it closes");
}

test_on!(runs_that_are_too_many_go_on_postgres, "postgres", PostgresStore, Server::postgres(false), forgets);
test_on!(runs_that_are_too_many_go_on_mysql, "mysql", MysqlStore, Server::mariadb(false), forgets);
test_on!(runs_that_are_too_many_go_on_sqlite, "sqlite", SqliteStore, Files::new(), forgets);
test_on!(runs_that_are_too_many_go_on_redis, "redis", RedisStore, Server::redis(false), forgets);
