//! When a job fires. `next_fire_time` is pure: same trigger, same instants, same answer.
//!
//! A trigger is a rule and what every rule may have: a time zone, a first and a last instant, jitter
//! and a number of runs. It comes in and goes out as one JSON form (`form`) or one text form
//! (`text`, with plain English in `english`); both are the same [`form::Form`] before they become a
//! trigger. Cron expressions of every dialect end in the same bit sets (`field`, `cron`, `sets`);
//! civil times become instants in `zone` under a daylight-saving policy; `search` finds the next of
//! them, `combine` where a trigger is made of others; `normal`, `describe` and `explain` say what was
//! understood.

mod asked;
mod calendar;
mod combine;
mod cron;
mod describe;
mod english;
mod explain;
mod field;
mod form;
mod instant;
mod normal;
mod search;
mod sets;
mod text;
mod zone;

pub use asked::AskedTrigger;
pub use calendar::CalendarInterval;
pub use combine::Exclusion;
pub use cron::{CronFields, Dialect, Dst};
pub use explain::{ClockChange, Explanation, OffsetChange};
pub(crate) use field::spread;
pub(crate) use instant::duration_text;
pub use instant::{parse_duration, parse_time};
pub use search::{NextTime, SEARCH_STEPS_MAX};
pub use text::TEXT_MAX;
pub use zone::{ReadZone, Zone, ZoneSource};

use crate::invalid::Invalid;
use chrono::{DateTime, Datelike, NaiveDateTime, SubsecRound, TimeDelta, TimeZone, Utc};
use combine::{And, Except};
use cron::{Cron, Written};
use std::time::Duration;

/// Shortest and longest interval.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
pub const INTERVAL_MAX: Duration = Duration::from_secs(3650 * 86_400);
/// Longest jitter.
pub const JITTER_MAX: Duration = Duration::from_secs(31 * 86_400);
/// Triggers within one trigger, and how deep they may be nested.
pub const TRIGGERS_MAX: usize = 32;
pub const DEPTH_MAX: usize = 4;

/// A rule that says at which instants a job fires.
///
/// ```
/// use sandclock::{Dialect, Trigger, Zone};
///
/// let trigger: Trigger = "every weekday at 9:30 in Europe/Berlin".parse()?;
/// assert_eq!(trigger.to_string(), "cron 30 9 * * mon-fri in Europe/Berlin");
/// let from = "2026-11-20T12:00:00Z".parse().unwrap();
/// assert_eq!(trigger.preview(from, 1)[0].to_rfc3339(), "2026-11-23T08:30:00+00:00");
/// # Ok::<(), sandclock::Invalid>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    rule: Rule,
    /// Where civil times are; for other rules, in which zone people see its instants.
    timezone: Zone,
    start: Option<DateTime<Utc>>,
    end: Option<DateTime<Utc>>,
    jitter: Duration,
    max_runs: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Rule {
    /// Once, at one instant; `None` until the job is added, which means at once.
    Date(Option<DateTime<Utc>>),
    /// Elapsed time, on the grid `start + n * interval`: 24 hours stay 24 hours over a change of the
    /// clocks. Without a start, the first time is one interval after the job is added.
    Interval(Duration),
    /// Whenever the civil time of the zone matches.
    Cron(Box<Cron>),
    Calendar(CalendarInterval),
    /// The instants of all of them.
    Or(Vec<Trigger>),
    And(Box<And>),
    Except(Box<Except>),
    /// Whenever a plugin says.
    Plugin(Box<AskedTrigger>),
}

impl From<Rule> for Trigger {
    fn from(rule: Rule) -> Self {
        Trigger { rule, timezone: Zone::utc(), start: None, end: None, jitter: Duration::ZERO, max_runs: None }
    }
}

/// Making one.
impl Trigger {
    /// Fires once, as soon as the job is added.
    pub fn now() -> Self {
        Rule::Date(None).into()
    }

    /// Fires once; in the past it fires at once.
    pub fn at(instant: DateTime<Utc>) -> Self {
        Rule::Date(Some(instant)).into()
    }

    /// Fires every `every` of elapsed time, first one interval after the job is added.
    pub fn every(every: Duration) -> Result<Self, Invalid> {
        Trigger::from(Rule::Interval(every)).checked()
    }

    /// Reads a crontab line of 5, 6 (seconds first) or 7 (year last) fields, a macro such as
    /// `@daily`, or `@every 90s`.
    pub fn crontab(line: &str, dialect: Dialect, zone: Zone) -> Result<Self, Invalid> {
        let macro_and_rest = line.trim().split_once(' ');
        match macro_and_rest.filter(|(name, _)| name.eq_ignore_ascii_case("@every")) {
            Some((_, every)) => Ok(Trigger::every(parse_duration(every.trim())?)?.timezone(zone)),
            None => Trigger::cron(Written::Line { expr: line.trim().to_owned(), dialect }, zone),
        }
    }

    /// APScheduler's named fields.
    pub fn fields(fields: CronFields, zone: Zone) -> Result<Self, Invalid> {
        Trigger::cron(Written::Fields(Box::new(fields)), zone)
    }

    fn cron(written: Written, zone: Zone) -> Result<Self, Invalid> {
        let cron = Cron::new(written, Dst::default(), None)?;
        Ok(Trigger::from(Rule::Cron(Box::new(cron))).timezone(zone))
    }

    pub fn calendar(interval: CalendarInterval, zone: Zone) -> Result<Self, Invalid> {
        Trigger::from(Rule::Calendar(interval)).timezone(zone).checked()
    }

    /// Fires whenever one of these does.
    pub fn or(triggers: Vec<Trigger>) -> Result<Self, Invalid> {
        Trigger::from(Rule::Or(triggers)).checked()
    }

    /// Fires at the instants on which all of these do.
    pub fn and(triggers: Vec<Trigger>) -> Result<Self, Invalid> {
        Trigger::from(Rule::And(Box::new(And::new(triggers)))).checked()
    }

    /// Fires when `trigger` does, unless an exclusion holds. Days are those of the trigger's zone.
    pub fn except(trigger: Trigger, exclusions: Vec<Exclusion>) -> Result<Self, Invalid> {
        let zone = trigger.timezone;
        Trigger::from(Rule::Except(Box::new(Except::new(trigger, exclusions)?))).timezone(zone).checked()
    }

    #[must_use]
    pub fn timezone(mut self, zone: Zone) -> Self {
        self.timezone = zone;
        self
    }

    /// Fires at no instant before `start`. The grid of an interval begins there.
    #[must_use]
    pub fn start(mut self, start: DateTime<Utc>) -> Self {
        self.start = Some(start);
        self
    }

    /// Fires at no instant after `end`.
    #[must_use]
    pub fn end(mut self, end: DateTime<Utc>) -> Self {
        self.end = Some(end);
        self
    }

    /// Starts each run up to `jitter` after its fire time, always before the following one. How
    /// much depends on the job's id and the fire time alone.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Starts this many runs at most; then the job is finished. Retries, skipped fire times and runs
    /// that a caller asked for do not count. A job that is given another trigger counts anew.
    #[must_use]
    pub fn max_runs(mut self, runs: u64) -> Self {
        self.max_runs = Some(runs);
        self
    }

    /// What a change of the clocks does to civil times: of this trigger, or of the ones it is made
    /// of.
    #[must_use]
    pub fn dst(mut self, dst: Dst) -> Self {
        match &mut self.rule {
            Rule::Cron(cron) => cron.dst = dst,
            Rule::Calendar(calendar) => calendar.dst = dst,
            _ => return self.map_parts(|part| part.dst(dst)),
        }
        self
    }

    /// Replaces the triggers that this one is made of.
    fn map_parts(mut self, mut change: impl FnMut(Trigger) -> Trigger) -> Self {
        self.rule = match self.rule {
            Rule::Or(triggers) => Rule::Or(triggers.into_iter().map(&mut change).collect()),
            Rule::And(and) => Rule::And(Box::new(And::new(and.triggers.into_iter().map(&mut change).collect()))),
            Rule::Except(mut except) => {
                except.trigger = change(except.trigger);
                let exclusion = |exclusion| match exclusion {
                    Exclusion::Trigger(trigger) => Exclusion::Trigger(Box::new(change(*trigger))),
                    other => other,
                };
                except.exclusions = except.exclusions.into_iter().map(exclusion).collect();
                Rule::Except(except)
            }
            other => other,
        };
        self
    }

    /// The triggers that this one is made of.
    fn parts(&self) -> Vec<&Trigger> {
        match &self.rule {
            Rule::Or(triggers) => triggers.iter().collect(),
            Rule::And(and) => and.triggers.iter().collect(),
            Rule::Except(except) => std::iter::once(&except.trigger)
                .chain(except.exclusions.iter().filter_map(Exclusion::trigger))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Checking one, and making it definite.
impl Trigger {
    fn checked(self) -> Result<Self, Invalid> {
        self.validate().map(|()| self)
    }

    /// The rules that need no clock.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.jitter > JITTER_MAX {
            return Err(Invalid::new("jitter", duration_text(self.jitter), "it must be at most 31 days"));
        }
        if self.max_runs == Some(0) {
            return Err(Invalid::new("max_runs", "0", "it must be at least 1"));
        }
        let mut count = 0;
        self.validate_rule(1, &mut count)
    }

    fn validate_rule(&self, depth: usize, count: &mut usize) -> Result<(), Invalid> {
        *count += 1;
        if *count > TRIGGERS_MAX || depth > DEPTH_MAX {
            let reason = format!("it is made of more than {TRIGGERS_MAX} triggers, or nested deeper than {DEPTH_MAX}");
            return Err(Invalid::new("trigger", "", reason));
        }
        if depth > 1 && (self.jitter != Duration::ZERO || self.max_runs.is_some()) {
            return Err(Invalid::new("trigger", "", "a trigger within another has no jitter and no max_runs")
                .hint("give them to the outermost one"));
        }
        if depth > 1 && self.asked().is_some() {
            return Err(Invalid::new("trigger", "", "a plugin's trigger cannot be part of another")
                .hint("combine the times within the plugin"));
        }
        let mut instants = vec![self.start, self.end];
        match &self.rule {
            Rule::Date(at) => instants.push(*at),
            Rule::Interval(every) if !(INTERVAL_MIN..=INTERVAL_MAX).contains(every) => {
                let given = duration_text(*every);
                return Err(Invalid::new("interval", given, "it must be 1 second to 10 years"));
            }
            Rule::Interval(every) if every.subsec_nanos() % 1000 != 0 => {
                let given = humantime::format_duration(*every).to_string();
                return Err(Invalid::new("interval", given, "it must be whole microseconds"));
            }
            Rule::Calendar(calendar) => calendar.validate()?,
            Rule::Plugin(asked) => asked.validate()?,
            Rule::Or(triggers) if triggers.len() < 2 => return Err(too_few("or")),
            Rule::And(and) if and.triggers.len() < 2 => return Err(too_few("and")),
            _ => {}
        }
        instants.into_iter().flatten().try_for_each(check_instant)?;
        self.parts().into_iter().try_for_each(|part| part.validate_rule(depth + 1, count))
    }

    /// Replaces what means "when the job is added" by that instant.
    #[must_use]
    pub fn anchored(mut self, now: DateTime<Utc>) -> Self {
        // Stores keep microseconds: a grid that is finer would come back as another one.
        let micros = |at: DateTime<Utc>| at.trunc_subsecs(6);
        let now = micros(clamp(now));
        (self.start, self.end) = (self.start.map(micros), self.end.map(micros));
        match &mut self.rule {
            Rule::Date(at) => *at = Some(at.map_or(now, micros)),
            Rule::Interval(every) => {
                // On whole seconds, where it can meet other triggers.
                let second = if every.subsec_nanos() == 0 { instant(seconds_up(now)) } else { None };
                self.start = Some(self.start.unwrap_or(second.unwrap_or(now) + delta(*every)));
            }
            Rule::Calendar(calendar) => {
                let from = self.start.unwrap_or(now).timestamp();
                let today = sets::date_of(self.timezone.civil_seconds(from));
                calendar.start_date = Some(calendar.start_date.unwrap_or(today));
            }
            Rule::Cron(_) | Rule::Plugin(_) => {}
            Rule::Or(_) | Rule::And(_) | Rule::Except(_) => return self.map_parts(|part| part.anchored(now)),
        }
        self
    }

    /// What this trigger would be, had it been added when `settled` was: for telling whether both are
    /// the same.
    #[must_use]
    pub fn settled_like(mut self, settled: &Trigger) -> Self {
        match (&mut self.rule, &settled.rule) {
            (Rule::Date(at), Rule::Date(then)) => *at = at.or(*then),
            (Rule::Interval(_), Rule::Interval(_)) => self.start = self.start.or(settled.start),
            (Rule::Calendar(calendar), Rule::Calendar(then)) => {
                calendar.start_date = calendar.start_date.or(then.start_date);
            }
            (Rule::Cron(_), Rule::Cron(then)) => {
                if let Some(key) = &then.spread {
                    return self.spread_by(key);
                }
            }
            _ => {
                let parts: Vec<Trigger> = settled.parts().into_iter().cloned().collect();
                let mut parts = parts.iter();
                return self.map_parts(|part| match parts.next() {
                    Some(then) => part.settled_like(then),
                    None => part,
                });
            }
        }
        self
    }

    /// Spreads a `~` that has no key yet by the id of the job, for ever.
    #[must_use]
    pub fn spread_by(mut self, key: &str) -> Self {
        if let Rule::Cron(cron) = &mut self.rule {
            // What was read once reads again.
            if cron.reading.has_spread
                && cron.spread.is_none()
                && let Ok(spread) = Cron::new(cron.written.clone(), cron.dst, Some(key.to_owned()))
            {
                **cron = spread;
            }
            return self;
        }
        self.map_parts(|part| part.spread_by(key))
    }
}

fn too_few(what: &str) -> Invalid {
    Invalid::new("trigger", what, "it needs at least two triggers")
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

fn instant(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

/// An instant in whole seconds, rounded up: half a second past nine is past nine.
fn seconds_up(at: DateTime<Utc>) -> i64 {
    at.timestamp() + i64::from(at.timestamp_subsec_nanos() > 0)
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

fn civil_is_sound(civil: &NaiveDateTime) -> bool {
    (sets::YEAR_MIN..=sets::YEAR_MAX).contains(&civil.year())
}

/// Fire times lie between 1970 and 2200.
fn clamp(instant: DateTime<Utc>) -> DateTime<Utc> {
    instant.clamp(earliest(), latest())
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
