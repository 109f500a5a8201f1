//! Many nodes on one PostgreSQL, each figure beside its baseline in the same run. A server of its own is
//! started, with its files on the disk and every commit waiting for it.
//!
//! `cargo bench --bench nodes` runs all of it; `-- nodes pgbench jobs snapshot late takeover peers` picks
//! parts, and `RUNS=20000` makes it smaller. Each ratio has an aim and a bound; a ratio that is out of
//! bounds ends it with an error.

#[path = "../tests/servers/mod.rs"]
mod servers;

use chrono::{DateTime, TimeDelta, Utc};
use sandclock::store::{Change, Claim, Conflict, Nodes, PostgresStore, SharedOptions, SledOptions, Turn};
use sandclock::*;
use servers::{Databases, Server};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SLOTS: usize = 512;

/// A ratio beside a baseline of the same run.
enum Ratio {
    AtLeast { aim: f64, bound: f64 },
    AtMost { aim: f64, bound: f64 },
}

use Ratio::{AtLeast, AtMost};

/// Ratios that are out of bounds.
#[derive(Default)]
struct Missed(Vec<String>);

impl Missed {
    fn judge(&mut self, what: &str, is: f64, wanted: Ratio) {
        let (within, aim, bound) = match wanted {
            AtLeast { aim, bound } => (is >= bound, format!("at least {aim}"), format!("at least {bound}")),
            AtMost { aim, bound } => (is <= bound, format!("at most {aim}"), format!("at most {bound}")),
        };
        println!("    {what}: {is:.2} (aim: {aim})");
        if !within {
            self.0.push(format!("{what}: {is:.2}, which should be {bound}"));
        }
    }
}

fn main() {
    let mut missed = Missed::default();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(60_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = Server::postgres(true);
    let mut one = 0.0;
    if wants("nodes") || wants("pgbench") || wants("peers") {
        let [first, two, four] = [1, 2, 4].map(|nodes| {
            let rate = runtime.block_on(fire(&server.database(), nodes, runs));
            println!("{nodes} nodes: {rate:.0} firings a second");
            rate
        });
        one = first;
        // The nodes and the database have two cores together.
        missed.judge("2 nodes beside one", two / one, AtLeast { aim: 1.5, bound: 1.2 });
        missed.judge("4 nodes beside one", four / one, AtLeast { aim: 1.5, bound: 1.2 });
    }
    if wants("pgbench") {
        let rate = pgbench(&server);
        println!("pgbench, the statements of a turn of 256 ends and 256 claims: {rate:.0} firings a second");
        missed.judge("one node beside pgbench", one / rate, AtLeast { aim: 0.7, bound: 0.45 });
    }
    if wants("jobs") {
        let small = runtime.block_on(among(&server.database(), 1_000, runs / 3));
        let large = runtime.block_on(among(&server.database(), 1_000_000, runs / 3));
        println!("among 10^3 jobs {small:.0}, among 10^6 jobs {large:.0} firings a second");
        missed.judge("the cost among 10^6 beside 10^3", small / large, AtMost { aim: 1.2, bound: 1.2 });
    }
    if wants("snapshot") {
        let url = server.database();
        let normal = runtime.block_on(fire(&url, 1, runs / 2));
        let name = url.rsplit_once('/').unwrap().1.to_owned();
        let port = server.port.to_string();
        let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sandclock.job; SELECT pg_sleep(120)";
        let mut held = Command::new("psql")
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "sandclock", "-d", &name, "-qc", hold])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        // Once so that what is dead piles up, and once more.
        runtime.block_on(fire(&url, 1, runs / 2));
        let under = runtime.block_on(fire(&url, 1, runs / 2));
        let _ = (held.kill(), held.wait());
        println!("with a held snapshot {under:.0}, without {normal:.0} firings a second");
        missed.judge("with a held snapshot beside without", under / normal, AtLeast { aim: 0.9, bound: 0.9 });
    }
    if wants("late") {
        let times = runtime.block_on(lateness(&server));
        missed.judge("p99 beside the embedded store", times, AtMost { aim: 2.0, bound: 2.0 });
    }
    if wants("takeover") {
        let leases = runtime.block_on(takeover(&server));
        missed.judge("takeover in lease times, at most", leases, AtMost { aim: 1.3, bound: 1.3 });
    }
    if wants("peers") {
        for (version, jobs, bound) in [("3", "2000", 4.0), ("4", "1000", 25.0)] {
            let rate = peer(&server, version, jobs);
            println!("APScheduler {version}: {rate:.0} firings a second");
            missed.judge("one node beside it", one / rate, AtLeast { aim: 50.0, bound });
        }
    }
    assert!(missed.0.is_empty(), "out of bounds: {:#?}", missed.0);
}

async fn connect(url: &str, node: &str) -> PostgresStore {
    let options = SharedOptions { node: node.into(), ..SharedOptions::default() };
    PostgresStore::connect(url, options).await.unwrap()
}

/// Adds jobs at a time, a thousand in a turn.
async fn add(
    store: &dyn JobStore,
    ids: impl Iterator<Item = String>,
    now: DateTime<Utc>,
    trigger: impl Fn(usize) -> Trigger,
) {
    let mut changes = Vec::new();
    let mut ids = ids.enumerate().peekable();
    while let Some((n, id)) = ids.next() {
        let job = Box::new(Job::new(id.parse().unwrap(), "m:f".parse().unwrap(), trigger(n)));
        changes.push(Change::Add { job, paused: false, conflict: Conflict::Replace, first: None });
        if changes.len() == 1000 || ids.peek().is_none() {
            let turn = Turn { now, changes: std::mem::take(&mut changes), ..Turn::default() };
            for reply in store.turn(turn).await.unwrap().replies {
                reply.unwrap();
            }
        }
    }
}

/// Firings a second of so many nodes that find so many jobs due.
async fn fire(url: &str, nodes: usize, runs: usize) -> f64 {
    let first = connect(url, "loader").await;
    let due = Utc::now() - TimeDelta::seconds(5);
    let batch = Utc::now().timestamp_micros();
    // Each fires once here, and would again.
    let hourly = |_| Trigger::every(Duration::from_secs(3600)).unwrap().start(due);
    add(&first, (0..runs).map(|n| format!("j{batch}-{n}")), due, hourly).await;
    first.close().await.unwrap();
    drain(url, nodes, runs).await
}

async fn drain(url: &str, nodes: usize, runs: usize) -> f64 {
    let ended = Arc::new(AtomicUsize::new(0));
    let mut schedulers = Vec::new();
    for n in 0..nodes {
        let store = connect(url, &format!("node{n}")).await;
        let clock: Arc<dyn Clock> = Arc::new(store.clock());
        let scheduler = Scheduler::new(clock.clone());
        let counted = ended.clone();
        let executor = NativeExecutor::new(SLOTS, clock).with("m:f".parse().unwrap(), move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok(serde_json::Value::Null) }
        });
        scheduler.add_executor(Alias::default(), Arc::new(executor)).await.unwrap();
        scheduler.add_jobstore(Alias::default(), Arc::new(store)).await.unwrap();
        schedulers.push(scheduler);
    }
    let begun = Instant::now();
    for scheduler in &schedulers {
        scheduler.start().await.unwrap();
    }
    while ended.load(Ordering::Relaxed) < runs {
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(begun.elapsed() < Duration::from_secs(300), "{ended:?} of {runs}");
    }
    let rate = runs as f64 / begun.elapsed().as_secs_f64();
    for scheduler in schedulers {
        scheduler.shutdown(Drain::For(Duration::from_secs(10))).await.unwrap();
    }
    rate
}

/// The same among so many jobs that only wait.
async fn among(url: &str, jobs: usize, runs: usize) -> f64 {
    let store = connect(url, "loader").await;
    let far = Utc::now() + TimeDelta::days(300);
    add(&store, (0..jobs).map(|n| format!("idle{n}")), Utc::now(), |n| Trigger::at(far + TimeDelta::seconds(n as i64)))
        .await;
    store.close().await.unwrap();
    fire(url, 1, runs).await
}

/// The statements of turns that each record 256 ends and claim 256 runs, by pgbench with one connection:
/// what the server can do.
fn pgbench(server: &Server) -> f64 {
    let url = server.database();
    let name = url.rsplit_once('/').unwrap().1;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let due = Utc::now() - TimeDelta::days(1);
    runtime.block_on(async {
        let store = connect(&url, "loader").await;
        let hourly = |_| Trigger::every(Duration::from_secs(3600)).unwrap();
        add(&store, (0..60_000).map(|n| format!("j{n}")), due, hourly).await;
        store.close().await.unwrap();
    });
    let due = due.timestamp_micros();
    server.psql(name, &format!("UPDATE sandclock.job SET line = {due}")).unwrap();
    server.psql(name, "VACUUM ANALYZE sandclock.job").unwrap();
    server.psql(name, "INSERT INTO sandclock.turn VALUES (0, 0, 0); INSERT INTO sandclock.lease VALUES (0, 'b', '{}', 9e18, false)").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("turn.sql");
    let body = "x".repeat(420);
    std::fs::write(
        &script,
        format!(
            "BEGIN;
SELECT 1 FROM sandclock.lease WHERE lease = 0 AND NOT fenced AND until > sandclock.micros() FOR KEY SHARE;
SELECT 1 FROM sandclock.turn WHERE lease = 0 FOR UPDATE;
SELECT * FROM sandclock.job WHERE id = ANY(:prev::text[]) ORDER BY id FOR UPDATE;
SELECT array_agg(id)::text AS ids FROM (SELECT id FROM sandclock.job WHERE lane = 'default' AND priority = 0 AND line >= {due} AND line <= {due} + 1000000 ORDER BY line, ticket, id LIMIT 256 FOR UPDATE SKIP LOCKED) r \\gset
SELECT * FROM sandclock.job WHERE alarm <= 0 ORDER BY alarm LIMIT 256 FOR UPDATE SKIP LOCKED;
SELECT * FROM sandclock.job WHERE wake <= -1 ORDER BY wake LIMIT 256 FOR UPDATE SKIP LOCKED;
SELECT * FROM sandclock.job WHERE manual <= 0 ORDER BY manual LIMIT 256 FOR UPDATE SKIP LOCKED;
SELECT min(line) FROM (SELECT line FROM sandclock.job WHERE lane = 'default' AND priority = 0 AND line > {due} + 1000000 ORDER BY line, ticket, id LIMIT 1) r;
SELECT 0, id, alarm FROM (SELECT id, alarm FROM sandclock.job WHERE alarm > 0 ORDER BY alarm LIMIT 8) a UNION ALL SELECT 1, id, wake FROM (SELECT id, wake FROM sandclock.job WHERE wake > 0 ORDER BY wake LIMIT 8) b UNION ALL SELECT 2, id, manual FROM (SELECT id, manual FROM sandclock.job WHERE manual > 0 ORDER BY manual LIMIT 8) c;
SELECT nextval('sandclock.epoch') AS e \\gset
SELECT id, body FROM sandclock.definition WHERE id = ANY(:ids::text[]);
UPDATE sandclock.job SET line = line + 3600000000, revision = job.revision, ticket = 0, waiting = false, status = 0, state = convert_to(repeat('s', 80), 'UTF8') FROM unnest(:ids::text[]) r(i) WHERE id = r.i;
UPDATE sandclock.job SET revision = job.revision, ticket = 0, waiting = false, status = 0, state = convert_to(repeat('s', 40), 'UTF8') FROM unnest(:prev::text[]) r(i) WHERE id = r.i;
INSERT INTO sandclock.run (id, job, scheduled, fire, revision, lease, ended, body) SELECT convert_to(i || ':' || :e, 'UTF8'), i, :e, :e, 0, 0, false, convert_to('{body}', 'UTF8') FROM unnest(:ids::text[]) r(i);
INSERT INTO sandclock.run (id, job, scheduled, fire, revision, lease, ended, outcome, body) SELECT convert_to(i || ':' || :last, 'UTF8'), i, :e, :last, 0, 0, true, 0, convert_to('{body}', 'UTF8') FROM unnest(:prev::text[]) r(i) ON CONFLICT (id) DO UPDATE SET ended = excluded.ended, outcome = excluded.outcome, body = excluded.body;
WITH c AS (UPDATE sandclock.counter SET value = value + 768 WHERE name = 'event' RETURNING value - 767 AS first), t AS (UPDATE sandclock.turn SET number = number + 1 WHERE lease = 0) INSERT INTO sandclock.event SELECT first, 768, convert_to(repeat('e', 60000), 'UTF8') FROM c;
COMMIT;
\\set last :e
SELECT :ids::text AS prev \\gset
"
        ),
    )
    .unwrap();
    let output = Command::new(servers::postgres_program("pgbench"))
        // As the store has it.
        .env(
            "PGOPTIONS",
            "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off",
        )
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &server.port.to_string(),
            "-U",
            "sandclock",
            "-n",
            "-M",
            "prepared",
            "-c",
            "1",
            "-D",
            "prev={}",
            "-D",
            "last=0",
        ])
        .args(["-t", "220", "-f"])
        .arg(&script)
        .arg(name)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse::<f64>().ok());
    tps.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))) * 256.0
}

/// How late runs start that fire every second, 200 of them: p99 beside that of the embedded store.
async fn lateness(server: &Server) -> f64 {
    let home = tempfile::tempdir().unwrap();
    let sled = SledStore::open(home.path(), SledOptions::default(), Utc::now()).unwrap();
    let embedded = late(Arc::new(sled), Arc::new(SystemClock)).await;
    let shared = connect(&server.database(), "node").await;
    let clock = Arc::new(shared.clock());
    let shared = late(Arc::new(shared), clock).await;
    for (name, (p50, p99)) in [("embedded", embedded), ("PostgreSQL", shared)] {
        println!("lateness, {name}: p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    shared.1 / embedded.1
}

async fn late(store: Arc<dyn JobStore>, clock: Arc<dyn Clock>) -> (f64, f64) {
    let scheduler = Scheduler::new(clock.clone());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<TimeDelta>();
    let now = clock.clone();
    let executor = NativeExecutor::new(SLOTS, clock.clone()).with("m:f".parse().unwrap(), move |claimed| {
        let _ = tell.send(now.now() - claimed.run.scheduled_time);
        async { Ok(serde_json::Value::Null) }
    });
    scheduler.add_executor(Alias::default(), Arc::new(executor)).await.unwrap();
    scheduler.add_jobstore(Alias::default(), store.clone()).await.unwrap();
    // Spread over the second, so that turns are small.
    let base = clock.now() + TimeDelta::seconds(1);
    for n in 0..200 {
        let start = base + TimeDelta::milliseconds(n * 5);
        let trigger = Trigger::every(Duration::from_secs(1)).unwrap().start(start);
        let job = Job::new(format!("j{n}").parse().unwrap(), "m:f".parse().unwrap(), trigger);
        scheduler.add_job(job, AddOptions::default()).await.unwrap();
    }
    scheduler.start().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    while told.try_recv().is_ok() {}
    tokio::time::sleep(Duration::from_secs(12)).await;
    scheduler.shutdown(Drain::For(Duration::from_secs(5))).await.unwrap();
    let mut late = Vec::new();
    while let Ok(since) = told.try_recv() {
        late.push(since.num_microseconds().unwrap() as f64 / 1000.0);
    }
    late.sort_by(f64::total_cmp);
    (late[late.len() / 2], late[late.len() * 99 / 100])
}

/// From the end of a node to its runs being taken over, in lease times.
async fn takeover(server: &Server) -> f64 {
    let url = server.database();
    let lease = Duration::from_secs(3);
    let options = |node: &str| SharedOptions { node: node.into(), lease, ..SharedOptions::default() };
    let mut all = Vec::new();
    for n in 0..8 {
        let dies = PostgresStore::connect(&url, options("dies")).await.unwrap();
        let lives = PostgresStore::connect(&url, options("lives")).await.unwrap();
        let id = format!("j{n}");
        let due = Utc::now() - TimeDelta::seconds(1);
        add(&dies, std::iter::once(id), due, |_| Trigger::at(due)).await;
        let turn = || Turn {
            now: Utc::now(),
            claim: Claim::Due,
            slots: BTreeMap::from([(Alias::default(), 8)]),
            ..Turn::default()
        };
        let run = dies.turn(turn()).await.unwrap().claimed.remove(0).run.id;
        // As `kill -9`: nothing is given back.
        tokio::time::sleep(Duration::from_millis(150 * n)).await;
        let begun = Instant::now();
        drop(dies);
        while lives.get_run(run).await.unwrap().unwrap().state != RunState::Ended {
            lives.changed().await;
            lives.turn(turn()).await.unwrap();
        }
        all.push(begun.elapsed().as_secs_f64() / lease.as_secs_f64());
        assert_eq!(lives.list_nodes().await.unwrap().iter().filter(|node| node.left.is_some()).count(), 1);
        lives.close().await.unwrap();
    }
    all.sort_by(f64::total_cmp);
    println!("takeover after a death: {:.2} lease times in the middle of eight", all[4]);
    all[7]
}

/// Firings a second of APScheduler on the same server. It needs Python, and its packages from PyPI.
fn peer(server: &Server, version: &str, jobs: &str) -> f64 {
    let url = server.database().replace("postgres://", "postgresql://");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/postgres.sh");
    let output = Command::new(script).args([version, &url, jobs]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let rate = text.lines().rev().find_map(|line| line.trim().parse::<f64>().ok());
    rate.unwrap_or_else(|| panic!("APScheduler {version}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
