//! The text of one field of a cron trigger.

use super::sets::{DayRule, YEAR_MAX, YEAR_MIN};
use crate::invalid::{Invalid, printable};
use sha2::{Digest, Sha256};

pub(super) const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
pub(super) const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
pub(super) const NTH: [&str; 5] = ["1st", "2nd", "3rd", "4th", "5th"];

/// `~` as a day of the month stays within what every month has.
const SPREAD_DAY_MAX: u32 = 28;

/// Whose grammar a field follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grammar {
    /// APScheduler's named fields: days such as `last` and `3rd fri`; Monday is 0.
    Named,
    /// Crontab: `?`, `L`, `LW`, `15W`, `fri#2`, `friL`, `~`; 0 and 7 are Sunday, weekdays wrap.
    Crontab,
    /// The same with Quartz's weekdays: 1 is Sunday.
    Quartz,
}

/// What one field may say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub name: &'static str,
    pub low: u32,
    pub high: u32,
    pub names: &'static [&'static str],
    pub grammar: Grammar,
}

const fn field(name: &'static str, low: u32, high: u32) -> Field {
    Field { name, low, high, names: &[], grammar: Grammar::Named }
}

pub(super) const SECOND: Field = field("second", 0, 59);
pub(super) const MINUTE: Field = field("minute", 0, 59);
pub(super) const HOUR: Field = field("hour", 0, 23);
pub(super) const DAY: Field = field("day", 1, 31);
pub(super) const MONTH: Field = Field { names: &MONTHS, ..field("month", 1, 12) };
pub(super) const WEEK: Field = field("week", 1, 53);
pub(super) const YEAR: Field = field("year", YEAR_MIN as u32, YEAR_MAX as u32);
pub(super) const DAY_OF_WEEK: Field = Field { names: &WEEKDAYS, ..field("day_of_week", 0, 6) };

/// One parsed field. A weekday is 0 for Monday whatever its dialect says, a year counts from
/// [`YEAR_MIN`].
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Parsed {
    pub set: [u64; 4],
    pub rules: Vec<DayRule>,
    /// It begins with `*`: crontab does not count it as restricting the day.
    pub star: bool,
    /// It consists of plain values: no `*`, range or step of several.
    pub explicit: bool,
    /// Weekday numbers that it names, as written and as understood.
    pub numbers: Vec<(u32, u32)>,
    /// Steps that do not divide the field evenly, and whether they reach beyond their range.
    pub uneven: Vec<(u32, bool)>,
    /// It holds a `~`.
    pub spread: bool,
}

impl Parsed {
    pub fn bits(&self) -> u64 {
        self.set[0]
    }

    fn add(&mut self, value: u32) {
        self.set[value as usize / 64] |= 1 << (value % 64);
    }

    fn count(&self) -> u32 {
        self.set.iter().map(|word| word.count_ones()).sum()
    }
}

impl Field {
    pub fn with(self, grammar: Grammar) -> Field {
        let (low, high) = match (self.name, grammar) {
            ("day_of_week", Grammar::Crontab) => (0, 7),
            ("day_of_week", Grammar::Quartz) => (1, 7),
            _ => (self.low, self.high),
        };
        Field { low, high, grammar, ..self }
    }

    /// Reads the field's text. `key` is what `~` is spread by.
    pub fn parse(&self, text: &str, key: &str) -> Result<Parsed, Invalid> {
        let is_any = text == "?" && self.grammar != Grammar::Named && matches!(self.name, "day" | "day_of_week");
        let text = if is_any { "*" } else { text };
        let mut parsed = Parsed { star: text.starts_with('*'), explicit: true, ..Parsed::default() };
        for item in text.split(',') {
            self.parse_item(item.trim(), key, &mut parsed).map_err(|reason| {
                Invalid::new(format!("cron field `{}`", self.name), text, reason).hint(self.shape())
            })?;
        }
        // How many values a spread has depends on the key, and is no matter of kind.
        parsed.explicit |= parsed.count() == 1 && parsed.rules.is_empty() && !parsed.spread;
        Ok(parsed)
    }

    /// What another parser understood of the field's text: its values as that text names them.
    pub fn understood(&self, text: &str, values: &[u32]) -> Parsed {
        let mut parsed = Parsed { star: text.starts_with(['*', '?']), ..Parsed::default() };
        for value in values {
            parsed.add(self.index(*value));
        }
        if self.name == "day_of_week" && text.contains(|c: char| c.is_ascii_digit()) {
            parsed.numbers = values.iter().map(|value| (*value, self.index(*value))).collect();
        }
        parsed.explicit = values.len() == 1 || !text.contains(['*', '-', '/', '?']);
        parsed
    }

    fn shape(&self) -> String {
        let names = self.names.first().zip(self.names.last());
        let names = names.map_or(String::new(), |(a, b)| format!(", names {a} to {b}"));
        let more = match (self.grammar, self.name) {
            (Grammar::Named, "day") => ", `last`, `3rd fri`, `last fri`",
            (Grammar::Crontab | Grammar::Quartz, "day") => ", `L`, `L-3`, `LW`, `15W`, `~`",
            (Grammar::Crontab | Grammar::Quartz, "day_of_week") => ", `fri#2`, `friL`, `~`",
            (Grammar::Crontab | Grammar::Quartz, _) => ", `~`",
            _ => "",
        };
        format!("{} to {}{names}, as `*`, `*/n`, `a`, `a-b`, `a-b/n`, `a/n`{more}, or a list", self.low, self.high)
    }

    fn parse_item(&self, item: &str, key: &str, parsed: &mut Parsed) -> Result<(), String> {
        if item.is_empty() {
            return Err("an item of the list is empty".into());
        }
        let rule = match (self.grammar, self.name) {
            (Grammar::Named, "day") => named_day(item)?,
            (Grammar::Crontab | Grammar::Quartz, "day") => self.line_day(item)?,
            (Grammar::Crontab | Grammar::Quartz, "day_of_week") => self.line_weekday(item, parsed)?,
            _ => None,
        };
        if let Some(rule) = rule {
            parsed.rules.push(rule);
            parsed.explicit = false;
            return Ok(());
        }
        let (range, step) = match item.split_once('/') {
            None => (item, None),
            Some((range, step)) => (range, Some(number(step)?)),
        };
        if step == Some(0) {
            return Err("a step of 0 goes nowhere".into());
        }
        if self.grammar != Grammar::Named
            && let Some((low, high)) = range.split_once('~')
        {
            return self.parse_spread((low, high), step, key, parsed);
        }
        let (low, high) = if range == "*" {
            // Sunday is in `*` once.
            (self.low, if self.wraps() { 6 } else { self.high })
        } else if let Some((low, high)) = range.split_once('-') {
            self.ends(low, high, parsed)?
        } else {
            let value = self.value(range, parsed)?;
            (value, if step.is_some() { self.high } else { value })
        };
        if low > high {
            return Err(format!("`{range}` runs backwards"));
        }
        let width = high - low;
        if let Some(step) = step {
            if step > width && self.grammar == Grammar::Named {
                return Err(format!("step {step} is longer than the range"));
            }
            let varies = matches!(self.name, "day" | "week");
            if step > width || (range == "*" && self.name != "year" && step > 1 && (varies || (width + 1) % step != 0))
            {
                parsed.uneven.push((step, step > width));
            }
        }
        parsed.explicit &= step.is_none() && low == high && range != "*";
        for value in (low..=high).step_by(step.unwrap_or(1) as usize) {
            parsed.add(self.index(value));
        }
        Ok(())
    }

    /// `~`, `a~b`: one value of the range, always the same for the same key; `~/n`: every n-th, from
    /// such a value on.
    fn parse_spread(
        &self,
        (low, high): (&str, &str),
        step: Option<u32>,
        key: &str,
        parsed: &mut Parsed,
    ) -> Result<(), String> {
        let most = match self.name {
            "day" => SPREAD_DAY_MAX,
            _ if self.wraps() => 6,
            _ => self.high,
        };
        let low = if low.is_empty() { self.low } else { self.value(low, parsed)? };
        let high = if high.is_empty() { most } else { self.value(high, parsed)? };
        if low > high {
            return Err(format!("`{low}~{high}` runs backwards"));
        }
        if step.is_some_and(|step| step > high - low) {
            return Err(format!("step {} is longer than the range", step.unwrap_or(0)));
        }
        parsed.spread = true;
        parsed.explicit &= step.is_none();
        let below = step.unwrap_or(high - low + 1);
        let first = low + spread(key, self.name.as_bytes(), below.into()) as u32;
        for value in (first..=high).step_by(step.map_or(usize::MAX, |step| step as usize)) {
            parsed.add(self.index(value));
        }
        Ok(())
    }

    /// Whether the field is crontab's day of week, whose ranges may run over the end of the week.
    fn wraps(&self) -> bool {
        self.name == "day_of_week" && self.grammar == Grammar::Crontab
    }

    /// Where a value of the text is in the set.
    fn index(&self, value: u32) -> u32 {
        match (self.name, self.grammar) {
            ("year", _) => value - YEAR_MIN as u32,
            ("day_of_week", Grammar::Crontab) => (value + 6) % 7,
            ("day_of_week", Grammar::Quartz) => (value + 5) % 7,
            _ => value,
        }
    }

    /// Both ends of a range. In crontab `fri-mon` and `sat-sun` run over the end of the week.
    fn ends(&self, low: &str, high: &str, parsed: &mut Parsed) -> Result<(u32, u32), String> {
        let (low, high) = (self.value(low, parsed)?, self.value(high, parsed)?);
        if self.wraps() && low > high { Ok((low, high + 7)) } else { Ok((low, high)) }
    }

    fn value(&self, text: &str, parsed: &mut Parsed) -> Result<u32, String> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        if let Some(at) = named {
            let at = at as u32;
            return Ok(match (self.name, self.grammar) {
                ("month", _) => at + 1,
                (_, Grammar::Crontab) => (at + 1) % 7,
                (_, Grammar::Quartz) => (at + 1) % 7 + 1,
                (_, Grammar::Named) => at,
            });
        }
        let value = number(text)?;
        if value < self.low || value > self.high {
            return Err(format!("{value} is outside {} to {}", self.low, self.high));
        }
        if self.name == "day_of_week" {
            parsed.numbers.push((value, self.index(value)));
        }
        Ok(value)
    }

    /// `L`, `L-3`, `LW`, `15W`.
    fn line_day(&self, item: &str) -> Result<Option<DayRule>, String> {
        let upper = item.to_ascii_uppercase();
        if upper == "L" {
            return Ok(Some(DayRule::BeforeLast(0)));
        }
        if upper == "LW" {
            return Ok(Some(DayRule::LastWorkday));
        }
        if let Some(before) = upper.strip_prefix("L-") {
            let before = number(before)?;
            return match before {
                1..=30 => Ok(Some(DayRule::BeforeLast(before))),
                _ => Err(format!("`{upper}` is no day of any month")),
            };
        }
        let Some(day) = upper.strip_suffix('W') else { return Ok(None) };
        let day = self.value(day, &mut Parsed::default())?;
        Ok(Some(DayRule::NearestWorkday(day)))
    }

    /// `fri#2`, `friL`, `5#2`, `5L`. `L` alone, Saturday in Quartz and nothing elsewhere, is refused.
    fn line_weekday(&self, item: &str, parsed: &mut Parsed) -> Result<Option<DayRule>, String> {
        if let Some((weekday, nth)) = item.split_once('#') {
            let weekday = self.value(weekday, parsed)?;
            return match number(nth)? {
                nth @ 1..=5 => Ok(Some(DayRule::Nth(nth, self.index(weekday)))),
                nth => Err(format!("no month has a weekday number {nth}, it is 1 to 5")),
            };
        }
        let Some(weekday) = item.strip_suffix(['L', 'l']) else { return Ok(None) };
        if weekday.is_empty() {
            return Err("`L` needs a weekday: `friL` is the last friday of the month".into());
        }
        let weekday = self.value(weekday, parsed)?;
        Ok(Some(DayRule::LastWeekday(self.index(weekday))))
    }
}

/// `last`, `3rd fri`, `last sun`.
fn named_day(item: &str) -> Result<Option<DayRule>, String> {
    let mut words = item.split_ascii_whitespace();
    let (first, second) = (words.next().unwrap_or(""), words.next());
    let nth = NTH.iter().position(|nth| nth.eq_ignore_ascii_case(first));
    let last = first.eq_ignore_ascii_case("last");
    let rule = match (nth, last, second) {
        (None, false, _) => return Ok(None),
        (_, true, None) => DayRule::BeforeLast(0),
        (Some(_), _, None) => return Err(format!("`{item}` lacks a weekday")),
        (nth, _, Some(weekday)) => {
            let weekday = WEEKDAYS.iter().position(|name| name.eq_ignore_ascii_case(weekday));
            let weekday = weekday.ok_or_else(|| format!("`{item}` has no weekday from mon to sun"))? as u32;
            nth.map_or(DayRule::LastWeekday(weekday), |nth| DayRule::Nth(nth as u32 + 1, weekday))
        }
    };
    match words.next() {
        Some(_) => Err(format!("`{item}` goes on after the weekday")),
        None => Ok(Some(rule)),
    }
}

/// Printable ASCII and spaces, so that errors may repeat any part of it.
pub(super) fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
}

/// Digits and nothing else: `parse` alone would take a plus sign.
pub(super) fn number(text: &str) -> Result<u32, String> {
    if text.is_empty() || text.len() > 9 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("`{}` is not a value", printable(text, 20)));
    }
    text.parse().map_err(|_| format!("`{text}` is not a value"))
}

/// A number below `below` that depends on the key and on what it is for alone, for ever.
pub(crate) fn spread(key: &str, what_for: &[u8], below: u64) -> u64 {
    let hash = Sha256::new().chain_update(key).chain_update([0]).chain_update(what_for).finalize();
    let hash = hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    ((u128::from(hash) * u128::from(below)) >> 64) as u64
}
