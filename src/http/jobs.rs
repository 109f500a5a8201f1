//! Jobs over HTTP.

use super::extract::{Accepted, Created, JsonBody, NoContent, Query};
use super::problem::Problem;
use crate::config::App;
use crate::func::{FuncRef, PluginName};
use crate::grant::Pick;
use crate::invalid::Invalid;
use crate::job::{
    Alias, Arguments, Coalesce, Expect, Job, JobId, Limits, OnInterrupted, Origin, Overlap, PendingRun, Retry, Status,
};
use crate::run::{Outcome, OutcomeKind, Run, RunId, RunState};
use crate::scheduler::AddOptions;
use crate::store::{Conflict, JobEntry, JobFilter, List, Page, RunFilter};
use crate::trigger::Trigger;
use axum::Json;
use axum::extract::{Path, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Runs of each job that a list of jobs shows at most.
const RECENT_MAX: usize = 50;

/// The body of a request to add a job. Everything but the func has a default.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub func: Option<FuncRef>,
    pub args: Vec<Value>,
    pub kwargs: Map<String, Value>,
    /// Default: once, now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    pub executor: Alias,
    pub jobstore: Alias,
    #[serde(with = "crate::job::optional_seconds")]
    #[schemars(with = "Option<crate::job::SecondsForm>")]
    pub misfire_grace_time: Option<Duration>,
    pub coalesce: Coalesce,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_catchup: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_instances: Option<u32>,
    pub overlap: Overlap,
    pub retry: Retry,
    pub on_interrupted: OnInterrupted,
    pub limits: Limits,
    /// Which of its plugin's grants it has; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grants: Option<Vec<Pick>>,
    pub deterministic: bool,
    pub pause_after: Option<u32>,
    pub priority: i8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    pub tags: BTreeMap<String, String>,
    pub metadata: Map<String, Value>,
    pub paused: bool,
    pub on_conflict: Conflict,
}

impl JobSpec {
    pub(super) fn into_job(self, now: DateTime<Utc>) -> Result<(Job, AddOptions), Invalid> {
        let func =
            self.func.ok_or_else(|| Invalid::new("job", "", "`func` is missing").hint("such as `hello:greet`"))?;
        let id = match self.id {
            Some(id) => id,
            None => ulid::Ulid::from_parts(now.timestamp_millis().max(0) as u64, crate::store::entropy())
                .to_string()
                .to_ascii_lowercase()
                .parse()?,
        };
        let mut job = Job::new(id, func, self.trigger.unwrap_or_else(Trigger::now));
        job.name = self.name.unwrap_or(job.name);
        (job.args, job.kwargs) = (self.args, self.kwargs);
        (job.executor, job.jobstore) = (self.executor, self.jobstore);
        job.misfire_grace_time = self.misfire_grace_time;
        job.coalesce = self.coalesce;
        job.max_catchup = self.max_catchup.unwrap_or(job.max_catchup);
        job.max_instances = self.max_instances.unwrap_or(job.max_instances);
        (job.overlap, job.retry, job.on_interrupted) = (self.overlap, self.retry, self.on_interrupted);
        (job.limits, job.pause_after) = (self.limits, self.pause_after);
        (job.grants, job.deterministic) = (self.grants, self.deterministic);
        (job.tags, job.metadata) = (self.tags, self.metadata);
        (job.priority, job.expect) = (self.priority, self.expect);
        Ok((job, AddOptions { conflict: self.on_conflict, paused: self.paused }))
    }
}

/// A job as answers show it.
#[derive(Serialize, schemars::JsonSchema)]
pub struct JobView {
    id: JobId,
    #[serde(flatten)]
    job: Option<JobFields>,
    state: Status,
    /// The next fire time; null while the job will not fire by itself.
    next_run_time: Option<DateTime<Utc>>,
    /// When the run of that time starts, if the trigger has jitter.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_start_time: Option<DateTime<Utc>>,
    /// Runs that the trigger has started, if it has a greatest number of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantine: Option<String>,
    /// Runs that go on.
    running: usize,
    /// Runs in a row that did not succeed.
    failures: u32,
    /// Attempts and runs that wait for their time or a slot.
    pending: Vec<PendingView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backfill: Option<BackfillView>,
    /// No run has succeeded in the time that `expect` gives.
    late: bool,
    /// The last runs, newest first, if the list was asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    recent: Option<Vec<RecentView>>,
}

#[derive(Serialize, schemars::JsonSchema)]
struct PendingView {
    id: RunId,
    scheduled_time: DateTime<Utc>,
    attempt: u32,
    due: DateTime<Utc>,
    origin: Origin,
}

/// What is left of a backfill.
#[derive(Serialize, schemars::JsonSchema)]
struct BackfillView {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

impl From<&PendingRun> for PendingView {
    fn from(run: &PendingRun) -> Self {
        let PendingRun { id, scheduled_time, attempt, due, origin, .. } = run;
        PendingView { id: *id, scheduled_time: *scheduled_time, attempt: *attempt, due: *due, origin: *origin }
    }
}

/// The job without its id, which the view has already.
#[derive(Serialize, schemars::JsonSchema)]
struct JobFields {
    trigger_text: String,
    /// The trigger as a sentence.
    trigger_description: String,
    #[serde(flatten)]
    #[schemars(with = "BTreeMap<String, Value>")]
    job: Value,
}

impl From<JobEntry> for JobView {
    fn from(entry: JobEntry) -> Self {
        let state = entry.state.status();
        let next_run_time = entry.state.next_run_time.filter(|_| state == Status::Active);
        let starts = |at| entry.job.as_ref().map_or(at, |job| job.start_time(at));
        let fields = |job: Arc<Job>| {
            let mut value = serde_json::to_value(&*job).ok()?;
            value.as_object_mut()?.remove("id");
            let (trigger_text, trigger_description) = (job.trigger.to_string(), job.trigger.describe());
            Some(JobFields { trigger_text, trigger_description, job: value })
        };
        JobView {
            id: entry.id,
            next_run_time,
            next_start_time: next_run_time.map(starts).filter(|start| Some(*start) != next_run_time),
            started: entry.job.as_ref().and_then(|job| job.trigger.runs_max()).map(|_| entry.state.started),
            job: entry.job.and_then(fields),
            state,
            running: entry.state.running.len(),
            failures: entry.state.failures,
            pending: entry.state.pending.iter().map(PendingView::from).collect(),
            backfill: entry.state.backfill.map(|left| BackfillView { from: left.next, to: left.until }),
            late: entry.state.late,
            recent: None,
            quarantine: entry.state.quarantine,
        }
    }
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    state: Option<Status>,
    /// `key=value`, joined by commas.
    tags: Option<String>,
    jobstore: Option<Alias>,
    plugin: Option<PluginName>,
    after: Option<String>,
    limit: Option<usize>,
    /// So many of each job's last runs with it, at most 50.
    recent: Option<usize>,
}

/// A run in short.
#[derive(Serialize, schemars::JsonSchema)]
struct RecentView {
    id: RunId,
    state: RunState,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<OutcomeKind>,
    scheduled_time: DateTime<Utc>,
}

impl From<Run> for RecentView {
    fn from(run: Run) -> Self {
        let kind = run.outcome.as_ref().map(Outcome::kind);
        RecentView { id: run.id, state: run.state, kind, scheduled_time: run.scheduled_time }
    }
}

/// The last runs of a job, newest first.
async fn recent(app: &App, jobstore: &Alias, job: JobId, limit: usize) -> Result<Vec<RecentView>, Problem> {
    let filter = RunFilter { job: Some(job), ..RunFilter::default() };
    let runs = app.scheduler.list_runs(jobstore, &filter, &Page { after: None, limit }).await?;
    Ok(runs.items.into_iter().map(RecentView::from).collect())
}

pub async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Json<List<JobView>>, Problem> {
    let tags = super::tags(query.tags.as_deref())?;
    let filter = JobFilter { state: query.state, module: query.plugin, tags };
    let page = Page { after: query.after, limit: query.limit.unwrap_or(Page::default().limit) };
    let jobstore = query.jobstore.unwrap_or_default();
    let list = app.scheduler.list_jobs(&jobstore, &filter, &page).await?;
    let mut items: Vec<JobView> = list.items.into_iter().map(JobView::from).collect();
    if let Some(limit) = query.recent.map(|limit| limit.min(RECENT_MAX)).filter(|limit| *limit > 0) {
        for item in &mut items {
            item.recent = Some(recent(&app, &jobstore, item.id.clone(), limit).await?);
        }
    }
    Ok(Json(List { items, next: list.next }))
}

pub async fn add(State(app): State<App>, JsonBody(spec): JsonBody<JobSpec>) -> Result<Created<JobView>, Problem> {
    let (job, options) = spec.into_job(app.scheduler.clock().now())?;
    let entry = app.scheduler.add_job(job, options).await?;
    Ok(Created(entry.into()))
}

pub async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    Ok(Json(app.scheduler.get_job(&id.parse()?).await?.into()))
}

pub async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result<NoContent, Problem> {
    app.scheduler.remove_job(&id.parse()?).await?;
    Ok(NoContent)
}

pub async fn pause(State(app): State<App>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    Ok(Json(app.scheduler.pause_job(&id.parse()?).await?.into()))
}

pub async fn resume(State(app): State<App>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    Ok(Json(app.scheduler.resume_job(&id.parse()?).await?.into()))
}

#[derive(Serialize, schemars::JsonSchema)]
pub struct RunAsked {
    run_id: RunId,
}

/// Asks for a run now; a body with `args` and `kwargs` has it called with them instead of the job's.
pub async fn run(
    State(app): State<App>,
    Path(id): Path<String>,
    arguments: Option<JsonBody<Arguments>>,
) -> Result<Accepted<RunAsked>, Problem> {
    let id = id.parse()?;
    let run_id = match arguments {
        None => app.scheduler.run_job(&id).await?,
        Some(JsonBody(arguments)) => app.scheduler.run_job_with(&id, arguments).await?,
    };
    Ok(Accepted(RunAsked { run_id }))
}

/// A value of a job's state: text, or base64 if it is none.
#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueView {
    Text(String),
    Base64(String),
}

/// A job's own key-value state.
pub async fn state(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<BTreeMap<String, ValueView>>, Problem> {
    let values = app.scheduler.get_values(&id.parse()?).await?;
    let view = |value: Vec<u8>| match String::from_utf8(value) {
        Ok(text) => ValueView::Text(text),
        Err(error) => ValueView::Base64(STANDARD.encode(error.as_bytes())),
    };
    let values: BTreeMap<String, ValueView> = values.into_iter().map(|(key, value)| (key, view(value))).collect();
    Ok(Json(values))
}

pub async fn clear_state(State(app): State<App>, Path(id): Path<String>) -> Result<NoContent, Problem> {
    app.scheduler.clear_values(&id.parse()?).await?;
    Ok(NoContent)
}

/// Fields of a job, each as in a [`JobSpec`].
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct JobPatch(Map<String, Value>);

/// Changes the fields that are given, all or none.
pub async fn modify(
    State(app): State<App>,
    Path(id): Path<String>,
    JsonBody(JobPatch(patch)): JsonBody<JobPatch>,
) -> Result<Json<JobView>, Problem> {
    let change = |job: &mut Job| {
        *job = job.patched(&patch)?;
        Ok(())
    };
    Ok(Json(app.scheduler.try_modify_job(&id.parse()?, change).await?.into()))
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveAllQuery {
    /// Must be `true`: a path that was cut short must not mean every job.
    #[serde(default)]
    all: bool,
    jobstore: Option<Alias>,
}

pub async fn remove_all(State(app): State<App>, Query(query): Query<RemoveAllQuery>) -> Result<NoContent, Problem> {
    if !query.all {
        let reason = "it removes every job of the job store";
        return Err(Invalid::new("request", "", reason).hint("`?all=true` says that it is meant").into());
    }
    app.scheduler.remove_all_jobs(&query.jobstore.unwrap_or_default()).await?;
    Ok(NoContent)
}

/// A past range: from a time to before another.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillSpec {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

#[derive(Serialize, schemars::JsonSchema)]
pub struct Backfilled {
    /// Runs that were asked for.
    runs: u64,
}

pub async fn backfill(
    State(app): State<App>,
    Path(id): Path<String>,
    JsonBody(spec): JsonBody<BackfillSpec>,
) -> Result<Accepted<Backfilled>, Problem> {
    let runs = app.scheduler.backfill(&id.parse()?, spec.from, spec.to).await?;
    Ok(Accepted(Backfilled { runs }))
}

pub async fn cancel_backfill(State(app): State<App>, Path(id): Path<String>) -> Result<Json<JobView>, Problem> {
    Ok(Json(app.scheduler.cancel_backfill(&id.parse()?).await?.into()))
}
