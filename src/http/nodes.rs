//! The nodes that share a store.

use super::extract::NoContent;
use super::problem::Problem;
use crate::config::App;
use crate::error::Error;
use crate::invalid::Invalid;
use crate::store::{List, Node};
use axum::Json;
use axum::extract::{Path, State};

/// A store in the home has the daemon itself and no other, which is not worth a list.
pub async fn list(State(app): State<App>) -> Result<Json<List<Node>>, Problem> {
    let items = match &app.nodes {
        Some(nodes) => nodes.list_nodes().await?,
        None => Vec::new(),
    };
    Ok(Json(List { items, next: None }))
}

pub async fn evict(State(app): State<App>, Path(lease): Path<String>) -> Result<NoContent, Problem> {
    let lease = lease.parse().map_err(|_| Invalid::new("lease", &lease, "it is a number"))?;
    match &app.nodes {
        Some(nodes) => nodes.evict_node(lease).await?,
        None => return Err(Error::NodeNotFound(lease).into()),
    }
    Ok(NoContent)
}
