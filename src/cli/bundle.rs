//! `sandclock export`, `import` and `apply`.

use super::client::Client;
use super::output::{Output, field, query, table};
use super::{Done, Failure};
use crate::bundle::{Action, Change};
use crate::grant::Grants;
use crate::invalid::printable;
use crate::plugin::digest;
use crate::store::Conflict;
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where to write; `-` is stdout.
    #[arg(default_value = "-")]
    file: PathBuf,
    /// With the components of the plugins.
    #[arg(long)]
    components: bool,
}

pub async fn export(args: ExportArgs, client: &Client) -> Done {
    let bundle: Value = client.get(&format!("/v1/export?components={}", args.components)).await?;
    let text = serde_json::to_string_pretty(&bundle).unwrap_or_default();
    if args.file.as_os_str() == "-" {
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let written = std::fs::write(&args.file, text + "\n");
    written.map_err(|e| Failure::failed(format!("cannot write `{}`: {e}", args.file.display())))?;
    let count = |name: &str| bundle[name].as_array().map_or(0, Vec::len);
    eprintln!("{} plugins and {} jobs are in {}", count("plugins"), count("jobs"), args.file.display());
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What `sandclock export` wrote.
    file: PathBuf,
    /// The file is what APScheduler 3's `scheduler.export_jobs(…)` wrote.
    #[arg(long)]
    apscheduler: bool,
    /// Take the place of jobs with the same ids.
    #[arg(long, conflicts_with = "keep_existing")]
    replace_existing: bool,
    /// Leave jobs with the same ids as they are.
    #[arg(long)]
    keep_existing: bool,
    /// Check everything and change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub async fn import(args: ImportArgs, client: &Client, output: Output) -> Done {
    let text = read(&args.file)?;
    let conflict = match (args.replace_existing, args.keep_existing) {
        (true, _) => Conflict::Replace,
        (_, true) => Conflict::Keep,
        _ => Conflict::Refuse,
    };
    let conflict = field(&json!({ "is": conflict }), "is");
    let imported: Value = if args.apscheduler {
        let path = format!("/v1/import/apscheduler?on_conflict={conflict}&dry_run={}", args.dry_run);
        client.post_bytes(&path, text.into_bytes()).await?
    } else {
        let bundle: Value = crate::strict_json::from_slice("export", text.as_bytes())?;
        let spec = json!({ "bundle": bundle, "on_conflict": conflict, "dry_run": args.dry_run });
        client.post("/v1/import", &spec).await?
    };
    let all = || ["plugins", "jobs"].into_iter().flat_map(|kind| imported[kind].as_array().into_iter().flatten());
    let refused = all().filter(|item| item["result"] == "refused").count();
    output.show(&imported, || {
        let rows = all().map(|item| vec![field(item, "id"), field(item, "result")]);
        println!("{}", table(&["plugin or job", "result"], rows.collect()));
        for item in all() {
            let reason = field(item, "reason");
            if !reason.is_empty() {
                println!("  {}: {}", printable(&field(item, "id"), 80), printable(&reason, 600));
            }
            for note in item["notes"].as_array().into_iter().flatten() {
                let note = note.as_str().unwrap_or_default();
                println!("  {}: {}", printable(&field(item, "id"), 80), printable(note, 300));
            }
        }
        if args.dry_run {
            println!("nothing was changed (--dry-run)");
        }
    });
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A TOML file with `[[plugin]]` (name, path) and `[[job]]` (id, func, trigger, …).
    file: PathBuf,
    /// Remove jobs that the file does not declare.
    #[arg(long)]
    prune: bool,
    /// Show the plan and change nothing.
    #[arg(long, conflicts_with = "yes")]
    plan: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

/// What a file declares.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    #[serde(default)]
    plugin: Vec<DeclaredPlugin>,
    #[serde(default)]
    job: Vec<Value>,
    /// The daemon's own, which may be in the same file.
    #[serde(default, rename = "serve")]
    _serve: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeclaredPlugin {
    name: crate::PluginName,
    /// The component, from the file's directory.
    path: PathBuf,
    label: Option<String>,
    /// All that it is granted: what the flags of `plugin grant` say, such as `http = ["api.example.org"]`.
    /// Absent: as before.
    grants: Option<Grants>,
}

pub async fn apply(args: ApplyArgs, client: &Client, output: Output) -> Done {
    let text = read(&args.file)?;
    let declared: Declared = toml::from_str(&text)
        .map_err(|e| Failure { code: 2, text: format!("`{}` is not understood: {e}", args.file.display()) })?;
    let plugins = changed_plugins(&declared, args.file.parent().unwrap_or(Path::new(".")), client).await?;
    let spec = |dry_run: bool| json!({ "jobs": declared.job, "prune": args.prune, "dry_run": dry_run });
    // Jobs are checked against plugins that are to come only once they have: without a plan for
    // them, the plan of the jobs may be refused.
    let planned: Result<Value, Failure> = client.post("/v1/apply", &spec(true)).await;
    if !plugins.is_empty() {
        for (plugin, bytes) in &plugins {
            eprintln!("plugin {}: {} bytes, {} comes in", plugin.name, bytes.len(), &digest(bytes)[..12]);
            if let Some(grants) = &plugin.grants {
                let picks: Vec<String> = grants.picks().iter().map(ToString::to_string).collect();
                eprintln!("  granted, and nothing else: {}", picks.join(", "));
            }
        }
    }
    match &planned {
        Ok(plan) => show_plan(plan)?,
        Err(_) if plugins.is_empty() => return planned.map(|_| ExitCode::SUCCESS),
        Err(_) => eprintln!("jobs: {} are declared, and planned once the plugins are there", declared.job.len()),
    }
    if args.plan {
        let plan = planned.unwrap_or_default();
        output.show(&plan, || ());
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirmed()? {
        return Err(Failure::failed("nothing was changed"));
    }
    for (plugin, bytes) in plugins {
        let mut path = format!("/v1/plugins/{}?", plugin.name);
        if let Some(label) = &plugin.label {
            path.push_str(&format!("label={}&", query(label)));
        }
        if let Some(grants) = &plugin.grants {
            let grants = serde_json::to_string(grants).map_err(|e| Failure::failed(e.to_string()))?;
            path.push_str(&format!("grants={}", query(&grants)));
        }
        client.upload(path.trim_end_matches(['&', '?']), bytes, |_| ()).await?;
    }
    let applied: Value = client.post("/v1/apply", &spec(false)).await?;
    output.show(&applied, || println!("done with {}", summary(&applied)));
    Ok(ExitCode::SUCCESS)
}

/// The declared plugins whose newest version is another one, or is granted something else.
async fn changed_plugins<'a>(
    declared: &'a Declared,
    dir: &Path,
    client: &Client,
) -> Done<Vec<(&'a DeclaredPlugin, Vec<u8>)>> {
    let list: Value = client.get("/v1/plugins").await?;
    let mut changed = Vec::new();
    for plugin in &declared.plugin {
        let path = dir.join(&plugin.path);
        let bytes =
            std::fs::read(&path).map_err(|e| Failure::failed(format!("cannot read `{}`: {e}", path.display())))?;
        let known = list["items"].as_array().into_iter().flatten().find(|known| known["name"] == plugin.name.as_str());
        let newest = known.and_then(|known| known["versions"].as_array()?.last());
        let granted = || newest.and_then(|newest| serde_json::from_value::<Grants>(newest["grants"].clone()).ok());
        let same = newest.is_some_and(|newest| newest["digest"] == digest(&bytes));
        if !same || plugin.grants.as_ref().is_some_and(|wanted| *wanted != granted().unwrap_or_default()) {
            changed.push((plugin, bytes));
        }
    }
    Ok(changed)
}

/// The plan, on stderr so that stdout has the result alone.
fn show_plan(plan: &Value) -> Done<()> {
    let changes: Vec<Change> = serde_json::from_value(plan["changes"].clone())
        .map_err(|e| Failure::failed(format!("the plan is not understood: {e}")))?;
    for change in changes {
        let mark = match change.action {
            Action::Add => "+",
            Action::Modify => "~",
            Action::Keep => " ",
            Action::Remove => "-",
        };
        eprintln!("{mark} job {}", change.id);
        for (name, (old, new)) in change.fields {
            eprintln!("    {name}: {} -> {}", printable(&old.to_string(), 200), printable(&new.to_string(), 200));
        }
    }
    eprintln!("plan for {}", summary(plan));
    Ok(())
}

fn summary(plan: &Value) -> String {
    let count = |action: &str| {
        plan["changes"].as_array().into_iter().flatten().filter(|change| change["action"] == action).count()
    };
    format!(
        "jobs: {} added, {} modified, {} removed, {} as they were",
        count("add"),
        count("modify"),
        count("remove"),
        count("keep")
    )
}

fn confirmed() -> Done<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure { code: 2, text: "there is no terminal to ask on (give --yes, or --plan)".into() });
    }
    eprint!("apply this? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|e| Failure::failed(format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn read(path: &Path) -> Done<String> {
    std::fs::read_to_string(path).map_err(|e| Failure::failed(format!("cannot read `{}`: {e}", path.display())))
}
