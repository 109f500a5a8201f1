//! What a trigger was understood as, for people: normal form, sentence, notes, the next times, and
//! what the changes of the clocks will do to them.

use super::cron::{Cron, Dialect, Dst, Written};
use super::describe::weekday_name;
use super::instant::with_offset;
use super::sets::DAY;
use super::zone::Segment;
use super::{Rule, Trigger, Zone, calendar, instant};
use chrono::{DateTime, FixedOffset, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// How far ahead changes of the clocks are looked at.
const AHEAD: TimeDelta = TimeDelta::days(366);
/// Civil times of one change that are counted; more are told as so many.
const COUNTED_MAX: usize = 100;

/// A trigger as it was understood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Explanation {
    pub trigger: Trigger,
    /// As it was written.
    pub text: String,
    /// As every trigger that means the same is written.
    pub normal: String,
    /// As a sentence.
    pub description: String,
    /// What may be other than it looks.
    pub notes: Vec<String>,
    /// Times that a change of the clocks skips or repeats within the next year.
    pub clock_changes: Vec<ClockChange>,
    pub timezone: Zone,
    /// The first times, with the zone's offset at each.
    pub times: Vec<DateTime<FixedOffset>>,
    /// The changes of the zone's offset up to the last of these times.
    pub offset_changes: Vec<OffsetChange>,
}

/// The zone's clocks are put forward or back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct OffsetChange {
    /// The first instant with the new offset.
    pub at: DateTime<FixedOffset>,
    /// Seconds by which the clocks go forward; negative is back.
    pub by: i64,
}

/// A civil time that does not exist, or comes twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ClockChange {
    pub timezone: Zone,
    pub civil: NaiveDateTime,
    /// How many times of the trigger the same change concerns; at most 100 are counted.
    pub count: usize,
    /// It comes twice; else it does not exist.
    pub twice: bool,
    /// The instants at which the first of them runs.
    pub runs: Vec<DateTime<FixedOffset>>,
}

impl std::fmt::Display for ClockChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let happens = if self.twice { "comes twice" } else { "does not exist" };
        write!(f, "{} {happens} in {}", self.civil.format("%Y-%m-%d %H:%M:%S"), self.timezone)?;
        let runs: Vec<String> = self.runs.iter().map(|at| at.format("%H:%M:%S %:z").to_string()).collect();
        match runs.as_slice() {
            [] => f.write_str(": it does not run")?,
            [one] if self.twice => write!(f, ": it runs once, at {one}")?,
            [one] => write!(f, ": it runs at {one}")?,
            many => write!(f, ": it runs at {}", many.join(" and "))?,
        }
        match self.count {
            1 => Ok(()),
            count if count >= COUNTED_MAX => write!(f, " ({COUNTED_MAX} such times and more)"),
            count => write!(f, " ({count} such times)"),
        }
    }
}

impl Trigger {
    /// Explains the trigger as of `from`, with the first `count` times from there on.
    pub fn explain(&self, from: DateTime<Utc>, count: usize) -> Explanation {
        let from = super::clamp(from);
        let times = self.preview(from, count);
        let mut notes = Vec::new();
        let mut clock_changes = Vec::new();
        self.inspect(self, (from, from + AHEAD), &mut notes, &mut clock_changes);
        clock_changes.sort_by_key(|change: &ClockChange| change.civil);
        clock_changes.dedup();
        let last = times.last().map_or(from, |last| *last).timestamp();
        let changes = self.timezone.changes_after(from.timestamp()).take_while(|segment| segment.start <= last);
        let offset_changes = changes.filter_map(|segment| {
            let at = with_offset(instant(segment.start)?, self.timezone);
            Some(OffsetChange { at, by: segment.offset - segment.before })
        });
        Explanation {
            text: self.to_string(),
            normal: self.normal().to_string(),
            description: self.describe(),
            notes,
            clock_changes,
            timezone: self.timezone,
            times: times.into_iter().map(|at| with_offset(at, self.timezone)).collect(),
            offset_changes: offset_changes.collect(),
            trigger: self.clone(),
        }
    }

    /// Notes, and what changes of the clocks between two instants do, as far as they concern the
    /// `whole` that this is a part of.
    fn inspect(
        &self,
        whole: &Trigger,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
        notes: &mut Vec<String>,
        changes: &mut Vec<ClockChange>,
    ) {
        match &self.rule {
            Rule::Cron(cron) => {
                notes.extend(cron.notes().into_iter().filter(|note| !notes.contains(note)).collect::<Vec<_>>());
            }
            Rule::Interval(every) if every.as_secs() % 86_400 == 0 && self.timezone != Zone::utc() => notes.push(
                "days of an interval are 24 hours each, so its time of day moves when clocks change; `every day at 09:00` and `every 2 days at 09:00` keep it".to_owned(),
            ),
            _ => {}
        }
        let (from, until) = (from.max(self.start.unwrap_or(from)), until.min(self.end.unwrap_or(until)));
        let ahead =
            self.timezone.changes_after(from.timestamp()).take_while(|segment| segment.start <= until.timestamp());
        changes.extend(ahead.filter_map(|segment| self.clock_change(segment, whole)));
        for part in self.parts() {
            part.inspect(whole, (from, until), notes, changes);
        }
    }

    /// Whether it would fire at a civil time of `zone`, if clocks showed it just once.
    fn would_fire(&self, civil: i64, zone: Zone) -> bool {
        let parts = || self.parts().into_iter().map(|part| part.would_fire(civil, zone));
        match &self.rule {
            Rule::Cron(cron) if self.timezone == zone => cron.sets.next_civil(civil) == Some(civil),
            Rule::Calendar(calendar) if self.timezone == zone => !calendar.civil_times(civil, civil + 1).is_empty(),
            Rule::Or(_) => parts().any(|fires| fires),
            Rule::And(_) => parts().all(|fires| fires),
            Rule::Except(except) => {
                let excluded = self.timezone == zone && except.civil_excluded_until(civil).is_some();
                let mut parts = parts();
                parts.next() == Some(true) && !excluded && !parts.any(|excluded| excluded)
            }
            _ => instant(zone.first_instant(civil)).is_some_and(|at| self.fires_at(at)),
        }
    }

    /// What one change of the clocks does to a trigger of civil times.
    fn clock_change(&self, segment: Segment, whole: &Trigger) -> Option<ClockChange> {
        let twice = segment.offset < segment.before;
        let (first, end) = if twice { segment.fold() } else { segment.gap() };
        let (dst, fixed_time, civil_times) = match &self.rule {
            // What happens all day follows real time; nothing is lost or doubled that anybody would miss.
            Rule::Cron(cron) if !cron.fixed_time && cron.sets.hour == super::sets::ALL_HOURS => return None,
            Rule::Cron(cron) => {
                let next = |civil: i64| cron.sets.next_civil(civil).filter(|civil| *civil < end);
                let times = std::iter::successors(next(first), |civil| next(civil + 1));
                (cron.dst, cron.fixed_time, times.take(COUNTED_MAX).collect::<Vec<_>>())
            }
            Rule::Calendar(calendar) => (calendar.dst, true, calendar.civil_times(first, end)),
            _ => return None,
        };
        let dst = if dst == Dst::Once && !fixed_time { Dst::Wall } else { dst };
        let runs_of = |civil: i64| {
            let runs = calendar::instants(self.timezone, dst, civil).into_iter().flatten().filter_map(instant);
            runs.filter(|at| whole.fires_at(*at)).map(|at| with_offset(at, self.timezone)).collect::<Vec<_>>()
        };
        let told = |civil: &i64| whole.would_fire(*civil, self.timezone) || !runs_of(*civil).is_empty();
        let civil_times: Vec<i64> = civil_times.into_iter().filter(told).collect();
        let civil = *civil_times.first()?;
        Some(ClockChange {
            timezone: self.timezone,
            civil: DateTime::from_timestamp(civil, 0)?.naive_utc(),
            count: civil_times.len(),
            twice,
            runs: runs_of(civil),
        })
    }
}

impl Cron {
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let dialect = match &self.written {
            Written::Line { dialect, .. } => format!("the dialect {dialect}"),
            Written::Fields(_) => "named fields".to_owned(),
        };
        let mut numbers = self.reading.numbers.clone();
        numbers.sort_unstable();
        numbers.dedup();
        if !numbers.is_empty() {
            let said: Vec<String> =
                numbers.iter().map(|(written, weekday)| format!("{written} is {}", weekday_name(*weekday))).collect();
            notes.push(format!("day of week {} in {dialect}", said.join(", ")));
        }
        for (field, step, beyond) in &self.reading.uneven {
            let around = match *field {
                "second" => "minute",
                "minute" => "hour",
                "hour" => "day",
                "day" => "month",
                "day_of_week" => "week",
                _ => "year",
            };
            notes.push(if *beyond {
                format!("step {step} of `{field}` is longer than its range: only the first value matches")
            } else {
                format!("step {step} of `{field}` starts anew with each {around}, so the last one is of another length")
            });
        }
        let days = &self.sets.days;
        let weekday_restricted = !days.any_weekday();
        if days.either {
            notes.push("a day matches if its day of the month or its day of the week does, as in crontab".to_owned());
        } else if weekday_restricted && !(days.any_day() && days.day_rules.is_empty()) {
            let why = match &self.written {
                Written::Line { dialect: Dialect::Crontab, .. } => " (a day field begins with `*`)",
                _ => "",
            };
            notes.push(format!("a day matches if both its day of the month and its day of the week do{why}"));
        }
        if self.reading.has_spread {
            notes.push(match &self.spread {
                Some(key) => format!("`~` is spread by the id of the job, `{key}`: always the same for it"),
                None => "`~` is spread by the id of the job; without one these times are an example".to_owned(),
            });
        }
        notes
    }
}

impl super::CalendarInterval {
    /// Its civil times from `first` to before `end`, in seconds.
    fn civil_times(&self, first: i64, end: i64) -> Vec<i64> {
        let days = first.div_euclid(DAY)..=end.div_euclid(DAY);
        let times = days.filter(|day| self.has_date(super::sets::date_of(day * DAY)));
        let time = i64::from(chrono::Timelike::num_seconds_from_midnight(&self.at));
        times.map(|day| day * DAY + time).filter(|civil| (first..end).contains(civil)).collect()
    }
}
