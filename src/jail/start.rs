//! How a child is started, and what it does before anything else.

use rustix::{
    fs::Mode,
    io::Errno,
    process::{DumpableBehavior, Resource, Rlimit, Signal},
};
use std::{
    io::{Error, Result},
    os::fd::RawFd,
    path::Path,
    process::Command,
};

/// The first argument of a child.
pub const CHILD: &str = "sandclock-child";

/// A command that starts `program` as a child of a kind, told who its parent is and nothing else.
pub fn child(program: &Path, kind: &str) -> Command {
    let mut command = Command::new(program);
    command.args([CHILD, kind, &std::process::id().to_string()]).env_clear().current_dir("/");
    // The allocator's large reserve at its start would count against the limit of memory.
    command.env("MIMALLOC_ARENA_EAGER_COMMIT", "0");
    command
}

/// Makes a fresh child stand for itself. It dies with its parent, can't be traced or dumped by other
/// processes of its user, has a session of its own and `/` as its directory, creates files for its
/// user only, and has no descriptors open but 0, 1, 2 and `keep`.
///
/// `parent` is the process id that the child was told by the one that started it: if that one has
/// died already, the child has another by now, and this is an error. The signal comes when the
/// THREAD ends that started the child, so start it from one that lives as long as the parent.
///
/// # Errors
///
/// With the step that failed; the child should go away.
///
/// # Safety of descriptors
///
/// Call it as the first thing in `main`, while nothing in the process owns a descriptor above 2
/// that isn't in `keep`.
pub fn before(parent: u32, keep: &[RawFd]) -> Result<()> {
    step("die with the parent", rustix::process::set_parent_process_death_signal(Some(Signal::KILL)))?;
    // In this order: a parent that died before the call above sends no signal.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs()) != Some(parent) {
        return Err(Error::other(format!("the parent {parent} is gone")));
    }
    step("refuse dumps", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    step("refuse core files", rustix::process::setrlimit(Resource::Core, none))?;
    close_all_but(keep)?;
    match rustix::process::setsid() {
        // It leads a process group already, which is as good: the parent's terminal signals don't reach it.
        Err(Errno::PERM) => (),
        other => step("start a session", other.map(drop))?,
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    step("go to /", rustix::process::chdir("/"))
}

fn step(name: &str, result: rustix::io::Result<()>) -> Result<()> {
    result.map_err(|errno| Error::new(Error::from(errno).kind(), format!("cannot {name}: {errno}")))
}

fn close_all_but(keep: &[RawFd]) -> Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter_map(|&fd| u32::try_from(fd).ok()).filter(|&fd| fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX)
}

/// Both ends included.
#[expect(unsafe_code, reason = "no safe wrapper can know that nobody owns these descriptors")]
fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: the kernel takes three numbers. No value owns a descriptor that is closed here, as
    // `before` demands of its caller.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
