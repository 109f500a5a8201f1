//! `kill -9` at random moments under load: no acknowledged job or run is lost, no fire time runs
//! twice, no event was published without its write, and the store opens every time.

use crate::Random;
use crate::verify::Told;
use crate::worker;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Lives that one home sees before a fresh one is taken.
const LIVES: usize = 10;

pub fn rounds(rounds: usize) -> String {
    let mut events = 0;
    let mut seed = 0;
    let mut opening = 0;
    for _ in 0..rounds.div_ceil(LIVES) {
        let home = tempfile::tempdir().unwrap();
        let mut told = Told::default();
        let mut last = 0;
        for life in 0..LIVES.min(rounds - seed as usize) {
            seed += 1;
            let acks = home.path().join(format!("acks-{life}"));
            let mut child = Command::new(std::env::current_exe().unwrap())
                .env(worker::HOME, home.path().join("home"))
                .env(worker::ACKS, &acks)
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // A third of the kills hit the opening, the rest the load.
            let wait = if seed % 3 == 0 { Random::new(seed).below(30) } else { 20 + Random::new(seed).below(250) };
            std::thread::sleep(Duration::from_millis(wait));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            assert_eq!(status.code(), None, "round {seed}: the worker died by itself");
            let acks = std::fs::read_to_string(&acks).unwrap_or_default();
            opening += usize::from(acks.is_empty());
            told.hear(&acks);
            last = told.check(&home.path().join("home"));
        }
        events += last;
    }
    assert!(events > rounds as u64, "the load was real");
    format!("{rounds} kills ({opening} of them while opening), {events} events, nothing lost, nothing run twice")
}
