//! Makes a directory as it could look after a power cut, from a log that `shim.c` recorded.
//!
//! The model. File data: what the last fsync or fdatasync of the file covered, then for each sector
//! of 512 bytes any later version of it (a sector never mixes versions, and never skips back below
//! the synced one); the size is any between those the file had since. `sync_file_range` counts for
//! nothing. Names: a change is durable once its directory was synced; under [`Names::Journal`] also
//! a file's creation once that file was synced, together with every earlier change that it rests on,
//! as on ext4, XFS and btrfs. Of the other changes a prefix survives, in order, of any length.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;

pub const SECTOR: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Create,
    Mkdir,
    Write,
    Trunc,
    Falloc,
    Rename,
    Unlink,
    Rmdir,
    Link,
    Fsync,
    Fdatasync,
    Range,
    Ack,
    SyncAll,
    Unseen,
}

const OPS: [Op; 15] = [
    Op::Create,
    Op::Mkdir,
    Op::Write,
    Op::Trunc,
    Op::Falloc,
    Op::Rename,
    Op::Unlink,
    Op::Rmdir,
    Op::Link,
    Op::Fsync,
    Op::Fdatasync,
    Op::Range,
    Op::Ack,
    Op::SyncAll,
    Op::Unseen,
];

#[derive(Debug)]
pub struct Record<'a> {
    pub op: Op,
    pub id: u64,
    dir: u64,
    dir2: u64,
    pub off: u64,
    pub len: u64,
    pub name: &'a str,
    pub name2: &'a str,
    pub data: &'a [u8],
    aux: u32,
}

/// All whole records; a torn last one (the process was killed) is left out.
pub fn parse(log: &[u8]) -> Vec<Record<'_>> {
    const HEADER: usize = 72;
    let mut records = Vec::new();
    let mut rest = log;
    while rest.len() >= HEADER {
        let u32_at = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().unwrap());
        assert_eq!(u32_at(0), 0x314d_4853, "record {} of the log is damaged", records.len());
        assert_eq!(u64_at(8), records.len() as u64, "two processes wrote the log");
        let (name, name2, data) = (u32_at(56) as usize, u32_at(60) as usize, u32_at(64) as usize);
        let end = HEADER + name + name2 + data;
        if rest.len() < end {
            break;
        }
        let text = |from: usize, len: usize| std::str::from_utf8(&rest[from..from + len]).expect("a name in UTF-8");
        records.push(Record {
            op: OPS[u32_at(4) as usize - 1],
            id: u64_at(16),
            dir: u64_at(24),
            dir2: u64_at(32),
            off: u64_at(40),
            len: u64_at(48),
            name: text(HEADER, name),
            name2: text(HEADER + name, name2),
            data: &rest[end - data..end],
            aux: u32_at(68),
        });
        rest = &rest[end..];
    }
    records
}

/// The first record after those that describe what was there at the start.
pub fn start(records: &[Record<'_>]) -> usize {
    records.iter().position(|r| r.op == Op::SyncAll).expect("a whole first part") + 1
}

/// What the program acknowledged in these records.
pub fn acks(records: &[Record<'_>]) -> String {
    records.iter().filter(|r| r.op == Op::Ack).map(|r| String::from_utf8_lossy(r.data)).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// As on ext4, XFS and btrfs.
    Journal,
    /// As POSIX says: only a sync of the directory makes a name durable.
    Strict,
    /// No power cut at all: the directory as the program left it. To test the shim itself.
    Everything,
}

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A change of data that is not synced yet. `Zero` is a truncation or a hole.
enum Change<'a> {
    Bytes(u64, &'a [u8]),
    Zero(u64, u64),
    Nothing,
}

#[derive(Default)]
struct Inode<'a> {
    synced: Vec<u8>,
    /// The size with all changes.
    size: u64,
    /// Each change and the size after it.
    pending: Vec<(Change<'a>, u64)>,
}

impl<'a> Inode<'a> {
    fn change(&mut self, change: Change<'a>, size: u64) {
        self.size = size;
        self.pending.push((change, size));
    }

    fn settle(&mut self) {
        for (change, size) in std::mem::take(&mut self.pending) {
            apply(&mut self.synced, &change, |_| true);
            self.synced.resize(size as usize, 0);
        }
    }

    /// The file after the power cut.
    fn torn(&self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let mut limits: Vec<u64> = vec![self.synced.len() as u64];
        let mut versions: BTreeMap<u64, u64> = BTreeMap::new();
        for (change, size) in &self.pending {
            limits.push(*size);
            for sector in sectors(change) {
                *versions.entry(sector).or_default() += 1;
            }
        }
        // How many of its changes each sector gets. Blind chance over many sectors would never try
        // the whole, nothing, or all up to some write.
        let whole = rng.below(self.pending.len() as u64 + 1);
        let style = rng.below(6);
        let mut keep: BTreeMap<u64, u64> = BTreeMap::new();
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        if style == 2 || style == 3 {
            for (change, _) in self.pending.iter().take(whole as usize) {
                for sector in sectors(change) {
                    *keep.entry(sector).or_default() += 1;
                }
            }
        }
        for (&sector, &count) in &versions {
            let kept = keep.entry(sector).or_default();
            *kept = match style {
                0 => 0,
                1 => count,
                2 => *kept,
                // All up to some write, of the rest a few sectors.
                3 if rng.below(8) == 0 => *kept + rng.below(count - *kept + 1),
                3 => *kept,
                // Nearly everything.
                4 if rng.below(16) == 0 => rng.below(count + 1),
                4 => count,
                _ => rng.below(count + 1),
            };
        }
        for (change, size) in &self.pending {
            apply(&mut bytes, change, |sector| {
                let seen = seen.entry(sector).or_default();
                *seen += 1;
                *seen <= keep[&sector]
            });
            if bytes.len() < *size as usize {
                bytes.resize(*size as usize, 0);
            }
        }
        let (low, high) = (*limits.iter().min().unwrap(), *limits.iter().max().unwrap());
        let size = match style {
            0 => limits[0],
            1 => *limits.last().unwrap(),
            2 => limits[whole as usize],
            _ if rng.below(2) == 0 => limits[rng.below(limits.len() as u64) as usize],
            _ => low + rng.below(high - low + 1),
        };
        bytes.resize(size as usize, 0);
        bytes
    }
}

fn sectors(change: &Change<'_>) -> std::ops::Range<u64> {
    let (from, to) = match change {
        Change::Bytes(off, data) => (*off, off + data.len() as u64),
        Change::Zero(from, to) => (*from, *to),
        Change::Nothing => (0, 0),
    };
    if from >= to { 0..0 } else { from / SECTOR as u64..to.div_ceil(SECTOR as u64) }
}

fn apply(bytes: &mut Vec<u8>, change: &Change<'_>, mut keep: impl FnMut(u64) -> bool) {
    let (from, to) = match change {
        Change::Bytes(off, data) => (*off as usize, *off as usize + data.len()),
        Change::Zero(from, to) => (*from as usize, *to as usize),
        Change::Nothing => return,
    };
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    for sector in sectors(change) {
        if keep(sector) {
            let start = (sector as usize * SECTOR).max(from);
            let end = ((sector as usize + 1) * SECTOR).min(to);
            match change {
                Change::Bytes(_, data) => bytes[start..end].copy_from_slice(&data[start - from..end - from]),
                _ => bytes[start..end].fill(0),
            }
        }
    }
}

/// Which changes of names are durable.
struct Changes<'r, 'a> {
    all: Vec<&'r Record<'a>>,
    pending: BTreeSet<usize>,
}

impl Changes<'_, '_> {
    /// Makes those durable that `pick` finds, under a journal with all that they rest on.
    fn settle(&mut self, names: Names, pick: impl Fn(&Record<'_>) -> bool) {
        let mut todo: Vec<usize> = self.pending.iter().copied().filter(|&at| pick(self.all[at])).collect();
        while let Some(at) = todo.pop() {
            if !self.pending.remove(&at) || names == Names::Strict {
                continue;
            }
            let late = self.all[at];
            todo.extend(self.pending.range(..at).copied().filter(|&early| {
                let early = self.all[early];
                early.id == late.id
                    || early.id == late.dir
                    || early.id == late.dir2
                    || places(early).iter().any(|place| places(late).contains(place))
            }));
        }
    }
}

fn places<'a>(r: &Record<'a>) -> Vec<(u64, &'a str)> {
    [(r.dir, r.name), (r.dir2, r.name2)].into_iter().filter(|(dir, _)| *dir != 0).collect()
}

/// Writes to `out`, which must not exist, what a power cut after these records could leave.
pub fn replay(records: &[Record<'_>], seed: u64, names: Names, out: &Path) -> io::Result<()> {
    let mut rng = Rng(seed);
    let mut inodes: HashMap<u64, Inode<'_>> = HashMap::new();
    let mut changes = Changes { all: Vec::new(), pending: BTreeSet::new() };
    let mut made: HashMap<u64, bool> = HashMap::new();
    made.insert(1, true);
    for r in records {
        match r.op {
            Op::Create | Op::Mkdir | Op::Rename | Op::Unlink | Op::Rmdir | Op::Link => {
                if r.op == Op::Create || r.op == Op::Mkdir {
                    made.insert(r.id, r.op == Op::Mkdir);
                    inodes.entry(r.id).or_default();
                }
                changes.pending.insert(changes.all.len());
                changes.all.push(r);
            }
            Op::Write => {
                let inode = inodes.entry(r.id).or_default();
                inode.change(Change::Bytes(r.off, r.data), inode.size.max(r.off + r.len));
            }
            Op::Trunc => {
                let inode = inodes.entry(r.id).or_default();
                inode.change(Change::Zero(r.len, inode.size), r.len);
            }
            Op::Falloc => {
                let inode = inodes.entry(r.id).or_default();
                let (size, end) = (inode.size, r.off + r.len);
                let (keep_size, punch, zero) = (r.aux & 1 != 0, r.aux & 2 != 0, r.aux & 16 != 0);
                assert!(r.aux & !19 == 0, "fallocate of another kind: {}", r.aux);
                let change = if punch || zero { Change::Zero(r.off, end.min(size)) } else { Change::Nothing };
                inode.change(change, if keep_size { size } else { size.max(end) });
            }
            Op::Fsync | Op::Fdatasync if made.get(&r.id) == Some(&true) => {
                let dir = r.id;
                changes.settle(names, |c| if c.dir2 != 0 { c.dir2 == dir } else { c.dir == dir });
            }
            Op::Fsync | Op::Fdatasync => {
                inodes.entry(r.id).or_default().settle();
                if names != Names::Strict {
                    changes.settle(names, |c| c.op == Op::Create && c.id == r.id);
                }
            }
            Op::SyncAll => {
                inodes.values_mut().for_each(Inode::settle);
                changes.pending.clear();
            }
            Op::Unseen => panic!("the shim missed what happened to `{}` `{}`", r.name, r.name2),
            Op::Range | Op::Ack => {}
        }
    }
    let pending: Vec<usize> = changes.pending.iter().copied().collect();
    let survive = match rng.below(4) {
        _ if names == Names::Everything => pending.len(),
        0 => 0,
        1 => pending.len(),
        _ => rng.below(pending.len() as u64 + 1) as usize,
    };
    let lost: BTreeSet<usize> = pending[survive..].iter().copied().collect();
    let mut dirs: HashMap<u64, BTreeMap<&str, u64>> = HashMap::new();
    for (_, r) in changes.all.iter().enumerate().filter(|(at, _)| !lost.contains(at)) {
        let mut remove = |dir: u64, name: &str| {
            let entries = dirs.entry(dir).or_default();
            let here = entries.get(name) == Some(&r.id);
            if here {
                entries.remove(name);
            }
            here
        };
        match r.op {
            Op::Create | Op::Mkdir => {
                dirs.entry(r.dir).or_default().insert(r.name, r.id);
            }
            Op::Link => {
                dirs.entry(r.dir2).or_default().insert(r.name2, r.id);
            }
            Op::Rename => {
                if remove(r.dir, r.name) {
                    dirs.entry(r.dir2).or_default().insert(r.name2, r.id);
                }
            }
            _ => {
                remove(r.dir, r.name);
            }
        }
    }
    std::fs::create_dir(out)?;
    let mut todo = vec![(1u64, out.to_owned())];
    let mut contents: HashMap<u64, Vec<u8>> = HashMap::new();
    while let Some((dir, path)) = todo.pop() {
        for (name, id) in dirs.remove(&dir).unwrap_or_default() {
            let path = path.join(name);
            if made.get(&id) == Some(&true) {
                std::fs::create_dir(&path)?;
                todo.push((id, path));
                continue;
            }
            let inode = inodes.entry(id).or_default();
            let bytes = contents.entry(id).or_insert_with(|| {
                if names == Names::Everything {
                    inode.settle();
                    return inode.synced.clone();
                }
                inode.torn(&mut rng)
            });
            std::fs::write(&path, bytes)?;
        }
    }
    Ok(())
}
