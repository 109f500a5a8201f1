//! Cron: civil times that match, mapped to instants under a daylight-saving policy.
//!
//! Every dialect ends in the same bit sets and one evaluator. The `cron` crate reads the Quartz
//! dialect; it does not evaluate it, because its search steps back in time where clocks are put
//! back, and it knows neither weeks nor crontab's rule for days.

use super::fields::{self, Field, Parsed, Sets};
use super::zone::{Segment, Zone};
use crate::func::text_form;
use crate::invalid::Invalid;
use chrono::{DateTime, TimeDelta, Utc};
use cron::TimeUnitSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Longest crontab line, in bytes.
pub const LINE_MAX: usize = 256;

/// How weekday numbers and the two day fields of a line are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Dialect {
    /// 0 and 7 are Sunday; if both day fields are restricted, either may match.
    #[default]
    Crontab,
    /// 1 is Sunday; both day fields must match.
    Quartz,
    /// 0 is Monday; both day fields must match.
    Apscheduler,
}

/// What happens to a civil time that a change of the clocks skips or repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dst {
    /// A fixed time runs once: at the first instant after a gap, on the first pass of a fold.
    /// Anything else follows real time.
    #[default]
    Once,
    /// Exactly the civil times: none in a gap, both in a fold.
    Wall,
    /// Gap times run later by the gap, fold times on both passes.
    Shift,
}

/// APScheduler's named fields, each an expression of its own; all must match.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CronFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub year: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<String>,
    /// Also `last`, `3rd fri`, `last sun`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// ISO week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub week: Option<String>,
    /// 0 is Monday.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day_of_week: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hour: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minute: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second: Option<String>,
}

/// A cron trigger: how it was written, and the civil times that it means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Cron {
    written: Written,
    sets: Sets,
    /// Hour, minute and second are explicit values, so it happens at fixed times of day.
    fixed_time: bool,
}

/// The JSON form: what the user wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dialect: Option<Dialect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fields: Option<CronFields>,
    #[serde(default)]
    timezone: Zone,
    #[serde(default)]
    dst: Dst,
    /// The first instant at which it may fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start: Option<DateTime<Utc>>,
    /// The last instant at which it may fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<DateTime<Utc>>,
}

impl TryFrom<Written> for Cron {
    type Error = Invalid;

    fn try_from(written: Written) -> Result<Self, Invalid> {
        let (sets, fixed_time) = match (&written.expr, &written.fields) {
            (Some(line), None) => read_line(line, written.dialect.unwrap_or_default())?,
            (None, Some(fields)) => read_fields(fields)?,
            _ => return Err(Invalid::new("cron trigger", "", "it needs either `expr` or `fields`")),
        };
        Ok(Cron { written, sets, fixed_time })
    }
}

impl From<Cron> for Written {
    fn from(cron: Cron) -> Written {
        cron.written
    }
}

impl Cron {
    pub(super) fn from_line(line: &str, dialect: Dialect, timezone: Zone) -> Result<Self, Invalid> {
        let (expr, dialect) = (Some(line.trim().to_owned()), Some(dialect));
        let dst = Dst::default();
        Written { expr, dialect, fields: None, timezone, dst, start: None, end: None }.try_into()
    }

    pub fn from_fields(fields: CronFields, timezone: Zone) -> Result<Self, Invalid> {
        let fields = Some(fields);
        let dst = Dst::default();
        Written { expr: None, dialect: None, fields, timezone, dst, start: None, end: None }.try_into()
    }

    #[must_use]
    pub fn dst(mut self, dst: Dst) -> Self {
        self.written.dst = dst;
        self
    }

    /// Fires only from `start` to `end`, both included.
    #[must_use]
    pub fn between(mut self, start: Option<DateTime<Utc>>, end: Option<DateTime<Utc>>) -> Self {
        (self.written.start, self.written.end) = (start, end);
        self
    }

    pub(super) fn bounds(&self) -> [Option<DateTime<Utc>>; 2] {
        [self.written.start, self.written.end]
    }

    pub fn zone(&self) -> &Zone {
        &self.written.timezone
    }

    /// The first fire time later than `after`.
    pub(super) fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let second = TimeDelta::seconds(1);
        let after = self.written.start.map_or(after, |start| after.max(super::clamp(start) - second));
        let next = match (self.written.dst, self.fixed_time) {
            (Dst::Once, true) => self.next_once(after),
            (Dst::Once, false) | (Dst::Wall, _) => self.next_wall(after, false),
            (Dst::Shift, _) => self.next_wall(after, true),
        }?;
        let in_time = next <= super::latest() && self.written.end.is_none_or(|end| next <= end);
        in_time.then_some(next)
    }

    /// Walks the stretches of constant offset from `after` on. With `shift`, a civil time that the
    /// start of a stretch skipped counts there, read with the offset before.
    fn next_wall(&self, after: DateTime<Utc>, shift: bool) -> Option<DateTime<Utc>> {
        let mut from =
            after + TimeDelta::seconds(1) - TimeDelta::nanoseconds(i64::from(after.timestamp_subsec_nanos()));
        let mut segment = self.zone().segment(from);
        let mut last_civil = None;
        loop {
            if shift && segment.offset > segment.offset_before {
                let before = Segment { offset: segment.offset_before, ..segment };
                let gap_end = segment.start + (segment.offset - segment.offset_before);
                let skipped = self.sets.next_civil(before.civil(from)).map(|civil| before.instant(civil));
                let plain = self.sets.next_civil(segment.civil(from)).map(|civil| segment.instant(civil));
                if let Some(skipped) = skipped.filter(|at| *at < gap_end && plain.is_none_or(|plain| *at <= plain)) {
                    return Some(skipped);
                }
            }
            let civil = self.sets.next_civil(segment.civil(from))?;
            let instant = segment.instant(civil);
            if instant < segment.end {
                return Some(instant);
            }
            from = segment.end;
            // Nothing matches before `civil` any more, so stretches far from it are passed over.
            let near = instant - TimeDelta::hours(26);
            if last_civil == Some(civil) && near > from {
                from = near;
            }
            last_civil = Some(civil);
            segment = self.zone().segment(from);
        }
    }

    /// Each matching civil time once, mapped forwards out of a gap and to the first pass of a fold.
    fn next_once(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let segment = self.zone().segment(after);
        let mut from = segment.civil(after);
        // In the second pass of a fold, everything up to its end has had its turn.
        if segment.offset < segment.offset_before {
            let fold_end = segment.start.naive_utc() + segment.offset_before;
            from = from.max(fold_end);
        }
        loop {
            let civil = self.sets.next_civil(from)?;
            let instant = self.zone().instant(civil);
            if instant > after {
                return Some(instant);
            }
            from = civil + TimeDelta::seconds(1);
        }
    }
}

fn read_line(line: &str, dialect: Dialect) -> Result<(Sets, bool), Invalid> {
    let bad = |reason: String| Invalid::new("cron expression", line, reason);
    if line.len() > LINE_MAX || !line.is_ascii() {
        return Err(bad(format!("it must be at most {LINE_MAX} ASCII characters")));
    }
    let line = line.trim();
    let line = match line.strip_prefix('@').map(str::to_ascii_lowercase).as_deref() {
        None => line,
        Some("hourly") => "0 * * * *",
        Some("daily" | "midnight") => "0 0 * * *",
        Some("weekly") => return read_line("0 0 * * sun", Dialect::Crontab),
        Some("monthly") => "0 0 1 * *",
        Some("yearly" | "annually") => "0 0 1 1 *",
        Some(_) => {
            return Err(bad("there is no such macro".into())
                .hint("@hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, `@every 90s`"));
        }
    };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (second, rest, year) = match words.len() {
        5 => ("0", &words[..], "*"),
        6 => (words[0], &words[1..], "*"),
        7 => (words[0], &words[1..6], words[6]),
        n => {
            return Err(bad(format!("it has {n} fields"))
                .hint("5: minute hour day month weekday; 6: second first; 7: year last"));
        }
    };
    if dialect == Dialect::Quartz {
        return read_quartz(second, rest, year);
    }
    let weekday = if dialect == Dialect::Crontab { fields::CRONTAB_DAY_OF_WEEK } else { fields::DAY_OF_WEEK };
    let parse = |field: Field, text: &str| field.parse(text);
    let (second, minute, hour) =
        (parse(fields::SECOND, second)?, parse(fields::MINUTE, rest[0])?, parse(fields::HOUR, rest[1])?);
    let (day, weekday) = (parse(fields::DAY, rest[2])?, parse(weekday, rest[4])?);
    let fixed_time = [&second, &minute, &hour].iter().all(|field| field.explicit);
    let sets = Sets {
        second: second.bits(),
        minute: minute.bits(),
        hour: hour.bits(),
        either_day: dialect == Dialect::Crontab && !day.star && !weekday.star,
        month: parse(fields::MONTH, rest[3])?.bits(),
        day_of_week: weekday.bits(),
        year: years(year)?,
        ..with_days(&day)
    };
    Ok((sets, fixed_time))
}

fn with_days(day: &Parsed) -> Sets {
    Sets { day: day.bits(), day_rules: day.rules.clone(), ..Sets::all() }
}

fn years(text: &str) -> Result<[u64; 4], Invalid> {
    Ok(if text == "*" { [u64::MAX; 4] } else { fields::YEAR.parse(text)?.years() })
}

/// Reads a Quartz line with the `cron` crate and lowers what it understood into the sets.
fn read_quartz(second: &str, rest: &[&str], year: &str) -> Result<(Sets, bool), Invalid> {
    let line = format!("{second} {} {year}", rest.join(" "));
    let schedule = cron::Schedule::from_str(&line).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it does not parse");
        Invalid::new("cron expression", &line, crate::invalid::printable(reason, 160)).hint("dialect quartz")
    })?;
    let bits = |values: Vec<u32>| values.iter().fold(0u64, |set, value| set | 1 << value);
    let weekdays = schedule.days_of_week().iter().fold(0u64, |set, day| set | 1 << ((day + 5) % 7));
    let all_years = schedule.years().is_all();
    let mut year_set = if all_years { [u64::MAX; 4] } else { [0; 4] };
    if !all_years {
        for year in schedule.years().iter() {
            let bit = year as usize - fields::YEAR_MIN as usize;
            year_set[bit / 64] |= 1 << (bit % 64);
        }
    }
    let sets = Sets {
        second: bits(schedule.seconds().iter().collect()),
        minute: bits(schedule.minutes().iter().collect()),
        hour: bits(schedule.hours().iter().collect()),
        day: bits(schedule.days_of_month().iter().collect()),
        month: bits(schedule.months().iter().collect()),
        day_of_week: weekdays,
        year: year_set,
        ..Sets::all()
    };
    let explicit = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b',');
    Ok((sets, explicit(second) && explicit(rest[0]) && explicit(rest[1])))
}

/// APScheduler's rule for what is left out: fields after the last one given take their minimum,
/// fields before it match anything.
fn read_fields(given: &CronFields) -> Result<(Sets, bool), Invalid> {
    let order: [(Field, &Option<String>, &str); 8] = [
        (fields::YEAR, &given.year, "*"),
        (fields::MONTH, &given.month, "1"),
        (fields::DAY, &given.day, "1"),
        (fields::WEEK, &given.week, "*"),
        (fields::DAY_OF_WEEK, &given.day_of_week, "*"),
        (fields::HOUR, &given.hour, "0"),
        (fields::MINUTE, &given.minute, "0"),
        (fields::SECOND, &given.second, "0"),
    ];
    let Some(last) = order.iter().rposition(|(_, text, _)| text.is_some()) else {
        return Err(Invalid::new("cron fields", "", "none is given").hint("such as `hour` and `minute`"));
    };
    let mut parsed = BTreeMap::new();
    for (at, (field, text, minimum)) in order.into_iter().enumerate() {
        let text = text.as_deref().map_or(if at > last { minimum } else { "*" }, str::trim);
        if text.len() > LINE_MAX || !text.is_ascii() || text == "?" {
            let reason = format!("it must be an expression of at most {LINE_MAX} ASCII characters");
            return Err(Invalid::new(format!("cron field `{}`", field.name), text, reason));
        }
        parsed.insert(field.name, field.parse(text)?);
    }
    let bits = |name: &str| parsed[name].bits();
    let fixed_time = ["hour", "minute", "second"].iter().all(|name| parsed[name].explicit);
    let sets = Sets {
        second: bits("second"),
        minute: bits("minute"),
        hour: bits("hour"),
        month: bits("month"),
        week: bits("week"),
        day_of_week: bits("day_of_week"),
        year: parsed["year"].years(),
        ..with_days(&parsed["day"])
    };
    Ok((sets, fixed_time))
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(expr) = &self.written.expr {
            write!(f, "cron {expr}")?;
            match self.written.dialect.unwrap_or_default() {
                Dialect::Crontab => {}
                other => write!(f, " ({})", String::from(other))?,
            }
        }
        if let Some(fields) = &self.written.fields {
            let named = [
                ("year", &fields.year),
                ("month", &fields.month),
                ("day", &fields.day),
                ("week", &fields.week),
                ("day_of_week", &fields.day_of_week),
                ("hour", &fields.hour),
                ("minute", &fields.minute),
                ("second", &fields.second),
            ];
            f.write_str("cron")?;
            for (name, text) in named.iter().filter_map(|(name, text)| text.as_ref().map(|text| (name, text))) {
                write!(f, " {name}='{text}'")?;
            }
        }
        if self.zone().name() != "UTC" {
            write!(f, " {}", self.zone())?;
        }
        Ok(())
    }
}

impl FromStr for Dialect {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "crontab" => Ok(Dialect::Crontab),
            "quartz" => Ok(Dialect::Quartz),
            "apscheduler" => Ok(Dialect::Apscheduler),
            _ => Err(Invalid::new("dialect", text, "it is `crontab`, `quartz` or `apscheduler`")),
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::Crontab => "crontab",
            Dialect::Quartz => "quartz",
            Dialect::Apscheduler => "apscheduler",
        })
    }
}

text_form!(Dialect);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::Trigger;

    fn times(line: &str, dialect: Dialect, zone: &str, dst: Dst, from: &str, count: usize) -> Vec<String> {
        let cron = Cron::from_line(line, dialect, zone.parse().unwrap()).unwrap().dst(dst);
        let from = DateTime::parse_from_rfc3339(from).unwrap().to_utc();
        let times = Trigger::Cron(Box::new(cron)).preview(from, count);
        times.iter().map(|at| at.format("%m-%dT%H:%M:%SZ").to_string()).collect()
    }

    #[test]
    fn a_daily_time_in_the_gap_runs_once_right_after_it() {
        let from = "2024-03-30T13:00:00+01:00";
        let berlin = |dst| times("30 2 * * *", Dialect::Crontab, "Europe/Berlin", dst, from, 2);
        assert_eq!(berlin(Dst::Once), ["03-31T01:00:00Z", "04-01T00:30:00Z"]);
        assert_eq!(berlin(Dst::Wall), ["04-01T00:30:00Z", "04-02T00:30:00Z"]);
        assert_eq!(berlin(Dst::Shift), ["03-31T01:30:00Z", "04-01T00:30:00Z"]);
    }

    #[test]
    fn a_daily_time_in_the_fold_runs_on_the_first_pass() {
        let from = "2024-10-26T14:00:00+02:00";
        let berlin = |dst| times("30 2 * * *", Dialect::Crontab, "Europe/Berlin", dst, from, 2);
        assert_eq!(berlin(Dst::Once), ["10-27T00:30:00Z", "10-28T01:30:00Z"]);
        assert_eq!(berlin(Dst::Wall), ["10-27T00:30:00Z", "10-27T01:30:00Z"]);
    }

    #[test]
    fn midnight_after_spring_forward_is_not_lost() {
        let from = "2024-03-31T12:00:00+02:00";
        assert_eq!(times("0 0 * * *", Dialect::Crontab, "Europe/Berlin", Dst::Once, from, 1), ["03-31T22:00:00Z"]);
    }

    #[test]
    fn a_frequent_trigger_follows_real_time_through_the_fold() {
        let from = "2024-10-27T02:00:00+02:00";
        let expect = ["10-27T00:00:00Z", "10-27T00:30:00Z", "10-27T01:00:00Z", "10-27T01:30:00Z", "10-27T02:00:00Z"];
        assert_eq!(times("*/30 * * * *", Dialect::Crontab, "Europe/Berlin", Dst::Once, from, 5), expect);
    }

    #[test]
    fn a_gap_that_swallows_midnight_keeps_the_run() {
        let from = "2036-03-01T00:00:00Z";
        let once = times("0 23 29 3 *", Dialect::Crontab, "America/Scoresbysund", Dst::Once, from, 1);
        assert_eq!(once, ["03-30T01:00:00Z"]);
    }

    #[test]
    fn weekday_numbers_depend_on_the_dialect() {
        // 2026-11-22 is a Sunday.
        let first = |line, dialect| times(line, dialect, "UTC", Dst::Once, "2026-11-22T00:00:00Z", 1);
        assert_eq!(first("0 9 * * 1", Dialect::Crontab), ["11-23T09:00:00Z"]);
        assert_eq!(first("0 9 * * 1", Dialect::Apscheduler), ["11-24T09:00:00Z"]);
        assert_eq!(first("0 0 9 ? * 1", Dialect::Quartz), ["11-22T09:00:00Z"]);
        assert_eq!(first("0 9 * * fri-mon", Dialect::Crontab), ["11-22T09:00:00Z"]);
    }

    #[test]
    fn both_days_restricted_means_either_in_crontab_and_both_elsewhere() {
        let first = |dialect| times("0 0 13 * fri", dialect, "UTC", Dst::Once, "2026-11-22T00:00:00Z", 1);
        assert_eq!(first(Dialect::Crontab), ["11-27T00:00:00Z"]);
        assert_eq!(first(Dialect::Apscheduler), ["08-13T00:00:00Z"]);
    }

    #[test]
    fn what_never_fires_ends_its_search() {
        let cron = Cron::from_line("0 0 30 2 *", Dialect::Crontab, Zone::utc()).unwrap();
        assert_eq!(cron.next_after(DateTime::UNIX_EPOCH), None);
    }

    #[test]
    fn a_bad_line_names_field_reason_and_shape() {
        for (line, reason) in [
            ("* * * *", "4 fields"),
            ("60 * * * *", "outside 0 to 59"),
            ("*/0 * * * *", "step of 0"),
            (", * * * *", "empty"),
            ("+5 * * * *", "not a value"),
            ("9-5 * * * *", "backwards"),
            ("0 0 * * mon#2x", "not a value"),
            ("@fortnightly", "macro"),
        ] {
            let error = Cron::from_line(line, Dialect::Crontab, Zone::utc()).unwrap_err().to_string();
            assert!(error.contains(reason), "{line}: {error}");
        }
        let quartz = Cron::from_line("0 0 0 * * 0", Dialect::Quartz, Zone::utc()).unwrap_err();
        assert!(quartz.to_string().starts_with("invalid cron expression"), "{quartz}");
    }

    #[test]
    fn fields_left_out_follow_apscheduler() {
        let fields = CronFields { day: Some("1".into()), minute: Some("20".into()), ..CronFields::default() };
        let cron = Cron::from_fields(fields, Zone::utc()).unwrap();
        let from = "2026-01-01T00:00:00Z".parse().unwrap();
        let times = Trigger::Cron(Box::new(cron)).preview(from, 2);
        assert_eq!(times[1] - times[0], TimeDelta::hours(1));
        assert!(Cron::from_fields(CronFields::default(), Zone::utc()).is_err());
    }
}
