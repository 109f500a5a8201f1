//! Reading the audit log.

use super::Api;
use super::audit::Entry;
use super::extract::Query;
use super::problem::Problem;
use crate::error::Error;
use crate::store::{List, PAGE_MAX};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// The cursor of the page before.
    after: Option<u64>,
    limit: Option<usize>,
}

pub async fn list(State(api): State<Api>, Query(query): Query<AuditQuery>) -> Result<Json<List<Entry>>, Problem> {
    let limit = query.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let (audit, _place) = (api.audit.clone(), api.heavy().await);
    let read = tokio::task::spawn_blocking(move || audit.list(query.after, limit)).await;
    let read = read.map_err(std::io::Error::other).and_then(|read| read);
    let items = read.map_err(|e| Error::host("cannot read the audit log", e))?;
    let next = items.last().filter(|last| items.len() == limit && last.seq > 1).map(|last| last.seq.to_string());
    Ok(Json(List { items, next }))
}
