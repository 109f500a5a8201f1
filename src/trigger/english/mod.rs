//! Plain English: a small grammar of phrases that can mean one thing only. What it does not know, or
//! what could mean two things, is refused with what to say instead; what it understood is echoed in
//! the normal form.
//!
//! `words` knows the words, this file reads the phrases, `meaning` puts together what they said.

mod meaning;
mod words;

pub(in crate::trigger) use words::weekday_set;

use crate::invalid::Invalid;
use crate::trigger::field::WEEKDAYS;
use crate::trigger::form::{Form, Kind};
use crate::trigger::instant::{parse_date, parse_duration, parse_time_of_day};
use chrono::{NaiveDate, NaiveTime, Timelike};
use std::time::Duration;
use words::{Period, month, ordinal, period, range, rank};

pub(in crate::trigger) const EXAMPLES: &str = "such as `every day at 9`, `every 15 minutes`, `on the last friday of each month at 17:00`, `at 2027-01-01 09:00 in Europe/Berlin`, or a crontab line";

const TWO_TRIGGERS: &str = "say it as two triggers: `(every monday at 9) or (every friday at 17)`";

/// Times of day in one sentence.
const TIMES_MAX: usize = 8;

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
    minutes: Vec<u32>,
    date: Option<NaiveDate>,
    from: Option<NaiveDate>,
    zone: Option<&'a str>,
    /// What was said already, and is not to be said again.
    said: Vec<&'static str>,
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
        self.peek_after(0)
    }

    fn peek_after(&self, ahead: usize) -> &'a str {
        self.words.get(self.at + ahead).copied().unwrap_or("")
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

    /// Each thing is said once, in one place: what belongs to which of two would be a guess.
    fn once(&mut self, thing: &'static str) -> Result<(), Invalid> {
        if self.said.contains(&thing) {
            return Err(self.bad(format!("it says {thing} twice")).hint(TWO_TRIGGERS));
        }
        self.said.push(thing);
        Ok(())
    }

    fn phrase(&mut self) -> Result<(), Invalid> {
        let word = self.next();
        match word {
            "every" | "each" => self.every(),
            "on" | "the" | "of" | "in" | "," | "and" => self.filler(word),
            "at" => self.at_phrase(),
            "noon" | "midnight" => {
                self.at -= 1;
                self.clock_times()
            }
            "between" => self.between(),
            "from" | "starting" => {
                self.once("a first date")?;
                let word = self.next();
                let date = parse_date(word);
                let no_date = || self.bad(format!("`{word}` is no date")).hint("as `from 2027-01-31`");
                self.from = Some(date.ok_or_else(no_date)?);
                Ok(())
            }
            "minutely" => self.period(Period::Minute),
            "hourly" => self.period(Period::Hour),
            "daily" => self.period(Period::Day),
            "weekly" => self.period(Period::Week),
            "monthly" => self.period(Period::Month),
            "yearly" | "annually" => self.period(Period::Year),
            "last" => self.ordinals(word),
            "week" | "month" | "year" => period(word).map_or(Ok(()), |period| self.period(period)),
            "utc" => self.zone("UTC"),
            "or" => Err(self.bad("`or` joins whole triggers").hint(TWO_TRIGGERS)),
            word if word.contains('/') => self.zone(word),
            word => {
                if let Some(days) = weekday_set(word) {
                    return self.weekdays(days);
                }
                if let Some(month) = month(word) {
                    return self.months(month);
                }
                if ordinal(word).is_some() {
                    return self.ordinals(word);
                }
                if let Some(date) = parse_date(word) {
                    return self.date(date);
                }
                if let Some(day @ 1..=31) = word.parse::<u32>().ok().filter(|_| month(self.peek()).is_some()) {
                    self.once("a day of the month")?;
                    self.days.push(day.to_string());
                    return Ok(());
                }
                Err(self.bad(format!("`{word}` is not understood")).hint(EXAMPLES))
            }
        }
    }

    /// A word without meaning of its own must lead to one that has some.
    fn filler(&self, word: &str) -> Result<(), Invalid> {
        let next = self.peek();
        let leads = match next {
            "" => false,
            "the" => word != "the",
            "on" | "in" | "of" => matches!(word, "," | "and"),
            "and" => word == ",",
            "," => false,
            _ => true,
        };
        if leads { Ok(()) } else { Err(self.bad(format!("`{word}` leads nowhere")).hint(EXAMPLES)) }
    }

    /// What may follow `every`.
    fn every(&mut self) -> Result<(), Invalid> {
        let (word, following) = (self.peek(), self.peek_after(1));
        // `of each month` tells of which month a day is.
        let of = self.at >= 2 && self.words[self.at - 2] == "of";
        if !of {
            self.once("what repeats")?;
        } else if !matches!(period(word), Some(Period::Month | Period::Year)) {
            return Err(self.bad(format!("`of every {word}` is not understood")).hint(EXAMPLES));
        }
        let is_nth = ordinal(word).is_some() && weekday_set(following).is_some();
        let skips =
            ordinal(word).is_some() && period(following).is_some_and(|period| period as u8 >= Period::Day as u8);
        if word == "other" || skips || (is_nth && !self.words.contains(&"of")) {
            return Err(self
                .bad("which ones are left out is not said")
                .hint("such as `every 2 weeks at 09:00 from 2027-01-04`, or `on the 2nd friday of each month`"));
        }
        if is_nth || (month(following).is_some() && word.parse::<u32>().is_ok()) {
            return Ok(());
        }
        if let Some(period) = period(word) {
            self.at += 1;
            return self.period(period);
        }
        let mut shortest = None;
        while self.peek().starts_with(|c: char| c.is_ascii_digit()) && ordinal(self.peek()).is_none() {
            let unit = self.amount()?;
            if shortest.is_some_and(|shortest| unit >= shortest) {
                return Err(self
                    .bad("the units of an interval go from long to short")
                    .hint("as `every 1 hour 30 minutes`"));
            }
            shortest = Some(unit);
            // `2 hours and 30 minutes`
            if self.peek() == "and" && self.peek_after(1).starts_with(|c: char| c.is_ascii_digit()) {
                self.at += 1;
            }
        }
        if word.is_empty() { Err(self.bad("every what?").hint(EXAMPLES)) } else { Ok(()) }
    }

    /// `15 minutes`, `90s`, `1h30m`, `2 months`: adds it, and gives the rank of its unit.
    fn amount(&mut self) -> Result<u8, Invalid> {
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
                Period::Hour => 3600,
                Period::Minute => 60,
                Period::Second => 1,
                longer => return self.unit(longer, count),
            };
            self.short += Duration::from_secs(seconds) * count;
            return Ok(rank(unit));
        }
        // As the text form prints it.
        for (suffix, unit) in [('w', Period::Week), ('d', Period::Day)] {
            if let Some(Ok(count)) = word.strip_suffix(suffix).map(str::parse::<u32>) {
                return self.unit(unit, count);
            }
        }
        self.short += parse_duration(word)?;
        Ok(match word.rsplit(|c: char| c.is_ascii_digit()).next() {
            Some("us") => 0,
            Some("ms") => 1,
            Some("m") => rank(Period::Minute),
            Some("h") => rank(Period::Hour),
            _ => rank(Period::Second),
        })
    }

    fn unit(&mut self, unit: Period, count: u32) -> Result<u8, Invalid> {
        let place = Period::Year as usize - unit as usize;
        self.units[place] = self.units[place].checked_add(count).ok_or_else(|| self.bad("it is too long"))?;
        Ok(rank(unit))
    }

    fn period(&mut self, period: Period) -> Result<(), Invalid> {
        match self.period {
            // `on the 1st of each month of the year`
            Some(Period::Month | Period::Year) if matches!(period, Period::Month | Period::Year) => {}
            Some(_) => return Err(self.bad("it repeats in two ways").hint(TWO_TRIGGERS)),
            None => self.period = Some(period),
        }
        Ok(())
    }

    fn zone(&mut self, zone: &'a str) -> Result<(), Invalid> {
        self.once("a time zone")?;
        self.zone = Some(zone);
        Ok(())
    }

    fn date(&mut self, date: NaiveDate) -> Result<(), Invalid> {
        self.once("a date")?;
        self.date = Some(date);
        Ok(())
    }

    fn at_phrase(&mut self) -> Result<(), Invalid> {
        if let Some(date) = parse_date(self.peek()) {
            self.at += 1;
            self.date(date)?;
            if self.peek().starts_with(|c: char| c.is_ascii_digit()) {
                return self.clock_times();
            }
            return Ok(());
        }
        if self.peek().matches('-').count() == 2 {
            let reason = format!("`{}` is no date between 1970 and 2200", self.peek());
            return Err(self.bad(reason).hint("such as `2027-01-31`"));
        }
        if self.peek() == "minute" || self.peek().starts_with(':') {
            return self.minutes();
        }
        self.clock_times()
    }

    /// `minute 15`, `:15 and :45`.
    fn minutes(&mut self) -> Result<(), Invalid> {
        self.once("a minute of the hour")?;
        loop {
            self.take(&["minute"]);
            let word = self.next();
            match word.trim_start_matches(':').parse::<u32>() {
                Ok(minute @ 0..=59) => self.minutes.push(minute),
                _ => return Err(self.bad(format!("`{word}` is no minute"))),
            }
            let ahead = match (self.peek(), self.peek_after(1)) {
                ("and" | ",", "at") => 2,
                ("and" | ",", _) => 1,
                _ => return Ok(()),
            };
            if !self.peek_after(ahead).starts_with(':') {
                return Ok(());
            }
            self.at += ahead;
        }
    }

    /// `9`, `9 am`, `9:30 and 17:30`, `noon`.
    fn clock_times(&mut self) -> Result<(), Invalid> {
        self.once("a time of day")?;
        let (mut halves, mut plain) = (false, false);
        loop {
            let (time, has_half) = self.clock_time()?;
            halves |= has_half == Some(true);
            plain |= has_half == Some(false) && time.hour() <= 12;
            self.times.push(time);
            if self.times.len() > TIMES_MAX {
                return Err(self.bad(format!("it has more than {TIMES_MAX} times of day")));
            }
            let mark = self.at;
            let more = self.take(&["and", ","]);
            self.take(&["and"]);
            self.take(&["at"]);
            let is_time = self.peek().starts_with(|c: char| c.is_ascii_digit()) && ordinal(self.peek()).is_none();
            if !more || !(is_time || matches!(self.peek(), "noon" | "midnight")) {
                self.at = mark;
                break;
            }
        }
        if halves && plain {
            return Err(self
                .bad("some times have am or pm and some have not")
                .hint("`at 9am and 10pm`, or `at 9:00 and 22:00`"));
        }
        Ok(())
    }

    /// A time of day, and whether it had am or pm; `noon` needs neither.
    fn clock_time(&mut self) -> Result<(NaiveTime, Option<bool>), Invalid> {
        let word = self.next();
        let named = match word {
            "noon" => Some(12),
            "midnight" => Some(0),
            _ => None,
        };
        if let Some(hour) = named {
            return Ok((NaiveTime::from_hms_opt(hour, 0, 0).unwrap_or_default(), None));
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
            None => Ok((time, Some(false))),
            Some(_) if !(1..=12).contains(&time.hour()) => Err(bad(self)),
            Some(half) => {
                let hour = time.hour() % 12 + if half == "pm" { 12 } else { 0 };
                time.with_hour(hour).map(|time| (time, Some(true))).ok_or_else(|| bad(self))
            }
        }
    }

    /// `between 9 and 17`: from 9:00 on, before 17:00.
    fn between(&mut self) -> Result<(), Invalid> {
        self.once("hours")?;
        let (from, _) = self.clock_time()?;
        if !self.take(&["and", "to"]) {
            return Err(self.bad("`between` lacks its second hour").hint("such as `between 9 and 17`"));
        }
        let (to, _) = self.clock_time()?;
        let whole = |time: NaiveTime| time.minute() == 0 && time.second() == 0;
        let to_hour = if to == NaiveTime::MIN { 24 } else { to.hour() };
        if !whole(from) || !whole(to) || from.hour() >= to_hour {
            let reason = "`between` takes two whole hours of one day, the earlier one first";
            return Err(self.bad(reason).hint("over midnight, a crontab line: `*/15 22-23,0-5 * * *`"));
        }
        self.hours = Some((from.hour(), to_hour - 1));
        Ok(())
    }

    /// `monday`, `monday to friday`, `mon-fri`, `monday, wednesday and friday`, `weekends`.
    fn weekdays(&mut self, first: u64) -> Result<(), Invalid> {
        self.once("days of the week")?;
        let mut days = first;
        loop {
            if self.take(&["to", "through", "-"]) {
                let word = self.next();
                let until = weekday_set(word).filter(|set| set.is_power_of_two() && days.is_power_of_two());
                let until = until.ok_or_else(|| self.bad(format!("`{word}` does not end a range of weekdays")))?;
                days = range(days.trailing_zeros(), until.trailing_zeros());
            }
            self.weekdays |= days;
            let mark = self.at;
            let more = self.take(&[","]) | self.take(&["and"]);
            match weekday_set(self.peek()).filter(|_| more) {
                Some(next) => days = next,
                None => {
                    self.at = mark;
                    return Ok(());
                }
            }
            self.at += 1;
        }
    }

    /// `march`, `july and august`, `march 15`, `march 15th`.
    fn months(&mut self, first: u32) -> Result<(), Invalid> {
        self.once("a month")?;
        self.months |= 1 << first;
        loop {
            let mark = self.at;
            let more = self.take(&[","]) | self.take(&["and"]);
            match month(self.peek()).filter(|_| more) {
                Some(month) => self.months |= 1 << month,
                None => {
                    self.at = mark;
                    break;
                }
            }
            self.at += 1;
        }
        if let Ok(day @ 1..=31) = self.peek().parse::<u32>() {
            if self.months.count_ones() > 1 {
                return Err(self.bad("of which month the day is, is not clear").hint(TWO_TRIGGERS));
            }
            self.once("a day of the month")?;
            self.at += 1;
            self.days.push(day.to_string());
        }
        Ok(())
    }

    /// `1st and 15th`, `last day`, `first and third monday`, `last weekday`.
    fn ordinals(&mut self, first: &str) -> Result<(), Invalid> {
        self.once("a day of the month")?;
        let mut words = vec![first];
        let mut articles = false;
        loop {
            let mark = self.at;
            let more = self.take(&[","]) | self.take(&["and"]);
            let article = self.take(&["the"]);
            let next = self.peek();
            if !more || !(next == "last" || ordinal(next).is_some()) {
                self.at = mark;
                break;
            }
            articles |= article;
            words.push(self.next());
        }
        let noun = self.peek();
        let workday = matches!(noun, "weekday" | "workday");
        let weekday = weekday_set(noun).filter(|set| set.is_power_of_two() && !workday);
        if articles && (workday || weekday.is_some()) {
            return Err(self
                .bad(format!("whether each of them is a {noun} is not clear"))
                .hint("`the first and third monday`, or two triggers: `(A) or (B)`"));
        }
        for word in words {
            let number = ordinal(word);
            if let Some(day) = weekday {
                let name = WEEKDAYS[day.trailing_zeros() as usize];
                self.nth_weekdays.push(match number {
                    None => format!("{name}L"),
                    Some(nth @ 1..=5) => format!("{name}#{nth}"),
                    Some(nth) => return Err(self.bad(format!("no month has {nth} times {name}"))),
                });
            } else if workday {
                self.days.push(match number {
                    None => "LW".to_owned(),
                    Some(1) => "1W".to_owned(),
                    Some(_) => return Err(self.bad("only the first and the last workday of a month can be told")),
                });
            } else {
                self.days.push(number.map_or_else(|| "L".to_owned(), |day| day.to_string()));
            }
        }
        let has_noun = weekday.is_some() || workday || matches!(noun, "day" | "days");
        self.at += usize::from(has_noun);
        if !has_noun && first == "last" {
            return Err(self.bad("the last what?").hint("`the last day`, `the last friday`, `the last weekday`"));
        }
        Ok(())
    }
}
