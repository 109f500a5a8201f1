//! What a job wants done when things do not go by plan: lateness, overlap, failure, a dead process; and
//! what one run may use.

use super::{ATTEMPTS_MAX, within};
use crate::invalid::Invalid;
use crate::run::{OutcomeKind, RunId};
use crate::trigger::spread;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::Duration;

/// What several missed fire times become when they are found late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", try_from = "CoalesceForm")]
pub enum Coalesce {
    /// One run, for the oldest of them.
    Earliest,
    /// One run, for the newest of them.
    #[default]
    Latest,
    /// A run for each, at most `max_catchup`; older ones are recorded as skipped.
    All,
}

/// APScheduler's users write true and false.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
enum CoalesceForm {
    Flag(bool),
    Name(String),
}

impl TryFrom<CoalesceForm> for Coalesce {
    type Error = Invalid;

    fn try_from(form: CoalesceForm) -> Result<Self, Invalid> {
        match form {
            CoalesceForm::Flag(true) => Ok(Coalesce::Latest),
            CoalesceForm::Flag(false) => Ok(Coalesce::All),
            CoalesceForm::Name(name) => name.parse(),
        }
    }
}

impl FromStr for Coalesce {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "earliest" => Ok(Coalesce::Earliest),
            "latest" | "true" => Ok(Coalesce::Latest),
            "all" | "false" => Ok(Coalesce::All),
            _ => Err(Invalid::new("coalesce", text, "it is `earliest`, `latest` or `all`")),
        }
    }
}

/// What happens at a fire time when `max_instances` runs of the job are still going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// The fire time is recorded as skipped.
    #[default]
    Skip,
    /// It waits for a run to end; several that wait are coalesced.
    Queue,
    /// The oldest run is cancelled and the fire time waits for its end.
    Cancel,
}

impl FromStr for Overlap {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "skip" => Ok(Overlap::Skip),
            "queue" => Ok(Overlap::Queue),
            "cancel" => Ok(Overlap::Cancel),
            _ => Err(Invalid::new("overlap", text, "it is `skip`, `queue` or `cancel`")),
        }
    }
}

/// What becomes of a run whose process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnInterrupted {
    /// Nothing more: each fire time is started at most once.
    #[default]
    Fail,
    /// It is started again as the next attempt: at least once.
    Rerun,
}

impl FromStr for OnInterrupted {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "fail" => Ok(OnInterrupted::Fail),
            "rerun" => Ok(OnInterrupted::Rerun),
            _ => Err(Invalid::new("on_interrupted", text, "it is `fail` or `rerun`")),
        }
    }
}

/// When a run that did not succeed is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Attempts in all, the first included. 1 means no retry. At most 100.
    pub max_attempts: u32,
    /// Wait before the second attempt, in seconds.
    #[serde(with = "seconds")]
    #[schemars(with = "SecondsForm")]
    pub first: Duration,
    /// Each further wait is this many times the one before.
    pub factor: f64,
    /// Longest wait, in seconds.
    #[serde(with = "seconds")]
    #[schemars(with = "SecondsForm")]
    pub cap: Duration,
    /// Each wait is longer by up to this many seconds, so that jobs that failed together do not
    /// come back together. Default none.
    #[serde(with = "seconds")]
    #[schemars(with = "SecondsForm")]
    pub jitter: Duration,
    /// Outcomes that are tried again; empty means every failure but `cancelled` and `invalid`.
    pub outcomes: Vec<OutcomeKind>,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            max_attempts: 1,
            first: Duration::from_secs(1),
            factor: 2.0,
            cap: Duration::from_secs(3600),
            jitter: Duration::ZERO,
            outcomes: Vec::new(),
        }
    }
}

impl Retry {
    /// How long to wait before the attempt that follows `run`, or `None` to give up. The jitter
    /// depends on the run's id alone.
    pub fn delay_after(&self, run: RunId, attempt: u32, outcome: OutcomeKind) -> Option<TimeDelta> {
        let wanted = if self.outcomes.is_empty() {
            !matches!(outcome, OutcomeKind::Cancelled | OutcomeKind::Invalid | OutcomeKind::Interrupted)
        } else {
            self.outcomes.contains(&outcome)
        };
        if !wanted || !outcome.is_failure() {
            return None;
        }
        self.wait_after(&run.0.to_bytes(), attempt)
    }

    /// The wait after so many attempts at anything, if there is one more; `key` spreads its jitter.
    pub(crate) fn wait_after(&self, key: &[u8], attempt: u32) -> Option<TimeDelta> {
        if attempt >= self.max_attempts {
            return None;
        }
        let wait = self.first.as_secs_f64() * self.factor.powi(attempt.saturating_sub(1) as i32);
        let wait = Duration::try_from_secs_f64(wait).unwrap_or(self.cap).min(self.cap);
        let window = u64::try_from(self.jitter.as_micros()).unwrap_or(0);
        let jitter = Duration::from_micros(spread("retry", key, window));
        TimeDelta::from_std(wait + jitter).ok()
    }

    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        within("retry.max_attempts", "", self.max_attempts, 1, ATTEMPTS_MAX, "attempts")?;
        let factor = self.factor;
        if !(1.0..=100.0).contains(&factor) {
            return Err(Invalid::new("retry.factor", factor.to_string(), "it must be 1 to 100"));
        }
        within("retry.cap", "", self.cap.as_secs(), 0, 30 * 86_400, "seconds")?;
        within("retry.jitter", "", self.jitter.as_secs(), 0, 30 * 86_400, "seconds")
    }
}

/// A dead-man switch: how often a run of the job must succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Longest time from one success to the next, in seconds.
    #[serde(with = "seconds")]
    #[schemars(with = "SecondsForm")]
    pub period: Duration,
    /// And so many seconds more before JOB_LATE is raised.
    #[serde(default, with = "seconds")]
    #[schemars(with = "SecondsForm")]
    pub grace: Duration,
}

impl Expect {
    /// When the job is late, if it last succeeded, or began to be watched, at `since`.
    pub fn deadline(&self, since: DateTime<Utc>) -> DateTime<Utc> {
        let wait = TimeDelta::from_std(self.period.saturating_add(self.grace)).unwrap_or(TimeDelta::MAX);
        since.checked_add_signed(wait).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// What one run may use. A run that exceeds a limit ends; the process it runs in does not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Wasm instructions, roughly; 10^9 is about a second of a tight loop. Default 10^10.
    pub fuel: u64,
    /// Bytes of linear memory, summed over all memories of the run. Default 64 MiB.
    pub memory: u64,
    /// Longest wall-clock time of one run, in seconds; past it the outcome is `timed_out`. Default 30 s.
    #[serde(with = "seconds")]
    #[schemars(with = "SecondsForm")]
    pub timeout: Duration,
    /// Bytes kept of each of stdout and stderr; more is cut with a mark. Default 256 KiB.
    pub output: u64,
}

impl Limits {
    pub const FUEL_MAX: u64 = 10_000_000_000_000;
    pub const MEMORY_MAX: u64 = 1 << 30;
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3600);
    pub const OUTPUT_MAX: u64 = 16 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Limits { fuel: 10_000_000_000, memory: 64 << 20, timeout: Duration::from_secs(30), output: 256 << 10 }
    }
}

/// How a [`Duration`] comes in: a number of seconds, or text such as `1h30m`.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a number of seconds, or text such as `1h30m`")]
pub(crate) enum SecondsForm {
    Seconds(f64),
    Text(String),
}

/// A [`Duration`] as a JSON number of seconds; text such as `1h30m` is read too.
pub(crate) mod seconds {
    use super::SecondsForm;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        if value.subsec_nanos() == 0 {
            to.serialize_u64(value.as_secs())
        } else {
            to.serialize_f64(value.as_secs_f64())
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        match SecondsForm::deserialize(from)? {
            SecondsForm::Text(text) => crate::trigger::parse_duration(&text).map_err(D::Error::custom),
            SecondsForm::Seconds(seconds) => Duration::try_from_secs_f64(seconds)
                .map_err(|_| D::Error::custom(format!("`{seconds}` is not a number of seconds"))),
        }
    }
}

/// An optional [`Duration`] as a JSON number of seconds or null.
pub(crate) mod optional_seconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    #[derive(Deserialize)]
    struct Seconds(#[serde(with = "super::seconds")] Duration);

    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::seconds::serialize(value, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Seconds>::deserialize(from)?.map(|Seconds(value)| value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_waits_longer_each_time_and_gives_up() {
        let retry = Retry { max_attempts: 4, cap: Duration::from_secs(3), ..Retry::default() };
        let id = RunId(ulid::Ulid::nil());
        let waits: Vec<_> = (1..=4).map(|n| retry.delay_after(id, n, OutcomeKind::Trapped)).collect();
        let seconds = |n| Some(TimeDelta::seconds(n));
        assert_eq!(waits, [seconds(1), seconds(2), seconds(3), None]);
        assert_eq!(retry.delay_after(id, 1, OutcomeKind::Cancelled), None);
        assert_eq!(retry.delay_after(id, 1, OutcomeKind::Succeeded), None);
    }

    #[test]
    fn a_duration_is_a_number_of_seconds_or_text() {
        let first = |json: &str| serde_json::from_str::<Retry>(json).map(|retry| retry.first);
        assert_eq!(first(r#"{"first": 1.5}"#).unwrap(), Duration::from_millis(1500));
        assert_eq!(first(r#"{"first": "1m 30s"}"#).unwrap(), Duration::from_secs(90));
        assert!(first(r#"{"first": "soon"}"#).unwrap_err().to_string().contains("soon"));
        assert!(first(r#"{"first": -1}"#).is_err());
    }
}
