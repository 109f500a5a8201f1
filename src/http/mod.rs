//! The HTTP API. The command line and the web page speak nothing else: over the daemon's socket, over
//! TCP, or to the same router inside a command's own process. No rule about jobs lives here.
//!
//! A request passes the gate (`gate/`), which says who calls; the guard of its operation, which says
//! whether they may; and then its handler. `routes.rs` has every operation, once.

mod access;
mod audit;
mod audit_log;
mod backup;
mod bundle;
mod doctor;
mod events;
mod extract;
mod gate;
mod grants;
mod idempotency;
mod jobs;
mod listeners;
mod logs;
mod nodes;
mod openapi;
mod operation;
mod page;
mod plugins;
mod problem;
mod routes;
mod runs;
mod secrets;
mod serve;
mod session;
mod simulate;
mod stream;
mod system;
mod timeline;

pub use access::{Access, Caller, Peer};
pub use audit::Entry as AuditEntry;
pub use bundle::{ImportSpec, Imported};
pub use doctor::Doctor;
pub use events::Follow;
pub use gate::token::{TokenKind, local_path as operator_token_path};
pub use grants::GrantSpec;
pub use jobs::{BackfillSpec, JobSpec};
pub use listeners::{ListenerSpec, ReplaySpec};
pub use plugins::{Stage, UploadLine};
pub use problem::Problem;
pub use serve::{CONNECTIONS_MAX, HEAD_TIME_MAX, bind_unix, serve_tcp, serve_unix};
pub use session::{CodeView, NewToken, TokenSpec};
pub use simulate::{SimulateLine, SimulateSpec};
pub use system::{PreviewSpec, Status};

use crate::config::App;
use crate::error::Result as AppResult;
use crate::invalid::Invalid;
use crate::job::Alias;
use audit::Audit;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::http::header;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use axum::{Router, response::IntoResponse};
use bytes::Bytes;
use gate::Gate;
use idempotency::Idempotency;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use stream::Hub;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Largest body of a request, in bytes; plugins and documents have their own limits.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Event streams, and followed logs, at one time.
pub const STREAMS_MAX: usize = 64;
/// Components that come in at one time.
const UPLOADS_MAX: usize = 4;
/// Requests at one time that look at much or start processes; more wait.
const HEAVY_MAX: usize = 2;
/// The operation that anybody may try, and that is on record all the same.
const LOGIN: &str = "begin_session";

/// The API over one installation. Clones are the same.
#[derive(Clone)]
pub struct Api {
    pub app: App,
    gate: Arc<Gate>,
    audit: Arc<Audit>,
    idempotency: Arc<Idempotency>,
    streams: Arc<Semaphore>,
    hub: Arc<Hub>,
    uploads: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    addresses: Arc<OnceLock<Vec<SocketAddr>>>,
    /// Raised by who asks for the daemon's end.
    stop: CancellationToken,
}

impl FromRef<Api> for App {
    fn from_ref(api: &Api) -> App {
        api.app.clone()
    }
}

impl Api {
    /// Opens what the API keeps in the installation's home: tokens, the audit log, idempotency keys.
    pub fn open(app: App) -> AppResult<Self> {
        let home = &app.home;
        Ok(Api {
            gate: Arc::new(Gate::open(home)?),
            audit: Arc::new(Audit::open(home)?),
            idempotency: Arc::new(Idempotency::open(home)?),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            hub: Arc::default(),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            heavy: Arc::new(Semaphore::new(HEAVY_MAX)),
            backups: Arc::new(Semaphore::new(1)),
            addresses: Arc::default(),
            stop: CancellationToken::new(),
            app,
        })
    }

    /// Makes sure that the command line of the daemon's own user has a token.
    pub fn ensure_operator_token(&self) -> AppResult<()> {
        self.gate.tokens.ensure_local(self.app.scheduler.clock().now())
    }

    /// Waits for a place among the requests that look at much.
    async fn heavy(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.heavy.clone().acquire_owned().await.ok()
    }

    /// The names by which the daemon is called, beside those of this machine.
    pub fn set_hosts(&self, hosts: Vec<String>) {
        self.gate.hosts.set(hosts);
    }

    /// Where it listens over TCP.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        let _ = self.addresses.set(addresses);
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.get().cloned().unwrap_or_default()
    }

    /// Writes on in a new audit log: what rotates logs has moved the old one away.
    pub fn reopen_audit(&self) -> AppResult<()> {
        self.audit.reopen().map_err(|e| crate::Error::host("cannot open the audit log", e))
    }

    /// Completes when a caller has asked for the daemon's end.
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// All routes.
    pub fn router(&self) -> Router {
        let operations = routes::operations();
        let document = Bytes::from(serde_json::to_vec(&openapi::document(&operations)).unwrap_or_default());
        let described = move || async move { ([(header::CONTENT_TYPE, "application/json")], document).into_response() };
        let mut router = page::routes().route("/openapi.json", get(described));
        for operation in operations {
            router = router.route(operation.path, gate::guard(self, operation));
        }
        router
            .fallback(problem::no_route)
            .method_not_allowed_fallback(problem::no_method)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(from_fn_with_state(self.clone(), gate::enter))
            .with_state(self.clone())
    }
}

/// The API's description: OpenAPI 3.1.
pub fn openapi() -> serde_json::Value {
    openapi::document(&routes::operations())
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
