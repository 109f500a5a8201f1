//! A job: which function, when, and what to do when things go wrong.
//!
//! A [`Job`] is data. It is checked as a whole by [`Job::validate`], which every way in calls once;
//! what changes while the job lives (next run time, running runs, pending attempts) is [`JobState`].

mod patch;
mod policy;
mod state;

pub use policy::{Coalesce, Expect, Limits, OnInterrupted, Overlap, Retry};
pub(crate) use policy::{SecondsForm, optional_seconds, seconds};
pub use state::{
    Arguments, Backfill, Carried, JobState, Origin, PendingRun, Question, RemoveReason, RunningRun, Status,
};

use crate::func::{FuncRef, text_form};
use crate::grant::{GRANTS_MAX, Pick};
use crate::invalid::Invalid;
use crate::trigger::Trigger;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub const NAME_MAX: usize = 256;
pub const ARGS_BYTES_MAX: usize = 256 * 1024;
pub const ARGS_DEPTH_MAX: usize = 64;
pub const METADATA_BYTES_MAX: usize = 16 * 1024;
pub const TAGS_MAX: usize = 64;
/// Bounded because the running runs of a job are part of its stored state.
pub const MAX_INSTANCES_MAX: u32 = 64;
pub const MAX_CATCHUP_MAX: u32 = 10_000;
pub const ATTEMPTS_MAX: u32 = 100;
pub const PRIORITY_MAX: i8 = 100;
/// Longest period, and longest grace, of a dead-man switch.
pub const EXPECT_MAX: Duration = Duration::from_secs(3660 * 86_400);

/// A job's id: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, unique in its job store, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(Arc<str>);

impl JobId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let legal = |(i, b): (usize, u8)| b.is_ascii_alphanumeric() || (i > 0 && b"._-".contains(&b));
        if text.is_empty() || text.len() > 128 || !text.bytes().enumerate().all(legal) {
            return Err(Invalid::new(
                "job id",
                text,
                "it must be 1 to 128 of A-Z, a-z, 0-9, `.`, `_` and `-`, the first a letter or digit",
            ));
        }
        Ok(JobId(text.into()))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(JobId, "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$");

/// The name of an executor or a job store in a scheduler. Same characters as a job id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Alias(Arc<str>);

impl Alias {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Alias {
    fn default() -> Self {
        Alias("default".into())
    }
}

impl FromStr for Alias {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse::<JobId>().map(|id| Alias(id.0)).map_err(|e| Invalid { what: "alias".into(), ..e })
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

text_form!(Alias, "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$");

/// A function bound to a trigger, with its policies. See the fields for units and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Job {
    pub id: JobId,
    /// 1 to 256 characters. Default: the func.
    #[serde(default)]
    pub name: String,
    pub func: FuncRef,
    /// Bound to the export's parameters by position.
    #[serde(default)]
    pub args: Vec<Value>,
    /// Bound to the export's parameters by their WIT names.
    #[serde(default)]
    pub kwargs: Map<String, Value>,
    pub trigger: Trigger,
    #[serde(default)]
    pub executor: Alias,
    #[serde(default)]
    pub jobstore: Alias,
    /// A run that cannot start within this many seconds of its fire time is recorded as missed.
    /// Default none: late is better than never.
    #[serde(default, with = "optional_seconds")]
    #[schemars(with = "Option<SecondsForm>")]
    pub misfire_grace_time: Option<Duration>,
    #[serde(default)]
    pub coalesce: Coalesce,
    /// The most runs that one catch-up with `coalesce = all` may start. Default 100.
    #[serde(default = "default_max_catchup")]
    pub max_catchup: u32,
    /// Runs of this job at one time. Default 1, at most 64.
    #[serde(default = "default_max_instances")]
    pub max_instances: u32,
    #[serde(default)]
    pub overlap: Overlap,
    /// Of runs that wait for a slot, those of the highest priority start first; -100 to 100.
    /// Default 0.
    #[serde(default)]
    pub priority: i8,
    #[serde(default)]
    pub retry: Retry,
    #[serde(default)]
    pub on_interrupted: OnInterrupted,
    #[serde(default)]
    pub limits: Limits,
    /// Which of its plugin's grants its runs have. Default all of them; never more.
    #[serde(default)]
    pub grants: Option<Vec<Pick>>,
    /// Its runs see a clock that stands at their fire time, and random numbers that depend on job and
    /// fire time alone. Default no.
    #[serde(default)]
    pub deterministic: bool,
    /// Pause the job after this many runs in a row that did not succeed. Default never.
    #[serde(default)]
    pub pause_after: Option<u32>,
    /// JOB_LATE is raised when no run has succeeded for so long. Default never.
    #[serde(default)]
    pub expect: Option<Expect>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Free for the caller; at most 16 KiB as JSON.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

fn default_max_catchup() -> u32 {
    100
}

fn default_max_instances() -> u32 {
    1
}

impl Job {
    /// A job with every policy at its default. Nothing is checked before [`Job::validate`].
    pub fn new(id: JobId, func: FuncRef, trigger: Trigger) -> Self {
        Job {
            id,
            name: func.to_string(),
            func,
            args: Vec::new(),
            kwargs: Map::new(),
            trigger,
            executor: Alias::default(),
            jobstore: Alias::default(),
            misfire_grace_time: None,
            coalesce: Coalesce::default(),
            max_catchup: default_max_catchup(),
            max_instances: default_max_instances(),
            overlap: Overlap::default(),
            priority: 0,
            retry: Retry::default(),
            on_interrupted: OnInterrupted::default(),
            limits: Limits::default(),
            grants: None,
            deterministic: false,
            pause_after: None,
            expect: None,
            tags: BTreeMap::new(),
            metadata: Map::new(),
        }
    }

    /// The job as a run with other arguments calls it.
    pub fn with_arguments(&self, arguments: &Arguments) -> Self {
        Job { args: arguments.args.clone(), kwargs: arguments.kwargs.clone(), ..self.clone() }
    }

    /// When the run of a fire time starts: later by the trigger's jitter, the same at each asking.
    pub fn start_time(&self, fire_time: DateTime<Utc>) -> DateTime<Utc> {
        self.trigger.start_time(self.id.as_str(), fire_time)
    }

    /// Checks every rule that needs nothing but the job itself.
    pub fn validate(&self) -> Result<(), Invalid> {
        let name_len = self.name.chars().count();
        within("name", &self.name, name_len, 1, NAME_MAX, "characters")?;
        validate_arguments(&self.args, &self.kwargs)?;
        within("metadata", "", json_size(&self.metadata), 0, METADATA_BYTES_MAX, "bytes of JSON")?;
        within("max_instances", "", self.max_instances, 1, MAX_INSTANCES_MAX, "runs")?;
        within("max_catchup", "", self.max_catchup, 1, MAX_CATCHUP_MAX, "runs")?;
        within("priority", "", self.priority, -PRIORITY_MAX, PRIORITY_MAX, "")?;
        if self.misfire_grace_time == Some(Duration::ZERO) {
            return Err(Invalid::new("misfire_grace_time", "0", "it must be longer than nothing")
                .hint("leave it out to run however late"));
        }
        if self.pause_after == Some(0) {
            return Err(Invalid::new("pause_after", "0", "it must be at least 1"));
        }
        if let Some(expect) = self.expect {
            within("expect.period", "", expect.period.as_secs(), 1, EXPECT_MAX.as_secs(), "seconds")?;
            within("expect.grace", "", expect.grace.as_secs(), 0, EXPECT_MAX.as_secs(), "seconds")?;
        }
        self.trigger.validate()?;
        self.retry.validate()?;
        self.validate_limits()?;
        let picks = self.grants.as_ref().map_or(0, Vec::len);
        within("grants", "", picks, 0, GRANTS_MAX * 4, "grants")?;
        within("tags", "", self.tags.len(), 0, TAGS_MAX, "tags")?;
        for (key, value) in &self.tags {
            within("tag", key, key.len(), 1, 64, "bytes")?;
            within("tag value", value, value.len(), 0, 256, "bytes")?;
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), Invalid> {
        within("limits.fuel", "", self.limits.fuel, 1, Limits::FUEL_MAX, "units")?;
        within("limits.memory", "", self.limits.memory, 1 << 16, Limits::MEMORY_MAX, "bytes")?;
        let timeout = self.limits.timeout;
        if timeout < Duration::from_millis(1) || timeout > Limits::TIMEOUT_MAX {
            let given = format!("{}", timeout.as_secs_f64());
            return Err(Invalid::new("limits.timeout", given, "it must be 0.001 to 86400 seconds"));
        }
        within("limits.output", "", self.limits.output, 0, Limits::OUTPUT_MAX, "bytes")
    }
}

fn validate_arguments(args: &[Value], kwargs: &Map<String, Value>) -> Result<(), Invalid> {
    within("args", "", json_size(&args) + json_size(kwargs), 0, ARGS_BYTES_MAX, "bytes of JSON")?;
    let depth = args.iter().chain(kwargs.values()).map(depth).max().unwrap_or(0);
    within("args", "", depth, 0, ARGS_DEPTH_MAX, "levels of nesting")
}

fn within<N: PartialOrd + fmt::Display>(
    what: &str,
    input: &str,
    given: N,
    least: N,
    most: N,
    unit: &str,
) -> Result<(), Invalid> {
    if given < least || given > most {
        let reason = format!("it must be {least} to {most} {unit}, not {given}").replace(" ,", ",");
        return Err(Invalid::new(what, input, reason));
    }
    Ok(())
}

fn json_size(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).map_or(usize::MAX, |()| count.0)
}

pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job::new("j".parse().unwrap(), "hello:greet".parse().unwrap(), Trigger::now())
    }

    #[test]
    fn an_id_is_plain_and_short() {
        for bad in ["", "a/b", "a\0", ".a", "ä", " a", &"x".repeat(129), "../x"] {
            assert!(bad.parse::<JobId>().is_err(), "{bad:?}");
        }
        assert!("A.b_c-9".parse::<JobId>().is_ok());
        assert!("x".repeat(128).parse::<JobId>().is_ok());
    }

    #[test]
    fn the_defaults_are_valid() {
        job().validate().unwrap();
    }

    #[test]
    fn each_rule_names_its_field() {
        type Break = fn(&mut Job);
        let cases: [(&str, Break); 9] = [
            ("name", |j| j.name.clear()),
            ("max_instances", |j| j.max_instances = 0),
            ("max_catchup", |j| j.max_catchup = 10_001),
            ("misfire_grace_time", |j| j.misfire_grace_time = Some(Duration::ZERO)),
            ("limits.fuel", |j| j.limits.fuel = 0),
            ("limits.memory", |j| j.limits.memory = 2 << 30),
            ("limits.timeout", |j| j.limits.timeout = Duration::ZERO),
            ("retry.factor", |j| j.retry.factor = f64::NAN),
            ("args", |j| j.args = vec!["x".repeat(300_000).into()]),
        ];
        for (what, spoil) in cases {
            let mut job = job();
            spoil(&mut job);
            assert_eq!(job.validate().unwrap_err().what, what);
        }
    }

    #[test]
    fn a_job_survives_json() {
        let mut job = job();
        job.misfire_grace_time = Some(Duration::from_millis(1500));
        job.limits.timeout = Duration::from_secs(5);
        let text = serde_json::to_string(&job).unwrap();
        assert!(text.contains(r#""misfire_grace_time":1.5"#), "{text}");
        assert_eq!(serde_json::from_str::<Job>(&text).unwrap(), job);
    }
}
