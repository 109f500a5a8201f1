//! `sandclock trigger …`, and the flags that say when a job fires.

use super::Done;
use super::client::Client;
use super::output::{Output, relative};
use crate::http::{Preview, PreviewSpec};
use crate::invalid::Invalid;
use crate::trigger::{Dialect, Trigger, Zone};
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Utc};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum TriggerCommand {
    /// Show how a crontab line is understood and when it fires next.
    Next(NextArgs),
}

#[derive(Debug, Args)]
pub struct NextArgs {
    /// 5 fields, 6 (seconds first), 7 (year last), @daily and its like, or `@every 90s`.
    line: String,
    /// How many times to show.
    #[arg(short, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    n: u16,
    #[command(flatten)]
    zone: ZoneArg,
    /// How weekday numbers are read: crontab, quartz or apscheduler.
    #[arg(long, default_value = "crontab")]
    dialect: Dialect,
    /// Start looking here [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
}

/// Which zone civil times are in.
#[derive(Debug, Args)]
pub struct ZoneArg {
    /// The IANA time zone of civil times, such as Europe/Berlin.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    tz: Zone,
}

/// When a job fires; without any, once and now.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct TriggerArgs {
    /// A crontab line: `30 2 * * *`, @daily, `@every 90s`.
    #[arg(long, value_name = "LINE")]
    cron: Option<String>,
    /// An interval: 10s, 1h30m.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    every: Option<Duration>,
    /// One time: 2027-01-01T09:00:00Z, or `2027-01-01 09:00` in --tz.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// A trigger as JSON: {"type":"cron","fields":{"hour":"2"},"timezone":"Europe/Berlin"}
    #[arg(long, value_name = "JSON")]
    trigger: Option<String>,
}

impl TriggerArgs {
    pub fn parse(&self, zone: &ZoneArg) -> Result<Option<Trigger>, Invalid> {
        let trigger = if let Some(line) = &self.cron {
            Trigger::crontab(line, Dialect::Crontab, zone.tz.clone())?
        } else if let Some(every) = self.every {
            Trigger::every(every)?
        } else if let Some(at) = &self.at {
            Trigger::at(parse_time(at, &zone.tz)?)
        } else if let Some(json) = &self.trigger {
            crate::strict_json::from_slice("--trigger", json.as_bytes())?
        } else {
            return Ok(None);
        };
        Ok(Some(trigger))
    }
}

/// RFC 3339, or a civil time in `zone`.
pub fn parse_time(text: &str, zone: &Zone) -> Result<DateTime<Utc>, Invalid> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        let at = at.to_utc();
        return crate::trigger::check_instant(at).map(|()| at);
    }
    let civil = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let civil = civil.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().and_then(|date| date.and_hms_opt(0, 0, 0));
    let sound = |civil: &NaiveDateTime| (1970..=2200).contains(&civil.year());
    civil.or_else(date).filter(sound).map(|civil| zone.instant(civil)).ok_or_else(|| {
        Invalid::new("time", text, "it is not understood").hint("such as `2027-01-01T09:00:00Z` or `2027-01-01 09:00`")
    })
}

pub async fn run(command: TriggerCommand, client: &Client, output: Output) -> Done {
    let TriggerCommand::Next(args) = command;
    let zone = args.zone.tz;
    let from = args.from.as_deref().map(|text| parse_time(text, &zone)).transpose()?;
    let trigger = Trigger::crontab(&args.line, args.dialect, zone)?;
    let preview: Preview =
        client.post("/v1/triggers/preview", &PreviewSpec { trigger, from, count: Some(usize::from(args.n)) }).await?;
    output.show(&preview, || {
        println!("{} in {}", preview.text, preview.timezone);
        for at in &preview.times {
            println!("  {}  {}", at.format("%a %Y-%m-%d %H:%M:%S %:z"), relative(at.to_utc(), Utc::now()));
        }
    });
    Ok(ExitCode::SUCCESS)
}
