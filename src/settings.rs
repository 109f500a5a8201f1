//! How the daemon serves, as `sandclock.toml`, the environment and flags say, each above the one
//! before it.

use crate::config::THREADS;
use crate::error::{Error, Result};
use crate::executor::AsyncOptions;
use crate::invalid::Invalid;
use crate::job::{Alias, SecondsForm, seconds};
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Table;

/// The file that is read unless another one is named, in the home directory.
const FILE: &str = "sandclock.toml";

/// Runs that one executor may have at one time.
const SLOTS_MAX: u16 = 1024;
const EXECUTORS_MAX: usize = 16;

/// The keys of `[serve]`. A key `log_format` is the variable `SANDCLOCK_LOG_FORMAT` and the flag
/// `--log-format`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The URL of a database that several nodes share, such as `postgres://user:password@host/database`.
    /// Without it, jobs are kept in the home.
    pub store: Option<String>,
    /// How long a node of a shared store may be silent before its runs are taken over, 1 s to 10 min.
    #[serde(with = "seconds")]
    #[schemars(with = "SecondsForm")]
    pub lease: Duration,
    /// What the other nodes of a shared store call this one. Default: the machine's name and the
    /// process's number.
    pub node: Option<String>,
    /// Runs at one time, 1 to 1024; 0 for a node of a shared store that leaves running to others.
    pub slots: u16,
    /// Further executors, each with the runs that it may have at one time, such as `gpu = 4`: a job that
    /// names one runs on nodes that have it.
    pub executors: BTreeMap<Alias, u16>,
    /// Run nothing if a layer of the workers' jail is missing on this machine.
    pub strict: bool,
    /// Run plugins inside the daemon instead of in locked worker processes: for plugins that are trusted.
    pub in_process: bool,
    /// Do not fire jobs, only run what is asked for.
    pub paused: bool,
    /// How long runs may go on when the daemon is stopped; then they are cancelled. Seconds, or text
    /// such as `1m`.
    #[serde(with = "seconds")]
    #[schemars(with = "SecondsForm")]
    pub grace: Duration,
    /// Addresses for the API and the web page over TCP, beside the Unix socket. Each needs a token.
    pub listen: Vec<SocketAddr>,
    /// Listen on addresses that other machines reach. Put TLS in front.
    pub allow_remote: bool,
    /// Further names by which browsers call the daemon, such as that of a proxy. Changed by a reload.
    pub host: Vec<String>,
    /// What is logged, such as `info` or `sandclock=debug`. Changed by a reload.
    pub log: String,
    /// Lines of text, or of JSON.
    pub log_format: LogFormat,
    /// Where traces go by OTLP over HTTP, such as `http://localhost:4318`.
    pub otlp_endpoint: Option<String>,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            store: None,
            lease: Duration::from_secs(10),
            node: None,
            slots: AsyncOptions::SLOTS as u16,
            executors: BTreeMap::new(),
            strict: false,
            in_process: false,
            paused: false,
            grace: Duration::from_secs(10),
            listen: Vec::new(),
            allow_remote: false,
            host: Vec::new(),
            log: "info".into(),
            log_format: LogFormat::Text,
            otlp_endpoint: None,
        }
    }
}

/// What the file may hold: the rest of it is for `apply`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    serve: Table,
    #[serde(rename = "plugin")]
    _plugin: Vec<toml::Value>,
    #[serde(rename = "job")]
    _job: Vec<toml::Value>,
}

/// Where settings come from, to be read again by a reload.
#[derive(Debug, Clone)]
pub struct Sources {
    pub home: PathBuf,
    /// A file that must be there, instead of the home's, which may.
    pub config: Option<PathBuf>,
    /// What the environment and the flags say.
    pub given: Table,
}

impl Sources {
    pub fn read(&self) -> Result<Settings> {
        let path = self.config.clone().unwrap_or_else(|| self.home.join(FILE));
        let mut table = match std::fs::read_to_string(&path) {
            Ok(text) => read_file(&path, &text)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.config.is_none() => Table::new(),
            Err(e) => return Err(Error::host(format!("cannot read `{}`", path.display()), e)),
        };
        table.extend(self.given.clone());
        let settings = settings_of(&table, &path)?;
        settings.validate().map_err(Error::Invalid)?;
        Ok(settings)
    }
}

/// The settings of a table; an error names the key.
fn settings_of(table: &Table, path: &Path) -> Result<Settings> {
    let read = |table: Table| table.try_into::<Settings>().map_err(|e| e.message().to_owned());
    read(table.clone()).map_err(|reason| {
        let alone = |(key, value): &(&String, &toml::Value)| {
            read(Table::from_iter([((*key).clone(), (*value).clone())])).is_err()
        };
        let culprit = table.iter().find(alone);
        let (key, given) = culprit.map_or(("setting", String::new()), |(key, value)| (key.as_str(), value.to_string()));
        let reason = format!("{reason} (see `{}`, the environment and flags)", path.display());
        let refused = Invalid::new(key, given, reason);
        if key == "listen" { refused.hint("a list of addresses with ports, such as `127.0.0.1:7878`") } else { refused }
            .into()
    })
}

fn read_file(path: &Path, text: &str) -> Result<Table> {
    let file: File = toml::from_str(text).map_err(|e| {
        let reason = e.to_string().replace('\n', " ");
        Error::from(Invalid::new("configuration", path.display().to_string(), reason))
    })?;
    // For itself, so that the error is the file's.
    settings_of(&file.serve, path)?;
    Ok(file.serve)
}

impl Settings {
    fn validate(&self) -> std::result::Result<(), Invalid> {
        self.validate_node()?;
        if self.strict && self.in_process {
            return Err(Invalid::new("strict", "true", "it says the contrary of `in_process`"));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&self.lease) {
            return Err(Invalid::new("lease", format!("{:?}", self.lease), "it must be 1 s to 10 min"));
        }
        self.store.as_deref().map_or(Ok(()), crate::config::check_url)?;
        self.listen.iter().try_for_each(|address| self.check_address(*address))?;
        for host in &self.host {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b".-:[]".contains(&b);
            if host.is_empty() || host.len() > 260 || !host.bytes().all(legal) {
                return Err(Invalid::new(
                    "host",
                    host,
                    "it is a name, perhaps with a port, such as `jobs.example.org`",
                ));
            }
        }
        Ok(())
    }

    /// What this node is to others, and what it runs.
    fn validate_node(&self) -> std::result::Result<(), Invalid> {
        if let Some(node) = &self.node {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if !(1..=64).contains(&node.len()) || !node.bytes().all(legal) {
                return Err(Invalid::new("node", node, "it must be 1 to 64 of A-Z, a-z, 0-9, `.`, `_` and `-`"));
            }
        }
        if self.slots > SLOTS_MAX {
            return Err(Invalid::new("slots", self.slots.to_string(), format!("it must be 0 to {SLOTS_MAX}")));
        }
        if self.slots == 0 && self.store.is_none() {
            return Err(Invalid::new("slots", "0", "nothing would run, since no other node has this store")
                .hint("`paused` fires nothing; `store` names a database that others share"));
        }
        if let Some((alias, _)) = self.executors.iter().next().filter(|_| self.slots == 0) {
            return Err(Invalid::new("executors", alias.as_str(), "a node with `slots = 0` runs nothing"));
        }
        for (alias, slots) in &self.executors {
            if [Alias::default().as_str(), THREADS].contains(&alias.as_str()) {
                return Err(Invalid::new("executors", alias.as_str(), "there is one of that name already"));
            }
            if !(1..=SLOTS_MAX).contains(slots) {
                let given = format!("{alias} = {slots}");
                return Err(Invalid::new("executors", given, format!("it must be 1 to {SLOTS_MAX} runs")));
            }
        }
        if self.executors.len() > EXECUTORS_MAX {
            let given = self.executors.len().to_string();
            return Err(Invalid::new("executors", given, format!("there may be {EXECUTORS_MAX}")));
        }
        Ok(())
    }

    /// Whether the daemon may listen there.
    pub fn check_address(&self, address: SocketAddr) -> std::result::Result<(), Invalid> {
        if address.ip().is_loopback() || self.allow_remote {
            return Ok(());
        }
        Err(Invalid::new("listen", address.to_string(), "other machines reach this address")
            .hint("`--allow-remote` listens there all the same; put TLS in front"))
    }

    /// Keys whose change needs a restart, of those that differ.
    pub fn need_restart(&self, other: &Settings) -> Vec<String> {
        let reloaded = Settings { host: self.host.clone(), log: self.log.clone(), ..other.clone() };
        let (one, two) = (as_object(self), as_object(&reloaded));
        one.into_iter().filter(|(key, value)| two.get(key) != Some(value)).map(|(key, _)| key).collect()
    }
}

fn as_object(value: &impl Serialize) -> serde_json::Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    }
}

/// The reference of all settings and their defaults, as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\nMade from the code (`SANDCLOCK_BLESS=1 cargo test --test it reference` writes it anew).\n\n\
         ## The daemon\n\n`sandclock serve` reads `[serve]` in `HOME/sandclock.toml`, or in the file that `--config` names; \
         above that the environment; above that flags. Unknown keys are errors. `kill -HUP` reads them again. The same \
         file may declare `[[plugin]]` and `[[job]]` for `sandclock apply`.\n\n| key | variable | flag | default | |\n|---|---|---|---|---|\n",
    );
    let defaults = as_object(&Settings::default());
    for (key, about) in described::<Settings>() {
        let (variable, flag) = (format!("SANDCLOCK_{}", key.to_ascii_uppercase()), key.replace('_', "-"));
        let default = shown(defaults.get(&key));
        text.push_str(&format!("| `{key}` | `{variable}` | `--{flag}` | {default} | {about} |\n"));
    }
    text.push_str("\n## A job\n\nIn JSON and in `[[job]]`. Durations are seconds, or text such as `1h30m`.\n");
    let job = serde_json::json!({ "id": "x", "func": "m:f", "trigger": "every 1h", "name": "the func" });
    let job = serde_json::from_value::<crate::Job>(job).map(|job| as_object(&job)).unwrap_or_default();
    let required = ["id", "func", "trigger"];
    for (title, rows, defaults) in [
        ("", described::<crate::Job>(), &job),
        ("`limits`", described::<crate::Limits>(), &as_object(&crate::Limits::default())),
        ("`retry`", described::<crate::Retry>(), &as_object(&crate::Retry::default())),
    ] {
        if !title.is_empty() {
            text.push_str(&format!("\n{title}:\n"));
        }
        text.push_str("\n| field | default | |\n|---|---|---|\n");
        for (key, about) in rows {
            let needed = title.is_empty() && required.contains(&key.as_str());
            let default = if needed { "required".to_owned() } else { shown(defaults.get(&key)) };
            text.push_str(&format!("| `{key}` | {default} | {about} |\n"));
        }
    }
    text
}

fn shown(default: Option<&Value>) -> String {
    match default {
        None | Some(Value::Null) => "none".to_owned(),
        Some(Value::Array(items)) if items.is_empty() => "none".to_owned(),
        Some(Value::Object(fields)) if fields.is_empty() => "none".to_owned(),
        Some(Value::Object(_)) => "below".to_owned(),
        Some(Value::String(text)) => format!("`{text}`"),
        Some(value) => format!("`{value}`"),
    }
}

/// The fields of a type with what their documentation says, as one line each.
fn described<T: schemars::JsonSchema>() -> Vec<(String, String)> {
    let settings = SchemaSettings::draft2020_12().for_deserialize().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let fields = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    let about = |field: &Value| {
        let about = field["description"].as_str().unwrap_or_default();
        about.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
    };
    fields.iter().map(|(key, field)| (key.clone(), about(field))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, given: &str) -> Result<Settings> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(FILE), file).unwrap();
        Sources { home: home.path().to_owned(), config: None, given: toml::from_str(given).unwrap() }.read()
    }

    #[test]
    fn flags_are_above_the_file() {
        let settings = read("[serve]\nslots = 3\ngrace = '1m'\n[[job]]\nid = 'x'", "slots = 5").unwrap();
        assert_eq!((settings.slots, settings.grace, settings.log.as_str()), (5, Duration::from_secs(60), "info"));
        assert_eq!(read("", "").unwrap(), Settings::default());
    }

    #[test]
    fn mistakes_are_named() {
        for (file, given, word) in [
            ("[serve]\nslot = 3", "", "slot"),
            ("[server]\n", "", "server"),
            ("[serve]\nslots = 'x'", "slots = 5", "slots"),
            ("[serve]\nslots = 0", "", "paused"),
            ("[serve]\nslots = 1025", "", "slots"),
            ("[serve]\nnode = 'a b'", "", "node"),
            ("[serve]\nexecutors = { default = 4 }", "", "executors"),
            ("[serve]\nexecutors = { gpu = 0 }", "", "executors"),
            ("[serve]\nexecutors = { 'g p u' = 1 }", "", "executors"),
            ("", "listen = ['0.0.0.0:7878']", "--allow-remote"),
            ("", "listen = ['[::]:7878']", "--allow-remote"),
            ("", "listen = ['7878']", "listen"),
            ("[serve]\nhost = ['http://x/']", "", "host"),
            ("[serve]\nstrict = true\nin_process = true", "", "in_process"),
            ("not toml", "", "sandclock.toml"),
        ] {
            let error = read(file, given).unwrap_err().to_string();
            assert!(error.contains(word), "{file}{given}: {error}");
        }
        let missing = Sources { home: "/".into(), config: Some("/none.toml".into()), given: Table::new() };
        assert!(missing.read().unwrap_err().to_string().contains("/none.toml"));
        assert!(read("", "listen = ['127.0.0.1:7878', '[::1]:7878']").is_ok());
        assert!(read("", "listen = ['0.0.0.0:7878']\nallow_remote = true").is_ok());
    }

    #[test]
    fn a_reload_says_what_needs_a_restart() {
        let (old, mut new) = (Settings::default(), Settings::default());
        (new.log, new.host) = ("debug".into(), vec!["x".into()]);
        assert!(new.need_restart(&old).is_empty());
        new.slots = 7;
        assert_eq!(new.need_restart(&old), ["slots"]);
    }
}
