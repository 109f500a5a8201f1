//! Files and directories that only their owner can enter, and that are there whole or not at all.

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Creates a directory that only its owner can enter.
pub fn create_private_dir(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// The directory that a relative name without any is in has none.
pub fn sync_dir(dir: &Path) -> std::io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Writes a file, of these parts, so that after a crash it is there whole or not at all.
pub fn write_whole(path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    create_private_dir(dir)?;
    // Made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.as_file().sync_all()?;
    let (_, made) = file.keep()?;
    std::fs::rename(made, path)?;
    sync_dir(dir)?;
    sync_dir(dir.parent().unwrap_or(dir))
}

/// Opens a file to write at its end.
pub fn append_to(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_directory_is_in_this_one() {
        assert_eq!(Path::new("home").parent(), Some(Path::new("")));
        sync_dir(Path::new("")).expect("it is the current directory");
    }
}
