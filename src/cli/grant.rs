//! What a plugin may reach: the flags, `sandclock plugin grant` and `plugin grants`, and
//! `sandclock secret`.

use super::client::Client;
use super::output::{Output, bytes, field, thousands};
use super::{Done, Failure};
use crate::func::PluginName;
use crate::grant::{Change, DirGrant, Grants, HttpGrant, RUNS_FEW, SecretGrant, SecretName, Suggestion};
use crate::http::GrantSpec;
use crate::invalid::Invalid;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

/// Grants as flags.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Outgoing HTTP to a host, port 443 unless given: api.example.org, 10.1.2.3:8080,
    /// db.internal:80@10.0.0.0/8 (a name that is at inner addresses). May be repeated.
    #[arg(long, value_name = "HOST[:PORT]")]
    allow_http: Vec<HttpGrant>,
    /// An environment variable; without a value, with the one that it has here and now. May be
    /// repeated.
    #[arg(long, value_name = "NAME[=VALUE]")]
    allow_env: Vec<String>,
    /// A directory, read-only unless `rw`, with a quota (64MiB): /srv/data:/data:rw:100MiB. May be
    /// repeated.
    #[arg(long, value_name = "HOST:GUEST[:rw][:QUOTA]")]
    allow_dir: Vec<DirGrant>,
    /// A key-value state for each job.
    #[arg(long)]
    allow_state: bool,
    /// A secret that it can read, or with a host one that it never sees and can only send there:
    /// token@api.example.org. May be repeated.
    #[arg(long, value_name = "NAME[@HOST]")]
    secret: Vec<SecretGrant>,
}

impl GrantArgs {
    pub fn grants(&self) -> Result<Grants, Invalid> {
        let mut env = BTreeMap::new();
        for text in &self.allow_env {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => {
                    let unset = || Invalid::new("--allow-env", text, "it is not set here").hint("give NAME=VALUE");
                    (text.as_str(), std::env::var(text).map_err(|_| unset())?)
                }
            };
            env.insert(name.to_owned(), value);
        }
        let grants = Grants {
            http: self.allow_http.clone(),
            env,
            dirs: self.allow_dir.clone(),
            state: self.allow_state,
            secrets: self.secret.clone(),
        };
        Ok(grants)
    }
}

#[derive(Debug, Args)]
pub struct ChangeArgs {
    name: PluginName,
    #[command(flatten)]
    grants: GrantArgs,
    /// Grant this and nothing else; without any other flag, revoke everything.
    #[arg(long)]
    only: bool,
    /// Of the version whose digest begins so, instead of the newest.
    #[arg(long, value_name = "DIGEST")]
    version: Option<String>,
    /// What is not granted is denied when it is used, and recorded for `plugin grants --suggest`.
    #[arg(long)]
    audit: bool,
}

pub async fn change(args: ChangeArgs, client: &Client, output: Output) -> Done<()> {
    let grants = args.grants.grants()?;
    if grants.is_empty() && !args.only && !args.audit {
        return Err(Invalid::new("grant", args.name.as_str(), "nothing is given")
            .hint("such as `--allow-http api.example.org`; `--only` alone revokes everything")
            .into());
    }
    let spec = GrantSpec { grants, add: !args.only, digest: args.version, audit: args.audit };
    let changed: Value = client.put(&format!("/v1/plugins/{}/grants", args.name), &spec).await?;
    output.show(&changed, || {
        println!("plugin {}, component {:.12}", args.name, field(&changed, "digest"));
        print_grants(&changed);
        print_jobs(&changed);
    });
    Ok(())
}

/// The lines of a permission sheet that say what a version was granted and lacks.
pub fn print_grants(version: &Value) {
    let grants: Grants = serde_json::from_value(version["grants"].clone()).unwrap_or_default();
    let mut lines: Vec<String> = grants.http.iter().map(|grant| format!("HTTP to {grant}")).collect();
    lines.extend(grants.dirs.iter().map(|dir| {
        let what = if dir.writable { format!("read and written, at most {}", bytes(dir.quota)) } else { "read".into() };
        format!("directory {} as {} ({what})", dir.host, dir.guest)
    }));
    lines.extend(grants.env.keys().map(|name| format!("environment variable {name}")));
    lines.extend(grants.state.then(|| "a key-value state for each job".to_owned()));
    lines.extend(grants.secrets.iter().map(|secret| match &secret.host {
        None => format!("secret {}, which it can read", secret.name),
        Some((host, port)) => format!("secret {}, sent to {host}:{port} without being seen", secret.name),
    }));
    println!("  granted: {}", if lines.is_empty() { "nothing".to_owned() } else { lines.join("; ") });
    if version["audit"] == true {
        println!("  audited: what is not granted is denied when it is used, and recorded");
    }
    let missing: Vec<crate::grant::Capability> = serde_json::from_value(version["missing"].clone()).unwrap_or_default();
    for missing in missing {
        println!("  NOT GRANTED: {}; it cannot be scheduled until `{}` is granted", missing.words(), missing.flag());
    }
    if version["current"] == false {
        println!("  jobs stay with the version before it until then");
    }
}

/// What a change of a plugin meant for its jobs.
pub fn print_jobs(changed: &Value) {
    for (count, what) in [("quarantined", "do not fit it and are quarantined"), ("released", "fit it and are back")] {
        if let Some(count) = changed[count].as_u64().filter(|count| *count > 0) {
            println!("{count} jobs {what}");
        }
    }
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    name: PluginName,
    /// What its recorded runs needed, beside what it has, as a diff; with limits from what they used.
    #[arg(long)]
    suggest: bool,
}

pub async fn show(args: ShowArgs, client: &Client, output: Output) -> Done<()> {
    let ShowArgs { name, suggest } = args;
    if suggest {
        let suggestion: Suggestion = client.get(&format!("/v1/plugins/{name}/suggestion")).await?;
        output.show(&suggestion, || print_suggestion(&name, &suggestion));
        return Ok(());
    }
    let versions: Value = client.get(&format!("/v1/plugins/{name}/grants")).await?;
    output.show(&versions, || {
        for version in versions.as_array().into_iter().flatten().rev() {
            let current = if version["current"] == true { ", current" } else { "" };
            println!("{name} component {:.12} {}{current}", field(version, "digest"), field(version, "label"));
            print_grants(version);
        }
    });
    Ok(())
}

fn print_suggestion(name: &PluginName, suggestion: &Suggestion) {
    let Suggestion { runs, grants, fuel, memory } = suggestion;
    println!("{name}: what {runs} recorded runs needed");
    if *runs < RUNS_FEW {
        println!("that is few: what they did not do is not known (schedule it with --audit for a while)");
    }
    for line in grants {
        let (sign, why) = match line.change {
            Change::Keep => (" ", "used"),
            Change::Add => ("+", "used, and denied"),
            Change::Remove => ("-", "not used"),
            Change::Unseen => (" ", "its use cannot be seen"),
        };
        println!("{sign} {}  ({why})", line.grant);
    }
    let add: Vec<String> =
        grants.iter().filter(|line| line.change == Change::Add).map(|line| line.grant.flag()).collect();
    if let Some(fuel) = fuel {
        println!("fuel: 99 of 100 used at most {}: --fuel {}", thousands(fuel.p99), fuel.suggested);
    }
    if let Some(memory) = memory {
        println!("memory: 99 of 100 had at most {}: --memory {}", bytes(memory.p99), memory.suggested);
    }
    if !add.is_empty() {
        println!("to grant it: sandclock plugin grant {name} {}", add.join(" "));
    }
    if grants.iter().any(|line| line.change == Change::Remove) {
        println!("to take back what is not used: sandclock plugin grant {name} --only, with the flags of the rest");
    }
}

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Store a secret, read from a file or from standard input; it is never shown again.
    Set(SetArgs),
    /// List the names of secrets.
    List,
    /// Remove a secret.
    Remove { name: SecretName },
}

#[derive(Debug, Args)]
pub struct SetArgs {
    name: SecretName,
    /// Where it is; one line break at its end is left out.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub async fn secret(command: SecretCommand, client: &Client, output: Output) -> Done {
    match command {
        SecretCommand::Set(SetArgs { name, file }) => {
            let text = read(file)?;
            client.put::<Value>(&format!("/v1/secrets/{name}"), &json!({ "value": text })).await?;
            output.show(&Value::Null, || println!("stored secret {name}"));
        }
        SecretCommand::List => {
            let list: Value = client.get("/v1/secrets").await?;
            output.show(&list, || {
                let names: Vec<&str> =
                    list["items"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                println!("{}", if names.is_empty() { "no secrets".to_owned() } else { names.join("\n") });
            });
        }
        SecretCommand::Remove { name } => {
            client.delete(&format!("/v1/secrets/{name}")).await?;
            output.show(&Value::Null, || println!("removed secret {name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A secret from a file or standard input, which do not show up in a list of processes.
fn read(file: Option<PathBuf>) -> Done<String> {
    let most = crate::secret::SECRET_BYTES_MAX as u64 + 2;
    let mut text = String::new();
    let read = match &file {
        Some(path) => std::fs::File::open(path).and_then(|file| file.take(most).read_to_string(&mut text)),
        None => std::io::stdin().take(most).read_to_string(&mut text),
    };
    let from = file.map_or("standard input".to_owned(), |path| format!("`{}`", path.display()));
    read.map_err(|error| Failure::failed(format!("cannot read the secret from {from}: {error}")))?;
    let text = text.strip_suffix('\n').map(str::to_owned).unwrap_or(text);
    Ok(text.strip_suffix('\r').map(str::to_owned).unwrap_or(text))
}
