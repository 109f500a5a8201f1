//! The text form of a trigger: what `Display` prints reads back as the same trigger.
//!
//! ```text
//! now                                     at 2027-01-01T09:00:00+01:00 in Europe/Berlin
//! every 1h 30m                            every 1 month at 09:00 from 2027-01-31
//! cron 30 2 * * mon-fri                   cron day='last fri' hour='17'
//! quartz 0 30 2 ? * 2-6                   (cron 0 9 * * *) or (cron 30 17 * * fri)
//! (cron 0 9 * * *) except 2026-12-24..2027-01-02, sun
//! plugin moon:next-fire-time with "full"
//! … in Europe/Berlin dst wall start 2027-01-01T00:00:00Z end … jitter 30s max-runs 5
//! ```
//!
//! A bare crontab line, a macro, a trigger as JSON and plain English (`english`) are read too.

use super::combine::Exclusion;
use super::cron::{CronFields, Dialect, Dst, Written};
use super::field::WEEKDAYS;
use super::form::{Form, FormOrText, Kind};
use super::instant::{duration_text, instant_text, parse_duration};
use super::normal::values;
use super::{Rule, Trigger, Zone, english};
use crate::invalid::Invalid;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest text of a trigger, in bytes.
pub const TEXT_MAX: usize = 16 * 1024;
/// Parentheses within parentheses; a trigger has fewer levels.
const NESTING_MAX: usize = 8;

impl Trigger {
    /// Reads any text form. Civil times are in `zone` and a bare line is in `dialect` unless the
    /// text says otherwise.
    pub fn parse(text: &str, zone: Zone, dialect: Dialect) -> Result<Self, Invalid> {
        parse_form(text, dialect)?.into_trigger(zone)
    }
}

impl FromStr for Trigger {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Trigger::parse(text, Zone::utc(), Dialect::default())
    }
}

pub(super) fn parse_form(text: &str, dialect: Dialect) -> Result<Form, Invalid> {
    if text.len() > TEXT_MAX {
        return Err(Invalid::new("trigger", text, format!("it must be at most {TEXT_MAX} characters")));
    }
    if let Some((at, strange)) = text.char_indices().find(|(_, c)| !c.is_ascii_graphic() && !c.is_ascii_whitespace()) {
        let reason = format!("its character {} is {}", at + 1, strange.escape_unicode());
        return Err(Invalid::new("trigger", text, reason).hint("plain ASCII only: `-` for a dash, a plain space"));
    }
    if text.trim_start().starts_with('{') {
        return crate::strict_json::from_slice("trigger", text.as_bytes());
    }
    let text = &text.replace(|c: char| c.is_ascii_whitespace(), " ");
    let mut parser = Parser { text, rest: text, dialect };
    let form = parser.trigger(0)?;
    match parser.rest.trim() {
        "" => Ok(form),
        rest => Err(parser.bad(format!("`{}` is too much", crate::printable(rest, 40)))),
    }
}

struct Parser<'a> {
    /// All of it, for errors.
    text: &'a str,
    rest: &'a str,
    dialect: Dialect,
}

impl<'a> Parser<'a> {
    fn bad(&self, reason: impl Into<String>) -> Invalid {
        Invalid::new("trigger", self.text, reason)
    }

    /// The next word: up to a space or a parenthesis that is not within quotes.
    fn peek(&self) -> &'a str {
        let rest = self.rest.trim_start();
        let mut quoted = false;
        let end = rest.find(|c: char| {
            quoted ^= c == '\'' || c == '"';
            !quoted && (c.is_ascii_whitespace() || c == '(' || c == ')')
        });
        &rest[..end.unwrap_or(rest.len())]
    }

    fn word(&mut self) -> &'a str {
        let word = self.peek();
        self.rest = &self.rest.trim_start()[word.len()..];
        word
    }

    /// The word after the next one.
    fn second(&self) -> &'a str {
        let after = Parser { rest: &self.rest.trim_start()[self.peek().len()..], ..*self };
        after.peek()
    }

    fn take(&mut self, symbol: char) -> bool {
        let rest = self.rest.trim_start();
        let found = rest.strip_prefix(symbol);
        self.rest = found.unwrap_or(rest);
        found.is_some()
    }

    fn trigger(&mut self, nesting: usize) -> Result<Form, Invalid> {
        if nesting > NESTING_MAX {
            return Err(self.bad("its parentheses are nested too deeply"));
        }
        let mut form = if self.take('(') { self.combined(nesting)? } else { self.rule()? };
        loop {
            if self.peek() == "except" {
                form = self.except(form, nesting)?;
            } else if !self.clause(&mut form)? {
                return Ok(form);
            }
        }
    }

    /// What follows an opening parenthesis: a trigger, and others joined to it.
    fn combined(&mut self, nesting: usize) -> Result<Form, Invalid> {
        let first = self.group(nesting)?;
        let (kind, joint) = match self.peek() {
            "or" => (Kind::Or, "or"),
            "and" => (Kind::And, "and"),
            _ => return Ok(first),
        };
        let mut triggers = vec![FormOrText::Form(Box::new(first))];
        while self.peek() == joint {
            self.word();
            if !self.take('(') {
                return Err(self.bad(format!("`{joint}` joins triggers in parentheses")).hint("`(A) or (B)`"));
            }
            triggers.push(FormOrText::Form(Box::new(self.group(nesting)?)));
        }
        if matches!(self.peek(), "or" | "and") {
            return Err(self.bad("`and` and `or` are mixed").hint("say what belongs together: `((A) and (B)) or (C)`"));
        }
        Ok(Form { triggers: Some(triggers), ..Form::new(kind) })
    }

    fn group(&mut self, nesting: usize) -> Result<Form, Invalid> {
        let form = self.trigger(nesting + 1)?;
        if self.take(')') { Ok(form) } else { Err(self.bad("a `)` is missing")) }
    }

    /// `except 2026-12-25, saturday and sunday, (0 12 * * *)`
    fn except(&mut self, form: Form, nesting: usize) -> Result<Form, Invalid> {
        self.word();
        let mut exclude = Vec::new();
        loop {
            if matches!(self.peek(), "on" | "and") {
                self.word();
            }
            let more = if self.take('(') {
                exclude.push(FormOrText::Form(Box::new(self.group(nesting)?)));
                self.take(',')
            } else {
                let word = self.word();
                let items = word.trim_end_matches(',');
                if items.is_empty() {
                    return Err(self.bad("`except` lacks what to leave out").hint("such as `except 2026-12-25, sun`"));
                }
                for item in items.split(',') {
                    let days = english::weekday_set(&item.to_ascii_lowercase()).filter(|set| !set.is_power_of_two());
                    match days {
                        // `weekends`, `mon-fri`
                        Some(days) => {
                            exclude.extend(values(days).map(|day| FormOrText::Text(WEEKDAYS[day as usize].to_owned())));
                        }
                        None => exclude.push(FormOrText::Text(item.to_owned())),
                    }
                }
                word != items || self.take(',')
            };
            if !more && self.peek() != "and" {
                break;
            }
        }
        let trigger = Some(Box::new(FormOrText::Form(Box::new(form))));
        Ok(Form { trigger, exclude: Some(exclude), ..Form::new(Kind::Except) })
    }

    fn rule(&mut self) -> Result<Form, Invalid> {
        let mut words = Vec::new();
        while !self.peek().is_empty() && self.peek() != "except" && !self.at_clause() {
            words.push(self.word());
        }
        let line = |words: &[&str], dialect| Form {
            expr: Some(words.join(" ")),
            dialect: Some(dialect),
            ..Form::new(Kind::Cron)
        };
        match words.as_slice() {
            [] => Err(self.bad("it is empty").hint(english::EXAMPLES)),
            ["now"] => Ok(Form::new(Kind::Date)),
            ["cron", fields @ ..] if fields.first().is_some_and(|word| word.contains('=')) => self.fields(fields),
            ["cron" | "crontab", words @ ..] => Ok(line(words, Dialect::Crontab)),
            ["quartz", words @ ..] => Ok(line(words, Dialect::Quartz)),
            ["apscheduler", words @ ..] => Ok(line(words, Dialect::Apscheduler)),
            ["plugin", func] => Ok(Form { func: Some(func.parse()?), ..Form::new(Kind::Plugin) }),
            ["plugin", func, "with", parameters] => {
                let parameters = serde_json::from_str(parameters)
                    .map_err(|_| self.bad("what follows `with` is not one quoted text").hint("`with \"…\"`"))?;
                Ok(Form { func: Some(func.parse()?), parameters: Some(parameters), ..Form::new(Kind::Plugin) })
            }
            [every, duration @ ..] if every.eq_ignore_ascii_case("@every") => {
                let every = Some(parse_duration(&duration.join(" "))?);
                Ok(Form { every, ..Form::new(Kind::Interval) })
            }
            [first, ..] if first.bytes().all(|b| b.is_ascii_digit() || b"*,-/~?LW#".contains(&b)) => {
                Ok(line(&words, self.dialect))
            }
            [first, ..] if first.starts_with('@') => Ok(line(&words, self.dialect)),
            _ => english::parse(&words),
        }
    }

    /// `day='last fri' hour='17'`
    fn fields(&self, words: &[&str]) -> Result<Form, Invalid> {
        let mut fields = CronFields::default();
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| {
                self.bad(format!("`{word}` is no field"))
                    .hint("as `cron day='last fri' hour='17'`, with quotes round spaces")
            })?;
            let value = value.trim_matches(['\'', '"']);
            let Some(place) = fields.by_name(name) else {
                let names = fields.named().map(|(field, _)| field.name).join(", ");
                return Err(self.bad(format!("there is no field `{name}`")).hint(names));
            };
            if place.replace(value.to_owned()).is_some() {
                return Err(self.bad(format!("field `{name}` is given twice")));
            }
        }
        Ok(Form { fields: Some(fields), ..Form::new(Kind::Cron) })
    }

    fn at_clause(&self) -> bool {
        match self.peek() {
            "in" => self.second().contains('/') || self.second().parse::<Zone>().is_ok(),
            word => ["dst", "spread", "start", "end", "until", "jitter", "max-runs"].contains(&word),
        }
    }

    /// Reads one clause, if there is one.
    fn clause(&mut self, form: &mut Form) -> Result<bool, Invalid> {
        if !self.at_clause() {
            return Ok(false);
        }
        let clause = self.word();
        if self.peek().is_empty() {
            return Err(self.bad(format!("`{clause}` lacks its value")));
        }
        let twice = match clause {
            "in" => form.timezone.replace(self.word().parse()?).is_some(),
            "dst" => set_dst(form, self.word().parse()?),
            "spread" => form.spread.replace(self.word().to_owned()).is_some(),
            "start" => form.start.replace(self.instant()).is_some(),
            "jitter" => form.jitter.replace(self.duration()?).is_some(),
            "max-runs" => {
                let runs = self.word();
                let runs = runs.parse().map_err(|_| Invalid::new("max-runs", runs, "it is not a number of runs"))?;
                form.max_runs.replace(runs).is_some()
            }
            _ => form.end.replace(self.instant()).is_some(),
        };
        if twice { Err(self.bad(format!("`{clause}` is given twice"))) } else { Ok(true) }
    }

    /// One word, or a date and a time.
    fn instant(&mut self) -> String {
        let first = self.word();
        let has_time =
            first.len() == 10 && self.peek().contains(':') && self.peek().starts_with(|c: char| c.is_ascii_digit());
        if has_time { format!("{first} {}", self.word()) } else { first.to_owned() }
    }

    fn duration(&mut self) -> Result<Duration, Invalid> {
        let mut text = self.word().to_owned();
        let is_unit = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphabetic());
        let mut bare = text.bytes().all(|b| b.is_ascii_digit());
        while self.peek().starts_with(|c: char| c.is_ascii_digit())
            || (bare && is_unit(self.peek()) && !self.at_clause())
        {
            let word = self.word();
            bare = word.bytes().all(|b| b.is_ascii_digit());
            text.push(' ');
            text.push_str(word);
        }
        parse_duration(&text)
    }
}

/// Gives the policy to a form, or to those of its parts that have civil times; true if one had it
/// already.
fn set_dst(form: &mut Form, dst: Dst) -> bool {
    let parts = form.triggers.iter_mut().flatten().chain(form.trigger.as_deref_mut());
    let parts = parts.chain(form.exclude.iter_mut().flatten()).filter_map(|part| match part {
        FormOrText::Form(form) => Some(form),
        FormOrText::Text(_) => None,
    });
    match form.kind {
        Some(Kind::Or | Kind::And | Kind::Except) => parts.fold(false, |twice, part| {
            let takes = !matches!(part.kind, Some(Kind::Date | Kind::Interval));
            (takes && set_dst(part, dst)) | twice
        }),
        _ => form.dst.replace(dst).is_some(),
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print(f, Zone::utc())
    }
}

impl Trigger {
    /// Prints the text form, within a trigger of zone `around`.
    fn print(&self, f: &mut fmt::Formatter<'_>, around: Zone) -> fmt::Result {
        let mut zone_said = self.timezone != around;
        let mut dst = Dst::Once;
        match &self.rule {
            Rule::Date(None) => f.write_str("now")?,
            Rule::Date(Some(at)) => write!(f, "at {}", instant_text(*at, self.timezone))?,
            Rule::Interval(every) => write!(f, "every {}", duration_text(*every))?,
            Rule::Cron(cron) => {
                dst = cron.dst;
                match &cron.written {
                    Written::Line { expr, dialect: Dialect::Crontab } => write!(f, "cron {expr}")?,
                    Written::Line { expr, dialect } => write!(f, "{dialect} {expr}")?,
                    Written::Fields(fields) => {
                        f.write_str("cron")?;
                        for (field, text) in fields.named() {
                            text.map_or(Ok(()), |text| write!(f, " {}='{text}'", field.name))?;
                        }
                    }
                }
            }
            Rule::Calendar(calendar) => {
                dst = calendar.dst;
                write!(f, "every {}", calendar.units_text())?;
                write!(f, " at {}", time_text(calendar.at))?;
                calendar.start_date.map_or(Ok(()), |date| write!(f, " from {date}"))?;
            }
            Rule::Plugin(asked) => {
                write!(f, "plugin {}", asked.func)?;
                if !asked.parameters.is_empty() {
                    write!(f, " with {}", asked.parameters_text())?;
                }
            }
            Rule::Or(triggers) => self.print_joined(f, triggers, "or")?,
            Rule::And(and) => self.print_joined(f, &and.triggers, "and")?,
            Rule::Except(except) => {
                // Without a zone of its own, it would take the one of its trigger.
                zone_said |= except.trigger.timezone != self.timezone;
                f.write_str("(")?;
                except.trigger.print(f, self.timezone)?;
                f.write_str(") except")?;
                for (at, exclusion) in except.exclusions.iter().enumerate() {
                    f.write_str(if at == 0 { " " } else { ", " })?;
                    match exclusion {
                        Exclusion::Trigger(trigger) => {
                            f.write_str("(")?;
                            trigger.print(f, self.timezone)?;
                            f.write_str(")")?;
                        }
                        other => write!(f, "{other}")?,
                    }
                }
            }
        }
        if zone_said {
            write!(f, " in {}", self.timezone)?;
        }
        if dst != Dst::Once {
            write!(f, " dst {dst}")?;
        }
        if let Rule::Cron(cron) = &self.rule {
            cron.spread.as_ref().map_or(Ok(()), |key| write!(f, " spread {key}"))?;
        }
        self.start.map_or(Ok(()), |at| write!(f, " start {}", instant_text(at, self.timezone)))?;
        self.end.map_or(Ok(()), |at| write!(f, " end {}", instant_text(at, self.timezone)))?;
        if self.jitter != Duration::ZERO {
            write!(f, " jitter {}", duration_text(self.jitter))?;
        }
        self.max_runs.map_or(Ok(()), |runs| write!(f, " max-runs {runs}"))
    }

    fn print_joined(&self, f: &mut fmt::Formatter<'_>, triggers: &[Trigger], joint: &str) -> fmt::Result {
        for (at, trigger) in triggers.iter().enumerate() {
            if at > 0 {
                write!(f, " {joint} ")?;
            }
            f.write_str("(")?;
            trigger.print(f, self.timezone)?;
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// A time of day, with seconds if it has any.
pub(super) fn time_text(time: chrono::NaiveTime) -> String {
    let shape = if chrono::Timelike::second(&time) == 0 { "%H:%M" } else { "%H:%M:%S" };
    time.format(shape).to_string()
}
