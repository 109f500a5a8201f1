//! The HTTP API. The command line speaks it too: over the daemon's socket when one runs, else to
//! the same router inside its own process. No rule about jobs lives here.

mod bundle;
mod doctor;
mod events;
mod grants;
mod jobs;
mod listeners;
mod plugins;
mod problem;
mod runs;
mod secrets;
mod simulate;
mod system;
#[cfg(unix)]
mod unix;

pub use doctor::Doctor;
pub use events::Follow;
pub use grants::GrantSpec;
pub use jobs::{BackfillSpec, JobSpec};
pub use listeners::{ListenerSpec, ReplaySpec};
pub use problem::Problem;
pub use simulate::{SimulateLine, SimulateSpec};
pub use system::{PreviewSpec, Status};
#[cfg(unix)]
pub use unix::serve_unix;

use crate::config::App;
use crate::invalid::Invalid;
use crate::job::Alias;
use crate::sandbox::COMPONENT_BYTES_MAX;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use std::collections::BTreeMap;

/// Largest body of a request, in bytes; plugins have their own limit.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// All routes, over one installation.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/plugins", get(plugins::list))
        .route(
            "/v1/plugins/{name}",
            get(plugins::show)
                .delete(plugins::remove)
                .put(plugins::add)
                .layer(DefaultBodyLimit::max(COMPONENT_BYTES_MAX + 1)),
        )
        .route("/v1/plugins/{name}/grants", get(grants::show).put(grants::put))
        .route("/v1/plugins/{name}/suggestion", get(grants::suggestion))
        .route("/v1/secrets", get(secrets::list))
        .route("/v1/secrets/{name}", put(secrets::put).delete(secrets::remove))
        .route("/v1/jobs", get(jobs::list).post(jobs::add).delete(jobs::remove_all))
        .route("/v1/jobs/{id}", get(jobs::show).patch(jobs::modify).delete(jobs::remove))
        .route("/v1/jobs/{id}/state", get(jobs::state).delete(jobs::clear_state))
        .route("/v1/jobs/{id}/pause", post(jobs::pause))
        .route("/v1/jobs/{id}/resume", post(jobs::resume))
        .route("/v1/jobs/{id}/run", post(jobs::run))
        .route("/v1/jobs/{id}/backfill", post(jobs::backfill).delete(jobs::cancel_backfill))
        .route("/v1/listeners", get(listeners::list))
        .route("/v1/listeners/{name}", get(listeners::show).put(listeners::put).delete(listeners::remove))
        .route("/v1/listeners/{name}/replay", post(listeners::replay))
        .route("/v1/simulate", post(simulate::simulate))
        .route("/v1/export", get(bundle::export))
        .route("/v1/import", post(bundle::import).layer(DefaultBodyLimit::max(bundle::BUNDLE_BYTES_MAX)))
        .route(
            "/v1/import/apscheduler",
            post(bundle::import_apscheduler).layer(DefaultBodyLimit::max(bundle::BUNDLE_BYTES_MAX)),
        )
        .route("/v1/apply", post(bundle::apply).layer(DefaultBodyLimit::max(bundle::BUNDLE_BYTES_MAX)))
        .route("/v1/exec", post(runs::exec))
        .route("/v1/failures", get(runs::failures))
        .route("/v1/runs", get(runs::list))
        .route("/v1/runs/{id}", get(runs::show))
        .route("/v1/runs/{id}/logs", get(runs::logs))
        .route("/v1/runs/{id}/cancel", post(runs::cancel))
        .route("/v1/events", get(events::list))
        .route("/v1/events/stream", get(events::stream))
        .route("/v1/triggers/preview", post(system::preview))
        .route("/v1/status", get(system::status))
        .route("/v1/doctor", get(doctor::doctor))
        .route("/v1/scheduler/pause", post(system::pause))
        .route("/v1/scheduler/resume", post(system::resume))
        .fallback(problem::no_route)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(app)
}

/// Tags as a query has them: `key=value`, joined by commas.
fn tags(text: Option<&str>) -> Result<BTreeMap<String, String>, Invalid> {
    let pair = |tag: &str| {
        let pair = tag.split_once('=').ok_or_else(|| Invalid::new("tag", tag, "it has no `=`"))?;
        Ok((pair.0.to_owned(), pair.1.to_owned()))
    };
    text.iter().flat_map(|tags| tags.split(',')).map(pair).collect()
}

/// The job store that lists and events speak of until the API names several.
fn default_store() -> Alias {
    Alias::default()
}
