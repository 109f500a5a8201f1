//! Secrets over HTTP: they go in and never come out.

use super::problem::Problem;
use crate::config::App;
use crate::error::Error;
use crate::grant::SecretName;
use crate::secret::Secret;
use crate::store::List;
use crate::strict_json;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretSpec {
    value: Secret,
}

pub async fn list(State(app): State<App>) -> Result<Json<List<SecretName>>, Problem> {
    Ok(Json(List { items: app.secrets.list_secrets().await?, next: None }))
}

pub async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, Problem> {
    let name: SecretName = name.parse()?;
    let SecretSpec { value } = strict_json::from_slice("secret", &body?)?;
    value.validate()?;
    app.secrets.put_secret(&name, value).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let name: SecretName = name.parse()?;
    if app.secrets.remove_secret(&name).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Error::SecretNotFound(name).into())
    }
}
