//! `sandclock serve`: the daemon.

use super::{Done, Failure};
use crate::daemon;
use crate::settings::Sources;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use toml::{Table, Value};

/// Every flag is a setting too: `sandclock.toml` has it under `[serve]`, the environment as a variable.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Read settings from this file instead of `sandclock.toml` in the home.
    #[arg(long, value_name = "FILE", env = "SANDCLOCK_CONFIG")]
    config: Option<PathBuf>,
    /// How long a node of a shared store may be silent before its runs are taken over.
    #[arg(long, value_name = "DURATION", env = "SANDCLOCK_LEASE")]
    lease: Option<String>,
    /// What the other nodes of a shared store call this one.
    #[arg(long, value_name = "NAME", env = "SANDCLOCK_NODE")]
    node: Option<String>,
    /// Runs at one time; 0 for a node of a shared store that leaves running to others.
    #[arg(long, value_name = "N", env = "SANDCLOCK_SLOTS")]
    slots: Option<u16>,
    /// Further executors and their slots: a job that names one runs on nodes that have it.
    #[arg(long, value_name = "NAME=SLOTS", env = "SANDCLOCK_EXECUTORS", value_delimiter = ',', value_parser = executor)]
    executors: Vec<(String, u16)>,
    /// Run nothing if a layer of the workers' jail is missing on this machine (`doctor` says which).
    #[arg(long, env = "SANDCLOCK_STRICT", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    strict: Option<bool>,
    /// Run plugins inside the daemon instead of in locked worker processes: for plugins that are
    /// trusted.
    #[arg(long, env = "SANDCLOCK_IN_PROCESS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    in_process: Option<bool>,
    /// Do not fire jobs, only run what is asked for.
    #[arg(long, env = "SANDCLOCK_PAUSED", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    paused: Option<bool>,
    /// How long runs may go on when the daemon is stopped; then they are cancelled.
    #[arg(long, value_name = "DURATION", env = "SANDCLOCK_GRACE")]
    grace: Option<String>,
    /// Serve the API and the web page on this address too, with a token. May be repeated.
    #[arg(long, value_name = "ADDRESS:PORT", env = "SANDCLOCK_LISTEN", value_delimiter = ',')]
    listen: Vec<String>,
    /// Listen on addresses that other machines reach. Put TLS in front.
    #[arg(long, env = "SANDCLOCK_ALLOW_REMOTE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_remote: Option<bool>,
    /// A further name by which browsers call the daemon. May be repeated.
    #[arg(long, value_name = "NAME", env = "SANDCLOCK_HOST", value_delimiter = ',')]
    host: Vec<String>,
    /// What is logged, such as `info` or `sandclock=debug`.
    #[arg(long, value_name = "FILTER", env = "SANDCLOCK_LOG")]
    log: Option<String>,
    /// Lines of text, or of JSON.
    #[arg(long, value_name = "FORMAT", env = "SANDCLOCK_LOG_FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
    /// Send traces by OTLP over HTTP, such as to `http://localhost:4318`.
    #[arg(long, value_name = "URL", env = "SANDCLOCK_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
}

fn executor(text: &str) -> Result<(String, u16), String> {
    let (alias, slots) = text.split_once('=').ok_or("it needs a name and its slots, such as `gpu=4`")?;
    let slots = slots.parse().map_err(|_| format!("`{slots}` is no number of slots"))?;
    Ok((alias.to_owned(), slots))
}

impl ServeArgs {
    /// What was given, as the file would say it.
    fn table(self, store: Option<String>) -> (Option<PathBuf>, Table) {
        let mut table = Table::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                table.insert(key.to_owned(), value);
            }
        };
        let list = |items: Vec<String>| (!items.is_empty()).then(|| Value::from(items));
        put("store", store.map(Value::from));
        put("lease", self.lease.map(Value::from));
        put("node", self.node.map(Value::from));
        let executors = self.executors.into_iter().map(|(alias, slots)| (alias, i64::from(slots).into()));
        let executors: Table = executors.collect();
        put("executors", (!executors.is_empty()).then(|| executors.into()));
        put("slots", self.slots.map(|slots| i64::from(slots).into()));
        put("strict", self.strict.map(Value::from));
        put("in_process", self.in_process.map(Value::from));
        put("paused", self.paused.map(Value::from));
        put("grace", self.grace.map(Value::from));
        put("listen", list(self.listen));
        put("allow_remote", self.allow_remote.map(Value::from));
        put("host", list(self.host));
        put("log", self.log.map(Value::from));
        put("log_format", self.log_format.map(Value::from));
        put("otlp_endpoint", self.otlp_endpoint.map(Value::from));
        (self.config, table)
    }
}

pub async fn serve(home: PathBuf, store: Option<String>, args: ServeArgs) -> Done {
    let (config, given) = args.table(store);
    let sources = Sources { home, config, given };
    let settings = sources.read().map_err(Failure::from)?;
    let log = daemon::log_to_stderr(&settings.log, settings.log_format)?;
    daemon::serve(sources, settings, log).await?;
    Ok(ExitCode::SUCCESS)
}
