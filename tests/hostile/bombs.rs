//! Components that are made, because a file of them would be large or endless: what breaks a compiler,
//! what a parser trips over, what a backtrace would print. Text is for `wat`; bytes are components.
//!
//! Figures beside each: wasmtime 48.0.0 with fuel and epochs on one core (`gen_bombs.py` of the
//! hostile corpus, whose random choices these do not repeat, but whose numbers).

/// The numbers at which each bomb was measured, with the name under which tests report it.
pub fn compile_bombs() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nested_loops", nested_loops(200, 2000)),
        ("many_locals_ifs", many_locals_ifs(1000, 30_000)),
        ("many_types", many_types(300_000)),
        ("many_funcs", many_funcs(100_000)),
        ("straight_line", straight_line(7_600_000)),
        ("nested_blocks", nested_blocks(1_000_000)),
        ("br_table", br_table(7_000_000)),
        ("loads_and_stores", loads_and_stores(500_000)),
    ]
}

/// 200 locals, 2000 loops: 31 kB, 35 s, 684 MiB.
pub fn nested_loops(locals: u32, loops: u32) -> Vec<u8> {
    let mut random = Random(2);
    let mut code = one_kind_of_locals(locals);
    for _ in 0..loops {
        let (a, b) = (random.below(locals), random.below(locals));
        op(&mut code, &[0x03, 0x40, 0x20], a); // loop, local.get
        op(&mut code, &[0x20], b); // local.get
        op(&mut code, &[0x6a, 0x21], a); // i32.add, local.set
    }
    for _ in 0..loops {
        op(&mut code, &[0x20], random.below(locals));
        code.extend([0x0d, 0x00, 0x0b]); // br_if 0, end
    }
    one_function(code)
}

/// 1000 locals, 30 000 blocks: 0.7 MB, over 70 s, over 1.4 GiB.
pub fn many_locals_ifs(locals: u32, blocks: u32) -> Vec<u8> {
    let mut random = Random(1);
    let mut code = one_kind_of_locals(locals);
    for _ in 0..blocks {
        let (a, b, c) = (random.below(locals), random.below(locals), random.below(locals));
        op(&mut code, &[0x20], a);
        op(&mut code, &[0x04, 0x40, 0x20], b); // if, local.get
        op(&mut code, &[0x20], c);
        op(&mut code, &[0x6a, 0x21], a); // i32.add, local.set
        op(&mut code, &[0x05, 0x20], c); // else, local.get
        op(&mut code, &[0x21], b);
        code.push(0x0b);
    }
    one_function(code)
}

/// 300 000 types, all different: 3.9 MB, 22 s, 2 GiB, 103 MB of native code.
pub fn many_types(types: u32) -> Vec<u8> {
    let of = |n: u32| {
        let mut ty = vec![0x60, 10];
        ty.extend((0..10).map(|digit| 0x7f - (n >> (2 * digit) & 3) as u8));
        ty.push(0);
        ty
    };
    // The first is the type of `run`.
    let types = std::iter::once(vec![0x60, 0, 0]).chain((0..types).map(of)).collect();
    in_component(&core(types, 1, vec![vec![0, 0x0b]], &[]))
}

/// 100 000 functions: 0.7 MB, 4.7 s, 623 MiB, 32 MB of native code (M23).
pub fn many_funcs(functions: u32) -> Vec<u8> {
    let bodies = vec![vec![0, 0x41, 1, 0x1a, 0x0b]; functions as usize]; // i32.const 1, drop
    in_component(&core(vec![vec![0x60, 0, 0]], functions, bodies, &[]))
}

/// One function of about so many bytes without a branch: 7.6 MB, 7.3 s, 773 MiB.
pub fn straight_line(bytes: usize) -> Vec<u8> {
    let mut code = one_kind_of_locals(1);
    for _ in 0..bytes / 7 {
        code.extend([0x20, 0, 0x41, 3, 0x6a, 0x21, 0]); // local.get 0, i32.const 3, i32.add, local.set 0
    }
    one_function(code)
}

/// 1 000 000 blocks, each in the one before: 3 MB, 3 s, 891 MiB.
pub fn nested_blocks(depth: usize) -> Vec<u8> {
    let mut code = vec![0];
    code.extend([0x02, 0x40].repeat(depth));
    code.extend(vec![0x0b; depth]);
    one_function(code)
}

/// A `br_table` of 7 000 000 entries: 7 MB, 0.6 s, 283 MiB.
pub fn br_table(entries: u32) -> Vec<u8> {
    let mut code = vec![0, 0x41, 0]; // i32.const 0
    op(&mut code, &[0x0e], entries);
    code.extend(vec![0; entries as usize + 1]);
    one_function(code)
}

/// 500 000 loads with their stores: 6.7 MB, 5.4 s, 774 MiB.
pub fn loads_and_stores(pairs: u32) -> Vec<u8> {
    let mut random = Random(3);
    let mut code = vec![0];
    for _ in 0..pairs {
        op(&mut code, &[0x41, 0, 0x41, 0, 0x28, 2], 128 + random.below(16_000)); // i32.load
        op(&mut code, &[0x36, 2], 128 + random.below(16_000)); // i32.store
    }
    one_function(code)
}

/// Each level has the one below twice. 26: 2.8 kB, over 6 GiB in 41 s of compiling. 12: 2048
/// instances, 8 TiB of address space when instantiated (M5).
pub fn exp_instances(levels: u32) -> String {
    doubling(levels, "(core module $m (memory 1)) (core instance (instantiate $m))")
}

/// The same with nothing but a resource type, which the engine counts nowhere. 22: 0.9 GiB when
/// instantiated (M6).
pub fn exp_resources(levels: u32) -> String {
    doubling(levels, "(type $r (resource (rep i32)))")
}

fn doubling(levels: u32, inner: &str) -> String {
    let mut text = format!("(component (component $c0 {inner})");
    for n in 1..levels {
        let twice = "(instance (instantiate $p)) (instance (instantiate $p))";
        text += &format!("(component $c{n} (alias outer 1 $c{} (component $p)) {twice})", n - 1);
    }
    text + &format!("(instance (instantiate $c{})) {RUN})", levels - 1)
}

/// A function with so many values alive while it calls itself (M10).
pub fn locals_recursion(locals: u32) -> Vec<u8> {
    let mut code = vec![1];
    op(&mut code, &[], locals);
    code.push(0x7e); // i64
    // Each is the square of the one before, so that it is cheaper kept than made again.
    code.extend([0x23, 0, 0x21, 0]); // global.get 0, local.set 0
    for local in 1..locals {
        op(&mut code, &[0x20], local - 1);
        op(&mut code, &[0x20], local - 1);
        op(&mut code, &[0x7e, 0x42, 1, 0x7c, 0x21], local); // i64.mul, i64.const 1, i64.add, local.set
    }
    code.extend([0x10, 0]); // call 0
    for local in 0..locals {
        code.extend([0x23, 0]);
        op(&mut code, &[0x20], local);
        code.extend([0x7c, 0x24, 0]); // i64.add, global.set 0
    }
    one_function(code)
}

/// A function that takes an option of an option of an option … (A8). The validator takes 99 of them.
pub fn deep_option(depth: usize) -> String {
    let types: String = (1..=depth).map(|n| format!("(type $t{n} (option $t{}))", n - 1)).collect();
    let flat = "i32 ".repeat(depth + 1);
    // More than 16 flat values go by a pointer.
    let (flat, options) = if depth < 16 { (flat.as_str(), "") } else { ("i32", REALLOC) };
    exported(&format!("(type $t0 u8){types}(alias outer 0 $t{depth} (type $t))"), &format!("(param {flat})"), options)
}

/// A function that takes a variant with so many cases (A9). The validator's limit is 10 000.
pub fn wide_variant(cases: u32) -> String {
    let cases: String = (0..cases).map(|n| format!("(case \"c{n}\" u32)")).collect();
    exported(&format!("(type $t' (variant {cases})) (export $t \"t\" (type $t'))"), "(param i32 i32)", "")
}

/// A function that takes a record with so many fields (A9).
pub fn wide_record(fields: u32) -> String {
    let flat = "i32 ".repeat(fields as usize);
    let (flat, options) = if fields <= 16 { (flat.as_str(), "") } else { ("i32", REALLOC) };
    let fields: String = (0..fields).map(|n| format!("(field \"f{n}\" u32)")).collect();
    let ty = format!("(type $t' (record {fields})) (export $t \"t\" (type $t'))");
    exported(&ty, &format!("(param {flat})"), options)
}

/// A tuple of eight tuples of eight tuples …: few bytes, 8^depth values (A9). 7 is too large for the
/// validator, 6 is not.
pub fn wide_tuple(depth: u32) -> String {
    let mut ty = "(type $t0 u8)".to_owned();
    for n in 1..=depth {
        ty += &format!("(type $t{n} (tuple{}))", format!(" $t{}", n - 1).repeat(8));
    }
    exported(&(ty + &format!("(type $t (tuple $t{depth}))")), "(param i32)", REALLOC)
}

/// So many exported functions.
pub fn many_exports(count: u32) -> String {
    let exports: String = (0..count).map(|n| format!("(export \"f{n}\" (func $run))")).collect();
    let run = "(core module $m (func (export \"run\"))) (core instance $i (instantiate $m))";
    format!("(component {run} (func $run (canon lift (core func $i \"run\"))) {exports})")
}

/// So many imported interfaces, none of which there is: the refusal names them.
pub fn many_imports(count: u32) -> String {
    let imports: String = (0..count).map(|n| format!("(import \"evil:pkg{n}/iface@1.0.0\" (instance))")).collect();
    format!("(component {imports} {RUN})")
}

/// Components within each other, so deep: for whoever walks them by recursion.
pub fn deep_components(depth: usize) -> Vec<u8> {
    let mut inner = COMPONENT.to_vec();
    for _ in 0..depth {
        let mut outer = COMPONENT.to_vec();
        section(&mut outer, 4, &inner);
        inner = outer;
    }
    inner
}

/// A component that does nothing, with a custom section of so many bytes (B16).
pub fn custom_section(bytes: usize) -> Vec<u8> {
    let mut component = in_component(&core(vec![vec![0x60, 0, 0]], 1, vec![vec![0, 0x0b]], &[]));
    let mut junk = vec![4];
    junk.extend(b"junk");
    junk.resize(bytes.max(5), 0xa5);
    section(&mut component, 0, &junk);
    component
}

/// A trap under 20 functions whose names, of 90 000 bytes each, move the cursor, set the terminal's
/// title and begin a line of the log (B17).
pub fn hostile_names() -> Vec<u8> {
    const CALLS: u32 = 20;
    let mut bodies: Vec<Vec<u8>> = (1..CALLS).map(|next| vec![0, 0x10, next as u8, 0x0b]).collect();
    bodies.push(vec![0, 0x00, 0x0b]); // unreachable
    let text = "\u{1b}[2J\u{1b}]0;owned\u{7}\n2027-01-01T00:00:00Z ERROR forged\r\u{9b}31m<svg onload=alert(1)>";
    let mut map = Vec::new();
    op(&mut map, &[], CALLS);
    for function in 0..CALLS {
        op(&mut map, &[], function);
        let name = text.repeat(90_000 / text.len());
        op(&mut map, &[], name.len() as u32);
        map.extend(name.as_bytes());
    }
    let mut names = vec![4];
    names.extend(b"name");
    section(&mut names, 1, &map);
    let mut custom = Vec::new();
    section(&mut custom, 0, &names);
    in_component(&core(vec![vec![0x60, 0, 0]], CALLS, bodies, &custom))
}

/// A component cut short, at `cuts` places from one byte to all but one (B1).
pub fn truncated(component: &[u8], cuts: usize) -> impl Iterator<Item = &[u8]> {
    (1..=cuts).map(move |cut| &component[..(cut * (component.len() - 1) / cuts).max(1)])
}

/// A component with one to four bits turned, in `count` ways that are the same each time (B1). Some of
/// them are valid.
pub fn bit_flipped(component: &[u8], count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut random = Random(0x5eed);
    (0..count).map(move |_| {
        let mut bytes = component.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len() as u32) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        bytes
    })
}

/// Noise behind the magic number of a component (B1).
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed | 1);
    COMPONENT.iter().copied().chain((0..bytes).map(|_| random.below(256) as u8)).collect()
}

const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const RUN: &str = r#"(core module $run (func (export "run"))) (core instance $run (instantiate $run))
    (func (export "run") (canon lift (core func $run "run")))"#;
const REALLOC: &str = r#"(memory (core memory $i "mem")) (realloc (core func $i "realloc"))"#;

/// A component whose `run` takes a `$t`.
fn exported(ty: &str, flat: &str, options: &str) -> String {
    format!(
        r#"(component {ty}
            (core module $m (memory (export "mem") 16)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
                (func (export "run") {flat}))
            (core instance $i (instantiate $m))
            (func (export "run") (param "v" $t) (canon lift (core func $i "run") {options})))"#
    )
}

/// A core module of functions of the first type, with a memory and a global; the first is `run`.
/// Locals, or none, and the final `end` are in the bodies.
fn core(types: Vec<Vec<u8>>, functions: u32, bodies: Vec<Vec<u8>>, custom: &[u8]) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    section(&mut module, 1, &vector(types));
    section(&mut module, 3, &vector(vec![vec![0]; functions as usize]));
    section(&mut module, 5, &[1, 0, 1]); // a memory of one page
    section(&mut module, 6, &[1, 0x7e, 1, 0x42, 0, 0x0b]); // (global (mut i64) (i64.const 0))
    section(&mut module, 7, b"\x01\x03run\0\0");
    let sized = |body: Vec<u8>| {
        let mut bytes = Vec::with_capacity(body.len() + 5);
        op(&mut bytes, &[], body.len() as u32);
        bytes.extend(body);
        bytes
    };
    section(&mut module, 10, &vector(bodies.into_iter().map(sized).collect()));
    module.extend(custom);
    module
}

/// A module of one function, whose final `end` is added.
fn one_function(mut code: Vec<u8>) -> Vec<u8> {
    code.push(0x0b);
    in_component(&core(vec![vec![0x60, 0, 0]], 1, vec![code], &[]))
}

/// The component that instantiates a module and exports its `run`.
fn in_component(module: &[u8]) -> Vec<u8> {
    let mut component = COMPONENT.to_vec();
    section(&mut component, 1, module);
    section(&mut component, 2, &[1, 0, 0, 0]); // (core instance (instantiate 0))
    section(&mut component, 7, &[1, 0x40, 0, 1, 0]); // (type (func))
    section(&mut component, 6, b"\x01\0\0\x01\0\x03run"); // (alias core export 0 "run" (core func))
    section(&mut component, 8, &[1, 0, 0, 0, 0, 0]); // (canon lift (core func 0) (type 0))
    section(&mut component, 11, b"\x01\0\x03run\x01\0\0"); // (export "run" (func 0))
    component
}

fn section(to: &mut Vec<u8>, id: u8, content: &[u8]) {
    op(to, &[id], content.len() as u32);
    to.extend(content);
}

fn vector(items: Vec<Vec<u8>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    op(&mut bytes, &[], items.len() as u32);
    items.iter().for_each(|item| bytes.extend(item));
    bytes
}

/// So many locals, all `i32`.
fn one_kind_of_locals(locals: u32) -> Vec<u8> {
    let mut code = Vec::new();
    op(&mut code, &[1], locals);
    code.push(0x7f);
    code
}

/// Opcodes, and a number in LEB128 behind them.
fn op(to: &mut Vec<u8>, code: &[u8], mut number: u32) {
    to.extend(code);
    while number > 0x7f {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// xorshift64: the same bytes on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % below
    }
}
