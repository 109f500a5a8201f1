//! `sandclock job …`

use super::client::Client;
use super::exec::CallArgs;
use super::output::{Output, bar_style, bytes, facts, field, outcome, query, short_time, table, thousands, time};
use super::policy::PolicyArgs;
use super::run::print_runs;
use super::trigger::{CivilArgs, TriggerArgs};
use super::{Done, Failure};
use crate::func::FuncRef;
use crate::http::BackfillSpec;
use crate::job::{Alias, JobId};
use crate::run::{OutcomeKind, RunId};
use crate::store::{Conflict, List, Node};
use crate::trigger::{Zone, parse_time};
use chrono::DateTime;
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::{Value, json};
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
    /// Change a job: all of what is given, or nothing.
    Modify(Box<ModifyArgs>),
    /// Give a job another trigger.
    Reschedule(RescheduleArgs),
    /// Run a job for each fire time of a past range, when nothing else waits.
    Backfill(BackfillArgs),
    /// Stop firing a job until it is resumed.
    Pause { id: JobId },
    /// Fire a paused job again.
    Resume { id: JobId },
    /// Run a job once, now.
    Run(RunArgs),
    /// Remove a job; its runs that go on end first.
    Remove(RemoveArgs),
    /// Show the key-value state that a job's runs have stored, or clear it.
    State {
        id: JobId,
        /// Forget all of it.
        #[arg(long)]
        clear: bool,
    },
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
    policy: PolicyArgs,
    /// The job's id [default: a new one]
    #[arg(long)]
    id: Option<JobId>,
    /// The job store's alias: default, or memory for a job that is gone with the daemon.
    #[arg(long, value_name = "ALIAS")]
    jobstore: Option<Alias>,
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
    fn spec(&self) -> Result<Value, crate::Invalid> {
        let mut spec = self.policy.fields(Some(&self.func))?;
        let (args, kwargs) = self.call.parse()?;
        let conflict = match (self.replace_existing, self.keep_existing) {
            (true, _) => Conflict::Replace,
            (_, true) => Conflict::Keep,
            _ => Conflict::Refuse,
        };
        let fields = [
            ("id", self.id.as_ref().map(|id| json!(id))),
            ("args", Some(json!(args))),
            ("kwargs", Some(json!(kwargs))),
            ("trigger", self.trigger.parse(&self.civil)?.map(|trigger| json!(trigger))),
            ("jobstore", self.jobstore.as_ref().map(|alias| json!(alias))),
            ("paused", Some(json!(self.paused))),
            ("on_conflict", Some(json!(conflict))),
        ];
        spec.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        Ok(Value::Object(spec))
    }
}

#[derive(Debug, Args)]
pub struct ModifyArgs {
    id: JobId,
    /// Another function to call: `module:export`.
    #[arg(long)]
    func: Option<FuncRef>,
    #[command(flatten)]
    trigger: TriggerArgs,
    #[command(flatten)]
    civil: CivilArgs,
    #[command(flatten)]
    call: CallArgs,
    #[command(flatten)]
    policy: PolicyArgs,
}

impl ModifyArgs {
    /// What is given, and nothing else.
    fn patch(&self) -> Result<Value, crate::Invalid> {
        let mut patch = self.policy.fields(self.func.as_ref())?;
        if let Some(trigger) = self.trigger.parse(&self.civil)? {
            patch.insert("trigger".into(), json!(trigger));
        }
        if self.call.is_given() {
            let (args, kwargs) = self.call.parse()?;
            patch.insert("args".into(), json!(args));
            patch.insert("kwargs".into(), json!(kwargs));
        }
        if patch.is_empty() {
            return Err(crate::Invalid::new("modify", "", "nothing to change is given").hint("see `--help`"));
        }
        Ok(Value::Object(patch))
    }
}

#[derive(Debug, Args)]
pub struct RescheduleArgs {
    id: JobId,
    #[command(flatten)]
    trigger: TriggerArgs,
    #[command(flatten)]
    civil: CivilArgs,
}

#[derive(Debug, Args)]
pub struct BackfillArgs {
    id: JobId,
    /// The first instant of the range.
    #[arg(long, value_name = "TIME", required_unless_present = "cancel")]
    from: Option<String>,
    /// The instant before which it ends.
    #[arg(long, value_name = "TIME", required_unless_present = "cancel")]
    to: Option<String>,
    /// The zone of times without one.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: Zone,
    /// Show progress until its runs have started.
    #[arg(long)]
    wait: bool,
    /// End the backfill that goes on instead.
    #[arg(long, conflicts_with_all = ["from", "to", "wait"])]
    cancel: bool,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only jobs in this state: active, paused, quarantined or finished.
    #[arg(long)]
    state: Option<String>,
    /// Only jobs with this tag. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Jobs of this job store.
    #[arg(long, value_name = "ALIAS", default_value = "default")]
    jobstore: Alias,
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Continue after this id.
    #[arg(long, value_name = "CURSOR")]
    after: Option<JobId>,
}

#[derive(Debug, Args)]
pub struct RemoveArgs {
    #[arg(required_unless_present = "all")]
    id: Option<JobId>,
    /// Remove all jobs.
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    id: JobId,
    #[command(flatten)]
    call: CallArgs,
    /// Wait for the run to end, not for its retries, and exit with 1 unless it succeeded.
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
            if job["state"] == "quarantined" {
                return Err(Failure::failed(format!("job {id} stays quarantined: {}", field(&job, "quarantine"))));
            }
            output.show(&job, || println!("resumed job {id}, next run {}", next(&job)));
        }
        JobCommand::Run(args) => return run_now(args, client, output).await,
        JobCommand::Remove(RemoveArgs { id: Some(id), .. }) => {
            client.delete(&format!("/v1/jobs/{id}")).await?;
            output.show(&Value::Null, || println!("removed job {id}"));
        }
        JobCommand::Remove(RemoveArgs { id: None, .. }) => {
            client.delete("/v1/jobs?all=true").await?;
            output.show(&Value::Null, || println!("removed all jobs"));
        }
        JobCommand::Modify(args) => {
            let job: Value = client.patch(&format!("/v1/jobs/{}", args.id), &args.patch()?).await?;
            output.show(&job, || println!("modified job {}, next run {}", args.id, next(&job)));
        }
        JobCommand::Reschedule(args) => {
            let none = || crate::Invalid::new("reschedule", "", "no trigger is given").hint("such as `--every 1h`");
            let trigger = args.trigger.parse(&args.civil)?.ok_or_else(none)?;
            let job: Value = client.patch(&format!("/v1/jobs/{}", args.id), &json!({ "trigger": trigger })).await?;
            let text = field(&job, "trigger_text");
            output.show(&job, || println!("rescheduled job {}: {text}, next run {}", args.id, next(&job)));
        }
        JobCommand::Backfill(args) => backfill(args, client, output).await?,
        JobCommand::State { id, clear: true } => {
            client.delete(&format!("/v1/jobs/{id}/state")).await?;
            output.show(&Value::Null, || println!("cleared the state of job {id}"));
        }
        JobCommand::State { id, clear: false } => {
            let state: Value = client.get(&format!("/v1/jobs/{id}/state")).await?;
            output.show(&state, || {
                for (key, value) in state.as_object().into_iter().flatten() {
                    let shown = value["text"]
                        .as_str()
                        .map_or_else(|| format!("base64 {}", field(value, "base64")), str::to_owned);
                    println!("{} = {}", crate::invalid::printable(key, 300), crate::invalid::printable(&shown, 400));
                }
            });
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
    let mut path = format!("/v1/jobs?jobstore={}&limit={}", args.jobstore, args.limit);
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

async fn backfill(args: BackfillArgs, client: &Client, output: Output) -> Done<()> {
    let path = format!("/v1/jobs/{}/backfill", args.id);
    let (Some(from), Some(to)) = (&args.from, &args.to) else {
        client.delete(&path).await?;
        output.show(&Value::Null, || println!("cancelled the backfill of job {}", args.id));
        return Ok(());
    };
    let spec = BackfillSpec { from: parse_time(from, args.tz)?, to: parse_time(to, args.tz)? };
    let asked: Value = client.post(&path, &spec).await?;
    output.show(&asked, || {
        println!("{} runs of job {} are to start as slots are free", field(&asked, "runs"), args.id);
        if client.is_local() {
            println!("no daemon runs on this home: `sandclock serve` starts them");
        }
    });
    if args.wait && !client.is_local() {
        let all = (spec.to - spec.from).num_milliseconds().unsigned_abs();
        let bar = ProgressBar::new(all).with_style(bar_style("backfill"));
        loop {
            let job: Value = client.get(&format!("/v1/jobs/{}", args.id)).await?;
            let left = job["backfill"]["from"].as_str().and_then(|at| DateTime::parse_from_rfc3339(at).ok());
            let Some(at) = left else { break };
            bar.set_position((at.to_utc() - spec.from).num_milliseconds().clamp(0, i64::MAX) as u64);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bar.finish_and_clear();
    }
    Ok(())
}

/// Says so if no node that shares the store can run a job now.
async fn tell_who_runs(id: &JobId, client: &Client) -> Done<()> {
    let nodes: List<Node> = client.get("/v1/nodes").await?;
    if nodes.items.is_empty() {
        return Ok(());
    }
    let job: Value = client.get(&format!("/v1/jobs/{id}")).await?;
    let executor = field(&job, "executor");
    let has = |node: &Node| node.left.is_some() && node.executors.contains(&executor);
    if !nodes.items.iter().any(has) {
        eprintln!("no node has executor `{executor}` now: the run waits for one");
    }
    Ok(())
}

async fn run_now(args: RunArgs, client: &Client, output: Output) -> Done {
    client.run_here().await?;
    let arguments = if args.call.is_given() {
        let (args, kwargs) = args.call.parse()?;
        json!({ "args": args, "kwargs": kwargs })
    } else {
        Value::Null
    };
    let asked: Value = client.post(&format!("/v1/jobs/{}/run", args.id), &arguments).await?;
    let id = field(&asked, "run_id");
    // The run is asked for, whether or not this can be said.
    let _ = tell_who_runs(&args.id, client).await;
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

fn seconds(value: &Value) -> String {
    value.as_f64().map_or(String::new(), |seconds| format!("{seconds}s"))
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
        ("priority", Some(field(job, "priority")).filter(|priority| priority != "0").unwrap_or_default()),
        ("attempts", field(&job["retry"], "max_attempts")),
        ("success expected every", seconds(&job["expect"]["period"])),
        ("and after that within", seconds(&job["expect"]["grace"])),
        ("late", if job["late"] == true { "yes: no run has succeeded in time".into() } else { String::new() }),
        ("backfill from", time(&job["backfill"]["from"])),
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
        ("metadata", empty("metadata")),
    ]);
    for run in job["pending"].as_array().into_iter().flatten() {
        println!("waits: run {}, attempt {}, {}", field(run, "id"), field(run, "attempt"), time(&run["due"]));
    }
}
