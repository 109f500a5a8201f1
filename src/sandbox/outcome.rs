//! An engine's error as the outcome of a run. Classes come from types; the two kinds for which the
//! engine has no public type are told by their text, which tests pin.

use super::host::State;
use crate::grant::{Grants, Pick, Use};
use crate::invalid::printable;
use crate::job::Limits;
use crate::run::{ERROR_BYTES_MAX, Outcome};
use serde_json::Value;
use wasmtime::component::ResourceTableError;
use wasmtime::{Error, PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// The outcome of a call that ended with `error`.
pub fn outcome_of(error: &Error, store: &Store<State>, limits: &Limits) -> Outcome {
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return match code {
            0 => Outcome::Succeeded { value: Value::Null },
            code => Outcome::Failed { error: format!("it exited with code {code}") },
        };
    }
    let trap = error.downcast_ref::<Trap>();
    if trap == Some(&Trap::OutOfFuel) {
        let error =
            format!("it used all of its {} fuel (`--fuel` raises it, to {} at most)", limits.fuel, Limits::FUEL_MAX);
        return Outcome::OutOfFuel { error };
    }
    // A guest notices that it gets no memory and gives up: `unreachable`, or it never got started.
    if store.data().limiter.refused && matches!(trap, None | Some(Trap::UnreachableCodeReached)) {
        let error = format!(
            "it has {} bytes and wanted more memory or tables than its {} bytes (`--memory` raises it, to {} at most)",
            store.data().limiter.peak(),
            limits.memory,
            Limits::MEMORY_MAX
        );
        return Outcome::OutOfMemory { error };
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some()
        || error.downcast_ref::<wasmtime::OutOfMemory>().is_some()
    {
        return Outcome::Internal { error: text(error) };
    }
    let frames = error.downcast_ref::<WasmBacktrace>();
    let backtrace = frames.map(backtrace).unwrap_or_default();
    let root = error.root_cause().to_string();
    let kind = match trap {
        Some(trap) => snake_case(&format!("{trap:?}")),
        None if error.downcast_ref::<ResourceTableError>().is_some()
            || root.contains("store handle limit exceeded") =>
        {
            "resource_limit".to_owned()
        }
        None if root.contains("fuel allocated for hostcalls has been exhausted") => "transfer_limit".to_owned(),
        None if frames.is_some_and(|frames| !frames.frames().is_empty()) => "host_call".to_owned(),
        // The guest broke the canonical ABI: bad UTF-8, a pointer out of bounds, no such case.
        None => "abi".to_owned(),
    };
    let error = text(error) + explanation(&kind);
    Outcome::Trapped { trap: kind, error, backtrace }
}

/// A guest that was denied something and then failed was denied.
pub fn denied(outcome: Outcome, uses: &[Use], grants: &Grants) -> Outcome {
    let what = uses.iter().find(|used| used.denied).map(|used| &used.what);
    let error = match (&outcome, what) {
        (Outcome::Failed { error } | Outcome::Trapped { error, .. }, Some(_)) => error.clone(),
        _ => return outcome,
    };
    let Some(what) = what else { return outcome };
    let mut error = if grants.picks().contains(what) {
        let why = match what {
            Pick::Http { .. } => "its address is not of the public internet; a grant can name it: HOST:PORT@ADDRESS",
            Pick::Secret(_) => "it is not stored, or not for this host, or would be sent without TLS",
            _ => "it cannot be given",
        };
        format!("{what} is granted and was refused all the same: {why}; then: {error}")
    } else {
        format!("{what} is not granted (`{}` would grant it); then: {error}", what.flag())
    };
    crate::run::cut(&mut error, ERROR_BYTES_MAX);
    Outcome::Denied { capability: what.to_string(), error }
}

/// What a limit was that has no flag, and what usually lies behind it.
fn explanation(kind: &str) -> &'static str {
    match kind {
        "stack_overflow" => "; its stack has 512 KiB, which endless recursion uses up",
        "transfer_limit" => "; one call carries at most 16 MiB between guest and host",
        "resource_limit" => "; a run holds at most 4096 handles and 512 host resources at once: some are not dropped",
        "abi" => "; it broke the canonical ABI: what it returned is no value of its type",
        _ => "",
    }
}

fn text(error: &Error) -> String {
    let mut text = printable(&error.root_cause().to_string(), ERROR_BYTES_MAX / 4);
    crate::run::cut(&mut text, ERROR_BYTES_MAX);
    text
}

/// Function names are the guest's text. Recursion is shown as one line.
fn backtrace(frames: &WasmBacktrace) -> Vec<String> {
    let mut lines: Vec<(String, usize)> = Vec::new();
    for frame in frames.frames() {
        let mut name = match frame.func_name() {
            Some(name) => printable(&format!("{:#}", rustc_demangle::demangle(name)), 200),
            None => format!("function {}", frame.func_index()),
        };
        // The innermost of the functions that were inlined there.
        let place = frame.symbols().first().and_then(|symbol| Some((symbol.file()?, symbol.line()?)));
        if let Some((file, line)) = place {
            name.push_str(&printable(&format!(" ({}:{line})", end_of_path(file)), 200));
        }
        match lines.last_mut() {
            Some((last, times)) if *last == name => *times += 1,
            _ => lines.push((name, 1)),
        }
    }
    let shown = |(name, times)| if times == 1 { name } else { format!("{name} ({times} times)") };
    lines.into_iter().map(shown).collect()
}

/// The end of a long path, which says more than its beginning.
fn end_of_path(path: &str) -> &str {
    const SHOWN: usize = 60;
    let from = path.len().saturating_sub(SHOWN);
    path[path.ceil_char_boundary(from)..].split_once('/').filter(|_| from > 0).map_or(path, |(_, end)| end)
}

/// A trap is more often than not a guest's panic, which says why on stderr.
pub fn with_last_words(outcome: Outcome, stderr: &str) -> Outcome {
    const SHOWN: usize = 300;
    let Outcome::Trapped { trap, mut error, backtrace } = outcome else { return outcome };
    if trap == "unreachable_code_reached" {
        let said = |line: &&str| !line.trim().is_empty() && !line.starts_with("note:") && !line.starts_with("[cut:");
        let mut last: Vec<&str> = stderr.lines().filter(said).rev().take(2).collect();
        last.reverse();
        if !last.is_empty() {
            error.push_str(&format!("; its last words on stderr: {}", printable(&last.join(" "), SHOWN)));
        }
    }
    Outcome::Trapped { trap, error, backtrace }
}

fn snake_case(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for (at, c) in camel.chars().enumerate() {
        if c.is_ascii_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
