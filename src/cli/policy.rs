//! The flags that say how a job is run, the same for adding and for modifying: what is not given is
//! left at its default, or as it was.

use super::exec::LimitArgs;
use crate::func::FuncRef;
use crate::grant::Pick;
use crate::invalid::Invalid;
use crate::job::{Alias, Coalesce, OnInterrupted, Overlap};
use crate::run::OutcomeKind;
use crate::strict_json;
use crate::trigger::parse_duration;
use clap::Args;
use serde_json::{Map, Value, json};
use std::time::Duration;

#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(flatten)]
    limits: LimitArgs,
    /// A name for people [default: the func]
    #[arg(long)]
    name: Option<String>,
    /// Runs at one time [default: 1]
    #[arg(long, value_name = "N")]
    max_instances: Option<u32>,
    /// At max-instances: skip the fire time, queue it, or cancel the oldest run [default: skip]
    #[arg(long, value_name = "POLICY")]
    overlap: Option<Overlap>,
    /// Of runs that wait for a slot, higher ones start first: -100 to 100 [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    priority: Option<i8>,
    /// Longest delay after which a run still starts, such as 1h [default: any]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    misfire_grace: Option<Duration>,
    /// What several missed fire times become: earliest, latest or all [default: latest]
    #[arg(long, value_name = "POLICY")]
    coalesce: Option<Coalesce>,
    /// The most runs that a catch-up with `--coalesce all` starts [default: 100]
    #[arg(long, value_name = "N")]
    max_catchup: Option<u32>,
    /// Further attempts after a run that did not succeed [default: 0]
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Wait before the second attempt; it doubles each time [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    retry_wait: Option<Duration>,
    /// Each wait is longer by up to this much [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    retry_jitter: Option<Duration>,
    /// Only after these outcomes, joined by commas, such as failed,timed_out [default: any failure]
    #[arg(long, value_name = "OUTCOMES", value_delimiter = ',')]
    retry_on: Option<Vec<OutcomeKind>>,
    /// If the process dies during a run: fail (at most once) or rerun (at least once) [default: fail]
    #[arg(long, value_name = "POLICY")]
    on_interrupted: Option<OnInterrupted>,
    /// Pause the job after so many runs in a row that did not succeed.
    #[arg(long, value_name = "N")]
    pause_after: Option<u32>,
    /// Raise JOB_LATE when no run has succeeded for so long, such as 25h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    expect_every: Option<Duration>,
    /// And so much more [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "expect_every")]
    expect_grace: Option<Duration>,
    /// Which of its plugin's grants its runs have, such as http:api.example.org, dir:/data:ro,
    /// env:TZ, state, secret:token; `none` for none. May be repeated [default: all of them]
    #[arg(long, value_name = "GRANT")]
    grant: Vec<String>,
    /// Its runs see a clock that stands at their fire time, and the same random numbers for it
    #[arg(long)]
    deterministic: bool,
    /// The executor's alias: default, threadpool [default: default]
    #[arg(long, value_name = "ALIAS")]
    executor: Option<Alias>,
    /// A tag for lists and filters. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Any field of the job by its name in JSON, such as metadata={"owner":"ops"}. May be repeated.
    #[arg(long = "set", value_name = "FIELD=JSON")]
    set: Vec<String>,
}

impl PolicyArgs {
    /// The fields that are given, as the API has them.
    pub fn fields(&self, func: Option<&FuncRef>) -> Result<Map<String, Value>, Invalid> {
        let mut fields = Map::new();
        let seconds = |duration: &Option<Duration>| duration.map(|duration| json!(duration.as_secs_f64()));
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("func", func.map(|func| json!(func)));
        put("name", self.name.as_ref().map(|name| json!(name)));
        put("max_instances", self.max_instances.map(Value::from));
        put("overlap", self.overlap.map(|overlap| json!(overlap)));
        put("priority", self.priority.map(Value::from));
        put("misfire_grace_time", seconds(&self.misfire_grace));
        put("coalesce", self.coalesce.map(|coalesce| json!(coalesce)));
        put("max_catchup", self.max_catchup.map(Value::from));
        put("on_interrupted", self.on_interrupted.map(|policy| json!(policy)));
        put("pause_after", self.pause_after.map(Value::from));
        put("grants", self.grants()?.map(|grants| json!(grants)));
        put("deterministic", self.deterministic.then_some(Value::Bool(true)));
        put("executor", self.executor.as_ref().map(|alias| json!(alias)));
        let retry = [
            ("max_attempts", self.retries.map(|retries| json!(retries.saturating_add(1)))),
            ("first", seconds(&self.retry_wait)),
            ("jitter", seconds(&self.retry_jitter)),
            ("outcomes", self.retry_on.as_ref().map(|outcomes| json!(outcomes))),
        ];
        put("retry", object(retry));
        put("limits", Some(self.limits.fields()).filter(|limits| !limits.is_empty()).map(Value::Object));
        let grace = self.expect_every.and(seconds(&self.expect_grace));
        put("expect", object([("period", seconds(&self.expect_every)), ("grace", grace)]));
        let tags = self.tag.iter().map(|tag| pair("--tag", tag).map(|(key, value)| (key.to_owned(), json!(value))));
        let tags: Map<String, Value> = tags.collect::<Result<_, Invalid>>()?;
        put("tags", Some(tags).filter(|tags| !tags.is_empty()).map(Value::Object));
        for text in &self.set {
            let (name, value) = pair("--set", text)?;
            fields.insert(name.to_owned(), strict_json::from_slice("--set", value.as_bytes())?);
        }
        Ok(fields)
    }
}

impl PolicyArgs {
    fn grants(&self) -> Result<Option<Vec<Pick>>, Invalid> {
        if self.grant.is_empty() {
            return Ok(None);
        }
        self.grant
            .iter()
            .filter(|grant| *grant != "none")
            .map(|grant| grant.parse())
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// An object of the fields that there are, if there is any.
pub fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let fields: Map<String, Value> = fields.collect();
    Some(fields).filter(|fields| !fields.is_empty()).map(Value::Object)
}

fn pair<'a>(what: &str, text: &'a str) -> Result<(&'a str, &'a str), Invalid> {
    text.split_once('=').ok_or_else(|| Invalid::new(what, text, "it has no `=`"))
}
