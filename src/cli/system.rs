//! `sandclock status` and `sandclock recover`

use super::client::Client;
use super::output::{Output, facts};
use super::{Done, Failure};
use crate::http::Status;
use crate::store::recover as recover_store;
use chrono::Utc;
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

pub async fn status(client: &Client, output: Output) -> Done {
    let status: Status = client.get("/v1/status").await?;
    output.show(&status, || {
        let phase = match client {
            Client::Daemon(_) => format!("{:?}", status.phase).to_lowercase(),
            Client::Local { .. } => "no daemon (`sandclock serve` starts one)".to_owned(),
        };
        facts(&[
            ("version", status.version.clone()),
            ("time zones", status.time_zones.clone()),
            ("scheduler", phase),
            ("home", status.home.display().to_string()),
            ("node", status.node.clone()),
            (
                "jobs",
                format!(
                    "{} ({} paused, {} quarantined)",
                    status.counts.jobs, status.counts.paused, status.counts.quarantined
                ),
            ),
            ("running", status.counts.running.to_string()),
            ("runs kept", status.counts.runs.to_string()),
            ("last event", status.counts.last_event.to_string()),
        ]);
    });
    Ok(ExitCode::SUCCESS)
}

pub fn recover(home: &Path, output: Output) -> Done {
    let recovered = recover_store(home, Utc::now())?;
    output.show(&recovered, || {
        for id in &recovered.left_out {
            println!("left out job {id}: its time is past, it may have run");
        }
        println!("the damaged database is kept in {}", recovered.kept.display());
        match &recovered.from {
            Some(from) => println!(
                "restored {} plugins and {} jobs from {}; history is not restored",
                recovered.plugins,
                recovered.jobs,
                from.display()
            ),
            None => println!("there is no export to restore from; the store is empty"),
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// Pauses or resumes the daemon's scheduler.
pub async fn shift(client: &Client, output: Output, verb: &str) -> Done {
    if client.is_local() {
        return Err(Failure::failed("no daemon runs on this home (`sandclock serve` starts one)"));
    }
    client.post::<Value>(&format!("/v1/scheduler/{verb}"), &Value::Null).await?;
    output.show(&Value::Null, || println!("the scheduler is {verb}d"));
    Ok(ExitCode::SUCCESS)
}
