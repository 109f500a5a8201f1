//! `sandclock simulate`

use super::client::Client;
use super::output::{Output, bar_style, facts, table};
use super::{Done, Failure};
use crate::http::{SimulateLine, SimulateSpec};
use crate::simulate::Simulated;
use crate::trigger::{Zone, parse_duration, parse_time};
use clap::Args;
use futures::StreamExt;
use indicatif::ProgressBar;
use std::process::ExitCode;
use std::time::Duration;

/// Jobs that the text shows.
const JOBS_SHOWN: usize = 20;

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// Where to begin [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Where to end [default: a day after the beginning]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// The zone of times without one.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: Zone,
    /// Slots of the default executor [default: those that it has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: Option<u16>,
    /// How long a run takes of a job that has never run.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    unknown: Duration,
}

pub async fn run(args: SimulateArgs, client: &Client, output: Output) -> Done {
    let time = |text: Option<&String>| text.map(|text| parse_time(text, args.tz)).transpose();
    let spec = SimulateSpec {
        from: time(args.from.as_ref())?,
        to: time(args.to.as_ref())?,
        slots: args.workers.map(usize::from),
        unknown: Some(args.unknown.as_secs_f64()),
    };
    let mut lines = client.lines("/v1/simulate", &spec).await?;
    let bar = ProgressBar::new(1000).with_style(bar_style("simulate"));
    let mut report = None;
    while let Some(line) = lines.next().await {
        match serde_json::from_str(&line) {
            Ok(SimulateLine::Progress(done)) => bar.set_position((done * 1000.0) as u64),
            Ok(SimulateLine::Report(last)) => report = Some(last),
            Err(error) => return Err(Failure::failed(format!("the simulation is not understood: {error}"))),
        }
    }
    bar.finish_and_clear();
    let report = report.ok_or_else(|| Failure::failed("the simulation broke off"))?;
    output.show(&report, || show(&report));
    Ok(ExitCode::SUCCESS)
}

fn show(report: &Simulated) {
    let busiest = report.busiest_at.map_or(String::new(), |at| format!("{} at {}", report.busiest, at.to_rfc3339()));
    let count = |n: u64| if n == 0 { String::new() } else { super::output::thousands(n) };
    facts(&[
        ("jobs", report.jobs.to_string()),
        ("runs", super::output::thousands(report.runs)),
        ("coalesced", count(report.coalesced)),
        ("missed", count(report.missed)),
        ("skipped at max_instances", count(report.skipped_max_instances)),
        ("skipped at max_catchup", count(report.skipped_catchup_limit)),
        ("runs that waited", count(report.waited)),
        ("longest wait", if report.waited == 0 { String::new() } else { format!("{:.1}s", report.longest_wait) }),
        ("most at one time", busiest),
        ("slots used", format!("{:.1} %", report.load * 100.0)),
    ]);
    let trouble = report.by_job.iter().filter(|job| job.missed + job.skipped > 0 || job.longest_wait > 0.0);
    let rows: Vec<_> = trouble
        .take(JOBS_SHOWN)
        .map(|job| {
            vec![
                job.id.to_string(),
                job.runs.to_string(),
                job.missed.to_string(),
                job.skipped.to_string(),
                format!("{:.1}s", job.longest_wait),
                format!("{:.2}s", job.duration),
            ]
        })
        .collect();
    if !rows.is_empty() {
        println!("{}", table(&["job", "runs", "missed", "skipped", "longest wait", "each takes"], rows));
    }
    for doubled in &report.doubled {
        println!("clocks set back: {} runs at {} and again at {}", doubled.job_id, doubled.first, doubled.second);
    }
    for (id, reason) in &report.left_out {
        println!("left out: {id} ({reason})");
    }
}
