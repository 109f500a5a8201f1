//! Does the lock hold? Tries what a locked process must not do.
//!
//! An attempt may cost the process its life, so each has one of its own: the program starts itself
//! with two words that it hands to [`attempt`]. Each is done twice, without the lock and with it:
//! what fails without the lock as well, for want of a kernel feature or of rights, proves nothing.

use super::{Rules, Status, attempts, lock, reason};
use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, ExitStatus, Stdio},
};

/// What became of one kind of attempt.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Finding {
    /// In words for people: "read a file".
    pub attempt: &'static str,
    /// `Enforced`: refused, and possible without the lock. `Partial`: refused either way. `Off`: it
    /// could be done, or there is no telling.
    pub status: Status,
    /// How the locked process was refused: "killed", or the kernel's error.
    pub refusal: Option<String>,
}

impl Finding {
    /// It could be done, or there is no telling.
    pub fn is_open(&self) -> bool {
        matches!(self.status, Status::Off(_))
    }
}

/// What the attempt's process says with its exit code. 0 is "done" because that is what a program
/// says that was started in its place.
const DONE: u8 = 0;
const REFUSED: u8 = 41;
const NOT_READY: u8 = 42;

const LOCKED: &str = "locked";
const FREE: &str = "free";

/// Tries everything. `child` makes a command that ends in [`attempt`] with the two words that are
/// appended to its arguments, and with the same rules. Those grant neither `/etc` nor the directory
/// for temporary files, where some attempts are made. About 60 short-lived processes.
pub fn try_forbidden(rules: &Rules, mut child: impl FnMut() -> Command) -> Vec<Finding> {
    let mut ask = |how: &str, name: &str| {
        let output = child().args([how, name]).stdin(Stdio::null()).stderr(Stdio::null()).output();
        output.map_or_else(|error| End::Unclear(error.to_string()), |output| End::of(output.status, &output.stdout))
    };
    attempts::all(rules)
        .map(|attempt| judge(attempt.name, ask(LOCKED, attempt.name), || ask(FREE, attempt.name)))
        .collect()
}

/// One attempt, in a process for it alone; `how` and `name` are the words from [`try_forbidden`].
pub fn attempt(rules: &Rules, how: &str, name: &str) -> ExitCode {
    let Some(attempt) = attempts::all(rules).find(|attempt| attempt.name == name) else {
        println!("there is no attempt to {name}");
        return ExitCode::from(NOT_READY);
    };
    let action = match (attempt.prepare)(rules) {
        Ok(action) => action,
        Err(error) => {
            println!("cannot prepare: {error}");
            return ExitCode::from(NOT_READY);
        }
    };
    match how {
        LOCKED => drop(lock(rules)),
        FREE => (),
        other => {
            println!("neither {LOCKED} nor {FREE}: {other}");
            return ExitCode::from(NOT_READY);
        }
    }
    match action() {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => {
            println!("{}", reason(&error));
            ExitCode::from(REFUSED)
        }
    }
}

/// How an attempt's process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Done,
    Refused(String),
    Unclear(String),
}

impl End {
    fn of(status: ExitStatus, stdout: &[u8]) -> End {
        let said = || String::from_utf8_lossy(stdout).trim().to_owned();
        match (status.code().and_then(|code| u8::try_from(code).ok()), status.signal()) {
            (Some(DONE), _) => End::Done,
            (Some(REFUSED), _) => End::Refused(said()),
            (_, Some(libc::SIGSYS)) => End::Refused("killed".to_owned()),
            _ => End::Unclear(format!("{status} {}", said()).trim_end().to_owned()),
        }
    }
}

fn judge(attempt: &'static str, locked: End, free: impl FnOnce() -> End) -> Finding {
    let off = |text: String| Finding { attempt, status: Status::Off(text), refusal: None };
    let refusal = match locked {
        End::Done => return off("a locked process could do it".to_owned()),
        End::Unclear(text) => return off(format!("no telling: {text}")),
        End::Refused(refusal) => refusal,
    };
    let status = match free() {
        End::Done => Status::Enforced,
        End::Refused(text) | End::Unclear(text) => {
            Status::Partial(format!("refused, but a process that is not locked could not do it here either: {text}"))
        }
    };
    Finding { attempt, status, refusal: Some(refusal) }
}

/// For attempts: what the kernel answers to a call that is done for its refusal.
pub(super) fn answer<T>(result: rustix::io::Result<T>) -> io::Result<()> {
    result.map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> End {
        End::Refused("no".to_owned())
    }

    #[test]
    fn only_a_refusal_that_the_lock_caused_counts_as_enforced() {
        let status = |locked, free: End| judge("try", locked, || free).status;
        assert_eq!(status(refused(), End::Done), Status::Enforced);
        assert!(matches!(status(refused(), refused()), Status::Partial(_)));
        assert!(matches!(status(End::Done, End::Done), Status::Off(_)));
        assert!(matches!(status(End::Unclear(String::new()), End::Done), Status::Off(_)));
    }

    #[test]
    fn a_crash_is_no_refusal() {
        let end = |raw| End::of(ExitStatus::from_raw(raw), b"text\n");
        assert_eq!(end(libc::SIGSYS), End::Refused("killed".to_owned()));
        assert_eq!(end(i32::from(REFUSED) << 8), End::Refused("text".to_owned()));
        assert!(matches!(end(libc::SIGSEGV), End::Unclear(_)));
        assert!(matches!(end(i32::from(NOT_READY) << 8), End::Unclear(_)));
        assert_eq!(end(0), End::Done);
    }
}
