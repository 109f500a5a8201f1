//! The program as a child of itself: a worker that runs guests, a compiler, an attempt at what a jail
//! forbids. A program that embeds the library and has the `process` executor calls
//! [`child_main`] first.

use crate::executor::worker;
use crate::jail::{self, CHILD, Finding, Layer, Rules};
use crate::sandbox::compile_child;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// This program, also when its file has been replaced meanwhile.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// If this process was started as a child of Sandclock, does what it was started for and gives its
/// exit code. To be called as the first thing in `main`, while the process has one thread and owns no
/// files: it closes all but its standard streams.
pub fn child_main() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(CHILD) {
        return None;
    }
    let (kind, parent) = (args.next(), args.next().and_then(|parent| parent.parse().ok()));
    let rest: Vec<String> = args.collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let (Some(kind), Some(parent)) = (kind, parent) else { return Some(ExitCode::FAILURE) };
    let done = match (kind.as_str(), rest.as_slice()) {
        ("worker", []) => worker(parent),
        ("compile", []) => compile_child(parent, false),
        ("compile", ["lines"]) => compile_child(parent, true),
        ("layers", []) => print_layers(parent),
        ("attempt", [how, name]) => return Some(jail::attempt(&attempted(), how, name)),
        _ => return Some(ExitCode::FAILURE),
    };
    Some(if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A worker without grants, as `doctor` tries it.
fn attempted() -> Rules {
    Rules {
        data_bytes: 1 << 30,
        cpu: None,
        open_files: 64,
        file_bytes: 1 << 20,
        dirs: Vec::new(),
        threads: false,
        sockets: false,
    }
}

/// Locks this process and says what came of it.
fn print_layers(parent: u32) -> io::Result<()> {
    jail::before(parent, &[])?;
    let layers = jail::lock(&attempted());
    io::stdout().write_all(&serde_json::to_vec(&layers)?)
}

fn child(kind: &str) -> Command {
    jail::child(Path::new(THIS_PROGRAM), kind)
}

/// The layers of a worker's jail on this machine.
pub fn jail_layers() -> io::Result<Vec<Layer>> {
    let said = child("layers").stderr(Stdio::null()).output()?;
    serde_json::from_slice(&said.stdout).map_err(io::Error::other)
}

/// What this machine really keeps a locked process from, each thing tried. Takes a second or so.
pub fn try_jail() -> Vec<Finding> {
    jail::try_forbidden(&attempted(), || child("attempt"))
}
