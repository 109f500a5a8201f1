//! The same lines read by the `cron` crate and by croner, where they are known to be right.

use super::{time, zone};
use chrono::{DateTime, Utc};
use proptest::prelude::*;
use sandclock::{Dialect, Trigger};
use std::str::FromStr;

fn field(low: u32, high: u32) -> impl Strategy<Value = String> {
    let value = move || low..=high;
    prop_oneof![
        3 => Just("*".to_owned()),
        3 => value().prop_map(|value| value.to_string()),
        1 => (value(), value()).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        1 => (2u32..=6).prop_map(|step| format!("*/{step}")),
        1 => (value(), value()).prop_map(|(a, b)| format!("{a},{b}")),
    ]
}

fn ours(line: &str, dialect: Dialect, from: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
    Trigger::crontab(line, dialect, zone("UTC")).unwrap_or_else(|error| panic!("{error}")).preview(from, count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// In UTC the crate is exact up to 2100.
    #[test]
    fn quartz_lines_fire_as_in_the_cron_crate(
        second in field(0, 59), minute in field(0, 59), hour in field(0, 23), day in field(1, 31), month in field(1, 12),
        weekday in field(1, 7), from in 0i64..3_000_000_000,
    ) {
        let line = format!("{second} {minute} {hour} {day} {month} {weekday}");
        let from = DateTime::from_timestamp(from, 0).unwrap();
        let end = time("2100-01-01T00:00:00Z");
        let theirs = cron::Schedule::from_str(&line).unwrap();
        let before = from - chrono::TimeDelta::seconds(1);
        let theirs: Vec<_> = theirs.after(&before).take_while(|at| *at < end).take(5).collect();
        let ours: Vec<_> = ours(&line, Dialect::Quartz, from, 5).into_iter().take_while(|at| *at < end).collect();
        prop_assert_eq!(ours, theirs, "{}", line);
    }

    /// croner counts a day field as a star only if it is exactly `*`; such lines are left to the oracle.
    #[test]
    fn crontab_lines_fire_as_in_croner(
        minute in field(0, 59), hour in field(0, 23), day in field(1, 31), month in field(1, 12), weekday in field(0, 7),
        special in proptest::option::of((prop_oneof![Just("L"), Just("LW"), Just("15W")], prop_oneof![Just("*"), Just("fri#2"), Just("5L")])),
        from in 0i64..3_000_000_000, zone_name in prop_oneof![Just("Europe/Berlin"), Just("America/New_York"), Just("Australia/Lord_Howe")],
    ) {
        let (day, weekday) = special.map_or((day, weekday), |(day, weekday)| (day.to_owned(), weekday.to_owned()));
        prop_assume!(!day.starts_with("*/") && !weekday.starts_with("*/"));
        // A list of times is fixed here, and a frequent time there.
        prop_assume!(!minute.contains(',') && !hour.contains(','));
        let line = format!("{minute} {hour} {day} {month} {weekday}");
        let from = DateTime::from_timestamp(from, 0).unwrap();
        let there = chrono_tz::Tz::from_str(zone_name).unwrap();
        let theirs = croner::Cron::from_str(&line).unwrap();
        let local = from.with_timezone(&there);
        let theirs: Vec<_> = theirs.iter_from(local, croner::Direction::Forward).take(5).map(|at| at.to_utc()).collect();
        let trigger = Trigger::crontab(&line, Dialect::Crontab, zone(zone_name)).unwrap();
        prop_assert_eq!(trigger.preview(from, theirs.len()), theirs, "{} {}", line, zone_name);
    }
}
