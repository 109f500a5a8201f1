//! The scheduler inside a tokio program, with plugins in the sandbox and a durable store.
//!
//! `cargo run --example async -- plugins/target/wasm32-wasip2/release/hello.wasm`

use sandclock::config::{App, AppOptions};
use sandclock::sandbox::AddPlugin;
use sandclock::{AddOptions, EventKind, Heard, Job, Result, Trigger};
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    // Plugins run in worker processes, which are this program again.
    if let Some(code) = sandclock::child_main() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> Result<()> {
    let file = std::env::args().nth(1).unwrap_or("plugins/target/wasm32-wasip2/release/hello.wasm".into());
    let component = std::fs::read(&file).map_err(|e| sandclock::Error::host(format!("cannot read {file}"), e))?;
    let home = std::env::temp_dir().join(format!("sandclock-example-{}", std::process::id()));
    let app = App::open(AppOptions::new(home.clone())).await?;
    let plugin = app.registry.add("hello".parse()?, AddPlugin::default(), component).await?;
    println!("registered hello with {} exports", plugin.interface.exports.len());

    let mut events = app.scheduler.subscribe(EventKind::JobExecuted | EventKind::JobError);
    let mut job = Job::new("greeting".parse()?, "hello:greet".parse()?, Trigger::every(Duration::from_secs(1))?);
    job.kwargs.insert("name".into(), json!("Ada"));
    app.scheduler.add_job(job, AddOptions::default()).await?;
    app.scheduler.start().await?;
    for _ in 0..3 {
        if let Some(Heard::Event(event)) = events.next().await {
            let outcome = event.run.as_ref().and_then(|run| run.outcome.clone());
            println!("{} {} {outcome:?}", event.seq, event.kind);
        }
    }
    app.close(Duration::from_secs(1)).await?;
    let _ = std::fs::remove_dir_all(home);
    Ok(())
}
