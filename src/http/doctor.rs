//! What is wrong with an installation and what to do about it; and what this machine really keeps
//! plugins from, each thing tried.

use super::Api;
use super::problem::Problem;
use crate::child::{jail_layers, try_jail};
use crate::config::{App, STORE_TIME_MAX, Wall};
use crate::error::Error;
use crate::jail::{Finding, Layer};
use crate::scheduler::Phase;
use crate::store::{Counts, Node};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Free bytes of the home's file system below which runs are about to fail, and to be thought of.
const DISK_FAILED: u64 = 100 << 20;
const DISK_WARNING: u64 = 1 << 30;
/// Descriptors that a daemon with workers, streams and connections may need.
const FILES_MIN: u64 = 4096;

/// How an installation is, and how guests are kept in here.
#[derive(Serialize, schemars::JsonSchema)]
pub struct Doctor {
    /// The worst of what was found.
    pub verdict: Verdict,
    pub checks: Vec<Check>,
    pub wall: Wall,
    /// What a worker locks itself in with.
    pub layers: Vec<Layer>,
    /// What a locked process was refused, and how.
    pub jail: Vec<Finding>,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// It works, and somebody should look.
    Warning,
    /// Something does not work, or is not kept in.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Check {
    pub name: String,
    pub status: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

fn ok(name: &str, detail: impl Into<String>) -> Check {
    Check { name: name.into(), status: Verdict::Ok, detail: detail.into(), remedy: None }
}

fn warning(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { status: Verdict::Warning, remedy: Some(remedy.into()), ..ok(name, detail) }
}

fn failed(name: &str, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
    Check { status: Verdict::Failed, ..warning(name, detail, remedy) }
}

pub async fn doctor(State(api): State<Api>) -> Result<Json<Doctor>, Problem> {
    let _place = api.heavy().await;
    let broken = |error: std::io::Error| Error::host("the jail cannot be tried", error);
    let tried = tokio::task::spawn_blocking(|| Ok((jail_layers()?, try_jail()))).await;
    let (layers, jail) = tried.map_err(std::io::Error::other).and_then(|tried| tried).map_err(broken)?;
    let app = &api.app;
    let mut checks = vec![home(&app.home), disk(&app.home), files()];
    checks.extend(store(app).await);
    checks.extend(nodes(app).await);
    checks.extend(scheduler(app));
    checks.extend(plugins(app).await);
    checks.extend(listeners(app).await);
    checks.push(exposure(&api.addresses()));
    checks.push(walls(app.wall, &layers, &jail));
    let verdict = checks.iter().map(|check| check.status).max().unwrap_or(Verdict::Ok);
    Ok(Json(Doctor { verdict, checks, wall: app.wall, layers, jail }))
}

fn home(home: &Path) -> Check {
    let shown = home.display();
    match std::fs::metadata(home) {
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            let detail = format!("others may enter {shown} (mode {:o})", meta.mode() & 0o777);
            failed("home", detail, format!("chmod 700 {shown}"))
        }
        Ok(meta) if meta.uid() != rustix::process::getuid().as_raw() => {
            warning("home", format!("{shown} belongs to user {}", meta.uid()), "run the daemon as its owner")
        }
        Ok(_) => ok("home", format!("{shown}, only its owner may enter")),
        Err(error) => failed("home", format!("{shown} cannot be looked at: {error}"), "see that it is there"),
    }
}

fn disk(home: &Path) -> Check {
    let Ok(disk) = rustix::fs::statvfs(home) else {
        return warning("disk", "its free space cannot be told", "look at it with `df`");
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let detail = format!("{:.1} GiB free", free as f64 / f64::from(1 << 30));
    let remedy = "make room: a store that cannot write starts no runs";
    match free {
        free if free < DISK_FAILED => failed("disk", detail, remedy),
        free if free < DISK_WARNING => warning("disk", detail, remedy),
        _ => ok("disk", detail),
    }
}

fn files() -> Check {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if most < FILES_MIN {
        let remedy = "raise it: `ulimit -n 65536`, or `LimitNOFILE=` in the unit";
        return warning("descriptors", format!("at most {most}"), remedy);
    }
    ok("descriptors", if most == u64::MAX { "no limit".to_owned() } else { format!("at most {most}") })
}

async fn store(app: &App) -> Vec<Check> {
    let counts = match app.store_counts().await {
        Some(Ok(counts)) => counts,
        Some(Err(error)) => {
            let remedy = "it is tried again by itself; the log says more; `sandclock recover` if it is damaged";
            return vec![failed("job store", error.chain(), remedy)];
        }
        None => return vec![failed("job store", "it does not answer", "look at the disk: a commit hangs")],
    };
    let Counts { jobs, quarantined, runs, .. } = counts;
    let quarantine = if quarantined == 0 {
        ok("quarantined jobs", "none")
    } else {
        let remedy = "`sandclock job list --state quarantined` says why each";
        warning("quarantined jobs", format!("{quarantined} will not run"), remedy)
    };
    vec![ok("job store", format!("{jobs} jobs, {runs} runs kept")), quarantine]
}

/// Of a store that several nodes share.
async fn nodes(app: &App) -> Vec<Check> {
    let Some(nodes) = &app.nodes else { return Vec::new() };
    let nodes = match tokio::time::timeout(STORE_TIME_MAX, nodes.list_nodes()).await {
        Ok(Ok(nodes)) => nodes,
        Ok(Err(error)) => return vec![failed("nodes", error.chain(), "the log says more")],
        Err(_) => return vec![failed("nodes", "the store does not answer", "look at its database")],
    };
    let (live, lost): (Vec<&Node>, Vec<&Node>) = nodes.iter().partition(|node| node.left.is_some());
    let mut names: Vec<&str> = live.iter().map(|node| node.name.as_str()).collect();
    names.sort_unstable();
    let mut twice: Vec<&str> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    twice.dedup();
    let detail = format!("sharing the store: {}", names.join(", "));
    vec![if !live.iter().any(|node| node.claims) {
        warning("nodes", format!("{detail}; none of them runs anything"), "`sandclock serve` with slots")
    } else if !twice.is_empty() {
        warning("nodes", format!("several are called {}", twice.join(", ")), "tell them apart: `serve --node NAME`")
    } else if !lost.is_empty() {
        let lost: Vec<&str> = lost.iter().map(|node| node.name.as_str()).collect();
        warning("nodes", format!("{detail}; lost: {}", lost.join(", ")), "what it ran is being taken over")
    } else {
        ok("nodes", detail)
    }]
}

fn scheduler(app: &App) -> Vec<Check> {
    let phase = match app.scheduler.phase() {
        Phase::Running => ok("scheduler", "it fires what is due"),
        Phase::Paused => warning("scheduler", "it is paused and fires nothing", "`sandclock resume`"),
        Phase::Stopped => {
            warning("scheduler", "no daemon runs on this home, so nothing fires here", "`sandclock serve`")
        }
    };
    let full = app.scheduler.slots().into_iter().find(|(_, slots)| slots.total > 0 && slots.used >= slots.total);
    let slots = match full {
        Some((alias, slots)) => {
            let remedy = "wait, cancel runs that hang (`sandclock run list`), or `serve --slots` for more";
            warning("slots", format!("all {} of executor `{alias}` are used", slots.total), remedy)
        }
        None => ok("slots", "some are free"),
    };
    vec![phase, slots]
}

async fn plugins(app: &App) -> Vec<Check> {
    let plugins = match app.registry.list().await {
        Ok(plugins) => plugins,
        Err(error) => return vec![failed("plugins", error.chain(), "the log says more")],
    };
    let waits = |plugin: &&crate::plugin::Plugin| plugin.versions.last().is_some_and(|last| !last.missing().is_empty());
    let waiting: Vec<String> = plugins.iter().filter(waits).map(|plugin| plugin.name.to_string()).collect();
    let stored = app.secrets.list_secrets().await.unwrap_or_default();
    let granted = plugins.iter().filter_map(|plugin| plugin.current()).flat_map(|version| &version.grants.secrets);
    let mut missing: Vec<String> =
        granted.filter(|secret| !stored.contains(&secret.name)).map(|secret| secret.name.to_string()).collect();
    missing.sort();
    missing.dedup();
    let secrets = if missing.is_empty() {
        ok("secrets", format!("{} stored, none that is granted is missing", stored.len()))
    } else {
        let detail = format!("granted and not stored: {}", missing.join(", "));
        warning("secrets", detail, "`sandclock secret set NAME` stores one")
    };
    if waiting.is_empty() {
        return vec![ok("plugins", format!("{} registered, none waits for a grant", plugins.len())), secrets];
    }
    let detail = format!("the newest version of {} waits for a grant", waiting.join(", "));
    vec![warning("plugins", detail, "`sandclock plugin grants NAME` says which; `plugin grant` gives it"), secrets]
}

async fn listeners(app: &App) -> Vec<Check> {
    let listeners = match app.listeners.list().await {
        Ok(listeners) => listeners,
        Err(error) => return vec![failed("listeners", error.chain(), "the log says more")],
    };
    let stuck: Vec<String> = listeners
        .iter()
        .filter(|(_, progress)| !progress.dead.is_empty() || progress.attempt > 0)
        .map(|(listener, _)| listener.name.to_string())
        .collect();
    if stuck.is_empty() {
        return vec![ok("listeners", format!("{} stored, all are told", listeners.len()))];
    }
    let remedy = "`sandclock listener show NAME` has its last error and its dead letters";
    vec![warning("listeners", format!("{} did not take some events", stuck.join(", ")), remedy)]
}

fn exposure(addresses: &[SocketAddr]) -> Check {
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if addresses.is_empty() {
        return ok("network", "the API is on the Unix socket alone");
    }
    if addresses.iter().all(|address| address.ip().is_loopback()) {
        return ok("network", format!("the API is on {}, which this machine alone reaches", shown.join(", ")));
    }
    let remedy = "put TLS in front: tokens are sent in the clear";
    warning("network", format!("other machines reach the API on {}", shown.join(", ")), remedy)
}

fn walls(wall: Wall, layers: &[Layer], jail: &[Finding]) -> Check {
    if wall == Wall::None {
        let remedy = "leave out `--in-process` unless all plugins are trusted";
        return warning("walls", "plugins run inside the daemon: there is one wall only", remedy);
    }
    let lacking = |off: bool| {
        let lacks = |layer: &&Layer| !layer.is_enforced() && layer.is_off() == off;
        layers.iter().filter(lacks).map(|layer| layer.name.as_ref()).collect::<Vec<&str>>().join(", ")
    };
    // What an unlocked process may not do either is closed all the same.
    let open: Vec<&str> = jail.iter().filter(|finding| finding.is_open()).map(|finding| finding.attempt).collect();
    let remedy = "see the list below; `serve --strict` runs nothing without a layer";
    let (off, partial) = (lacking(true), lacking(false));
    match (off.is_empty(), partial.is_empty(), open.is_empty()) {
        (true, true, true) => ok("walls", format!("all layers hold, and {} ways out were tried", jail.len())),
        (true, false, true) => warning("walls", format!("these layers hold in part: {partial}"), remedy),
        _ => failed("walls", format!("missing layers: {off}; open ways out: {}", open.join(", ")), remedy),
    }
}
