//! JSON to component values and back, checked against WIT types.
//!
//! | WIT | JSON |
//! |---|---|
//! | bool, string, float | boolean, string, number; in results NaN and infinities are strings |
//! | s8 … u32 | number without a fraction |
//! | s64, u64 | number, or a string of digits (JavaScript rounds large numbers) |
//! | char, enum | string |
//! | flags | array of names |
//! | list, tuple | array; `list<u8>` also as a base64 string |
//! | record | object; a missing `option` field is none |
//! | variant | `{"case": value}`; a case without a value also as `"case"` |
//! | `option<T>` | null or T; if T is itself an option: null or `{"some": T}` |
//! | `result<T, E>` | `{"ok": T}` or `{"err": E}` |

use crate::invalid::Invalid;
use crate::plugin::{Case, Param, WitType};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};
use std::cell::Cell;
use wasmtime::component::{Type, Val};

type Parsed = Result<Val, Invalid>;

/// Deepest type of a parameter or result.
pub const TYPE_DEPTH_MAX: usize = 32;
/// Fields, cases or names of one type.
pub const TYPE_WIDTH_MAX: usize = 256;

/// Types within each other in one signature: a few bytes of a component can be a million of them.
pub const TYPES_MAX: usize = 1000;

/// A type as data. Only of types that [`wit_of`] lets pass; others are shown as strings.
pub fn form_of(ty: &Type) -> WitType {
    let boxed = |ty: &Type| Box::new(form_of(ty));
    let names = |names: &mut dyn Iterator<Item = &str>| names.map(str::to_owned).collect();
    match ty {
        Type::Bool => WitType::Bool,
        Type::S8 => WitType::S8,
        Type::U8 => WitType::U8,
        Type::S16 => WitType::S16,
        Type::U16 => WitType::U16,
        Type::S32 => WitType::S32,
        Type::U32 => WitType::U32,
        Type::S64 => WitType::S64,
        Type::U64 => WitType::U64,
        Type::Float32 => WitType::F32,
        Type::Float64 => WitType::F64,
        Type::Char => WitType::Char,
        Type::List(list) => WitType::List { of: boxed(&list.ty()) },
        Type::Record(record) => {
            let fields = record.fields().map(|field| Param { name: field.name.to_owned(), ty: form_of(&field.ty) });
            WitType::Record { fields: fields.collect() }
        }
        Type::Tuple(tuple) => WitType::Tuple { items: tuple.types().map(|ty| form_of(&ty)).collect() },
        Type::Variant(variant) => {
            let cases = variant.cases();
            let case = cases.map(|case| Case { name: case.name.to_owned(), ty: case.ty.as_ref().map(form_of) });
            WitType::Variant { cases: case.collect() }
        }
        Type::Enum(enumeration) => WitType::Enum { names: names(&mut enumeration.names()) },
        Type::Flags(flags) => WitType::Flags { names: names(&mut flags.names()) },
        Type::Option(option) => WitType::Option { of: boxed(&option.ty()) },
        Type::Result(result) => {
            WitType::Result { ok: result.ok().as_ref().map(boxed), err: result.err().as_ref().map(boxed) }
        }
        _ => WitType::String,
    }
}

/// The type in WIT, or why it cannot cross the boundary.
pub fn wit(ty: &Type) -> Result<String, String> {
    wit_of(ty, 0, &Cell::new(TYPES_MAX))
}

/// The same for one of several, which share what is `left` of types.
pub fn wit_of(ty: &Type, depth: usize, left: &Cell<usize>) -> Result<String, String> {
    if depth > TYPE_DEPTH_MAX {
        return Err(format!("a type that is nested more than {TYPE_DEPTH_MAX} deep"));
    }
    let Some(fewer) = left.get().checked_sub(1) else {
        return Err(format!("more than {TYPES_MAX} types"));
    };
    left.set(fewer);
    let inner = |ty: &Type| wit_of(ty, depth + 1, left);
    let optional = |ty: Option<Type>| ty.map_or(Ok("_".to_owned()), |ty| inner(&ty));
    let wide = |count: usize| {
        if count > TYPE_WIDTH_MAX { Err(format!("a type of more than {TYPE_WIDTH_MAX} parts")) } else { Ok(()) }
    };
    Ok(match ty {
        Type::Bool => "bool".into(),
        Type::S8 => "s8".into(),
        Type::U8 => "u8".into(),
        Type::S16 => "s16".into(),
        Type::U16 => "u16".into(),
        Type::S32 => "s32".into(),
        Type::U32 => "u32".into(),
        Type::S64 => "s64".into(),
        Type::U64 => "u64".into(),
        Type::Float32 => "f32".into(),
        Type::Float64 => "f64".into(),
        Type::Char => "char".into(),
        Type::String => "string".into(),
        Type::List(list) => format!("list<{}>", inner(&list.ty())?),
        Type::Record(record) => {
            wide(record.fields().count())?;
            let fields: Result<Vec<String>, String> =
                record.fields().map(|f| Ok(format!("{}: {}", f.name, inner(&f.ty)?))).collect();
            format!("record {{ {} }}", fields?.join(", "))
        }
        Type::Tuple(tuple) => {
            wide(tuple.types().count())?;
            let types: Result<Vec<String>, String> = tuple.types().map(|ty| inner(&ty)).collect();
            format!("tuple<{}>", types?.join(", "))
        }
        Type::Variant(variant) => {
            wide(variant.cases().count())?;
            let cases: Result<Vec<String>, String> = variant
                .cases()
                .map(|case| {
                    Ok(match &case.ty {
                        None => case.name.to_owned(),
                        Some(ty) => format!("{}({})", case.name, inner(ty)?),
                    })
                })
                .collect();
            format!("variant {{ {} }}", cases?.join(", "))
        }
        Type::Enum(names) => {
            wide(names.names().count())?;
            format!("enum {{ {} }}", names.names().collect::<Vec<_>>().join(", "))
        }
        Type::Flags(names) => {
            wide(names.names().count())?;
            format!("flags {{ {} }}", names.names().collect::<Vec<_>>().join(", "))
        }
        Type::Option(option) => format!("option<{}>", inner(&option.ty())?),
        Type::Result(result) => match (optional(result.ok())?, optional(result.err())?) {
            (ok, err) if ok == "_" && err == "_" => "result".into(),
            (ok, err) if err == "_" => format!("result<{ok}>"),
            (ok, err) => format!("result<{ok}, {err}>"),
        },
        Type::Own(_) | Type::Borrow(_) => return Err("a resource".into()),
        Type::Future(_) => return Err("a future".into()),
        Type::Stream(_) => return Err("a stream".into()),
        Type::ErrorContext => return Err("an error context".into()),
        Type::Map(_) => return Err("a map".into()),
        Type::FixedLengthList(_) => return Err("a list of fixed length".into()),
    })
}

/// Reads JSON as a value of a type. `path` says where in the arguments it stands.
pub fn from_json(ty: &Type, json: &Value, path: &str) -> Parsed {
    let wrong = |what: &str| Err(mismatch(ty, json, path, what));
    match ty {
        Type::Bool => json.as_bool().map_or_else(|| wrong("a boolean"), |value| Ok(Val::Bool(value))),
        Type::S8 => integer(ty, json, path).map(Val::S8),
        Type::U8 => integer(ty, json, path).map(Val::U8),
        Type::S16 => integer(ty, json, path).map(Val::S16),
        Type::U16 => integer(ty, json, path).map(Val::U16),
        Type::S32 => integer(ty, json, path).map(Val::S32),
        Type::U32 => integer(ty, json, path).map(Val::U32),
        Type::S64 => integer(ty, json, path).map(Val::S64),
        Type::U64 => integer(ty, json, path).map(Val::U64),
        Type::Float32 => match json.as_f64().map(|value| value as f32) {
            Some(value) if value.is_finite() => Ok(Val::Float32(value)),
            _ => wrong("a number in the range of f32"),
        },
        Type::Float64 => json.as_f64().map_or_else(|| wrong("a number"), |value| Ok(Val::Float64(value))),
        Type::Char => {
            let mut chars = json.as_str().unwrap_or_default().chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => Ok(Val::Char(c)),
                _ => wrong("a string of one character"),
            }
        }
        Type::String => json.as_str().map_or_else(|| wrong("a string"), |text| Ok(Val::String(text.to_owned()))),
        Type::List(list) => match json {
            Value::Array(items) => {
                let of = list.ty();
                let items = items.iter().enumerate().map(|(at, item)| from_json(&of, item, &format!("{path}[{at}]")));
                Ok(Val::List(items.collect::<Result<_, _>>()?))
            }
            Value::String(text) if matches!(list.ty(), Type::U8) => match BASE64.decode(text) {
                Ok(bytes) => Ok(Val::List(bytes.into_iter().map(Val::U8).collect())),
                Err(_) => wrong("an array of bytes or base64"),
            },
            _ => wrong("an array"),
        },
        Type::Tuple(tuple) => {
            let Some(items) = json.as_array().filter(|items| items.len() == tuple.types().len()) else {
                return wrong(&format!("an array of {}", tuple.types().len()));
            };
            let items = tuple.types().zip(items).enumerate();
            let items = items.map(|(at, (ty, item))| from_json(&ty, item, &format!("{path}[{at}]")));
            Ok(Val::Tuple(items.collect::<Result<_, _>>()?))
        }
        Type::Record(record) => {
            let Some(object) = json.as_object() else { return wrong("an object") };
            if let Some(unknown) = object.keys().find(|key| !record.fields().any(|field| field.name == key.as_str())) {
                return wrong(&format!("no field `{}`", crate::invalid::printable(unknown, 64)));
            }
            let fields = record.fields().map(|field| {
                let at = format!("{path}.{}", field.name);
                let value = match (object.get(field.name), &field.ty) {
                    (Some(value), ty) => from_json(ty, value, &at)?,
                    (None, Type::Option(_)) => Val::Option(None),
                    (None, _) => return Err(mismatch(ty, json, path, &format!("a field `{}`", field.name))),
                };
                Ok((field.name.to_owned(), value))
            });
            Ok(Val::Record(fields.collect::<Result<_, _>>()?))
        }
        Type::Variant(variant) => {
            let (name, value) = match json {
                Value::String(name) => (name, &Value::Null),
                Value::Object(object) if object.len() == 1 => match object.iter().next() {
                    Some(pair) => pair,
                    None => return wrong("one case"),
                },
                _ => return wrong("an object with one case"),
            };
            let Some(case) = variant.cases().find(|case| case.name == name) else { return wrong("a known case") };
            let value = match &case.ty {
                Some(ty) => Some(Box::new(from_json(ty, value, &format!("{path}.{name}"))?)),
                None if value.is_null() => None,
                None => return wrong(&format!("no value with `{name}`")),
            };
            Ok(Val::Variant(name.clone(), value))
        }
        Type::Enum(names) => match json.as_str().filter(|text| names.names().any(|name| name == *text)) {
            Some(text) => Ok(Val::Enum(text.to_owned())),
            None => wrong("one of the names"),
        },
        Type::Flags(names) => {
            let given: Option<Vec<&str>> = json.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
            let Some(given) = given else { return wrong("an array of names") };
            let twice = given.iter().enumerate().any(|(at, name)| given[..at].contains(name));
            if twice || given.iter().any(|given| !names.names().any(|name| name == *given)) {
                return wrong("known names, each once");
            }
            Ok(Val::Flags(given.into_iter().map(str::to_owned).collect()))
        }
        Type::Option(option) => {
            let of = option.ty();
            match json {
                Value::Null => Ok(Val::Option(None)),
                Value::Object(object) if matches!(of, Type::Option(_)) => match object.get("some") {
                    Some(value) if object.len() == 1 => {
                        Ok(Val::Option(Some(Box::new(from_json(&of, value, &format!("{path}.some"))?))))
                    }
                    _ => wrong("null or `{\"some\": …}`"),
                },
                value if matches!(of, Type::Option(_)) => Err(mismatch(ty, value, path, "null or `{\"some\": …}`")),
                value => Ok(Val::Option(Some(Box::new(from_json(&of, value, path)?)))),
            }
        }
        Type::Result(result) => {
            let object = json.as_object().filter(|object| object.len() == 1);
            let side = |name: &str, ty: Option<Type>| -> Option<Result<Option<Box<Val>>, Invalid>> {
                let value = object?.get(name)?;
                Some(match ty {
                    Some(ty) => from_json(&ty, value, &format!("{path}.{name}")).map(|value| Some(Box::new(value))),
                    None if value.is_null() => Ok(None),
                    None => Err(mismatch(&Type::Bool, value, &format!("{path}.{name}"), "null")),
                })
            };
            match (side("ok", result.ok()), side("err", result.err())) {
                (Some(ok), _) => Ok(Val::Result(Ok(ok?))),
                (_, Some(err)) => Ok(Val::Result(Err(err?))),
                _ => wrong("an object with `ok` or `err`"),
            }
        }
        _ => wrong("a type that JSON can carry"),
    }
}

fn mismatch(ty: &Type, json: &Value, path: &str, wanted: &str) -> Invalid {
    let wit = wit(ty).unwrap_or_default();
    Invalid::new(format!("argument {path}"), json.to_string(), format!("expected {wanted}, as its type is {wit}"))
}

fn integer<N>(ty: &Type, json: &Value, path: &str) -> Result<N, Invalid>
where
    N: TryFrom<i128>,
{
    let wide = matches!(ty, Type::S64 | Type::U64);
    let value = match json {
        Value::Number(number) => number.as_i64().map(i128::from).or(number.as_u64().map(i128::from)),
        Value::String(text) if wide => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let plain = !digits.is_empty() && digits.len() <= 20 && digits.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|_| plain)
        }
        _ => None,
    };
    value.and_then(|value| N::try_from(value).ok()).ok_or_else(|| mismatch(ty, json, path, "an integer in range"))
}

/// A value as JSON.
pub fn to_json(value: &Val) -> Value {
    let list = |items: &[Val]| Value::Array(items.iter().map(to_json).collect());
    let optional = |value: &Option<Box<Val>>| value.as_deref().map_or(Value::Null, to_json);
    match value {
        Val::Bool(value) => json!(value),
        Val::S8(value) => json!(value),
        Val::U8(value) => json!(value),
        Val::S16(value) => json!(value),
        Val::U16(value) => json!(value),
        Val::S32(value) => json!(value),
        Val::U32(value) => json!(value),
        Val::S64(value) => json!(value),
        Val::U64(value) => json!(value),
        Val::Float32(value) => float(f64::from(*value)),
        Val::Float64(value) => float(*value),
        Val::Char(value) => json!(value),
        Val::String(value) | Val::Enum(value) => json!(value),
        Val::List(items) | Val::Tuple(items) | Val::FixedLengthList(items) => list(items),
        Val::Record(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), to_json(value))).collect())
        }
        Val::Variant(name, value) => Value::Object(Map::from_iter([(name.clone(), optional(value))])),
        Val::Flags(names) => json!(names),
        Val::Option(None) => Value::Null,
        Val::Option(Some(value)) => match &**value {
            nested @ Val::Option(_) => json!({ "some": to_json(nested) }),
            value => to_json(value),
        },
        Val::Result(Ok(value)) => json!({ "ok": optional(value) }),
        Val::Result(Err(value)) => json!({ "err": optional(value) }),
        // Refused at registration.
        Val::Map(_) | Val::Resource(_) | Val::Future(_) | Val::Stream(_) | Val::ErrorContext(_) => Value::Null,
    }
}

fn float(value: f64) -> Value {
    match serde_json::Number::from_f64(value) {
        Some(number) => Value::Number(number),
        None if value.is_nan() => json!("NaN"),
        None if value > 0.0 => json!("Infinity"),
        None => json!("-Infinity"),
    }
}
