//! An engine's error as the outcome of a run. Classes come from types; the two kinds for which the
//! engine has no public type are told by their text, which tests pin.

use super::host::State;
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
            "it wanted more memory or tables than its {} bytes (`--memory` raises it, to {} at most)",
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
    Outcome::Trapped { trap: kind, error: text(error), backtrace }
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
        let name = match frame.func_name() {
            Some(name) => printable(&format!("{:#}", rustc_demangle::demangle(name)), 200),
            None => format!("function {}", frame.func_index()),
        };
        match lines.last_mut() {
            Some((last, times)) if *last == name => *times += 1,
            _ => lines.push((name, 1)),
        }
    }
    let shown = |(name, times)| if times == 1 { name } else { format!("{name} ({times} times)") };
    lines.into_iter().map(shown).collect()
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
