//! The things that a locked process must not be able to do, each with what it needs beforehand, so
//! that the attempt itself is the one step that the lock refuses.

use super::{Rules, probe::answer};
use libc::c_long;
use rustix::{
    mm::{MapFlags, MprotectFlags, ProtFlags},
    net::{AddressFamily, SocketType},
};
use std::{
    fs::File,
    io::{Error, Result},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
    ptr::null_mut,
};

pub(super) type Action = Box<dyn FnOnce() -> Result<()>>;

pub(super) struct Attempt {
    /// "read a file".
    pub name: &'static str,
    /// Done before the lock; what it returns is done after it.
    pub prepare: fn(&Rules) -> Result<Action>,
}

/// Those that `rules` forbid.
pub(super) fn all(rules: &Rules) -> impl Iterator<Item = Attempt> + use<> {
    let threads: &[Named] = if rules.threads { &[] } else { &THREADS };
    let groups: [&[Named]; 6] = [&FILES, &NETWORK, &PROCESSES, threads, &MEMORY, &KERNEL];
    groups.into_iter().flatten().map(|&(name, prepare)| Attempt { name, prepare })
}

type Named = (&'static str, fn(&Rules) -> Result<Action>);

const FILES: [Named; 5] = [
    ("read a file", |_| {
        // There in every system, and readable for everyone; else the program itself.
        let path = match std::path::Path::new("/etc/passwd") {
            passwd if passwd.exists() => passwd.to_owned(),
            _ => std::env::current_exe()?,
        };
        action(move || File::open(path).map(drop))
    }),
    ("list a directory", |_| action(|| std::fs::read_dir("/").map(drop))),
    ("create a file", |_| {
        let path = std::env::temp_dir().join(format!("sandclock-attempt-{}", std::process::id()));
        action(move || File::create_new(&path).and_then(|_| std::fs::remove_file(&path)))
    }),
    ("open more files", |rules| {
        let most = rules.open_files;
        action(move || {
            (0..=most)
                .map(|_| rustix::io::dup(std::io::stdin()))
                .collect::<rustix::io::Result<Vec<_>>>()
                .map(drop)
                .map_err(Error::from)
        })
    }),
    ("write a larger file", |rules| {
        let length = rules.file_bytes.saturating_add(1);
        action(move || {
            let file = rustix::fs::memfd_create("attempt", rustix::fs::MemfdFlags::CLOEXEC)?;
            answer(rustix::fs::ftruncate(file, length))
        })
    }),
];

const NETWORK: [Named; 6] = [
    ("make a network socket", |_| {
        action(|| answer(rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)))
    }),
    ("make a unix socket", |_| action(|| answer(rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)))),
    ("make a pair of datagram sockets", |_| {
        let (family, flags) = (AddressFamily::UNIX, rustix::net::SocketFlags::CLOEXEC);
        action(move || answer(rustix::net::socketpair(family, SocketType::DGRAM, flags, None)))
    }),
    ("connect", |_| {
        let listener = TcpListener::bind(anywhere())?;
        let address = listener.local_addr()?;
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        action(move || {
            let _listener = listener;
            answer(rustix::net::connect(socket, &address))
        })
    }),
    ("bind a socket", |_| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        action(move || answer(rustix::net::bind(socket, &anywhere())))
    }),
    ("accept a connection", |_| {
        let listener = TcpListener::bind(anywhere())?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        action(move || {
            let _client = client;
            listener.accept().map(drop)
        })
    }),
];

const PROCESSES: [Named; 6] = [
    // A program that took this one's place ends with 0, which says that it was done.
    ("run a program", |_| action(|| Err(Command::new("/bin/true").exec()))),
    ("start a process", |_| action(fork)),
    ("be traced", |_| call(libc::SYS_ptrace, [c_long::from(libc::PTRACE_TRACEME), 0, 0, 0, 0, 0])),
    ("signal another process", |_| {
        action(|| {
            rustix::process::getppid().map_or(Ok(()), |parent| answer(rustix::process::test_kill_process(parent)))
        })
    }),
    ("signal a thread of another process", |_| {
        let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_nonzero().get());
        call(libc::SYS_tgkill, [parent.into(), parent.into(), 0, 0, 0, 0])
    }),
    ("read another process' memory", |_| {
        // A byte of its own, which is possible for everyone.
        let itself = rustix::process::getpid().as_raw_nonzero().get();
        let mut byte = Box::new(0_u8);
        let mut range = Box::new([byte.as_mut() as *mut u8 as c_long, 1]);
        action(move || {
            let _byte = byte;
            let range = range.as_mut_ptr() as c_long;
            raw(libc::SYS_process_vm_readv, [itself.into(), range, 1, range, 1, 0])
        })
    }),
];

const THREADS: [Named; 1] = [("start a thread", |_| action(|| std::thread::Builder::new().spawn(|| ()).map(drop)))];

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

const MEMORY: [Named; 5] = [
    ("map executable memory", |_| {
        action(|| map(PAGE, ProtFlags::READ.union(ProtFlags::EXEC), MapFlags::PRIVATE).map(drop))
    }),
    ("map an executable file", |_| {
        let program = File::open(std::env::current_exe()?)?;
        action(move || map_program(&program))
    }),
    ("make written memory executable", |_| {
        let page = map(PAGE, READ_WRITE, MapFlags::PRIVATE)?;
        action(move || make_executable(page))
    }),
    ("take more memory", |rules| {
        let bytes = usize::try_from(rules.data_bytes).map_err(Error::other)?;
        action(move || map(bytes, READ_WRITE, MapFlags::PRIVATE.union(MapFlags::NORESERVE)).map(drop))
    }),
    ("take memory that is not counted", |_| action(|| map(PAGE, READ_WRITE, MapFlags::SHARED).map(drop))),
];

const KERNEL: [Named; 8] = [
    ("set up io_uring", |_| {
        let mut parameters = Box::new([0_u64; 15]);
        action(move || raw(libc::SYS_io_uring_setup, [1, parameters.as_mut_ptr() as c_long, 0, 0, 0, 0]))
    }),
    // Of its own mistakes in user mode only: possible for everyone.
    ("handle page faults", |_| call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0])),
    ("use bpf", |_| {
        // Create an array map of one value: type 2, key 4, value 8, entries 1.
        let mut map = Box::new([2_u32, 4, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        action(move || raw(libc::SYS_bpf, [0, map.as_mut_ptr() as c_long, 72, 0, 0, 0]))
    }),
    ("use the kernel's keys", |_| {
        const GET_KEYRING: c_long = 0;
        const OF_PROCESS: c_long = -2;
        call(libc::SYS_keyctl, [GET_KEYRING, OF_PROCESS, 1, 0, 0, 0])
    }),
    ("leave namespaces", |_| call(libc::SYS_unshare, [0, 0, 0, 0, 0, 0])),
    ("change the root directory", |_| action(|| raw(libc::SYS_chroot, [c"/".as_ptr() as c_long, 0, 0, 0, 0, 0]))),
    // Asks only; to set it could make all readable memory executable.
    ("change the personality", |_| call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0])),
    ("raise a limit", |_| {
        let limit = Box::new([u64::from(u32::MAX), u64::from(u32::MAX)]);
        action(move || raw(libc::SYS_prlimit64, [0, libc::RLIMIT_FSIZE as c_long, limit.as_ptr() as c_long, 0, 0, 0]))
    }),
];

fn action(action: impl FnOnce() -> Result<()> + 'static) -> Result<Action> {
    Ok(Box::new(action))
}

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn call(number: c_long, arguments: [c_long; 6]) -> Result<Action> {
    action(move || raw(number, arguments))
}

#[expect(unsafe_code, reason = "what must be refused has no safe wrapper")]
fn raw(number: c_long, arguments: [c_long; 6]) -> Result<()> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the callers pass numbers, and pointers to live memory of the size that the call is for.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(Error::last_os_error()),
        _ => Ok(()),
    }
}

#[expect(unsafe_code, reason = "fork is what is tried")]
fn fork() -> Result<()> {
    // SAFETY: the process has one thread, and the child does nothing but leave.
    match unsafe { libc::fork() } {
        -1 => Err(Error::last_os_error()),
        // SAFETY: ends the child without running anything of the parent's.
        0 => unsafe { libc::_exit(0) },
        _ => Ok(()),
    }
}

const PAGE: usize = 4096;

/// The address of fresh memory; it lives as long as the process.
#[expect(unsafe_code, reason = "mapping memory is what is tried")]
fn map(bytes: usize, protection: ProtFlags, flags: MapFlags) -> Result<usize> {
    // SAFETY: the kernel chooses the place, so no memory in use is touched.
    Ok(unsafe { rustix::mm::mmap_anonymous(null_mut(), bytes, protection, flags) }?.addr())
}

#[expect(unsafe_code, reason = "mapping memory is what is tried")]
fn map_program(file: &File) -> Result<()> {
    let protection = ProtFlags::READ.union(ProtFlags::EXEC);
    // SAFETY: the kernel chooses the place, and nothing looks into it.
    answer(unsafe { rustix::mm::mmap(null_mut(), PAGE, protection, MapFlags::PRIVATE, file.as_fd(), 0) })
}

#[expect(unsafe_code, reason = "making code is what is tried")]
fn make_executable(page: usize) -> Result<()> {
    // SAFETY: the page came from `map`, and nothing refers to it.
    answer(unsafe { rustix::mm::mprotect(page as *mut _, PAGE, MprotectFlags::READ.union(MprotectFlags::EXEC)) })
}
