//! `sandclock status` and `sandclock recover`

use super::client::Client;
use super::output::{Output, facts, field};
use super::{Done, Failure};
use crate::http::Status;
use crate::store::{List, Node, recover as recover_store};
use chrono::Utc;
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

pub async fn status(client: &Client, output: Output) -> Done {
    let status: Status = client.get("/v1/status").await?;
    let nodes: List<Node> = client.get("/v1/nodes").await?;
    let running = nodes.items.iter().filter(|node| node.runs()).count();
    output.show(&status, || {
        let phase = match client {
            Client::Daemon { .. } => format!("{:?}", status.phase).to_lowercase(),
            Client::Local { .. } if running > 0 => "no daemon on this home".to_owned(),
            Client::Local { .. } => "no daemon (`sandclock serve` starts one)".to_owned(),
        };
        facts(&[
            ("version", status.version.clone()),
            ("time zones", status.time_zones.clone()),
            ("scheduler", phase),
            ("home", status.home.display().to_string()),
            ("listens", status.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
            ("store", status.store.clone()),
            ("node", status.node.clone()),
            ("nodes that run", if nodes.items.is_empty() { String::new() } else { running.to_string() }),
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

/// Exit code 1 if something does not work, or is not kept in.
pub async fn doctor(client: &Client, output: Output) -> Done {
    let doctor: Value = client.get("/v1/doctor").await?;
    let status = |entry: &Value| match &entry["status"] {
        Value::Object(status) => status.iter().next().map_or_else(String::new, |(kind, why)| {
            format!("{kind}: {}", crate::invalid::printable(why.as_str().unwrap_or_default(), 400))
        }),
        status => status.as_str().unwrap_or_default().to_owned(),
    };
    output.show(&doctor, || {
        for check in doctor["checks"].as_array().into_iter().flatten() {
            let (status, detail) = (field(check, "status"), field(check, "detail"));
            println!("{:<8} {}: {}", status, field(check, "name"), crate::invalid::printable(&detail, 400));
            let remedy = field(check, "remedy");
            if !remedy.is_empty() {
                println!("         -> {}", crate::invalid::printable(&remedy, 400));
            }
        }
        println!(
            "{}",
            match doctor["verdict"].as_str() {
                Some("ok") => "all is well",
                Some("warning") => "it works; see the warnings",
                _ => "something is wrong; see what failed",
            }
        );
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
    Ok(if doctor["verdict"] != "failed" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    let done = match verb {
        "pause" => {
            // It is done, whether or not the store can say who else there is.
            let nodes = client.get::<List<Node>>("/v1/nodes").await;
            paused(&nodes.map(|nodes| nodes.items).unwrap_or_default())
        }
        "resume" => "the daemon fires what is due",
        _ => "the daemon lets runs end and stops",
    };
    output.show(&Value::Null, || println!("{done}"));
    Ok(ExitCode::SUCCESS)
}

/// What it means that this node is paused.
fn paused(nodes: &[Node]) -> &'static str {
    let (own, others): (Vec<&Node>, Vec<&Node>) = nodes.iter().filter(|node| node.runs()).partition(|node| node.own);
    let claims = own.iter().any(|node| node.claims);
    let none = !others.iter().any(|node| node.claims);
    match (others.is_empty(), claims) {
        (true, _) => "the daemon fires nothing until `sandclock resume`",
        (_, true) if none => {
            "no node fires anything until `sandclock resume`: this is the one that claims, and the others stand by"
        }
        (_, false) if !own.is_empty() => {
            "this node stands by, and will fire nothing when it takes over until `sandclock resume`; the one that \
             claims is not paused"
        }
        _ => "this node fires nothing until `sandclock resume`; others that share its store are not paused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(own: bool, claims: bool) -> Node {
        let executors = vec!["default".to_owned()];
        Node { lease: 1, name: "n".into(), executors, left: Some(9.0), claims, own }
    }

    #[test]
    fn what_a_pause_does_is_said_for_each_kind_of_store() {
        for (nodes, says) in [
            (vec![], "the daemon fires"),
            (vec![node(true, true)], "the daemon fires"),
            (vec![node(true, true), node(false, true)], "others that share its store are not paused"),
            (vec![node(true, true), node(false, false)], "no node fires anything"),
            (vec![node(true, false), node(false, true)], "this node stands by"),
        ] {
            assert!(paused(&nodes).contains(says), "{nodes:?}: {}", paused(&nodes));
        }
    }
}
