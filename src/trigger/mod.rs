//! When a job fires. `next_fire_time` is pure: same trigger, same instants, same answer.

mod cron;
mod fields;
mod zone;

pub use cron::{Cron, CronFields, Dialect, Dst};
pub use zone::Zone;

use crate::invalid::Invalid;
use crate::job::seconds;
use chrono::{DateTime, SubsecRound, TimeDelta, TimeZone, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Shortest and longest interval.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
pub const INTERVAL_MAX: Duration = Duration::from_secs(3650 * 86_400);

/// A rule that says at which instants a job fires.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Trigger {
    /// Once, at one instant; in the past it fires at once.
    Date(Date),
    /// Every so much elapsed time.
    Interval(Interval),
    /// Whenever the civil time of a zone matches.
    Cron(Box<Cron>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Date {
    /// `None` until the job is added, which means at once.
    #[serde(default)]
    pub at: Option<DateTime<Utc>>,
}

/// Fires on the grid `start + n * every`. Elapsed time: 24 hours stay 24 hours over a change of the
/// clocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Seconds.
    #[serde(with = "seconds")]
    pub every: Duration,
    /// `None` until the job is added: then one interval after that.
    #[serde(default)]
    pub start: Option<DateTime<Utc>>,
    /// The last instant at which it may fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<DateTime<Utc>>,
}

impl Trigger {
    /// Fires once, as soon as the job is added.
    pub fn now() -> Self {
        Trigger::Date(Date { at: None })
    }

    pub fn at(instant: DateTime<Utc>) -> Self {
        Trigger::Date(Date { at: Some(instant) })
    }

    /// Fires every `every`, first one interval after the job is added.
    pub fn every(every: Duration) -> Result<Self, Invalid> {
        let trigger = Trigger::Interval(Interval { every, start: None, end: None });
        trigger.validate()?;
        Ok(trigger)
    }

    /// Reads a crontab line of 5, 6 (seconds first) or 7 (year last) fields, a macro such as
    /// `@daily`, or `@every 90s`.
    pub fn crontab(line: &str, dialect: Dialect, zone: Zone) -> Result<Self, Invalid> {
        match line.trim().strip_prefix("@every ") {
            Some(every) => {
                let every = humantime::parse_duration(every.trim())
                    .map_err(|e| Invalid::new("interval", every, e.to_string()).hint("such as `90s` or `1h30m`"))?;
                Trigger::every(every)
            }
            None => Cron::from_line(line, dialect, zone).map(|cron| Trigger::Cron(Box::new(cron))),
        }
    }

    /// The rules that need no clock. Deserialising checks cron expressions by itself.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Trigger::Interval(interval) = self
            && !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval.every)
        {
            let given = humantime::format_duration(interval.every).to_string();
            return Err(Invalid::new("interval", given, "it must be 1 second to 10 years"));
        }
        let instants = match self {
            Trigger::Date(date) => [date.at, None],
            Trigger::Interval(interval) => [interval.start, interval.end],
            Trigger::Cron(cron) => cron.bounds(),
        };
        instants.into_iter().flatten().try_for_each(check_instant)
    }

    /// Replaces what means "when the job is added" by that instant.
    #[must_use]
    pub fn anchored(self, now: DateTime<Utc>) -> Self {
        // Stores keep microseconds: a grid that is finer would come back as another one.
        let now = clamp(now).trunc_subsecs(6);
        match self {
            Trigger::Date(Date { at }) => Trigger::at(at.map_or(now, |at| at.trunc_subsecs(6))),
            Trigger::Interval(Interval { every, start, end }) => {
                let start = Some(start.map_or_else(|| now + delta(every), |start| start.trunc_subsecs(6)));
                Trigger::Interval(Interval { every, start, end })
            }
            other => other,
        }
    }

    /// The first fire time after `previous`; without one, the first at or after `now` (for a date,
    /// the date itself even if it is past). Strictly later than `previous`; `None` when the trigger
    /// is exhausted. An unanchored trigger is anchored at `now`.
    pub fn next_fire_time(&self, previous: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let now = clamp(now);
        match self {
            Trigger::Date(date) => match previous {
                None => Some(date.at.unwrap_or(now)),
                Some(_) => None,
            },
            Trigger::Interval(interval) => interval.next(previous, now),
            // Half a second past nine is past nine: the search is in whole seconds.
            Trigger::Cron(cron) => cron.next_after(match previous {
                Some(previous) => clamp(previous),
                None => now.trunc_subsecs(0) - TimeDelta::seconds(i64::from(now == now.trunc_subsecs(0))),
            }),
        }
    }

    /// The first `count` fire times at or after `from`.
    pub fn preview(&self, from: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        let from = clamp(from);
        let first = self.next_fire_time(None, from);
        std::iter::successors(first, |at| self.next_fire_time(Some(*at), from)).take(count).collect()
    }

    /// The zone that the trigger thinks in.
    pub fn zone(&self) -> Zone {
        match self {
            Trigger::Cron(cron) => cron.zone().clone(),
            _ => Zone::utc(),
        }
    }
}

impl Interval {
    fn next(&self, previous: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let every = delta(self.every);
        let start = self.start.unwrap_or(now + every);
        // The grid point sought is the first one that is not before this instant.
        let from = previous.map_or(now, |previous| clamp(previous) + TimeDelta::microseconds(1));
        let behind = (from - start).num_microseconds()?;
        let step = every.num_microseconds()?;
        let steps = if behind <= 0 { 0 } else { (behind - 1) / step + 1 };
        let next = start + TimeDelta::microseconds(steps * step);
        (next <= latest() && self.end.is_none_or(|end| next <= end)).then_some(next)
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn earliest() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

fn latest() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2200, 12, 31, 23, 59, 59).single().unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Refuses an instant at which nothing could ever fire.
pub fn check_instant(at: DateTime<Utc>) -> Result<(), Invalid> {
    if clamp(at) == at {
        return Ok(());
    }
    Err(Invalid::new("time", at.to_rfc3339(), "it must lie between 1970 and 2200"))
}

/// Fire times lie between 1970 and 2200.
fn clamp(instant: DateTime<Utc>) -> DateTime<Utc> {
    instant.clamp(earliest(), latest())
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Date(Date { at: Some(at) }) => write!(f, "at {}", at.format("%Y-%m-%d %H:%M:%S UTC")),
            Trigger::Date(Date { at: None }) => f.write_str("now"),
            Trigger::Interval(interval) => {
                write!(f, "every {}", humantime::format_duration(interval.every))
            }
            Trigger::Cron(cron) => cron.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    #[test]
    fn a_date_fires_once_even_when_it_is_past() {
        let at = time("2020-01-01T00:00:00Z");
        let trigger = Trigger::at(at);
        let now = time("2026-01-01T00:00:00Z");
        assert_eq!(trigger.next_fire_time(None, now), Some(at));
        assert_eq!(trigger.next_fire_time(Some(at), now), None);
    }

    #[test]
    fn an_interval_keeps_its_grid() {
        let start = time("2026-01-01T00:00:07Z");
        let trigger = Trigger::every(Duration::from_secs(60)).unwrap().anchored(start - TimeDelta::seconds(60));
        assert_eq!(trigger.next_fire_time(None, start), Some(start));
        let late = start + TimeDelta::seconds(61);
        assert_eq!(trigger.next_fire_time(None, late), Some(start + TimeDelta::seconds(120)));
        assert_eq!(trigger.next_fire_time(Some(start), late), Some(start + TimeDelta::seconds(60)));
    }

    #[test]
    fn an_interval_of_nothing_is_refused() {
        assert!(Trigger::every(Duration::ZERO).is_err());
        assert!(Trigger::crontab("@every 0s", Dialect::Crontab, Zone::utc()).is_err());
        assert!(Trigger::crontab("@every 99y", Dialect::Crontab, Zone::utc()).is_err());
        assert!(Trigger::crontab("@every 90s", Dialect::Crontab, Zone::utc()).is_ok());
    }

    #[test]
    fn the_ends_of_time_do_not_panic() {
        let trigger = Trigger::crontab("* * * * *", Dialect::Crontab, Zone::utc()).unwrap();
        assert_eq!(trigger.next_fire_time(None, DateTime::<Utc>::MAX_UTC), None);
        assert!(trigger.next_fire_time(None, DateTime::<Utc>::MIN_UTC).is_some());
        let every = Trigger::every(INTERVAL_MAX).unwrap();
        assert_eq!(every.next_fire_time(None, DateTime::<Utc>::MAX_UTC), None);
    }

    proptest! {
        #[test]
        fn an_interval_strictly_increases(every in 1u64..1_000_000, ago in 0i64..100_000_000) {
            let now = time("2026-06-01T00:00:00Z");
            let trigger = Trigger::every(Duration::from_secs(every)).unwrap()
                .anchored(now - TimeDelta::seconds(ago));
            let times = trigger.preview(now, 5);
            prop_assert!(times[0] >= now);
            prop_assert!(times.windows(2).all(|pair| (pair[1] - pair[0]).num_seconds() == every as i64));
        }
    }
}
