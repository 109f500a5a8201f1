//! What the sled store promises when its process is killed, the power fails, or its files are
//! damaged. The binary plays both parts: the test, and (when asked by environment) the process that
//! dies.
//!
//! `ROUNDS=20 cargo test --test crash` runs fewer rounds of each.

mod damage;
mod kill;
mod power;
mod replay;
mod verify;
mod worker;

/// Does so many rounds and says what came of them; panics where a promise is broken.
type Part = fn(usize) -> String;

fn main() {
    if let Ok(home) = std::env::var(worker::HOME) {
        return worker::run(home.as_ref());
    }
    let parts: [(&str, Part, usize); 3] =
        [("kill", kill::rounds, 200), ("power", power::rounds, 100), ("damage", damage::rounds, 100)];
    // cargo passes filters and flags of its own; a name picks one part.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if wanted.is_empty() {
        return beside_each_other(parts.map(|(name, ..)| name));
    }
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    for (name, part, default) in parts {
        if wanted.iter().any(|wanted| name.contains(wanted.as_str())) {
            let begun = std::time::Instant::now();
            println!("{name}: {} ({:.0?})", part(rounds.unwrap_or(default)), begun.elapsed());
        }
    }
}

/// Each part waits for processes and for the disk most of the time. It is a process of its own: a child that
/// one starts has the locks of its stores too, until it is another program.
fn beside_each_other(names: [&str; 3]) {
    let program = std::env::current_exe().expect("its own path");
    let parts = names.map(|name| (name, std::process::Command::new(&program).arg(name).spawn().expect("it starts")));
    let ended = parts.map(|(name, mut part)| (name, part.wait().expect("it ends")));
    for (name, status) in ended {
        assert!(status.success(), "{name}: {status}");
    }
}

/// A small deterministic generator: a failing round can be repeated from its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}
