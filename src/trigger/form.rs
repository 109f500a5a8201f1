//! The one form that triggers come in and go out as JSON. Text and plain English are read into it
//! too, so that everything a trigger may say is checked in one place.

use super::combine::{And, Except, Exclusion};
use super::cron::{Cron, CronFields, Dialect, Dst, Written};
use super::english::weekday_set;
use super::field::WEEKDAYS;
use super::instant::{parse_civil, parse_date, parse_time, parse_time_of_day};
use super::{AskedTrigger, CalendarInterval, Rule, Trigger, Zone, sets};
use crate::func::FuncRef;
use crate::invalid::Invalid;
use crate::job::{SecondsForm, optional_seconds};
use chrono::{DateTime, NaiveDate, SecondsFormat, Utc};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::time::Duration;

/// The kinds of rules, as JSON names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TriggerKind")]
pub(super) enum Kind {
    Date,
    Interval,
    Cron,
    CalendarInterval,
    Or,
    And,
    Except,
    Plugin,
}

/// Every key of every kind; [`Form::into_trigger`] refuses those that do not belong to its kind.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "TriggerForm")]
pub(super) struct Form {
    #[serde(rename = "type")]
    pub kind: Option<Kind>,
    /// A date's instant, or a calendar interval's time of day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Seconds; text such as `1h 30m` is read too.
    #[serde(serialize_with = "optional_seconds::serialize", deserialize_with = "seconds_or_text")]
    #[schemars(with = "Option<SecondsForm>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<Dialect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<CronFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub years: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub months: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weeks: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_date: Option<NaiveDate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggers: Option<Vec<FormOrText>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Box<FormOrText>>,
    /// Days, ranges and weekdays as text, triggers as objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Vec<FormOrText>>,
    /// What decides, if the times are a plugin's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub func: Option<FuncRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// Triggers within this one are in the same zone unless they say another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<Zone>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst: Option<Dst>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    #[serde(serialize_with = "optional_seconds::serialize", deserialize_with = "seconds_or_text")]
    #[schemars(with = "Option<SecondsForm>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_runs: Option<u64>,
}

/// A trigger or an exclusion as JSON has it: an object, or text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum FormOrText {
    Form(Box<Form>),
    Text(String),
}

impl Form {
    pub fn new(kind: Kind) -> Self {
        Form { kind: Some(kind), ..Form::default() }
    }

    /// The trigger, with civil times in `zone` if the form names none.
    pub fn into_trigger(self, zone: Zone) -> Result<Trigger, Invalid> {
        let kind = self.kind.ok_or_else(|| {
            Invalid::new("trigger", "", "`type` is missing")
                .hint("it is date, interval, cron, calendar_interval, or, and, except, plugin")
        })?;
        self.refuse_strangers(kind)?;
        // The days that an `except` leaves out are those of its trigger.
        let within = self.trigger.as_deref().and_then(|within| match within {
            FormOrText::Form(form) => form.timezone,
            FormOrText::Text(_) => None,
        });
        let zone = self.timezone.or(within).unwrap_or(zone);
        let instant = |text: Option<&str>| text.map(|text| parse_time(text, zone)).transpose();
        let missing = |what: &str| Invalid::new("trigger", "", format!("`{what}` is missing"));
        let dst = self.dst.unwrap_or_default();
        let (start, end) = (instant(self.start.as_deref())?, instant(self.end.as_deref())?);
        let part = |part: FormOrText| match part {
            FormOrText::Form(form) => form.into_trigger(zone),
            FormOrText::Text(text) => super::text::parse_form(&text, Dialect::default())?.into_trigger(zone),
        };
        let parts = |parts: Option<Vec<FormOrText>>| -> Result<Vec<Trigger>, Invalid> {
            parts.ok_or_else(|| missing("triggers"))?.into_iter().map(part).collect()
        };
        let rule = match kind {
            Kind::Date => Rule::Date(instant(self.at.as_deref())?),
            Kind::Interval => Rule::Interval(whole_micros(self.every.ok_or_else(|| missing("every"))?)),
            Kind::Cron => {
                let written = match (self.expr, self.fields) {
                    (Some(expr), None) => Written::Line { expr, dialect: self.dialect.unwrap_or_default() },
                    (None, Some(fields)) => Written::Fields(Box::new(fields)),
                    _ => return Err(Invalid::new("cron trigger", "", "it needs either `expr` or `fields`")),
                };
                Rule::Cron(Box::new(Cron::new(written, dst, self.spread)?))
            }
            Kind::CalendarInterval => Rule::Calendar(CalendarInterval {
                years: self.years.unwrap_or(0),
                months: self.months.unwrap_or(0),
                weeks: self.weeks.unwrap_or(0),
                days: self.days.unwrap_or(0),
                at: match self.at.as_deref() {
                    None => chrono::NaiveTime::MIN,
                    Some(at) => parse_time_of_day(at).ok_or_else(|| {
                        Invalid::new("time of day", at, "it is not understood").hint("such as `09:00`")
                    })?,
                },
                start_date: self.start_date,
                dst,
            }),
            Kind::Plugin => Rule::Plugin(Box::new(AskedTrigger {
                func: self.func.ok_or_else(|| missing("func"))?,
                parameters: self.parameters.unwrap_or_default(),
            })),
            Kind::Or => Rule::Or(parts(self.triggers)?),
            Kind::And => Rule::And(Box::new(And::new(parts(self.triggers)?))),
            Kind::Except => {
                let trigger = part(*self.trigger.ok_or_else(|| missing("trigger"))?)?;
                let exclusion = |item: FormOrText| match item {
                    FormOrText::Text(text) => text.parse(),
                    trigger @ FormOrText::Form(_) => Ok(Exclusion::Trigger(Box::new(part(trigger)?))),
                };
                let exclusions = self.exclude.ok_or_else(|| missing("exclude"))?;
                let exclusions = exclusions.into_iter().map(exclusion).collect::<Result<_, _>>()?;
                Rule::Except(Box::new(Except::new(trigger, exclusions)?))
            }
        };
        let jitter = whole_micros(self.jitter.unwrap_or_default());
        let trigger = Trigger { rule, timezone: zone, start, end, jitter, max_runs: self.max_runs };
        trigger.checked()
    }

    /// A key of another kind is a mistake, not something to pass over.
    fn refuse_strangers(&self, kind: Kind) -> Result<(), Invalid> {
        use Kind::{And, CalendarInterval, Cron, Date, Except, Interval, Or, Plugin};
        let keys: [(&str, bool, &[Kind]); 18] = [
            ("func", self.func.is_some(), &[Plugin]),
            ("parameters", self.parameters.is_some(), &[Plugin]),
            ("at", self.at.is_some(), &[Date, CalendarInterval]),
            ("every", self.every.is_some(), &[Interval]),
            ("expr", self.expr.is_some(), &[Cron]),
            ("dialect", self.dialect.is_some(), &[Cron]),
            ("fields", self.fields.is_some(), &[Cron]),
            ("spread", self.spread.is_some(), &[Cron]),
            ("years", self.years.is_some(), &[CalendarInterval]),
            ("months", self.months.is_some(), &[CalendarInterval]),
            ("weeks", self.weeks.is_some(), &[CalendarInterval]),
            ("days", self.days.is_some(), &[CalendarInterval]),
            ("start_date", self.start_date.is_some(), &[CalendarInterval]),
            ("triggers", self.triggers.is_some(), &[Or, And]),
            ("trigger", self.trigger.is_some(), &[Except]),
            ("exclude", self.exclude.is_some(), &[Except]),
            ("dst", self.dst.is_some(), &[Cron, CalendarInterval]),
            ("dialect", self.dialect.is_some() && self.fields.is_some(), &[]),
        ];
        let stranger = keys.iter().find(|(_, given, kinds)| *given && !kinds.contains(&kind));
        stranger.map_or(Ok(()), |(name, _, _)| {
            let kind = serde_json::to_value(kind).ok();
            let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
            let with = if *name == "dialect" && self.fields.is_some() { " with `fields`" } else { "" };
            Err(Invalid::new("trigger", "", format!("`{name}` does not belong to the type `{kind}`{with}")))
        })
    }
}

fn seconds_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a duration as a number of seconds or as text such as `1h 30m`")]
    enum Either {
        Seconds(f64),
        Text(String),
    }
    match Option::<Either>::deserialize(from)? {
        None => Ok(None),
        Some(Either::Text(text)) => super::parse_duration(&text).map(Some).map_err(D::Error::custom),
        Some(Either::Seconds(seconds)) => Duration::try_from_secs_f64(seconds)
            .map(Some)
            .map_err(|_| D::Error::custom(format!("`{seconds}` is not a number of seconds"))),
    }
}

/// A number of seconds in JSON is not exact to the nanosecond.
fn whole_micros(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from((duration.as_nanos() + 500) / 1000).unwrap_or(u64::MAX))
}

impl From<&Trigger> for Form {
    fn from(trigger: &Trigger) -> Form {
        let utc = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let parts = |triggers: &[Trigger]| Some(triggers.iter().map(FormOrText::from).collect());
        let mut form = match &trigger.rule {
            Rule::Date(at) => Form { at: at.map(utc), ..Form::new(Kind::Date) },
            Rule::Interval(every) => Form { every: Some(*every), ..Form::new(Kind::Interval) },
            Rule::Cron(cron) => {
                let (dst, spread) = (Some(cron.dst), cron.spread.clone());
                let form = Form { dst, spread, ..Form::new(Kind::Cron) };
                match &cron.written {
                    Written::Line { expr, dialect } => {
                        Form { expr: Some(expr.clone()), dialect: Some(*dialect), ..form }
                    }
                    Written::Fields(fields) => Form { fields: Some((**fields).clone()), ..form },
                }
            }
            Rule::Calendar(calendar) => {
                let units = |count: u32| Some(count).filter(|count| *count > 0);
                Form {
                    years: units(calendar.years),
                    months: units(calendar.months),
                    weeks: units(calendar.weeks),
                    days: units(calendar.days),
                    at: Some(calendar.at.format("%H:%M:%S").to_string()),
                    start_date: calendar.start_date,
                    dst: Some(calendar.dst),
                    ..Form::new(Kind::CalendarInterval)
                }
            }
            Rule::Plugin(asked) => Form {
                func: Some(asked.func.clone()),
                parameters: Some(asked.parameters.clone()).filter(|text| !text.is_empty()),
                ..Form::new(Kind::Plugin)
            },
            Rule::Or(triggers) => Form { triggers: parts(triggers), ..Form::new(Kind::Or) },
            Rule::And(and) => Form { triggers: parts(&and.triggers), ..Form::new(Kind::And) },
            Rule::Except(except) => {
                let exclusion = |exclusion: &Exclusion| match exclusion {
                    Exclusion::Trigger(trigger) => FormOrText::from(&**trigger),
                    other => FormOrText::Text(other.to_string()),
                };
                Form {
                    trigger: Some(Box::new(FormOrText::from(&except.trigger))),
                    exclude: Some(except.exclusions.iter().map(exclusion).collect()),
                    ..Form::new(Kind::Except)
                }
            }
        };
        form.timezone = Some(trigger.timezone);
        (form.start, form.end) = (trigger.start.map(utc), trigger.end.map(utc));
        form.jitter = Some(trigger.jitter).filter(|jitter| *jitter != Duration::ZERO);
        form.max_runs = trigger.max_runs;
        form
    }
}

impl From<&Trigger> for FormOrText {
    fn from(trigger: &Trigger) -> Self {
        FormOrText::Form(Box::new(trigger.into()))
    }
}

impl Serialize for Trigger {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Form::from(self).serialize(to)
    }
}

impl schemars::JsonSchema for Trigger {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Trigger".into()
    }

    fn json_schema(schemas: &mut schemars::SchemaGenerator) -> schemars::Schema {
        FormOrText::json_schema(schemas)
    }
}

/// Takes the JSON form, and text too.
impl<'de> Deserialize<'de> for Trigger {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let trigger = match FormOrText::deserialize(from)? {
            FormOrText::Form(form) => form.into_trigger(Zone::utc()),
            FormOrText::Text(text) => text.parse(),
        };
        trigger.map_err(D::Error::custom)
    }
}

impl schemars::JsonSchema for FormOrText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TriggerOrText".into()
    }

    fn json_schema(schemas: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let form = schemas.subschema_for::<Form>();
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, form] })
    }
}

impl Serialize for FormOrText {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            FormOrText::Form(form) => form.serialize(to),
            FormOrText::Text(text) => text.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for FormOrText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = FormOrText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a trigger as an object with `type`, or as text")
            }

            fn visit_str<E>(self, text: &str) -> Result<FormOrText, E> {
                Ok(FormOrText::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FormOrText, A::Error> {
                Form::deserialize(MapAccessDeserializer::new(map)).map(|form| FormOrText::Form(Box::new(form)))
            }
        }
        from.deserialize_any(Either)
    }
}

/// `2026-12-25`, `2026-12-24..2027-01-02`, `2026-12-24T18:00..2026-12-26T06:00`, `sat`.
impl std::str::FromStr for Exclusion {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let weekday = weekday_set(&text.to_ascii_lowercase()).filter(|set| set.is_power_of_two());
        if let Some(weekday) = weekday {
            return Ok(Exclusion::Weekday(sets::weekday(weekday.trailing_zeros())));
        }
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        if let Some((from, to)) = parse_date(from).zip(parse_date(to)) {
            return Ok(Exclusion::Dates(from, to));
        }
        parse_civil(from).zip(parse_civil(to)).map(|(from, to)| Exclusion::Times(from, to)).ok_or_else(|| {
            Invalid::new("exclusion", text, "it is not understood").hint(
                "a day `2026-12-25`, a range `2026-12-24..2027-01-02` or `2026-12-24T18:00..2026-12-26T06:00`, a weekday `sat`, or a trigger",
            )
        })
    }
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exclusion::Dates(from, to) if from == to => write!(f, "{from}"),
            Exclusion::Dates(from, to) => write!(f, "{from}..{to}"),
            Exclusion::Times(from, to) => {
                write!(f, "{}..{}", from.format("%Y-%m-%dT%H:%M:%S%.f"), to.format("%Y-%m-%dT%H:%M:%S%.f"))
            }
            Exclusion::Weekday(weekday) => f.write_str(WEEKDAYS[weekday.num_days_from_monday() as usize]),
            Exclusion::Trigger(trigger) => write!(f, "({trigger})"),
        }
    }
}
