//! Rights of a process over itself: privileges, capabilities, and making code.

use super::Status;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::io::Error;

pub(super) fn no_new_privileges() -> Status {
    Status::of(rustix::thread::set_no_new_privs(true).and_then(|()| {
        Ok(match rustix::thread::no_new_privs()? {
            true => Status::Enforced,
            false => Status::Off("the kernel took it and answers no".to_owned()),
        })
    }))
}

/// Matters where the daemon runs as root, or in a container: a root without capabilities can't lift
/// its limits. With `directories`, those remain that let root into directories of other users.
pub(super) fn drop_capabilities(directories: bool) -> Status {
    let kept = match directories {
        true => CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER,
        false => CapabilitySet::empty(),
    };
    Status::of((|| {
        let kept = rustix::thread::capabilities(None)?.permitted & kept;
        let inheritable = CapabilitySet::empty();
        rustix::thread::set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })?;
        let left = rustix::thread::capabilities(None)?.permitted;
        Ok::<_, rustix::io::Errno>(if left.is_empty() {
            Status::Enforced
        } else {
            Status::Partial(format!("keeps {left:?}: root may use the granted directories whoever owns them"))
        })
    })())
}

const PR_SET_MDWE: libc::c_int = 65;
const PR_GET_MDWE: libc::c_int = 66;
const REFUSE_EXEC_GAIN: libc::c_ulong = 1;

/// Memory-deny-write-execute, since Linux 6.3. Code that is there already stays.
#[expect(unsafe_code, reason = "rustix has no wrapper")]
pub(super) fn refuse_exec_gain() -> Status {
    const NONE: libc::c_ulong = 0;
    // SAFETY: numbers only; all unused arguments are 0, as the kernel demands.
    let set = unsafe { libc::prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, NONE, NONE, NONE) };
    if set != 0 {
        let error = Error::last_os_error();
        return Status::Off(format!("{error} (needs Linux 6.3); the system call filter refuses the same"));
    }
    // SAFETY: as above.
    match unsafe { libc::prctl(PR_GET_MDWE, NONE, NONE, NONE, NONE) } {
        1 => Status::Enforced,
        other => Status::Off(format!("the kernel took it and answers {other}")),
    }
}
