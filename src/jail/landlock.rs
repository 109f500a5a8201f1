//! Files, network and signals, by landlock: all that the kernel can refuse is refused, and only the
//! granted directories are given back.

use super::{GrantedDir, Status, reason};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

/// The newest interface that is asked for; an older kernel does what it can.
const NEWEST: ABI = ABI::V10;

/// Since which interface a kernel refuses what. The rest is there from the first.
const SINCE: [(i32, &str); 4] = [
    (3, "truncation of files"),
    (4, "TCP connections"),
    (5, "commands to devices"),
    (6, "abstract sockets and signals"),
];

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    WriteFile | Truncate | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir | Refer
});

/// Restricts the calling thread and the threads it starts later.
pub(super) fn restrict(dirs: &[GrantedDir]) -> Status {
    let mut lacks = Vec::new();
    match enforce(dirs, &mut lacks) {
        Ok(status) => judge(&status, dirs, lacks),
        Err(error) => Status::Off(reason(&error)),
    }
}

fn enforce(dirs: &[GrantedDir], lacks: &mut Vec<String>) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for dir in dirs {
        let access = if dir.writable { READ | WRITE } else { READ };
        // A directory that can't be given back is no reason to restrict nothing.
        let added = match PathFd::new(&dir.path) {
            Ok(fd) => (&mut ruleset).add_rule(PathBeneath::new(fd, access)).err().map(|error| reason(&error)),
            Err(error) => Some(reason(&error)),
        };
        lacks.extend(added.map(|why| format!("{} is granted and cannot be used: {why}", dir.path.display())));
    }
    ruleset.restrict_self()
}

fn judge(status: &RestrictionStatus, dirs: &[GrantedDir], mut lacks: Vec<String>) -> Status {
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
        LandlockStatus::NotEnabled => return Status::Off("landlock is not enabled in this kernel".to_owned()),
        LandlockStatus::NotImplemented => return Status::Off("this kernel has no landlock".to_owned()),
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return Status::Off("the kernel enforces none of it".to_owned());
    }
    // Believed only when seen: a directory that nobody grants must not open any more.
    let granted = dirs.iter().any(|dir| dir.path.parent().is_none());
    if !granted && std::fs::read_dir("/").is_ok() {
        return Status::Off("the kernel took the rules, yet / can be read".to_owned());
    }
    lacks.extend(
        SINCE.iter().filter(|(since, _)| abi < *since).map(|(since, what)| {
            format!("{what} are not refused: the kernel has landlock {abi}, and that needs {since}")
        }),
    );
    if lacks.is_empty() { Status::Enforced } else { Status::Partial(lacks.join("; ")) }
}
