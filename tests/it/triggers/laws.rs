//! Laws of every trigger, and equality with brute force over all zones and all changes of their
//! clocks.

use super::{crontab, time, zone};
use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use proptest::prelude::*;
use sandclock::{Dialect, Dst, Exclusion, NextTime, SEARCH_STEPS_MAX, Trigger, Zone};
use std::time::Duration;

/// A small generator for cases that are the same at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Civil minutes that match: an oracle that shares nothing with the evaluator.
#[derive(Debug)]
struct Minutes {
    minutes: Vec<u32>,
    hours: Vec<u32>,
    weekdays: Vec<u32>,
    /// Written as values, so fixed times of day.
    fixed: bool,
}

impl Minutes {
    /// Times around an hour of the day.
    fn around(random: &mut Random, hour: u32) -> Self {
        let fixed = random.below(2) == 0;
        let minutes = if fixed {
            vec![(random.below(4) * 15) as u32]
        } else {
            let step = [7, 10, 15, 30][random.below(4) as usize];
            (0..60).step_by(step).collect()
        };
        let mut hours = vec![(hour + 23 + random.below(3) as u32) % 24, hour % 24];
        hours.truncate(1 + random.below(2) as usize);
        hours.sort_unstable();
        hours.dedup();
        let weekdays =
            if random.below(4) == 0 { vec![random.below(7) as u32, random.below(7) as u32] } else { (0..7).collect() };
        Minutes { minutes, hours, weekdays, fixed }
    }

    fn line(&self) -> String {
        let list = |values: &[u32]| values.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let minute = if self.fixed { list(&self.minutes) } else { format!("*/{}", self.minutes[1]) };
        let weekday = if self.weekdays.len() == 7 { "*".to_owned() } else { list(&self.weekdays) };
        format!("{minute} {} * * {weekday}", list(&self.hours))
    }

    /// Whether a civil time, as seconds, matches.
    fn has(&self, civil: i64) -> bool {
        let civil = DateTime::from_timestamp(civil, 0).unwrap();
        civil.second() == 0
            && self.minutes.contains(&civil.minute())
            && self.hours.contains(&civil.hour())
            && self.weekdays.contains(&civil.weekday().num_days_from_sunday())
    }

    /// Every fire time from `from` to before `to`, by walking instants and civil minutes.
    fn walk(&self, zone: &TimeZone, dst: Dst, change: i64, from: i64, to: i64) -> Vec<i64> {
        let offset = |at: i64| i64::from(zone.to_offset(Timestamp::from_second(at).unwrap()).seconds());
        let (before, after) = (offset(change - 1), offset(change));
        let mut found = Vec::new();
        // Instants whose civil second is zero, on either side of the change.
        for (start, end, offset) in [(from, change, before), (change, to, after)] {
            let first = start + (-(start + offset)).rem_euclid(60);
            found.extend((first..end).step_by(60).filter(|at| self.has(at + offset)));
        }
        let gap = change + before..change + after;
        let skipped: Vec<i64> = gap.filter(|civil| civil % 60 == 0 && self.has(*civil)).collect();
        match dst {
            Dst::Shift => found.extend(skipped.iter().map(|civil| civil - before)),
            Dst::Once if self.fixed => {
                found.extend(skipped.first().map(|_| change));
                // The second pass of what was there before.
                let again = change + after..change + before;
                found.retain(|at| *at < change || !again.contains(&(at + after)));
            }
            _ => {}
        }
        found.retain(|at| (from..to).contains(at));
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Over all zones and every change from 1970 to 2100, with random triggers near it.
#[test]
fn every_change_of_every_zone_agrees_with_brute_force() {
    let database = TimeZoneDatabase::bundled();
    let names: Vec<String> = database.available().map(|name| name.to_string()).collect();
    assert!(names.len() > 500);
    let (first, last) = (0, Timestamp::from_second(4_102_444_800).unwrap());
    let check = |names: &[String]| {
        let mut checked = 0;
        for name in names {
            let (theirs, ours) = (database.get(name).unwrap(), name.parse::<Zone>().unwrap());
            let seed = name.bytes().fold(7u64, |hash, b| hash.wrapping_mul(31).wrapping_add(b.into()));
            let mut random = Random(seed | 1);
            let mut previous = i64::MIN / 2;
            for change in
                theirs.following(Timestamp::from_second(first).unwrap()).take_while(|change| change.timestamp() < last)
            {
                let at = change.timestamp().as_second();
                // Two changes so near to each other that this walk would see both are left to the
                // table's own test.
                let near = at - previous < 40 * 3600
                    || theirs
                        .following(change.timestamp())
                        .next()
                        .is_some_and(|next| next.timestamp().as_second() - at < 40 * 3600);
                previous = at;
                if near || at < 30 * 3600 {
                    continue;
                }
                let offset = theirs.to_offset(Timestamp::from_second(at - 1).unwrap()).seconds();
                let hour = (at + i64::from(offset)).rem_euclid(86_400) / 3600;
                let minutes = Minutes::around(&mut random, hour as u32);
                for dst in [Dst::Once, Dst::Wall, Dst::Shift] {
                    let trigger = crontab(&minutes.line(), name, dst).timezone(ours);
                    let (from, to) = (at - 5 * 3600 + random.below(7200) as i64, at + 12 * 3600);
                    let expect = minutes.walk(&theirs, dst, at, from, to);
                    let mut fires = Vec::new();
                    let mut next = trigger.next_fire_time(None, DateTime::from_timestamp(from, 0).unwrap());
                    while let Some(fire) = next.filter(|fire| fire.timestamp() < to) {
                        fires.push(fire.timestamp());
                        next = trigger.next_fire_time(Some(fire), fire);
                    }
                    assert_eq!(
                        fires,
                        expect,
                        "{name} {} {dst} around {}, {minutes:?}",
                        minutes.line(),
                        change.timestamp()
                    );
                    checked += 1;
                }
            }
        }
        checked
    };
    let half = names.len() / 2;
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| check(&names[..half]));
        (check(&names[half..]), one.join().unwrap())
    });
    println!("{} zones, {} walks", names.len(), one + other);
    assert!(one + other > 100_000, "{}", one + other);
}

/// A trigger of any kind, and its fire times from `from` to `to` by brute force where it has parts.
fn leaf() -> impl Strategy<Value = Trigger> {
    let zones = prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Australia/Lord_Howe"), Just("America/Sao_Paulo")];
    let dst = prop_oneof![Just(Dst::Once), Just(Dst::Wall), Just(Dst::Shift)];
    let minute = prop_oneof![Just("0"), Just("30"), Just("*/15"), Just("*"), Just("5-10"), Just("0,30")];
    let hour = prop_oneof![Just("*"), Just("2"), Just("0"), Just("*/3"), Just("1-3"), Just("2,14")];
    let day = prop_oneof![Just("*"), Just("*"), Just("13"), Just("L"), Just("15W"), Just("*/2"), Just("1-7")];
    let weekday = prop_oneof![Just("*"), Just("*"), Just("fri"), Just("mon-fri"), Just("sun#1"), Just("friL")];
    let cron = (minute, hour, day, weekday, zones, dst).prop_map(|(minute, hour, day, weekday, zone, dst)| {
        crontab(&format!("{minute} {hour} {day} * {weekday}"), zone, dst)
    });
    let interval = (60u64..1_000_000, 0i64..10_000_000).prop_map(|(every, ago)| {
        Trigger::every(Duration::from_secs(every))
            .unwrap()
            .start(time("2026-01-01T00:00:00Z") - TimeDelta::seconds(ago))
    });
    prop_oneof![4 => cron, 1 => interval]
}

/// Fire times of a leaf from `from` to before `to`.
fn fires(trigger: &Trigger, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let first = trigger.next_fire_time(None, from);
    std::iter::successors(first, |at| trigger.next_fire_time(Some(*at), from)).take_while(|at| *at < to).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn fire_times_strictly_increase_and_do_not_depend_on_where_one_asks(
        trigger in leaf(), from in 0i64..7_000_000_000, asked in 0i64..100_000_000_000,
    ) {
        let from = DateTime::from_timestamp(from, 0).unwrap() + TimeDelta::microseconds(asked % 1_000_000);
        let times = trigger.preview(from, 6);
        prop_assert!(times.first().is_none_or(|first| *first >= from));
        for pair in times.windows(2) {
            prop_assert!(pair[0] < pair[1], "{}", trigger);
            // From anywhere in between, the next one is the same.
            let gap = (pair[1] - pair[0]).num_microseconds().unwrap();
            let between = pair[0] + TimeDelta::microseconds(1 + asked % gap);
            prop_assert_eq!(trigger.next_fire_time(None, between), Some(pair[1]), "{}", trigger);
        }
    }

    #[test]
    fn or_is_the_union_and_and_is_the_intersection(
        triggers in proptest::collection::vec(leaf(), 2..4), from in 1_700_000_000i64..1_900_000_000,
    ) {
        let from = DateTime::from_timestamp(from, 0).unwrap();
        let to = from + TimeDelta::days(9);
        let each: Vec<_> = triggers.iter().map(|trigger| fires(trigger, from, to)).collect();
        let mut union: Vec<_> = each.iter().flatten().copied().collect();
        union.sort_unstable();
        union.dedup();
        prop_assert_eq!(fires(&Trigger::or(triggers.clone()).unwrap(), from, to), union);
        let mut common = each[0].clone();
        common.retain(|at| each.iter().all(|times| times.binary_search(at).is_ok()));
        prop_assert_eq!(fires(&Trigger::and(triggers).unwrap(), from, to), common);
    }

    #[test]
    fn except_is_the_difference(
        trigger in leaf(), excluded in leaf(), weekday in 0u8..6, day in 0i64..9, from in 1_700_000_000i64..1_900_000_000,
    ) {
        let from = DateTime::from_timestamp(from, 0).unwrap();
        let to = from + TimeDelta::days(9);
        let date = (from + TimeDelta::days(day)).date_naive();
        let weekday = chrono::Weekday::try_from(weekday).unwrap();
        let until = (from + TimeDelta::days(day) + TimeDelta::hours(30)).naive_utc();
        let exclusions = vec![
            Exclusion::Dates(date, date),
            Exclusion::Times(until - TimeDelta::hours(8), until),
            Exclusion::Weekday(weekday),
            Exclusion::Trigger(Box::new(excluded.clone())),
        ];
        let gone = fires(&excluded, from, to);
        let mut expect = fires(&trigger, from, to);
        expect.retain(|at| {
            let civil = (*at + trigger.zone().offset(*at)).naive_utc();
            let in_times = civil >= until - TimeDelta::hours(8) && civil < until + TimeDelta::seconds(1);
            gone.binary_search(at).is_err() && civil.date() != date && civil.weekday() != weekday && !in_times
        });
        let trigger = Trigger::except(trigger, exclusions).unwrap();
        prop_assert_eq!(fires(&trigger, from, to), expect, "{}", trigger);
    }

    #[test]
    fn combinations_of_combinations_keep_the_laws(
        one in leaf(), other in leaf(), third in leaf(), shape in 0usize..4, from in 1_700_000_000i64..1_900_000_000,
    ) {
        let from = DateTime::from_timestamp(from, 0).unwrap();
        let to = from + TimeDelta::days(2);
        let (a, b, c) = (fires(&one, from, to), fires(&other, from, to), fires(&third, from, to));
        let has = |times: &[DateTime<Utc>], at: &DateTime<Utc>| times.binary_search(at).is_ok();
        let mut all: Vec<_> = a.iter().chain(&b).chain(&c).copied().collect();
        all.sort_unstable();
        all.dedup();
        let or = |one: &Trigger, other: &Trigger| Trigger::or(vec![one.clone(), other.clone()]).unwrap();
        let and = |one: &Trigger, other: &Trigger| Trigger::and(vec![one.clone(), other.clone()]).unwrap();
        let but = |one: &Trigger, other: &Trigger| {
            Trigger::except(one.clone(), vec![Exclusion::Trigger(Box::new(other.clone()))]).unwrap()
        };
        let trigger = match shape {
            0 => and(&or(&one, &other), &third),
            1 => but(&one, &or(&other, &third)),
            2 => or(&but(&one, &other), &third),
            _ => but(&or(&one, &other), &and(&other, &third)),
        };
        all.retain(|at| {
            let (a, b, c) = (has(&a, at), has(&b, at), has(&c, at));
            match shape {
                0 => (a || b) && c,
                1 => a && !(b || c),
                2 => (a && !b) || c,
                _ => (a || b) && !(b && c),
            }
        });
        prop_assert_eq!(fires(&trigger, from, to), all, "{}", trigger);
    }

    #[test]
    fn a_jittered_start_lies_between_two_fire_times(trigger in leaf(), key in "[a-z]{1,8}", jitter in 1u64..100_000) {
        let trigger = trigger.jitter(Duration::from_secs(jitter));
        for pair in trigger.preview(time("2026-03-01T00:00:00Z"), 4).windows(2) {
            let start = trigger.start_time(&key, pair[0]);
            prop_assert!(start >= pair[0] && start < pair[1]);
            prop_assert!(start - pair[0] <= TimeDelta::seconds(jitter as i64));
            prop_assert_eq!(trigger.start_time(&key, pair[0]), start);
        }
    }
}

#[test]
fn what_can_never_fire_has_no_next_time() {
    let never = [
        "0 0 30 2 *",
        "0 0 31 2,4,6,9,11 *",
        "0 0 0 1 1 * 1969-1970/1",
        "(0 9 * * mon) and (0 9 * * tue)",
        "(* 9-17 * * *) and (*/7 18-20 * * *)",
        "(* * * * * *) except (* * * * * *)",
        "(every day at 9) except (every day at 9)",
        "cron week='53' month='6' day='1'",
        "cron 0 9 * * * end 2020-01-01T00:00:00Z",
    ];
    for text in never {
        let Ok(trigger) = text.parse::<Trigger>() else {
            assert!(text.contains("1969"), "{text} parses");
            continue;
        };
        for name in ["UTC", "Europe/Berlin"] {
            let now = time("2026-01-01T00:00:00Z");
            assert_eq!(
                trigger.clone().timezone(zone(name)).anchored(now).next_fire_time(None, now),
                None,
                "{text} {name}"
            );
        }
    }
}

#[test]
fn a_search_that_gives_up_says_so_and_fires_nothing_that_is_excluded() {
    let from = time("2027-01-01T00:00:00Z");
    // Seconds that no jump can pass over, for longer than the steps of one search.
    let trigger: Trigger =
        "(every 1s start 2027-01-01T00:00:00Z) except (every 1s start 2027-01-01T00:00:00Z)".parse().unwrap();
    let NextTime::NotBefore(bound) = trigger.find_next(None, from) else { panic!("it gave no answer in its steps") };
    assert!(bound > from + TimeDelta::hours(10), "{bound}: it looked far");
    assert!(bound < from + TimeDelta::seconds(SEARCH_STEPS_MAX.into()), "{bound}: each look is counted");
    assert_eq!(trigger.next_fire_time(None, from), None);
    assert!(trigger.preview(from, 1000).is_empty());
    // Looked for again from there on, it goes on.
    let NextTime::NotBefore(further) = trigger.find_next(Some(bound), bound) else { panic!("nor here") };
    assert!(further > bound);
    let earliest: Trigger = format!("({trigger}) or (0 0 1 1 *)").parse().unwrap();
    assert_eq!(earliest.find_next(None, from), NextTime::At(from), "what comes before the bound is sure");
    // Walking a calendar is counted too.
    let days: Vec<String> =
        (0..28).map(|second| format!("(every 1 month 1 day at 00:00:{second:02} from 1970-01-01)")).collect();
    let text = format!("(* * * * * *) except {}, (every 1s start 1970-01-01T00:00:00Z)", days.join(", "));
    let slow: Trigger = text.parse().unwrap();
    assert!(matches!(slow.find_next(None, time("2199-01-01T00:00:00Z")), NextTime::NotBefore(_)));
}

#[test]
fn an_exclusion_of_every_second_is_passed_in_few_steps() {
    // A month of seconds is excluded; one by one that would be more steps than a search has.
    let text = "(* * * * * *) except (* * * * 7 *)";
    let trigger: Trigger = text.parse().unwrap();
    let from = time("2026-07-01T00:00:00Z");
    assert_eq!(trigger.next_fire_time(None, from), Some(time("2026-08-01T00:00:00Z")));
    let nights: Trigger = "(cron * * * * *) except (cron * * 22-23,0-5 * * *)".parse().unwrap();
    assert_eq!(nights.next_fire_time(None, time("2026-07-01T22:00:00Z")), Some(time("2026-07-02T06:00:00Z")));
    for (text, from, next) in [
        ("(* * * * * *) except ((* * * 24 12 *) or (* * * 25 12 *))", "2026-12-24T00:00:00Z", "2026-12-26T00:00:00Z"),
        ("(* * * * *) except ((* * * 7 *) or (* * * 8 *))", "2026-07-01T00:00:00Z", "2026-09-01T00:00:00Z"),
        ("(* * * * * *) except (* * * 24-25 12 * in Europe/Berlin)", "2026-12-23T23:00:00Z", "2026-12-25T23:00:00Z"),
        (
            "(every 1s start 2027-01-01T00:00:00Z) except (* * * * * mon-sat)",
            "2027-01-04T00:00:00Z",
            "2027-01-10T00:00:00Z",
        ),
        (
            "(every 1m start 2027-01-01T00:00:00Z) except (* * * feb-dec *)",
            "2027-02-01T00:00:00Z",
            "2028-01-01T00:00:00Z",
        ),
    ] {
        let trigger: Trigger = text.parse().unwrap();
        assert_eq!(trigger.next_fire_time(None, time(from)), Some(time(next)), "{trigger}");
    }
}

#[test]
fn dialects_mean_what_they_say_of_all_weekdays() {
    for number in 0..=7 {
        for (dialect, sunday) in [(Dialect::Crontab, 0), (Dialect::Quartz, 1), (Dialect::Apscheduler, 6)] {
            let Ok(trigger) = Trigger::crontab(
                &format!("0 0 0 ? * {number}").replace('?', if dialect == Dialect::Apscheduler { "*" } else { "?" }),
                dialect,
                zone("UTC"),
            ) else {
                continue;
            };
            let fire = trigger.next_fire_time(None, time("2026-01-01T00:00:00Z")).unwrap();
            assert_eq!(fire.weekday().num_days_from_sunday(), (number + 7 - sunday) % 7, "{dialect} {number}");
        }
    }
}
