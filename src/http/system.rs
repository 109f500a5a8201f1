//! The scheduler as a whole over HTTP, and previews of triggers.

use super::access::{Access, Caller};
use super::extract::{AcceptedEmpty, JsonBody, NoContent};
use super::operation::{Draft, Gives};
use super::problem::Problem;
use super::{Api, STREAMS_MAX};
use crate::config::App;
use crate::error::Error;
use crate::invalid::Invalid;
use crate::job::{Alias, JobId};
use crate::observe::{Gauges, METRICS_MEDIA};
use crate::scheduler::{Phase, Slots};
use crate::store::Counts;
use crate::trigger::{Explanation, Trigger, Zone};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Fire times that one preview shows at most.
const PREVIEW_MAX: usize = 1000;

/// What runs where, and how much there is of it.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Status {
    /// Since when this process serves.
    pub started: DateTime<Utc>,
    /// Seconds since then.
    pub uptime: i64,
    pub slots: BTreeMap<Alias, Slots>,
    /// Where it listens over TCP.
    pub addresses: Vec<SocketAddr>,
    /// What the caller may do.
    pub access: Access,
    pub version: String,
    /// The time-zone data in use: its version, and where it is from.
    pub time_zones: String,
    pub phase: Phase,
    /// Where the default store is.
    pub store: String,
    pub node: String,
    pub home: PathBuf,
    #[serde(flatten)]
    pub counts: Counts,
}

pub async fn status(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<Status>, Problem> {
    let app = &api.app;
    Ok(Json(Status {
        started: app.started,
        uptime: (app.scheduler.clock().now() - app.started).num_seconds(),
        slots: app.scheduler.slots(),
        addresses: api.addresses(),
        access: caller.access,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        time_zones: Zone::database(),
        phase: app.scheduler.phase(),
        store: app.store.clone(),
        node: app.node.clone(),
        home: app.home.clone(),
        counts: app.scheduler.counts(&super::default_store()).await?,
    }))
}

pub async fn pause(State(app): State<App>) -> Result<NoContent, Problem> {
    app.scheduler.pause().await?;
    Ok(NoContent)
}

pub async fn resume(State(app): State<App>) -> Result<NoContent, Problem> {
    app.scheduler.resume().await?;
    Ok(NoContent)
}

/// Lets runs end as long as `serve --grace` says, then ends the daemon. A command without a daemon has
/// nothing to end.
pub async fn shutdown(State(api): State<Api>) -> Result<AcceptedEmpty, Problem> {
    api.stop.cancel();
    Ok(AcceptedEmpty)
}

/// A text that programs read.
pub struct Text(&'static str, String);

impl IntoResponse for Text {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, self.0)], self.1).into_response()
    }
}

impl Gives for Text {
    fn describe(draft: &mut Draft<'_>) {
        let schema = json!({ "type": "string" });
        draft.answer(200, "as text", METRICS_MEDIA, json!({ "schema": schema }));
    }
}

pub async fn metrics(State(api): State<Api>) -> Result<Text, Problem> {
    let app = &api.app;
    let gauges = Gauges {
        counts: app.scheduler.counts(&super::default_store()).await?,
        slots: app.scheduler.slots(),
        firing: app.scheduler.phase() == Phase::Running,
        streams: STREAMS_MAX - api.streams.available_permits(),
        cache: app.registry.cache_counts(),
    };
    Ok(Text(METRICS_MEDIA, app.metrics.text(&gauges)))
}

/// How the daemon is, in a word.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Health {
    status: &'static str,
}

pub async fn healthz() -> Result<Json<Health>, Problem> {
    Ok(Json(Health { status: "ok" }))
}

/// Whether what is due is fired: the store answers, and the scheduler neither pauses nor ends.
pub async fn readyz(State(api): State<Api>) -> Result<Json<Health>, Problem> {
    let not_ready = |detail: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail);
    match api.app.scheduler.phase() {
        Phase::Running if !api.stop.is_cancelled() => {}
        Phase::Paused => return Err(not_ready("the scheduler is paused (`sandclock resume` has it fire)")),
        Phase::Running | Phase::Stopped => return Err(not_ready("the daemon is beginning or ending")),
    }
    match api.app.store_answers().await {
        Some(Ok(_)) => Ok(Json(Health { status: "ready" })),
        Some(Err(_)) => Err(not_ready("the job store failed and is tried again")),
        None => Err(not_ready("the job store does not answer")),
    }
}

/// What to explain: a trigger, a job's trigger, or a trigger as it would be for a job.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
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
    JsonBody(spec): JsonBody<PreviewSpec>,
) -> Result<Json<Explanation>, Problem> {
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
