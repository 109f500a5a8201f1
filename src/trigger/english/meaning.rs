//! What the phrases of a sentence mean together, or why they mean nothing.

use super::words::Period;
use super::{Said, TWO_TRIGGERS};
use crate::invalid::Invalid;
use crate::trigger::cron::Dialect;
use crate::trigger::field::{MONTHS, WEEKDAYS};
use crate::trigger::form::{Form, FormOrText, Kind};
use crate::trigger::sets::{has, span};
use chrono::{NaiveTime, Timelike};
use std::time::Duration;

impl Said<'_> {
    /// Puts together what was said.
    pub(super) fn form(self) -> Result<Form, Invalid> {
        let mut form = if self.date.is_some() {
            self.one_date()
        } else if self.units != [0; 4] || self.short != Duration::ZERO {
            self.interval()
        } else {
            self.cron()
        }?;
        form.timezone = self.zone.map(str::parse).transpose()?;
        Ok(form)
    }

    fn restricted(&self) -> bool {
        self.weekdays != 0 || self.months != 0 || !self.days.is_empty() || !self.nth_weekdays.is_empty()
    }

    fn one_date(&self) -> Result<Form, Invalid> {
        let interval = self.units != [0; 4] || self.short != Duration::ZERO || self.from.is_some();
        let repeats = self.restricted() || self.period.is_some() || interval || !self.minutes.is_empty();
        if repeats || self.times.len() > 1 || self.hours.is_some() {
            return Err(self.bad("a date does not repeat").hint("`at 2027-01-01 09:00`"));
        }
        let time = self.times.first().copied().unwrap_or_default();
        let at = self.date.map(|date| date.and_time(time).format("%Y-%m-%dT%H:%M:%S").to_string());
        Ok(Form { at, ..Form::new(Kind::Date) })
    }

    fn interval(&self) -> Result<Form, Invalid> {
        let [years, months, weeks, days] = self.units;
        if self.period.is_some() || !self.minutes.is_empty() {
            return Err(self.bad("it repeats in two ways").hint(TWO_TRIGGERS));
        }
        let calendar = !self.times.is_empty() || self.from.is_some();
        if calendar {
            if self.short != Duration::ZERO || self.restricted() || self.times.len() > 1 || self.hours.is_some() {
                return Err(self
                    .bad("years, months, weeks and days may have one time of day, and nothing else")
                    .hint("such as `every 2 weeks at 09:00 from 2027-01-04`, or a crontab line"));
            }
            let units = |count: u32| Some(count).filter(|count| *count > 0);
            return Ok(Form {
                years: units(years),
                months: units(months),
                weeks: units(weeks),
                days: units(days),
                at: Some(self.times.first().copied().unwrap_or_default().format("%H:%M:%S").to_string()),
                start_date: self.from,
                ..Form::new(Kind::CalendarInterval)
            });
        }
        if years + months > 0 {
            return Err(self
                .bad("months and years have no fixed length")
                .hint("say at what time: `every 1 month at 09:00`"));
        }
        let day = Duration::from_secs(86_400);
        let every = self.short + day * days + day * 7 * weeks;
        if !self.restricted() && self.hours.is_none() {
            return Ok(Form { every: Some(every), ..Form::new(Kind::Interval) });
        }
        self.restricted_interval(every)
    }

    /// `every 15 minutes on weekdays between 9 and 17`: only where the steps fill the hour or day.
    fn restricted_interval(&self, every: Duration) -> Result<Form, Invalid> {
        let seconds = every.as_secs();
        let whole = every.subsec_nanos() == 0;
        let step = |step: u64| if step == 1 { "*".to_owned() } else { format!("*/{step}") };
        let (second, minute, mut hour) = match seconds {
            1..60 if whole && 60 % seconds == 0 => (step(seconds), "*".to_owned(), "*".to_owned()),
            60..3600 if whole && 3600 % seconds == 0 && seconds.is_multiple_of(60) => {
                ("0".to_owned(), step(seconds / 60), "*".to_owned())
            }
            3600..86_400 if whole && 86_400 % seconds == 0 && seconds.is_multiple_of(3600) => {
                ("0".to_owned(), "0".to_owned(), step(seconds / 3600))
            }
            _ => {
                return Err(self
                    .bad("within some days or hours, the steps must fill the hour or the day evenly")
                    .hint("such as `every 15 minutes on weekdays`"));
            }
        };
        if let Some((from, to)) = self.hours {
            if seconds >= 3600 && seconds / 3600 > u64::from(to - from) {
                return Err(self.bad("the steps are longer than the hours between"));
            }
            hour = if hour == "*" { format!("{from}-{to}") } else { format!("{from}-{to}/{}", seconds / 3600) };
        }
        self.line(&second, &minute, &hour)
    }

    fn cron(&self) -> Result<Form, Invalid> {
        self.check_period()?;
        if let Some(every) = self.plain_period() {
            return Ok(Form { every: Some(every), ..Form::new(Kind::Interval) });
        }
        if !self.minutes.is_empty() {
            if !self.times.is_empty() || self.period != Some(Period::Hour) {
                return Err(self.bad("a minute needs `every hour`").hint("`every hour at :15`"));
            }
            let hour = self.hours.map_or("*".to_owned(), |(from, to)| format!("{from}-{to}"));
            let minutes: Vec<String> = self.minutes.iter().map(u32::to_string).collect();
            return self.line("0", &minutes.join(","), &hour);
        }
        let sub_day = match self.period {
            Some(Period::Second) => Some(Duration::from_secs(1)),
            Some(Period::Minute) => Some(Duration::from_secs(60)),
            Some(Period::Hour) => Some(Duration::from_secs(3600)),
            _ => None,
        };
        if let Some(every) = sub_day {
            if !self.times.is_empty() {
                return Err(self.bad("it repeats within the day, and has a time of day"));
            }
            return self.restricted_interval(every);
        }
        if self.times.is_empty() || self.hours.is_some() {
            return Err(self.bad("at what time is not said").hint("such as `at 09:00`, or `at midnight`"));
        }
        if self.period.is_none() && !self.restricted() {
            return Err(self
                .bad("on which days is not said")
                .hint("such as `every day at 9`, or `at 2027-01-01 09:00` for once"));
        }
        if self.from.is_some() {
            return Err(self
                .bad("`from` a date belongs to `every 2 days` and its like")
                .hint("`start 2027-01-01` begins at an instant"));
        }
        self.at_times()
    }

    /// `every hour`, without anything else, is an interval.
    fn plain_period(&self) -> Option<Duration> {
        let plain = !self.restricted() && self.times.is_empty() && self.hours.is_none() && self.minutes.is_empty();
        let seconds = match self.period.filter(|_| plain)? {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3600,
            _ => return None,
        };
        Some(Duration::from_secs(seconds))
    }

    /// A period must have the details that it needs, and none that contradict it.
    fn check_period(&self) -> Result<(), Invalid> {
        let by_month = !self.days.is_empty() || !self.nth_weekdays.is_empty();
        if self.weekdays != 0 && by_month {
            return Err(self
                .bad("days of the week and days of the month together could mean either or both")
                .hint("combine two triggers: `(A) or (B)`, `(A) and (B)`"));
        }
        let any_day = self.weekdays == 0 && !by_month;
        if self.months != 0 && any_day && self.period.is_none_or(|period| period as u8 > Period::Day as u8) {
            return Err(self
                .bad("on which days of the month is not said")
                .hint("such as `every day in march at 9`, or `on the 1st of march at 9`"));
        }
        match self.period {
            Some(Period::Day) if self.weekdays != 0 || by_month => {
                Err(self.bad("`every day` and certain days contradict each other"))
            }
            Some(Period::Week) if self.weekdays == 0 => Err(self
                .bad("on which day of the week is not said")
                .hint("such as `every week on monday at 9`, or `every 1 week at 9`")),
            Some(Period::Month) if !by_month => Err(self
                .bad("on which day of the month is not said")
                .hint("such as `on the 1st of each month at 9`, or `every 1 month at 9` from the day it is added")),
            Some(Period::Year) if !by_month || self.months == 0 => {
                Err(self.bad("on which day of the year is not said").hint("such as `every year on march 1 at 9`"))
            }
            _ => Ok(()),
        }
    }

    fn at_times(&self) -> Result<Form, Invalid> {
        let first = self.times[0];
        let like_first = |time: &NaiveTime| time.minute() == first.minute() && time.second() == first.second();
        if self.times.iter().all(like_first) {
            let hours: Vec<String> = self.times.iter().map(|time| time.hour().to_string()).collect();
            return self.line(&first.second().to_string(), &first.minute().to_string(), &hours.join(","));
        }
        let one = |time: &NaiveTime| {
            let [second, minute, hour] = [time.second(), time.minute(), time.hour()].map(|value| value.to_string());
            self.line(&second, &minute, &hour).map(|form| FormOrText::Form(Box::new(form)))
        };
        let triggers = self.times.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        Ok(Form { triggers: Some(triggers), ..Form::new(Kind::Or) })
    }

    fn line(&self, second: &str, minute: &str, hour: &str) -> Result<Form, Invalid> {
        let listed = |set: u64, names: &[&str], low: u32| {
            let named = (0..names.len() as u32).filter(|at| has(set, at + low));
            let named: Vec<&str> = named.map(|at| names[at as usize]).collect();
            if named.is_empty() { "*".to_owned() } else { named.join(",") }
        };
        let day = if self.days.is_empty() { "*".to_owned() } else { self.days.join(",") };
        let month = listed(self.months, &MONTHS, 1);
        let weekday = match () {
            () if self.weekdays == span(0, 4) => "mon-fri".to_owned(),
            () if !self.nth_weekdays.is_empty() => self.nth_weekdays.join(","),
            () => listed(self.weekdays, &WEEKDAYS, 0),
        };
        let second = if second == "0" { String::new() } else { format!("{second} ") };
        let expr = Some(format!("{second}{minute} {hour} {day} {month} {weekday}"));
        Ok(Form { expr, dialect: Some(Dialect::Crontab), ..Form::new(Kind::Cron) })
    }
}
