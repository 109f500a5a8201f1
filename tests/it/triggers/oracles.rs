//! Every row of the oracles agrees, or stands in a class of known differences that is checked for
//! what makes it one. The counts per class are printed and pinned.

use super::{time, zone};
use chrono::{DateTime, TimeDelta, Utc};
use sandclock::{CalendarInterval, CronFields, Dialect, Dst, Trigger};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many rows fell into each class.
#[derive(Default)]
struct Classes(BTreeMap<&'static str, usize>);

impl Classes {
    fn count(&mut self, class: &'static str) {
        *self.0.entry(class).or_default() += 1;
    }

    fn expect(self, file: &str, expected: &[(&str, usize)]) {
        println!("{file}: {:?}", self.0);
        assert_eq!(self.0, expected.iter().copied().collect(), "{file}");
    }
}

/// Whether the row depends on rules that the data in use has no more: Morocco gave up its changes of
/// the clocks in September 2026, which the rows' 2025b does not know.
fn is_outdated(row: &Value, times: &Value) -> bool {
    let changed = time("2026-09-20T00:00:00Z");
    let times = times.as_array().into_iter().flatten().chain([&row["start"]]);
    row["tzdb_sensitive"] == true
        || (row["tz"] == "Africa/Casablanca" && times.map(|at| time(at.as_str().unwrap())).any(|at| at > changed))
}

fn rows(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/oracles/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn instants(value: &Value) -> Vec<DateTime<Utc>> {
    value.as_array().into_iter().flatten().map(|at| time(at.as_str().unwrap())).collect()
}

/// A civil time as APScheduler reads it, in the row's zone.
fn civil(value: &Value, zone_name: &str) -> DateTime<Utc> {
    let text = value.as_str().unwrap();
    let text = if text.len() == 10 { format!("{text} 00:00:00") } else { text.replace('T', " ") };
    if text.len() > 19 && text[19..].contains(['+', '-', 'Z']) {
        return time(&text.replace(' ', "T"));
    }
    let civil =
        chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f").unwrap_or_else(|e| panic!("{text}: {e}"));
    let (zone, at) = (zone(zone_name), zone(zone_name).instant(civil));
    // It reads a time in a gap with the offset before.
    let before = zone.offset(at - TimeDelta::seconds(1));
    let exists = (at + zone.offset(at)).naive_utc() == civil;
    if exists { at } else { (civil - before).and_utc() }
}

/// Named fields, with start and end, from APScheduler's keyword arguments.
fn cron(kwargs: &Map<String, Value>, zone_name: &str) -> Result<Trigger, sandclock::Invalid> {
    let text =
        |name: &str| kwargs.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let fields = CronFields {
        year: text("year"),
        month: text("month"),
        day: text("day"),
        week: text("week"),
        day_of_week: text("day_of_week"),
        hour: text("hour"),
        minute: text("minute"),
        second: text("second"),
    };
    let trigger = Trigger::fields(fields, zone(zone_name))?;
    Ok(bounded(trigger, kwargs, zone_name))
}

fn bounded(mut trigger: Trigger, kwargs: &Map<String, Value>, zone_name: &str) -> Trigger {
    if let Some(start) = kwargs.get("start_date") {
        trigger = trigger.start(civil(start, zone_name));
    }
    if let Some(end) = kwargs.get("end_date") {
        trigger = trigger.end(civil(end, zone_name));
    }
    trigger
}

/// The same times, and no more of them than there are.
fn agrees(trigger: &Trigger, from: DateTime<Utc>, expected: &[DateTime<Utc>], full: usize) -> bool {
    let ours = trigger.preview(from, full);
    assert!(ours.windows(2).all(|pair| pair[0] < pair[1]), "{trigger} does not increase");
    ours == expected
}

#[test]
fn named_fields_agree_with_the_oracle() {
    let mut classes = Classes::default();
    for row in rows("cron.jsonl") {
        let kwargs = row["kwargs"].as_object().unwrap();
        let zone_name = row["tz"].as_str().unwrap();
        if is_outdated(&row, &row["strict"]) {
            classes.count("skipped: other time-zone data");
            continue;
        }
        let from = time(row["start"].as_str().unwrap());
        let trigger = cron(kwargs, zone_name).unwrap_or_else(|error| panic!("{row}: {error}"));
        let (strict, vixie) = (instants(&row["strict"]), instants(&row["vixie"]));
        let count = if from >= time("2090-01-01T00:00:00Z") { 2 } else { 5 };
        assert!(
            agrees(&trigger.clone().dst(Dst::Wall), from, &strict, count),
            "wall: {row}\n{:?}",
            trigger.clone().dst(Dst::Wall).preview(from, count)
        );
        let ours = trigger.preview(from, count);
        assert!(agrees(&trigger, from, &vixie, count), "once: {row}\n{ours:?}");
        classes.count("agrees");
    }
    classes.expect("cron.jsonl", &[("agrees", 1857), ("skipped: other time-zone data", 79)]);
}

#[test]
fn crontab_lines_agree_with_the_oracle() {
    let mut classes = Classes::default();
    for row in rows("crontab.jsonl") {
        if is_outdated(&row, &row["vixie_or_strict"]) {
            classes.count("skipped: other time-zone data");
            continue;
        }
        let zone_name = row["tz"].as_str().unwrap();
        let line = row["expr"].as_str().unwrap();
        let from = time(row["start"].as_str().unwrap());
        let trigger =
            Trigger::crontab(line, Dialect::Crontab, zone(zone_name)).unwrap_or_else(|e| panic!("{row}: {e}"));
        let (strict, vixie) = (instants(&row["vixie_or_strict"]), instants(&row["vixie_or_vixie"]));
        let ours = trigger.preview(from, strict.len().max(1));
        let wall = trigger.clone().dst(Dst::Wall).preview(from, strict.len().max(1));
        if wall == strict && ours == vixie {
            classes.count("agrees");
        } else {
            panic!("{row}\n{ours:?}\n{wall:?}");
        }
    }
    classes.expect("crontab.jsonl", &[("agrees", 1172), ("skipped: other time-zone data", 56)]);
}

/// Quartz and APScheduler want both days to match, on every civil time: with weekdays by name, the
/// oracle of crontab's lines has the answers for them too.
#[test]
fn the_other_dialects_agree_with_the_oracle() {
    let mut classes = Classes::default();
    for row in rows("crontab.jsonl") {
        let zone_name = row["tz"].as_str().unwrap();
        let line = row["expr"].as_str().unwrap();
        let weekday = line.split(' ').next_back().unwrap();
        let numbers = weekday.contains(|c: char| c.is_ascii_digit());
        if numbers || is_outdated(&row, &row["vixie_and_strict"]) {
            continue;
        }
        let expected = instants(&row["vixie_and_strict"]);
        let from = time(row["start"].as_str().unwrap());
        for dialect in [Dialect::Quartz, Dialect::Apscheduler] {
            match Trigger::crontab(line, dialect, zone(zone_name)) {
                Ok(trigger) => {
                    let ours = trigger.dst(Dst::Wall).preview(from, expected.len().max(1));
                    assert_eq!(ours, expected, "{dialect} {row}");
                    classes.count(if dialect == Dialect::Quartz { "quartz agrees" } else { "apscheduler agrees" });
                }
                Err(_) => classes.count("refused: ranges that wrap, steps beyond their range"),
            }
        }
    }
    let expected = [
        ("apscheduler agrees", 735),
        ("quartz agrees", 749),
        ("refused: ranges that wrap, steps beyond their range", 14),
    ];
    classes.expect("crontab.jsonl, both days", &expected);
}

#[test]
fn other_triggers_agree_with_the_oracle() {
    let mut classes = Classes::default();
    for row in rows("trigger.jsonl") {
        if is_outdated(&row, &row["expected"]) {
            classes.count("skipped: other time-zone data");
            continue;
        }
        let zone_name = row["tz"].as_str().unwrap();
        let from = time(row["start"].as_str().unwrap());
        let kind = row["trigger"].as_str().unwrap();
        let mut spec = row["spec"].as_object().unwrap().clone();
        spec.insert("type".to_owned(), kind.into());
        let expected = instants(&row["expected"]);
        let trigger = match build(&spec, zone_name, from) {
            Ok(trigger) => trigger,
            Err(error) if error.to_string().contains("it must be 1 second") => {
                assert!(kind == "interval", "{row}");
                classes.count("refused: an interval of nothing (there, a second)");
                continue;
            }
            Err(error) => panic!("{row}: {error}"),
        };
        let ours = trigger.preview(from, 5);
        let in_time: Vec<_> = expected.iter().copied().filter(|at| *at >= from).collect();
        if kind == "and" {
            let intersection = instants(&row["intersection"]);
            assert_eq!(trigger.preview(from, intersection.len().max(1)), intersection, "{row}");
            classes.count(if row["status"] == "hang" { "agrees with the intersection (it hangs)" } else { "agrees" });
        } else if ours == expected {
            classes.count("agrees");
        } else if row["status"] == "hang" && ours.starts_with(&expected) {
            classes.count("agrees as far as it gets (it hangs)");
        } else if kind == "calendarinterval" && in_time.len() < expected.len() {
            assert_eq!(trigger.preview(expected[0], 5), expected, "{row}");
            assert!(ours.starts_with(&in_time) && ours.iter().all(|at| *at >= from), "{row}");
            classes.count("agrees but for its times before the start");
        } else {
            // What is left are unions that it gets wrong: ours is the union of parts that other rows prove.
            assert_eq!(kind, "or", "{row}\n{ours:?}");
            let parts = spec["triggers"].as_array().unwrap().iter();
            let parts = parts.map(|part| build(part.as_object().unwrap(), zone_name, from).unwrap());
            let mut union: Vec<_> = parts.flat_map(|part| part.preview(from, 5)).collect();
            union.sort_unstable();
            union.dedup();
            union.truncate(5);
            assert_eq!(ours, union, "{row}");
            classes.count(if in_time.len() < expected.len() {
                "defect: a calendar interval in a union begins before the start"
            } else if row["spec"].to_string().contains("interval") {
                "defect: an interval in a union forgets its grid"
            } else {
                assert!(expected.iter().all(|at| ours.contains(at) || *at > ours[4]), "{row}");
                "defect: midnight after spring-forward is skipped"
            });
        }
    }
    let expected = [
        ("agrees", 266),
        ("agrees as far as it gets (it hangs)", 5),
        ("agrees but for its times before the start", 106),
        ("agrees with the intersection (it hangs)", 55),
        ("defect: a calendar interval in a union begins before the start", 42),
        ("defect: an interval in a union forgets its grid", 5),
        ("defect: midnight after spring-forward is skipped", 1),
        ("refused: an interval of nothing (there, a second)", 16),
        ("skipped: other time-zone data", 39),
    ];
    classes.expect("trigger.jsonl", &expected);
}

fn build(spec: &Map<String, Value>, zone_name: &str, from: DateTime<Utc>) -> Result<Trigger, sandclock::Invalid> {
    let number = |name: &str| spec.get(name).and_then(Value::as_f64).unwrap_or(0.0);
    let count = |name: &str| number(name) as u32;
    match spec["type"].as_str().unwrap() {
        "cron" => cron(spec, zone_name),
        "date" => Ok(Trigger::at(civil(&spec["run_date"], zone_name))),
        "interval" => {
            let seconds = number("weeks") * 604_800.0
                + number("days") * 86_400.0
                + number("hours") * 3600.0
                + number("minutes") * 60.0
                + number("seconds");
            let every = Trigger::every(Duration::from_secs_f64(seconds))?;
            Ok(bounded(every, spec, zone_name).anchored(from))
        }
        "calendarinterval" => {
            let clock = |name: &str| spec.get(name).and_then(Value::as_u64).unwrap_or(0) as u32;
            let interval = CalendarInterval {
                years: count("years"),
                months: count("months"),
                weeks: count("weeks"),
                days: count("days"),
                at: chrono::NaiveTime::from_hms_opt(clock("hour"), clock("minute"), clock("second")).unwrap(),
                start_date: spec.get("start_date").map(|date| date.as_str().unwrap()[..10].parse().unwrap()),
                dst: Dst::Once,
            };
            let mut trigger = Trigger::calendar(interval, zone(zone_name))?;
            if let Some(end) = spec.get("end_date") {
                // The end date is the last day.
                let end = format!("{}T23:59:59", &end.as_str().unwrap()[..10]).parse().unwrap();
                trigger = trigger.end(zone(zone_name).instant(end));
            }
            Ok(trigger)
        }
        kind => {
            let parts = spec["triggers"].as_array().unwrap().iter();
            let parts =
                parts.map(|part| build(part.as_object().unwrap(), zone_name, from)).collect::<Result<_, _>>()?;
            if kind == "or" { Trigger::or(parts) } else { Trigger::and(parts) }
        }
    }
}

#[test]
fn fields_are_accepted_as_the_oracle_says() {
    let mut classes = Classes::default();
    for row in rows("field_accept.jsonl") {
        let (name, expr) = (row["field"].as_str().unwrap(), row["expr"].as_str().unwrap());
        let kwargs = Map::from_iter([(name.to_owned(), Value::from(expr))]);
        let ours = cron(&kwargs, "UTC");
        match (row["ok"] == true, ours) {
            (true, Ok(_)) => classes.count("accepted"),
            (false, Err(_)) => classes.count("refused"),
            (false, Ok(trigger)) => panic!("{row} is taken as {trigger}"),
            (true, Err(_)) if !expr.is_ascii() => classes.count("refused: digits that are not ASCII"),
            (true, Err(_)) if row["canonical"] != expr.trim() => classes.count("refused: junk after a value"),
            (true, Err(error)) => {
                assert!(name == "year" && error.to_string().contains("outside 1970 to 2200"), "{row} {error}");
                classes.count("refused: years past 2200");
            }
        }
    }
    let expected = [
        ("accepted", 329),
        ("refused", 793),
        ("refused: digits that are not ASCII", 9),
        ("refused: junk after a value", 13),
        ("refused: years past 2200", 3),
    ];
    classes.expect("field_accept.jsonl", &expected);
}
