//! `sandclock listener …`

use super::client::Client;
use super::output::{Output, facts, field, short_time, table, time};
use super::policy::object;
use super::{Done, Failure};
use crate::event::EventMask;
use crate::func::FuncRef;
use crate::http::ReplaySpec;
use crate::job::{Alias, JobId};
use crate::trigger::parse_duration;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum ListenerCommand {
    /// Tell a webhook or a plugin of events; replaces a listener of the same name.
    Add(AddArgs),
    /// List listeners and how far each is.
    List,
    /// Show one listener and its dead letters.
    Show { name: Alias },
    /// Tell it again of stored events.
    Replay {
        name: Alias,
        /// Events with a larger sequence number (0: all that are stored).
        #[arg(long, value_name = "SEQ")]
        after: u64,
    },
    /// Remove a listener.
    Remove { name: Alias },
}

#[derive(Debug, Args)]
pub struct AddArgs {
    name: Alias,
    #[command(flatten)]
    target: TargetArgs,
    /// A file with the secret that requests are signed with.
    #[arg(long, value_name = "FILE", requires = "url")]
    secret_file: Option<PathBuf>,
    /// Only these: names such as JOB_ERROR,JOB_MISSED, or a number of APScheduler's bits.
    #[arg(long, default_value = "ALL")]
    mask: EventMask,
    /// Only events about this job. May be repeated.
    #[arg(long, value_name = "ID")]
    job: Vec<JobId>,
    /// Tries of one event before it becomes a dead letter [default: 10]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Wait before the second try; it doubles each time [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    retry_wait: Option<Duration>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// A webhook: events are posted to it as CloudEvents.
    #[arg(long)]
    url: Option<String>,
    /// A plugin's export that takes the event as JSON text: `alerts:on-event`.
    #[arg(long)]
    func: Option<FuncRef>,
}

impl AddArgs {
    fn spec(&self) -> Done<Value> {
        let target = match (&self.target.url, &self.target.func) {
            (Some(url), _) => {
                let secret = self.secret_file.as_ref().map(|path| {
                    let secret = std::fs::read_to_string(path);
                    let secret = secret.map(|secret| secret.trim_end().to_owned());
                    secret.map_err(|e| Failure::failed(format!("cannot read `{}`: {e}", path.display())))
                });
                json!({ "type": "webhook", "url": url, "secret": secret.transpose()? })
            }
            (None, func) => json!({ "type": "plugin", "func": func }),
        };
        let mut spec = json!({ "mask": self.mask, "jobs": self.job, "target": target });
        if self.max_attempts.is_some() || self.retry_wait.is_some() {
            let first = self.retry_wait.map(|wait| json!(wait.as_secs_f64()));
            let retry = [("max_attempts", Some(json!(self.max_attempts.unwrap_or(10)))), ("first", first)];
            spec["retry"] = object(retry).unwrap_or_default();
        }
        Ok(spec)
    }
}

pub async fn run(command: ListenerCommand, client: &Client, output: Output) -> Done {
    match command {
        ListenerCommand::Add(args) => {
            let path = format!("/v1/listeners/{}", args.name);
            let listener: Value = client.put(&path, &args.spec()?).await?;
            output.show(&listener, || {
                println!("listener {} is told of {} from event {} on", args.name, args.mask, next(&listener));
                if client.is_local() {
                    println!("no daemon runs on this home: `sandclock serve` tells it");
                }
            });
        }
        ListenerCommand::List => {
            let list: Value = client.get("/v1/listeners").await?;
            output.show(&list, || print(&list));
        }
        ListenerCommand::Show { name } => {
            let listener: Value = client.get(&format!("/v1/listeners/{name}")).await?;
            output.show(&listener, || show(&listener));
        }
        ListenerCommand::Replay { name, after } => {
            let path = format!("/v1/listeners/{name}/replay");
            let listener: Value = client.post(&path, &ReplaySpec { after }).await?;
            output.show(&listener, || println!("listener {name} is told again from event {} on", next(&listener)));
        }
        ListenerCommand::Remove { name } => {
            client.delete(&format!("/v1/listeners/{name}")).await?;
            output.show(&Value::Null, || println!("removed listener {name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn next(listener: &Value) -> u64 {
    listener["after"].as_u64().unwrap_or(0) + 1
}

fn target(listener: &Value) -> String {
    let target = &listener["target"];
    if target["type"] == "webhook" { field(target, "url") } else { field(target, "func") }
}

fn print(list: &Value) {
    let items = list["items"].as_array().into_iter().flatten();
    let rows: Vec<_> = items
        .map(|listener| {
            let dead = listener["dead_count"].as_u64().filter(|n| *n > 0).map_or(String::new(), |n| n.to_string());
            vec![
                field(listener, "name"),
                target(listener),
                field(listener, "mask"),
                field(listener, "delivered"),
                dead,
                short_time(&listener["retry_at"]),
                field(listener, "last_error"),
            ]
        })
        .collect();
    if rows.is_empty() {
        return println!("no listeners (`sandclock listener add NAME --url URL` adds one)");
    }
    println!("{}", table(&["name", "target", "mask", "told", "dead", "next try", "error"], rows));
}

fn show(listener: &Value) {
    let secret = if listener["target"]["secret"].is_null() { "none" } else { "set" };
    facts(&[
        ("name", field(listener, "name")),
        ("target", target(listener)),
        ("secret", secret.to_owned()),
        ("mask", field(listener, "mask")),
        ("jobs", Some(listener["jobs"].to_string()).filter(|jobs| jobs != "[]").unwrap_or_default()),
        ("told", field(listener, "delivered")),
        ("done up to event", field(listener, "after")),
        ("missed", field(listener, "missed")),
        ("failed tries of the next", field(listener, "attempt")),
        ("next try", time(&listener["retry_at"])),
        ("last error", field(listener, "last_error")),
        ("dead letters", field(listener, "dead_count")),
    ]);
    for letter in listener["dead"].as_array().into_iter().flatten() {
        let (seq, kind, job) = (field(letter, "seq"), field(letter, "kind"), field(letter, "job_id"));
        println!("  {seq} {kind} {job}: {}", crate::invalid::printable(&field(letter, "error"), 200));
    }
    if listener["dead"].as_array().is_some_and(|dead| !dead.is_empty()) {
        println!("`sandclock listener replay {} --after SEQ` tells it again", field(listener, "name"));
    }
}
