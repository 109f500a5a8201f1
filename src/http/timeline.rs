//! When jobs fire next, counted by stretches of time.

use super::Api;
use super::extract::Query;
use super::problem::Problem;
use crate::error::Error;
use crate::func::FuncRef;
use crate::job::{Alias, JobId, Status};
use crate::store::{JobEntry, JobFilter, List, Page};
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// Hours that one timeline has at most.
const HOURS_MAX: u32 = 24 * 7;
const BUCKET: TimeDelta = TimeDelta::minutes(15);
/// Fire times that are looked up of one job, and of all on one page.
const TIMES_MAX: u64 = 100_000;
const ALL_TIMES_MAX: u64 = 2_000_000;
const JOBS_MAX: usize = 200;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimelineQuery {
    /// Default now.
    from: Option<DateTime<Utc>>,
    /// 1 to 168. Default 24.
    hours: Option<u32>,
    jobstore: Option<Alias>,
    after: Option<String>,
    /// Jobs on a page, at most 200. Default 100.
    limit: Option<usize>,
}

/// The fire times of some jobs between two instants.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Timeline {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    bucket_seconds: i64,
    /// The job that fires next first.
    #[serde(flatten)]
    jobs: List<JobTimes>,
}

#[derive(Serialize, schemars::JsonSchema)]
pub struct JobTimes {
    job_id: JobId,
    name: String,
    func: FuncRef,
    next_run_time: DateTime<Utc>,
    total: u64,
    /// There are more than were looked up; those that are missing are the last.
    capped: bool,
    /// Fire times in each stretch.
    counts: Vec<u64>,
}

pub async fn timeline(State(api): State<Api>, Query(query): Query<TimelineQuery>) -> Result<Json<Timeline>, Problem> {
    let from = query.from.unwrap_or_else(|| api.app.scheduler.clock().now());
    crate::trigger::check_instant(from)?;
    let hours = query.hours.unwrap_or(24).clamp(1, HOURS_MAX);
    let now = api.app.scheduler.clock().now();
    let to = from + TimeDelta::hours(i64::from(hours));
    let filter = JobFilter { state: Some(Status::Active), ..JobFilter::default() };
    let page = Page { after: query.after, limit: query.limit.unwrap_or(100).clamp(1, JOBS_MAX) };
    let listed = api.app.scheduler.list_jobs(&query.jobstore.unwrap_or_default(), &filter, &page).await?;
    let place = api.heavy().await;
    let work = move || {
        let _place = place;
        let mut left = ALL_TIMES_MAX;
        let mut items: Vec<JobTimes> =
            listed.items.iter().filter_map(|entry| times(entry, (from, to, now), &mut left)).collect();
        items.sort_by(|a, b| (a.next_run_time, &a.job_id).cmp(&(b.next_run_time, &b.job_id)));
        List { items, next: listed.next }
    };
    let jobs = tokio::task::spawn_blocking(work).await;
    let jobs = jobs.map_err(|e| Error::host("the timeline cannot be made", e))?;
    Ok(Json(Timeline { from, to, bucket_seconds: BUCKET.num_seconds(), jobs }))
}

fn times(
    entry: &JobEntry,
    (from, to, now): (DateTime<Utc>, DateTime<Utc>, DateTime<Utc>),
    all_left: &mut u64,
) -> Option<JobTimes> {
    let job = entry.job.as_ref()?;
    let next = entry.state.next_run_time?;
    let buckets = (to - from).num_seconds() / BUCKET.num_seconds();
    let mut counts = vec![0; usize::try_from(buckets).unwrap_or(0)];
    let runs_left = job.trigger.runs_max().map_or(u64::MAX, |most| most.saturating_sub(entry.state.started));
    let most = TIMES_MAX.min(*all_left);
    // A trigger that is a plugin is not asked beyond the time that is known.
    let asked = job.trigger.asked().is_some();
    let (mut at, mut total, mut steps) = (Some(next), 0, 0);
    while let Some(time) = at.filter(|time| *time < to && steps < most.min(runs_left)) {
        steps += 1;
        // What is due already belongs to now; what comes before the beginning is not of this timeline.
        let shown = if time <= now { now } else { time };
        let bucket = (shown - from).num_seconds().div_euclid(BUCKET.num_seconds());
        if let Some(count) = usize::try_from(bucket).ok().and_then(|bucket| counts.get_mut(bucket)) {
            *count += 1;
            total += 1;
        }
        at = if asked { None } else { job.trigger.next_fire_time(Some(time), time) };
    }
    *all_left -= steps;
    let capped = at.is_some_and(|at| at < to) && steps < runs_left;
    let (job_id, name, func) = (entry.id.clone(), job.name.clone(), job.func.clone());
    Some(JobTimes { job_id, name, func, next_run_time: next, total, capped, counts })
}
