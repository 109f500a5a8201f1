//! The pure part: the next fire time of common and of nasty triggers, and the plan of one due job.

use chrono::{DateTime, TimeDelta, Utc};
use criterion::{Criterion, criterion_group, criterion_main};
use sandclock::{Dialect, Job, JobState, Trigger, Zone, plan};
use std::hint::black_box;
use std::str::FromStr;
use std::time::Duration;

const BERLIN: &str = "Europe/Berlin";

fn now() -> DateTime<Utc> {
    "2026-11-22T09:30:15Z".parse().expect("a time")
}

/// Each trigger beside croner's and the `cron` crate's search for what they can express, in the same
/// run. All three are asked for the first time after one instant, and for a month of instants.
fn triggers(c: &mut Criterion) {
    let starts: Vec<DateTime<Utc>> = (0..512).map(|n| now() + TimeDelta::seconds(n * 60_013)).collect();
    for (name, text, zone, croner, crate_line) in [
        ("every 5 minutes", "*/5 * * * *", "UTC", "*/5 * * * *", "0 */5 * * * *"),
        ("every 5 minutes", "*/5 * * * *", BERLIN, "*/5 * * * *", "0 */5 * * * *"),
        ("every second", "* * * * * *", BERLIN, "* * * * * *", "* * * * * *"),
        ("weekdays at 9", "0 9 * * mon-fri", BERLIN, "0 9 * * MON-FRI", "0 0 9 * * MON-FRI"),
        ("daily in the gap", "30 2 * * *", BERLIN, "30 2 * * *", "0 30 2 * * *"),
        ("monthly", "0 0 1 * *", BERLIN, "0 0 1 * *", "0 0 0 1 * *"),
        ("last friday", "0 17 * * friL", BERLIN, "0 17 * * FRI#L", ""),
        ("29 february", "0 0 29 2 *", BERLIN, "0 0 29 2 *", "0 0 0 29 2 *"),
        ("29 february on a monday", "quartz 0 0 0 29 2 MON", BERLIN, "", "0 0 0 29 2 MON"),
        ("iso week 53", "cron week='53' hour='9'", BERLIN, "", ""),
        ("30 february", "0 0 30 2 *", BERLIN, "0 0 30 2 *", "0 0 0 30 2 *"),
        ("week 53 in june", "cron week='53' month='6' hour='9'", BERLIN, "", ""),
        ("and: friday the 13th", "(0 0 13 * *) and (0 0 * * fri)", BERLIN, "", ""),
        ("and: never", "(* 9-17 * * *) and (*/7 18-20 * * *)", BERLIN, "", ""),
        ("and: never at fixed times", "(0 2 * * *) and (30 3 * * *)", BERLIN, "", ""),
        ("except a month of seconds", "(* * * * * *) except (* * * * 11,12 *)", BERLIN, "", ""),
        ("calendar, monthly on the 31st", "every 1 month at 09:00 from 1970-01-31", BERLIN, "", ""),
        ("calendar, mixed units since 1970", "every 1 month 3 days at 09:00 from 1970-01-31", BERLIN, "", ""),
        ("interval", "every 90s start 2026-01-01T00:00:00Z", "UTC", "", ""),
    ] {
        let mut group = c.benchmark_group(format!("next_fire_time: {name} {zone}"));
        let trigger = Trigger::parse(text, zone.parse().expect("a zone"), Dialect::Crontab).expect("a trigger");
        let mut at = starts.iter().cycle();
        group.bench_function("sandclock", |b| {
            b.iter(|| {
                let at = *at.next().expect("endless");
                black_box(&trigger).next_fire_time(Some(black_box(at)), at)
            });
        });
        let zone: chrono_tz::Tz = zone.parse().expect("a zone");
        if !croner.is_empty() {
            let cron = croner::Cron::from_str(croner).expect("a line");
            let mut at = starts.iter().cycle();
            group.bench_function("croner", |b| {
                b.iter(|| {
                    let at = at.next().expect("endless").with_timezone(&zone);
                    black_box(&cron).find_next_occurrence(black_box(&at), false).ok()
                });
            });
        }
        if !crate_line.is_empty() {
            let schedule = cron::Schedule::from_str(crate_line).expect("a line");
            let mut at = starts.iter().cycle();
            group.bench_function("cron crate", |b| {
                b.iter(|| {
                    let at = at.next().expect("endless").with_timezone(&zone);
                    black_box(&schedule).after(black_box(&at)).next()
                });
            });
        }
        group.finish();
    }
}

fn parsing(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    group.bench_function("sandclock", |b| {
        b.iter(|| Trigger::crontab(black_box("*/15 9-17 * * mon-fri"), Dialect::Crontab, Zone::utc()));
    });
    group.bench_function("croner", |b| b.iter(|| croner::Cron::from_str(black_box("*/15 9-17 * * MON-FRI"))));
    group.bench_function("cron crate", |b| b.iter(|| cron::Schedule::from_str(black_box("0 */15 9-17 * * MON-FRI"))));
    group.bench_function("english", |b| b.iter(|| black_box("every weekday at 9:30").parse::<Trigger>()));
    group.finish();
}

fn plans(c: &mut Criterion) {
    let trigger = Trigger::every(Duration::from_secs(10)).expect("an interval").anchored(now());
    let mut job = Job::new("j".parse().expect("an id"), "m:f".parse().expect("a func"), trigger);
    let state = JobState { next_run_time: Some(now()), ..JobState::default() };
    c.bench_function("plan one due fire time", |b| b.iter(|| plan(black_box(&job), &state, now(), 1)));
    let cron = Trigger::crontab("* * * * * *", Dialect::Crontab, Zone::utc()).expect("a line");
    job.trigger = cron;
    let late = now() + chrono::TimeDelta::hours(1);
    c.bench_function("plan a backlog of 3600 cron fire times", |b| b.iter(|| plan(black_box(&job), &state, late, 1)));
}

criterion_group!(benches, triggers, parsing, plans);
criterion_main!(benches);
