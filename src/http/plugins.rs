//! Plugins over HTTP.

use super::Api;
use super::access::Caller;
use super::audit::{Entry, Later};
use super::extract::{Created, NoContent, Query, UPLOAD_TIME_MAX};
use super::operation::{Draft, Gives, Takes};
use super::problem::Problem;
use crate::config::App;
use crate::error::{Error, Result as AppResult};
use crate::func::PluginName;
use crate::grant::{Capability, Grants};
use crate::listener::Target;
use crate::plugin::{Function, Plugin, PluginVersion};
use crate::sandbox::{AddPlugin, COMPONENT_BYTES_MAX};
use crate::store::{JobFilter, List, Page};
use crate::strict_json;
use axum::RequestExt;
use axum::body::Body;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::convert::Infallible;
use tokio::sync::mpsc;

const NDJSON: &str = "application/x-ndjson";
/// Lines that wait for a slow reader.
const LINES_MAX: usize = 64;

/// What became of a registration, or of a change of grants.
#[derive(Serialize, schemars::JsonSchema)]
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

#[derive(Deserialize, schemars::JsonSchema)]
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

/// A component as it comes in.
pub struct Upload(Body);

impl<S: Send + Sync> FromRequest<S> for Upload {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        Ok(Upload(request.into_limited_body()))
    }
}

impl Takes for Upload {
    fn describe(draft: &mut Draft<'_>) {
        draft.body("application/wasm", json!({ "type": "string", "contentMediaType": "application/wasm" }));
    }
}

/// A line of an answer that tells how far a registration is.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadLine {
    Progress(Stage),
    /// As the answer without lines.
    Added(Value),
    Problem(Problem),
}

/// How far a registration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", tag = "stage")]
pub enum Stage {
    Received { bytes: usize },
    Compiling,
}

/// One answer, or lines.
pub enum AddAnswer {
    Added(Box<Added>),
    Lines(Body, Later),
}

impl IntoResponse for AddAnswer {
    fn into_response(self) -> Response {
        match self {
            AddAnswer::Added(added) => Created(added).into_response(),
            AddAnswer::Lines(lines, later) => {
                let mut response = ([(header::CONTENT_TYPE, NDJSON)], lines).into_response();
                response.extensions_mut().insert(later);
                response
            }
        }
    }
}

impl Gives for AddAnswer {
    fn describe(draft: &mut Draft<'_>) {
        draft.json::<Added>(201, "registered");
        draft.lines::<UploadLine>(200, "how far it is, then what came of it: if `application/x-ndjson` is accepted");
    }
}

/// Registers a component. A caller that accepts `application/x-ndjson` is told how far it is.
pub async fn add(
    State(api): State<Api>,
    Path(name): Path<String>,
    Query(query): Query<AddQuery>,
    headers: HeaderMap,
    upload: Upload,
) -> Result<AddAnswer, Problem> {
    let name: PluginName = name.parse()?;
    let AddQuery { label, grants, audit, retry } = query;
    let grants: Option<Grants> =
        grants.map(|grants| strict_json::from_slice("grants", grants.as_bytes())).transpose()?;
    let add = AddPlugin { label, grants, audit, retry };
    let place = api.uploads.clone().try_acquire_owned();
    let place = place.map_err(|_| Problem::busy("other plugins are being registered (try again)"))?;
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if !accepted.is_some_and(|accept| accept.contains(NDJSON)) {
        let added = register(&api.app, name, add, upload, |_| ()).await?;
        return Ok(AddAnswer::Added(Box::new(added)));
    }
    let (tell, lines) = mpsc::channel::<UploadLine>(LINES_MAX);
    let (later, entry) = Later::new();
    let audit = api.audit.clone();
    tokio::spawn(async move {
        let _place = place;
        let progress = tell.clone();
        // Who does not read as fast is told less.
        let told = move |stage| drop(progress.try_send(UploadLine::Progress(stage)));
        let (last, status, code) = match register(&api.app, name, add, upload, told).await {
            Ok(added) => (UploadLine::Added(serde_json::to_value(added).unwrap_or_default()), 201, None),
            Err(problem) => {
                let (status, code) = (problem.status, Some(problem.code.clone()));
                (UploadLine::Problem(problem), status, code)
            }
        };
        if let Ok(entry) = entry.await {
            audit.write(Entry { status, code, ..entry });
        }
        let _ = tell.send(last).await;
    });
    let lines = futures::stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        Some((Ok::<_, Infallible>(serde_json::to_string(&line).unwrap_or_default() + "\n"), lines))
    });
    Ok(AddAnswer::Lines(Body::from_stream(lines), later))
}

async fn register(
    app: &App,
    name: PluginName,
    add: AddPlugin,
    Upload(body): Upload,
    progress: impl Fn(Stage),
) -> Result<Added, Problem> {
    let receive = async {
        let mut bytes = Vec::new();
        let mut body = body.into_data_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| upload_failed(&e))?;
            bytes.extend_from_slice(&chunk);
            progress(Stage::Received { bytes: bytes.len() });
        }
        Ok::<_, Problem>(bytes)
    };
    let received = tokio::time::timeout(UPLOAD_TIME_MAX, receive).await;
    let bytes = received.map_err(|_| Problem::too_slow(UPLOAD_TIME_MAX))??;
    progress(Stage::Compiling);
    let version = app.registry.add(name.clone(), add, bytes).await?;
    Ok(Added::of(app, name, version).await?)
}

fn upload_failed(error: &axum::Error) -> Problem {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            let detail =
                format!("the component has more than {COMPONENT_BYTES_MAX} bytes (build it optimised and stripped)");
            return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail);
        }
        cause = error.source();
    }
    Problem::new(StatusCode::BAD_REQUEST, "invalid", "the component did not arrive as a whole")
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NamesQuery {
    after: Option<String>,
    limit: Option<usize>,
}

impl NamesQuery {
    /// The page of things in the order of their names.
    pub fn page<T>(&self, all: impl IntoIterator<Item = T>, name: impl Fn(&T) -> String) -> List<T> {
        let rest = all.into_iter().filter(|one| self.after.as_ref().is_none_or(|after| name(one) > *after));
        List::page(rest, self.limit.unwrap_or(Page::default().limit), &name)
    }
}

pub async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<NamesQuery>,
) -> Result<Json<List<Plugin>>, Problem> {
    let plugins = app.registry.list().await?.into_iter().map(|plugin| caller.shown(plugin));
    Ok(Json(query.page(plugins, |plugin| plugin.name.to_string())))
}

/// What jobs can call of a plugin's current version.
pub async fn functions(State(app): State<App>, Path(name): Path<String>) -> Result<Json<List<FunctionView>>, Problem> {
    let name: PluginName = name.parse()?;
    let functions = app.registry.functions(&name).await?;
    let view = |function: Function| FunctionView { func: format!("{name}:{}", function.name), function };
    Ok(Json(List { items: functions.into_iter().map(view).collect(), next: None }))
}

/// A function with what a job calls it by.
#[derive(Serialize, schemars::JsonSchema)]
pub struct FunctionView {
    func: String,
    #[serde(flatten)]
    function: Function,
}

pub async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<Plugin>, Problem> {
    Ok(Json(caller.shown(app.registry.get(&name.parse()?).await?)))
}

pub async fn remove(State(app): State<App>, Path(name): Path<String>) -> Result<NoContent, Problem> {
    let name: PluginName = name.parse()?;
    app.registry.get(&name).await?;
    unused(&app, &name).await?;
    app.registry.remove(&name).await?;
    app.scheduler.plugin_removed(&name).await?;
    Ok(NoContent)
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
