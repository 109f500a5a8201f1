//! Every so many years, months, weeks or days, at a time of day.

use super::cron::Dst;
use super::search::{SEARCH_STEPS_MAX, Steps};
use super::sets::{DAY, YEAR_MAX, date_of};
use super::zone::{Segment, Zone};
use crate::invalid::Invalid;
use chrono::{Datelike, Months, NaiveDate, NaiveTime, TimeDelta, Timelike};

/// Most years, months, weeks or days of one calendar interval.
pub const UNITS_MAX: u32 = 10_000;

/// A step through the calendar, from a start date on. Months and years keep the day of the month; a
/// day that does not exist is passed over (31 January, monthly: 31 January, 31 March, 31 May).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CalendarInterval {
    pub years: u32,
    pub months: u32,
    pub weeks: u32,
    pub days: u32,
    /// The time of day; whole seconds.
    pub at: NaiveTime,
    /// The first date. `None` until the job is added: then the day of that.
    pub start_date: Option<NaiveDate>,
    pub dst: Dst,
}

impl CalendarInterval {
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let units = [("years", self.years), ("months", self.months), ("weeks", self.weeks), ("days", self.days)];
        if let Some((name, count)) = units.iter().find(|(_, count)| *count > UNITS_MAX) {
            let reason = format!("it must be at most {UNITS_MAX} {name}");
            return Err(Invalid::new("calendar interval", count.to_string(), reason));
        }
        if units.iter().all(|(_, count)| *count == 0) {
            return Err(Invalid::new("calendar interval", "", "it must be at least one day")
                .hint("such as `every 1 month at 09:00`"));
        }
        match self.start_date {
            Some(date) if !(1970..=YEAR_MAX).contains(&date.year()) => {
                Err(Invalid::new("start date", date.to_string(), "it must lie between 1970 and 2200"))
            }
            _ => Ok(()),
        }
    }

    /// `1 year 2 months`
    pub(super) fn units_text(&self) -> String {
        let units = [("year", self.years), ("month", self.months), ("week", self.weeks), ("day", self.days)];
        let given = units.iter().filter(|(_, count)| *count > 0);
        let text = given.map(|(name, count)| format!("{count} {name}{}", if *count == 1 { "" } else { "s" }));
        text.collect::<Vec<_>>().join(" ")
    }

    /// The first fire time at or after `from`, both in seconds; `None` too if the steps are spent.
    pub(super) fn next(&self, zone: Zone, from: i64, steps: &mut Steps) -> Option<i64> {
        let today = date_of(zone.civil_seconds(from));
        // A gap can move a time to the next day, and none is longer than one.
        let mut bound = today - TimeDelta::days(2);
        loop {
            let date = self.first_from(self.start_date.unwrap_or(today), bound, steps)?;
            let civil = i64::from(date.to_epoch_days()) * DAY + i64::from(self.at.num_seconds_from_midnight());
            if let Some(instant) = instants(zone, self.dst, civil).into_iter().flatten().find(|at| *at >= from) {
                return Some(instant);
            }
            bound = date.succ_opt()?;
        }
    }

    /// Whether the series has this date.
    pub(super) fn has_date(&self, date: NaiveDate) -> bool {
        let mut steps = Steps::of(SEARCH_STEPS_MAX);
        self.start_date.is_some_and(|start| self.first_from(start, date, &mut steps) == Some(date))
    }

    /// The first date of the series on or after `bound`.
    fn first_from(&self, start: NaiveDate, bound: NaiveDate, steps: &mut Steps) -> Option<NaiveDate> {
        let months = self.years * 12 + self.months;
        let days = i64::from(self.weeks) * 7 + i64::from(self.days);
        let mut date = start;
        if bound <= start {
            return Some(start);
        }
        if months == 0 {
            let behind = (bound - start).num_days();
            date = start + TimeDelta::days((behind + days - 1) / days * days);
        } else if days == 0 {
            let between = (bound.year() - start.year()) * 12 + bound.month() as i32 - start.month() as i32;
            let mut step = between.unsigned_abs() / months;
            loop {
                date = step_months(start, step.checked_mul(months)?)?;
                // A day that does not exist is cut to the end of its month.
                if date.day() == start.day() && date >= bound {
                    break;
                }
                step += 1;
            }
        } else {
            while date < bound {
                let from = date;
                let mut step = months;
                loop {
                    steps.take()?;
                    date = step_months(from, step)?;
                    if date.day() == from.day() {
                        break;
                    }
                    step += months;
                }
                date += TimeDelta::days(days);
            }
        }
        (date.year() <= YEAR_MAX).then_some(date)
    }
}

fn step_months(date: NaiveDate, months: u32) -> Option<NaiveDate> {
    date.checked_add_months(Months::new(months)).filter(|date| date.year() <= YEAR_MAX)
}

/// The instants that a fixed civil time stands for.
pub(super) fn instants(zone: Zone, dst: Dst, civil: i64) -> [Option<i64>; 2] {
    let first = zone.first_instant(civil);
    let segment = zone.segment(first);
    let exists = first + segment.offset == civil;
    match dst {
        Dst::Once => [Some(first), None],
        Dst::Wall if !exists => [None, None],
        Dst::Shift if !exists => [Some(civil - segment.before), None],
        Dst::Wall | Dst::Shift => {
            let again = zone.segment(segment.end);
            let comes_again = |again: &Segment| (again.fold().0..again.fold().1).contains(&civil);
            [Some(first), Some(again).filter(comes_again).map(|again| civil - again.offset)]
        }
    }
}
