//! What a component offers and asks for, and why a file is refused before it is ever run.

use super::host::{NOT_OFFERED, OFFERED, Offered};
use super::value::{TYPES_MAX, wit_of};
use crate::error::{Error, Result};
use crate::invalid::printable;
use crate::plugin::{Export, Import, Interface};
use std::cell::Cell;
use wasmtime::Engine;
use wasmtime::component::types::{ComponentFunc, ComponentItem};
use wasmtime::component::{Component, ComponentExportIndex, Type};

/// Largest component, in bytes.
pub const COMPONENT_BYTES_MAX: usize = 32 << 20;
/// Functions that one plugin may export.
const EXPORTS_MAX: usize = 1000;

/// Imports that a refusal names.
const MISSING_SHOWN_MAX: usize = 8;

/// A function of a component, ready to be looked up.
pub struct Function {
    pub name: String,
    pub signature: String,
    pub index: ComponentExportIndex,
    pub params: Vec<(String, Type)>,
    /// `wasi:cli/run`: arguments are its argv.
    pub command: bool,
}

fn refused(reason: impl Into<String>) -> Error {
    Error::PluginRefused { reason: reason.into() }
}

/// Refuses what is no component, saying what it is and what to do instead.
pub fn check_bytes(bytes: &[u8]) -> Result<()> {
    if bytes.len() > COMPONENT_BYTES_MAX {
        return Err(refused(format!(
            "it has {} bytes, the most is {COMPONENT_BYTES_MAX} (build it optimised and stripped)",
            bytes.len()
        )));
    }
    if Engine::detect_precompiled(bytes).is_some() || bytes.starts_with(b"\x7fELF") {
        return Err(refused(
            "it is precompiled native code, which cannot be checked (give the .wasm component it was made from)",
        ));
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x1f\x8b") || bytes.get(257..262) == Some(b"ustar") {
        return Err(refused("it is an archive (unpack it and give the .wasm component)"));
    }
    let Some(head) = bytes.first_chunk::<8>() else {
        return Err(refused(format!(
            "it has {} bytes and is no component (build one for the target wasm32-wasip2)",
            bytes.len()
        )));
    };
    if !head.starts_with(b"\0asm") {
        let text = std::str::from_utf8(bytes).is_ok_and(|text| text.trim_start().starts_with(['(', ';']));
        return Err(refused(if text {
            "it is WAT text (turn it into a binary with `wasm-tools parse`)"
        } else {
            "it is no WebAssembly (build a component for the target wasm32-wasip2)"
        }));
    }
    match head[4..] {
        [0x0d, 0, 1, 0] => Ok(()),
        [1, 0, 0, 0] => Err(refused(
            "it is a core module, not a component (build for the target wasm32-wasip2, or run `wasm-tools component new`)",
        )),
        _ => Err(refused("it is WebAssembly of an unknown version (build a component for the target wasm32-wasip2)")),
    }
}

/// The imports in words; an error names every one that is not given to plugins.
fn imports(engine: &Engine, component: &Component) -> Result<Vec<Import>> {
    let mut given = Vec::new();
    let mut missing = Vec::new();
    for (name, _) in component.component_type().imports(engine) {
        let bare = name.split('@').next().unwrap_or(name);
        match OFFERED.iter().find(|Offered(offered, ..)| *offered == bare) {
            Some(Offered(_, words, needs)) => {
                given.push(Import { name: name.to_owned(), asks_for: (*words).to_owned(), needs: *needs });
            }
            None => {
                let words = NOT_OFFERED.iter().find(|(prefix, _)| bare.starts_with(prefix));
                let words = words.map_or("an interface that nobody here provides", |(_, words)| words);
                missing.push(format!("{words} (`{}`)", printable(name, 128)));
            }
        }
    }
    if missing.is_empty() {
        return Ok(given);
    }
    let more = missing.len().saturating_sub(MISSING_SHOWN_MAX);
    missing.truncate(MISSING_SHOWN_MAX);
    if more > 0 {
        missing.push(format!("{more} more"));
    }
    Err(refused(format!(
        "it asks for {}; plugins are given clocks, random numbers, captured output and their run's context, and can be granted outgoing HTTP, directories, environment variables, a state and secrets, nothing else",
        missing.join(", ")
    )))
}

/// Every function that a job can call.
pub fn functions(engine: &Engine, component: &Component) -> Result<Vec<Function>> {
    let mut functions = Vec::new();
    for (name, export) in component.component_type().exports(engine) {
        match &export.ty {
            ComponentItem::ComponentFunc(func) => {
                let index = component.get_export_index(None, name);
                functions.extend(index.map(|index| function(name.to_owned(), index, func, false)).transpose()?);
            }
            ComponentItem::ComponentInstance(instance) => {
                let Some(interface) = component.get_export_index(None, name) else { continue };
                let command = name.split('@').next() == Some("wasi:cli/run");
                for (inner, export) in instance.exports(engine) {
                    let ComponentItem::ComponentFunc(func) = &export.ty else { continue };
                    let full = if command { inner.to_owned() } else { format!("{name}#{inner}") };
                    let index = component.get_export_index(Some(&interface), inner);
                    functions.extend(index.map(|index| function(full, index, func, command)).transpose()?);
                }
            }
            _ => {}
        }
        if functions.len() > EXPORTS_MAX {
            return Err(refused(format!("it exports more than {EXPORTS_MAX} functions")));
        }
    }
    if functions.is_empty() {
        return Err(refused("it exports no function (export one from its WIT world, or build a command)"));
    }
    Ok(functions)
}

fn function(name: String, index: ComponentExportIndex, func: &ComponentFunc, command: bool) -> Result<Function> {
    const SUPPORTED: &str =
        "supported are numbers, bool, char, string, list, record, tuple, variant, enum, flags, option and result";
    let left = Cell::new(TYPES_MAX);
    let describe = |ty: &Type| {
        wit_of(ty, 0, &left).map_err(|what| {
            refused(format!("export `{}` has {what} in its signature ({SUPPORTED})", printable(&name, 128)))
        })
    };
    if func.async_() {
        return Err(refused(format!("export `{}` is async (export a plain function)", printable(&name, 128))));
    }
    let mut params = Vec::new();
    let mut shown = Vec::new();
    for (param, ty) in func.params() {
        shown.push(format!("{param}: {}", describe(&ty)?));
        params.push((param.to_owned(), ty));
    }
    let mut signature = format!("func({})", shown.join(", "));
    for ty in func.results() {
        signature.push_str(&format!(" -> {}", describe(&ty)?));
    }
    if command {
        signature = "command(argv...)".to_owned();
    }
    Ok(Function { name, signature, index, params, command })
}

/// The whole interface, as it is registered.
pub fn interface(engine: &Engine, component: &Component) -> Result<Interface> {
    let imports = imports(engine, component)?;
    let exports = functions(engine, component)?.into_iter().map(|f| Export { name: f.name, signature: f.signature });
    Ok(Interface { exports: exports.collect(), imports })
}

/// The function that an export of a func means: its full name, or the part after `#` if only one
/// interface has it.
pub fn find<'a>(functions: &'a [Function], export: &str) -> Option<&'a Function> {
    functions.iter().find(|function| function.name == export).or_else(|| {
        let short = |function: &&Function| function.name.rsplit_once('#').is_some_and(|(_, name)| name == export);
        let mut found = functions.iter().filter(short);
        found.next().filter(|_| found.next().is_none())
    })
}
