//! `sandclock status` and `sandclock recover`

use super::client::Client;
use super::output::{Output, facts, field};
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

/// Exit code 1 if something is not kept in.
pub async fn doctor(client: &Client, output: Output) -> Done {
    let doctor: Value = client.get("/v1/doctor").await?;
    let status = |entry: &Value| match &entry["status"] {
        Value::Object(status) => status.iter().next().map_or_else(String::new, |(kind, why)| {
            format!("{kind}: {}", crate::invalid::printable(why.as_str().unwrap_or_default(), 400))
        }),
        status => status.as_str().unwrap_or_default().to_owned(),
    };
    let all = || ["layers", "jail"].into_iter().flat_map(|list| doctor[list].as_array().into_iter().flatten());
    output.show(&doctor, || {
        let inside = doctor["wall"] == "none";
        println!("plugins run {}", if inside { "in the daemon's own process" } else { "in locked worker processes" });
        println!("layers of a worker's jail:");
        for layer in doctor["layers"].as_array().into_iter().flatten() {
            println!("  {}: {}\n      stops {}", field(layer, "name"), status(layer), field(layer, "stops"));
        }
        println!("what a locked process tried:");
        for finding in doctor["jail"].as_array().into_iter().flatten() {
            let refusal = field(finding, "refusal");
            println!("  {}: {} {refusal}", field(finding, "attempt"), status(finding));
        }
    });
    let sound = all().all(|entry| entry["status"] == "enforced");
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
