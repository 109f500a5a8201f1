//! `sandclock backup` and `sandclock restore`

use super::client::Client;
use super::output::{Output, bytes, time};
use super::{Done, Failure};
use crate::backup::{self, About};
use crate::error::Error;
use crate::invalid::Invalid;
use crate::store::{SledOptions, SledStore};
use chrono::Utc;
use clap::Args;
use futures::StreamExt;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where to write. It holds secrets: nobody else can read it.
    file: PathBuf,
}

pub async fn backup(args: BackupArgs, client: &Client, output: Output) -> Done {
    let shown = args.file.display();
    let failed = |e: std::io::Error| Failure::failed(format!("cannot write `{shown}`: {e}"));
    let dir = args.file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Beside its place, so that a backup is there whole or not at all. Its mode is 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    let mut chunks = client.download("/v1/backup").await?;
    let mut size = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        size += chunk.len() as u64;
        file.write_all(&chunk).map_err(failed)?;
    }
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(&args.file).map_err(|e| failed(e.error))?;
    output.show(&json!({ "file": args.file, "bytes": size }), || {
        println!("backup of {} in {shown} (`sandclock restore {shown} --home DIR` begins a home from it)", bytes(size));
    });
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `sandclock backup` wrote.
    file: PathBuf,
}

/// Takes a backup out into an empty home, and opens the store once to see that it is sound.
pub fn restore(home: &Path, args: &RestoreArgs, output: Output) -> Done {
    let shown = args.file.display();
    let file = File::open(&args.file).map_err(|e| Failure::failed(format!("cannot read `{shown}`: {e}")))?;
    let check = |home: &Path| {
        let options = SledOptions { node: "restore".into(), ..SledOptions::default() };
        match SledStore::open(home, options, Utc::now()) {
            Ok(store) => drop(store),
            Err(Error::StoreDamaged { reason, .. }) => {
                let reason = format!("it is damaged: {reason}");
                return Err(Invalid::new("backup", "", reason).hint("take another one").into());
            }
            Err(error) => return Err(error),
        }
        let lock = home.join("lock");
        std::fs::remove_file(lock).map_err(|e| Error::host("cannot let go of the restored home", e))
    };
    let about: About = backup::restore(std::io::BufReader::new(file), home, check)
        .map_err(|error| Failure::failed(format!("`{shown}`: {}", error.chain())))?;
    output.show(&about, || {
        let taken = time(&json!(about.taken));
        println!("restored the backup of {taken} to {}", home.display());
        println!(
            "it has the jobs, the tokens and the settings of the other home: `serve --paused` shows it before it fires,"
        );
        println!("which it must not while the other one does; what was due since is a misfire question of each job");
    });
    Ok(ExitCode::SUCCESS)
}
