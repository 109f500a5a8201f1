//! The system call filter. Three programs, of whose answers the kernel takes the strictest: one ends
//! the process, one answers ENOSYS, one allows what is listed and answers EPERM to all else.

use super::{
    Rules, Status, reason,
    syscalls::{ALWAYS, FILES, NEVER, SOCKETS},
};
use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

/// For each system call the conditions of which one must hold; none: always.
type Calls = BTreeMap<i64, Vec<SeccompRule>>;
type Built<T> = Result<T, BackendError>;

/// Filters this thread, the threads that it starts, and those that run already.
pub(super) fn filter(rules: &Rules) -> Status {
    let programs = match programs(rules) {
        Ok(programs) => programs,
        Err(error) => return Status::Off(reason(&error)),
    };
    for program in &programs {
        if let Err(error) = seccompiler::apply_filter_all_threads(program) {
            return Status::Off(reason(&error));
        }
    }
    // Harmless, always possible, and in no list.
    match rustix::process::getpriority_process(None) {
        Err(rustix::io::Errno::PERM) => Status::Enforced,
        other => Status::Off(format!("the kernel took the filter, yet a refused system call answers {other:?}")),
    }
}

/// In the order in which they are to be loaded: the last one refuses loading another.
fn programs(rules: &Rules) -> Built<[BpfProgram; 3]> {
    let target = TargetArch::try_from(std::env::consts::ARCH)?;
    let program = |calls, otherwise, then| SeccompFilter::new(calls, otherwise, then, target)?.try_into();
    let errno = |number: i32| SeccompAction::Errno(number.unsigned_abs());
    Ok([
        program(every(NEVER), SeccompAction::Allow, SeccompAction::KillProcess)?,
        program(every(&[libc::SYS_clone3]), SeccompAction::Allow, errno(libc::ENOSYS))?,
        program(allowed(rules)?, errno(libc::EPERM), SeccompAction::Allow)?,
    ])
}

fn every(calls: &[c_long]) -> Calls {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

fn allowed(rules: &Rules) -> Built<Calls> {
    let mut calls = every(ALWAYS);
    memory(&mut calls)?;
    descriptors(&mut calls)?;
    itself(&mut calls)?;
    if rules.threads {
        thread(&mut calls)?;
    }
    if !rules.dirs.is_empty() {
        calls.extend(every(FILES));
        // By descriptor, without a path: landlock has no right for times, so a path could lead anywhere.
        calls.insert(libc::SYS_utimensat, vec![all([pointer(1, 0)?])?]);
    }
    if rules.sockets {
        calls.extend(every(SOCKETS));
        sockets(&mut calls)?;
    }
    Ok(calls)
}

/// Private memory that isn't executable. Shared memory and stacks that grow by themselves are not
/// counted by `RLIMIT_DATA`.
fn memory(calls: &mut Calls) -> Built<()> {
    const MAP_TYPE: u64 = 0x0f;
    let counted = bits(3, MAP_TYPE | number(libc::MAP_GROWSDOWN), number(libc::MAP_PRIVATE))?;
    calls.insert(libc::SYS_mmap, vec![all([without(2, libc::PROT_EXEC)?, counted])?]);
    calls.insert(libc::SYS_mprotect, vec![all([without(2, libc::PROT_EXEC)?])?]);
    // Of the process itself: the engine gives back many ranges at once.
    const PIDFD_SELF: i32 = -10_000;
    calls.insert(libc::SYS_process_madvise, vec![all([is(0, PIDFD_SELF)?])?]);
    Ok(())
}

/// Of the many commands of `fcntl` and `ioctl` those that change or tell something about a descriptor:
/// none that sends signals, and none for devices.
fn descriptors(calls: &mut Calls) -> Built<()> {
    const FCNTL: [i32; 8] = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_ADD_SEALS,
        libc::F_GET_SEALS,
    ];
    /// FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; and PAGEMAP_SCAN, which tells the engine's allocator what pages
    /// were touched. The type of libc's own constants differs between C libraries.
    const IOCTL: [u64; 5] = [0x541b, 0x5421, 0x5450, 0x5451, 0xc060_6610];
    calls.insert(libc::SYS_fcntl, FCNTL.iter().map(|&command| all([is(1, command)?])).collect::<Built<_>>()?);
    calls.insert(libc::SYS_ioctl, IOCTL.iter().map(|&command| all([word(1, command)?])).collect::<Built<_>>()?);
    // Into the other end: an open socket may be written to, not aimed. Nor may it be connected on the way.
    calls.insert(libc::SYS_sendto, vec![all([without(3, libc::MSG_FASTOPEN)?, pointer(4, 0)?])?]);
    // The runtime makes a pair for its signals. Datagram sockets could send to others by name.
    const TYPE: u64 = 0x0f;
    let stream = bits(1, TYPE, number(libc::SOCK_STREAM))?;
    calls.insert(libc::SYS_socketpair, vec![all([is(0, libc::AF_UNIX)?, stream])?]);
    Ok(())
}

/// Signals to itself, such as abort's; reading of its own limits; names of threads and of memory.
fn itself(calls: &mut Calls) -> Built<()> {
    const PR_SET_VMA: i32 = 0x5356_4d41;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    calls.insert(libc::SYS_kill, vec![all([is(0, own)?])?]);
    calls.insert(libc::SYS_tgkill, vec![all([is(0, own)?])?]);
    calls.insert(libc::SYS_prlimit64, vec![all([is(0, 0)?, pointer(2, 0)?])?]);
    let names = [libc::PR_SET_NAME, libc::PR_GET_NAME, PR_SET_VMA];
    calls.insert(libc::SYS_prctl, names.iter().map(|&option| all([is(0, option)?])).collect::<Built<_>>()?);
    Ok(())
}

/// A thread shares memory, signal handlers and process; and has no namespace of its own.
fn thread(calls: &mut Calls) -> Built<()> {
    let shared = number(libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM);
    let apart = number(
        libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUSER
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWNET
            | libc::CLONE_VFORK
            | libc::CLONE_PTRACE
            | libc::CLONE_PIDFD,
    );
    calls.insert(libc::SYS_clone, vec![all([bits(0, shared | apart, shared)?])?]);
    Ok(())
}

/// Messages without connecting on the way, and options that a client sets: no filters, no protocols.
fn sockets(calls: &mut Calls) -> Built<()> {
    const SET: [(i32, i32); 9] = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
        (libc::SOL_SOCKET, libc::SO_LINGER),
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY),
        (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    ];
    calls.insert(libc::SYS_sendmsg, vec![all([without(2, libc::MSG_FASTOPEN)?])?]);
    let set = SET.iter().map(|&(level, option)| all([is(1, level)?, is(2, option)?]));
    calls.insert(libc::SYS_setsockopt, set.collect::<Built<_>>()?);
    let get = [libc::SOL_SOCKET, libc::IPPROTO_TCP].iter().map(|&level| all([is(1, level)?]));
    calls.insert(libc::SYS_getsockopt, get.collect::<Built<_>>()?);
    Ok(())
}

fn all<const N: usize>(conditions: [SeccompCondition; N]) -> Built<SeccompRule> {
    SeccompRule::new(conditions.into())
}

/// The 32-bit argument is `value`.
fn is(argument: u8, value: i32) -> Built<SeccompCondition> {
    word(argument, number(value))
}

fn word(argument: u8, value: u64) -> Built<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn pointer(argument: u8, value: u64) -> Built<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, value)
}

/// Of the bits in `mask` just those of `value` are set.
fn bits(argument: u8, mask: u64, value: u64) -> Built<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value)
}

fn without(argument: u8, mask: i32) -> Built<SeccompCondition> {
    bits(argument, number(mask), 0)
}

/// The bits of a C int, as the kernel sees them in the low half of an argument.
fn number(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}
