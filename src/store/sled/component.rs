//! Components as files, each under its SHA-256: written beside, synced, renamed; verified when read.

use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::plugin::{self, Plugin};
use std::path::{Path, PathBuf};

pub fn dir(home: &Path) -> PathBuf {
    home.join("plugins")
}

fn path(home: &Path, digest: &str) -> PathBuf {
    dir(home).join(format!("{digest}.wasm"))
}

pub fn write(home: &Path, digest: &str, bytes: &[u8]) -> Result<()> {
    let path = path(home, digest);
    if read(home, digest)?.is_some() {
        return Ok(());
    }
    write_whole(&path, &[bytes]).map_err(|e| Error::host(format!("cannot store component {digest}"), e))
}

/// The bytes, or nothing if they are missing or not what the digest says.
pub fn read(home: &Path, digest: &str) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path(home, digest)) {
        Ok(bytes) if plugin::digest(&bytes) == digest => Ok(Some(bytes)),
        Ok(_) => {
            tracing::error!(digest, "a stored component does not have its digest and is ignored");
            Ok(None)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::host(format!("cannot read component {digest}"), e)),
    }
}

/// Removes components that no plugin refers to. A file that stays behind is harmless.
pub fn drop_unused<'a>(home: &Path, plugins: impl Iterator<Item = &'a Plugin>) {
    let used: std::collections::HashSet<String> =
        plugins.flat_map(|plugin| &plugin.versions).map(|version| format!("{}.wasm", version.digest)).collect();
    let Ok(dir) = std::fs::read_dir(dir(home)) else { return };
    for entry in dir.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.ends_with(".wasm") && !used.contains(name)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
