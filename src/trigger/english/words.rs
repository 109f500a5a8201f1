//! Words of one meaning: units, weekdays, months, ordinals.

use crate::trigger::field::{MONTHS, WEEKDAYS};
use crate::trigger::sets::span;

const ORDINALS: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];

/// A unit of time, short to long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Period {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// Longer units rank higher; milliseconds and microseconds are below all.
pub(super) fn rank(unit: Period) -> u8 {
    unit as u8 + 2
}

/// A unit of time by its name, in singular or plural.
pub(super) fn period(word: &str) -> Option<Period> {
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

/// The days that one word names: `friday`, `mondays`, `mon-fri`, `weekends`; bit 0 is Monday.
pub(in crate::trigger) fn weekday_set(word: &str) -> Option<u64> {
    const FULL: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    const SHORT: [&str; 7] = ["mon", "tues", "wed", "thurs", "fri", "sat", "sun"];
    let one = |word: &str| {
        let singular = word.strip_suffix('s').unwrap_or(word);
        let at = |names: &[&str; 7], word: &str| names.iter().position(|name| *name == word);
        at(&FULL, singular).or(at(&SHORT, word)).or(at(&WEEKDAYS, word)).map(|at| at as u32)
    };
    match word {
        "weekday" | "weekdays" | "workday" | "workdays" => return Some(span(0, 4)),
        "weekend" | "weekends" => return Some(span(5, 6)),
        _ => {}
    }
    match word.split_once('-') {
        Some((from, to)) => Some(range(one(from)?, one(to)?)),
        None => one(word).map(|day| 1 << day),
    }
}

/// The days from one to another, over the end of the week too.
pub(super) fn range(from: u32, to: u32) -> u64 {
    let to = if to < from { to + 7 } else { to };
    (from..=to).fold(0, |days, day| days | 1 << (day % 7))
}

/// A month from 1.
pub(super) fn month(word: &str) -> Option<u32> {
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
pub(super) fn ordinal(word: &str) -> Option<u32> {
    if let Some(at) = ORDINALS.iter().position(|name| *name == word) {
        return Some(at as u32 + 1);
    }
    let digits = ["st", "nd", "rd", "th"].iter().find_map(|suffix| word.strip_suffix(suffix))?;
    digits.parse().ok().filter(|day| (1..=31).contains(day))
}
