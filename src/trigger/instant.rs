//! Instants and durations as text.

use super::zone::Zone;
use super::{check_instant, civil_is_sound, sets};
use crate::invalid::Invalid;
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};
use std::fmt::Write;
use std::time::Duration;

/// Reads RFC 3339 (`2027-01-01T09:00:00+01:00`, seconds may be left out), or a civil time or date in
/// `zone`.
pub fn parse_time(text: &str, zone: Zone) -> Result<DateTime<Utc>, Invalid> {
    let minutes = || DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M%#z").ok().filter(|_| text.contains('T'));
    if let Some(at) = DateTime::parse_from_rfc3339(text).ok().or_else(minutes) {
        let at = at.to_utc();
        return check_instant(at).map(|()| at);
    }
    parse_civil(text).map(|civil| zone.instant(civil)).ok_or_else(|| {
        let year =
            text.get(..4).filter(|_| text.as_bytes().get(4) == Some(&b'-')).and_then(|year| year.parse::<i32>().ok());
        let reason = match year {
            Some(year) if !(sets::YEAR_MIN..=sets::YEAR_MAX).contains(&year) => "it must lie between 1970 and 2200",
            Some(_) => "there is no such day or time",
            None => "it is not understood",
        };
        Invalid::new("time", text, reason).hint("such as `2027-01-01T09:00:00Z` or `2027-01-01 09:00`")
    })
}

/// Reads a civil time or date between 1970 and 2200.
pub(super) fn parse_civil(text: &str) -> Option<NaiveDateTime> {
    let shapes = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
    let civil = shapes.iter().find_map(|shape| NaiveDateTime::parse_from_str(text, shape).ok());
    civil.or_else(|| parse_date(text).map(|date| date.and_time(NaiveTime::MIN))).filter(civil_is_sound)
}

/// Reads `2027-01-31`, exactly so.
pub(super) fn parse_date(text: &str) -> Option<NaiveDate> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    (text.len() == 10 && date.and_hms_opt(0, 0, 0).as_ref().is_some_and(civil_is_sound)).then_some(date)
}

/// Reads a time of day: `9:30`, `09:30:15`.
pub(super) fn parse_time_of_day(text: &str) -> Option<NaiveTime> {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |part: &&str| {
        let digits = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<u32>().ok()).flatten()
    };
    let [hour, minute, second] = match parts.as_slice() {
        [hour, minute] => [number(hour)?, number(minute)?, 0],
        [hour, minute, second] => [number(hour)?, number(minute)?, number(second)?],
        _ => return None,
    };
    NaiveTime::from_hms_opt(hour, minute, second)
}

/// An instant with the offset that `zone` has then.
pub fn with_offset(at: DateTime<Utc>, zone: Zone) -> DateTime<FixedOffset> {
    let offset = i32::try_from(zone.offset(at).num_seconds()).ok().and_then(FixedOffset::east_opt);
    at.with_timezone(&offset.unwrap_or(FixedOffset::east_opt(0).expect("zero is an offset")))
}

/// An instant as RFC 3339, by the clocks of `zone`.
pub(super) fn instant_text(at: DateTime<Utc>, zone: Zone) -> String {
    let local = with_offset(at, zone);
    // RFC 3339 has no offsets with seconds, which some zones had in 1970.
    if local.offset().local_minus_utc() % 60 != 0 || zone == Zone::utc() {
        return at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    }
    local.to_rfc3339_opts(SecondsFormat::AutoSi, false)
}

/// The units of a duration in text, longest first, in microseconds. Months and years have no fixed
/// length.
const UNITS: [(&str, u64); 7] = [
    ("w", 604_800_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// A duration as `1w 2d 3h 4m 5s`.
pub(crate) fn duration_text(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, length) in UNITS {
        if rest >= length {
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{}{unit}", rest / length);
            rest %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads `90s`, `1h30m`, `2 days`. Refuses months and years.
pub fn parse_duration(text: &str) -> Result<Duration, Invalid> {
    let bad = |reason: String| Invalid::new("duration", text, reason).hint("such as `90s`, `1h30m` or `2 days`");
    if text.len() > 64 {
        return Err(bad("it is too long".into()));
    }
    let names = text.split(|c: char| !c.is_ascii_alphabetic()).filter(|name| !name.is_empty());
    for name in names {
        if name == "M" || name == "y" || name.starts_with("month") || name.starts_with("year") {
            return Err(Invalid::new("duration", text, "months and years have no fixed length")
                .hint("for the calendar's months, `every 1 month at 09:00`"));
        }
    }
    humantime::parse_duration(text).map_err(|error| bad(error.to_string()))
}
