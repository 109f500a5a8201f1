//! Attempts on the host, one function each: time, memory and handles, text, files. See `wit/world.wit`.

wit_bindgen::generate!({ path: ["../../wit", "wit"], world: "sample:hostile/hostile", generate_all });

mod files;

use sandclock::plugin::log::{Level, log};
use std::hint::black_box;
use std::io::{Read, Write};
use wasip2::cli::{stderr, stdin, stdout};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::io::poll::poll;
use wasip2::random::random;

struct Hostile;

impl Guest for Hostile {
    fn sleep_forever() {
        monotonic_clock::subscribe_duration(u64::MAX).block();
    }

    fn sleep_for(milliseconds: u64) {
        monotonic_clock::subscribe_duration(milliseconds.saturating_mul(1_000_000)).block();
    }

    fn poll_many(pollables: u32) {
        let all: Vec<_> = (0..pollables).map(|_| monotonic_clock::subscribe_duration(u64::MAX)).collect();
        poll(&all.iter().collect::<Vec<_>>());
    }

    fn poll_same(times: u32) {
        let one = monotonic_clock::subscribe_duration(0);
        let list = vec![&one; times as usize];
        loop {
            poll(&list);
        }
    }

    fn poll_busy() {
        loop {
            poll(&[&monotonic_clock::subscribe_duration(0)]);
        }
    }

    fn poll_ready() {
        let never = monotonic_clock::subscribe_duration(u64::MAX);
        while !never.ready() {}
    }

    fn read_stdin() -> u64 {
        std::io::stdin().lock().bytes().map_while(Result::ok).count() as u64
    }

    fn burn_random(bytes: u64) {
        loop {
            black_box(random::get_random_bytes(bytes));
        }
    }

    fn backtrack(n: u32) -> bool {
        // Optional ones left, mandatory ones left, text left.
        fn matches(optional: u32, mandatory: u32, text: u32) -> bool {
            match (optional, mandatory, text) {
                (0, 0, 0) => true,
                (0, 0, _) | (_, _, 0) if optional == 0 || mandatory > text => false,
                (0, ..) => matches(0, mandatory - 1, text - 1),
                _ => (text > 0 && matches(optional - 1, mandatory, text - 1)) || matches(optional - 1, mandatory, text),
            }
        }
        matches(black_box(n), n, n)
    }

    fn clocks() -> (u64, u64) {
        (wall_clock::now().seconds, monotonic_clock::now())
    }

    fn allocate() {
        let mut all: Vec<Vec<u8>> = Vec::new();
        loop {
            all.push(vec![1; 1 << 20]);
            black_box(&all);
        }
    }

    fn leak(what: Handle, times: u32) -> u32 {
        for _ in 0..times {
            match what {
                Handle::Pollable => std::mem::forget(monotonic_clock::subscribe_duration(0)),
                Handle::Stdin => std::mem::forget(stdin::get_stdin()),
                Handle::Stdout => std::mem::forget(stdout::get_stdout()),
                Handle::Stderr => std::mem::forget(stderr::get_stderr()),
                Handle::Directory => files::leak_preopens(),
                Handle::Listing => files::leak_listing(),
                Handle::File => files::leak_file(),
            }
        }
        times
    }

    fn get_stdout(times: u32) {
        for _ in 0..times {
            black_box(stdout::get_stdout());
        }
    }

    fn flood(lines: u64) {
        let out = stdout::get_stdout();
        let line = [b"what nobody wants to read. ".repeat(3).split_at(63).0, b"\n"].concat();
        for _ in 0..lines {
            if out.blocking_write_and_flush(&line).is_err() {
                return;
            }
        }
    }

    fn write_empty(times: u64) {
        let out = stdout::get_stdout();
        for _ in 0..times {
            // Without `check-write` before it: 0 bytes are always allowed.
            let _ = out.write(&[]);
        }
    }

    fn write_zeroes(bytes: u64) -> Result<(), String> {
        stdout::get_stdout().write_zeroes(bytes).map_err(|error| format!("{error:?}"))
    }

    fn log_flood(lines: u64, bytes: u32) {
        let line = "x".repeat(bytes as usize);
        for _ in 0..lines {
            log(Level::Info, &line);
        }
    }

    fn bytes(count: u32) -> Vec<u8> {
        vec![255; count as usize]
    }

    fn controls(count: u32) -> String {
        "\u{1}".repeat(count as usize)
    }

    fn debug_strings(directory: String, times: u32) -> Result<u64, String> {
        files::debug_strings(&directory, times)
    }

    fn add(a: u64, b: u64) -> Result<u64, String> {
        a.checked_add(b).ok_or_else(|| format!("{a} + {b} does not fit into 64 bits"))
    }

    fn echo(text: String) -> String {
        text
    }

    fn echo_u64(number: u64) -> u64 {
        number
    }

    fn echo_f64(number: f64) -> f64 {
        number
    }

    fn echo_nested(value: Option<Option<u32>>) -> Option<Option<u32>> {
        value
    }

    fn no_numbers() -> Vec<f64> {
        vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0]
    }

    fn say(text: String) {
        print!("{text}");
        let _ = std::io::stdout().flush();
    }

    fn say_bytes(bytes: Vec<u8>) {
        // Not through `Stdout`, which buffers lines.
        for chunk in bytes.chunks(4096) {
            let _ = stdout::get_stdout().blocking_write_and_flush(chunk);
        }
    }

    fn complain(text: String) {
        eprint!("{text}");
    }

    fn log_text(text: String) {
        log(Level::Warn, &text);
    }

    fn fail(text: String) -> Result<(), String> {
        Err(text)
    }

    fn panic(text: String) {
        panic!("{text}");
    }

    fn environment() -> Vec<(String, String)> {
        wasip2::cli::environment::get_environment()
    }

    fn arguments() -> Vec<String> {
        wasip2::cli::environment::get_arguments()
    }

    fn exit_with(code: u8) {
        match code {
            0 => wasip2::cli::exit::exit(Ok(())),
            1 => wasip2::cli::exit::exit(Err(())),
            code => wasip2::cli::exit::exit_with_code(code),
        }
    }

    fn abort_now() {
        std::process::abort();
    }

    fn preopens() -> Vec<String> {
        files::preopens()
    }

    fn read_file(path: String) -> Result<String, String> {
        files::read(&path)
    }

    fn stat_file(path: String) -> Result<String, String> {
        files::stat(&path)
    }

    fn read_link(path: String) -> Result<String, String> {
        files::read_link(&path)
    }

    fn names(path: String) -> Result<Vec<String>, String> {
        files::names(&path)
    }

    fn write_file(path: String, bytes: u64) -> Result<u64, String> {
        files::write(&path, bytes)
    }

    fn make_directory(path: String) -> Result<(), String> {
        files::make_directory(&path)
    }

    fn remove_file(path: String) -> Result<(), String> {
        files::remove(&path)
    }

    fn rename_file(from: String, to: String) -> Result<(), String> {
        files::rename(&from, &to)
    }

    fn make_symlink(target: String, path: String) -> Result<(), String> {
        files::symlink(&target, &path)
    }

    fn hard_link(from: String, to: String) -> Result<(), String> {
        files::hard_link(&from, &to)
    }

    fn truncate_file(path: String) -> Result<(), String> {
        files::truncate(&path)
    }

    fn shrink(path: String) -> Result<(), String> {
        files::shrink(&path)
    }

    fn set_size(path: String, bytes: u64) -> Result<(), String> {
        files::set_size(&path, bytes)
    }

    fn create_files(directory: String, count: u32) -> Result<u32, String> {
        files::create_files(&directory, count)
    }

    fn open_files(path: String, times: u32) -> Result<u32, String> {
        files::open_files(&path, times)
    }

    fn read_directory(path: String, times: u32) -> Result<u32, String> {
        files::read_directory(&path, times)
    }

    fn weird_names(directory: String) -> Vec<String> {
        files::weird_names(&directory)
    }

    fn swap(a: String, b: String) {
        let between = format!("{a}.between");
        loop {
            let _ = files::rename(&a, &between);
            let _ = files::rename(&b, &a);
            let _ = files::rename(&between, &b);
        }
    }

    fn hammer(path: String, times: u32) -> Vec<String> {
        let answers = (0..times).map(|_| files::read(&path).unwrap_or_else(|error| format!("error: {error}")));
        answers.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    fn escape(directory: String, planted: Vec<String>) -> Vec<String> {
        files::escape(&directory, &planted)
    }
}

export!(Hostile);
