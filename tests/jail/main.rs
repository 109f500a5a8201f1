//! Each case runs in a child that locks itself; so this is a program of its own, not a test harness:
//! a child must have one thread.
#![expect(unsafe_code, reason = "the tests try what has no safe wrapper")]

mod child;
mod parent;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("child") => child::main(&arguments[2..]),
        Some("probe") => child::probe(&arguments[2..]),
        _ => parent::main(&arguments[1..]),
    }
}
