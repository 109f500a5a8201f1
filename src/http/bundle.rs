//! Plugins and jobs as one document, out and in.

use super::Api;
use super::access::Caller;
use super::extract::{JsonBody, Query};
use super::jobs::JobSpec;
use super::problem::Problem;
use crate::bundle::{self, Bundle, BundledJob, Change, apscheduler};
use crate::config::App;
use crate::error::Result as AppResult;
use crate::invalid::Invalid;
use crate::job::Alias;
use crate::plugin::{Plugin, digest};
use crate::sandbox::AddPlugin;
use crate::scheduler::{AddOptions, ImportOptions, ImportResult, ImportedJob};
use crate::store::Conflict;
use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest document that comes in, in bytes: components are within it.
pub const BUNDLE_BYTES_MAX: usize = 256 << 20;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// With the components of the plugins.
    #[serde(default)]
    components: bool,
    jobstore: Option<Alias>,
}

pub async fn export(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ExportQuery>,
) -> Result<Json<Bundle>, Problem> {
    let (_place, app) = (api.heavy().await, api.app);
    let plugins: Vec<Plugin> = app.registry.list().await?.into_iter().map(|plugin| caller.shown(plugin)).collect();
    let mut components = BTreeMap::new();
    for version in plugins.iter().flat_map(|plugin| &plugin.versions).filter(|_| query.components) {
        if let Some(bytes) = app.registry.component(&version.digest).await? {
            components.insert(version.digest.to_string(), STANDARD.encode(bytes));
        }
    }
    let jobs = app.scheduler.export_jobs(&query.jobstore.unwrap_or_default()).await?;
    let exported = app.scheduler.clock().now();
    Ok(Json(Bundle { version: bundle::VERSION, exported, plugins, components, jobs }))
}

/// A document and how it comes in.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportSpec {
    bundle: Bundle<Value>,
    #[serde(default)]
    on_conflict: Conflict,
    #[serde(default)]
    dry_run: bool,
}

/// What became of each plugin and each job.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Imported {
    plugins: Vec<ImportedJob>,
    jobs: Vec<ImportedJob>,
}

pub async fn import(State(app): State<App>, JsonBody(spec): JsonBody<ImportSpec>) -> Result<Json<Imported>, Problem> {
    if spec.bundle.version != bundle::VERSION {
        let version = spec.bundle.version.to_string();
        return Err(Invalid::new("export", version, format!("its version is not {}", bundle::VERSION)).into());
    }
    let options = ImportOptions { on_conflict: spec.on_conflict, dry_run: spec.dry_run };
    let mut plugins = Vec::new();
    for plugin in &spec.bundle.plugins {
        plugins.extend(import_plugin(&app, plugin, &spec.bundle.components, options).await?);
    }
    let mut jobs = Vec::new();
    let coming = |job: &BundledJob| {
        let version = format!("{}@", job.job.func.module);
        let comes = |plugin: &ImportedJob| plugin.result == ImportResult::Added && plugin.id.starts_with(&version);
        spec.dry_run && plugins.iter().any(comes)
    };
    for value in spec.bundle.jobs {
        let id = value["job"]["id"].as_str().unwrap_or("?").to_owned();
        match serde_json::from_value::<BundledJob>(value) {
            Ok(job) if coming(&job) => {
                let notes = vec!["its arguments are checked when its plugin is there".to_owned()];
                jobs.push(ImportedJob { result: ImportResult::Added, notes, ..ImportedJob::refused(id, "") });
            }
            Ok(job) => jobs.extend(app.scheduler.import_jobs(vec![job], options).await?),
            Err(error) => jobs.push(ImportedJob::refused(id, error.to_string())),
        }
    }
    Ok(Json(Imported { plugins, jobs }))
}

/// Registers the versions of a plugin whose components are there, each inspected as any other.
async fn import_plugin(
    app: &App,
    plugin: &Plugin,
    components: &BTreeMap<String, String>,
    options: ImportOptions,
) -> AppResult<Vec<ImportedJob>> {
    let known = app.registry.get(&plugin.name).await.ok();
    let kept = |digest: &str| known.as_ref().is_some_and(|known| known.versions.iter().any(|v| &*v.digest == digest));
    let mut imported = Vec::new();
    for version in &plugin.versions {
        let id = format!("{}@{}", plugin.name, &version.digest.get(..12).unwrap_or(&version.digest));
        let done = |result| ImportedJob { result, ..ImportedJob::refused(id.as_str(), "") };
        let bytes = components.get(&*version.digest).and_then(|text| STANDARD.decode(text).ok());
        imported.push(match (bytes, options.on_conflict) {
            _ if kept(&version.digest) => done(ImportResult::Kept),
            // What a name means here is not changed unless that is asked for.
            (_, Conflict::Keep) if known.is_some() => done(ImportResult::Kept),
            (_, Conflict::Refuse) if known.is_some() => {
                ImportedJob::refused(id, "the plugin has other versions here (--replace-existing takes this one over)")
            }
            (None, _) => ImportedJob::refused(id, "its component is not in the file (export with --components)"),
            (Some(bytes), _) if digest(&bytes) != *version.digest => {
                ImportedJob::refused(id, "its component is not the one that its digest names")
            }
            _ if options.dry_run => done(ImportResult::Added),
            (Some(bytes), _) => {
                match app.registry.add(plugin.name.clone(), labelled(version.label.clone()), bytes).await {
                    Ok(_) => done(ImportResult::Added),
                    Err(error) if error.is_host() => return Err(error),
                    Err(error) => ImportedJob::refused(id, error.to_string()),
                }
            }
        });
    }
    if let Some(current) = plugin.current().filter(|_| !options.dry_run)
        && imported.iter().any(|version| version.result == ImportResult::Added)
    {
        // The newest is the current one here too, whatever was there before.
        if let Some(bytes) = app.registry.component(&current.digest).await? {
            app.registry.add(plugin.name.clone(), labelled(None), bytes).await?;
        }
        app.scheduler.plugin_added(&plugin.name, &current.digest).await?;
    }
    Ok(imported)
}

/// A version as it comes in: with the grants that the one before it has here, never those of the file,
/// which are for the operator of this machine to give.
fn labelled(label: Option<String>) -> AddPlugin {
    AddPlugin { label, ..AddPlugin::default() }
}

/// What APScheduler 3's `export_jobs` wrote.
pub async fn import_apscheduler(
    State(app): State<App>,
    Query(options): Query<ImportOptions>,
    JsonBody(export): JsonBody<Value>,
) -> Result<Json<Imported>, Problem> {
    let read = apscheduler::read(&export.to_string())?;
    let mut jobs = Vec::new();
    for apscheduler::ImportedJob { job, paused, notes } in read.jobs {
        let job = BundledJob { job, paused, quarantine: None, started: 0 };
        let imported = app.scheduler.import_jobs(vec![job], options).await?;
        jobs.extend(imported.into_iter().map(|job| ImportedJob { notes: notes.clone(), ..job }));
    }
    jobs.extend(read.refused.into_iter().map(|refused| ImportedJob::refused(refused.id, refused.reason)));
    Ok(Json(Imported { plugins: Vec::new(), jobs }))
}

/// The jobs that there are to be.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplySpec {
    jobs: Vec<Value>,
    /// Jobs that are not among them go.
    #[serde(default)]
    prune: bool,
    /// Only say what would change.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize, schemars::JsonSchema)]
pub struct Applied {
    changes: Vec<Change>,
}

pub async fn apply(State(app): State<App>, JsonBody(spec): JsonBody<ApplySpec>) -> Result<Json<Applied>, Problem> {
    let now = app.scheduler.clock().now();
    let mut jobs: Vec<(crate::Job, AddOptions)> = Vec::new();
    for value in spec.jobs {
        let id = value["id"].as_str().or(value["func"].as_str()).unwrap_or_default().to_owned();
        let spec: JobSpec =
            serde_json::from_value(value).map_err(|e| Invalid::new("job", id.as_str(), e.to_string()))?;
        if spec.id.is_none() {
            let func = spec.func.map_or(String::new(), |func| func.to_string());
            return Err(Invalid::new("job", func, "a declared job needs an `id`").into());
        }
        let (job, options) = spec.into_job(now)?;
        if job.trigger.clone().anchored(now).next_fire_time(None, now).is_some_and(|next| next <= now) {
            let reason = "its one time is now or past, so it would run again each time that it is applied";
            return Err(Invalid::new("job", job.id.as_str(), reason).hint("`sandclock job run` runs a job now").into());
        }
        if jobs.iter().any(|(other, _)| other.id == job.id) {
            return Err(Invalid::new("job", job.id.as_str(), "it is declared twice").into());
        }
        jobs.push((job, options));
    }
    let desired: Vec<_> = jobs.iter().map(|(job, _)| job.clone()).collect();
    let changes = app.scheduler.plan_jobs(&desired, spec.prune).await?;
    if !spec.dry_run {
        app.scheduler.apply_jobs(jobs, &changes).await?;
    }
    Ok(Json(Applied { changes }))
}
