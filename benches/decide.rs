//! The pure part: the next fire time of common and of nasty triggers, and the plan of one due job.

use chrono::{DateTime, TimeDelta, Utc};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use sandclock::{Dialect, Job, JobState, Trigger, Zone, plan};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const BERLIN: &str = "Europe/Berlin";

fn main() {
    divan::main();
}

fn now() -> DateTime<Utc> {
    "2026-11-22T09:30:15Z".parse().expect("a time")
}

/// A trigger, and how croner and the `cron` crate spell it; empty where they cannot.
struct Case(&'static str, &'static str, &'static str, &'static str, &'static str);

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.0, self.2)
    }
}

const CASES: [Case; 19] = [
    Case("every 5 minutes", "*/5 * * * *", "UTC", "*/5 * * * *", "0 */5 * * * *"),
    Case("every 5 minutes", "*/5 * * * *", BERLIN, "*/5 * * * *", "0 */5 * * * *"),
    Case("every second", "* * * * * *", BERLIN, "* * * * * *", "* * * * * *"),
    Case("weekdays at 9", "0 9 * * mon-fri", BERLIN, "0 9 * * MON-FRI", "0 0 9 * * MON-FRI"),
    Case("daily in the gap", "30 2 * * *", BERLIN, "30 2 * * *", "0 30 2 * * *"),
    Case("monthly", "0 0 1 * *", BERLIN, "0 0 1 * *", "0 0 0 1 * *"),
    Case("last friday", "0 17 * * friL", BERLIN, "0 17 * * FRI#L", ""),
    Case("29 february", "0 0 29 2 *", BERLIN, "0 0 29 2 *", "0 0 0 29 2 *"),
    Case("29 february on a monday", "quartz 0 0 0 29 2 MON", BERLIN, "", "0 0 0 29 2 MON"),
    Case("iso week 53", "cron week='53' hour='9'", BERLIN, "", ""),
    Case("30 february", "0 0 30 2 *", BERLIN, "0 0 30 2 *", "0 0 0 30 2 *"),
    Case("week 53 in june", "cron week='53' month='6' hour='9'", BERLIN, "", ""),
    Case("and: friday the 13th", "(0 0 13 * *) and (0 0 * * fri)", BERLIN, "", ""),
    Case("and: never", "(* 9-17 * * *) and (*/7 18-20 * * *)", BERLIN, "", ""),
    Case("and: never at fixed times", "(0 2 * * *) and (30 3 * * *)", BERLIN, "", ""),
    Case("except a month of seconds", "(* * * * * *) except (* * * * 11,12 *)", BERLIN, "", ""),
    Case("calendar, monthly on the 31st", "every 1 month at 09:00 from 1970-01-31", BERLIN, "", ""),
    Case("calendar, mixed units since 1970", "every 1 month 3 days at 09:00 from 1970-01-31", BERLIN, "", ""),
    Case("interval", "every 90s start 2026-01-01T00:00:00Z", "UTC", "", ""),
];

fn for_croner() -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| !case.3.is_empty())
}

fn for_the_cron_crate() -> impl Iterator<Item = &'static Case> {
    CASES.iter().filter(|case| !case.4.is_empty())
}

/// Asks for the first time after each of 512 instants of a year.
fn after<T>(bencher: Bencher<'_, '_>, next: impl Fn(&DateTime<Utc>) -> T + Sync) {
    let starts: Vec<DateTime<Utc>> = (0..512).map(|n| now() + TimeDelta::seconds(n * 60_013)).collect();
    let starts = &starts;
    bencher
        .counter(ItemsCount::new(starts.len()))
        .bench(|| starts.iter().map(&next).for_each(|it| drop(black_box(it))));
}

/// Each trigger beside others' search for what they can express, in the same run.
mod next_fire_time {
    use super::*;

    #[divan::bench(args = &CASES)]
    fn sandclock(bencher: Bencher<'_, '_>, case: &Case) {
        let zone = case.2.parse().expect("a zone");
        let trigger = Trigger::parse(case.1, zone, Dialect::Crontab).expect("a trigger");
        after(bencher, |at| black_box(&trigger).next_fire_time(Some(*at), *at));
    }

    #[divan::bench(args = for_croner())]
    fn croner(bencher: Bencher<'_, '_>, case: &Case) {
        let zone: chrono_tz::Tz = case.2.parse().expect("a zone");
        let cron = croner::Cron::from_str(case.3).expect("a line");
        after(bencher, |at| black_box(&cron).find_next_occurrence(&at.with_timezone(&zone), false).ok());
    }

    #[divan::bench(args = for_the_cron_crate())]
    fn cron_crate(bencher: Bencher<'_, '_>, case: &Case) {
        let zone: chrono_tz::Tz = case.2.parse().expect("a zone");
        let schedule = cron::Schedule::from_str(case.4).expect("a line");
        after(bencher, |at| black_box(&schedule).after(&at.with_timezone(&zone)).next());
    }
}

mod parse {
    use super::*;

    #[divan::bench]
    fn sandclock() -> Result<Trigger, sandclock::Invalid> {
        Trigger::crontab(black_box("*/15 9-17 * * mon-fri"), Dialect::Crontab, Zone::utc())
    }

    #[divan::bench]
    fn croner() -> Result<croner::Cron, croner::errors::CronError> {
        croner::Cron::from_str(black_box("*/15 9-17 * * MON-FRI"))
    }

    #[divan::bench]
    fn cron_crate() -> Result<cron::Schedule, cron::error::Error> {
        cron::Schedule::from_str(black_box("0 */15 9-17 * * MON-FRI"))
    }

    #[divan::bench]
    fn english() -> Result<Trigger, sandclock::Invalid> {
        black_box("every weekday at 9:30").parse()
    }
}

mod plans {
    use super::*;

    #[divan::bench]
    fn one_due_fire_time(bencher: Bencher<'_, '_>) {
        let trigger = Trigger::every(Duration::from_secs(10)).expect("an interval").anchored(now());
        let (job, state) = due(trigger);
        bencher.bench(|| plan(black_box(&job), &state, now(), 1));
    }

    #[divan::bench]
    fn a_backlog_of_3600_cron_fire_times(bencher: Bencher<'_, '_>) {
        let (job, state) = due(Trigger::crontab("* * * * * *", Dialect::Crontab, Zone::utc()).expect("a line"));
        bencher.bench(|| plan(black_box(&job), &state, now() + TimeDelta::hours(1), 1));
    }

    fn due(trigger: Trigger) -> (Job, JobState) {
        let job = Job::new("j".parse().expect("an id"), "m:f".parse().expect("a func"), trigger);
        (job, JobState { next_run_time: Some(now()), ..JobState::default() })
    }
}
