//! Compiled code on disk. It is native code, so it is only loaded if its HMAC is right, with a key
//! that nobody but this user can read; anything else is thrown away and compiled again.

use crate::error::{Error, Result};
use crate::files::write_whole;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"SCLKCWA1";
const MAC_BYTES: usize = 32;
/// Largest compiled component, in bytes.
pub const COMPILED_BYTES_MAX: usize = 256 << 20;
/// Bytes of all that is kept.
const CACHE_BYTES_MAX: u64 = 4 << 30;

pub struct Cache {
    dir: PathBuf,
    key: [u8; 32],
}

impl Cache {
    /// Opens the cache in `dir`, making the directory and its key if they are not there.
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::host(format!("cannot use `{}` as a code cache", dir.display()), e);
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(dir).map_err(failed)?;
        let path = dir.join("key");
        let key = match std::fs::read(&path).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()) {
            Some(key) => key,
            None => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(|e| Error::host("no randomness for the code cache's key", e))?;
                write_whole(&path, &[&key]).map_err(failed)?;
                key
            }
        };
        Ok(Cache { dir: dir.to_owned(), key })
    }

    fn path(&self, digest: &str, compatibility: u64) -> PathBuf {
        self.dir.join(format!("{digest}-{compatibility:016x}.cwasm"))
    }

    fn mac(&self, digest: &str, compatibility: u64, code: &[u8]) -> Hmac<Sha256> {
        // A key of any length is accepted, so this cannot fail.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).unwrap_or_else(|_| Hmac::new(&Default::default()));
        mac.update(digest.as_bytes());
        mac.update(&compatibility.to_le_bytes());
        mac.update(code);
        mac
    }

    /// Compiled code that this cache wrote, or nothing.
    pub fn get(&self, digest: &str, compatibility: u64) -> Option<Vec<u8>> {
        let path = self.path(digest, compatibility);
        let mut bytes = read_plain_file(&path)?;
        let body = MAGIC.len() + MAC_BYTES;
        let sound = bytes.len() > body && bytes.starts_with(MAGIC) && {
            let (head, code) = bytes.split_at(body);
            self.mac(digest, compatibility, code).verify_slice(&head[MAGIC.len()..]).is_ok()
        };
        if !sound {
            tracing::error!(path = %path.display(), "a file of the code cache was changed by somebody else; it is compiled again");
            let _ = std::fs::remove_file(&path);
            return None;
        }
        bytes.drain(..body);
        Some(bytes)
    }

    /// Keeps compiled code. Failure only costs time later, so it is logged.
    pub fn put(&self, digest: &str, compatibility: u64, code: &[u8]) {
        let mac = self.mac(digest, compatibility, code).finalize().into_bytes();
        let path = self.path(digest, compatibility);
        if let Err(error) = write_whole(&path, &[MAGIC.as_slice(), &mac, code]) {
            tracing::warn!(%error, path = %path.display(), "cannot keep compiled code");
        }
        self.trim();
    }

    /// Notes that a component breaks the compiler, so that it is not tried at each start.
    pub fn refuse(&self, digest: &str, compatibility: u64, reason: &str) {
        let path = self.path(digest, compatibility).with_extension("refused");
        if let Err(error) = write_whole(&path, &[reason.as_bytes()]) {
            tracing::warn!(%error, path = %path.display(), "cannot note that a component breaks the compiler");
        }
    }

    /// Why a component is not compiled, if that was noted.
    pub fn refused(&self, digest: &str, compatibility: u64) -> Option<String> {
        let path = self.path(digest, compatibility).with_extension("refused");
        let bytes = read_plain_file(&path)?;
        Some(crate::invalid::printable(&String::from_utf8_lossy(&bytes), 400))
    }

    /// Removes what was used longest ago until the rest has at most [`CACHE_BYTES_MAX`].
    fn trim(&self) {
        let entry = |entry: std::fs::DirEntry| {
            let meta = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            let code = entry.path().extension().is_some_and(|extension| extension == "cwasm");
            code.then(|| Some((meta.modified().ok()?, meta.len(), entry.path())))?
        };
        let mut entries: Vec<_> =
            std::fs::read_dir(&self.dir).into_iter().flatten().flatten().filter_map(entry).collect();
        entries.sort();
        let mut total: u64 = entries.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in entries {
            if total <= CACHE_BYTES_MAX {
                break;
            }
            total -= bytes;
            let _ = std::fs::remove_file(path);
        }
    }

    /// Removes the code of a component, for every engine.
    pub fn remove(&self, digest: &str) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(digest)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// The bytes of a regular file of this user; a link in its place is not followed, and what is checked
/// is what was opened. Reading it is its latest use.
fn read_plain_file(path: &Path) -> Option<Vec<u8>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    let meta = file.metadata().ok()?;
    let own = meta.uid() == rustix::process::geteuid().as_raw();
    if !own || !meta.is_file() || meta.len() > COMPILED_BYTES_MAX as u64 + 64 {
        return None;
    }
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).ok()?);
    file.read_to_end(&mut bytes).ok()?;
    let _ = file.set_modified(std::time::SystemTime::now());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.put("d", 1, b"code");
        assert_eq!(cache.get("d", 1).unwrap(), b"code");
        assert_eq!(Cache::open(dir.path()).unwrap().get("d", 1).unwrap(), b"code");
        assert!(cache.get("d", 2).is_none() && cache.get("e", 1).is_none());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.put("d", 1, b"code");
        let sound = std::fs::read(cache.path("d", 1)).unwrap();
        for bit in 0..sound.len() * 8 {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(cache.path("d", 1), &bytes).unwrap();
            assert!(cache.get("d", 1).is_none(), "bit {bit}");
        }
        for length in 0..sound.len() {
            std::fs::write(cache.path("d", 1), &sound[..length]).unwrap();
            assert!(cache.get("d", 1).is_none(), "length {length}");
        }
    }

    #[test]
    fn code_under_another_digest_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.put("d", 1, b"code");
        std::fs::copy(cache.path("d", 1), cache.path("e", 1)).unwrap();
        assert!(cache.get("e", 1).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        cache.put("d", 1, b"code");
        let elsewhere = dir.path().join("elsewhere");
        std::fs::rename(cache.path("d", 1), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, cache.path("d", 1)).unwrap();
        assert!(cache.get("d", 1).is_none());
    }
}
