//! `sandclock run …`

use super::client::Client;
use super::output::{Output, bytes, facts, field, lines, outcome, query, short_time, table, thousands, time};
use super::{Done, Failure};
use crate::invalid::printable;
use crate::job::{Alias, JobId};
use crate::run::{OutcomeKind, Run, RunId, RunState};
use crate::store::{List, Node};
use crate::trigger::Zone;
use crate::trigger::parse_time;
use clap::{Args, Subcommand};
use futures::StreamExt;
use serde_json::Value;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// List runs, newest first.
    List(ListArgs),
    /// Show one run.
    Show { id: RunId },
    /// Show what a run wrote.
    Logs {
        id: RunId,
        /// Go on with what it writes until it has ended.
        #[arg(long, short)]
        follow: bool,
    },
    /// Show the failures among the newest runs, those of the same kind as one.
    Failures {
        /// Only of this job.
        #[arg(long)]
        job: Option<JobId>,
        /// Only runs scheduled at or after this time.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
    },
    /// Make a run end.
    Cancel { id: RunId },
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only runs of this job.
    #[arg(long)]
    job: Option<JobId>,
    /// Only runs with this outcome, such as `out_of_fuel`.
    #[arg(long)]
    outcome: Option<OutcomeKind>,
    /// Only runs scheduled at or after this time.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only runs scheduled before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only runs of jobs with this tag. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Runs of this job store.
    #[arg(long, value_name = "ALIAS", default_value = "default")]
    jobstore: Alias,
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Continue after this run.
    #[arg(long, value_name = "CURSOR")]
    after: Option<RunId>,
}

pub async fn run(command: RunCommand, client: &Client, output: Output) -> Done {
    match command {
        RunCommand::List(args) => {
            let mut path = format!("/v1/runs?jobstore={}&limit={}", args.jobstore, args.limit);
            if let Some(job) = args.job {
                path.push_str(&format!("&job={job}"));
            }
            if let Some(outcome) = args.outcome {
                path.push_str(&format!("&outcome={outcome}"));
            }
            for (name, time) in [("since", args.since), ("until", args.until)] {
                if let Some(time) = time {
                    let time = parse_time(&time, Zone::utc())?;
                    path.push_str(&format!("&{name}={}", time.format("%Y-%m-%dT%H:%M:%S%.6fZ")));
                }
            }
            if !args.tag.is_empty() {
                path.push_str(&format!("&tags={}", query(&args.tag.join(","))));
            }
            if let Some(after) = args.after {
                path.push_str(&format!("&after={after}"));
            }
            let list: Value = client.get(&path).await?;
            output.show(&list, || print_runs(&list));
        }
        RunCommand::Show { id } => {
            let run: Value = client.get(&format!("/v1/runs/{id}")).await?;
            output.show(&run, || show(&run));
        }
        RunCommand::Logs { id, follow: true } => {
            let _ = tell_where(id, client).await;
            follow(id, client, output).await?;
        }
        RunCommand::Logs { id, follow: false } => {
            let _ = tell_where(id, client).await;
            let logs: Value = client.get(&format!("/v1/runs/{id}/logs")).await?;
            output.show(&logs, || {
                for stream in ["stdout", "stderr"] {
                    for line in lines(&field(&logs, stream)) {
                        println!("{stream}: {line}");
                    }
                }
                for line in logs["log"].as_array().into_iter().flatten() {
                    println!("{}: {}", field(line, "level"), field(line, "message"));
                }
            });
        }
        RunCommand::Failures { job, since } => {
            let mut path = "/v1/failures?".to_owned();
            if let Some(job) = job {
                path.push_str(&format!("job={job}&"));
            }
            if let Some(since) = since {
                let since = parse_time(&since, Zone::utc())?;
                path.push_str(&format!("since={}", since.format("%Y-%m-%dT%H:%M:%S%.6fZ")));
            }
            let list: Value = client.get(path.trim_end_matches(['&', '?'])).await?;
            output.show(&list, || print_failures(&list));
        }
        RunCommand::Cancel { id } => {
            client.post::<Value>(&format!("/v1/runs/{id}/cancel"), &Value::Null).await?;
            output.show(&Value::Null, || println!("cancelling run {id}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says so if a run goes on at another node, which has what it has written so far.
async fn tell_where(id: RunId, client: &Client) -> Done<()> {
    let run: Run = client.get(&format!("/v1/runs/{id}")).await?;
    if run.state == RunState::Ended || run.node.is_empty() {
        return Ok(());
    }
    let nodes: List<Node> = client.get("/v1/nodes").await?;
    if nodes.items.iter().any(|node| node.own && *node.name != *run.node) {
        let node = printable(&run.node, 64);
        eprintln!(
            "this run goes on at node `{node}`: what it writes can be read there now, and here when it has ended"
        );
    }
    Ok(())
}

/// Prints what a run writes as it comes, until its end. Text is cut into lines only where it has them.
async fn follow(id: RunId, client: &Client, output: Output) -> Done<()> {
    let mut stream = client.stream(&format!("/v1/runs/{id}/logs")).await?;
    let mut texts = [("stdout", String::new()), ("stderr", String::new())];
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some((name, data)) = event else {
            return Err(Failure::failed("the stream ended before the run (is the daemon gone?)"));
        };
        let data: Value = serde_json::from_str(&data).unwrap_or_default();
        if output.json {
            println!("{}", serde_json::json!({ "event": name, "data": data }));
        }
        for (stream, text) in texts.iter_mut().filter(|(stream, _)| name == *stream || name == "end") {
            text.push_str(data["text"].as_str().unwrap_or_default());
            let end = if name == "end" { text.len() } else { text.rfind('\n').map_or(0, |at| at + 1) };
            let whole: String = text.drain(..end).collect();
            for line in lines(&whole).filter(|_| !output.json) {
                println!("{stream}: {line}");
            }
        }
        match name.as_str() {
            "log" if !output.json => {
                println!("{}: {}", field(&data, "level"), printable(&field(&data, "message"), 4000));
            }
            "end" => return Ok(()),
            _ => {}
        }
    }
}

/// A table of runs, for `run list` and `job history`.
pub fn print_runs(list: &Value) {
    let rows: Vec<_> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|run| {
            let ended = if run["outcome"].is_null() { field(run, "state") } else { outcome(&run["outcome"]) };
            let more = run["coalesced"].as_u64().map_or(String::new(), |n| format!(" (+{n})"));
            vec![
                field(run, "id"),
                field(run, "job_id"),
                format!("{}{more}", short_time(&run["scheduled_time"])),
                field(run, "attempt"),
                duration(run),
                run["fuel_used"].as_u64().map_or(String::new(), thousands),
                ended,
            ]
        })
        .collect();
    if rows.is_empty() {
        println!("no runs");
        return;
    }
    println!("{}", table(&["run", "job", "scheduled", "attempt", "took", "fuel", "outcome"], rows));
    if let Some(next) = list["next"].as_str() {
        println!("more: --after {next}");
    }
}

/// What a run reached for and got, or was denied.
pub fn used(run: &Value, denied: bool) -> String {
    let uses = run["uses"].as_array().into_iter().flatten();
    let uses = uses.filter(|used| used["denied"].as_bool().unwrap_or(false) == denied);
    uses.map(|used| field(used, "what")).collect::<Vec<_>>().join(", ")
}

fn print_failures(list: &Value) {
    let groups = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    if groups.is_empty() {
        println!("no failures");
        return;
    }
    for group in groups {
        let count = thousands(group["count"].as_u64().unwrap_or(0));
        println!("{count}x {} {}", field(group, "func"), outcome(&group["outcome"]));
        for frame in group["outcome"]["backtrace"].as_array().into_iter().flatten() {
            println!("    in {}", frame.as_str().unwrap_or_default());
        }
        let jobs: Vec<&str> = group["jobs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        println!("    first {}, last {}", time(&group["first"]), time(&group["last"]));
        println!(
            "    jobs {}; fingerprint {}; see `sandclock run show {}`",
            jobs.join(", "),
            field(group, "fingerprint"),
            field(group, "run")
        );
    }
}

fn duration(run: &Value) -> String {
    let at = |name: &str| run[name].as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    let took = at("started").zip(at("ended")).and_then(|(started, ended)| (ended - started).to_std().ok());
    took.map_or(String::new(), |took| format!("{took:.1?}"))
}

fn show(run: &Value) {
    let started_late = |run: &Value| {
        let at = |name: &str| run[name].as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
        at("started")
            .zip(at("scheduled_time"))
            .and_then(|(a, b)| (a - b).to_std().ok())
            .map_or(String::new(), |late| format!("{late:.1?}"))
    };
    facts(&[
        ("id", field(run, "id")),
        ("job", field(run, "job_id")),
        ("func", field(run, "func")),
        ("component", field(run, "plugin_digest")),
        ("scheduled", time(&run["scheduled_time"])),
        ("stands for further", field(run, "coalesced")),
        ("started", time(&run["started"])),
        ("late by", started_late(run)),
        ("ended", time(&run["ended"])),
        ("took", duration(run)),
        ("attempt", field(run, "attempt")),
        ("node", field(run, "node")),
        ("state", if run["node"] == "" { "waiting for a node".to_owned() } else { field(run, "state") }),
        ("fuel used", run["fuel_used"].as_u64().map_or(String::new(), thousands)),
        ("memory peak", run["memory_peak"].as_u64().map_or(String::new(), bytes)),
        ("outcome", if run["outcome"].is_null() { String::new() } else { outcome(&run["outcome"]) }),
        ("fingerprint", field(run, "fingerprint")),
        ("used", used(run, false)),
        ("was denied", used(run, true)),
    ]);
    for frame in run["outcome"]["backtrace"].as_array().into_iter().flatten() {
        println!("  in {}", frame.as_str().unwrap_or_default());
    }
    if run["has_logs"] == true {
        println!("it wrote something: `sandclock run logs {}`", field(run, "id"));
    }
}
