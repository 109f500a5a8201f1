//! What a second wall costs: a run in a locked worker process beside a run in this process, and beside
//! what people do with cron, a `wasmtime run` for each firing. HTTP by the judged client beside plain
//! hyper. What a component that breaks the compiler leaves in the daemon.
//!
//! `cargo bench --bench walls` runs all of it; `-- runs spawn http bomb` picks parts, and `RUNS=10000` makes it
//! smaller.

use futures::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use sandclock::executor::Began;
use sandclock::sandbox::{AddPlugin, Compiler, Registry, Sandbox, SandboxOptions};
use sandclock::store::{Claimed, MemoryPluginStore, MemorySecretStore};
use sandclock::*;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
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
    if wants("spawn") {
        runtime.block_on(spawn(runs));
    }
    if wants("http") {
        runtime.block_on(requests(runs / 20));
    }
    if wants("bomb") {
        bomb();
    }
    ExitCode::SUCCESS
}

/// The no-op plugin and its two executors.
async fn executors() -> (Arc<dyn Executor>, Arc<dyn Executor>) {
    let (inside, apart, registry) = walls_with().await;
    registry.add("noop".parse().unwrap(), AddPlugin::default(), wat::parse_str(NO_OP).unwrap()).await.unwrap();
    (inside, apart)
}

/// Executors without and with a wall, and the registry of their plugins.
async fn walls_with() -> (Arc<dyn Executor>, Arc<dyn Executor>, Registry) {
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
    let inside = AsyncExecutor::new(inside, &AsyncOptions { slots: AT_ONCE, threads: 2 }).unwrap();
    let options = PoolOptions {
        program: THIS_PROGRAM.into(),
        workers: AT_ONCE,
        strict: true,
        connect: Arc::new(sandclock::sandbox::connect::Direct::default()),
        lease: Default::default(),
    };
    let apart = ProcessExecutor::new(host(true).1, AT_ONCE, options).unwrap();
    (Arc::new(inside), Arc::new(apart), registry)
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

/// A firing as a program of its own: what cron does with `wasmtime run`, if that is installed
/// (`WASMTIME` names it); and a bare process that starts and ends, which nothing that spawns can beat.
async fn spawn(runs: usize) {
    let (_, apart) = executors().await;
    let (_, apart_one) = measure(&*apart, runs).await;
    let wasmtime = std::env::var("WASMTIME").unwrap_or("wasmtime".into());
    let dir = tempfile::tempdir().unwrap();
    let component = dir.path().join("noop.wasm");
    std::fs::write(&component, wat::parse_str(COMMAND).unwrap()).unwrap();
    let time = |program: &str, args: &[&str]| {
        let run = || Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
        run().ok().filter(std::process::ExitStatus::success)?;
        let begun = Instant::now();
        (0..50).for_each(|_| drop(run()));
        Some(begun.elapsed().as_secs_f64() / 50.0)
    };
    let compiled = dir.path().join("noop.cwasm");
    let (component, compiled) = (component.to_str().unwrap(), compiled.to_str().unwrap());
    let _ = Command::new(&wasmtime).args(["compile", component, "-o", compiled]).status();
    for (what, program, args) in [
        ("a bare process", "true", &[][..]),
        ("`wasmtime run`, its cache warm", &wasmtime, &["run", component]),
        ("`wasmtime run` of precompiled code", &wasmtime, &["run", "--allow-precompiled", compiled]),
    ] {
        match time(program, args) {
            Some(spawned) => println!(
                "{what}: {:.0} µs a firing, {:.0} times a run in a worker ({:.1} µs, one after the other)",
                spawned * 1e6,
                spawned / apart_one,
                apart_one * 1e6
            ),
            None => println!("{what}: skipped, `{program}` is not installed or does not run it"),
        }
    }
}

/// A command that does nothing.
const COMMAND: &str = r#"(component
    (core module $m (memory (export "mem") 1) (func (export "run") (result i32) i32.const 0))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (instance $cli (export "run" (func $run)))
    (export "wasi:cli/run@0.2.0" (instance $cli)))"#;

/// Requests of a guest by the judged client, in this process and in a worker, beside plain hyper with
/// a connection for each request, as the judged one has.
async fn requests(requests: usize) {
    let Ok(component) = std::fs::read("plugins/target/wasm32-wasip2/release/surfer.wasm") else {
        println!("http: skipped, plugins/build.sh makes the guest");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener));
    let begun = Instant::now();
    for _ in 0..requests {
        plain(address).await;
    }
    let plain = begun.elapsed().as_secs_f64() / requests as f64;
    println!("http: plain hyper: {:.0} µs a request", plain * 1e6);
    let grants: Grants = serde_json::from_value(serde_json::json!({ "http": [address.to_string()] })).unwrap();
    for (what, executor) in surfers(&component, grants).await {
        let mut job = Job::new("surf".parse().unwrap(), "surfer:repeat".parse().unwrap(), Trigger::now());
        job.args = vec![format!("http://{address}/").into(), requests.into()];
        job.limits.timeout = Duration::from_secs(600);
        let begun = Instant::now();
        once(&*executor, &Arc::new(job)).await;
        let judged = begun.elapsed().as_secs_f64() / requests as f64;
        println!(
            "http: a guest by the judged client, {what}: {:.0} µs a request, {:.2}x",
            judged * 1e6,
            judged / plain
        );
    }
}

async fn surfers(component: &[u8], grants: Grants) -> Vec<(&'static str, Arc<dyn Executor>)> {
    let (inside, apart, registry) = walls_with().await;
    let add = AddPlugin::default().grants(grants);
    registry.add("surfer".parse().unwrap(), add, component.to_vec()).await.unwrap();
    vec![("async", inside), ("process", apart)]
}

async fn serve(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let answer = hyper::service::service_fn(|_| async {
            Ok::<_, std::convert::Infallible>(::http::Response::new(Empty::<bytes::Bytes>::new()))
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

async fn plain(address: std::net::SocketAddr) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = ::http::Request::get("/").header("host", "localhost").body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
}

/// What a component that makes the compiler take all its memory leaves in the daemon.
fn bomb() {
    let mut text =
        String::from("(component (component $c0 (core module $m (memory 1)) (core instance (instantiate $m)))");
    for level in 1..26 {
        let inner = level - 1;
        text.push_str(&format!(
            "(component $c{level} (alias outer 1 $c{inner} (component $p)) (instance (instantiate $p)) (instance (instantiate $p)))"
        ));
    }
    text.push_str("(instance (instantiate $c25)))");
    let bomb = wat::parse_str(&text).unwrap();
    let compiler = Compiler::child(THIS_PROGRAM.into());
    let sandbox = Sandbox::with(SandboxOptions { runs: 1, compiler, ..SandboxOptions::default() }).unwrap();
    let _ = sandbox.inspect(&wat::parse_str(NO_OP).unwrap());
    let before = resident();
    let begun = Instant::now();
    let error = sandbox.inspect(&bomb).unwrap_err();
    println!(
        "a bomb of {} bytes: {error}, after {:.1} s; the daemon's resident memory grew by {:.1} MB",
        bomb.len(),
        begun.elapsed().as_secs_f64(),
        (resident() - before) / 1e6
    );
}

/// Bytes.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}
