//! The pure part: the next fire time of common triggers, and the plan of one due job.

use chrono::{DateTime, Utc};
use criterion::{Criterion, criterion_group, criterion_main};
use sandclock::{Dialect, Job, JobState, Trigger, Zone, plan};
use std::hint::black_box;
use std::time::Duration;

fn now() -> DateTime<Utc> {
    "2026-11-22T09:30:15Z".parse().expect("a time")
}

fn triggers(c: &mut Criterion) {
    let mut group = c.benchmark_group("next_fire_time");
    for (line, zone) in [
        ("*/5 * * * *", "UTC"),
        ("0 9 * * mon-fri", "Europe/Berlin"),
        ("30 2 * * *", "Europe/Berlin"),
        ("0 0 29 2 *", "UTC"),
    ] {
        let trigger = Trigger::crontab(line, Dialect::Crontab, zone.parse().expect("a zone")).expect("a line");
        group.bench_function(format!("{line} {zone}"), |b| {
            b.iter(|| black_box(&trigger).next_fire_time(Some(black_box(now())), now()));
        });
    }
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

criterion_group!(benches, triggers, plans);
criterion_main!(benches);
