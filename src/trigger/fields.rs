//! The parts of a cron trigger as bit sets, and the text of one field.

use crate::invalid::Invalid;
use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Weekday};

pub(super) const YEAR_MIN: i32 = 1970;
pub(super) const YEAR_MAX: i32 = 2200;

/// A day of the month that depends on the month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DayRule {
    Last,
    Nth(u32, Weekday),
    LastWeekday(Weekday),
}

/// The civil times that match: one bit for each value of each field.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sets {
    pub second: u64,
    pub minute: u64,
    pub hour: u64,
    /// Bits 1–31.
    pub day: u64,
    pub day_rules: Vec<DayRule>,
    pub month: u64,
    /// ISO weeks, bits 1–53.
    pub week: u64,
    /// Bit 0 is Monday.
    pub day_of_week: u64,
    /// Bit n is [`YEAR_MIN`] + n.
    pub year: [u64; 4],
    /// Crontab's rule: a day matches if its day of month or its day of week does.
    pub either_day: bool,
}

/// All bits from `low` to `high`.
pub(super) const fn span(low: u32, high: u32) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

fn next_bit(set: u64, from: u32) -> Option<u32> {
    if from > 63 {
        return None;
    }
    let rest = set & (u64::MAX << from);
    (rest != 0).then(|| rest.trailing_zeros())
}

impl Sets {
    pub fn all() -> Self {
        Sets {
            second: span(0, 59),
            minute: span(0, 59),
            hour: span(0, 23),
            day: span(1, 31),
            day_rules: Vec::new(),
            month: span(1, 12),
            week: span(1, 53),
            day_of_week: span(0, 6),
            year: [u64::MAX; 4],
            either_day: false,
        }
    }

    /// The first matching civil time at or after `from`. At most one step for each month to the
    /// end of [`YEAR_MAX`].
    pub fn next_civil(&self, from: NaiveDateTime) -> Option<NaiveDateTime> {
        let (mut year, mut month, mut day) = (from.year(), from.month(), from.day());
        let mut first_time = Some(from.time());
        while year <= YEAR_MAX {
            if !self.has_year(year) {
                (year, month, day, first_time) = (year + 1, 1, 1, None);
                continue;
            }
            let Some(found) = next_bit(self.month, month) else {
                (year, month, day, first_time) = (year + 1, 1, 1, None);
                continue;
            };
            if found != month {
                (month, day, first_time) = (found, 1, None);
            }
            let days = self.days_of(year, month);
            while let Some(found) = next_bit(days, day) {
                let start = first_time.take().filter(|_| found == day).unwrap_or(NaiveTime::MIN);
                if let Some(time) = self.next_time(start) {
                    return NaiveDate::from_ymd_opt(year, month, found).map(|date| date.and_time(time));
                }
                day = found + 1;
            }
            (month, day, first_time) = (month + 1, 1, None);
        }
        None
    }

    fn has_year(&self, year: i32) -> bool {
        let bit = (year - YEAR_MIN) as usize;
        year >= YEAR_MIN && self.year[bit / 64] & (1 << (bit % 64)) != 0
    }

    fn next_time(&self, from: NaiveTime) -> Option<NaiveTime> {
        let hour = next_bit(self.hour, from.hour())?;
        if hour == from.hour() {
            if let Some(minute) = next_bit(self.minute, from.minute()) {
                let second = if minute == from.minute() { from.second() } else { 0 };
                if let Some(second) = next_bit(self.second, second) {
                    return NaiveTime::from_hms_opt(hour, minute, second);
                }
                if let Some(minute) = next_bit(self.minute, from.minute() + 1) {
                    return NaiveTime::from_hms_opt(hour, minute, self.second.trailing_zeros());
                }
            }
            let hour = next_bit(self.hour, hour + 1)?;
            return NaiveTime::from_hms_opt(hour, self.minute.trailing_zeros(), self.second.trailing_zeros());
        }
        NaiveTime::from_hms_opt(hour, self.minute.trailing_zeros(), self.second.trailing_zeros())
    }

    /// The matching days of one month, bits 1–31.
    fn days_of(&self, year: i32, month: u32) -> u64 {
        let Some(first) = NaiveDate::from_ymd_opt(year, month, 1) else { return 0 };
        let length = u32::from(first.num_days_in_month());
        let first_weekday = first.weekday().num_days_from_monday();
        let mut by_day = self.day;
        for rule in &self.day_rules {
            by_day |= match *rule {
                DayRule::Last => 1 << length,
                DayRule::Nth(n, weekday) => 1 << (first_on(first_weekday, weekday) + 7 * (n - 1)),
                DayRule::LastWeekday(weekday) => {
                    let first = first_on(first_weekday, weekday);
                    1 << (first + (length - first) / 7 * 7)
                }
            };
        }
        // Day 1 sits at bit 1; weekdays repeat every seven bits from there.
        let one_week =
            (0..7).fold(0u64, |week, n| week | (((self.day_of_week >> ((first_weekday + n) % 7)) & 1) << (n + 1)));
        let by_weekday = one_week | one_week << 7 | one_week << 14 | one_week << 21 | one_week << 28;
        let mut days = if self.either_day { by_day | by_weekday } else { by_day & by_weekday };
        days &= span(1, length);
        if self.week != span(1, 53) {
            for day in 1..=length {
                let week = first.with_day(day).map_or(0, |date| date.iso_week().week());
                if self.week & (1 << week) == 0 {
                    days &= !(1 << day);
                }
            }
        }
        days
    }
}

/// The first day of a month that is `weekday`.
fn first_on(first_weekday: u32, weekday: Weekday) -> u32 {
    1 + (weekday.num_days_from_monday() + 7 - first_weekday) % 7
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What one field may say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub name: &'static str,
    pub low: u32,
    pub high: u32,
    names: &'static [&'static str],
    /// Crontab's weekdays: 0 and 7 are Sunday, and a range may run past the end of the week.
    sunday_first: bool,
}

const fn field(name: &'static str, low: u32, high: u32) -> Field {
    Field { name, low, high, names: &[], sunday_first: false }
}

pub(super) const SECOND: Field = field("second", 0, 59);
pub(super) const MINUTE: Field = field("minute", 0, 59);
pub(super) const HOUR: Field = field("hour", 0, 23);
pub(super) const DAY: Field = field("day", 1, 31);
pub(super) const MONTH: Field = Field { names: MONTHS, ..field("month", 1, 12) };
pub(super) const WEEK: Field = field("week", 1, 53);
pub(super) const YEAR: Field = field("year", YEAR_MIN as u32, YEAR_MAX as u32);
/// Monday is 0, as in APScheduler.
pub(super) const DAY_OF_WEEK: Field = Field { names: WEEKDAYS, ..field("day_of_week", 0, 6) };
/// Sunday is 0 and 7, as in crontab.
pub(super) const CRONTAB_DAY_OF_WEEK: Field =
    Field { names: WEEKDAYS, sunday_first: true, ..field("day_of_week", 0, 7) };

/// One parsed field.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parsed {
    pub values: Vec<u32>,
    pub rules: Vec<DayRule>,
    /// It begins with `*`: crontab does not count it as restricting the day.
    pub star: bool,
    /// It consists of plain values: no `*`, range or step.
    pub explicit: bool,
}

impl Parsed {
    pub fn bits(&self) -> u64 {
        self.values.iter().fold(0, |set, value| set | 1 << value)
    }

    pub fn years(&self) -> [u64; 4] {
        let mut set = [0; 4];
        for value in &self.values {
            let bit = *value as usize - YEAR_MIN as usize;
            set[bit / 64] |= 1 << (bit % 64);
        }
        set
    }
}

impl Field {
    pub fn parse(&self, text: &str) -> Result<Parsed, Invalid> {
        let mut parsed = Parsed {
            values: Vec::new(),
            rules: Vec::new(),
            star: text.starts_with('*') || text == "?",
            explicit: true,
        };
        if text == "?" && matches!(self.name, "day" | "day_of_week") {
            return self.parse("*");
        }
        for item in text.split(',') {
            self.parse_item(item.trim(), &mut parsed).map_err(|reason| {
                Invalid::new(format!("cron field `{}`", self.name), text, reason).hint(self.shape())
            })?;
        }
        Ok(parsed)
    }

    fn shape(&self) -> String {
        let names = self.names.first().zip(self.names.last());
        let names = names.map_or(String::new(), |(a, b)| format!(", names {a} to {b}"));
        format!("{} to {}{names}, as `*`, `*/n`, `a`, `a-b`, `a-b/n`, `a/n`, or a list", self.low, self.high)
    }

    fn parse_item(&self, item: &str, parsed: &mut Parsed) -> Result<(), String> {
        if item.is_empty() {
            return Err("an item of the list is empty".into());
        }
        if self.name == "day" && self.parse_day_rule(item, parsed)? {
            return Ok(());
        }
        let (range, step) = match item.split_once('/') {
            None => (item, None),
            Some((range, step)) => (range, Some(number(step)?)),
        };
        let (low, high) = if range == "*" {
            (self.low, if self.sunday_first { 6 } else { self.high })
        } else if let Some((low, high)) = range.split_once('-') {
            self.ends(low, high)?
        } else {
            let value = self.value(range)?;
            (value, if step.is_some() { self.high } else { value })
        };
        if low > high {
            return Err(format!("`{range}` runs backwards"));
        }
        let step = match step {
            None => 1,
            Some(0) => return Err("a step of 0 goes nowhere".into()),
            Some(step) if step > high - low && !self.sunday_first => {
                return Err(format!("step {step} is longer than the range"));
            }
            Some(step) => step,
        };
        parsed.explicit &= item.split_once('/').is_none() && low == high && range != "*";
        for value in (low..=high).step_by(step as usize) {
            parsed.values.push(if self.sunday_first { (value + 6) % 7 } else { value });
        }
        Ok(())
    }

    /// Both ends of a range. In crontab `fri-mon` and `sat-sun` run over the end of the week.
    fn ends(&self, low: &str, high: &str) -> Result<(u32, u32), String> {
        let (low, high) = (self.value(low)?, self.value(high)?);
        if self.sunday_first && low > high { Ok((low, high + 7)) } else { Ok((low, high)) }
    }

    fn value(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        if let Some(at) = named {
            let value = at as u32 + if self.name == "month" { 1 } else { 0 };
            return Ok(if self.sunday_first { (value + 1) % 7 } else { value });
        }
        let value = number(text)?;
        if value < self.low || value > self.high {
            return Err(format!("{value} is outside {} to {}", self.low, self.high));
        }
        Ok(value)
    }

    /// `last`, `3rd fri`, `last sun`. True if the item was one.
    fn parse_day_rule(&self, item: &str, parsed: &mut Parsed) -> Result<bool, String> {
        let mut words = item.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or(""), words.next());
        let nth = ["1st", "2nd", "3rd", "4th", "5th"].iter().position(|n| n.eq_ignore_ascii_case(first));
        let last = first.eq_ignore_ascii_case("last");
        let rule = match (nth, last, second) {
            (None, false, _) => return Ok(false),
            (_, true, None) => DayRule::Last,
            (Some(_), _, None) => return Err(format!("`{item}` lacks a weekday")),
            (nth, _, Some(weekday)) => {
                let weekday = WEEKDAYS.iter().position(|name| name.eq_ignore_ascii_case(weekday));
                let weekday = weekday.and_then(|at| Weekday::try_from(at as u8).ok());
                let weekday = weekday.ok_or_else(|| format!("`{item}` has no weekday from mon to sun"))?;
                nth.map_or(DayRule::LastWeekday(weekday), |n| DayRule::Nth(n as u32 + 1, weekday))
            }
        };
        if words.next().is_some() {
            return Err(format!("`{item}` goes on after the weekday"));
        }
        parsed.rules.push(rule);
        parsed.explicit = false;
        Ok(true)
    }
}

/// Digits and nothing else: `parse` alone would take a plus sign.
fn number(text: &str) -> Result<u32, String> {
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{}` is not a value", crate::invalid::printable(text, 20)));
    }
    text.parse().map_err(|_| format!("`{text}` is not a value"))
}
