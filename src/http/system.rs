//! The scheduler as a whole over HTTP, and previews of triggers.

use super::problem::Problem;
use crate::config::App;
use crate::error::Error;
use crate::scheduler::Phase;
use crate::store::Counts;
use crate::strict_json;
use crate::trigger::{Trigger, Zone};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use chrono::{DateTime, FixedOffset, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Fire times that one preview shows at most.
const PREVIEW_MAX: usize = 1000;

/// What runs where, and how much there is of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub phase: Phase,
    pub node: String,
    pub home: PathBuf,
    #[serde(flatten)]
    pub counts: Counts,
}

pub async fn status(State(app): State<App>) -> Result<Json<Status>, Problem> {
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        phase: app.scheduler.phase(),
        node: app.node.clone(),
        home: app.home.clone(),
        counts: app.scheduler.counts(&super::default_store()).await?,
    }))
}

pub async fn pause(State(app): State<App>) -> Result<StatusCode, Problem> {
    app.scheduler.pause().await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn resume(State(app): State<App>) -> Result<StatusCode, Problem> {
    app.scheduler.resume().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviewSpec {
    pub trigger: Trigger,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
}

/// A trigger as it was understood, and when it fires.
#[derive(Debug, Serialize, Deserialize)]
pub struct Preview {
    pub trigger: Trigger,
    pub text: String,
    pub timezone: Zone,
    /// With the zone's offset at each time.
    pub times: Vec<DateTime<FixedOffset>>,
}

pub async fn preview(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Json<Preview>, Problem> {
    let spec: PreviewSpec = strict_json::from_slice("preview", &body?)?;
    spec.trigger.validate()?;
    let from = spec.from.unwrap_or_else(|| app.scheduler.clock().now());
    crate::trigger::check_instant(from)?;
    let trigger = spec.trigger.anchored(from);
    let times = trigger.preview(from, spec.count.unwrap_or(10).min(PREVIEW_MAX));
    if times.is_empty() {
        return Err(Error::NeverFires(trigger.to_string()).into());
    }
    let timezone = trigger.zone();
    let local = |at: DateTime<Utc>| {
        let offset = i32::try_from(timezone.offset(at).num_seconds()).ok().and_then(FixedOffset::east_opt);
        at.with_timezone(&offset.unwrap_or(FixedOffset::east_opt(0).expect("zero is an offset")))
    };
    let times = times.into_iter().map(local).collect();
    Ok(Json(Preview { text: trigger.to_string(), timezone, times, trigger }))
}
