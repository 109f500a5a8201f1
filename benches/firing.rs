//! What a firing costs, end to end, against the engine alone in the same run; start-up, memory and
//! lateness. Prints ratios: absolute times depend on the machine and on what else it does.
//!
//! `cargo bench --bench firing` runs all of it; `-- idle memory sled peers late` picks parts, and
//! `JOBS=10000` makes it smaller.

use chrono::{TimeDelta, Utc};
use sandclock::sandbox::{AddPlugin, Registry, Sandbox};
use sandclock::store::{Change, Claim, Conflict, JobStore, MemoryPluginStore, SledOptions, Turn};
use sandclock::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NO_OP: &str = r#"(component
    (core module $m (memory (export "mem") 1) (func (export "run")))
    (core instance $i (instantiate $m))
    (func (export "run") (canon lift (core func $i "run"))))"#;

/// Runs that may be under way at one time while the store's commits are the limit.
const SLOTS: usize = 512;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let jobs: usize = std::env::var("JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // First, while nothing has been freed that could be used again.
    if wants("idle") {
        runtime.block_on(idle(jobs));
    }
    let raw = raw(jobs);
    println!("raw loop, 1 thread: {:.1} µs a call", raw * 1e6);
    let memory =
        wants("memory").then(|| runtime.block_on(fire(jobs, Arc::new(MemoryStore::new(Alias::default(), "bench")))));
    let sled = wants("sled").then(|| {
        let home = tempfile::tempdir().unwrap();
        let store = SledStore::open(home.path(), SledOptions::default(), Utc::now()).unwrap();
        runtime.block_on(fire(jobs, Arc::new(store)))
    });
    for (name, fired) in [("memory store", &memory), ("sled store, durable", &sled)] {
        if let Some(fired) = fired {
            fired.print(name, raw);
        }
    }
    if wants("peers") {
        let peers = peers(jobs);
        for (theirs, ours, fired) in [("memory", "memory", &memory), ("sqlite", "sled", &sled)] {
            let Some(rate) = peers.get(theirs) else {
                println!("APScheduler 3.11, {theirs} store: skipped (Python or its packages are missing)");
                continue;
            };
            let times = fired.as_ref().map_or(String::new(), |fired| {
                format!("; ours with the {ours} store {:.1} times as many", fired.per_second() / rate)
            });
            println!("APScheduler 3.11, {theirs} store: {rate:.0} fires/s{times}");
        }
    }
    if wants("late") {
        runtime.block_on(lateness());
    }
}

/// Seconds for a call by the engine alone: new store, instantiate, typed call, drop.
fn raw(calls: usize) -> f64 {
    use wasmtime::component::{Component, Linker};
    use wasmtime::{Config, Engine, PoolingAllocationConfig, Store};
    let mut pool = PoolingAllocationConfig::new();
    pool.total_memories(64).total_tables(64).max_memory_size(1 << 30).total_component_instances(8);
    let mut config = Config::new();
    config.consume_fuel(true).concurrency_support(false).gc_support(false).wasm_gc(false);
    config.wasm_function_references(false).wasm_exceptions(false).wasm_threads(false).wasm_multi_memory(false);
    config.max_wasm_stack(512 << 10).async_stack_size(2 << 20).allocation_strategy(pool);
    let engine = Engine::new(&config).unwrap();
    let component = Component::from_binary(&engine, &wat::parse_str(NO_OP).unwrap()).unwrap();
    let linker: Linker<()> = Linker::new(&engine);
    let pre = linker.instantiate_pre(&component).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let once = || {
        runtime.block_on(async {
            let mut store = Store::new(&engine, ());
            store.set_fuel(1_000_000_000).unwrap();
            store.fuel_async_yield_interval(Some(2_000_000)).unwrap();
            let instance = pre.instantiate_async(&mut store).await.unwrap();
            let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
            run.call_async(&mut store, ()).await.unwrap();
        });
    };
    (0..1000).for_each(|_| once());
    let begun = Instant::now();
    (0..calls).for_each(|_| once());
    begun.elapsed().as_secs_f64() / calls as f64
}

struct Fired {
    jobs: usize,
    wall: f64,
    cpu: f64,
}

impl Fired {
    fn per_second(&self) -> f64 {
        self.jobs as f64 / self.wall
    }

    fn print(&self, name: &str, raw: f64) {
        let (wall, cpu) = (self.wall / self.jobs as f64, self.cpu / self.jobs as f64);
        println!(
            "{name}: {} due no-op jobs, {:.0} fires/s; a firing {:.1} µs wall ({:.2}x raw), {:.1} µs processor ({:.2}x raw)",
            self.jobs,
            self.per_second(),
            wall * 1e6,
            wall / raw,
            cpu * 1e6,
            cpu / raw
        );
    }
}

async fn scheduler(store: Arc<dyn JobStore>) -> Scheduler {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sandbox = Arc::new(Sandbox::new(SLOTS, None).unwrap());
    let plugins = Arc::new(MemoryPluginStore::default());
    let registry = Registry::new(sandbox.clone(), plugins.clone(), clock.clone());
    registry.add("noop".parse().unwrap(), AddPlugin::default(), wat::parse_str(NO_OP).unwrap()).await.unwrap();
    let options = AsyncOptions { slots: SLOTS, threads: 2 };
    let executor = AsyncExecutor::new(
        PluginHost::new(sandbox, plugins, Arc::new(sandclock::store::MemorySecretStore::default()), clock.clone()),
        &options,
    )
    .unwrap();
    let scheduler = Scheduler::new(clock);
    scheduler.add_executor(Alias::default(), Arc::new(executor)).await.unwrap();
    scheduler.add_jobstore(Alias::default(), store).await.unwrap();
    scheduler
}

/// Adds jobs to a store by turns of its own, which is how an import does it.
async fn fill(store: &dyn JobStore, jobs: usize, trigger: impl Fn(usize) -> Trigger) {
    let ids: Vec<usize> = (0..jobs).collect();
    for chunk in ids.chunks(256) {
        let change = |n: &usize| {
            let job = Job::new(format!("job-{n}").parse().unwrap(), "noop:run".parse().unwrap(), trigger(*n));
            Change::Add { job: Box::new(job), paused: false, conflict: Conflict::Refuse, first: None }
        };
        let turn = Turn {
            now: Utc::now(),
            changes: chunk.iter().map(change).collect(),
            claim: Claim::Nothing,
            ..Turn::default()
        };
        store.turn(turn).await.unwrap();
    }
}

/// Time from starting the scheduler to the end of the last of `jobs` runs that are due.
async fn fire(jobs: usize, store: Arc<dyn JobStore>) -> Fired {
    let due = Utc::now();
    fill(&*store, jobs, |_| Trigger::at(due)).await;
    let scheduler = scheduler(store).await;
    let (begun, cpu) = (Instant::now(), cpu_time());
    scheduler.start().await.unwrap();
    while scheduler.counts(&Alias::default()).await.unwrap().jobs > 0 {
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let fired = Fired { jobs, wall: begun.elapsed().as_secs_f64(), cpu: cpu_time() - cpu };
    let filter = RunFilter { outcome: Some(OutcomeKind::Succeeded), ..RunFilter::default() };
    let page = Page { after: None, limit: 1 };
    assert!(!scheduler.list_runs(&Alias::default(), &filter, &page).await.unwrap().items.is_empty());
    assert_eq!(scheduler.counts(&Alias::default()).await.unwrap().runs, jobs as u64);
    scheduler.shutdown(Drain::Cancel).await.unwrap();
    fired
}

/// Opening a store with many jobs, and what an idle job takes.
async fn idle(jobs: usize) {
    let home = tempfile::tempdir().unwrap();
    let open = |home: &Path| SledStore::open(home, SledOptions::default(), Utc::now()).unwrap();
    let cron =
        |n: usize| Trigger::crontab(&format!("{} {} * * *", n % 60, n % 24), Dialect::Crontab, Zone::utc()).unwrap();
    let memory = MemoryStore::new(Alias::default(), "bench");
    let before = resident();
    fill(&memory, jobs, cron).await;
    println!("memory of an idle job, memory store: {:.0} bytes", (resident() - before) / jobs as f64);
    drop(memory);
    let store = open(home.path());
    let begun = Instant::now();
    fill(&store, jobs, cron).await;
    println!("adding {jobs} cron jobs durably: {:.1} s", begun.elapsed().as_secs_f64());
    let on_disk = store.size_on_disk().await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let begun = Instant::now();
    let store = open(home.path());
    println!(
        "start-up with {jobs} stored jobs, every row verified: {:.2} s; {:.0} bytes a job on disk",
        begun.elapsed().as_secs_f64(),
        on_disk as f64 / jobs as f64
    );
    drop(store);
}

/// How late the runs of 1000 jobs a second start, over 30 s, on sled.
async fn lateness() {
    const JOBS: usize = 10_000;
    const SECONDS: i64 = 30;
    let home = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(home.path(), SledOptions::default(), Utc::now()).unwrap());
    // Each of 10 000 jobs fires every 10 s, spread evenly: 1000 a second, one each millisecond.
    let first = Utc::now() + TimeDelta::seconds(8);
    let trigger = |n: usize| {
        let start = first + TimeDelta::milliseconds(n as i64);
        serde_json::from_value(serde_json::json!({"type": "interval", "every": 10, "start": start})).unwrap()
    };
    fill(&*store, JOBS, trigger).await;
    let scheduler = scheduler(store.clone()).await;
    let mut events = scheduler.subscribe(EventKind::JobExecuted);
    scheduler.start().await.unwrap();
    let mut late: Vec<f64> = Vec::new();
    let end = first + TimeDelta::seconds(SECONDS);
    loop {
        match events.next().await {
            Some(Heard::Event(event)) => {
                let run = event.run.as_ref().unwrap();
                if run.scheduled_time >= end {
                    break;
                }
                late.push((run.started.unwrap() - run.scheduled_time).as_seconds_f64() * 1e3);
            }
            Some(Heard::Lagged(lost)) => println!("lost {lost} events"),
            None => break,
        }
    }
    late.sort_by(f64::total_cmp);
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    println!(
        "lateness of {} runs at 1000 a second over {SECONDS} s, sled, durable before each start: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        late.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    scheduler.shutdown(Drain::Cancel).await.unwrap();
}

/// Fires a second of APScheduler by store, as measured beside this run.
fn peers(jobs: usize) -> BTreeMap<String, f64> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/run.sh");
    let output = Command::new(script).arg(jobs.to_string()).arg((jobs / 50).max(1).to_string()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter_map(|line| Some((line["store"].as_str()?.to_owned(), line["fires_per_second"].as_f64()?))).collect()
}

/// Seconds of processor time that this process has used.
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of the line; the kernel counts hundredths of a second.
    (ticks(11) + ticks(12)) / 100.0
}

/// Bytes of resident memory.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0);
    pages * 4096.0
}
