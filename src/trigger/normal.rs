//! The normal form: triggers that mean the same are written the same.
//!
//! A cron expression of any dialect becomes a crontab line where one can say it, else named fields,
//! else (workdays together with weekdays) a Quartz line.

use super::cron::{Cron, CronFields, Dialect, Written};
use super::field::{self, Field, NTH, WEEKDAYS};
use super::sets::{
    ALL_DAYS, ALL_HOURS, ALL_MINUTES, ALL_MONTHS, ALL_SECONDS, ALL_WEEKDAYS, ALL_WEEKS, ALL_YEARS, DayRule, Days,
    YEAR_MIN, has,
};
use super::{Rule, Trigger};

impl Trigger {
    /// The same trigger in its normal form.
    #[must_use]
    pub fn normal(&self) -> Trigger {
        match &self.rule {
            Rule::Cron(cron) => Trigger { rule: Rule::Cron(Box::new(cron.normal())), ..self.clone() },
            _ => self.clone().map_parts(|part| part.normal()),
        }
    }
}

impl Cron {
    /// The same times, written in the normal form. A `~` stays, unless a job's id has settled it.
    fn normal(&self) -> Cron {
        if self.reading.has_spread && self.spread.is_none() {
            return self.clone();
        }
        let written = self.normal_text();
        match Cron::new(written, self.dst, None) {
            Ok(normal) => normal,
            // A normal form that does not read is a bug of ours; what was written still holds.
            Err(_) => self.clone(),
        }
    }

    fn normal_text(&self) -> Written {
        let days = self.sets.days.reduced();
        let years = year_values(&self.sets.year);
        let [second, minute, hour] = self.time_texts();
        let month = list(field::MONTH, self.sets.month, ALL_MONTHS, true);
        let year = years.map_or("*".to_owned(), |years| runs(&years, field::YEAR.high, true).join(","));
        let both = !days.any_day() && !days.any_weekday() && !days.either;
        let of_lines = |rule: &DayRule| {
            matches!(rule, DayRule::LastWorkday | DayRule::NearestWorkday(_) | DayRule::BeforeLast(1..))
        };
        let line = !days.weekday_rules.is_empty() || days.day_rules.iter().any(of_lines);
        if days.week != ALL_WEEKS || (both && !line) {
            let given = |text: String| Some(text).filter(|text| text != "*");
            let mut day = vec![];
            if !days.any_day() {
                day.extend(Some(list(field::DAY, days.day, ALL_DAYS, true)).filter(|_| days.day != 0));
                day.extend(days.day_rules.iter().map(|rule| named_rule(*rule)));
            }
            return Written::Fields(Box::new(CronFields {
                year: given(year),
                month: given(month),
                day: Some(day.join(",")).filter(|day| !day.is_empty() && day != "*"),
                week: given(list(field::WEEK, days.week, ALL_WEEKS, true)),
                day_of_week: given(list(field::DAY_OF_WEEK, days.weekday, ALL_WEEKDAYS, true)),
                hour: Some(hour),
                minute: Some(minute),
                second: Some(second).filter(|second| second != "0"),
            }));
        }
        let mut day = Vec::new();
        if days.any_day() {
            day.push("*".to_owned());
        } else {
            // A day field that begins with `*` would not count as restricting the day.
            day.extend(Some(list(field::DAY, days.day, ALL_DAYS, !days.either)).filter(|_| days.day != 0));
            day.extend(days.day_rules.iter().map(|rule| line_rule(*rule)));
        }
        let mut weekday = Vec::new();
        if days.any_weekday() {
            weekday.push("*".to_owned());
        } else {
            // In Quartz a range may not run over saturday.
            let names = || values(days.weekday).map(|day| WEEKDAYS[day as usize]).collect::<Vec<_>>().join(",");
            let listed = if both { names() } else { list(field::DAY_OF_WEEK, days.weekday, ALL_WEEKDAYS, false) };
            weekday.extend(Some(listed).filter(|_| days.weekday != 0));
            weekday.extend(days.weekday_rules.iter().map(|rule| line_rule(*rule)));
        }
        let mut words = vec![minute, hour, day.join(","), month, weekday.join(",")];
        if second != "0" || year != "*" || both {
            words.insert(0, second);
        }
        if year != "*" {
            words.push(year);
        }
        let dialect = if both { Dialect::Quartz } else { Dialect::Crontab };
        Written::Line { expr: words.join(" "), dialect }
    }

    /// Second, minute and hour. Fixed times stay lists of values; other times stay something else,
    /// because that decides about gaps and folds.
    fn time_texts(&self) -> [String; 3] {
        let parts = [
            (field::SECOND, self.sets.second, ALL_SECONDS),
            (field::MINUTE, self.sets.minute, ALL_MINUTES),
            (field::HOUR, self.sets.hour, ALL_HOURS),
        ];
        if self.fixed_time {
            return parts.map(|(_, set, _)| values(set).map(|value| value.to_string()).collect::<Vec<_>>().join(","));
        }
        let mut texts = parts.map(|(field, set, all)| list(field, set, all, true));
        let plain = |text: &String| text.bytes().all(|b| b.is_ascii_digit() || b == b',');
        if texts.iter().all(plain)
            && let Some(at) = (0..3).find(|at| parts[*at].1.count_ones() > 1)
        {
            let set: Vec<u32> = values(parts[at].1).collect();
            let mut items = vec![format!("{}-{}/{}", set[0], set[1], set[1] - set[0])];
            items.extend(set[2..].iter().map(u32::to_string));
            texts[at] = items.join(",");
        }
        texts
    }
}

impl Days {
    /// The same days with nothing said twice.
    pub(super) fn reduced(&self) -> Days {
        let mut days = self.clone();
        let of_week = |rule: &DayRule| matches!(rule, DayRule::Nth(..) | DayRule::LastWeekday(_));
        if days.any_day() {
            days.day_rules.clear();
        }
        if days.any_weekday() {
            days.weekday_rules.clear();
        }
        if days.either && (days.any_day() || days.any_weekday()) {
            return Days { week: days.week, ..Days::ALL };
        }
        // `3rd fri` as a day of the month is a day of the week as well; beside other days, either may match.
        if !days.either && days.any_weekday() && days.week == ALL_WEEKS && days.day_rules.iter().any(of_week) {
            let (weekday_rules, day_rules) = days.day_rules.into_iter().partition(of_week);
            days = Days { weekday: 0, weekday_rules, day_rules, ..days };
            if days.day == 0 && days.day_rules.is_empty() {
                days.day = ALL_DAYS;
            } else {
                days.either = true;
            }
        }
        for rules in [&mut days.day_rules, &mut days.weekday_rules] {
            rules.sort_unstable();
            rules.dedup();
        }
        let weekdays = days.weekday;
        days.weekday_rules.retain(|rule| match rule {
            DayRule::Nth(_, weekday) | DayRule::LastWeekday(weekday) => !has(weekdays, *weekday),
            _ => true,
        });
        days
    }
}

pub(super) fn values(set: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |value| has(set, *value))
}

/// The years of a set, unless it holds all.
pub(super) fn year_values(set: &[u64; 4]) -> Option<Vec<u32>> {
    let years = (0..256u32).filter(|at| has(set[*at as usize / 64], at % 64));
    (*set != ALL_YEARS).then(|| years.map(|at| at + YEAR_MIN as u32).collect())
}

/// A set as the text of its field.
fn list(field: Field, set: u64, all: u64, star: bool) -> String {
    if set == all {
        return if star { "*".to_owned() } else { format!("{}-{}", field.low, field.high) };
    }
    let values: Vec<u32> = values(set).collect();
    if field.names.is_empty() {
        let mut texts = runs(&values, field.high, star);
        // `*/n` says the same as `0-59/n`.
        if let [first, step, ..] = values[..]
            && star
            && first == field.low
            && texts.len() == 1
            && (first..=field.high).step_by((step - first) as usize).eq(values.iter().copied())
        {
            texts = vec![format!("*/{}", step - first)];
        }
        return texts.join(",");
    }
    let low = field.low;
    let name = |value: u32| field.names[(value - low) as usize];
    consecutive(&values)
        .into_iter()
        .flat_map(|(from, to)| match to - from {
            0 => vec![name(from).to_owned()],
            1 => vec![name(from).to_owned(), name(to).to_owned()],
            _ => vec![format!("{}-{}", name(from), name(to))],
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// Values as ranges, steps and single ones.
fn runs(values: &[u32], high: u32, steps: bool) -> Vec<String> {
    let even = values.windows(2).all(|pair| pair[1] - pair[0] == values[1] - values[0]);
    if let [first, second, ..] = values
        && let Some(last) = values.last()
        && even
        && second - first > 1
        && (values.len() > 2 || (steps && *last + (second - first) > high && *first < second - first))
    {
        return vec![format!("{first}-{last}/{}", second - first)];
    }
    let text = |(from, to): (u32, u32)| if from == to { from.to_string() } else { format!("{from}-{to}") };
    consecutive(values).into_iter().map(text).collect()
}

/// Maximal runs of consecutive values.
pub(super) fn consecutive(values: &[u32]) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> = Vec::new();
    for value in values {
        match found.last_mut() {
            Some((_, to)) if *to + 1 == *value => *to = *value,
            _ => found.push((*value, *value)),
        }
    }
    found
}

fn named_rule(rule: DayRule) -> String {
    match rule {
        DayRule::Nth(nth, weekday) => format!("{} {}", NTH[nth as usize - 1], WEEKDAYS[weekday as usize]),
        DayRule::LastWeekday(weekday) => format!("last {}", WEEKDAYS[weekday as usize]),
        _ => "last".to_owned(),
    }
}

fn line_rule(rule: DayRule) -> String {
    match rule {
        DayRule::BeforeLast(0) => "L".to_owned(),
        DayRule::BeforeLast(days) => format!("L-{days}"),
        DayRule::LastWorkday => "LW".to_owned(),
        DayRule::NearestWorkday(day) => format!("{day}W"),
        DayRule::Nth(nth, weekday) => format!("{}#{nth}", WEEKDAYS[weekday as usize]),
        DayRule::LastWeekday(weekday) => format!("{}L", WEEKDAYS[weekday as usize]),
    }
}
