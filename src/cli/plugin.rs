//! `sandclock plugin …`

use super::client::Client;
use super::grant::{self, ChangeArgs, GrantArgs, ShowArgs, print_grants, print_jobs};
use super::output::{Output, bytes, field, query, short_time, table, time};
use super::project::{BuildArgs, NewArgs};
use super::{Done, Failure};
use crate::func::PluginName;
use crate::http::{Stage, UploadLine};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Start a plugin project that builds.
    New(NewArgs),
    /// Build a plugin project into a component.
    Build(BuildArgs),
    /// Register a component; under a name that is taken it becomes the new current version.
    Add(AddArgs),
    /// List plugins.
    List,
    /// Show a plugin's exports with their signatures, and what it asks for.
    Show { name: PluginName },
    /// Grant a plugin what it may reach beyond computing.
    Grant(ChangeArgs),
    /// Show what a plugin was granted, or what its runs turned out to need.
    Grants(ShowArgs),
    /// Remove a plugin that no job uses.
    Remove { name: PluginName },
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The component, a .wasm file for the target wasm32-wasip2.
    file: PathBuf,
    /// Its name in funcs; by default the file's.
    #[arg(long)]
    name: Option<PluginName>,
    /// A label by which jobs can pin this version, such as `1.4.0`.
    #[arg(long)]
    label: Option<String>,
    #[command(flatten)]
    grants: GrantArgs,
    /// Grant what it asks for as far as flags say; all else is linked, denied when it is used, and
    /// recorded for `plugin grants --suggest`.
    #[arg(long)]
    audit: bool,
    /// Compile it although it broke the compiler before.
    #[arg(long)]
    retry: bool,
}

pub async fn run(command: PluginCommand, client: &Client, output: Output) -> Done {
    match command {
        PluginCommand::New(_) | PluginCommand::Build(_) => unreachable!("handled without a client"),
        PluginCommand::Add(args) => add(args, client, output).await?,
        PluginCommand::Grant(args) => grant::change(args, client, output).await?,
        PluginCommand::Grants(args) => grant::show(args, client, output).await?,
        PluginCommand::List => {
            let list: Value = client.get("/v1/plugins").await?;
            output.show(&list, || print_list(&list));
        }
        PluginCommand::Show { name } => {
            let plugin: Value = client.get(&format!("/v1/plugins/{name}")).await?;
            output.show(&plugin, || {
                println!("plugin {name}, newest version first");
                for version in plugin["versions"].as_array().into_iter().flatten().rev() {
                    print_version(&field(&plugin, "name"), version);
                }
            });
        }
        PluginCommand::Remove { name } => {
            client.delete(&format!("/v1/plugins/{name}")).await?;
            output.show(&Value::Null, || println!("removed plugin {name}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(args: AddArgs, client: &Client, output: Output) -> Done<()> {
    let file = args.file.display();
    let name = match args.name {
        Some(name) => name,
        None => {
            let stem = args.file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            stem.to_ascii_lowercase().parse().map_err(|e: crate::Invalid| e.hint("give one with --name"))?
        }
    };
    let meta = std::fs::metadata(&args.file).map_err(|e| Failure::failed(format!("cannot read `{file}`: {e}")))?;
    if !meta.is_file() {
        return Err(Failure::failed(format!("`{file}` is no file (give a .wasm component)")));
    }
    let size = meta.len();
    if size > crate::sandbox::COMPONENT_BYTES_MAX as u64 {
        let most = crate::sandbox::COMPONENT_BYTES_MAX;
        return Err(Failure::failed(format!(
            "`{file}` has {size} bytes, the most is {most} (build it optimised and stripped)"
        )));
    }
    let component = std::fs::read(&args.file).map_err(|e| Failure::failed(format!("cannot read `{file}`: {e}")))?;
    let mut path = format!("/v1/plugins/{name}?audit={}&retry={}", args.audit, args.retry);
    if let Some(label) = &args.label {
        crate::func::check_label(label).map_err(|reason| crate::Invalid::new("version label", label, reason))?;
        path.push_str(&format!("&label={}", query(label)));
    }
    let grants = args.grants.grants()?;
    if !grants.is_empty() {
        let grants = serde_json::to_string(&grants).map_err(|e| Failure::failed(e.to_string()))?;
        path.push_str(&format!("&grants={}", query(&grants)));
    }
    let progress = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or(ProgressStyle::default_spinner()),
    );
    progress.set_message(format!("sending {name} ({})", bytes(size)));
    progress.enable_steady_tick(Duration::from_millis(100));
    let added = client.upload(&path, component, |line| match line {
        UploadLine::Progress(Stage::Received { bytes: come }) => {
            progress.set_message(format!("sending {name}: {} of {}", bytes(*come as u64), bytes(size)));
        }
        _ => progress.set_message(format!("checking and compiling {name} ({})", bytes(size))),
    });
    let added = added.await;
    progress.finish_and_clear();
    let added = added.map_err(|failure| Failure { text: format!("`{file}`: {}", failure.text), ..failure })?;
    output.show(&added, || {
        println!("registered plugin {name}");
        print_version(name.as_str(), &added);
        print_jobs(&added);
    });
    Ok(())
}

fn print_list(list: &Value) {
    let rows = list["items"].as_array().into_iter().flatten().map(|plugin| {
        let versions = plugin["versions"].as_array().map_or(&[][..], Vec::as_slice);
        let current = versions.last().unwrap_or(&Value::Null);
        let exports = current["exports"].as_array().map_or(0, Vec::len);
        vec![
            field(plugin, "name"),
            field(current, "label"),
            field(current, "digest").chars().take(12).collect(),
            bytes(current["size"].as_u64().unwrap_or(0)),
            exports.to_string(),
            versions.len().to_string(),
            short_time(&current["added"]),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        println!("no plugins yet (`sandclock plugin new NAME --lang rust` starts one)");
    } else {
        println!("{}", table(&["name", "label", "digest", "size", "exports", "versions", "added"], rows));
    }
}

/// The permission sheet.
fn print_version(name: &str, version: &Value) {
    let label = field(version, "label");
    let label = if label.is_empty() { label } else { format!(" label {label}") };
    println!("  sha256 {}{label}", field(version, "digest"));
    println!("  {}, added {}", bytes(version["size"].as_u64().unwrap_or(0)), time(&version["added"]));
    for export in version["exports"].as_array().into_iter().flatten() {
        println!("  {name}:{}  {}", field(export, "name"), field(export, "signature"));
    }
    let mut asks: Vec<String> =
        version["imports"].as_array().into_iter().flatten().map(|i| field(i, "asks_for")).collect();
    asks.sort();
    asks.dedup();
    println!("  asks for: {}", if asks.is_empty() { "nothing".into() } else { asks.join(", ") });
    print_grants(version);
}
