//! Stored listeners over HTTP. A secret goes in and never comes out.

use super::extract::{JsonBody, NoContent, Query};
use super::plugins::NamesQuery;
use super::problem::Problem;
use crate::config::App;
use crate::event::EventMask;
use crate::job::{Alias, JobId, Retry};
use crate::listener::{Listener, Progress, Target};
use crate::store::List;
use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};

/// The body of a request to add a listener; its name is in the path.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerSpec {
    #[serde(default)]
    pub mask: EventMask,
    #[serde(default)]
    pub jobs: Vec<JobId>,
    pub target: Target,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Where to go on from.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaySpec {
    /// Events with a larger sequence number are told again.
    pub after: u64,
}

/// A listener and how far it is.
#[derive(Serialize, schemars::JsonSchema)]
pub struct ListenerView {
    #[serde(flatten)]
    listener: Listener,
    #[serde(flatten)]
    progress: Progress,
}

impl From<(Listener, Progress)> for ListenerView {
    fn from((listener, progress): (Listener, Progress)) -> Self {
        ListenerView { listener: listener.redacted(), progress }
    }
}

pub async fn list(
    State(app): State<App>,
    Query(query): Query<NamesQuery>,
) -> Result<Json<List<ListenerView>>, Problem> {
    let all = app.listeners.list().await?.into_iter().map(ListenerView::from);
    Ok(Json(query.page(all, |view| view.listener.name.to_string())))
}

pub async fn show(State(app): State<App>, Path(name): Path<String>) -> Result<Json<ListenerView>, Problem> {
    Ok(Json(app.listeners.get(&name.parse()?).await?.into()))
}

pub async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    JsonBody(spec): JsonBody<ListenerSpec>,
) -> Result<Json<ListenerView>, Problem> {
    let name: Alias = name.parse()?;
    let mut listener = Listener::new(name, spec.target);
    (listener.mask, listener.jobs) = (spec.mask, spec.jobs);
    listener.retry = spec.retry.unwrap_or(listener.retry);
    Ok(Json(app.listeners.put(listener).await?.into()))
}

pub async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<NoContent, Problem> {
    app.listeners.remove(&name.parse()?).await?;
    Ok(NoContent)
}

pub async fn replay(
    State(app): State<App>,
    Path(name): Path<String>,
    JsonBody(spec): JsonBody<ReplaySpec>,
) -> Result<Json<ListenerView>, Problem> {
    Ok(Json(app.listeners.replay(&name.parse()?, spec.after).await?.into()))
}
