//! Secrets over HTTP: they go in and never come out.

use super::extract::{JsonBody, NoContent, Query};
use super::plugins::NamesQuery;
use super::problem::Problem;
use crate::config::App;
use crate::error::Error;
use crate::grant::SecretName;
use crate::secret::Secret;
use crate::store::List;
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretSpec {
    value: Secret,
}

pub async fn list(State(app): State<App>, Query(query): Query<NamesQuery>) -> Result<Json<List<SecretName>>, Problem> {
    Ok(Json(query.page(app.secrets.list_secrets().await?, ToString::to_string)))
}

pub async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    JsonBody(SecretSpec { value }): JsonBody<SecretSpec>,
) -> Result<NoContent, Problem> {
    let name: SecretName = name.parse()?;
    value.validate()?;
    app.secrets.put_secret(&name, value).await?;
    Ok(NoContent)
}

pub async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<NoContent, Problem> {
    let name: SecretName = name.parse()?;
    if app.secrets.remove_secret(&name).await? { Ok(NoContent) } else { Err(Error::SecretNotFound(name).into()) }
}
