//! What the locked children do.

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use sandclock::jail::{GrantedDir, Rules, Status, attempt, before, lock};
use std::{
    fmt::{Debug, Display},
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::TcpStream,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

type Outcome = Result<(), String>;

pub fn strict() -> Rules {
    Rules {
        data_bytes: 512 << 20,
        cpu: Some(Duration::from_secs(60)),
        open_files: 64,
        file_bytes: 32 << 20,
        dirs: Vec::new(),
        threads: false,
        sockets: false,
    }
}

fn worker(arguments: &[String]) -> Rules {
    let dir = |path: &String, writable| GrantedDir { path: PathBuf::from(path), writable };
    let dirs = match arguments {
        [writable, readable, ..] => vec![dir(writable, true), dir(readable, false)],
        _ => Vec::new(),
    };
    Rules { dirs, threads: true, sockets: true, ..strict() }
}

/// `probe strict|worker how name`
pub fn probe(arguments: &[String]) -> ExitCode {
    let rules = rules_named(&arguments[0]);
    attempt(&rules, &arguments[1], &arguments[2])
}

pub fn rules_named(name: &str) -> Rules {
    match name {
        "strict" => strict(),
        _ => worker(&["/var/tmp".to_owned(), "/usr/share".to_owned()]),
    }
}

/// `child PARENT case arguments…`
pub fn main(arguments: &[String]) -> ExitCode {
    let parent = arguments[0].parse().expect("a process id");
    let case = arguments[1].as_str();
    let rest = &arguments[2..];
    if case == "descriptors" {
        return end(descriptors(parent, rest));
    }
    if let Err(error) = before(parent, &[]) {
        println!("{error}");
        return ExitCode::from(9);
    }
    let rules = match case {
        "strict" | "no-threads" | "abort" | "memory" | "allocation" | "panic" | "stop" | "compat" | "x32"
        | "no-files" | "control" => strict(),
        "processor" => Rules { cpu: Some(Duration::from_millis(900)), ..strict() },
        "too-much" => Rules { data_bytes: 64 << 10, ..strict() },
        "missing" => worker(&["/var/tmp/is/not/there".to_owned(), "/usr/share".to_owned()]),
        _ => worker(rest),
    };
    if case == "second-thread" {
        std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)));
    }
    let layers = lock(&rules);
    if ["strict", "worker", "too-much", "missing", "second-thread"].contains(&case) {
        for layer in &layers {
            println!("{}|{:?}", layer.name, layer.status);
        }
        return ExitCode::SUCCESS;
    }
    if layers.iter().any(|layer| matches!(layer.status, Status::Off(_))) {
        println!("{layers:?}");
        return ExitCode::from(9);
    }
    end(match case {
        "runtime" => runtime(rest),
        "files" => files(rest),
        "no-files" => no_files(),
        "socket" => socket(),
        "socket-tricks" => socket_tricks(),
        "control" => control(),
        "threads" => threads(),
        "no-threads" => no_threads(),
        "abort" => std::process::abort(),
        "abort-in-thread" => std::thread::spawn(|| std::process::abort()).join().map_err(show),
        "memory" => memory(),
        "allocation" => allocation(),
        "processor" => loop {
            std::hint::spin_loop();
        },
        "file-size" => file_size(rest),
        "panic" => panic(),
        "stop" | "sleep" => sleep(rest),
        "signals" => signals(),
        "engine" => engine(),
        "compat" => compat(),
        "x32" => x32(),
        other => Err(format!("no case {other}")),
    })
}

fn end(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("{text}");
            ExitCode::from(1)
        }
    }
}

fn show(error: impl Debug) -> String {
    format!("{error:?}")
}

trait Step<T> {
    fn step(self, name: &str) -> Result<T, String>;
}

impl<T, E: Display> Step<T> for Result<T, E> {
    fn step(self, name: &str) -> Result<T, String> {
        self.map_err(|error| format!("{name}: {error}"))
    }
}

fn same<T: PartialEq + Debug>(name: &str, is: T, expect: T) -> Outcome {
    if is == expect { Ok(()) } else { Err(format!("{name}: {is:?} instead of {expect:?}")) }
}

fn tokio_runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().step("runtime")
}

/// Made, used and dropped after the lock, with timers, blocking threads and files.
fn runtime(arguments: &[String]) -> Outcome {
    let dir = PathBuf::from(&arguments[0]);
    tokio_runtime()?.block_on(async {
        let start = Instant::now();
        tokio::time::sleep(Duration::from_millis(30)).await;
        same("slept", start.elapsed() >= Duration::from_millis(30), true)?;
        tokio::time::timeout(Duration::from_millis(10), std::future::pending::<()>()).await.expect_err("a timeout");
        let tasks = (0..8).map(|n| {
            let path = dir.join(format!("file{n}"));
            tokio::task::spawn_blocking(move || std::fs::write(&path, b"text").and_then(|()| std::fs::read(&path)))
        });
        for task in tasks.collect::<Vec<_>>() {
            same("read", task.await.step("join")?.step("blocking io")?, b"text".to_vec())?;
        }
        tokio::fs::write(dir.join("async"), b"more").await.step("tokio::fs")?;
        same("tokio::fs", tokio::fs::metadata(dir.join("async")).await.step("metadata")?.len(), 4)
    })
}

fn beneath(dir: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, mode, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

/// What WASI does in a writable directory; and what must not be possible in others.
fn files(arguments: &[String]) -> Outcome {
    let open = |path: &str| rustix::fs::open(path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty());
    let (dir, readable) = (open(&arguments[0]).step("open")?, open(&arguments[1]).step("open the readable one")?);
    let write = OFlags::CREATE | OFlags::RDWR | OFlags::TRUNC;
    let file = beneath(&dir, "a", write).step("create")?;
    same("write", rustix::io::pwrite(&file, b"hello", 0).step("pwrite")?, 5)?;
    rustix::io::pwritev2(&file, &[std::io::IoSlice::new(b"!")], 5, rustix::io::ReadWriteFlags::empty())
        .step("pwritev2")?;
    rustix::fs::ftruncate(&file, 4).step("ftruncate")?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 8).step("fallocate")?;
    rustix::fs::fsync(&file).step("fsync")?;
    rustix::fs::fdatasync(&file).step("fdatasync")?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential).step("fadvise")?;
    let now = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    rustix::fs::futimens(&file, &times).step("futimens")?;
    let by_path = rustix::fs::utimensat(&dir, "a", &times, rustix::fs::AtFlags::empty());
    same("times by path", by_path, Err(Errno::PERM))?;
    same("size", rustix::fs::fstat(&file).step("fstat")?.st_size, 8)?;
    rustix::fs::statx(&dir, "a", rustix::fs::AtFlags::empty(), rustix::fs::StatxFlags::ALL).step("statx")?;
    rustix::fs::statat(&dir, "a", rustix::fs::AtFlags::SYMLINK_NOFOLLOW).step("newfstatat")?;
    rustix::fs::mkdirat(&dir, "sub", Mode::RWXU).step("mkdir")?;
    rustix::fs::linkat(&dir, "a", &dir, "sub/b", rustix::fs::AtFlags::empty()).step("link")?;
    rustix::fs::renameat(&dir, "a", &dir, "sub/c").step("rename")?;
    rustix::fs::symlinkat("sub/c", &dir, "s").step("symlink")?;
    same("readlink", rustix::fs::readlinkat(&dir, "s", Vec::new()).step("readlink")?.as_bytes(), b"sub/c")?;
    beneath(&dir, "s", OFlags::RDONLY).step("open through a symlink")?;
    let names = rustix::fs::Dir::read_from(&dir).step("getdents")?.count();
    same("names", names, 4)?;
    rustix::fs::unlinkat(&dir, "sub/b", rustix::fs::AtFlags::empty()).step("unlink")?;
    rustix::fs::unlinkat(&dir, "sub/c", rustix::fs::AtFlags::empty()).step("unlink")?;
    rustix::fs::unlinkat(&dir, "sub", rustix::fs::AtFlags::REMOVEDIR).step("rmdir")?;
    let mode = Mode::RWXU;
    let fifo = rustix::fs::mknodat(&dir, "fifo", rustix::fs::FileType::Fifo, mode, 0);
    same("mkfifo", fifo, Err(Errno::PERM))?;
    outside(&dir, &readable)
}

/// The kernel's own answers: EXDEV from openat2, EACCES from landlock. EPERM would be the filter's.
fn outside(dir: &OwnedFd, readable: &OwnedFd) -> Outcome {
    let failure = |result: Result<OwnedFd, Errno>| result.err();
    same("..", failure(beneath(dir, "../x", OFlags::RDONLY)), Some(Errno::XDEV))?;
    same("/", failure(beneath(dir, "/etc/passwd", OFlags::RDONLY)), Some(Errno::XDEV))?;
    rustix::fs::symlinkat("/etc/passwd", dir, "out").step("symlink out")?;
    let followed = rustix::fs::openat(dir, "out", OFlags::RDONLY, Mode::empty());
    same("symlink out", failure(followed), Some(Errno::ACCESS))?;
    let up = rustix::fs::openat(dir, "../../../etc/passwd", OFlags::RDONLY, Mode::empty());
    same("up", failure(up), Some(Errno::ACCESS))?;
    same("read", failure(beneath(readable, "given", OFlags::RDONLY)), None)?;
    same("write", failure(beneath(readable, "given", OFlags::WRONLY)), Some(Errno::ACCESS))?;
    same("truncate", failure(beneath(readable, "given", OFlags::RDONLY | OFlags::TRUNC)), Some(Errno::ACCESS))?;
    same("create", failure(beneath(readable, "new", OFlags::CREATE | OFlags::RDWR)), Some(Errno::ACCESS))?;
    let gone = rustix::fs::unlinkat(readable, "given", rustix::fs::AtFlags::empty());
    same("unlink", gone, Err(Errno::ACCESS))?;
    let moved = rustix::fs::renameat(readable, "given", dir, "stolen");
    same("move out", moved, Err(Errno::ACCESS))?;
    let linked = rustix::fs::linkat(readable, "given", dir, "linked", rustix::fs::AtFlags::empty());
    same("link out", linked.is_err(), true)
}

fn no_files() -> Outcome {
    let open = rustix::fs::open("/etc/passwd", OFlags::RDONLY, Mode::empty()).err();
    same("openat", open, Some(Errno::PERM))?;
    same("std", std::fs::read("/etc/passwd").err().map(|e| e.kind()), Some(std::io::ErrorKind::PermissionDenied))?;
    same("stat", std::fs::metadata("/etc/passwd").is_err(), true)?;
    let how = ResolveFlags::empty();
    let open = rustix::fs::openat2(rustix::fs::CWD, "/etc/passwd", OFlags::RDONLY, Mode::empty(), how).err();
    same("openat2", open, Some(Errno::PERM))
}

/// Over a seqpacket pair as standard input.
fn receive() -> Result<OwnedFd, String> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 16];
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    let stdin = std::io::stdin();
    let got =
        rustix::net::recvmsg(stdin.as_fd(), &mut [IoSliceMut::new(&mut text)], &mut control, flags).step("recvmsg")?;
    same("message", &text[..got.bytes], b"socket")?;
    control
        .drain()
        .find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| "no descriptor came".to_owned())
}

fn socket() -> Outcome {
    tokio_runtime()?.block_on(async {
        let stream = tokio::task::spawn_blocking(receive).await.step("join")??;
        let stream = TcpStream::from(stream);
        stream.set_nonblocking(true).step("nonblocking")?;
        let mut stream = tokio::net::TcpStream::from_std(stream).step("from_std")?;
        stream.set_nodelay(true).step("nodelay")?;
        stream.peer_addr().step("peer")?;
        stream.local_addr().step("local")?;
        same("no error", stream.take_error().step("take_error")?.is_none(), true)?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").await.step("request")?;
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer))
            .await
            .step("in time")?
            .step("answer")?;
        same("answer", answer.as_str(), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")?;
        stream.shutdown().await.step("shutdown")
    })
}

/// The way to the parent, without the right to other sockets: echoes.
fn control() -> Outcome {
    tokio_runtime()?.block_on(async {
        let own = std::io::stdin().as_fd().try_clone_to_owned().step("dup")?;
        let stream = std::os::unix::net::UnixStream::from(own);
        stream.set_nonblocking(true).step("nonblocking")?;
        let mut stream = tokio::net::UnixStream::from_std(stream).step("from_std")?;
        let mut text = [0; 4];
        stream.read_exact(&mut text).await.step("read")?;
        stream.write_all(&text[..2]).await.step("write")?;
        let rest = [std::io::IoSlice::new(&text[2..3]), std::io::IoSlice::new(&text[3..])];
        same("vectored", stream.write_vectored(&rest).await.step("write vectored")?, 2)?;
        stream.shutdown().await.step("shutdown")?;
        let message = receive();
        same("recvmsg", message.err().is_some_and(|text| text.contains("os error 1)")), true)
    })
}

/// A handed socket can't be turned into another.
fn socket_tricks() -> Outcome {
    use std::os::fd::AsRawFd;
    let socket = receive()?;
    let fd = socket.as_raw_fd();
    let refused = |name: &str, result: libc::c_long| {
        same(name, (result, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EPERM)))
    };
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: 80_u16.to_be(),
        sin_addr: libc::in_addr { s_addr: 0x0100_007f },
        sin_zero: [0; 8],
    };
    let (pointer, length) = ((&raw const address).cast::<libc::sockaddr>(), size_of_val(&address) as u32);
    let sent = unsafe { libc::sendto(fd, b"x".as_ptr().cast(), 1, 0, pointer, length) };
    refused("sendto with an address", sent as _)?;
    let sent = unsafe { libc::sendto(fd, b"x".as_ptr().cast(), 1, libc::MSG_FASTOPEN, std::ptr::null(), 0) };
    refused("fast open", sent as _)?;
    let message: libc::msghdr = unsafe { std::mem::zeroed() };
    refused("sendmsg fast open", unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_FASTOPEN) } as _)?;
    let program = [0_u64; 2];
    let option = |level, name| unsafe { libc::setsockopt(fd, level, name, program.as_ptr().cast(), 16) };
    refused("socket filter", option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER).into())?;
    refused("protocol", option(libc::IPPROTO_TCP, libc::TCP_ULP).into())?;
    refused("repair", option(libc::IPPROTO_TCP, libc::TCP_REPAIR).into())?;
    refused("owner", unsafe { libc::fcntl(fd, libc::F_SETOWN, 1) }.into())
}

fn threads() -> Outcome {
    let threads: Vec<_> = (0..4)
        .map(|n| std::thread::Builder::new().name(format!("worker {n}")).spawn(move || n * 2).step("spawn"))
        .collect::<Result<_, _>>()?;
    let sum: i32 = threads.into_iter().map(|thread| thread.join().unwrap_or(-100)).sum();
    same("sum", sum, 12)
}

fn no_threads() -> Outcome {
    let error = std::thread::Builder::new().spawn(|| ()).err();
    same("spawn", error.and_then(|e| e.raw_os_error()), Some(libc::EPERM))
}

fn memory() -> Outcome {
    let mut vec: Vec<u8> = Vec::new();
    same("too much", vec.try_reserve_exact(600 << 20).is_err(), true)?;
    vec.try_reserve_exact(64 << 20).step("enough")?;
    vec.resize(64 << 20, 1);
    // In small pieces too, until it is used up.
    let mut pieces: Vec<Vec<u8>> = Vec::with_capacity(1 << 16);
    loop {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(1 << 20).is_err() {
            break;
        }
        pieces.push(piece);
        same("limited", pieces.len() < 600, true)?;
    }
    same("most of it can be had", pieces.len() > 300, true).map_err(|text| format!("{text}: {}", pieces.len()))?;
    drop(pieces);
    vec![0_u8; 32 << 20].fill(2);
    Ok(())
}

fn allocation() -> Outcome {
    let vec = vec![1_u8; 600 << 20];
    Err(format!("allocated {}", vec.len()))
}

fn file_size(arguments: &[String]) -> Outcome {
    let mut file = std::fs::File::create(PathBuf::from(&arguments[0]).join("large")).step("create")?;
    let error = file.write_all(&vec![0; (32 << 20) + 1]).err();
    same("write", error.and_then(|e| e.raw_os_error()), Some(libc::EFBIG))?;
    same("set_len", file.set_len(33 << 20).err().and_then(|e| e.raw_os_error()), Some(libc::EFBIG))?;
    same("length", file.metadata().step("metadata")?.len(), 32 << 20)
}

fn panic() -> Outcome {
    let caught = std::panic::catch_unwind(|| {
        let empty: Vec<u8> = Vec::new();
        std::hint::black_box(&empty)[std::hint::black_box(0)]
    });
    same("caught", caught.is_err(), true)
}

fn sleep(arguments: &[String]) -> Outcome {
    println!("ready");
    std::io::stdout().flush().step("flush")?;
    let seconds = arguments.last().and_then(|s| s.parse().ok()).unwrap_or(1);
    std::thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

static CAUGHT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

extern "C" fn caught(_: libc::c_int) {
    CAUGHT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
}

/// A handler on a stack of its own, as the wasm engine has for faults.
fn signals() -> Outcome {
    std::thread::spawn(|| {
        let mut stack = vec![0_u8; 64 << 10];
        let alternative = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
        same("sigaltstack", unsafe { libc::sigaltstack(&raw const alternative, std::ptr::null_mut()) }, 0)?;
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = caught as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        same("sigaction", unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) }, 0)?;
        same("raise", unsafe { libc::raise(libc::SIGUSR1) }, 0)?;
        same("kill", unsafe { libc::kill(libc::getpid(), libc::SIGUSR1) }, 0)
    })
    .join()
    .map_err(show)??;
    same("caught", CAUGHT.load(std::sync::atomic::Ordering::SeqCst), 2)
}

/// The engine's own steps: a sealed memory image, mapped privately over a reservation, made usable
/// and given back.
fn engine() -> Outcome {
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let image = rustix::fs::memfd_create("image", flags).step("memfd")?;
    rustix::io::write(&image, &[7; 8192]).step("write")?;
    let seals = rustix::fs::SealFlags::GROW | rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&image, seals | rustix::fs::SealFlags::SEAL).step("seal")?;
    let read_write = ProtFlags::READ | ProtFlags::WRITE;
    unsafe {
        let none = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // Far more than RLIMIT_DATA: a reservation isn't counted.
        let base =
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), 4 << 30, ProtFlags::empty(), none).step("reserve")?;
        let fixed = MapFlags::PRIVATE | MapFlags::FIXED;
        rustix::mm::mmap(base, 8192, read_write, fixed, &image, 0).step("map the image")?;
        let next = base.byte_add(8192);
        rustix::mm::mprotect(next, 1 << 20, MprotectFlags::READ | MprotectFlags::WRITE).step("grow")?;
        next.cast::<u8>().write(1);
        base.cast::<u8>().write(9);
        let both = [libc::iovec { iov_base: base, iov_len: 4096 }, libc::iovec { iov_base: next, iov_len: 4096 }];
        let done = libc::syscall(libc::SYS_process_madvise, -10_000, both.as_ptr(), 2, libc::MADV_DONTNEED, 0);
        same("process_madvise", done, 8192)?;
        same("the image is back", base.cast::<u8>().read(), 7)?;
        same("zero is back", next.cast::<u8>().read(), 0)?;
        let too_much = rustix::mm::mprotect(next, 600 << 20, MprotectFlags::READ | MprotectFlags::WRITE);
        same("past the limit", too_much, Err(Errno::NOMEM))?;
        rustix::mm::munmap(base, 4 << 30).step("unmap")
    }
}

/// The 32-bit way in has other numbers, so the whole way is closed.
fn compat() -> Outcome {
    #[cfg(target_arch = "x86_64")]
    unsafe {
        let mut result = 20_u64; // getpid
        std::arch::asm!("int 0x80", inout("rax") result);
        Err(format!("answered {result}"))
    }
    #[cfg(not(target_arch = "x86_64"))]
    Err("none".to_owned())
}

fn x32() -> Outcome {
    let answer = unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpid) };
    same("x32", (answer, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EPERM)))
}

/// Standard input is one end of a pipe that is inherited once more, above 2.
fn descriptors(parent: u32, arguments: &[String]) -> Outcome {
    let keep: Vec<i32> = arguments.iter().filter_map(|text| text.parse().ok()).collect();
    let open = |fd: &i32| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0;
    for fd in 3..40 {
        unsafe { libc::dup2(1, fd) };
    }
    before(parent, &keep).step("before")?;
    let left: Vec<i32> = (3..100).filter(open).collect();
    same("kept", left, keep)?;
    let status = std::fs::read_to_string("/proc/self/status").step("status")?;
    same("umask", status.lines().any(|line| line == "Umask:\t0077"), true)?;
    same("directory", std::env::current_dir().step("getcwd")?, PathBuf::from("/"))?;
    same("session", rustix::process::getsid(None).step("getsid")?, rustix::process::getpid())?;
    let mut byte = [0];
    std::io::stdin().read(&mut byte).map(drop).step("stdin is open")
}
