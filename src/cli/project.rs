//! `sandclock plugin new` and `plugin build`: a project of one's own, and its component.

use super::output::Output;
use super::{Done, Failure};
use crate::func::PluginName;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

#[derive(Debug, Args)]
pub struct NewArgs {
    /// The plugin's name, and the directory that is made.
    name: PluginName,
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    lang: Lang,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Lang {
    Rust,
}

#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The project's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
}

const TARGET: &str = "wasm32-wasip2";

pub fn new(args: &NewArgs, output: Output) -> Done {
    let Lang::Rust = args.lang;
    let name = args.name.as_str();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Err(Failure::failed(format!("`{name}` cannot be a Rust package (begin with a letter)")));
    }
    let dir = Path::new(name);
    if dir.exists() {
        return Err(Failure::failed(format!("`{name}` exists already (choose another name or remove it)")));
    }
    // WIT names are kebab-case words that begin with a letter.
    let wit = format!("task-{}", name.replace('_', "-"));
    let wit = wit
        .split('-')
        .filter(|word| !word.is_empty())
        .map(|word| if word.as_bytes()[0].is_ascii_digit() { format!("n{word}") } else { word.to_owned() })
        .collect::<Vec<_>>()
        .join("-");
    let files = [
        ("Cargo.toml", include_str!("project/Cargo.toml.txt")),
        ("src/lib.rs", include_str!("project/lib.rs.txt")),
        ("wit/world.wit", include_str!("project/world.wit.txt")),
        (".gitignore", "/target\n"),
    ];
    for (path, text) in files {
        let path = dir.join(path);
        let write = || {
            std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
            std::fs::write(&path, text.replace("%NAME%", name).replace("%WIT%", &wit))
        };
        write().map_err(|e| Failure::failed(format!("cannot write `{}`: {e}", path.display())))?;
    }
    output.show(&json!({ "dir": name }), || {
        println!("made {name}/: wit/world.wit says what it exports, src/lib.rs does it");
        println!("next: sandclock plugin build {name}");
    });
    Ok(ExitCode::SUCCESS)
}

pub fn build(args: &BuildArgs, output: Output) -> Done {
    let dir = &args.dir;
    if !dir.join("Cargo.toml").exists() {
        return Err(Failure::failed(format!(
            "`{}` is no plugin project: it has no Cargo.toml (`sandclock plugin new NAME` starts one)",
            dir.display()
        )));
    }
    let mut cargo = Command::new("cargo");
    cargo.current_dir(dir).args([
        "build",
        "--release",
        "--target",
        TARGET,
        "--message-format",
        "json-render-diagnostics",
    ]);
    let built = cargo.stderr(Stdio::inherit()).stdin(Stdio::null()).output();
    let built =
        built.map_err(|e| Failure::failed(format!("cannot run cargo: {e} (install Rust from https://rustup.rs)")))?;
    if !built.status.success() {
        return Err(Failure::failed(format!(
            "`{}` does not build (if the target is missing: rustup target add {TARGET})",
            dir.display()
        )));
    }
    let components = components(&built.stdout);
    if components.is_empty() {
        return Err(Failure::failed(format!("`{}` built no component (set crate-type = [\"cdylib\"])", dir.display())));
    }
    output.show(&json!({ "components": components }), || {
        for component in &components {
            println!("built {component}");
            println!("next: sandclock plugin add {component}");
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// The .wasm files that cargo says it made.
fn components(messages: &[u8]) -> Vec<String> {
    let messages =
        messages.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let artifacts = messages.filter(|message| message["reason"] == "compiler-artifact");
    let files = artifacts.flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    files.filter_map(|file| file.as_str().filter(|file| file.ends_with(".wasm")).map(str::to_owned)).collect()
}
