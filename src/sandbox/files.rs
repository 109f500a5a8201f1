//! The file system of a guest: the granted directories and nothing else. The engine keeps paths within
//! them; here is what it does not do: a quota, no devices or pipes, a bound on listings, and a record
//! of what was reached for and denied.

mod quota;

pub use quota::{Quotas, Shares};

use super::setting::Uses;
use crate::grant::Pick;
use quota::{Metered, PHANTOM};
use wasmtime::Result;
use wasmtime::component::{HasData, Resource};
use wasmtime_wasi::WasiCtxView;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::preopens;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    self, Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream, ErrorCode,
    HostDescriptor, HostDirectoryEntryStream, MetadataHashValue, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

/// Listings of directories that a run has open at one time: each holds all its entries.
const LISTINGS_MAX: usize = 4;

pub struct WasiFiles;

impl HasData for WasiFiles {
    type Data<'a> = Files<'a>;
}

/// The engine's file system, and what is added to it.
pub struct Files<'a> {
    inner: WasiFilesystemCtxView<'a>,
    quotas: &'a mut Quotas,
    uses: &'a Uses,
}

impl<'a> Files<'a> {
    pub fn new(view: WasiCtxView<'a>, quotas: &'a mut Quotas, uses: &'a Uses) -> Self {
        Files { inner: WasiFilesystemCtxView { ctx: view.ctx.filesystem(), table: view.table }, quotas, uses }
    }

    /// Records that something at a path is reached for, and refuses what only seems to be there.
    fn reach(&self, fd: &Resource<Descriptor>, path: &str, write: bool) -> FsResult<()> {
        let Some(dir) = self.quotas.dir_of(fd.rep()) else { return Ok(()) };
        let guest = if dir == PHANTOM {
            let top = path.split('/').find(|part| !part.is_empty() && *part != ".").unwrap_or("");
            format!("/{top}")
        } else {
            self.quotas.guest(dir).to_owned()
        };
        let denied = dir == PHANTOM || (write && !self.quotas.is_writable(dir));
        // A name that no grant could have is not worth a record.
        if format!("dir:{guest}").parse::<Pick>().is_ok() {
            self.uses.record(Pick::Dir { guest, writable: write }, denied);
        }
        if dir == PHANTOM { Err(ErrorCode::NotPermitted.into()) } else { Ok(()) }
    }

    /// Devices, pipes and sockets are not opened: a guest that reads from one would wait for ever.
    async fn check_kind(&mut self, fd: &Resource<Descriptor>, flags: PathFlags, path: &str) -> FsResult<bool> {
        match self.inner.stat_at(again(fd), flags, path.to_owned()).await {
            Ok(stat) => match stat.type_ {
                DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink => Ok(true),
                _ => Err(ErrorCode::NotPermitted.into()),
            },
            // Opening it says what is wrong.
            Err(_) => Ok(false),
        }
    }

    /// Granted directories are file systems of their own, each with its quota.
    fn within_one(&self, a: &Resource<Descriptor>, b: &Resource<Descriptor>) -> FsResult<()> {
        if self.quotas.dir_of(a.rep()) == self.quotas.dir_of(b.rep()) {
            Ok(())
        } else {
            Err(ErrorCode::CrossDevice.into())
        }
    }

    fn size(&mut self, fd: &Resource<Descriptor>) -> u64 {
        match self.inner.table.get(fd) {
            Ok(Descriptor::File(file)) => file.file.metadata().map_or(0, |meta| meta.len()),
            _ => 0,
        }
    }

    fn charge(&self, fd: &Resource<Descriptor>, bytes: u64) -> FsResult<()> {
        let Some(dir) = self.quotas.dir_of(fd.rep()) else { return Ok(()) };
        if self.quotas.charge(dir, bytes) { Ok(()) } else { Err(ErrorCode::Quota.into()) }
    }

    /// A stream whose bytes are charged from `offset` on, where the file grows.
    fn metered(
        &mut self,
        stream: Resource<DynOutputStream>,
        left: Option<quota::Left>,
        free: u64,
    ) -> FsResult<Resource<DynOutputStream>> {
        let Some(left) = left else { return Ok(stream) };
        let inner = self.inner.table.delete(stream)?;
        let metered: DynOutputStream = Box::new(Metered::new(inner, left, free));
        Ok(self.inner.table.push(metered)?)
    }
}

/// The same descriptor for a call that takes it.
fn again(fd: &Resource<Descriptor>) -> Resource<Descriptor> {
    Resource::new_borrow(fd.rep())
}

impl preopens::Host for Files<'_> {
    fn get_directories(&mut self) -> Result<Vec<(Resource<Descriptor>, String)>> {
        let mut directories = preopens::Host::get_directories(&mut self.inner)?;
        for (at, (fd, _)) in directories.iter().enumerate() {
            self.quotas.opened(fd.rep(), at);
        }
        if let Some(dir) = self.quotas.phantom()? {
            let fd = self.inner.table.push(Descriptor::Dir(dir))?;
            self.quotas.opened(fd.rep(), PHANTOM);
            directories.push((fd, "/".to_owned()));
        }
        Ok(directories)
    }
}

impl types::Host for Files<'_> {
    fn convert_error_code(&mut self, error: FsError) -> Result<ErrorCode> {
        self.inner.convert_error_code(error)
    }

    fn filesystem_error_code(&mut self, error: Resource<wasmtime::Error>) -> Result<Option<ErrorCode>> {
        self.inner.filesystem_error_code(error)
    }
}

impl HostDescriptor for Files<'_> {
    async fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        let changes = open.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE);
        let write = changes || flags.intersects(DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY);
        self.reach(&fd, &path, write)?;
        let there = self.check_kind(&fd, path_flags, &path).await?;
        let dir = self.quotas.dir_of(fd.rep());
        if write && let Some(dir) = dir {
            self.quotas.remeasure_if_low(dir).await;
            if !there && open.contains(OpenFlags::CREATE) && !self.quotas.charge(dir, quota::ENTRY_BYTES) {
                return Err(ErrorCode::Quota.into());
            }
        }
        let opened = self.inner.open_at(fd, path_flags, path, open, flags).await?;
        if let Some(dir) = dir {
            self.quotas.opened(opened.rep(), dir);
        }
        Ok(opened)
    }

    async fn write(&mut self, fd: Resource<Descriptor>, buffer: Vec<u8>, offset: u64) -> FsResult<u64> {
        let growth = offset.saturating_add(buffer.len() as u64).saturating_sub(self.size(&fd));
        self.charge(&fd, growth)?;
        self.inner.write(fd, buffer, offset).await
    }

    async fn set_size(&mut self, fd: Resource<Descriptor>, size: u64) -> FsResult<()> {
        let old = self.size(&fd);
        self.charge(&fd, size.saturating_sub(old))?;
        self.inner.set_size(fd, size).await
    }

    fn write_via_stream(&mut self, fd: Resource<Descriptor>, offset: u64) -> FsResult<Resource<DynOutputStream>> {
        let (left, size) = (self.quotas.left(fd.rep()), self.size(&fd));
        // A hole before the first byte is growth too.
        self.charge(&fd, offset.saturating_sub(size))?;
        let stream = self.inner.write_via_stream(fd, offset)?;
        self.metered(stream, left, size.saturating_sub(offset))
    }

    fn append_via_stream(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DynOutputStream>> {
        let left = self.quotas.left(fd.rep());
        let stream = self.inner.append_via_stream(fd)?;
        self.metered(stream, left, 0)
    }

    async fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<DirectoryEntryStream>> {
        self.reach(&fd, "", false)?;
        if self.quotas.listings >= LISTINGS_MAX {
            return Err(ErrorCode::InsufficientMemory.into());
        }
        let listing = self.inner.read_directory(fd).await?;
        self.quotas.listings += 1;
        Ok(listing)
    }

    async fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.reach(&fd, &path, true)?;
        self.charge(&fd, quota::ENTRY_BYTES)?;
        self.inner.create_directory_at(fd, path).await
    }

    async fn symlink_at(&mut self, fd: Resource<Descriptor>, target: String, path: String) -> FsResult<()> {
        self.reach(&fd, &path, true)?;
        self.charge(&fd, quota::ENTRY_BYTES)?;
        self.inner.symlink_at(fd, target, path).await
    }

    async fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.reach(&fd, &path, true)?;
        self.reach(&new_fd, &new_path, true)?;
        self.within_one(&fd, &new_fd)?;
        self.charge(&new_fd, quota::ENTRY_BYTES)?;
        self.inner.link_at(fd, flags, path, new_fd, new_path).await
    }

    async fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        self.reach(&fd, &path, true)?;
        self.reach(&new_fd, &new_path, true)?;
        self.within_one(&fd, &new_fd)?;
        self.inner.rename_at(fd, path, new_fd, new_path).await
    }

    async fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.reach(&fd, &path, true)?;
        self.inner.remove_directory_at(fd, path).await
    }

    async fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.reach(&fd, &path, true)?;
        self.inner.unlink_file_at(fd, path).await
    }

    async fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.reach(&fd, &path, true)?;
        self.inner.set_times_at(fd, flags, path, accessed, modified).await
    }

    async fn stat_at(&mut self, fd: Resource<Descriptor>, flags: PathFlags, path: String) -> FsResult<DescriptorStat> {
        self.reach(&fd, &path, false)?;
        self.inner.stat_at(fd, flags, path).await
    }

    async fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.reach(&fd, &path, false)?;
        self.inner.readlink_at(fd, path).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.reach(&fd, &path, false)?;
        self.inner.metadata_hash_at(fd, flags, path).await
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> Result<()> {
        self.quotas.closed(fd.rep());
        HostDescriptor::drop(&mut self.inner, fd)
    }

    async fn advise(&mut self, fd: Resource<Descriptor>, offset: u64, length: u64, advice: Advice) -> FsResult<()> {
        self.inner.advise(fd, offset, length, advice).await
    }

    async fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner.sync_data(fd).await
    }

    async fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.inner.sync(fd).await
    }

    async fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorFlags> {
        self.inner.get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorType> {
        self.inner.get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.inner.set_times(fd, accessed, modified).await
    }

    async fn read(&mut self, fd: Resource<Descriptor>, length: u64, offset: u64) -> FsResult<(Vec<u8>, bool)> {
        self.inner.read(fd, length, offset).await
    }

    fn read_via_stream(&mut self, fd: Resource<Descriptor>, offset: u64) -> FsResult<Resource<DynInputStream>> {
        self.inner.read_via_stream(fd, offset)
    }

    async fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<DescriptorStat> {
        self.inner.stat(fd).await
    }

    async fn is_same_object(&mut self, a: Resource<Descriptor>, b: Resource<Descriptor>) -> Result<bool> {
        self.inner.is_same_object(a, b).await
    }

    async fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<MetadataHashValue> {
        self.inner.metadata_hash(fd).await
    }
}

impl HostDirectoryEntryStream for Files<'_> {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.inner.read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> Result<()> {
        self.quotas.listings = self.quotas.listings.saturating_sub(1);
        HostDirectoryEntryStream::drop(&mut self.inner, stream)
    }
}
