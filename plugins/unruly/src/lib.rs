//! Loops, recurses, allocates, panics, floods stdout, tells of itself slowly, sleeps for ever.

wit_bindgen::generate!({ world: "unruly" });

use std::hint::black_box;

struct Unruly;

impl Guest for Unruly {
    fn spin() {
        let mut n = 0u64;
        loop {
            n = black_box(n.wrapping_add(1));
        }
    }

    fn recurse(depth: u64) -> u64 {
        if black_box(depth) == u64::MAX { 0 } else { 1 + Self::recurse(black_box(depth + 1)) }
    }

    fn allocate() -> u64 {
        let mut all: Vec<Vec<u8>> = Vec::new();
        loop {
            all.push(vec![1; 1 << 20]);
            black_box(&all);
        }
    }

    fn panic(message: String) {
        panic!("{message}");
    }

    fn flood(lines: u32) -> u32 {
        for line in 0..lines {
            println!("line {line} of many, none of which anybody wants to read");
        }
        lines
    }

    fn narrate(lines: u32, pause_ms: u32) -> u32 {
        for line in 0..lines {
            println!("line {line}");
            std::thread::sleep(std::time::Duration::from_millis(pause_ms.into()));
        }
        lines
    }

    fn sleep() {
        std::thread::sleep(std::time::Duration::MAX);
    }

    fn idle() {}
}

export!(Unruly);
