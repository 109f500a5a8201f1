//! How cost grows with the number of stored jobs: `cargo bench --bench scale [turn] [start] [history] [simulate]`.
//!
//! Ratios are against the smallest number in the same run. `RUNS` says how many runs go through the
//! history part (5 000 000 to see it in full, 300 000 unless given).

use chrono::{DateTime, TimeDelta, Utc};
use sandclock::simulate::Simulation;
use sandclock::store::{Change, Claim, Conflict, Finished, Retention, SledOptions, Turn};
use sandclock::*;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let [mode, home] = args.as_slice()
        && mode == "first-firing"
    {
        return runtime.block_on(first_firing(Path::new(home)));
    }
    let wants = |part: &str| args.is_empty() || args.iter().any(|arg| arg == part);
    if wants("turn") {
        for name in ["memory", "sled"] {
            let costs = [1_000, 10_000, 100_000, 1_000_000].map(|jobs| (jobs, runtime.block_on(turn_cost(name, jobs))));
            for (jobs, cost) in costs {
                println!(
                    "a turn with {jobs} stored jobs, {name}: {:.1} µs for each run claimed and ended ({:.2}x of 1000)",
                    cost * 1e6,
                    cost / costs[0].1
                );
            }
        }
    }
    if wants("start") {
        for jobs in [10_000, 100_000, 1_000_000] {
            runtime.block_on(start(jobs));
        }
    }
    if wants("history") {
        runtime.block_on(history());
    }
    if wants("simulate") {
        simulate();
    }
}

fn job(n: usize, trigger: Trigger) -> Job {
    Job::new(format!("job-{n}").parse().unwrap(), "native:noop".parse().unwrap(), trigger)
}

fn daily(n: usize) -> Trigger {
    Trigger::crontab(&format!("{} {} * * *", n % 60, n / 60 % 24), Dialect::Crontab, Zone::utc()).unwrap()
}

/// Adds jobs by turns of its own, which is how an import does it.
async fn fill(store: &dyn JobStore, now: DateTime<Utc>, jobs: impl Iterator<Item = Job>) {
    let mut jobs = jobs.peekable();
    while jobs.peek().is_some() {
        let changes = jobs.by_ref().take(2048).map(|job| {
            let (job, conflict) = (Box::new(job), Conflict::Refuse);
            Change::Add { job, paused: false, conflict, first: None }
        });
        let turn = Turn { now, changes: changes.collect(), claim: Claim::Nothing, ..Turn::default() };
        store.turn(turn).await.unwrap();
    }
}

/// Seconds for each run of 100 jobs that fire every second, beside many that fire once a day.
async fn turn_cost(name: &str, jobs: usize) -> f64 {
    const BUSY: usize = 100;
    const TURNS: i64 = 300;
    let start = "2027-01-01T00:00:30Z".parse::<DateTime<Utc>>().unwrap();
    let home = tempfile::tempdir().unwrap();
    let store: Arc<dyn JobStore> = match name {
        "memory" => Arc::new(MemoryStore::new(Alias::default(), "bench")),
        _ => Arc::new(SledStore::open(home.path(), SledOptions::default(), start).unwrap()),
    };
    let busy = (0..BUSY).map(|n| job(n, Trigger::every(Duration::from_secs(1)).unwrap()));
    // At times of day that are not passed here.
    let idle = (BUSY..jobs).map(|n| job(n, daily(n / 24 * 24 * 60 + n % 24 * 60 + 120)));
    fill(&*store, start, busy.chain(idle)).await;
    let mut ended = Vec::new();
    let mut begun = Instant::now();
    for second in 1..=TURNS {
        // The first turns bring pages into memory.
        if second == 50 {
            begun = Instant::now();
        }
        let now = start + TimeDelta::seconds(second);
        let slots = BTreeMap::from([(Alias::default(), 256)]);
        let turn = Turn { now, finished: std::mem::take(&mut ended), claim: Claim::Due, slots, ..Turn::default() };
        let turned = store.turn(turn).await.unwrap();
        assert_eq!(turned.claimed.len(), BUSY);
        ended = turned.claimed.iter().map(|claimed| finished(claimed.run.id, now)).collect();
    }
    begun.elapsed().as_secs_f64() / ((TURNS - 50) as f64 * BUSY as f64)
}

fn finished(run: RunId, now: DateTime<Utc>) -> Finished {
    Finished {
        started: Some(now),
        usage: Usage { fuel_used: Some(1234), memory_peak: Some(65536) },
        plugin_digest: Some("ab".repeat(32).into()),
        ..Finished::of(run, now, Outcome::Succeeded { value: json!(null) })
    }
}

/// A process of its own that opens a home with many jobs, one of which is due: from its start to the
/// start of that run.
async fn start(jobs: usize) {
    let home = tempfile::tempdir().unwrap();
    let store = SledStore::open(home.path(), SledOptions::default(), Utc::now()).unwrap();
    let begun = Instant::now();
    fill(&store, Utc::now(), (0..jobs).map(|n| job(n, daily(n)))).await;
    let added = begun.elapsed().as_secs_f64();
    // Due as soon as the store is open.
    fill(&store, Utc::now(), std::iter::once(job(jobs, Trigger::at(Utc::now())))).await;
    let on_disk = store.size_on_disk().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let begun = Utc::now();
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.arg("first-firing").arg(home.path()).stderr(Stdio::inherit()).output().unwrap();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let fired: DateTime<Utc> = said["fired"].as_str().unwrap().parse().unwrap();
    let resident = said["resident"].as_f64().unwrap();
    println!(
        "{jobs} stored jobs: {:.2} s from process start to the first firing; {:.0} MB resident when idle ({:.0} bytes a job), {:.0} bytes a job on disk; added durably in {added:.1} s",
        (fired - begun).as_seconds_f64(),
        resident / 1e6,
        resident / jobs as f64,
        on_disk as f64 / jobs as f64,
    );
}

async fn first_firing(home: &Path) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let native = NativeExecutor::new(4, clock.clone()).with("native:noop".parse().unwrap(), |_| async { Ok(json!(1)) });
    let scheduler = Scheduler::new(clock);
    scheduler.add_executor(Alias::default(), Arc::new(native)).await.unwrap();
    let store = SledStore::open(home, SledOptions::default(), Utc::now()).unwrap();
    scheduler.add_jobstore(Alias::default(), Arc::new(store)).await.unwrap();
    let mut events = scheduler.subscribe(EventKind::JobStarted);
    scheduler.start().await.unwrap();
    let Some(Heard::Event(event)) = events.next().await else { panic!("nothing fired") };
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{}", json!({ "fired": event.time, "resident": resident() }));
    scheduler.shutdown(Drain::Cancel).await.unwrap();
}

/// Many runs through a store that keeps the last 100 of each of 100 jobs.
async fn history() {
    const JOBS: usize = 100;
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(300_000);
    let home = tempfile::tempdir().unwrap();
    let retention = Retention { runs_per_job: 100, events: 20_000, ..Retention::default() };
    let start = "2027-01-01T00:00:30Z".parse::<DateTime<Utc>>().unwrap();
    let store = SledStore::open(home.path(), SledOptions { retention, ..SledOptions::default() }, start).unwrap();
    fill(&store, start, (0..JOBS).map(|n| job(n, Trigger::every(Duration::from_secs(1)).unwrap()))).await;
    let mut ended = Vec::new();
    let mut sizes = Vec::new();
    let (begun, turns) = (Instant::now(), runs / JOBS);
    for second in 1..=turns {
        let now = start + TimeDelta::seconds(second as i64);
        let slots = BTreeMap::from([(Alias::default(), 256)]);
        let turn = Turn { now, finished: std::mem::take(&mut ended), claim: Claim::Due, slots, ..Turn::default() };
        let turned = store.turn(turn).await.unwrap();
        ended = turned.claimed.iter().map(|claimed| finished(claimed.run.id, now)).collect();
        if second % (turns / 10).max(1) == 0 {
            sizes.push(store.size_on_disk().await.unwrap());
        }
    }
    let kept = store.counts().await.unwrap().runs;
    let megabytes: Vec<String> = sizes.iter().map(|size| format!("{:.0}", *size as f64 / 1e6)).collect();
    println!(
        "{runs} runs in {:.0} s, {kept} kept; MB on disk at each tenth: {}; peak memory now {:.0} MB",
        begun.elapsed().as_secs_f64(),
        megabytes.join(" "),
        resident() / 1e6
    );
    let kept_home = tempfile::tempdir().unwrap();
    let all = Retention { runs_per_job: 1_000_000, events: 1, ..Retention::default() };
    let store =
        SledStore::open(kept_home.path(), SledOptions { retention: all, ..SledOptions::default() }, start).unwrap();
    fill(&store, start, (0..JOBS).map(|n| job(n, Trigger::every(Duration::from_secs(1)).unwrap()))).await;
    let before = store.size_on_disk().await.unwrap();
    for second in 1..=1000 {
        let now = start + TimeDelta::seconds(second);
        let slots = BTreeMap::from([(Alias::default(), 256)]);
        let turn = Turn { now, finished: std::mem::take(&mut ended), claim: Claim::Due, slots, ..Turn::default() };
        let turned = store.turn(turn).await.unwrap();
        ended = turned.claimed.iter().map(|claimed| finished(claimed.run.id, now)).collect();
    }
    let grown = store.size_on_disk().await.unwrap().saturating_sub(before);
    println!("a kept run takes {:.0} bytes on disk", grown as f64 / (1000 * JOBS) as f64);
}

/// A year of 10 000 jobs: hourly to weekly, most of them daily.
fn simulate() {
    let from = "2027-01-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap();
    let jobs = (0..10_000).map(|n| match n % 20 {
        0 => job(n, Trigger::every(Duration::from_secs(3600)).unwrap().anchored(from)),
        1 | 2 => {
            let line = format!("{} {} * * {}", n % 60, n / 60 % 24, n % 7);
            job(n, Trigger::crontab(&line, Dialect::Crontab, "Europe/Berlin".parse().unwrap()).unwrap())
        }
        _ => job(n, daily(n)),
    });
    let simulation = Simulation {
        from,
        to: from + TimeDelta::days(365),
        jobs: jobs.map(Arc::new).collect(),
        durations: HashMap::new(),
        unknown: Duration::from_secs(20),
        slots: BTreeMap::from([(Alias::default(), 64)]),
    };
    let begun = Instant::now();
    let report = simulation.run(|_| ControlFlow::Continue(()));
    let took = begun.elapsed().as_secs_f64();
    println!(
        "simulating a year of 10 000 jobs: {took:.1} s for {} runs, {:.1} µs each; the longest wait {:.0} s",
        report.runs,
        took * 1e6 / report.runs as f64,
        report.longest_wait
    );
}

/// Bytes of resident memory.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0);
    pages * 4096.0
}
