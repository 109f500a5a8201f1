//! What a caller or an operator is told. A plugin's failure is never one of these: that is an
//! [`Outcome`](crate::Outcome).

use crate::func::{FuncRef, PluginName};
use crate::grant::{Capability, SecretName};
use crate::invalid::Invalid;
use crate::job::{Alias, JobId};
use crate::run::RunId;
use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A host error's cause; foreign error types stay out of the public API.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no job `{0}` (`sandclock job list` shows them)")]
    JobNotFound(JobId),
    #[error("a job `{0}` exists already (remove it, or add with --replace-existing or --keep-existing)")]
    JobExists(JobId),
    #[error("no run `{0}` (`sandclock run list` shows them; old runs are pruned)")]
    RunNotFound(RunId),
    #[error("run `{0}` has already ended")]
    RunEnded(RunId),
    #[error("no plugin `{0}` (`sandclock plugin list` shows them; `sandclock plugin add FILE` registers one)")]
    PluginNotFound(PluginName),
    #[error("there is no version for `{0}` (`sandclock plugin show {name}` lists them)", name = .0.module)]
    VersionNotFound(FuncRef),
    #[error("plugin `{name}` is used by {jobs} (remove those jobs first)")]
    PluginInUse { name: PluginName, jobs: String },
    #[error("no listener `{0}` (`sandclock listener list` shows them)")]
    ListenerNotFound(Alias),
    #[error(
        "plugin `{plugin}` asks for {}, which it is not granted (`sandclock plugin grant {plugin} {}`)",
        words(missing),
        flags(missing)
    )]
    GrantMissing { plugin: PluginName, missing: Vec<Capability> },
    #[error("no node with lease {0} (`sandclock node list` shows them)")]
    NodeNotFound(u64),
    #[error(
        "lease {lease} of node `{name}` has not run out (when it has, others take over; if you know that it is dead, `sandclock node remove --force {lease}` has them do so now)"
    )]
    NodeLives { name: String, lease: u64 },
    #[error("no secret `{0}` (`sandclock secret list` shows them)")]
    SecretNotFound(SecretName),
    #[error("no token `{0}` (`sandclock token list` shows them)")]
    TokenNotFound(Alias),
    #[error("plugin refused: {reason}")]
    PluginRefused { reason: String },
    #[error("no export `{export}` in plugin `{plugin}` (it has {available})")]
    ExportNotFound { plugin: PluginName, export: String, available: String },
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("trigger `{0}` never fires (choose a time that still comes)")]
    NeverFires(String),
    /// A plugin that decides when a job fires did not say.
    #[error("the trigger failed: {0}")]
    TriggerFailed(String),
    #[error("no executor `{alias}` (there is {available})")]
    ExecutorNotFound { alias: Alias, available: String },
    #[error("this node runs nothing, since its `slots` are 0 (ask another node)")]
    RunsNothing,
    #[error("no job store `{alias}` (there is {available})")]
    JobstoreNotFound { alias: Alias, available: String },
    #[error("the alias `{0}` is taken (remove what has it first)")]
    AliasTaken(Alias),
    #[error("no native function `{0}` is registered (register it before adding the job)")]
    NativeNotFound(FuncRef),
    #[error("job `{0}` changed at the same time (look at it and try again)")]
    JobChanged(JobId),
    #[error("too many changes are waiting for the job store (at most {max}; try again)")]
    Busy { max: usize },
    #[error("the scheduler is not running")]
    NotRunning,
    #[error("the scheduler is already running")]
    AlreadyRunning,
    #[error("`{}` is in use by {holder} (stop it, or choose another --home)", dir.display())]
    StoreHeld { dir: PathBuf, holder: String },
    #[error("the store in `{}` is damaged: {reason} ({way_back})", dir.display())]
    StoreDamaged { dir: PathBuf, reason: String, way_back: String },
    #[error("the store in `{}` has format {found}, this program reads {known} (use the version that wrote it)", dir.display())]
    StoreFormat { dir: PathBuf, found: u32, known: u32 },
    #[error("the store failed: {what}")]
    StoreFailed {
        what: String,
        #[source]
        source: Option<Source>,
    },
    #[error("{what}")]
    Host {
        what: String,
        #[source]
        source: Source,
    },
}

impl Error {
    /// A host error with its cause.
    pub fn host(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Error::Host { what: what.into(), source: source.into() }
    }

    /// A short name that does not change between releases.
    pub fn code(&self) -> &'static str {
        match self {
            Error::JobNotFound(_) => "job_not_found",
            Error::JobExists(_) => "job_exists",
            Error::RunNotFound(_) => "run_not_found",
            Error::RunEnded(_) => "run_ended",
            Error::PluginNotFound(_) => "plugin_not_found",
            Error::VersionNotFound(_) => "version_not_found",
            Error::PluginInUse { .. } => "plugin_in_use",
            Error::ListenerNotFound(_) => "listener_not_found",
            Error::GrantMissing { .. } => "grant_missing",
            Error::NodeNotFound(_) => "node_not_found",
            Error::NodeLives { .. } => "node_lives",
            Error::SecretNotFound(_) => "secret_not_found",
            Error::TokenNotFound(_) => "token_not_found",
            Error::PluginRefused { .. } => "plugin_refused",
            Error::ExportNotFound { .. } => "export_not_found",
            Error::Invalid(_) => "invalid",
            Error::NeverFires(_) => "never_fires",
            Error::TriggerFailed(_) => "trigger_failed",
            Error::ExecutorNotFound { .. } => "executor_not_found",
            Error::RunsNothing => "runs_nothing",
            Error::JobstoreNotFound { .. } => "jobstore_not_found",
            Error::AliasTaken(_) => "alias_taken",
            Error::NativeNotFound(_) => "native_not_found",
            Error::JobChanged(_) => "job_changed",
            Error::Busy { .. } => "busy",
            Error::NotRunning => "not_running",
            Error::AlreadyRunning => "already_running",
            Error::StoreHeld { .. } => "store_held",
            Error::StoreDamaged { .. } => "store_damaged",
            Error::StoreFormat { .. } => "store_format",
            Error::StoreFailed { .. } => "store_failed",
            Error::Host { .. } => "host",
        }
    }

    /// Whether the host failed, rather than the caller having asked for something wrong.
    pub fn is_host(&self) -> bool {
        matches!(
            self,
            Error::StoreHeld { .. }
                | Error::StoreDamaged { .. }
                | Error::StoreFormat { .. }
                | Error::StoreFailed { .. }
                | Error::Host { .. }
        )
    }

    /// The message with its causes, for a log or a terminal.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

fn words(missing: &[Capability]) -> String {
    missing.iter().map(|missing| missing.words()).collect::<Vec<_>>().join(" and ")
}

fn flags(missing: &[Capability]) -> String {
    missing.iter().map(|missing| missing.flag()).collect::<Vec<_>>().join(" ")
}

/// An error's message with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
