//! What plugins were granted, and what they turned out to need.

use super::Api;
use super::access::Caller;
use super::extract::JsonBody;
use super::plugins::Added;
use super::problem::Problem;
use crate::config::App;
use crate::error::Result as AppResult;
use crate::func::PluginName;
use crate::grant::{Grants, Suggestion, suggest};
use crate::plugin::PluginVersion;
use crate::run::Run;
use crate::store::{JobFilter, PAGE_MAX, Page, RunFilter};
use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Runs that one suggestion looks at.
const RUNS_MAX: usize = 10_000;

/// What the newest version of a plugin, or another one, is granted from now on.
#[derive(Debug, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrantSpec {
    pub grants: Grants,
    /// Added to what is granted already; otherwise it is all that is granted.
    pub add: bool,
    /// Of the version with a digest that begins so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub audit: bool,
}

/// The grants of each version of a plugin, oldest first.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Granted {
    digest: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    current: bool,
    grants: Arc<Grants>,
    /// What it asks for and is not granted.
    missing: Vec<crate::grant::Capability>,
    audit: bool,
}

pub async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Vec<Granted>>, Problem> {
    let plugin = caller.shown(app.registry.get(&name.parse()?).await?);
    let current = plugin.current().map(|version| version.digest.clone());
    let granted = plugin.versions.iter().map(|version| Granted {
        digest: version.digest.clone(),
        label: version.label.clone(),
        current: Some(&version.digest) == current.as_ref(),
        grants: version.grants.clone(),
        missing: version.missing(),
        audit: version.audit,
    });
    Ok(Json(granted.collect()))
}

pub async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    JsonBody(spec): JsonBody<GrantSpec>,
) -> Result<Json<Added>, Problem> {
    let name: PluginName = name.parse()?;
    let change = |old: &Grants| {
        let mut grants = if spec.add { old.clone() } else { Grants::default() };
        grants.merge(spec.grants.clone());
        grants
    };
    let version = app.registry.grant(&name, spec.digest.as_deref(), spec.audit, change).await?;
    Ok(Json(Added::of(&app, name, version).await?))
}

pub async fn suggestion(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<Suggestion>, Problem> {
    let (_place, app) = (api.heavy().await, api.app);
    let name: PluginName = name.parse()?;
    let plugin = app.registry.get(&name).await?;
    // Of an audited version that is newer than the current one, if there is one.
    let version = plugin.versions.iter().rfind(|version| version.audit).or(plugin.current());
    let (grants, runs) = match version {
        Some(version) => (version.grants.clone(), runs_of(&app, &name, version).await?),
        None => Default::default(),
    };
    Ok(Json(suggest(&grants, runs.iter())))
}

/// Recorded runs of one version, of all jobs that have called it.
async fn runs_of(app: &App, name: &PluginName, version: &PluginVersion) -> AppResult<Vec<Run>> {
    let mut runs = Vec::new();
    let filter = JobFilter { module: Some(name.clone()), ..JobFilter::default() };
    for store in app.scheduler.jobstores() {
        let mut page = Page { after: None, limit: PAGE_MAX };
        loop {
            let jobs = app.scheduler.list_jobs(&store, &filter, &page).await?;
            for entry in jobs.items {
                let of_job = RunFilter { job: Some(entry.id), ..RunFilter::default() };
                let listed = app.scheduler.list_runs(&store, &of_job, &Page { after: None, limit: PAGE_MAX }).await?;
                runs.extend(listed.items.into_iter().filter(|run| run.plugin_digest.as_ref() == Some(&version.digest)));
            }
            page.after = jobs.next;
            if page.after.is_none() || runs.len() >= RUNS_MAX {
                break;
            }
        }
    }
    Ok(runs)
}
