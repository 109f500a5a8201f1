//! The daemon under load, end to end: a thousand jobs a second, first alone, then beside 50 event
//! streams and 200 API requests a second. Lateness is that of the runs on record, and what counts is
//! the ratio of the two phases of one run; the daemon's memory is looked at all the while.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const JOBS: usize = 1000;
const STREAMS: usize = 50;
const REQUESTS_PER_SECOND: u64 = 200;
/// Seconds of each phase.
const PHASE: u64 = 30;

const PLUGIN: &str = r#"(component
    (core module $m (func (export "noop")))
    (core instance $i (instantiate $m))
    (func (export "noop") (canon lift (core func $i "noop"))))"#;

struct Daemon {
    child: Child,
    home: tempfile::TempDir,
    url: String,
    client: reqwest::Client,
    token: String,
}

impl Daemon {
    async fn start() -> Daemon {
        let home = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(home.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_sandclock"))
            .arg("--home")
            .arg(home.path())
            .args(["serve", "--log", "warn", "--listen", &format!("127.0.0.1:{port}")])
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let client = reqwest::Client::new();
        let url = format!("http://127.0.0.1:{port}");
        while client.get(format!("{url}/readyz")).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let token = std::fs::read_to_string(home.path().join("operator.token")).unwrap().trim().to_owned();
        Daemon { child, home, url, client, token }
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.request(reqwest::Method::GET, path).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    async fn put_plugin(&self) {
        let request =
            self.request(reqwest::Method::PUT, "/v1/plugins/bench").header("content-type", "application/wasm");
        let answer = request.body(wat::parse_str(PLUGIN).unwrap()).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    }

    async fn add_jobs(&self) {
        let begin = chrono::Utc::now();
        let begin = begin.format("%Y-%m-%dT%H:%M:%S");
        for at in 0..JOBS {
            let trigger = json!({ "type": "interval", "every": 1, "start": format!("{begin}.{at:03}Z") });
            let spec = json!({ "id": format!("j{at}"), "func": "bench:noop", "trigger": trigger }).to_string();
            let request = self.request(reqwest::Method::POST, "/v1/jobs").header("content-type", "application/json");
            let answer = request.body(spec).send().await.unwrap();
            assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
        }
    }

    /// How late the runs of a span of time began, in milliseconds, sorted.
    async fn lateness(&self, since: chrono::DateTime<chrono::Utc>, until: chrono::DateTime<chrono::Utc>) -> Vec<f64> {
        let mut late = Vec::new();
        let mut after = String::new();
        loop {
            let form = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
            let path = format!("/v1/runs?limit=1000&since={}&until={}{after}", form(since), form(until));
            let page = self.get(&path).await;
            for run in page["items"].as_array().unwrap() {
                let at = |name: &str| chrono::DateTime::parse_from_rfc3339(run[name].as_str().unwrap_or_default()).ok();
                if let Some((scheduled, started)) = at("scheduled_time").zip(at("started")) {
                    late.push((started - scheduled).as_seconds_f64() * 1000.0);
                }
            }
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        late.sort_by(f64::total_cmp);
        late
    }

    fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = std::fs::read_to_string(log_path(self.home.path())).unwrap_or_default();
        print!("{log}");
    }
}

fn log_path(home: &Path) -> PathBuf {
    home.join("log")
}

fn of(sorted: &[f64], part: f64) -> f64 {
    sorted[((sorted.len() as f64 * part) as usize).min(sorted.len() - 1)]
}

/// Lets the jobs fire for a phase and says how late they were.
async fn phase(daemon: &Daemon, name: &str) -> f64 {
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (since, mut memory) = (chrono::Utc::now(), vec![daemon.memory()]);
    for _ in 0..PHASE / 5 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        memory.push(daemon.memory());
    }
    let until = chrono::Utc::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let late = daemon.lateness(since, until).await;
    let memory: Vec<String> = memory.iter().map(|mib| format!("{mib:.0}")).collect();
    println!(
        "{name:6} {} runs, {:.0} a second; late p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms; MiB {}",
        late.len(),
        late.len() as f64 / (until - since).as_seconds_f64(),
        of(&late, 0.5),
        of(&late, 0.99),
        of(&late, 1.0),
        memory.join(" ")
    );
    of(&late, 0.99)
}

async fn run() {
    let daemon = Arc::new(Daemon::start().await);
    daemon.put_plugin().await;
    daemon.add_jobs().await;
    // The first runs start workers and fill caches.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let quiet = phase(&daemon, "quiet").await;

    let heard = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..STREAMS {
        let request = daemon.request(reqwest::Method::GET, "/v1/events").header("accept", "text/event-stream");
        let mut bytes = request.send().await.unwrap();
        assert!(bytes.status().is_success());
        let heard = heard.clone();
        tasks.push(tokio::spawn(async move {
            while let Ok(Some(chunk)) = bytes.chunk().await {
                heard.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        }));
    }
    let took = Arc::new(std::sync::Mutex::new(Vec::new()));
    let requests = {
        let (daemon, took) = (daemon.clone(), took.clone());
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / REQUESTS_PER_SECOND));
            for at in 0usize.. {
                tick.tick().await;
                let (daemon, took) = (daemon.clone(), took.clone());
                let path = match at % 5 {
                    0 => "/v1/jobs?limit=50".to_owned(),
                    1 => format!("/v1/jobs/j{}", at % JOBS),
                    2 => format!("/v1/runs?limit=20&job=j{}", at % JOBS),
                    3 => "/v1/status".to_owned(),
                    _ => "/v1/plugins".to_owned(),
                };
                tokio::spawn(async move {
                    let began = Instant::now();
                    daemon.get(&path).await;
                    took.lock().unwrap().push(began.elapsed().as_secs_f64() * 1000.0);
                });
            }
        })
    };
    let loaded = phase(&daemon, "loaded").await;
    requests.abort();
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    let mut took = took.lock().unwrap().clone();
    took.sort_by(f64::total_cmp);
    println!(
        "requests: {} ({:.0} a second), p50 {:.1} ms, p99 {:.1} ms; streams: {STREAMS}, {:.1} MB",
        took.len(),
        took.len() as f64 / (PHASE + 4) as f64,
        of(&took, 0.5),
        of(&took, 0.99),
        heard.load(Ordering::Relaxed) as f64 / 1e6
    );
    println!("lateness p99 under load: {:.2}x the quiet one", loaded / quiet);
}

fn main() {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run());
}
