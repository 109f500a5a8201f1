//! Plain English: a small grammar of phrases that can mean one thing only. What it does not know, or
//! what could mean two things, is refused with what to say instead; what it understood is echoed in
//! the normal form.
//!
//! This file reads the phrases; `meaning` puts together what they said.

mod meaning;

use crate::invalid::Invalid;
use crate::trigger::field::{MONTHS, WEEKDAYS};
use crate::trigger::form::{Form, Kind};
use crate::trigger::instant::{parse_date, parse_duration, parse_time_of_day};
use crate::trigger::sets::span;
use chrono::{NaiveDate, NaiveTime, Timelike};
use std::time::Duration;

pub(in crate::trigger) const EXAMPLES: &str = "such as `every day at 9`, `every 15 minutes`, `on the last friday of each month at 17:00`, `at 2027-01-01 09:00 in Europe/Berlin`, or a crontab line";

/// Times of day in one sentence.
const TIMES_MAX: usize = 8;

const ORDINALS: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];

/// What the words said, before it is put together.
#[derive(Default)]
struct Said<'a> {
    words: &'a [&'a str],
    at: usize,
    /// Years, months, weeks, days with a number: `every 2 weeks`.
    units: [u32; 4],
    /// Hours, minutes and seconds with a number.
    short: Duration,
    /// `every month`, `yearly`: a unit without a number.
    period: Option<Period>,
    /// Bit 0 is Monday.
    weekdays: u64,
    months: u64,
    /// Items of a crontab line's day field, and of its weekday field.
    days: Vec<String>,
    nth_weekdays: Vec<String>,
    times: Vec<NaiveTime>,
    /// `between 9 and 17`
    hours: Option<(u32, u32)>,
    minute: Option<u32>,
    date: Option<NaiveDate>,
    from: Option<NaiveDate>,
    zone: Option<&'a str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Period {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// Reads a sentence.
pub(in crate::trigger) fn parse(words: &[&str]) -> Result<Form, Invalid> {
    // A list may have commas with or without spaces.
    let text = words.join(" ").replace(',', " , ").to_ascii_lowercase();
    let lower: Vec<&str> = text.split_ascii_whitespace().collect();
    // An instant or a zone keeps its case and needs no grammar.
    if let ["at", instant @ ..] = words
        && let [first, ..] = instant
        && first.contains('T')
        && parse_date(first.get(..10).unwrap_or_default()).is_some()
    {
        return instant_form(instant);
    }
    let mut said = Said { words: &lower, ..Said::default() };
    while said.at < said.words.len() {
        said.phrase()?;
    }
    said.form()
}

fn instant_form(words: &[&str]) -> Result<Form, Invalid> {
    let (at, zone) = match words {
        [at] => (at, None),
        [at, zone] => (at, Some(zone.parse()?)),
        _ => return Err(Invalid::new("trigger", words.join(" "), "only a time zone may follow an instant")),
    };
    Ok(Form { at: Some((*at).to_owned()), timezone: zone, ..Form::new(Kind::Date) })
}

impl<'a> Said<'a> {
    fn bad(&self, reason: impl Into<String>) -> Invalid {
        Invalid::new("trigger", self.words.join(" "), reason)
    }

    fn peek(&self) -> &'a str {
        self.words.get(self.at).copied().unwrap_or("")
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.at += 1;
        word
    }

    fn take(&mut self, words: &[&str]) -> bool {
        let found = words.contains(&self.peek());
        self.at += usize::from(found);
        found
    }

    fn phrase(&mut self) -> Result<(), Invalid> {
        let word = self.next();
        match word {
            "every" | "each" => self.every(),
            "on" | "the" | "of" | "in" | "," | "and" => Ok(()),
            "at" => self.at_phrase(),
            "noon" | "midnight" => {
                self.at -= 1;
                self.clock_times()
            }
            "between" => self.between(),
            "from" | "starting" => {
                let word = self.next();
                let date = parse_date(word)
                    .ok_or_else(|| self.bad(format!("`{word}` is no date")).hint("as `from 2027-01-31`"))?;
                self.from = Some(date);
                Ok(())
            }
            "minutely" => self.period(Period::Minute),
            "hourly" => self.period(Period::Hour),
            "daily" => self.period(Period::Day),
            "weekly" => self.period(Period::Week),
            "monthly" => self.period(Period::Month),
            "yearly" | "annually" => self.period(Period::Year),
            "weekday" | "weekdays" | "workday" | "workdays" => {
                self.weekdays |= span(0, 4);
                Ok(())
            }
            "weekend" | "weekends" => {
                self.weekdays |= span(5, 6);
                Ok(())
            }
            "last" => self.ordinals(word),
            "utc" => self.zone("UTC"),
            "week" | "month" | "year" => period(word).map_or(Ok(()), |period| self.period(period)),
            word if word.contains('/') => self.zone(word),
            word => {
                if let Some(weekday) = weekday(word) {
                    return self.weekday_range(weekday);
                }
                if let Some(month) = month(word) {
                    return self.month_phrase(month);
                }
                if ordinal(word).is_some() {
                    return self.ordinals(word);
                }
                if let Some(day @ 1..=31) = word.parse::<u32>().ok().filter(|_| month(self.peek()).is_some()) {
                    self.days.push(day.to_string());
                    return Ok(());
                }
                Err(self.bad(format!("`{word}` is not understood")).hint(EXAMPLES))
            }
        }
    }

    /// What may follow `every`.
    fn every(&mut self) -> Result<(), Invalid> {
        let word = self.peek();
        let following = self.words.get(self.at + 1).copied().unwrap_or("");
        let skips =
            ordinal(word).is_some() && period(following).is_some_and(|period| period as u8 >= Period::Day as u8);
        if word == "other" || skips {
            return Err(self.bad("from when on is not said").hint("such as `every 2 days at 09:00 from 2027-01-01`"));
        }
        if let Some(period) = period(word) {
            self.at += 1;
            return self.period(period);
        }
        let mut any = false;
        while self.peek().starts_with(|c: char| c.is_ascii_digit()) && ordinal(self.peek()).is_none() {
            self.amount()?;
            self.take(&[",", "and"]);
            any = true;
        }
        if any || !word.is_empty() { Ok(()) } else { Err(self.bad("every what?").hint(EXAMPLES)) }
    }

    /// `15 minutes`, `90s`, `1h30m`, `2 months`.
    fn amount(&mut self) -> Result<(), Invalid> {
        let word = self.next();
        if let Ok(count) = word.parse::<u32>() {
            let unit = self.next();
            let Some(unit) = period(unit) else {
                return Err(self.bad(format!("`{count}` of what?")).hint("such as `every 15 minutes`"));
            };
            if count == 0 {
                return Err(self.bad("every 0 is never"));
            }
            let seconds = match unit {
                Period::Year => return self.unit(0, count),
                Period::Month => return self.unit(1, count),
                Period::Week => return self.unit(2, count),
                Period::Day => return self.unit(3, count),
                Period::Hour => 3600,
                Period::Minute => 60,
                Period::Second => 1,
            };
            self.short += Duration::from_secs(seconds) * count;
            return Ok(());
        }
        // As the text form prints it.
        if let Some((count, unit)) =
            word.strip_suffix(['w', 'd']).and_then(|count| Some((count.parse::<u32>().ok()?, word)))
        {
            return self.unit(if unit.ends_with('w') { 2 } else { 3 }, count);
        }
        self.short += parse_duration(word)?;
        Ok(())
    }

    fn unit(&mut self, at: usize, count: u32) -> Result<(), Invalid> {
        self.units[at] = self.units[at].checked_add(count).ok_or_else(|| self.bad("it is too long"))?;
        Ok(())
    }

    fn period(&mut self, period: Period) -> Result<(), Invalid> {
        // `on the 1st of every month of the year`: the longest one counts.
        let longer = self.period.map_or(period, |before| if (period as u8) > before as u8 { period } else { before });
        self.period = Some(longer);
        Ok(())
    }

    fn zone(&mut self, zone: &'a str) -> Result<(), Invalid> {
        match self.zone.replace(zone) {
            None => Ok(()),
            Some(_) => Err(self.bad("two time zones are given")),
        }
    }

    fn at_phrase(&mut self) -> Result<(), Invalid> {
        if let Some(date) = parse_date(self.peek()) {
            self.at += 1;
            self.date = Some(date);
            if self.peek().starts_with(|c: char| c.is_ascii_digit()) {
                return self.clock_times();
            }
            return Ok(());
        }
        if self.peek().matches('-').count() == 2 {
            let reason = format!("`{}` is no date between 1970 and 2200", self.peek());
            return Err(self.bad(reason).hint("such as `2027-01-31`"));
        }
        if self.take(&["minute"]) {
            let word = self.next();
            return self.minute(word);
        }
        if let Some(minute) = self.peek().strip_prefix(':') {
            self.at += 1;
            return self.minute(minute);
        }
        self.clock_times()
    }

    fn minute(&mut self, word: &str) -> Result<(), Invalid> {
        match word.parse::<u32>() {
            Ok(minute @ 0..=59) => {
                self.minute = Some(minute);
                Ok(())
            }
            _ => Err(self.bad(format!("`{word}` is no minute"))),
        }
    }

    /// `9`, `9 am`, `9:30 and 17:30`, `noon`.
    fn clock_times(&mut self) -> Result<(), Invalid> {
        loop {
            let time = self.clock_time()?;
            self.times.push(time);
            if self.times.len() > TIMES_MAX {
                return Err(self.bad(format!("it has more than {TIMES_MAX} times of day")));
            }
            let mark = self.at;
            let more = self.take(&["and", ","]) && {
                self.take(&["and"]);
                self.take(&["at"]);
                true
            };
            if !more
                || !(self.peek().starts_with(|c: char| c.is_ascii_digit()) && ordinal(self.peek()).is_none()
                    || matches!(self.peek(), "noon" | "midnight"))
            {
                self.at = mark;
                return Ok(());
            }
        }
    }

    fn clock_time(&mut self) -> Result<NaiveTime, Invalid> {
        let word = self.next();
        let named = match word {
            "noon" => Some(12),
            "midnight" => Some(0),
            _ => None,
        };
        if let Some(hour) = named {
            return Ok(NaiveTime::from_hms_opt(hour, 0, 0).unwrap_or_default());
        }
        let bad = |said: &Self| {
            said.bad(format!("`{word}` is no time of day")).hint("such as `9`, `9:30`, `5pm`, `17:00`, `noon`")
        };
        let half = match self.peek() {
            half @ ("am" | "pm") => {
                self.at += 1;
                Some(half)
            }
            _ => None,
        };
        let (digits, half) = match (word.strip_suffix("am"), word.strip_suffix("pm")) {
            (Some(digits), _) => (digits, Some("am")),
            (_, Some(digits)) => (digits, Some("pm")),
            _ => (word, half),
        };
        let text = if digits.contains(':') { digits.to_owned() } else { format!("{digits}:00") };
        let time = parse_time_of_day(&text).ok_or_else(|| bad(self))?;
        match half {
            None => Ok(time),
            Some(_) if !(1..=12).contains(&time.hour()) => Err(bad(self)),
            Some(half) => {
                let hour = time.hour() % 12 + if half == "pm" { 12 } else { 0 };
                time.with_hour(hour).ok_or_else(|| bad(self))
            }
        }
    }

    /// `between 9 and 17`: from 9:00 on, before 17:00.
    fn between(&mut self) -> Result<(), Invalid> {
        let from = self.clock_time()?;
        if !self.take(&["and", "to"]) {
            return Err(self.bad("`between` lacks its second hour").hint("such as `between 9 and 17`"));
        }
        let to = self.clock_time()?;
        let whole = |time: NaiveTime| time.minute() == 0 && time.second() == 0;
        let to_hour = if to == NaiveTime::MIN { 24 } else { to.hour() };
        if !whole(from) || !whole(to) || from.hour() >= to_hour {
            return Err(self.bad("`between` takes two whole hours, the earlier one first"));
        }
        self.hours = Some((from.hour(), to_hour - 1));
        Ok(())
    }

    /// `monday`, `monday to friday`, `mon-fri`.
    fn weekday_range(&mut self, first: (u32, u32)) -> Result<(), Invalid> {
        let (from, mut to) = first;
        if self.take(&["to", "through", "-"]) {
            let word = self.next();
            to = weekday(word).ok_or_else(|| self.bad(format!("`{word}` is no weekday")))?.1;
        }
        for day in from..=if to < from { to + 7 } else { to } {
            self.weekdays |= 1 << (day % 7);
        }
        Ok(())
    }

    /// `march`, `march 15`, `march 15th`.
    fn month_phrase(&mut self, month: u32) -> Result<(), Invalid> {
        self.months |= 1 << month;
        let plain = self.peek().parse::<u32>().ok().filter(|day| (1..=31).contains(day));
        if let Some(day) = plain {
            self.at += 1;
            self.days.push(day.to_string());
        }
        Ok(())
    }

    /// `1st and 15th`, `last day`, `first and third monday`, `last weekday`.
    fn ordinals(&mut self, first: &str) -> Result<(), Invalid> {
        let mut words = vec![first];
        loop {
            let mark = self.at;
            self.take(&[","]);
            self.take(&["and"]);
            self.take(&["the"]);
            let next = self.peek();
            if self.at == mark || !(next == "last" || ordinal(next).is_some()) {
                self.at = mark;
                break;
            }
            words.push(self.next());
        }
        let noun = self.peek();
        for word in words {
            let number = ordinal(word);
            if let Some((day, _)) = weekday(noun) {
                let name = WEEKDAYS[day as usize];
                self.nth_weekdays.push(match number {
                    None => format!("{name}L"),
                    Some(nth @ 1..=5) => format!("{name}#{nth}"),
                    Some(nth) => return Err(self.bad(format!("no month has {nth} {name}s"))),
                });
            } else if matches!(noun, "weekday" | "workday") {
                self.days.push(match number {
                    None => "LW".to_owned(),
                    Some(1) => "1W".to_owned(),
                    Some(_) => return Err(self.bad("only the first and the last workday of a month can be told")),
                });
            } else {
                self.days.push(number.map_or_else(|| "L".to_owned(), |day| day.to_string()));
            }
        }
        let has_noun = weekday(noun).is_some() || matches!(noun, "weekday" | "workday" | "day" | "days");
        self.at += usize::from(has_noun);
        if !has_noun && first == "last" {
            return Err(self.bad("the last what?").hint("`the last day`, `the last friday`, `the last weekday`"));
        }
        Ok(())
    }
}

/// A unit of time by its name, in singular or plural.
fn period(word: &str) -> Option<Period> {
    Some(match word {
        "second" | "seconds" | "sec" | "secs" => Period::Second,
        "minute" | "minutes" | "min" | "mins" => Period::Minute,
        "hour" | "hours" => Period::Hour,
        "day" | "days" => Period::Day,
        "week" | "weeks" => Period::Week,
        "month" | "months" => Period::Month,
        "year" | "years" => Period::Year,
        _ => return None,
    })
}

/// A weekday, or a range such as `mon-fri`; 0 is Monday.
fn weekday(word: &str) -> Option<(u32, u32)> {
    const FULL: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let one = |word: &str| {
        let singular = word.strip_suffix('s').unwrap_or(word);
        let at = |names: &[&str; 7], word: &str| names.iter().position(|name| *name == word);
        let at = at(&FULL, word).or(at(&FULL, singular)).or(at(&WEEKDAYS, word));
        at.map(|at| at as u32)
    };
    match word.split_once('-') {
        Some((from, to)) => Some((one(from)?, one(to)?)),
        None => one(word).map(|day| (day, day)),
    }
}

/// A month from 1.
fn month(word: &str) -> Option<u32> {
    const FULL: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let at = FULL.iter().position(|name| *name == word).or_else(|| MONTHS.iter().position(|name| *name == word));
    at.map(|at| at as u32 + 1)
}

/// `third`, `3rd`, `15th`.
fn ordinal(word: &str) -> Option<u32> {
    if let Some(at) = ORDINALS.iter().position(|name| *name == word) {
        return Some(at as u32 + 1);
    }
    let digits = ["st", "nd", "rd", "th"].iter().find_map(|suffix| word.strip_suffix(suffix))?;
    digits.parse().ok().filter(|day| (1..=31).contains(day))
}
