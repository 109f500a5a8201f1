//! What a second wall costs: a run in a locked worker process beside a run in this process, and beside
//! what people do with cron, a `wasmtime run` for each firing. HTTP by the judged client beside plain
//! hyper. What a component that breaks the compiler leaves in the daemon.
//!
//! `cargo bench --bench walls` runs all of it; `-- runs http bomb` picks parts, and `RUNS=10000` makes it
//! smaller.

use futures::StreamExt;
use sandclock::executor::Began;
use sandclock::sandbox::{AddPlugin, Compiler, Registry, Sandbox, SandboxOptions};
use sandclock::store::{Claimed, MemoryPluginStore, MemorySecretStore};
use sandclock::*;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

// As in the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NO_OP: &str = r#"(component
    (core module $m (memory (export "mem") 1) (func (export "run")))
    (core instance $i (instantiate $m))
    (func (export "run") (canon lift (core func $i "run"))))"#;
/// Runs under way at one time.
const AT_ONCE: usize = 64;

fn main() -> ExitCode {
    if let Some(code) = child_main() {
        return code;
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let runs: usize = std::env::var("RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if wants("runs") {
        runtime.block_on(walls(runs));
    }
    ExitCode::SUCCESS
}

/// The no-op plugin and its two executors.
async fn executors() -> (Arc<dyn Executor>, Arc<dyn Executor>) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let plugins = Arc::new(MemoryPluginStore::default());
    let host = |lines| {
        let options =
            SandboxOptions { runs: AT_ONCE, lines, compiler: Compiler::InProcess, ..SandboxOptions::default() };
        let sandbox = Arc::new(Sandbox::with(options).unwrap());
        let host =
            PluginHost::new(sandbox.clone(), plugins.clone(), Arc::new(MemorySecretStore::default()), clock.clone());
        (sandbox, host)
    };
    let (sandbox, inside) = host(false);
    let registry = Registry::new(sandbox, plugins.clone(), clock.clone());
    registry.add("noop".parse().unwrap(), AddPlugin::default(), wat::parse_str(NO_OP).unwrap()).await.unwrap();
    let inside = AsyncExecutor::new(inside, &AsyncOptions { slots: AT_ONCE, threads: 2 }).unwrap();
    let options = PoolOptions {
        program: THIS_PROGRAM.into(),
        workers: AT_ONCE,
        strict: true,
        connect: Arc::new(sandclock::sandbox::connect::Direct::default()),
    };
    let apart = ProcessExecutor::new(host(true).1, AT_ONCE, options).unwrap();
    (Arc::new(inside), Arc::new(apart))
}

fn job() -> Arc<Job> {
    Arc::new(Job::new("noop".parse().unwrap(), "noop:run".parse().unwrap(), Trigger::now()))
}

async fn once(executor: &dyn Executor, job: &Arc<Job>) {
    let run = serde_json::from_value(serde_json::json!({
        "id": ulid::Ulid::nil(), "job_id": job.id, "jobstore": "default", "func": job.func,
        "scheduled_time": "2027-01-01T00:00:00Z", "attempt": 1, "node": "n", "state": "claimed",
    }));
    let claimed = Claimed { run: run.unwrap(), job: job.clone(), values: Arc::default() };
    let report = executor.execute(claimed, Began::new(|_| ()), CancellationToken::new()).await;
    assert!(matches!(report.outcome, Outcome::Succeeded { .. }), "{:?}", report.outcome);
}

/// Seconds for a run when many are under way, and when they come one after the other.
async fn measure(executor: &dyn Executor, runs: usize) -> (f64, f64) {
    let job = job();
    futures::stream::iter(0..1000).for_each_concurrent(AT_ONCE, |_| once(executor, &job)).await;
    let begun = Instant::now();
    futures::stream::iter(0..runs).for_each_concurrent(AT_ONCE, |_| once(executor, &job)).await;
    let many = begun.elapsed().as_secs_f64() / runs as f64;
    let begun = Instant::now();
    for _ in 0..runs / 10 {
        once(executor, &job).await;
    }
    (many, begun.elapsed().as_secs_f64() / (runs / 10) as f64)
}

async fn walls(runs: usize) {
    let (inside, apart) = executors().await;
    // In turns, because the machine is noisy.
    for turn in 1..=3 {
        let (inside_many, inside_one) = measure(&*inside, runs).await;
        let (apart_many, apart_one) = measure(&*apart, runs).await;
        println!(
            "turn {turn}: no-op runs, {AT_ONCE} at once: async {:.1} µs, process {:.1} µs, {:.2}x; one after the other: async {:.1} µs, process {:.1} µs, {:.2}x",
            inside_many * 1e6,
            apart_many * 1e6,
            apart_many / inside_many,
            inside_one * 1e6,
            apart_one * 1e6,
            apart_one / inside_one,
        );
    }
}
