//! JSON against any WIT type, through a guest that gives back what it is given. A value of the type
//! comes back in its normal form, which a model here knows; what comes back goes through unchanged; any
//! other JSON is refused in one sentence, or comes back likewise.

#![no_main]

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sandclock::sandbox::Plugin;
use sandclock::{Outcome, printable};
use sandclock_fuzz::guest;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// As the sandbox has them.
const DEPTH_MAX: usize = 32;
const WIDTH_MAX: usize = 256;

enum Ty {
    Bool,
    /// Signed, and its bits.
    Integer(bool, u32),
    F32,
    F64,
    Char,
    Text,
    List(Box<Ty>),
    Record(Vec<Ty>),
    Tuple(Vec<Ty>),
    Variant(Vec<Option<Ty>>),
    Enum(usize),
    Flags(usize),
    Option(Box<Ty>),
    Result(Option<Box<Ty>>, Option<Box<Ty>>),
}

impl Ty {
    fn any(u: &mut Unstructured<'_>, depth: usize) -> Result<Ty> {
        let inner = |u: &mut Unstructured<'_>| Ty::any(u, depth.saturating_sub(1));
        let boxed = |u: &mut Unstructured<'_>| inner(u).map(Box::new);
        let optional =
            |u: &mut Unstructured<'_>| if u.arbitrary()? { Ok(Some(Ty::any(u, depth - 1)?)) } else { Ok(None) };
        let several = |u: &mut Unstructured<'_>| (0..u.int_in_range(1..=4)?).map(|_| inner(u)).collect::<Result<_>>();
        Ok(match u.int_in_range(0..=if depth == 0 { 7 } else { 13 })? {
            0 => Ty::Bool,
            1 => Ty::Integer(u.arbitrary()?, 8 << u.int_in_range(0..=3)?),
            2 => Ty::F32,
            3 => Ty::F64,
            4 => Ty::Char,
            5 => Ty::Text,
            6 => Ty::Enum(if u.ratio(1, 16)? { u.int_in_range(1..=300)? } else { u.int_in_range(1..=4)? }),
            7 => Ty::Flags(u.int_in_range(1..=32)?),
            8 => Ty::List(boxed(u)?),
            9 => Ty::Record(several(u)?),
            10 => Ty::Tuple(several(u)?),
            11 => Ty::Variant((0..u.int_in_range(1..=4)?).map(|_| optional(u)).collect::<Result<_>>()?),
            12 => Ty::Option(boxed(u)?),
            _ => Ty::Result(optional(u)?.map(Box::new), optional(u)?.map(Box::new)),
        })
    }

    /// Some of them are nested too deep.
    fn tower(self, u: &mut Unstructured<'_>, floors: usize) -> Result<Ty> {
        (0..floors).try_fold(self, |ty, _| {
            Ok(match u.int_in_range(0..=2)? {
                0 => Ty::Option(Box::new(ty)),
                1 => Ty::Tuple(vec![ty]),
                _ => Ty::Result(Some(Box::new(ty)), None),
            })
        })
    }

    fn parts(&self) -> Vec<&Ty> {
        match self {
            Ty::List(of) | Ty::Option(of) => vec![of],
            Ty::Record(of) | Ty::Tuple(of) => of.iter().collect(),
            Ty::Variant(of) => of.iter().flatten().collect(),
            Ty::Result(ok, err) => [ok, err].into_iter().flatten().map(|ty| &**ty).collect(),
            _ => vec![],
        }
    }

    fn depth(&self) -> usize {
        self.parts().iter().map(|ty| 1 + ty.depth()).max().unwrap_or(0)
    }

    fn width(&self) -> usize {
        let own = if let Ty::Enum(names) = self { *names } else { 0 };
        self.parts().iter().map(|ty| ty.width()).fold(own, usize::max)
    }

    /// The type in WAT. What must have a name gets one, in `names`.
    fn wat(&self, names: &mut Vec<String>) -> String {
        let list = |kind: &str, each: &dyn Fn(usize) -> String, count: usize| {
            format!("({kind} {})", (0..count).map(each).collect::<Vec<_>>().join(" "))
        };
        let of = |parts: &[Ty], names: &mut Vec<String>| parts.iter().map(|ty| ty.wat(names)).collect::<Vec<_>>();
        let body = match self {
            Ty::Bool => return "bool".into(),
            Ty::Integer(signed, bits) => return format!("{}{bits}", if *signed { "s" } else { "u" }),
            Ty::F32 => return "f32".into(),
            Ty::F64 => return "f64".into(),
            Ty::Char => return "char".into(),
            Ty::Text => return "string".into(),
            Ty::List(ty) => return format!("(list {})", ty.wat(names)),
            Ty::Tuple(parts) => return format!("(tuple {})", of(parts, names).join(" ")),
            Ty::Option(ty) => return format!("(option {})", ty.wat(names)),
            Ty::Result(ok, err) => {
                let ok = ok.as_ref().map(|ty| ty.wat(names)).unwrap_or_default();
                let err = err.as_ref().map(|ty| format!("(error {})", ty.wat(names))).unwrap_or_default();
                return format!("(result {ok} {err})");
            }
            Ty::Record(parts) => {
                let parts = of(parts, names);
                list("record", &|at| format!("(field \"f{at}\" {})", parts[at]), parts.len())
            }
            Ty::Variant(parts) => {
                let parts: Vec<String> =
                    parts.iter().map(|ty| ty.as_ref().map(|ty| ty.wat(names)).unwrap_or_default()).collect();
                list("variant", &|at| format!("(case \"c{at}\" {})", parts[at]), parts.len())
            }
            Ty::Enum(count) => list("enum", &|at| format!("\"e{at}\""), *count),
            Ty::Flags(count) => list("flags", &|at| format!("\"b{at}\""), *count),
        };
        let at = names.len();
        names.push(format!("(type $d{at} {body}) (export $t{at} \"t{at}\" (type $d{at}))"));
        format!("$t{at}")
    }

    /// A value as someone may write it, and as it comes back.
    fn value(&self, u: &mut Unstructured<'_>) -> Result<(Value, Value)> {
        let same = |value: Value| Ok((value.clone(), value));
        match self {
            Ty::Bool => same(json!(u.arbitrary::<bool>()?)),
            Ty::Integer(signed, bits) => {
                let (any, cut) = (u.arbitrary::<u64>()?, 64 - bits);
                let value = if *signed { json!((any << cut) as i64 >> cut) } else { json!(any << cut >> cut) };
                let written = if *bits == 64 && u.arbitrary()? { json!(value.to_string()) } else { value.clone() };
                Ok((written, value))
            }
            Ty::F32 => same(json!(f64::from(Some(u.arbitrary::<f32>()?).filter(|f| f.is_finite()).unwrap_or(1.5)))),
            Ty::F64 if u.ratio(1, 4)? => {
                let whole: i64 = u.arbitrary()?;
                Ok((json!(whole), json!(whole as f64)))
            }
            Ty::F64 => same(json!(Some(u.arbitrary::<f64>()?).filter(|f| f.is_finite()).unwrap_or(-0.0))),
            Ty::Char => same(json!(u.arbitrary::<char>()?)),
            Ty::Text => same(json!(u.arbitrary::<&str>()?)),
            Ty::List(of) if matches!(**of, Ty::Integer(false, 8)) && u.arbitrary()? => {
                let bytes: [u8; 3] = u.arbitrary()?;
                Ok((json!(base64(bytes)), json!(bytes)))
            }
            Ty::List(of) => {
                let items = (0..u.int_in_range(0..=3)?).map(|_| of.value(u)).collect::<Result<Vec<_>>>()?;
                let (written, back): (Vec<_>, Vec<_>) = items.into_iter().unzip();
                Ok((written.into(), back.into()))
            }
            Ty::Tuple(parts) => {
                let items = parts.iter().map(|ty| ty.value(u)).collect::<Result<Vec<_>>>()?;
                let (written, back): (Vec<_>, Vec<_>) = items.into_iter().unzip();
                Ok((written.into(), back.into()))
            }
            Ty::Record(parts) => {
                let (mut written, mut back) = (Map::new(), Map::new());
                for (at, ty) in parts.iter().enumerate() {
                    let (given, given_back) = ty.value(u)?;
                    let left_out = matches!(ty, Ty::Option(_)) && given.is_null() && u.arbitrary()?;
                    if !left_out {
                        written.insert(format!("f{at}"), given);
                    }
                    back.insert(format!("f{at}"), given_back);
                }
                Ok((written.into(), back.into()))
            }
            Ty::Variant(cases) => {
                let at = u.int_in_range(0..=cases.len() - 1)?;
                let (written, back) = cases[at].as_ref().map_or(Ok((Value::Null, Value::Null)), |ty| ty.value(u))?;
                let name = format!("c{at}");
                let bare = written.is_null() && u.arbitrary()?;
                let written = if bare { json!(name) } else { json!({ name.as_str(): written }) };
                Ok((written, json!({ name.as_str(): back })))
            }
            Ty::Enum(count) => same(json!(format!("e{}", u.int_in_range(0..=count - 1)?))),
            Ty::Flags(count) => {
                let bits: u32 = u.arbitrary()?;
                let mut names: Vec<String> =
                    (0..*count).filter(|at| bits >> at & 1 == 1).map(|at| format!("b{at}")).collect();
                let back = json!(names);
                if u.arbitrary()? {
                    names.reverse();
                }
                Ok((json!(names), back))
            }
            Ty::Option(_) if u.ratio(1, 4)? => same(Value::Null),
            Ty::Option(of) => {
                let (written, back) = of.value(u)?;
                let nested = matches!(**of, Ty::Option(_));
                Ok(if nested { (json!({ "some": written }), json!({ "some": back })) } else { (written, back) })
            }
            Ty::Result(ok, err) => {
                let (name, ty) = if u.arbitrary()? { ("ok", ok) } else { ("err", err) };
                let (written, back) = ty.as_ref().map_or(Ok((Value::Null, Value::Null)), |ty| ty.value(u))?;
                Ok((json!({ name: written }), json!({ name: back })))
            }
        }
    }
}

fn base64([a, b, c]: [u8; 3]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = u32::from_be_bytes([0, a, b, c]);
    [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift & 63) as usize])).into_iter().collect()
}

/// A guest with one function from a type to itself. What it is given lies in its memory, and it says
/// that what it gives back lies there too: a list, or what has too many parts to be passed otherwise.
fn echo(ty: &Ty) -> Vec<u8> {
    let mut names = Vec::new();
    let shown = ty.wat(&mut names);
    let body = match ty {
        Ty::List(_) => {
            "(param i32 i32) (result i32) (i32.store (i32.const 16) (local.get 0))
             (i32.store (i32.const 20) (local.get 1)) (i32.const 16)"
        }
        _ => "(param i32) (result i32) (local.get 0)",
    };
    let text = format!(
        r#"(component
            (core module $m
                (memory (export "mem") 16)
                (global $next (mut i32) (i32.const 1024))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                    (global.set $next (i32.add (local.get $at) (local.get 3)))
                    (local.get $at))
                (func (export "echo") {body}))
            (core instance $i (instantiate $m))
            {}
            (func (export "echo") (param "v" {shown}) (result {shown})
                (canon lift (core func $i "echo") (memory (core memory $i "mem")) (realloc (core func $i "realloc")))))"#,
        names.concat()
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Somewhere in the value stands something else.
fn spoil(value: &mut Value, u: &mut Unstructured<'_>) -> Result<()> {
    let inner: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => vec![],
    };
    if !inner.is_empty() && u.ratio(3, 4)? {
        let at = u.int_in_range(0..=inner.len() - 1)?;
        return spoil(inner.into_iter().nth(at).unwrap(), u);
    }
    *value = match u.int_in_range(0..=9)? {
        0 => Value::Null,
        1 => json!(u.arbitrary::<bool>()?),
        2 => json!(u.arbitrary::<i64>()?),
        3 => json!(u.arbitrary::<u64>()?),
        4 => json!(u.arbitrary::<f64>()?),
        5 => json!(u.arbitrary::<&str>()?),
        6 => json!([value.clone()]),
        7 => json!({ "some": value.clone() }),
        8 => json!([]),
        _ => json!({}),
    };
    Ok(())
}

fn any_type(u: &mut Unstructured<'_>) -> Result<Ty> {
    let floors = if u.ratio(1, 8)? { u.int_in_range(0..=36)? } else { 0 };
    let depth = u.int_in_range(0..=4)?;
    let ty = Ty::any(u, depth)?.tower(u, floors)?;
    Ok(if u.arbitrary()? {
        Ty::List(Box::new(ty))
    } else {
        // Seventeen parts are not passed one by one.
        Ty::Tuple(std::iter::once(ty).chain((0..16).map(|_| Ty::Bool)).collect())
    })
}

/// JSON for a type, and what must come back if it is known.
fn any_value(ty: &Ty, u: &mut Unstructured<'_>) -> Result<(Value, Option<Value>)> {
    let (mut value, back) = ty.value(u)?;
    match u.int_in_range(0..=3)? {
        0 => spoil(&mut value, u)?,
        1 => value = serde_json::from_str(u.arbitrary()?).unwrap_or(value),
        _ => return Ok((value, Some(back))),
    }
    Ok((value, None))
}

/// What comes back, unless the value is refused.
fn pass(plugin: &Arc<Plugin>, value: &Value) -> Option<Value> {
    // Arguments and results are stored as text.
    assert_eq!(serde_json::from_str::<Value>(&value.to_string()).unwrap(), *value);
    let job = guest::job("echo", vec![value.clone()]).unwrap();
    let call = match plugin.bind(&job) {
        Ok(call) => call,
        Err(error) => {
            let error = error.to_string();
            assert_eq!(printable(&error, usize::MAX), error);
            return None;
        }
    };
    match guest::call(call, &job).outcome {
        Outcome::Succeeded { value } => Some(value),
        other => panic!("{value} ends as {other:?}"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut u = Unstructured::new(bytes);
    let Ok(ty) = any_type(&mut u) else { return };
    // Compiling takes far longer than a call, so one type is tried with several values, and what was
    // compiled stays loaded.
    let plugin = match guest::load(&echo(&ty)) {
        Ok(plugin) => plugin,
        Err(reason) => {
            assert!(ty.depth() > DEPTH_MAX || ty.width() > WIDTH_MAX, "{reason}");
            return;
        }
    };
    assert!(ty.depth() <= DEPTH_MAX && ty.width() <= WIDTH_MAX);
    for _ in 0..16 {
        let Ok((value, back)) = any_value(&ty, &mut u) else { break };
        let passed = pass(&plugin, &value);
        if let Some(back) = back {
            assert_eq!(passed.as_ref(), Some(&back), "{value}");
        }
        if let Some(passed) = passed {
            assert_eq!(pass(&plugin, &passed).as_ref(), Some(&passed), "{value}");
        }
        if u.is_empty() {
            break;
        }
    }
});
