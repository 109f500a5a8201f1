//! Runs over HTTP, and single calls without a job.

use super::Api;
use super::extract::{AcceptedEmpty, JsonBody, Query};
use super::problem::Problem;
use crate::config::App;
use crate::error::Error;
use crate::executor::{Began, Report};
use crate::failure::{self, FailureGroup};
use crate::func::FuncRef;
use crate::grant::Use;
use crate::job::{Alias, Job, JobId, Limits, Origin};
use crate::run::{Outcome, OutcomeKind, Run, RunId, RunLogs, Usage};
use crate::store::{Claimed, List, PAGE_MAX, Page, RunFilter};
use crate::trigger::Trigger;
use axum::Json;
use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Runs that are looked at for their failures.
const FAILURES_RUNS_MAX: usize = 20_000;

/// Longest that a request waits for a run to end; the caller asks again.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    job: Option<JobId>,
    outcome: Option<OutcomeKind>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    /// `key=value`, joined by commas.
    tags: Option<String>,
    jobstore: Option<Alias>,
    after: Option<String>,
    limit: Option<usize>,
}

pub async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Json<List<Run>>, Problem> {
    let tags = super::tags(query.tags.as_deref())?;
    let filter = RunFilter { job: query.job, outcome: query.outcome, since: query.since, until: query.until, tags };
    let page = Page { after: query.after, limit: query.limit.unwrap_or(Page::default().limit) };
    Ok(Json(app.scheduler.list_runs(&query.jobstore.unwrap_or_default(), &filter, &page).await?))
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShowQuery {
    /// Answer when the run has ended, or after a minute with what is known then.
    #[serde(default)]
    wait: bool,
}

/// A run as answers show it.
#[derive(Serialize, schemars::JsonSchema)]
pub struct RunView {
    #[serde(flatten)]
    run: Run,
    /// The same for failures of the same kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

impl From<Run> for RunView {
    fn from(run: Run) -> Self {
        RunView { fingerprint: run.fingerprint(), run }
    }
}

pub async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(query): Query<ShowQuery>,
) -> Result<Json<RunView>, Problem> {
    let id: RunId = id.parse()?;
    let wait = query.wait;
    if wait && let Ok(run) = tokio::time::timeout(WAIT_MAX, app.scheduler.wait_run(id)).await {
        return Ok(Json(run?.into()));
    }
    Ok(Json(app.scheduler.get_run(id).await?.into()))
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailuresQuery {
    job: Option<JobId>,
    since: Option<DateTime<Utc>>,
    jobstore: Option<Alias>,
}

/// The failures among the newest runs, grouped.
pub async fn failures(
    State(api): State<Api>,
    Query(query): Query<FailuresQuery>,
) -> Result<Json<List<FailureGroup>>, Problem> {
    let filter = RunFilter { job: query.job, since: query.since, ..RunFilter::default() };
    let _place = api.heavy().await;
    let mut page = Page { after: None, limit: PAGE_MAX };
    let mut runs = Vec::new();
    loop {
        let list = api.app.scheduler.list_runs(&query.jobstore.clone().unwrap_or_default(), &filter, &page).await?;
        runs.extend(list.items);
        page.after = list.next;
        if page.after.is_none() || runs.len() >= FAILURES_RUNS_MAX {
            break;
        }
    }
    Ok(Json(List { items: failure::group(runs.into_iter()), next: None }))
}

pub async fn cancel(State(app): State<App>, Path(id): Path<String>) -> Result<AcceptedEmpty, Problem> {
    app.scheduler.cancel_run(id.parse()?).await?;
    Ok(AcceptedEmpty)
}

/// The body of a request to call a function once.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    pub func: FuncRef,
    #[serde(default)]
    pub args: Vec<Value>,
    #[serde(default)]
    pub kwargs: Map<String, Value>,
    #[serde(default)]
    pub limits: Limits,
}

/// How a single call ended.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Executed {
    outcome: Outcome,
    #[serde(flatten)]
    usage: Usage,
    /// Seconds.
    duration: f64,
    #[serde(flatten)]
    logs: RunLogs,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uses: Vec<Use>,
}

/// Calls a function now, in a sandbox with its limits, without a job and without history. Its
/// arguments are checked first, as a job's are.
pub async fn exec(State(app): State<App>, JsonBody(spec): JsonBody<ExecSpec>) -> Result<Json<Executed>, Problem> {
    let now = app.scheduler.clock().now();
    let mut job = Job::new("exec".parse()?, spec.func, Trigger::now());
    (job.args, job.kwargs, job.limits) = (spec.args, spec.kwargs, spec.limits);
    job.validate()?;
    if app.executor.slots() == 0 {
        return Err(Error::RunsNothing.into());
    }
    app.executor.check(&job).await?;
    let id = RunId(ulid::Ulid::from_parts(now.timestamp_millis().max(0) as u64, crate::store::entropy()));
    let run = Run { origin: Origin::Manual, ..Run::claimed(id, &job, now, app.node.as_str().into()) };
    // Never closed, so this only waits.
    let _place = app.execs.acquire().await;
    // A caller that goes away takes the call with it.
    let cancel = CancellationToken::new();
    let _gone = cancel.clone().drop_guard();
    let claimed = Claimed { run, job: Arc::new(job), values: Arc::default() };
    let Report { started, ended, outcome, usage, logs, uses, .. } =
        app.executor.execute(claimed, Began::new(|_| ()), cancel).await;
    let duration = started.map_or(0.0, |started| (ended - started).as_seconds_f64());
    Ok(Json(Executed { outcome, usage, duration, logs, uses }))
}
