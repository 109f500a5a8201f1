//! Cron: civil times that match, mapped to instants under a daylight-saving policy.
//!
//! Every dialect ends in the same bit sets and one evaluator. The `cron` crate reads the Quartz
//! dialect; it does not evaluate it, because its search steps back in time where clocks are put
//! back, and it knows neither weeks nor crontab's rule for days.

use super::field::{self, Field, Grammar, Parsed, is_plain};
use super::sets::Sets;
use super::zone::{OFFSET_MAX, Zone};
use crate::func::text_form;
use crate::invalid::{Invalid, printable};
use crate::job::JobId;
use cron::TimeUnitSpec;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest crontab line and longest field, in bytes.
pub const LINE_MAX: usize = 256;

/// How weekday numbers and the two day fields of a line are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Dialect {
    /// 0 and 7 are Sunday; if both day fields are restricted, either may match.
    #[default]
    Crontab,
    /// 1 is Sunday; both day fields must match.
    Quartz,
    /// 0 is Monday; both day fields must match.
    Apscheduler,
}

/// What happens to a civil time that a change of the clocks skips or repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Dst {
    /// A fixed time runs once: at the first instant after a gap, on the first pass of a fold.
    /// Anything else follows real time.
    #[default]
    Once,
    /// Exactly the civil times: none in a gap, both in a fold.
    Wall,
    /// Gap times run later by the gap, fold times on both passes.
    Shift,
}

/// APScheduler's named fields, each an expression of its own; all must match. In JSON a field may be
/// a number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CronFields {
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<TextOrNumber>")]
    pub year: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<TextOrNumber>")]
    pub month: Option<String>,
    /// Also `last`, `3rd fri`, `last sun`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<TextOrNumber>")]
    pub day: Option<String>,
    /// ISO week.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<TextOrNumber>")]
    pub week: Option<String>,
    /// 0 is Monday.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<TextOrNumber>")]
    pub day_of_week: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<TextOrNumber>")]
    pub hour: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<TextOrNumber>")]
    pub minute: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "text_or_number")]
    #[schemars(with = "Option<TextOrNumber>")]
    pub second: Option<String>,
}

/// How a field comes in.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a cron field as text or as a number")]
enum TextOrNumber {
    Number(u32),
    Text(String),
}

fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<TextOrNumber>::deserialize(from)?.map(|field| match field {
        TextOrNumber::Number(number) => number.to_string(),
        TextOrNumber::Text(text) => text,
    }))
}

impl CronFields {
    /// The fields by name, most significant first.
    pub(super) fn named(&self) -> [(Field, Option<&str>); 8] {
        [
            (field::YEAR, self.year.as_deref()),
            (field::MONTH, self.month.as_deref()),
            (field::DAY, self.day.as_deref()),
            (field::WEEK, self.week.as_deref()),
            (field::DAY_OF_WEEK, self.day_of_week.as_deref()),
            (field::HOUR, self.hour.as_deref()),
            (field::MINUTE, self.minute.as_deref()),
            (field::SECOND, self.second.as_deref()),
        ]
    }

    /// The place of a field by its name.
    pub(super) fn by_name(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "year" => &mut self.year,
            "month" => &mut self.month,
            "day" => &mut self.day,
            "week" => &mut self.week,
            "day_of_week" => &mut self.day_of_week,
            "hour" => &mut self.hour,
            "minute" => &mut self.minute,
            "second" => &mut self.second,
            _ => return None,
        })
    }
}

/// What the user wrote.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Written {
    Line { expr: String, dialect: Dialect },
    Fields(Box<CronFields>),
}

impl Written {
    /// Spaces mean nothing, so that they are no difference.
    fn tidied(self) -> Self {
        match self {
            Written::Line { expr, dialect } if expr.len() <= LINE_MAX => {
                Written::Line { expr: expr.split_ascii_whitespace().collect::<Vec<_>>().join(" "), dialect }
            }
            Written::Fields(mut fields) => {
                for (field, _) in CronFields::default().named() {
                    if let Some(Some(text)) = fields.by_name(field.name) {
                        *text = text.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
                    }
                }
                Written::Fields(fields)
            }
            line => line,
        }
    }
}

/// A cron expression: how it was written, and the civil times that it means.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cron {
    pub written: Written,
    pub dst: Dst,
    /// What `~` is spread by: the id of the job.
    pub spread: Option<String>,
    pub sets: Sets,
    /// Hour, minute and second are explicit values, so it happens at fixed times of day.
    pub fixed_time: bool,
    pub reading: Reading,
}

/// What reading the text showed beyond the sets, for explanations.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Reading {
    /// Weekday numbers as written, with the weekday; 0 is Monday.
    pub numbers: Vec<(u32, u32)>,
    /// Fields with a step that does not divide them, and whether it reaches beyond its range.
    pub uneven: Vec<(&'static str, u32, bool)>,
    pub has_spread: bool,
}

impl Cron {
    /// `spread` is a job's id.
    pub fn new(written: Written, dst: Dst, spread: Option<String>) -> Result<Self, Invalid> {
        let key = spread.as_deref().unwrap_or_default();
        if spread.is_some() {
            key.parse::<JobId>().map_err(|error| Invalid { what: "spread".into(), ..error })?;
        }
        let written = written.tidied();
        let (sets, fixed_time, reading) = match &written {
            Written::Line { expr, dialect } => read_line(expr, *dialect, key)?,
            Written::Fields(fields) => read_fields(fields)?,
        };
        if spread.is_some() && !reading.has_spread {
            return Err(Invalid::new("spread", spread.unwrap_or_default(), "the expression has no `~` to spread"));
        }
        Ok(Cron { written, dst, spread, sets, fixed_time, reading })
    }

    /// The first fire time at or after `from`, both in seconds.
    pub fn next(&self, zone: Zone, from: i64) -> Option<i64> {
        match (self.dst, self.fixed_time) {
            (Dst::Once, true) => next_once(&self.sets, zone, from),
            (Dst::Once, false) | (Dst::Wall, _) => next_wall(&self.sets, zone, from, false),
            (Dst::Shift, _) => next_wall(&self.sets, zone, from, true),
        }
    }
}

/// Walks the stretches of constant offset from `from` on. With `shift`, a civil time that the start
/// of a stretch skipped counts there, read with the offset before.
pub(super) fn next_wall(sets: &Sets, zone: Zone, from: i64, shift: bool) -> Option<i64> {
    let mut at = from;
    loop {
        let segment = zone.segment(at);
        let civil = sets.next_civil(at + segment.offset);
        if shift && at + segment.before < segment.gap().1 && segment.offset > segment.before {
            let skipped = sets.next_civil(at + segment.before).filter(|civil| *civil < segment.gap().1);
            let (skipped, plain) =
                (skipped.map(|civil| civil - segment.before), civil.map(|civil| civil - segment.offset));
            if let Some(skipped) = skipped.filter(|skipped| plain.is_none_or(|plain| *skipped <= plain)) {
                return Some(skipped);
            }
        }
        if let Some(civil) = civil.filter(|civil| civil - segment.offset < segment.end) {
            return Some(civil - segment.offset);
        }
        // Only a stretch that begins soon can show times again that lie before `civil`.
        at = segment.end;
        if at > from + OFFSET_MAX {
            at = at.max(civil? - OFFSET_MAX);
        }
    }
}

/// Each matching civil time once, mapped forwards out of a gap and to the first pass of a fold.
fn next_once(sets: &Sets, zone: Zone, from: i64) -> Option<i64> {
    let segment = zone.segment(from);
    let mut civil = from + segment.offset;
    if segment.offset < segment.before {
        // In the second pass of a fold, everything up to its end has had its turn.
        civil = civil.max(segment.fold().1);
    } else if from == segment.start {
        // What a gap skipped runs now.
        civil = segment.gap().0;
    }
    loop {
        civil = sets.next_civil(civil)?;
        let instant = zone.first_instant(civil);
        if instant >= from {
            return Some(instant);
        }
        civil += 1;
    }
}

fn read_line(line: &str, dialect: Dialect, key: &str) -> Result<(Sets, bool, Reading), Invalid> {
    let bad = |reason: String| Invalid::new("cron expression", line, reason);
    if line.len() > LINE_MAX || !is_plain(line) {
        return Err(bad(format!("it must be at most {LINE_MAX} printable ASCII characters")));
    }
    let line = line.trim();
    let line = match line.strip_prefix('@').map(str::to_ascii_lowercase).as_deref() {
        None => line,
        Some("hourly") => "0 * * * *",
        Some("daily" | "midnight") => "0 0 * * *",
        Some("weekly") => return read_line("0 0 * * sun", Dialect::Crontab, key),
        Some("monthly") => "0 0 1 * *",
        Some("yearly" | "annually") => "0 0 1 1 *",
        Some("reboot") => return Err(bad("a restart is no time".into()).hint("leave the trigger out to run once, now")),
        Some(_) => {
            return Err(bad("there is no such macro".into())
                .hint("@hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually, `@every 90s`"));
        }
    };
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let (second, rest, year) = match words.len() {
        5 => ("0", &words[..], "*"),
        6 => (words[0], &words[1..], "*"),
        7 => (words[0], &words[1..6], words[6]),
        n => {
            return Err(bad(format!("it has {n} fields"))
                .hint("5: minute hour day month weekday; 6: second first; 7: year last"));
        }
    };
    let words = [second, rest[0], rest[1], rest[2], rest[3], rest[4], year];
    let grammar = match dialect {
        Dialect::Crontab => Grammar::Crontab,
        Dialect::Quartz => return read_quartz(words, key),
        Dialect::Apscheduler => Grammar::Named,
    };
    let fields = LINE_FIELDS.map(|field| field.with(grammar));
    let parsed = fields.iter().zip(words).map(|(field, text)| field.parse(text, key)).collect::<Result<Vec<_>, _>>()?;
    Ok(lower(&fields, &parsed, dialect == Dialect::Crontab))
}

/// The fields of a line, in their order.
const LINE_FIELDS: [Field; 7] =
    [field::SECOND, field::MINUTE, field::HOUR, field::DAY, field::MONTH, field::DAY_OF_WEEK, field::YEAR];

/// Puts parsed fields into the sets. A field that was not given matches anything.
fn lower(fields: &[Field], parsed: &[Parsed], either_day: bool) -> (Sets, bool, Reading) {
    let mut sets = Sets::ALL;
    let mut reading = Reading::default();
    let mut restricted = 0;
    for (field, parsed) in fields.iter().zip(parsed) {
        match field.name {
            "second" => sets.second = parsed.bits(),
            "minute" => sets.minute = parsed.bits(),
            "hour" => sets.hour = parsed.bits(),
            "month" => sets.month = parsed.bits(),
            "week" => sets.days.week = parsed.bits(),
            "year" => sets.year = parsed.set,
            "day" => (sets.days.day, sets.days.day_rules) = (parsed.bits(), parsed.rules.clone()),
            _ => (sets.days.weekday, sets.days.weekday_rules) = (parsed.bits(), parsed.rules.clone()),
        }
        restricted += u32::from(matches!(field.name, "day" | "day_of_week") && !parsed.star);
        reading.numbers.extend(&parsed.numbers);
        reading.uneven.extend(parsed.uneven.iter().map(|(step, beyond)| (field.name, *step, *beyond)));
        reading.has_spread |= parsed.spread;
    }
    sets.days.either = either_day && restricted == 2;
    let is_time = |field: &Field| matches!(field.name, "hour" | "minute" | "second");
    let fixed_time = fields.iter().zip(parsed).all(|(field, parsed)| !is_time(field) || parsed.explicit);
    (sets, fixed_time, reading)
}

/// Reads a Quartz line: plain fields with the `cron` crate, whose ordinals are lowered into the
/// sets; a field with `L`, `W`, `#` or `~`, which the crate does not know, with our own grammar.
fn read_quartz(words: [&str; 7], key: &str) -> Result<(Sets, bool, Reading), Invalid> {
    let fields = LINE_FIELDS.map(|field| field.with(Grammar::Quartz));
    let beyond = |field: &Field, word: &str| {
        // Its years end with 2100.
        if field.name == "year" {
            return true;
        }
        let day = matches!(field.name, "day" | "day_of_week");
        let named = field.name == "day_of_week" && field.names.iter().any(|name| word.eq_ignore_ascii_case(name));
        word.contains('~') || (day && !named && (word.contains(['#', 'L', 'l']) || word.ends_with(['W', 'w'])))
    };
    let theirs = |at: usize| if beyond(&fields[at], words[at]) { "*" } else { words[at] };
    let line: Vec<&str> = (0..7).map(theirs).collect();
    let line = line.join(" ");
    let schedule = cron::Schedule::from_str(&line).map_err(|error| {
        let reason = error.to_string();
        let told = |line: &&str| line.contains(|c: char| c.is_ascii_alphabetic());
        let reason = reason.lines().map(str::trim).rfind(told).unwrap_or("it does not parse");
        Invalid::new("cron expression", words.join(" "), printable(reason, 160))
            .hint("in dialect quartz: second first, weekdays 1 (sunday) to 7, ranges may not wrap")
    })?;
    let ordinals: [Vec<u32>; 7] = [
        schedule.seconds().iter().collect(),
        schedule.minutes().iter().collect(),
        schedule.hours().iter().collect(),
        schedule.days_of_month().iter().collect(),
        schedule.months().iter().collect(),
        schedule.days_of_week().iter().collect(),
        schedule.years().iter().collect(),
    ];
    let mut parsed = Vec::with_capacity(7);
    for (at, (field, ordinals)) in fields.iter().zip(ordinals).enumerate() {
        let word = words[at];
        parsed.push(if beyond(field, word) { field.parse(word, key)? } else { field.understood(word, &ordinals) });
    }
    Ok(lower(&fields, &parsed, false))
}

/// APScheduler's rule for what is left out: fields after the last one given take their minimum,
/// fields before it match anything.
fn read_fields(given: &CronFields) -> Result<(Sets, bool, Reading), Invalid> {
    let named = given.named();
    let Some(last) = named.iter().rposition(|(_, text)| text.is_some()) else {
        return Err(Invalid::new("cron fields", "", "none is given").hint("such as `hour` and `minute`"));
    };
    let mut parsed = Vec::with_capacity(8);
    for (at, (field, text)) in named.iter().enumerate() {
        let minimum = match field.name {
            "month" | "day" => "1",
            "hour" | "minute" | "second" => "0",
            _ => "*",
        };
        let text = text.unwrap_or(if at > last { minimum } else { "*" });
        if text.len() > LINE_MAX || !is_plain(text) {
            let reason = format!("it must be an expression of at most {LINE_MAX} printable ASCII characters");
            return Err(Invalid::new(format!("cron field `{}`", field.name), text, reason));
        }
        parsed.push(field.parse(text, "")?);
    }
    Ok(lower(&named.map(|(field, _)| field), &parsed, false))
}

impl FromStr for Dialect {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "crontab" => Ok(Dialect::Crontab),
            "quartz" => Ok(Dialect::Quartz),
            "apscheduler" => Ok(Dialect::Apscheduler),
            _ => Err(Invalid::new("dialect", text, "it is `crontab`, `quartz` or `apscheduler`")),
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::Crontab => "crontab",
            Dialect::Quartz => "quartz",
            Dialect::Apscheduler => "apscheduler",
        })
    }
}

text_form!(Dialect);

impl FromStr for Dst {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "once" => Ok(Dst::Once),
            "wall" => Ok(Dst::Wall),
            "shift" => Ok(Dst::Shift),
            _ => Err(Invalid::new("dst policy", text, "it is `once`, `wall` or `shift`")),
        }
    }
}

impl fmt::Display for Dst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dst::Once => "once",
            Dst::Wall => "wall",
            Dst::Shift => "shift",
        })
    }
}

text_form!(Dst);
