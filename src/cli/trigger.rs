//! `sandclock trigger …`, and the flags that say when a job fires.

use super::Done;
use super::client::Client;
use super::output::{Output, facts, relative};
use crate::http::PreviewSpec;
use crate::invalid::Invalid;
use crate::job::JobId;
use crate::trigger::{Dialect, Dst, Explanation, Trigger, Zone, parse_duration, parse_time};
use chrono::Utc;
use clap::{Args, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum TriggerCommand {
    /// Show how a trigger is understood and when it fires next.
    Next(NextArgs),
}

#[derive(Debug, Args)]
pub struct NextArgs {
    /// A crontab line, plain English (`every weekday at 9:30`), the text form, or JSON.
    #[arg(required_unless_present = "job")]
    trigger: Option<String>,
    /// How many times to show.
    #[arg(short, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    n: u16,
    #[command(flatten)]
    civil: CivilArgs,
    /// Start looking here, by the trigger's clocks [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Explain this job's trigger; with a trigger, spread its `~` by this job's id.
    #[arg(long, value_name = "ID")]
    job: Option<JobId>,
}

/// How civil times are read.
#[derive(Debug, Args)]
pub struct CivilArgs {
    /// The IANA time zone of civil times, such as Europe/Berlin.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    pub tz: Zone,
    /// How a bare crontab line is read: crontab, quartz or apscheduler.
    #[arg(long, default_value = "crontab")]
    dialect: Dialect,
    /// What a change of the clocks does to a civil time: once, wall or shift [default: once]
    #[arg(long, value_name = "POLICY")]
    dst: Option<Dst>,
}

impl CivilArgs {
    fn read(&self, text: &str) -> Result<Trigger, Invalid> {
        self.with_dst(Trigger::parse(text, self.tz, self.dialect)?)
    }

    fn with_dst(&self, trigger: Trigger) -> Result<Trigger, Invalid> {
        match self.dst {
            Some(dst) if !trigger.has_civil_times() => {
                let reason = "the trigger has no civil times that a change of the clocks could skip or double";
                Err(Invalid::new("--dst", dst.to_string(), reason))
            }
            Some(dst) => Ok(trigger.dst(dst)),
            None => Ok(trigger),
        }
    }
}

/// When a job fires; without any, once and now.
#[derive(Debug, Args)]
pub struct TriggerArgs {
    #[command(flatten)]
    rule: RuleArgs,
    /// The first instant at which it may fire; the grid of --every begins there.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// The last instant at which it may fire.
    #[arg(long, value_name = "TIME")]
    end: Option<String>,
    /// Start each run up to this much after its fire time, always the same for a job and a time.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    jitter: Option<Duration>,
    /// Finish the job after so many runs.
    #[arg(long, value_name = "N")]
    max_runs: Option<u64>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct RuleArgs {
    /// A crontab line: `30 2 * * *`, `0 17 * * friL`, @daily, `@every 90s`.
    #[arg(long, value_name = "LINE")]
    cron: Option<String>,
    /// An interval of elapsed time: 10s, 1h30m.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    every: Option<Duration>,
    /// One time: 2027-01-01T09:00:00Z, or `2027-01-01 09:00` in --tz.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Every so many years, months, weeks or days: `1 month at 09:00`, `2 weeks at 09:00 from 2027-01-04`.
    #[arg(long, value_name = "INTERVAL")]
    calendar: Option<String>,
    /// Any trigger, as plain English, text or JSON: `every weekday at 9:30 except 2026-12-25`.
    #[arg(long, value_name = "TRIGGER")]
    trigger: Option<String>,
}

impl TriggerArgs {
    pub fn parse(&self, civil: &CivilArgs) -> Result<Option<Trigger>, Invalid> {
        let rule = &self.rule;
        let trigger = if let Some(line) = &rule.cron {
            let read = Trigger::crontab(line, civil.dialect, civil.tz);
            let english = line.trim_start().starts_with(|c: char| c.is_ascii_alphabetic());
            let read =
                read.map_err(|error| if english { error.hint("plain English goes to --trigger") } else { error });
            Some(civil.with_dst(read?)?)
        } else if let Some(every) = rule.every {
            Some(civil.with_dst(Trigger::every(every)?.timezone(civil.tz))?)
        } else if let Some(at) = &rule.at {
            Some(civil.with_dst(Trigger::at(parse_time(at, civil.tz)?).timezone(civil.tz))?)
        } else if let Some(interval) = &rule.calendar {
            let hint = "such as `1 month at 09:00` or `2 weeks at 09:00 from 2027-01-04`";
            let trigger = civil.read(&format!("every {interval}")).map_err(|error| error.hint(hint))?;
            if !trigger.is_calendar_interval() {
                return Err(Invalid::new("--calendar", interval, "it lacks its time of day").hint(hint));
            }
            Some(trigger)
        } else {
            rule.trigger.as_deref().map(|text| civil.read(text)).transpose()?
        };
        let Some(mut trigger) = trigger else {
            let given = [self.start.is_some(), self.end.is_some(), self.jitter.is_some(), self.max_runs.is_some()];
            return if given.contains(&true) {
                let reason = "--start, --end, --jitter and --max-runs need one";
                Err(Invalid::new("trigger", "", reason).hint("add --cron, --every, --calendar or --trigger"))
            } else {
                Ok(None)
            };
        };
        let zone = trigger.zone();
        let instant = |text: &Option<String>| text.as_ref().map(|text| parse_time(text, zone)).transpose();
        trigger = instant(&self.start)?.into_iter().fold(trigger, Trigger::start);
        trigger = instant(&self.end)?.into_iter().fold(trigger, Trigger::end);
        trigger = self.jitter.into_iter().fold(trigger, Trigger::jitter);
        trigger = self.max_runs.into_iter().fold(trigger, Trigger::max_runs);
        Ok(Some(trigger))
    }
}

pub async fn run(command: TriggerCommand, client: &Client, output: Output) -> Done {
    let TriggerCommand::Next(args) = command;
    let trigger = args.trigger.as_deref().map(|text| args.civil.read(text)).transpose()?;
    let zone = trigger.as_ref().map_or(args.civil.tz, Trigger::zone);
    let from = args.from.as_deref().map(|text| parse_time(text, zone)).transpose()?;
    let spec = PreviewSpec { trigger, job: args.job, from, count: Some(usize::from(args.n)) };
    let explanation: Explanation = client.post("/v1/triggers/preview", &spec).await?;
    output.show(&explanation, || show(&explanation));
    Ok(ExitCode::SUCCESS)
}

fn show(explanation: &Explanation) {
    let Explanation { text, normal, description, notes, clock_changes, timezone, times, offset_changes, .. } =
        explanation;
    facts(&[
        ("trigger", text.clone()),
        ("normal form", if normal == text { String::new() } else { normal.clone() }),
        ("in words", description.clone()),
        ("time zone", format!("{timezone} (data {})", Zone::database())),
    ]);
    for note in notes {
        println!("note: {note}");
    }
    for change in clock_changes {
        println!("warning: {change}");
    }
    let mut changes = offset_changes.iter().peekable();
    for at in times {
        while let Some(change) = changes.next_if(|change| change.at <= *at) {
            let (direction, by) = if change.by > 0 { ("forward", change.by) } else { ("back", -change.by) };
            let by = crate::trigger::duration_text(Duration::from_secs(by.unsigned_abs()));
            println!("  -- clocks go {direction} by {by}, {} --", change.at.format("%a %Y-%m-%d %H:%M:%S %:z"));
        }
        println!("  {}  {}", at.format("%a %Y-%m-%d %H:%M:%S %:z"), relative(at.to_utc(), Utc::now()));
    }
}
