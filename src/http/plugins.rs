//! Plugins over HTTP.

use super::problem::Problem;
use crate::config::App;
use crate::error::{Error, Result as AppResult};
use crate::func::PluginName;
use crate::grant::{Capability, Grants};
use crate::listener::Target;
use crate::plugin::{Plugin, PluginVersion};
use crate::sandbox::AddPlugin;
use crate::store::{JobFilter, List, Page};
use crate::strict_json;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

/// What became of a registration, or of a change of grants.
#[derive(Serialize)]
pub struct Added {
    name: PluginName,
    #[serde(flatten)]
    version: PluginVersion,
    /// What it asks for and is not granted: it cannot be scheduled, and the version before it stays
    /// the current one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<Capability>,
    /// Jobs that pin no version follow it.
    current: bool,
    /// Jobs that do not fit this version and are quarantined now.
    quarantined: usize,
    /// Quarantined jobs that fit it and are back.
    released: usize,
}

impl Added {
    /// Looks at the plugin's jobs again.
    pub async fn of(app: &App, name: PluginName, version: PluginVersion) -> AppResult<Self> {
        let (quarantined, released) = app.scheduler.plugin_added(&name, &version.digest).await?;
        let plugin = app.registry.get(&name).await?;
        let current = plugin.current().is_some_and(|current| current.digest == version.digest);
        Ok(Added { missing: version.missing(), current, name, version, quarantined, released })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddQuery {
    label: Option<String>,
    /// As JSON. Default what the version before it has, as far as this one asks for it.
    grants: Option<String>,
    #[serde(default)]
    audit: bool,
    #[serde(default)]
    retry: bool,
}

pub async fn add(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Result<Query<AddQuery>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Added>), Problem> {
    let name: PluginName = name.parse()?;
    let Query(AddQuery { label, grants, audit, retry }) = query?;
    let grants: Option<Grants> =
        grants.map(|grants| strict_json::from_slice("grants", grants.as_bytes())).transpose()?;
    let add = AddPlugin { label, grants, audit, retry };
    let version = app.registry.add(name.clone(), add, body?.to_vec()).await?;
    Ok((StatusCode::CREATED, Json(Added::of(&app, name, version).await?)))
}

pub async fn list(State(app): State<App>) -> Result<Json<List<Plugin>>, Problem> {
    Ok(Json(List { items: app.registry.list().await?, next: None }))
}

pub async fn show(State(app): State<App>, Path(name): Path<String>) -> Result<Json<Plugin>, Problem> {
    Ok(Json(app.registry.get(&name.parse()?).await?))
}

pub async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let name: PluginName = name.parse()?;
    app.registry.get(&name).await?;
    unused(&app, &name).await?;
    app.registry.remove(&name).await?;
    app.scheduler.plugin_removed(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A plugin that jobs call is not removed from under them.
async fn unused(app: &App, name: &PluginName) -> AppResult<()> {
    let filter = JobFilter { module: Some(name.clone()), ..JobFilter::default() };
    let page = Page { after: None, limit: 3 };
    let mut users = Vec::new();
    for store in app.scheduler.jobstores() {
        let jobs = app.scheduler.list_jobs(&store, &filter, &page).await?;
        users.extend(jobs.items.iter().map(|entry| format!("`{}`", entry.id)));
    }
    for (listener, _) in app.listeners.list().await? {
        if matches!(&listener.target, Target::Plugin { func, .. } if func.module == *name) {
            users.push(format!("listener `{}`", listener.name));
        }
    }
    if users.is_empty() {
        return Ok(());
    }
    let more = if users.len() > 3 { " and more" } else { "" };
    users.truncate(3);
    Err(Error::PluginInUse { name: name.clone(), jobs: format!("{}{more}", users.join(", ")) })
}
