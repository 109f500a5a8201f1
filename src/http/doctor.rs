//! What this machine really keeps plugins from, each thing tried.

use super::problem::Problem;
use crate::child::{jail_layers, try_jail};
use crate::config::{App, Wall};
use crate::error::Error;
use crate::jail::{Finding, Layer};
use axum::Json;
use axum::extract::State;
use serde::Serialize;

/// How guests are kept in here.
#[derive(Serialize)]
pub struct Doctor {
    pub wall: Wall,
    /// What a worker locks itself in with.
    pub layers: Vec<Layer>,
    /// What a locked process was refused, and how.
    pub jail: Vec<Finding>,
}

pub async fn doctor(State(app): State<App>) -> Result<Json<Doctor>, Problem> {
    let failed = |error: std::io::Error| Error::host("the jail cannot be tried", error);
    let tried = tokio::task::spawn_blocking(|| Ok((jail_layers()?, try_jail()))).await;
    let (layers, jail) = tried.map_err(std::io::Error::other).and_then(|tried| tried).map_err(failed)?;
    Ok(Json(Doctor { wall: app.wall, layers, jail }))
}
