//! Files by the raw interface: the standard library would resolve `..` by itself and hide what the
//! host does with it.

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use wasip2::io::streams::StreamError;

type Answer<T> = Result<T, String>;

const FOLLOW: PathFlags = PathFlags::SYMLINK_FOLLOW;
const READ: DescriptorFlags = DescriptorFlags::READ;
/// Most bytes that one read or write asks for.
const CHUNK: u64 = 64 << 10;

pub fn preopens() -> Vec<String> {
    get_directories().into_iter().map(|(_, name)| name).collect()
}

/// The preopened directory that a path begins with, and the rest of it, untouched.
fn split(path: &str) -> Answer<(Descriptor, &str)> {
    let under = |name: &str| path.strip_prefix(name).and_then(|rest| rest.strip_prefix('/'));
    let mut all = get_directories();
    let found = (0..all.len()).filter(|at| under(&all[*at].1).is_some()).max_by_key(|at| all[*at].1.len());
    let at = found.unwrap_or(0);
    if all.is_empty() {
        return Err("no directory is given".to_owned());
    }
    let (directory, name) = all.swap_remove(at);
    Ok((directory, under(&name).unwrap_or(path)))
}

fn text(code: ErrorCode) -> String {
    code.name().to_owned()
}

fn open(path: &str, follow: PathFlags, how: OpenFlags, flags: DescriptorFlags) -> Answer<Descriptor> {
    let (directory, rest) = split(path)?;
    directory.open_at(follow, rest, how, flags).map_err(text)
}

fn open_to_read(path: &str) -> Answer<Descriptor> {
    open(path, FOLLOW, OpenFlags::empty(), READ)
}

fn open_to_write(path: &str, how: OpenFlags) -> Answer<Descriptor> {
    open(path, FOLLOW, how, READ | DescriptorFlags::WRITE)
}

fn open_directory(path: &str) -> Answer<Descriptor> {
    open(path, FOLLOW, OpenFlags::DIRECTORY, READ)
}

pub fn read(path: &str) -> Answer<String> {
    let file = open_to_read(path)?;
    let mut all = Vec::new();
    loop {
        let (bytes, end) = file.read(CHUNK, all.len() as u64).map_err(text)?;
        all.extend_from_slice(&bytes);
        if end || bytes.is_empty() {
            return Ok(String::from_utf8_lossy(&all).into_owned());
        }
    }
}

pub fn stat(path: &str) -> Answer<String> {
    let (directory, rest) = split(path)?;
    let stat = directory.stat_at(FOLLOW, rest).map_err(text)?;
    Ok(format!("{:?} {}", stat.type_, stat.size))
}

pub fn read_link(path: &str) -> Answer<String> {
    let (directory, rest) = split(path)?;
    directory.readlink_at(rest).map_err(text)
}

pub fn names(path: &str) -> Answer<Vec<String>> {
    let entries = open_directory(path)?.read_directory().map_err(text)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.read_directory_entry().map_err(text)? {
        names.push(entry.name);
    }
    Ok(names)
}

pub fn write(path: &str, bytes: u64) -> Answer<u64> {
    let file = open_to_write(path, OpenFlags::CREATE | OpenFlags::TRUNCATE)?;
    let chunk = vec![b'x'; CHUNK as usize];
    let mut taken = 0;
    while taken < bytes {
        let part = &chunk[..(bytes - taken).min(CHUNK) as usize];
        let now = file.write(part, taken).map_err(|code| format!("{} after {taken} bytes", code.name()))?;
        if now == 0 {
            return Err(format!("nothing is taken after {taken} bytes"));
        }
        taken += now;
    }
    Ok(taken)
}

pub fn make_directory(path: &str) -> Answer<()> {
    let (directory, rest) = split(path)?;
    directory.create_directory_at(rest).map_err(text)
}

pub fn remove(path: &str) -> Answer<()> {
    let (directory, rest) = split(path)?;
    directory.unlink_file_at(rest).map_err(text)
}

pub fn rename(from: &str, to: &str) -> Answer<()> {
    let ((old, from), (new, to)) = (split(from)?, split(to)?);
    old.rename_at(from, &new, to).map_err(text)
}

pub fn symlink(target: &str, path: &str) -> Answer<()> {
    let (directory, rest) = split(path)?;
    directory.symlink_at(target, rest).map_err(text)
}

pub fn hard_link(from: &str, to: &str) -> Answer<()> {
    link(PathFlags::empty(), from, to)
}

fn link(follow: PathFlags, from: &str, to: &str) -> Answer<()> {
    let ((old, from), (new, to)) = (split(from)?, split(to)?);
    old.link_at(follow, from, &new, to).map_err(text)
}

pub fn truncate(path: &str) -> Answer<()> {
    open(path, FOLLOW, OpenFlags::TRUNCATE, READ).map(drop)
}

pub fn shrink(path: &str) -> Answer<()> {
    open_to_read(path)?.set_size(0).map_err(text)
}

pub fn set_size(path: &str, bytes: u64) -> Answer<()> {
    open_to_write(path, OpenFlags::CREATE)?.set_size(bytes).map_err(text)
}

pub fn create_files(directory: &str, count: u32) -> Answer<u32> {
    for n in 0..count {
        open_to_write(&format!("{directory}/file-{n}"), OpenFlags::CREATE)
            .map_err(|error| format!("{error} at file {n}"))?;
    }
    Ok(count)
}

pub fn open_files(path: &str, times: u32) -> Answer<u32> {
    for n in 0..times {
        std::mem::forget(open_to_read(path).map_err(|error| format!("{error} at {n}"))?);
    }
    Ok(times)
}

pub fn read_directory(path: &str, times: u32) -> Answer<u32> {
    let directory = open_directory(path)?;
    for n in 0..times {
        let entries = directory.read_directory().map_err(|code| format!("{} at {n}", code.name()))?;
        let _ = entries.read_directory_entry();
        std::mem::forget(entries);
    }
    Ok(times)
}

pub fn leak_preopens() {
    std::mem::forget(get_directories());
}

pub fn leak_listing() {
    if let Some((directory, _)) = get_directories().first() {
        std::mem::forget(directory.read_directory());
    }
}

pub fn leak_file() {
    if let Some((directory, _)) = get_directories().first() {
        std::mem::forget(directory.open_at(FOLLOW, ".", OpenFlags::DIRECTORY, READ));
    }
}

/// A directory that is read as a file gives an error of its stream, which has a text.
pub fn debug_strings(path: &str, times: u32) -> Answer<u64> {
    let directory = open_directory(path)?;
    let mut length = 0;
    for _ in 0..times {
        let stream = directory.read_via_stream(0).map_err(text)?;
        if let Err(StreamError::LastOperationFailed(error)) = stream.blocking_read(1) {
            length += error.to_debug_string().len() as u64;
        }
    }
    Ok(length)
}

pub fn weird_names(directory: &str) -> Vec<String> {
    let long = ["x".repeat(255), "x".repeat(256), "ä".repeat(127), "\u{1f98a}".repeat(63)];
    let names = [
        "line\nbreak",
        "return\rhome",
        "\u{1b}[2J\u{1b}]0;title\u{7}",
        "\u{1b}]52;c;ZXZpbA==\u{7}",
        "bell\u{7}",
        "c1\u{9b}31m",
        "\u{202e}gpj.exe",
        "\u{200b}",
        "nul\0byte",
        "<svg onload=alert(1)>",
        "\"'`;$(id)",
        "%2e%2e",
        "..%2f..%2fetc",
        "back\\slash",
        "C:",
        "CON",
        "-rf",
        " ",
        " leading",
        "trailing.",
        "...",
        "\u{feff}bom",
        "data: x\n\ndata: y",
        "{\"json\":1}",
        "a/../b",
        "",
    ];
    let make = |name: &&str| open_to_write(&format!("{directory}/{name}"), OpenFlags::CREATE).is_ok();
    let all = names.into_iter().chain(long.iter().map(String::as_str));
    all.filter(make).map(str::to_owned).collect()
}

/// Spellings of places outside of a preopened directory; enough `..` to reach `/` from anywhere.
fn spellings() -> Vec<String> {
    let up = "../".repeat(24);
    let short = [
        "..",
        "../",
        "../.",
        "./..",
        "../..",
        ".//..",
        "..//",
        "/",
        "//",
        "/.",
        "/..",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/proc/self/root",
        "/proc/self/cwd",
        "/dev/null",
        "..\0",
        "../\0x",
        "\0/etc/passwd",
        "file:///etc/passwd",
        "inside/../..",
        "./inside/../../",
        "inside/./.././..",
    ];
    let ends = ["etc/passwd", "etc/passwd/", "etc", "etc/", "etc/.", "", "proc/self/environ", "tmp/sandclock-escaped"];
    let mut all: Vec<String> = short.map(str::to_owned).to_vec();
    all.extend(ends.map(|end| format!("{up}{end}")));
    all.extend(["inside/", "inside/../", "./././", "inside//..//"].map(|begin| format!("{begin}{up}etc/passwd")));
    all
}

/// Links that lead outside, made by the guest itself: those that the host let it make.
fn own_links(directory: &str) -> Vec<String> {
    let up = "../".repeat(24);
    let targets = [
        ("up", "..".to_owned()),
        ("up-slash", "../".to_owned()),
        ("root", "/".to_owned()),
        ("passwd", format!("{up}etc/passwd")),
        ("passwd-absolute", "/etc/passwd".to_owned()),
        ("etc", format!("{up}etc")),
        ("new", format!("{up}tmp/sandclock-escaped")),
        ("magic", "/proc/self/root".to_owned()),
        ("magic-relative", format!("{up}proc/self/root")),
    ];
    let make = |(name, target): (&str, String)| {
        let name = format!("escape-{name}");
        symlink(&target, &format!("{directory}/{name}")).is_ok().then_some(name)
    };
    let mut made: Vec<String> = targets.into_iter().filter_map(make).collect();
    // A link to a link to a link, as many as a resolver counts, and one more.
    for n in 0..41 {
        let target = if n == 0 { "escape-passwd".to_owned() } else { format!("escape-chain-{}", n - 1) };
        if symlink(&target, &format!("{directory}/escape-chain-{n}")).is_ok() && [0, 38, 39, 40].contains(&n) {
            made.push(format!("escape-chain-{n}"));
        }
    }
    made
}

/// `directory` is the preopened directory itself: from one below it, `..` is no escape.
pub fn escape(directory: &str, planted: &[String]) -> Vec<String> {
    let own = format!("{directory}/inside/own");
    let _ = make_directory(&format!("{directory}/inside"));
    let _ = write(&own, 1);
    // Each place, and whether it is a link itself: that may be read, removed and renamed.
    let mut places: Vec<(String, bool)> = spellings().into_iter().map(|place| (place, false)).collect();
    for link in own_links(directory).iter().chain(planted) {
        places.extend(["", "inside/../"].map(|begin| (format!("{begin}{link}"), true)));
        let ends = ["/", "/.", "/./", "//", "/..", "/passwd", "/etc/passwd", "/escaped"];
        places.extend(ends.map(|end| (format!("{link}{end}"), false)));
        places.push((format!("inside/../{link}/"), false));
    }
    let mut out = Vec::new();
    for (place, is_link) in places {
        let path = format!("{directory}/{place}");
        let mut tried = |verb: &str, got: bool| {
            if got {
                out.push(format!("{verb} {place}"));
            }
        };
        tried("open", open_to_read(&path).is_ok());
        tried("stat", stat(&path).is_ok());
        tried("list", names(&path).is_ok());
        tried("create", open_to_write(&path, OpenFlags::CREATE).is_ok());
        tried("make-directory", make_directory(&path).is_ok());
        tried("link", link(FOLLOW, &path, &format!("{directory}/inside/linked")).is_ok());
        tried("link-out", hard_link(&own, &path).is_ok());
        if !is_link {
            tried("read-link", read_link(&path).is_ok());
            tried("rename", rename(&path, &format!("{directory}/inside/moved")).is_ok());
            tried("rename-out", rename(&own, &path).is_ok());
            tried("remove", remove(&path).is_ok());
        }
    }
    out
}
