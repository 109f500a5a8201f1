//! The civil times that a cron trigger means, as bit sets, and the search for the next of them.
//!
//! A civil time is a number of seconds since 1970-01-01T00:00 by the clocks of some zone. Which
//! instants those are is no question here.

use chrono::{Datelike, NaiveDate, Weekday};

pub(super) const YEAR_MIN: i32 = 1970;
pub(super) const YEAR_MAX: i32 = 2200;
pub(super) const DAY: i64 = 86_400;

pub(super) const ALL_SECONDS: u64 = span(0, 59);
pub(super) const ALL_MINUTES: u64 = span(0, 59);
pub(super) const ALL_HOURS: u64 = span(0, 23);
pub(super) const ALL_DAYS: u64 = span(1, 31);
pub(super) const ALL_MONTHS: u64 = span(1, 12);
pub(super) const ALL_WEEKS: u64 = span(1, 53);
pub(super) const ALL_WEEKDAYS: u64 = span(0, 6);
pub(super) const ALL_YEARS: [u64; 4] = [u64::MAX, u64::MAX, u64::MAX, span(0, 38)];

/// A day that depends on the month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DayRule {
    /// `n` days before the last day of the month; 0 is the last day itself.
    BeforeLast(u32),
    /// The last day from Monday to Friday.
    LastWorkday,
    /// The day from Monday to Friday that is nearest to day n, within the month.
    NearestWorkday(u32),
    /// The n-th such weekday; 0 is Monday.
    Nth(u32, u32),
    LastWeekday(u32),
}

/// Which days match: by day of the month and by day of the week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Days {
    /// Bits 1–31.
    pub day: u64,
    pub day_rules: Vec<DayRule>,
    /// Bit 0 is Monday.
    pub weekday: u64,
    pub weekday_rules: Vec<DayRule>,
    /// ISO weeks, bits 1–53.
    pub week: u64,
    /// Crontab's rule: a day matches if its day of month or its day of week does.
    pub either: bool,
}

/// One bit for each value of each field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sets {
    pub second: u64,
    pub minute: u64,
    pub hour: u64,
    pub month: u64,
    /// Bit n is [`YEAR_MIN`] + n.
    pub year: [u64; 4],
    pub days: Days,
    /// What else a day must match, in the intersection of several triggers.
    pub also: Vec<Days>,
}

/// All bits from `low` to `high`.
pub(super) const fn span(low: u32, high: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

pub(super) const fn has(set: u64, value: u32) -> bool {
    set & (1 << value) != 0
}

/// The first value of the set from `from` on.
pub(super) fn next_bit(set: u64, from: u32) -> Option<u32> {
    let rest = set & u64::MAX.checked_shl(from).unwrap_or(0);
    (rest != 0).then(|| rest.trailing_zeros())
}

impl Days {
    pub const ALL: Days = Days {
        day: ALL_DAYS,
        day_rules: Vec::new(),
        weekday: ALL_WEEKDAYS,
        weekday_rules: Vec::new(),
        week: ALL_WEEKS,
        either: false,
    };

    /// Every day of the week matches.
    pub fn any_weekday(&self) -> bool {
        self.weekday == ALL_WEEKDAYS
    }

    /// Every day of the month matches.
    pub fn any_day(&self) -> bool {
        self.day == ALL_DAYS
    }

    /// The matching days of a month, bits 1–31.
    fn of(&self, month: Month) -> u64 {
        let by_day = self.day | month.rules(&self.day_rules);
        let by_weekday = if self.any_weekday() {
            ALL_DAYS
        } else {
            // Day 1 sits at bit 1; weekdays repeat every seven bits from there.
            let twice = self.weekday | self.weekday << 7;
            let week = (twice >> month.first_weekday & ALL_WEEKDAYS) << 1;
            week | week << 7 | week << 14 | week << 21 | week << 28 | month.rules(&self.weekday_rules)
        };
        let mut days = if self.either { by_day | by_weekday } else { by_day & by_weekday };
        days &= span(1, month.length);
        if self.week != ALL_WEEKS && days != 0 {
            days &= month.weeks(self.week);
        }
        days
    }
}

/// One month of the calendar, as far as days depend on it.
#[derive(Clone, Copy)]
struct Month {
    /// Its first day, in days since 1970-01-01.
    first: i64,
    /// 0 is Monday.
    first_weekday: u32,
    length: u32,
}

impl Month {
    fn new(year: i32, month: u32) -> Self {
        let first = days_since_1970(year, month);
        let length = match month {
            4 | 6 | 9 | 11 => 30,
            2 if is_leap(year) => 29,
            2 => 28,
            _ => 31,
        };
        // 1970-01-01 was a Thursday.
        Month { first, first_weekday: (first + 3).rem_euclid(7) as u32, length }
    }

    /// The first day that is this weekday.
    fn first_on(self, weekday: u32) -> u32 {
        1 + (weekday + 7 - self.first_weekday) % 7
    }

    fn weekday(self, day: u32) -> u32 {
        (self.first_weekday + day - 1) % 7
    }

    fn rules(self, rules: &[DayRule]) -> u64 {
        let day_of = |rule: &DayRule| match *rule {
            DayRule::BeforeLast(n) => self.length.saturating_sub(n),
            DayRule::LastWorkday => self.length - self.weekday(self.length).saturating_sub(4),
            DayRule::NearestWorkday(day) if day > self.length => 0,
            DayRule::NearestWorkday(day) => match self.weekday(day) {
                5 if day == 1 => 3,
                5 => day - 1,
                6 if day == self.length => day - 2,
                6 => day + 1,
                _ => day,
            },
            DayRule::Nth(n, weekday) => self.first_on(weekday) + 7 * (n - 1),
            DayRule::LastWeekday(weekday) => {
                let first = self.first_on(weekday);
                first + (self.length - first) / 7 * 7
            }
        };
        // Day 0 and days past the end of the month are masked by the caller.
        rules.iter().fold(0, |days, rule| days | 1 << day_of(rule))
    }

    /// The days that lie in these ISO weeks.
    fn weeks(self, weeks: u64) -> u64 {
        let mut days = 0;
        let mut from = 1;
        while from <= self.length {
            let until = (from + 6 - self.weekday(from)).min(self.length);
            let date = date_of((self.first + i64::from(from) - 1) * DAY);
            if has(weeks, date.iso_week().week()) {
                days |= span(from, until);
            }
            from = until + 1;
        }
        days
    }
}

impl Sets {
    pub const ALL: Sets = Sets {
        second: ALL_SECONDS,
        minute: ALL_MINUTES,
        hour: ALL_HOURS,
        month: ALL_MONTHS,
        year: ALL_YEARS,
        days: Days::ALL,
        also: Vec::new(),
    };

    /// The civil times that both match.
    pub fn intersect(mut self, other: &Sets) -> Sets {
        self.second &= other.second;
        self.minute &= other.minute;
        self.hour &= other.hour;
        self.month &= other.month;
        for (year, also) in self.year.iter_mut().zip(other.year) {
            *year &= also;
        }
        self.also.push(other.days.clone());
        self.also.extend(other.also.iter().cloned());
        self
    }

    /// The first matching civil time at or after `from`.
    ///
    /// Ends after 21 whole years at most: whether a year has a match depends on its first weekday,
    /// on whether it is a leap year and on whether the year before was.
    pub fn next_civil(&self, from: i64) -> Option<i64> {
        if self.second == 0 || self.minute == 0 || self.hour == 0 {
            return None;
        }
        let date = date_of(from);
        let (mut year, mut month, day) = (date.year(), date.month(), date.day());
        if self.has_year(year) && has(self.month, month) {
            let first = from.div_euclid(DAY) - i64::from(day) + 1;
            let days = self.days_of(year, month);
            if has(days, day)
                && let Some(time) = self.next_time(from.rem_euclid(DAY) as u32)
            {
                return Some(from.div_euclid(DAY) * DAY + i64::from(time));
            }
            if let Some(day) = next_bit(days, day + 1) {
                return Some((first + i64::from(day) - 1) * DAY + self.first_time());
            }
        }
        month += 1;
        let mut barren = 0u32;
        while year <= YEAR_MAX {
            let kind = 1 << kind(year);
            if self.has_year(year) && barren & kind == 0 {
                if let Some(found) = self.first_day(year, month) {
                    return Some(found * DAY + self.first_time());
                }
                if month == 1 {
                    barren |= kind;
                }
            }
            (year, month) = (year + 1, 1);
        }
        None
    }

    /// The end of the stretch of civil times around `at` in which every time of `of` matches here
    /// too; `at` itself is such a time. At most to the end of its month.
    pub fn covered_until(&self, of: &Sets, at: i64) -> i64 {
        let time = at.rem_euclid(DAY);
        if of.second & !self.second != 0 {
            return at + 1;
        }
        let minute = at - time % 60;
        if of.minute & !self.minute != 0 {
            return minute + 60;
        }
        let hour = at - time % 3600;
        if of.hour & !self.hour != 0 {
            return hour + 3600;
        }
        let date = date_of(at);
        let days = self.days_of(date.year(), date.month());
        let open = next_bit(!days, date.day()).unwrap_or(32);
        at - time + i64::from(open.min(32) - date.day()) * DAY
    }

    /// The first matching day of a year from a month on, in days since 1970-01-01.
    fn first_day(&self, year: i32, mut month: u32) -> Option<i64> {
        while let Some(found) = next_bit(self.month, month) {
            let days = self.days_of(year, found);
            if days != 0 {
                return Some(days_since_1970(year, found) + i64::from(days.trailing_zeros()) - 1);
            }
            month = found + 1;
        }
        None
    }

    fn days_of(&self, year: i32, month: u32) -> u64 {
        let month = Month::new(year, month);
        self.also.iter().fold(self.days.of(month), |days, also| days & also.of(month))
    }

    fn has_year(&self, year: i32) -> bool {
        let bit = (year - YEAR_MIN) as usize;
        (YEAR_MIN..=YEAR_MAX).contains(&year) && has(self.year[bit / 64], (bit % 64) as u32)
    }

    /// The earliest time of a day, in seconds.
    fn first_time(&self) -> i64 {
        let [hour, minute, second] = [self.hour, self.minute, self.second].map(u64::trailing_zeros);
        i64::from(hour * 3600 + minute * 60 + second)
    }

    /// The first time of a day at or after `from`, both in seconds.
    fn next_time(&self, from: u32) -> Option<u32> {
        let (first_minute, first_second) = (self.minute.trailing_zeros(), self.second.trailing_zeros());
        let hour = next_bit(self.hour, from / 3600)?;
        if hour > from / 3600 {
            return Some(hour * 3600 + first_minute * 60 + first_second);
        }
        let now = from / 60 % 60;
        if let Some(minute) = next_bit(self.minute, now) {
            if minute > now {
                return Some(hour * 3600 + minute * 60 + first_second);
            }
            if let Some(second) = next_bit(self.second, from % 60) {
                return Some(hour * 3600 + minute * 60 + second);
            }
            if let Some(minute) = next_bit(self.minute, now + 1) {
                return Some(hour * 3600 + minute * 60 + first_second);
            }
        }
        next_bit(self.hour, hour + 1).map(|hour| hour * 3600 + first_minute * 60 + first_second)
    }
}

/// Years of one kind have the same calendar, ISO weeks included.
fn kind(year: i32) -> u32 {
    let weekday = (days_since_1970(year, 1) + 3).rem_euclid(7) as u32;
    weekday * 3 + if is_leap(year) { 2 } else { u32::from(is_leap(year - 1)) }
}

fn is_leap(year: i32) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// The first day of a month, in days since 1970-01-01.
fn days_since_1970(year: i32, month: u32) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let years = i64::from(year - 1);
    let leap_day = i64::from(month > 2 && is_leap(year));
    years * 365 + years / 4 - years / 100 + years / 400 - 719_162 + BEFORE[month as usize - 1] + leap_day
}

/// The date of a civil time.
pub(super) fn date_of(civil: i64) -> NaiveDate {
    let days = i32::try_from(civil.div_euclid(DAY)).unwrap_or(i32::MAX / 2);
    NaiveDate::from_epoch_days(days).unwrap_or(NaiveDate::MAX)
}

/// A weekday by its number; 0 is Monday.
pub(super) fn weekday(number: u32) -> Weekday {
    Weekday::try_from(number as u8).unwrap_or(Weekday::Mon)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_where_the_calendar_says() {
        for year in YEAR_MIN - 1..=YEAR_MAX + 1 {
            for month in 1..=12 {
                let first = NaiveDate::from_ymd_opt(year, month, 1).unwrap();
                let ours = Month::new(year, month);
                assert_eq!(ours.first, i64::from(first.to_epoch_days()), "{first}");
                assert_eq!(ours.first_weekday, first.weekday().num_days_from_monday(), "{first}");
                assert_eq!(ours.length, u32::from(first.num_days_in_month()), "{first}");
                for day in 1..=ours.length {
                    let week = first.with_day(day).unwrap().iso_week().week();
                    assert!(has(ours.weeks(1 << week), day), "{first} {day}");
                    assert!(!has(ours.weeks(ALL_WEEKS & !(1 << week)), day), "{first} {day}");
                }
            }
        }
    }

    #[test]
    fn years_of_one_kind_have_one_calendar() {
        let calendar = |year| {
            let first = NaiveDate::from_ymd_opt(year, 1, 1).unwrap();
            first
                .iter_days()
                .take_while(|day| day.year() == year)
                .map(|day| (day.month(), day.iso_week().week(), day.weekday()))
                .collect::<Vec<_>>()
        };
        let mut seen = std::collections::BTreeMap::new();
        for year in YEAR_MIN..=YEAR_MAX {
            assert_eq!(seen.entry(kind(year)).or_insert_with(|| calendar(year)), &calendar(year), "{year}");
        }
    }

    #[test]
    fn workdays_stay_within_their_month() {
        // August 2026 begins on a Saturday and ends on a Monday; May 2026 ends on a Sunday.
        let august = Month::new(2026, 8);
        assert_eq!(august.rules(&[DayRule::NearestWorkday(1)]), 1 << 3);
        assert_eq!(august.rules(&[DayRule::NearestWorkday(15)]), 1 << 14);
        assert_eq!(august.rules(&[DayRule::NearestWorkday(16)]), 1 << 17);
        assert_eq!(august.rules(&[DayRule::LastWorkday]), 1 << 31);
        let may = Month::new(2026, 5);
        assert_eq!(may.rules(&[DayRule::NearestWorkday(31), DayRule::LastWorkday]), 1 << 29);
        assert_eq!(may.rules(&[DayRule::BeforeLast(0), DayRule::BeforeLast(3)]), 1 << 31 | 1 << 28);
        assert_eq!(may.rules(&[DayRule::LastWeekday(6), DayRule::Nth(1, 4)]), 1 << 31 | 1 << 1);
    }
}
