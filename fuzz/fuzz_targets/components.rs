//! Any code that validates, with start functions, memories and tables: it compiles, it ends within its
//! limits, and a deterministic job of it ends the same each time.

#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sandclock::OutcomeKind;
use sandclock::sandbox::digest;
use sandclock_fuzz::guest::{self, SANDBOX};
use std::sync::LazyLock;
use std::time::Duration;
use wasm_encoder::{
    ComponentBuilder, ComponentExportKind, ComponentValType, ExportKind, ModuleArg, PrimitiveValType as Primitive,
};
use wasm_smith::{Config, Module};

/// What every module exports: functions without parameters, by what they return.
const EXPORTS: [(&str, &str, Option<Primitive>); 5] = [
    ("nothing", "", None),
    ("int", "(result i32)", Some(Primitive::S32)),
    ("long", "(result i64)", Some(Primitive::U64)),
    ("single", "(result f32)", Some(Primitive::F32)),
    ("double", "(result f64)", Some(Primitive::F64)),
];

static SHAPE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let functions = EXPORTS.map(|(name, result, _)| format!("(func (export \"{name}\") {result} unreachable)"));
    wat::parse_str(format!("(module {})", functions.concat())).unwrap()
});

/// What the engine leaves on. External references are off with the collector that they need, but no
/// switch here has them alone: with `references` a module may be refused.
fn config(references: bool) -> Config {
    Config {
        exports: Some(SHAPE.clone()),
        max_imports: 0,
        max_memories: 1,
        max_memory32_bytes: 1 << 30,
        max_tables: if references { 4 } else { 1 },
        max_table_elements: 20_000,
        bulk_memory_enabled: true,
        multi_value_enabled: true,
        reference_types_enabled: references,
        saturating_float_to_int_enabled: true,
        sign_extension_ops_enabled: true,
        simd_enabled: true,
        extended_const_enabled: true,
        // Small: compiling is what takes the time.
        max_funcs: 8,
        max_elements: 16,
        compact_imports_enabled: false,
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        relaxed_simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        max_tags: 0,
        ..Config::default()
    }
}

/// `instances` of the module, of which the last is called.
fn component(module: &[u8], instances: u32) -> Vec<u8> {
    let mut builder = ComponentBuilder::default();
    let module = builder.core_module_raw(None, module);
    let none = std::iter::empty::<(&str, ModuleArg)>;
    let instance =
        (0..instances).map(|_| builder.core_instantiate(None, module, Vec::from_iter(none()))).last().unwrap();
    for (name, _, result) in EXPORTS {
        let core = builder.core_alias_export(None, instance, name, ExportKind::Func);
        let (ty, mut encoder) = builder.type_function(None);
        encoder.params(Vec::<(&str, ComponentValType)>::new()).result(result.map(ComponentValType::Primitive));
        let func = builder.lift_func(None, core, ty, []);
        builder.export(name, ComponentExportKind::Func, func, None);
    }
    builder.finish()
}

fn made(bytes: &[u8]) -> Result<(bool, Vec<u8>, &'static str)> {
    let mut u = Unstructured::new(bytes);
    let references = u.ratio(1, 4)?;
    let instances = u.int_in_range(1..=3)?;
    let (export, ..) = *u.choose(&EXPORTS)?;
    let module = Module::new(config(references), &mut u)?.to_bytes();
    Ok((references, component(&module, instances), export))
}

fuzz_target!(|bytes: &[u8]| {
    let Ok((references, component, export)) = made(bytes) else { return };
    let plugin = match guest::load(&component) {
        Ok(plugin) => plugin,
        Err(_) if references => return,
        Err(reason) => panic!("{reason}"),
    };
    let mut job = guest::job(export, vec![]).unwrap();
    job.deterministic = true;
    job.limits.timeout = Duration::from_secs(5);
    let [first, second] = [(); 2].map(|()| guest::call(plugin.bind(&job).unwrap(), &job));
    if [&first, &second].iter().all(|ended| ended.outcome.kind() != OutcomeKind::TimedOut) {
        assert_eq!(first.outcome, second.outcome);
        assert_eq!(first.usage, second.usage);
    }
    SANDBOX.forget(&digest(&component));
});
