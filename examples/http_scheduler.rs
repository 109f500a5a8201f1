//! An HTTP service that schedules commands: `POST /scheduler` takes
//! `{"cron": "10 * * * * *", "cmd": "task1", "job_id": "x"}` (second, minute, hour, day, month, day of
//! week), adds the job or replaces it, and answers `{"code": 0, "msg": …, "job_id": …}`, or
//! `{"code": -1, "msg": …}` for what is malformed. Jobs are kept in a directory and survive a restart.
//!
//! `cargo run --example http_scheduler -- [DIR] [ADDRESS]`

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use sandclock::store::SledOptions;
use sandclock::{
    AddOptions, Alias, Dialect, Drain, EventKind, Heard, Job, NativeExecutor, NativeResult, Result, Scheduler,
    SledStore, SystemClock, Trigger, Zone,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The commands that can be scheduled: Rust functions by name.
async fn task1() -> NativeResult {
    Ok(json!("task 1 is done"))
}

async fn task2() -> NativeResult {
    Err("task 2 never works".to_owned())
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let home: PathBuf = args.next().map_or_else(|| std::env::temp_dir().join("http-scheduler"), PathBuf::from);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:8000".to_owned());

    let scheduler = build(home).await?;
    scheduler.add_listener(EventKind::JobExecuted | EventKind::JobError, |heard| {
        if let Heard::Event(event) = heard {
            let outcome = event.run.as_ref().and_then(|run| run.outcome.as_ref());
            println!("{} {:?} {outcome:?}", event.kind, event.job_id);
        }
    });
    scheduler.start().await?;

    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let router = Router::new().route("/scheduler", post(schedule)).with_state(scheduler.clone());
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, router).with_graceful_shutdown(stop).await?;
    scheduler.shutdown(Drain::For(Duration::from_secs(5))).await?;
    Ok(())
}

async fn build(home: PathBuf) -> Result<Scheduler> {
    let native = NativeExecutor::new(16, Arc::new(SystemClock))
        .with("native:task1".parse()?, |_| task1())
        .with("native:task2".parse()?, |_| task2());
    // Opening reads files, which is not for the threads of the runtime.
    let open = move || SledStore::open(&home, SledOptions::default(), chrono::Utc::now());
    let store =
        tokio::task::spawn_blocking(open).await.map_err(|e| sandclock::Error::host("opening broke off", e))??;
    Scheduler::builder().executor(Alias::default(), native).jobstore(Alias::default(), store).build().await
}

/// What a caller posts.
#[derive(Deserialize)]
struct Wanted {
    cron: String,
    cmd: String,
    job_id: String,
}

async fn schedule(State(scheduler): State<Scheduler>, body: axum::body::Bytes) -> Json<Value> {
    match add(&scheduler, &body).await {
        Ok(id) => Json(json!({ "code": 0, "msg": "the job is scheduled", "job_id": id })),
        Err(message) => Json(json!({ "code": -1, "msg": message })),
    }
}

async fn add(scheduler: &Scheduler, body: &[u8]) -> std::result::Result<String, String> {
    let wanted: Wanted = serde_json::from_slice(body).map_err(|e| format!("the body is not understood: {e}"))?;
    let job = job(&wanted).map_err(|error| error.to_string())?;
    let added = scheduler.add_job(job, AddOptions::default().replace_existing()).await;
    added.map(|entry| entry.id.to_string()).map_err(|error| error.to_string())
}

fn job(wanted: &Wanted) -> Result<Job> {
    if wanted.cron.split_whitespace().count() != 6 {
        let reason = "it has six fields: second, minute, hour, day, month, day of week";
        return Err(sandclock::Invalid::new("cron expression", &wanted.cron, reason).into());
    }
    let trigger = Trigger::crontab(&wanted.cron, Dialect::Crontab, Zone::utc())?;
    Ok(Job::new(wanted.job_id.parse()?, format!("native:{}", wanted.cmd).parse()?, trigger))
}
