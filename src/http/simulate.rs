//! Simulations over HTTP: a stream of lines, progress first and the report last.

use super::extract::JsonBody;
use super::operation::{Draft, Gives};
use super::problem::Problem;
use crate::config::App;
use crate::error::Result as AppResult;
use crate::invalid::Invalid;
use crate::job::{Alias, Job, Limits};
use crate::simulate::{Simulated, Simulation};
use crate::store::{Page, RunFilter};
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Runs of a job that its duration is learned from.
const LEARNED_FROM: usize = 20;
/// Slots that a simulation may be given.
const SLOTS_MAX: usize = 1_000_000;
/// Lines that wait for a slow reader.
const LINES_MAX: usize = 64;

#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SimulateSpec {
    /// Default: now.
    pub from: Option<DateTime<Utc>>,
    /// Default: a day later.
    pub to: Option<DateTime<Utc>>,
    /// Slots of the default executor. Default: those that it has.
    pub slots: Option<usize>,
    /// Seconds that a run takes of a job that has never run. Default 1.
    pub unknown: Option<f64>,
}

/// A line of the stream.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SimulateLine {
    /// From 0 to 1.
    Progress(f64),
    Report(Box<Simulated>),
}

/// An answer of such lines.
pub struct SimulateLines(Body);

impl IntoResponse for SimulateLines {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/x-ndjson")], self.0).into_response()
    }
}

impl Gives for SimulateLines {
    fn describe(draft: &mut Draft<'_>) {
        draft.lines::<SimulateLine>(200, "progress, then the report");
    }
}

pub async fn simulate(
    State(app): State<App>,
    JsonBody(spec): JsonBody<SimulateSpec>,
) -> Result<SimulateLines, Problem> {
    let from = spec.from.unwrap_or_else(|| app.scheduler.clock().now());
    crate::trigger::check_instant(from)?;
    let to = spec.to.unwrap_or_else(|| from + TimeDelta::days(1));
    crate::trigger::check_instant(to)?;
    if to <= from {
        return Err(Invalid::new("simulation", to.to_rfc3339(), "it must end after it begins").into());
    }
    let unknown = Duration::try_from_secs_f64(spec.unknown.unwrap_or(1.0)).ok();
    let unknown = unknown.filter(|unknown| *unknown <= Limits::TIMEOUT_MAX);
    let unknown = unknown.ok_or_else(|| Invalid::new("simulation", "", "`unknown` must be 0 to 86400 seconds"))?;
    let slots = app.scheduler.slots();
    let mut slots: BTreeMap<Alias, usize> = slots.into_iter().map(|(alias, slots)| (alias, slots.total)).collect();
    if let Some(given) = spec.slots {
        slots.insert(Alias::default(), given.clamp(1, SLOTS_MAX));
    }
    // One at a time: each takes a processor to itself.
    let place = app.simulations.clone().acquire_owned().await;
    let mut jobs = Vec::new();
    let mut durations = HashMap::new();
    for bundled in app.scheduler.export_jobs(&Alias::default()).await? {
        let active = !bundled.paused && bundled.quarantine.is_none();
        if let Some(job) = bundled.continued(from).filter(|_| active) {
            durations.extend(learned(&app, &job).await?.map(|duration| (job.id.clone(), duration)));
            jobs.push(Arc::new(job));
        }
    }
    let simulation = Simulation { from, to, jobs, durations, unknown, slots };
    let (tell, lines) = mpsc::channel(LINES_MAX);
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let line = |line: &SimulateLine| serde_json::to_string(line).unwrap_or_default() + "\n";
        let report = simulation.run(|done| match tell.try_send(line(&SimulateLine::Progress(done))) {
            // Nobody reads any more.
            Err(mpsc::error::TrySendError::Closed(_)) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        let _ = tell.blocking_send(line(&SimulateLine::Report(Box::new(report))));
    });
    let lines = futures::stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        Some((Ok::<_, Infallible>(line), lines))
    });
    Ok(SimulateLines(Body::from_stream(lines)))
}

/// How long the last runs of a job have taken, on average.
async fn learned(app: &App, job: &Job) -> AppResult<Option<Duration>> {
    let filter = RunFilter { job: Some(job.id.clone()), ..RunFilter::default() };
    let page = Page { after: None, limit: LEARNED_FROM };
    let runs = app.scheduler.list_runs(&Alias::default(), &filter, &page).await?.items;
    let took: Vec<f64> =
        runs.iter().filter_map(|run| Some((run.ended? - run.started?).as_seconds_f64().max(0.0))).collect();
    let mean = took.iter().sum::<f64>() / took.len() as f64;
    Ok(Duration::try_from_secs_f64(mean).ok())
}
