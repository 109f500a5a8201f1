//! The nodes that share a store.

use super::extract::{NoContent, Query};
use super::problem::Problem;
use crate::config::App;
use crate::error::Error;
use crate::invalid::Invalid;
use crate::store::{List, Node};
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;

/// A store in the home has the daemon itself and no other, which is not worth a list.
pub async fn list(State(app): State<App>) -> Result<Json<List<Node>>, Problem> {
    let items = match &app.nodes {
        Some(nodes) => nodes.list_nodes().await?,
        None => Vec::new(),
    };
    Ok(Json(List { items, next: None }))
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvictQuery {
    /// Also one whose lease holds: what it runs is interrupted.
    #[serde(default)]
    force: bool,
}

pub async fn evict(
    State(app): State<App>,
    Path(lease): Path<String>,
    Query(query): Query<EvictQuery>,
) -> Result<NoContent, Problem> {
    let lease = lease.parse().map_err(|_| Invalid::new("lease", &lease, "it is a number"))?;
    let Some(nodes) = &app.nodes else { return Err(Error::NodeNotFound(lease).into()) };
    let known = nodes.list_nodes().await?;
    let lives = known.into_iter().find(|node| node.lease == lease && node.left.is_some());
    if let Some(node) = lives.filter(|_| !query.force) {
        return Err(Error::NodeLives { name: node.name, lease }.into());
    }
    nodes.evict_node(lease).await?;
    Ok(NoContent)
}
