//! Time zones: an IANA name and the offsets it stands for, from the database compiled in.
//!
//! The domain reads no files, so the zone data is jiff's bundled copy. chrono's own companion is
//! not used: its data is from 2025 and wrong today for several zones.

use crate::func::text_form;
use crate::invalid::Invalid;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

static DATABASE: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// An IANA time zone, by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(TimeZone);

text_form!(Zone);

/// A stretch of time within which a zone keeps one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub start: DateTime<Utc>,
    /// The first instant of the next stretch.
    pub end: DateTime<Utc>,
    pub offset: TimeDelta,
    /// The offset before `start`; larger than `offset` where the clock was put back.
    pub offset_before: TimeDelta,
}

impl Segment {
    pub fn civil(&self, instant: DateTime<Utc>) -> NaiveDateTime {
        instant.naive_utc() + self.offset
    }

    pub fn instant(&self, civil: NaiveDateTime) -> DateTime<Utc> {
        (civil - self.offset).and_utc()
    }
}

impl Zone {
    pub fn utc() -> Self {
        Zone(TimeZone::UTC)
    }

    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The zone's offset from UTC at an instant.
    pub fn offset(&self, instant: DateTime<Utc>) -> TimeDelta {
        TimeDelta::seconds(self.0.to_offset(timestamp(instant)).seconds().into())
    }

    /// The instant of a civil time: the first instant after the gap if the zone skips it, the first
    /// pass if it comes twice.
    pub fn instant(&self, civil: NaiveDateTime) -> DateTime<Utc> {
        // The stretch that holds a moment surely before this civil time, in any zone.
        let mut segment = self.segment(civil.and_utc() - TimeDelta::hours(26));
        loop {
            let instant = segment.instant(civil);
            if instant < segment.end {
                return instant.max(segment.start);
            }
            segment = self.segment(segment.end);
        }
    }

    pub(super) fn segment(&self, instant: DateTime<Utc>) -> Segment {
        let at = timestamp(instant);
        let offset = self.offset(instant);
        let second = TimeDelta::seconds(1);
        let started = timestamp(instant + second);
        let start = self.0.preceding(started).next().map(|change| datetime(change.timestamp()));
        let end = self.0.following(at).next().map(|change| datetime(change.timestamp()));
        Segment {
            start: start.unwrap_or(DateTime::<Utc>::MIN_UTC),
            end: end.unwrap_or(DateTime::<Utc>::MAX_UTC),
            offset,
            offset_before: start.map_or(offset, |start| self.offset(start - second)),
        }
    }
}

/// Inputs lie between 1970 and 2200, well within both libraries' ranges.
fn timestamp(instant: DateTime<Utc>) -> Timestamp {
    Timestamp::from_second(instant.timestamp()).unwrap_or(Timestamp::MAX)
}

fn datetime(at: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp(at.as_second(), 0).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

impl Default for Zone {
    fn default() -> Self {
        Zone::utc()
    }
}

impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Zone {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "UTC" {
            return Ok(Zone::utc());
        }
        let unknown = || {
            Invalid::new("time zone", text, "there is no such IANA zone").hint("names such as `Europe/Berlin` or `UTC`")
        };
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-+/".contains(&b);
        if text.is_empty() || text.len() > 64 || !text.bytes().all(legal) {
            return Err(unknown());
        }
        DATABASE.get(text).map(Zone).map_err(|_| unknown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_ends_where_the_clock_changes() {
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        let noon = "2026-03-28T12:00:00Z".parse().unwrap();
        let winter = berlin.segment(noon);
        assert_eq!(winter.offset, TimeDelta::hours(1));
        assert_eq!(winter.end, "2026-03-29T01:00:00Z".parse::<DateTime<Utc>>().unwrap());
        let summer = berlin.segment(winter.end);
        assert_eq!(summer.start, winter.end);
        assert_eq!((summer.offset, summer.offset_before), (TimeDelta::hours(2), TimeDelta::hours(1)));
    }

    #[test]
    fn a_zone_is_a_name_in_the_database_and_nothing_else() {
        for bad in ["", "../../etc/passwd", "/etc/localtime", ":foo", "Mars/Olympus", "EST5EDT,M3"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
        assert_eq!("europe/berlin".parse::<Zone>().unwrap().name(), "Europe/Berlin");
    }
}
