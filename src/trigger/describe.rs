//! A trigger as an English sentence, made from what was understood, not from what was written.

use super::combine::Exclusion;
use super::cron::{Cron, Dst};
use super::instant::{duration_text, instant_text};
use super::normal::{consecutive, values, year_values};
use super::sets::{ALL_HOURS, ALL_MINUTES, ALL_MONTHS, ALL_SECONDS, ALL_WEEKS, DayRule, Days};
use super::text::time_text;
use super::{Rule, Trigger, Zone};
use std::time::Duration;

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl Trigger {
    /// What the trigger means, as a sentence without a full stop.
    pub fn describe(&self) -> String {
        let mut text = self.sentence(None);
        if self.jitter != Duration::ZERO {
            text.push_str(&format!("; each run up to {} later, before the next time", duration_text(self.jitter)));
        }
        match self.max_runs {
            None => {}
            Some(1) => text.push_str("; one run at most"),
            Some(runs) => text.push_str(&format!("; {runs} runs at most")),
        }
        text
    }

    /// The rule and its bounds. A zone is named unless it is the one `around`.
    fn sentence(&self, around: Option<Zone>) -> String {
        let mut text = self.rule_sentence(around);
        if let Some(start) = self.start.filter(|_| !matches!(self.rule, Rule::Interval(_))) {
            text.push_str(&format!("; from {} on", instant_text(start, self.timezone)));
        }
        if let Some(end) = self.end {
            text.push_str(&format!("; until {}", instant_text(end, self.timezone)));
        }
        text
    }

    fn rule_sentence(&self, around: Option<Zone>) -> String {
        let zone = match around {
            Some(zone) if zone == self.timezone => String::new(),
            _ if self.timezone == Zone::utc() => ", UTC".to_owned(),
            _ => format!(", {} time", self.timezone),
        };
        let all = |triggers: &[Trigger], joint: &str| {
            triggers.iter().map(|trigger| trigger.sentence(None)).collect::<Vec<_>>().join(joint)
        };
        match &self.rule {
            Rule::Date(None) => "once, now".to_owned(),
            Rule::Date(Some(at)) => format!("once, at {}", instant_text(*at, self.timezone)),
            Rule::Interval(every) => match self.start {
                Some(start) => {
                    format!("every {}, counted from {}", duration_text(*every), instant_text(start, self.timezone))
                }
                None => format!("every {}", duration_text(*every)),
            },
            Rule::Cron(cron) => format!("{}{zone}{}", cron.describe(), clock_changes(cron.dst)),
            Rule::Calendar(calendar) => {
                let from = calendar.start_date.map_or(String::new(), |date| format!(", counted from {date}"));
                let (units, at) = (calendar.units_text(), time_text(calendar.at));
                format!("every {units} at {at}{from}{zone}{}", clock_changes(calendar.dst))
            }
            Rule::Plugin(asked) => format!("when the plugin function `{}` says", asked.func),
            Rule::Or(triggers) => all(triggers, "; or "),
            Rule::And(and) => format!("whenever all of these agree: {}", all(&and.triggers, "; ")),
            Rule::Except(except) => {
                let exclusion = |exclusion: &Exclusion| match exclusion {
                    Exclusion::Dates(from, to) if from == to => from.to_string(),
                    Exclusion::Dates(from, to) => format!("{from} to {to}"),
                    Exclusion::Times(from, to) => format!("{} to {}", from.format("%F %T"), to.format("%F %T")),
                    Exclusion::Weekday(weekday) => WEEKDAYS[weekday.num_days_from_monday() as usize].to_owned(),
                    Exclusion::Trigger(trigger) => format!("the times “{}”", trigger.sentence(Some(self.timezone))),
                };
                let exclusions: Vec<String> = except.exclusions.iter().map(exclusion).collect();
                let days = if except.trigger.timezone == self.timezone { "" } else { &zone };
                format!("{}; except {}{days}", except.trigger.sentence(None), joined(&exclusions, "and"))
            }
        }
    }
}

/// What is not the default about changes of the clocks.
fn clock_changes(dst: Dst) -> &'static str {
    match dst {
        Dst::Once => "",
        Dst::Wall => "; where clocks change, skipped times do not run and doubled ones run twice",
        Dst::Shift => "; where clocks change, skipped times run later by the gap and doubled ones run twice",
    }
}

impl Cron {
    fn describe(&self) -> String {
        let sets = &self.sets;
        let year = year_values(&sets.year).map_or(String::new(), |years| match step(&years) {
            Some(step) if step > 1 && years.len() > 3 => {
                format!(" in every {} year from {} to {}", nth(step), years[0], years[years.len() - 1])
            }
            _ => format!(" in {}", ranges(&years, "and", &|year| year.to_string())),
        });
        format!("{}, {}{year}", self.time(), days(&sets.days.reduced(), sets.month))
    }

    fn time(&self) -> String {
        let [second, minute, hour] = [self.sets.second, self.sets.minute, self.sets.hour];
        let (seconds, minutes): (Vec<u32>, Vec<u32>) = (values(second).collect(), values(minute).collect());
        let hours: Vec<u32> = values(hour).collect();
        let at_second = if second == 1 { String::new() } else { format!(", at second {}", seconds[0]) };
        if seconds.len() > 1 {
            let minute = if minute == ALL_MINUTES { String::new() } else { format!(", in minute {}", plain(&minutes)) };
            return format!(
                "{}{minute}{}",
                every(&seconds, second, ALL_SECONDS, 60, "second"),
                within_hours(&hours, hour)
            );
        }
        if minutes.len() > 1 {
            return format!(
                "{}{at_second}{}",
                every(&minutes, minute, ALL_MINUTES, 60, "minute"),
                within_hours(&hours, hour)
            );
        }
        let clock = |hour: &u32| {
            let second = if second == 1 { String::new() } else { format!(":{:02}", seconds[0]) };
            format!("{hour:02}:{:02}{second}", minutes[0])
        };
        if hour == ALL_HOURS {
            return match minutes[0] {
                0 => format!("every hour on the hour{at_second}"),
                minute => format!("every hour at minute {minute}{at_second}"),
            };
        }
        match step(&hours) {
            Some(step) if step > 1 && hours.len() > 2 && !self.fixed_time => {
                format!("every {step} hours from {} to {}", clock(&hours[0]), clock(&hours[hours.len() - 1]))
            }
            Some(1) if hours.len() > 2 => {
                format!("every hour from {} to {}", clock(&hours[0]), clock(&hours[hours.len() - 1]))
            }
            _ => format!("at {}", joined(&hours.iter().map(clock).collect::<Vec<_>>(), "and")),
        }
    }
}

/// `every 15 minutes`, `at minutes 3, 7 and 40`.
fn every(values: &[u32], set: u64, all: u64, size: u32, unit: &str) -> String {
    if set == all {
        return format!("every {unit}");
    }
    match step(values) {
        Some(step) if step > 1 && size.is_multiple_of(step) && values.len() as u32 == size / step => {
            let from = if values[0] == 0 { String::new() } else { format!(" from {unit} {}", values[0]) };
            format!("every {step} {unit}s{from}")
        }
        _ => format!("at {unit}s {}", plain(values)),
    }
}

fn within_hours(hours: &[u32], set: u64) -> String {
    if set == ALL_HOURS {
        return String::new();
    }
    let span = |(from, to): (u32, u32)| format!("from {from:02}:00 to {to:02}:59");
    format!(", {}", joined(&consecutive(hours).into_iter().map(span).collect::<Vec<_>>(), "and"))
}

/// The distance of evenly spaced values.
fn step(values: &[u32]) -> Option<u32> {
    let step = values.get(1)? - values[0];
    values.windows(2).all(|pair| pair[1] - pair[0] == step).then_some(step)
}

fn plain(values: &[u32]) -> String {
    ranges(values, "and", &|value| value.to_string())
}

/// `1 to 5, 7 and 9`
fn ranges(values: &[u32], joint: &str, name: &dyn Fn(u32) -> String) -> String {
    let text = |(from, to): (u32, u32)| match to - from {
        0 => vec![name(from)],
        1 => vec![name(from), name(to)],
        _ => vec![format!("{} to {}", name(from), name(to))],
    };
    joined(&consecutive(values).into_iter().flat_map(text).collect::<Vec<_>>(), joint)
}

fn joined(items: &[String], joint: &str) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [items @ .., last] => format!("{} {joint} {last}", items.join(", ")),
    }
}

fn days(days: &Days, month: u64) -> String {
    let months = ranges(&values(month).collect::<Vec<_>>(), "and", &|month| MONTHS[month as usize - 1].to_owned());
    let every_month = month == ALL_MONTHS;
    // `on the 13th of March`, where the month belongs to all of the days; else it is told at the end.
    let one_kind = days.any_day() || days.any_weekday();
    let plain_weekdays = !days.any_weekday() && days.weekday != 0;
    let every_day = days.any_day() && days.any_weekday();
    let of_months = !(every_month || every_day || plain_weekdays) && one_kind;
    let of = if of_months { format!("of {months}") } else { "of the month".to_owned() };
    let text = match (month_days(days, &of), week_days(days, &of, "and")) {
        (None, None) => "every day".to_owned(),
        (Some(day), None) => day,
        (None, Some(weekday)) => weekday,
        (Some(day), Some(weekday)) if days.either => format!("{day} or {weekday}"),
        (Some(day), Some(_)) => {
            let weekday = week_days(days, &of, "or").unwrap_or_default();
            let weekday = weekday.strip_prefix("every ").or(weekday.strip_prefix("on ")).unwrap_or(&weekday).to_owned();
            format!("{day} if that is {weekday}")
        }
    };
    let week = if days.week == ALL_WEEKS {
        String::new()
    } else {
        format!(" of ISO week {}", plain(&values(days.week).collect::<Vec<_>>()))
    };
    let month = match (every_month || of_months, days.either) {
        (true, _) => String::new(),
        (false, true) => format!(", all in {months}"),
        (false, false) => format!(" in {months}"),
    };
    format!("{text}{week}{month}")
}

/// `on the 1st and 15th of the month`
fn month_days(days: &Days, of: &str) -> Option<String> {
    if days.any_day() {
        return None;
    }
    let numbers: Vec<u32> = values(days.day).collect();
    let mut items = Vec::new();
    if let (Some(step @ 2..), [first, .., last]) = (step(&numbers), &numbers[..])
        && numbers.len() > 3
    {
        items.push(format!("every {} day from the {} to the {}", nth(step), nth(*first), nth(*last)));
    } else if !numbers.is_empty() {
        items.push(format!("the {}", ranges(&numbers, "and", &nth)));
    }
    items.extend(days.day_rules.iter().map(|rule| day_rule(*rule)));
    Some(format!("on {} {of}", joined(&items, "and")))
}

/// `every Friday`, `on the last Friday of the month`.
fn week_days(days: &Days, of: &str, joint: &str) -> Option<String> {
    if days.any_weekday() {
        return None;
    }
    let numbers: Vec<u32> = values(days.weekday).collect();
    let rules: Vec<String> = days.weekday_rules.iter().map(|rule| day_rule(*rule)).collect();
    let plain = ranges(&numbers, joint, &|weekday| WEEKDAYS[weekday as usize].to_owned());
    let ruled = format!("on {} {of}", joined(&rules, joint));
    Some(match (numbers.is_empty(), rules.is_empty()) {
        (false, true) if consecutive(&numbers).iter().any(|(from, to)| to - from > 1) => plain,
        (false, true) => format!("every {plain}"),
        (true, _) => ruled,
        (false, false) => format!("every {plain} and {ruled}"),
    })
}

fn day_rule(rule: DayRule) -> String {
    match rule {
        DayRule::BeforeLast(0) => "the last day".to_owned(),
        DayRule::BeforeLast(1) => "the last day but one".to_owned(),
        DayRule::BeforeLast(days) => format!("the day {days} days before the last"),
        DayRule::LastWorkday => "the last working day (Monday to Friday)".to_owned(),
        DayRule::NearestWorkday(day) => format!("the working day (Monday to Friday) nearest to the {}", nth(day)),
        DayRule::Nth(number, weekday) => format!("the {} {}", nth(number), WEEKDAYS[weekday as usize]),
        DayRule::LastWeekday(weekday) => format!("the last {}", WEEKDAYS[weekday as usize]),
    }
}

pub(super) fn weekday_name(weekday: u32) -> &'static str {
    WEEKDAYS[weekday as usize]
}

/// `1st`, `22nd`.
fn nth(number: u32) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}
