//! The scheduler as a whole over HTTP, and previews of triggers.

use super::problem::Problem;
use crate::config::App;
use crate::error::Error;
use crate::invalid::Invalid;
use crate::job::JobId;
use crate::scheduler::Phase;
use crate::store::Counts;
use crate::strict_json;
use crate::trigger::{Explanation, Trigger, Zone};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Fire times that one preview shows at most.
const PREVIEW_MAX: usize = 1000;

/// What runs where, and how much there is of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    /// The time-zone data in use: its version, and where it is from.
    pub time_zones: String,
    pub phase: Phase,
    pub node: String,
    pub home: PathBuf,
    #[serde(flatten)]
    pub counts: Counts,
}

pub async fn status(State(app): State<App>) -> Result<Json<Status>, Problem> {
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time_zones: Zone::database(),
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

/// What to explain: a trigger, a job's trigger, or a trigger as it would be for a job.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreviewSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
}

pub async fn preview(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Explanation>, Problem> {
    let spec: PreviewSpec = strict_json::from_slice("preview", &body?)?;
    let from = spec.from.unwrap_or_else(|| app.scheduler.clock().now()).trunc_subsecs(6);
    crate::trigger::check_instant(from)?;
    let mut count = spec.count.unwrap_or(10).clamp(1, PREVIEW_MAX);
    let trigger = match (spec.trigger, &spec.job) {
        (Some(trigger), id) => {
            let anchored = trigger.anchored(from);
            id.iter().fold(anchored, |trigger, id| trigger.spread_by(id.as_str()))
        }
        (None, Some(id)) => {
            let entry = app.scheduler.get_job(id).await?;
            let job = entry.job.ok_or_else(|| Error::JobNotFound(id.clone()))?;
            let left = job.trigger.runs_max().map_or(u64::MAX, |most| most.saturating_sub(entry.state.started));
            count = count.min(usize::try_from(left).unwrap_or(count));
            job.trigger.clone()
        }
        (None, None) => return Err(Invalid::new("preview", "", "it needs a `trigger` or a `job`").into()),
    };
    if let Some(asked) = trigger.asked() {
        let reason = format!("the plugin function `{}` decides when it fires, one time after the other", asked.func);
        return Err(Invalid::new("preview", trigger.to_string(), reason)
            .hint("`job show` gives the next time of a job that has it")
            .into());
    }
    // A nasty trigger takes its time.
    let explained = tokio::task::spawn_blocking(move || trigger.explain(from, count)).await;
    let explanation = explained.map_err(|error| Error::host("cannot explain the trigger", error))?;
    if explanation.times.is_empty() {
        return Err(Error::NeverFires(explanation.text).into());
    }
    Ok(Json(explanation))
}
