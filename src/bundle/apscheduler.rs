//! Reads what APScheduler 3's `export_jobs` wrote: the parts that carry over, saying what does not.
//!
//! Its JSON holds plain values as they are and every other Python object as a pickle. Those of its
//! own triggers are read as data (`pickle`), because dates and cron fields have no other form there;
//! those of a caller's arguments are not.

mod pickle;

use crate::func::FuncRef;
use crate::invalid::{INPUT_SHOWN_MAX, Invalid, printable};
use crate::job::{Coalesce, Job, JobId};
use crate::strict_json;
use crate::trigger::{CalendarInterval, CronFields, Trigger, Zone};
use chrono::NaiveTime;
use pickle::{Item, PICKLE, needed, optional};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Most jobs of one export.
pub const JOBS_MAX: usize = 100_000;

const WHAT: &str = "APScheduler export";
const CLASS: &str = "__apscheduler_class__";
const STATE: &str = "__apscheduler_state__";

/// The jobs of an export, in its order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Imported {
    pub jobs: Vec<ImportedJob>,
    pub refused: Vec<Refused>,
}

/// A job that carries over. It is valid, and its id is that of no other one of the export.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedJob {
    pub job: Job,
    pub paused: bool,
    /// What changed in name or in meaning, or was left out.
    pub notes: Vec<String>,
}

/// A job that does not carry over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its id as exported, or its place such as `jobs[3]` if it has none.
    pub id: String,
    /// The field, what is wrong with it and the way out.
    pub reason: String,
}

/// Reads an export. An error means that the document as a whole is none: a job that does not carry
/// over is among the refused ones.
pub fn read(text: &str) -> Result<Imported, Invalid> {
    let document: Map<String, Value> = strict_json::from_slice(WHAT, text.as_bytes())?;
    let version = document.get("version").and_then(Value::as_u64);
    let (Some(1), Some(Value::Array(states))) = (version, document.get("jobs")) else {
        return Err(Invalid::new(WHAT, "", "it has no `version` 1 or no list `jobs`")
            .hint("`scheduler.export_jobs(\"jobs.json\")` of APScheduler 3.11 writes one"));
    };
    if states.len() > JOBS_MAX {
        return Err(Invalid::new(WHAT, "", format!("it has more than {JOBS_MAX} jobs")));
    }
    let mut imported = Imported::default();
    let mut ids = HashSet::new();
    let mut funcs = HashMap::new();
    for (at, state) in states.iter().enumerate() {
        let found = job(state).and_then(|found| {
            if ids.insert(found.job.id.clone()) {
                return Ok(found);
            }
            Err(Invalid::new("id", found.job.id.as_str(), "another job of this export has it")
                .hint("rename one of them, or export one job store at a time"))
        });
        match found {
            Ok(mut found) => {
                let theirs = state["func"].as_str().unwrap_or_default();
                let first = *funcs.entry(found.job.func.to_string()).or_insert(theirs);
                if first != theirs {
                    found.notes.push(format!("func `{}` became `{}` too", shown(first), found.job.func));
                }
                imported.jobs.push(found);
            }
            Err(error) => {
                let id = state["id"].as_str().map_or_else(|| format!("jobs[{at}]"), shown);
                imported.refused.push(Refused { id, reason: error.to_string() });
            }
        }
    }
    Ok(imported)
}

fn job(exported: &Value) -> Result<ImportedJob, Invalid> {
    let state = exported.as_object().ok_or_else(|| Invalid::new("job", "", "it is not an object"))?;
    check_version(state, 1)?;
    let mut notes = Vec::new();
    let id = id(&field::<String>(state, "id")?, &mut notes)?;
    let func = func(&field::<String>(state, "func")?, &mut notes)?;
    let trigger = trigger(&exported["trigger"][CLASS], &exported["trigger"][STATE], &mut notes)?;
    let mut job = Job::new(id, func, trigger);
    job.name = field(state, "name")?;
    match field::<String>(state, "executor")?.as_str() {
        theirs @ ("default" | "threadpool") => job.executor = theirs.parse()?,
        theirs => notes.push(format!("executor `{}` became `default`", shown(theirs))),
    }
    job.args = plain(state, "args")?;
    job.kwargs = kwargs(state, &mut notes)?;
    job.misfire_grace_time = field::<Option<u64>>(state, "misfire_grace_time")?.map(Duration::from_secs);
    if job.misfire_grace_time == Some(Duration::from_secs(1)) {
        notes.push("misfire_grace_time is APScheduler's default of 1 s; the default here is none".to_owned());
    }
    job.coalesce = Coalesce::Latest;
    if !field::<bool>(state, "coalesce")? {
        job.coalesce = Coalesce::All;
        notes.push(format!("coalesce false became `all`: at most {} missed runs are caught up with", job.max_catchup));
    }
    job.max_instances = field(state, "max_instances")?;
    job.validate()?;
    let mut told = HashSet::new();
    notes.retain(|note| told.insert(note.clone()));
    Ok(ImportedJob { job, paused: exported["next_run_time"].is_null(), notes })
}

fn check_version(state: &Map<String, Value>, newest: u32) -> Result<(), Invalid> {
    match field::<Option<u32>>(state, "version")?.filter(|version| *version > newest) {
        Some(later) => Err(Invalid::new("version", later.to_string(), format!("only up to {newest} is known"))),
        None => Ok(()),
    }
}

fn id(theirs: &str, notes: &mut Vec<String>) -> Result<JobId, Invalid> {
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let ours: String = theirs.chars().map(legal).skip_while(|c| !c.is_ascii_alphanumeric()).take(128).collect();
    let id = ours.parse::<JobId>().map_err(|e| Invalid { input: shown(theirs), ..e })?;
    if ours != theirs {
        notes.push(format!("id `{}` became `{ours}`", shown(theirs)));
    }
    Ok(id)
}

/// `shop.report:send_mail` is `report:send-mail` here.
fn func(theirs: &str, notes: &mut Vec<String>) -> Result<FuncRef, Invalid> {
    let (module, export) = theirs.split_once(':').unwrap_or((theirs, ""));
    let (module, export) = (kebab(module.rsplit('.').next().unwrap_or(module)), kebab(export));
    let ours = format!("{module}:{export}");
    let func = ours.parse::<FuncRef>().map_err(|e| Invalid { what: "func".to_owned(), input: shown(theirs), ..e })?;
    if ours != theirs {
        let theirs = shown(theirs);
        notes.push(format!("func `{theirs}` became `{ours}`: register a plugin `{module}` that exports `{export}`"));
    }
    Ok(func)
}

/// A name as WIT writes them.
fn kebab(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

/// An argument that is a Python object stays a pickle, which could run any program.
fn plain<T: DeserializeOwned>(state: &Map<String, Value>, name: &str) -> Result<T, Invalid> {
    if state.get(name).is_some_and(holds_object) {
        return Err(Invalid::new(name, "", "it holds a Python object, and a pickled argument is never opened")
            .hint("give the job plain JSON arguments and export again; a method's first one is its object"));
    }
    field(state, name)
}

/// Keyword arguments by the names that WIT gives to parameters.
fn kwargs(state: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Map<String, Value>, Invalid> {
    let mut kwargs = Map::new();
    for (theirs, value) in plain::<Map<String, Value>>(state, "kwargs")? {
        let ours = theirs.replace('_', "-");
        if ours != theirs {
            notes.push(format!("keyword argument `{}` became `{}`", shown(&theirs), shown(&ours)));
        }
        if kwargs.insert(ours, value).is_some() {
            return Err(Invalid::new("kwargs", theirs, "with `-` for `_`, another one has this name"));
        }
    }
    Ok(kwargs)
}

fn holds_object(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(holds_object),
        Value::Object(fields) => fields.iter().any(|(key, value)| key == PICKLE || key == CLASS || holds_object(value)),
        _ => false,
    }
}

fn trigger(class: &Value, state: &Value, notes: &mut Vec<String>) -> Result<Trigger, Invalid> {
    let class = class.as_str().unwrap_or_default();
    let none = Map::new();
    let state = state.as_object().unwrap_or(&none);
    let own = class.strip_prefix("apscheduler.triggers.").unwrap_or_default();
    check_version(state, if matches!(own, "interval:IntervalTrigger" | "cron:CronTrigger") { 2 } else { 1 })?;
    let trigger = match own {
        "date:DateTrigger" => Trigger::at(needed(state, "run_date", Item::instant)?),
        "interval:IntervalTrigger" => interval(state, notes)?,
        "cron:CronTrigger" => cron(state, notes)?,
        "calendarinterval:CalendarIntervalTrigger" => calendar(state, notes)?,
        "combining:AndTrigger" => Trigger::and(parts(state, notes)?)?,
        "combining:OrTrigger" => Trigger::or(parts(state, notes)?)?,
        _ => {
            return Err(Invalid::new("trigger", class, "only APScheduler's own triggers carry over")
                .hint("add the job by hand, with a trigger that comes close"));
        }
    };
    let seconds = field::<Option<f64>>(state, "jitter")?.unwrap_or(0.0);
    let jitter = Duration::try_from_secs_f64(seconds)
        .map_err(|_| Invalid::new("jitter", seconds.to_string(), "it is not a number of seconds"))?;
    Ok(trigger.jitter(jitter))
}

fn interval(state: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Trigger, Invalid> {
    let every = needed(state, "interval", Item::delta)?;
    let mut every = every.to_std().map_err(|_| Invalid::new("interval", every.to_string(), "it runs backwards"))?;
    if every.is_zero() {
        every = Duration::from_secs(1);
        notes.push("an interval of 0 became 1 second, as in APScheduler".to_owned());
    }
    bounded(Trigger::every(every)?.timezone(needed(state, "timezone", Item::zone)?), state)
}

fn cron(state: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Trigger, Invalid> {
    let mut fields = Map::new();
    for written in field::<Vec<Value>>(state, "fields")? {
        if let (name, Some(text)) = pickle::read("fields", &written, Item::field)? {
            fields.insert(name, text.into());
        }
    }
    if fields.is_empty() {
        // Without any field it fires every second.
        fields.insert("second".to_owned(), "*".into());
    }
    let fields: CronFields = serde_json::from_value(fields.into())
        .map_err(|e| Invalid::new("fields", "", printable(&e.to_string(), INPUT_SHOWN_MAX)))?;
    let zone = civil_zone(state, notes)?;
    bounded(Trigger::fields(fields, zone)?, state)
}

fn calendar(state: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Trigger, Invalid> {
    let [years, months, weeks, days]: [u32; 4] = field(state, "interval")?;
    let [hour, minute, second]: [u32; 3] = field(state, "time")?;
    let at = NaiveTime::from_hms_opt(hour, minute, second)
        .ok_or_else(|| Invalid::new("time", "", "there is no such time of day"))?;
    let start_date = optional(state, "start_date", Item::date)?;
    let zone = civil_zone(state, notes)?;
    let interval = CalendarInterval { years, months, weeks, days, at, start_date, ..CalendarInterval::default() };
    let trigger = Trigger::calendar(interval, zone)?;
    Ok(match optional(state, "end_date", Item::date)? {
        None => trigger,
        Some(last) => trigger.end(zone.instant(last.and_time(at))),
    })
}

/// The triggers that an `and` or `or` is made of.
fn parts(state: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Vec<Trigger>, Invalid> {
    let mut parts = Vec::new();
    for (class, state) in field::<Vec<(Value, Value)>>(state, "triggers")? {
        let part = trigger(&class, &state, notes)?;
        let plain = part.clone().jitter(Duration::ZERO);
        if plain != part {
            notes.push("the jitter of a trigger within another was left out; the outer one's counts".to_owned());
        }
        parts.push(plain);
    }
    Ok(parts)
}

/// The trigger from `start_date` to `end_date`.
fn bounded(mut trigger: Trigger, state: &Map<String, Value>) -> Result<Trigger, Invalid> {
    if let Some(start) = optional(state, "start_date", Item::instant)? {
        trigger = trigger.start(start);
    }
    if let Some(end) = optional(state, "end_date", Item::instant)? {
        trigger = trigger.end(end);
    }
    Ok(trigger)
}

fn civil_zone(state: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Zone, Invalid> {
    let zone = needed(state, "timezone", Item::zone)?;
    if zone != Zone::utc() {
        notes.push(
            "a time that a change of the clocks skips or repeats runs once (dst `once`), not so there".to_owned(),
        );
    }
    Ok(zone)
}

fn field<T: DeserializeOwned>(state: &Map<String, Value>, name: &str) -> Result<T, Invalid> {
    let value = state.get(name).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|e| Invalid::new(name, "", printable(&e.to_string(), INPUT_SHOWN_MAX)))
}

fn shown(text: &str) -> String {
    printable(text, INPUT_SHOWN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, SecondsFormat, Utc};
    use proptest::prelude::*;

    /// Written by APScheduler 3.11.2.
    const SAMPLE: &str = include_str!("../../tests/oracles/apscheduler_export.json");

    fn sample() -> Value {
        SAMPLE.parse().unwrap()
    }

    fn refused_ids(imported: &Imported) -> Vec<&str> {
        imported.refused.iter().map(|refused| refused.id.as_str()).collect()
    }

    #[test]
    fn what_apscheduler_wrote_fires_as_it_does_there() {
        let expect: [(&str, &[&str]); 10] = [
            ("month-end", &["2026-07-31T14:55:00Z", "2026-08-31T14:55:00Z", "2026-10-31T14:55:00Z"]),
            ("both", &["2026-06-01T02:00:00Z", "2026-06-01T03:00:00Z", "2026-06-02T02:00:00Z"]),
            ("crontab-line", &["2026-06-01T08:00:00Z", "2026-06-01T08:15:00Z"]),
            ("weekdays", &["2026-06-01T13:30:00Z", "2026-06-01T21:30:00Z", "2026-06-02T13:30:00Z"]),
            ("either", &["2026-06-01T12:00:00Z", "2026-06-03T00:00:00Z", "2026-06-04T12:00:00Z"]),
            ("0f8fad5bd9cb469fa16570867728950e", &["2026-06-05T04:09:25Z", "2026-06-14T07:13:30Z"]),
            ("cron.all-fields", &["2026-12-14T23:00:05Z", "2026-12-14T23:00:15Z"]),
            ("once", &["2030-01-01T08:00:00Z"]),
            ("once_in_fold", &["2030-10-27T01:30:00Z"]),
            ("paused", &["2026-06-01T00:00:00Z", "2026-06-01T00:10:00Z"]),
        ];
        let from: DateTime<Utc> = "2026-06-01T00:00:00Z".parse().unwrap();
        let imported = read(SAMPLE).unwrap();
        assert_eq!(imported.jobs.len(), expect.len());
        for (found, (id, times)) in imported.jobs.iter().zip(expect) {
            assert_eq!((found.job.id.as_str(), found.paused), (id, id == "paused"));
            let fires = found.job.trigger.preview(from, times.len());
            let fires: Vec<String> = fires.iter().map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).collect();
            assert_eq!(fires, times, "{id}");
        }
        assert_eq!(refused_ids(&imported), ["pickled-argument", "pickled-self"]);
        assert!(imported.refused[0].reason.starts_with("invalid args: it holds a Python object"));
    }

    #[test]
    fn policies_and_arguments_carry_over() {
        let imported = read(SAMPLE).unwrap();
        let found = |id: &str| imported.jobs.iter().find(|found| found.job.id.as_str() == id).unwrap();
        let ImportedJob { job, notes, .. } = found("0f8fad5bd9cb469fa16570867728950e");
        assert_eq!((job.name.as_str(), job.coalesce, job.max_instances), ("every nine days", Coalesce::All, 3));
        assert_eq!(job.misfire_grace_time, Some(Duration::from_secs(600)));
        assert_eq!(job.args, ["a@example.org"]);
        assert_eq!(job.kwargs["reply-to"], serde_json::json!(["b", null, 1.5, {"x": true}]));
        assert_eq!(serde_json::to_value(&job.trigger).unwrap()["jitter"], 30);
        let told = ["func `shop.report:send_mail` became `report:send-mail`", "`reply-to`", "coalesce false"];
        assert!(notes.len() == 3 && notes.iter().zip(told).all(|(note, told)| note.contains(told)), "{notes:?}");
        let weekdays = serde_json::to_value(&found("weekdays").job.trigger).unwrap();
        assert_eq!(weekdays["fields"], serde_json::json!({"day_of_week": "mon-fri", "hour": "9,17", "minute": "30"}));
        assert_eq!(found("once_in_fold").job.executor.as_str(), "threadpool");
        assert!(found("paused").notes.iter().any(|note| note == "executor `heavy` became `default`"));
    }

    #[test]
    fn a_job_that_does_not_carry_over_leaves_the_others_alone() {
        let spoil: [(&str, Value, &str); 3] = [
            ("interval", serde_json::json!([0, 0, 0, 0]), "at least one day"),
            ("time", serde_json::json!([24, 0, 0]), "no such time of day"),
            ("timezone", "UTC".into(), "invalid timezone"),
        ];
        for (name, value, reason) in spoil {
            let mut document = sample();
            document["jobs"][0]["trigger"][STATE][name] = value;
            let imported = read(&document.to_string()).unwrap();
            assert_eq!(refused_ids(&imported), ["month-end", "pickled-argument", "pickled-self"]);
            assert!(imported.refused[0].reason.contains(reason), "{:?}", imported.refused[0]);
            assert_eq!(imported.jobs.len(), 9);
        }
    }

    #[test]
    fn two_jobs_do_not_become_one_in_silence() {
        let mut document = sample();
        document["jobs"][1]["id"] = "month/end".into();
        document["jobs"][4]["func"] = "other.report:nightly".into();
        let imported = read(&document.to_string()).unwrap();
        assert_eq!(refused_ids(&imported), ["month/end", "pickled-argument", "pickled-self"]);
        let note = "func `other.report:nightly` became `report:nightly` too";
        assert!(imported.jobs.iter().any(|found| found.notes.iter().any(|told| told == note)));
    }

    #[test]
    fn what_is_no_export_is_an_error() {
        for text in ["", "\0", "[]", "{}", r#"{"version":2,"jobs":[]}"#, r#"{"version":1,"jobs":{}}"#, "[1"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(read(r#"{"version":1,"jobs":[]}"#), Ok(Imported::default()));
        assert_eq!(refused_ids(&read(r#"{"version":1,"jobs":[7]}"#).unwrap()), ["jobs[0]"]);
    }

    #[test]
    fn a_func_is_named_as_wit_does() {
        for (theirs, ours) in [("a.b.c:d.e", "c:d-e"), ("__main__:Day.close_it", "main:day-close-it"), ("a:b", "a:b")] {
            let mut notes = Vec::new();
            assert_eq!(func(theirs, &mut notes).unwrap().to_string(), ours);
            assert_eq!(notes.is_empty(), theirs == ours);
        }
    }

    fn key() -> impl Strategy<Value = String> {
        let keys = "version id func trigger executor args kwargs name misfire_grace_time coalesce max_instances time \
                    timezone start_date end_date interval fields jitter run_date triggers __apscheduler_pickle__";
        proptest::sample::select(keys.split(' ').collect::<Vec<_>>()).prop_map(str::to_owned)
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let object = proptest::collection::btree_map(key(), inner.clone(), 0..7);
            let array = proptest::collection::vec(inner, 0..5).prop_map(Value::Array);
            prop_oneof![array, object.prop_map(|fields| Value::Object(fields.into_iter().collect()))]
        })
    }

    proptest! {
        #[test]
        fn no_document_panics(value in json(), at in 0..SAMPLE.len(), byte: u8) {
            let _ = read(&value.to_string());
            let _ = read(&serde_json::json!({"version": 1, "jobs": [value]}).to_string());
            let mut bytes = SAMPLE.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = read(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn a_spoilt_field_costs_one_job_at_most(value in json(), at in 0..12usize, key in key(), inner: bool) {
            let mut document = sample();
            let job = &mut document["jobs"][at];
            let of = if inner { &mut job["trigger"][STATE] } else { job };
            of[key] = value;
            let imported = read(&document.to_string()).unwrap();
            prop_assert_eq!(imported.jobs.len() + imported.refused.len(), 12);
            prop_assert!(imported.jobs.len() >= 9);
        }
    }
}
