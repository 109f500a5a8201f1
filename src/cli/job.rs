//! `sandclock job …`

use super::client::Client;
use super::exec::{CallArgs, LimitArgs};
use super::output::{Output, bytes, facts, field, outcome, short_time, table, thousands, time};
use super::run::print_runs;
use super::trigger::{CivilArgs, TriggerArgs};
use super::{Done, Failure};
use crate::func::FuncRef;
use crate::http::JobSpec;
use crate::job::{Alias, Coalesce, JobId, OnInterrupted, Overlap, Retry};
use crate::run::{OutcomeKind, RunId};
use crate::store::Conflict;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Schedule a function; without --cron, --every, --at, --calendar or --trigger it runs once, now.
    Add(Box<AddArgs>),
    /// List jobs.
    List(ListArgs),
    /// Show one job.
    Show { id: JobId },
    /// Stop firing a job until it is resumed.
    Pause { id: JobId },
    /// Fire a paused job again.
    Resume { id: JobId },
    /// Run a job once, now.
    Run(RunArgs),
    /// Remove a job; its runs that go on end first.
    Remove { id: JobId },
    /// Show a job's runs, newest first.
    History(HistoryArgs),
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// What to call: `module:export`.
    func: FuncRef,
    #[command(flatten)]
    trigger: TriggerArgs,
    #[command(flatten)]
    civil: CivilArgs,
    #[command(flatten)]
    call: CallArgs,
    #[command(flatten)]
    limits: LimitArgs,
    /// The job's id [default: a new one]
    #[arg(long)]
    id: Option<JobId>,
    /// A name for people [default: the func]
    #[arg(long)]
    name: Option<String>,
    /// Runs at one time [default: 1]
    #[arg(long, value_name = "N")]
    max_instances: Option<u32>,
    /// Longest delay after which a run still starts, such as 1h [default: any]
    #[arg(long, value_name = "DURATION", value_parser = crate::trigger::parse_duration)]
    misfire_grace: Option<Duration>,
    /// What several missed fire times become: earliest, latest or all.
    #[arg(long, value_name = "POLICY", default_value = "latest")]
    coalesce: Coalesce,
    /// The most runs that a catch-up with `--coalesce all` starts [default: 100]
    #[arg(long, value_name = "N")]
    max_catchup: Option<u32>,
    /// At max-instances: skip the fire time, queue it, or cancel the oldest run.
    #[arg(long, value_name = "POLICY", default_value = "skip")]
    overlap: Overlap,
    /// Further attempts after a run that did not succeed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: u32,
    /// Wait before the second attempt; it doubles each time.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = crate::trigger::parse_duration)]
    retry_wait: Duration,
    /// If the process dies during a run: fail (at most once) or rerun (at least once).
    #[arg(long, value_name = "POLICY", default_value = "fail")]
    on_interrupted: OnInterrupted,
    /// Pause the job after so many runs in a row that did not succeed.
    #[arg(long, value_name = "N")]
    pause_after: Option<u32>,
    /// The executor's alias [default: default]
    #[arg(long, value_name = "ALIAS")]
    executor: Option<Alias>,
    /// The job store's alias [default: default]
    #[arg(long, value_name = "ALIAS")]
    jobstore: Option<Alias>,
    /// A tag for lists and filters. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Add it paused.
    #[arg(long)]
    paused: bool,
    /// Take the place of a job with this id.
    #[arg(long, conflicts_with = "keep_existing")]
    replace_existing: bool,
    /// Leave a job with this id as it is.
    #[arg(long)]
    keep_existing: bool,
}

impl AddArgs {
    fn spec(self) -> Result<JobSpec, crate::Invalid> {
        let (args, kwargs) = self.call.parse()?;
        let tag = |tag: &String| {
            let pair = tag.split_once('=').ok_or_else(|| crate::Invalid::new("--tag", tag, "it has no `=`"))?;
            Ok((pair.0.to_owned(), pair.1.to_owned()))
        };
        Ok(JobSpec {
            id: self.id,
            name: self.name,
            func: Some(self.func),
            args,
            kwargs,
            trigger: self.trigger.parse(&self.civil)?,
            executor: self.executor.unwrap_or_default(),
            jobstore: self.jobstore.unwrap_or_default(),
            misfire_grace_time: self.misfire_grace,
            coalesce: self.coalesce,
            max_catchup: self.max_catchup,
            max_instances: self.max_instances,
            overlap: self.overlap,
            retry: Retry { max_attempts: self.retries.saturating_add(1), first: self.retry_wait, ..Retry::default() },
            on_interrupted: self.on_interrupted,
            limits: self.limits.limits(),
            pause_after: self.pause_after,
            tags: self.tag.iter().map(tag).collect::<Result<_, crate::Invalid>>()?,
            paused: self.paused,
            on_conflict: match (self.replace_existing, self.keep_existing) {
                (true, _) => Conflict::Replace,
                (_, true) => Conflict::Keep,
                _ => Conflict::Refuse,
            },
            ..JobSpec::default()
        })
    }
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only jobs in this state: active, paused, quarantined or finished.
    #[arg(long)]
    state: Option<String>,
    /// Only jobs with this tag. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Continue after this id.
    #[arg(long, value_name = "CURSOR")]
    after: Option<JobId>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    id: JobId,
    /// Wait for the run to end, and exit with 1 unless it succeeded.
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    id: JobId,
    /// Only runs with this outcome, such as `trapped`.
    #[arg(long)]
    outcome: Option<OutcomeKind>,
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Continue after this run.
    #[arg(long, value_name = "CURSOR")]
    after: Option<RunId>,
}

pub async fn run(command: JobCommand, client: &Client, output: Output) -> Done {
    match command {
        JobCommand::Add(args) => {
            let verb = if args.keep_existing { "there is" } else { "added" };
            let job: Value = client.post("/v1/jobs", &args.spec()?).await?;
            output.show(&job, || {
                println!("{verb} job {}: {}, next run {}", field(&job, "id"), field(&job, "trigger_text"), next(&job));
                if client.is_local() {
                    println!("no daemon runs on this home: `sandclock serve` fires it");
                }
            });
        }
        JobCommand::List(args) => list(args, client, output).await?,
        JobCommand::Show { id } => {
            let job: Value = client.get(&format!("/v1/jobs/{id}")).await?;
            output.show(&job, || show(&job));
        }
        JobCommand::Pause { id } => {
            let job: Value = client.post(&format!("/v1/jobs/{id}/pause"), &Value::Null).await?;
            output.show(&job, || println!("paused job {id}"));
        }
        JobCommand::Resume { id } => {
            let job: Value = client.post(&format!("/v1/jobs/{id}/resume"), &Value::Null).await?;
            output.show(&job, || println!("resumed job {id}, next run {}", next(&job)));
        }
        JobCommand::Run(args) => return run_now(args, client, output).await,
        JobCommand::Remove { id } => {
            client.delete(&format!("/v1/jobs/{id}")).await?;
            output.show(&Value::Null, || println!("removed job {id}"));
        }
        JobCommand::History(args) => {
            let outcome = args.outcome.map_or_else(String::new, |kind| format!("&outcome={kind}"));
            let after = args.after.map_or_else(String::new, |run| format!("&after={run}"));
            let path = format!("/v1/runs?job={}&limit={}{outcome}{after}", args.id, args.limit);
            let list: Value = client.get(&path).await?;
            if list["items"].as_array().is_none_or(Vec::is_empty) {
                // A job that is finished is gone while its history stays; one that never was is an error.
                client.get::<Value>(&format!("/v1/jobs/{}", args.id)).await?;
            }
            output.show(&list, || print_runs(&list));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: ListArgs, client: &Client, output: Output) -> Done<()> {
    let mut path = format!("/v1/jobs?limit={}", args.limit);
    if let Some(state) = &args.state {
        path.push_str(&format!("&state={}", query(state)));
    }
    if !args.tag.is_empty() {
        path.push_str(&format!("&tags={}", query(&args.tag.join(","))));
    }
    if let Some(after) = &args.after {
        path.push_str(&format!("&after={after}"));
    }
    let list: Value = client.get(&path).await?;
    output.show(&list, || {
        let rows: Vec<_> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|job| {
                let state = field(job, "state");
                let running = job["running"].as_u64().filter(|n| *n > 0).map_or(String::new(), |n| n.to_string());
                vec![
                    field(job, "id"),
                    field(job, "func"),
                    field(job, "trigger_text"),
                    state,
                    short_time(&job["next_run_time"]),
                    running,
                    field(job, "quarantine"),
                ]
            })
            .collect();
        if rows.is_empty() {
            println!("no jobs (`sandclock job add FUNC --every 1m` adds one)");
            return;
        }
        println!("{}", table(&["id", "func", "trigger", "state", "next", "running", "reason"], rows));
        if let Some(next) = list["next"].as_str() {
            println!("more: --after {next}");
        }
    });
    Ok(())
}

/// Percent-encodes what a query must not hold as it is.
fn query(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~,".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

async fn run_now(args: RunArgs, client: &Client, output: Output) -> Done {
    client.run_here().await?;
    let asked: Value = client.post(&format!("/v1/jobs/{}/run", args.id), &Value::Null).await?;
    let id = field(&asked, "run_id");
    if !args.wait && !client.is_local() {
        output.show(&asked, || println!("run {id} of job {} is on its way (`sandclock run show {id}`)", args.id));
        return Ok(ExitCode::SUCCESS);
    }
    // Without a daemon the run lives in this process, so there is no going ahead of it.
    let run: Value = loop {
        let run: Value = client.get(&format!("/v1/runs/{id}?wait=true")).await?;
        if run["state"] == "ended" {
            break run;
        }
    };
    let succeeded = run["outcome"]["kind"] == "succeeded";
    output.show(&run, || println!("run {id} {}", outcome(&run["outcome"])));
    match succeeded {
        true => Ok(ExitCode::SUCCESS),
        false if output.json => Ok(ExitCode::FAILURE),
        false => {
            Err(Failure::failed(format!("run {id} of job {} did not succeed (`sandclock run logs {id}`)", args.id)))
        }
    }
}

fn next(job: &Value) -> String {
    match job["state"].as_str() {
        Some("active") if !job["next_start_time"].is_null() => time(&job["next_start_time"]),
        Some("active") => time(&job["next_run_time"]),
        Some(state) => format!("never while {state}"),
        None => String::new(),
    }
}

fn show(job: &Value) {
    let limits = &job["limits"];
    let empty = |name: &str| match &job[name] {
        Value::Array(items) if items.is_empty() => String::new(),
        Value::Object(fields) if fields.is_empty() => String::new(),
        other => other.to_string(),
    };
    facts(&[
        ("id", field(job, "id")),
        ("name", field(job, "name")),
        ("func", field(job, "func")),
        ("args", empty("args")),
        ("kwargs", empty("kwargs")),
        ("trigger", field(job, "trigger_text")),
        ("in words", field(job, "trigger_description")),
        ("state", field(job, "state")),
        ("reason", field(job, "quarantine")),
        ("next run", next(job)),
        ("runs started", field(job, "started")),
        ("running", field(job, "running")),
        ("failures in a row", field(job, "failures")),
        ("executor, job store", format!("{}, {}", field(job, "executor"), field(job, "jobstore"))),
        (
            "coalesce, overlap",
            format!(
                "{}, {} at {} instances",
                field(job, "coalesce"),
                field(job, "overlap"),
                field(job, "max_instances")
            ),
        ),
        ("misfire grace", field(job, "misfire_grace_time")),
        ("attempts", field(&job["retry"], "max_attempts")),
        ("if interrupted", field(job, "on_interrupted")),
        (
            "limits",
            format!(
                "fuel {}, memory {}, timeout {}s, output {}",
                thousands(limits["fuel"].as_u64().unwrap_or(0)),
                bytes(limits["memory"].as_u64().unwrap_or(0)),
                limits["timeout"],
                bytes(limits["output"].as_u64().unwrap_or(0)),
            ),
        ),
        ("tags", empty("tags")),
    ]);
}
