//! Reads the pickles within the triggers of an export, as data.
//!
//! APScheduler writes dates, durations, time zones and cron fields in no other form. Nothing that a
//! pickle names is looked up or called: what is not one of these is refused.

use crate::invalid::Invalid;
use crate::trigger::Zone;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use serde_json::{Map, Value};

/// The only key of an object that stands for a pickle.
pub(super) const PICKLE: &str = "__apscheduler_pickle__";

/// Longest pickle, in base64. A cron field that lists sixty values takes 2 KiB.
const TEXT_MAX: usize = 16 * 1024;

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const POSITIONS: [&str; 6] = ["1st", "2nd", "3rd", "4th", "5th", "last"];

/// What is on the stack of a pickle. The last six are what a whole one may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    None,
    Bool(bool),
    /// Of at most 32 bits.
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
    Tuple(Vec<Item>),
    List(Vec<Item>),
    Dict(Vec<(String, Item)>),
    /// `module:name`
    Global(String),
    /// One of this class whose state is to come.
    Object(String),
    /// One expression of a cron field.
    Expression(String),
    At(DateTime<Utc>),
    Date(NaiveDate),
    Delta(TimeDelta),
    Zone(Zone),
    Offset(TimeDelta),
    /// A cron field. No text where the user gave none.
    Field {
        name: String,
        text: Option<String>,
    },
}

impl Item {
    pub fn instant(self) -> Option<DateTime<Utc>> {
        if let Item::At(at) = self { Some(at) } else { None }
    }

    pub fn date(self) -> Option<NaiveDate> {
        if let Item::Date(date) = self { Some(date) } else { None }
    }

    pub fn delta(self) -> Option<TimeDelta> {
        if let Item::Delta(delta) = self { Some(delta) } else { None }
    }

    /// An offset of whole hours has a name too, whose sign is the other way round.
    pub fn zone(self) -> Option<Zone> {
        match self {
            Item::Zone(zone) => Some(zone),
            Item::Offset(offset) if offset.is_zero() => Some(Zone::utc()),
            Item::Offset(offset) if offset == TimeDelta::hours(offset.num_hours()) => {
                format!("Etc/GMT{:+}", -offset.num_hours()).parse().ok()
            }
            _ => None,
        }
    }

    /// A cron field's name, and its text if the user gave one.
    pub fn field(self) -> Option<(String, Option<String>)> {
        if let Item::Field { name, text } = self { Some((name, text)) } else { None }
    }

    /// Only these are nested or remembered, which bounds the depth and the size of what is read.
    fn is_flat(&self) -> bool {
        !matches!(self, Item::Tuple(_) | Item::List(_) | Item::Dict(_) | Item::Object(_))
    }
}

/// What the field `name` of a state holds as a pickle.
pub(super) fn needed<T>(state: &Map<String, Value>, name: &str, pick: fn(Item) -> Option<T>) -> Result<T, Invalid> {
    optional(state, name, pick)?.ok_or_else(|| Invalid::new(name, "", "it is missing"))
}

/// The same of a field that may be null.
pub(super) fn optional<T>(
    state: &Map<String, Value>,
    name: &str,
    pick: fn(Item) -> Option<T>,
) -> Result<Option<T>, Invalid> {
    let value = state.get(name).filter(|value| !value.is_null());
    value.map(|value| read(name, value, pick)).transpose()
}

/// What the value `name` is, which must be a pickle.
pub(super) fn read<T>(name: &str, value: &Value, pick: fn(Item) -> Option<T>) -> Result<T, Invalid> {
    let strange = || {
        Invalid::new(name, "", "it is not what APScheduler writes there, or has no like here")
            .hint("a time zone carries over by its IANA name")
    };
    let text = value.get(PICKLE).and_then(Value::as_str).ok_or_else(strange)?;
    let item = decode(text).map_err(|e| Invalid { what: name.to_owned(), ..e })?;
    pick(item).ok_or_else(strange)
}

/// Reads a pickle in base64.
fn decode(text: &str) -> Result<Item, Invalid> {
    if text.len() > TEXT_MAX {
        return Err(broken());
    }
    run(&BASE64.decode(text).map_err(|_| broken())?)
}

fn run(bytes: &[u8]) -> Result<Item, Invalid> {
    Reader { bytes, stack: Vec::new(), marks: Vec::new(), memo: Vec::new() }.run()
}

/// The machine that a pickle is a program of, without the instructions that triggers do not need.
struct Reader<'a> {
    bytes: &'a [u8],
    stack: Vec<Item>,
    marks: Vec<usize>,
    memo: Vec<Option<Item>>,
}

impl<'a> Reader<'a> {
    fn run(mut self) -> Result<Item, Invalid> {
        loop {
            let [code] = self.array()?;
            let item = match code {
                b'.' => return self.pop(),
                b'N' => Item::None,
                0x88 => Item::Bool(true),
                0x89 => Item::Bool(false),
                b'K' => Item::Int(u8::from_le_bytes(self.array()?).into()),
                b'M' => Item::Int(u16::from_le_bytes(self.array()?).into()),
                b'J' => Item::Int(i32::from_le_bytes(self.array()?).into()),
                b'C' => Item::Bytes(self.short()?.to_vec()),
                0x8c => Item::Text(String::from_utf8(self.short()?.to_vec()).map_err(|_| broken())?),
                b'h' => {
                    let at = u8::from_le_bytes(self.array()?);
                    self.recall(at.into())?
                }
                b'j' => {
                    let at = u32::from_le_bytes(self.array()?);
                    self.recall(at)?
                }
                b']' => Item::List(Vec::new()),
                b'}' => Item::Dict(Vec::new()),
                b')' => Item::Tuple(Vec::new()),
                0x85..=0x87 => self.tuple(self.stack.len().checked_sub(usize::from(code - 0x84)))?,
                b't' => {
                    let from = self.marks.pop();
                    self.tuple(from)?
                }
                0x93 | 0x81 | b'b' | b'R' => {
                    let with = self.pop()?;
                    make(code, self.pop()?, with)?
                }
                _ => {
                    self.change(code)?;
                    continue;
                }
            };
            self.stack.push(item);
        }
    }

    /// The instructions that push nothing.
    fn change(&mut self, code: u8) -> Result<(), Invalid> {
        match code {
            // Protocol and frame.
            0x80 => self.take(1).map(|_| ()),
            0x95 => self.take(8).map(|_| ()),
            0x94 => {
                let top = self.stack.last().ok_or_else(broken)?;
                self.memo.push(Some(top).filter(|top| top.is_flat()).cloned());
                Ok(())
            }
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'a' => self.put(self.stack.len().checked_sub(1)),
            b's' => self.put(self.stack.len().checked_sub(2)),
            b'e' | b'u' => {
                let from = self.marks.pop();
                self.put(from)
            }
            _ => Err(broken()),
        }
    }

    /// Puts what lies above `from` into the list or dictionary below it.
    fn put(&mut self, from: Option<usize>) -> Result<(), Invalid> {
        let items = self.above(from)?;
        match self.stack.last_mut() {
            Some(Item::List(list)) if items.iter().all(Item::is_flat) => list.extend(items),
            Some(Item::Dict(dict)) => {
                let mut items = items.into_iter();
                while let Some(key) = items.next() {
                    match (key, items.next()) {
                        (Item::Text(key), Some(value)) if value.is_flat() || matches!(value, Item::List(_)) => {
                            dict.push((key, value));
                        }
                        _ => return Err(broken()),
                    }
                }
            }
            _ => return Err(broken()),
        }
        Ok(())
    }

    fn tuple(&mut self, from: Option<usize>) -> Result<Item, Invalid> {
        let items = self.above(from)?;
        if items.iter().all(Item::is_flat) { Ok(Item::Tuple(items)) } else { Err(broken()) }
    }

    fn above(&mut self, from: Option<usize>) -> Result<Vec<Item>, Invalid> {
        let from = from.filter(|from| *from <= self.stack.len()).ok_or_else(broken)?;
        Ok(self.stack.split_off(from))
    }

    fn pop(&mut self) -> Result<Item, Invalid> {
        self.stack.pop().ok_or_else(broken)
    }

    fn recall(&self, at: u32) -> Result<Item, Invalid> {
        self.memo.get(at as usize).cloned().flatten().ok_or_else(broken)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Invalid> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or_else(broken)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        self.take(N)?.try_into().map_err(|_| broken())
    }

    /// Bytes after their number.
    fn short(&mut self) -> Result<&'a [u8], Invalid> {
        let [count] = self.array()?;
        self.take(count.into())
    }
}

/// What an instruction makes of two items.
fn make(code: u8, of: Item, with: Item) -> Result<Item, Invalid> {
    match (code, of, with) {
        (0x93, Item::Text(module), Item::Text(name)) => Ok(Item::Global(format!("{module}:{name}"))),
        (0x81, Item::Global(class), Item::Tuple(args)) if args.is_empty() => Ok(Item::Object(class)),
        (b'b', Item::Object(class), Item::Dict(state)) => build(&class, &state),
        (b'R', Item::Global(function), Item::Tuple(args)) => called(&function, &args),
        _ => Err(broken()),
    }
}

/// What these functions answer, which is all that is known of them here.
fn called(function: &str, args: &[Item]) -> Result<Item, Invalid> {
    let item = match (function, args) {
        ("builtins:getattr", [Item::Global(class), Item::Text(name)])
            if class.ends_with("zoneinfo:ZoneInfo") && name == "_unpickle" =>
        {
            Some(Item::Global(class.clone()))
        }
        ("zoneinfo:ZoneInfo" | "backports.zoneinfo:ZoneInfo", [Item::Text(name), Item::Int(_)]) => {
            Some(Item::Zone(name.parse()?))
        }
        ("pytz:_UTC" | "dateutil.tz.tz:tzutc", []) => Some(Item::Offset(TimeDelta::zero())),
        ("pytz:_p", [Item::Text(_), Item::Int(offset), Item::Int(_), Item::Text(_)]) => {
            Some(Item::Offset(TimeDelta::seconds(*offset)))
        }
        ("datetime:timezone", [Item::Delta(offset)] | [Item::Delta(offset), Item::Text(_)]) => {
            Some(Item::Offset(*offset))
        }
        ("datetime:timedelta", [Item::Int(days), Item::Int(seconds), Item::Int(micros)]) => {
            Some(Item::Delta(TimeDelta::seconds(days * 86_400 + seconds) + TimeDelta::microseconds(*micros)))
        }
        ("datetime:date", [Item::Bytes(bytes)]) => date(bytes).map(Item::Date),
        ("datetime:datetime", [Item::Bytes(bytes), zone]) => instant(bytes, zone).map(Item::At),
        _ => None,
    };
    item.ok_or_else(|| unread(function))
}

fn date(bytes: &[u8]) -> Option<NaiveDate> {
    let &[high, low, month, day] = bytes else { return None };
    NaiveDate::from_ymd_opt(u16::from_be_bytes([high, low]).into(), month.into(), day.into())
}

fn instant(bytes: &[u8], zone: &Item) -> Option<DateTime<Utc>> {
    let &[high, low, month, day, hour, minute, second, a, b, c] = bytes else { return None };
    let date = date(&[high, low, month & 0x7f, day])?;
    let micro = u32::from_be_bytes([0, a, b, c]);
    let civil = date.and_hms_micro_opt(hour.into(), minute.into(), second.into(), micro)?;
    match zone {
        Item::Offset(offset) => civil.checked_sub_signed(*offset).map(|utc| utc.and_utc()),
        Item::Zone(zone) => {
            let first = zone.instant(civil);
            // The top bit of the month marks the second of two passes; no clock is put back by more.
            let again = (civil - zone.offset(first + TimeDelta::hours(3))).and_utc();
            let comes_again = month & 0x80 != 0 && again.naive_utc() + zone.offset(again) == civil;
            Some(if comes_again { again } else { first })
        }
        _ => None,
    }
}

/// An object with its state: a cron field or one of its expressions.
fn build(class: &str, state: &[(String, Item)]) -> Result<Item, Invalid> {
    let get = |name: &str| state.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    if let Some(class) = class.strip_prefix("apscheduler.triggers.cron.expressions:") {
        let int = |name: &str| if let Some(Item::Int(value)) = get(name) { Some(*value) } else { None };
        return expression(class, int).map(Item::Expression).ok_or_else(broken);
    }
    if !class.starts_with("apscheduler.triggers.cron.fields:") {
        return Err(unread(class));
    }
    match (get("name"), get("is_default"), get("expressions")) {
        (Some(Item::Text(name)), Some(Item::Bool(true)), _) => Ok(Item::Field { name: name.clone(), text: None }),
        (Some(Item::Text(name)), Some(Item::Bool(false)), Some(Item::List(list))) => {
            let text = |item: &Item| if let Item::Expression(text) = item { Some(text.clone()) } else { None };
            let texts: Option<Vec<String>> = list.iter().map(text).collect();
            Ok(Item::Field { name: name.clone(), text: Some(texts.ok_or_else(broken)?.join(",")) })
        }
        _ => Err(broken()),
    }
}

/// An expression as APScheduler prints it.
fn expression(class: &str, int: impl Fn(&str) -> Option<i64>) -> Option<String> {
    let weekday = |at: i64| WEEKDAYS.get(usize::try_from(at).ok()?).copied();
    let step = int("step").map_or(String::new(), |step| format!("/{step}"));
    let last = int("last").filter(|last| Some(*last) != int("first"));
    Some(match class {
        "AllExpression" => format!("*{step}"),
        "RangeExpression" | "MonthRangeExpression" => {
            let last = last.map_or(String::new(), |last| format!("-{last}"));
            format!("{}{last}{step}", int("first")?)
        }
        "WeekdayRangeExpression" => match last {
            Some(last) => format!("{}-{}", weekday(int("first")?)?, weekday(last)?),
            None => weekday(int("first")?)?.to_owned(),
        },
        "WeekdayPositionExpression" => {
            let position = POSITIONS.get(usize::try_from(int("option_num")?).ok()?)?;
            format!("{position} {}", weekday(int("weekday")?)?)
        }
        "LastDayOfMonthExpression" => "last".to_owned(),
        _ => return None,
    })
}

fn broken() -> Invalid {
    Invalid::new("pickle", "", "it is not one that APScheduler writes for a trigger")
}

fn unread(name: &str) -> Invalid {
    Invalid::new("pickle", name, "of pickles, only dates, durations, time zones and cron fields are read")
        .hint("give the trigger a time zone by its IANA name and export again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: Item) {
        assert_eq!(decode(text).unwrap(), expect);
    }

    #[test]
    fn a_date_may_be_in_a_zone_of_another_library() {
        let at = |text: &str| Item::At(text.parse().unwrap());
        check(
            "gAWVWgAAAAAAAACMCGRhdGV0aW1llIwIZGF0ZXRpbWWUk5RDCgfqBwEAAAAAAACUjARweXR6lIwCX3CUk5QojA1FdXJvcGUv\
             QmVybGlulE0gHE0QDowEQ0VTVJR0lFKUhpRSlC4=",
            at("2026-06-30T22:00:00Z"),
        );
        check(
            "gAWVSAAAAAAAAACMCGRhdGV0aW1llIwIZGF0ZXRpbWWUk5RDCgfqAQEAAAAAAACUjA5kYXRldXRpbC50ei50epSMBXR6dXRj\
             lJOUKVKUhpRSlC4=",
            at("2026-01-01T00:00:00Z"),
        );
    }

    #[test]
    fn an_offset_of_whole_hours_is_a_zone() {
        let zone = |text: &str| decode(text).unwrap().zone();
        let west = "gAWVPQAAAAAAAACMCGRhdGV0aW1llIwIdGltZXpvbmWUk5RoAIwJdGltZWRlbHRhlJOUSv////9KUCcBAEsAh5RSlIWU\
                    UpQu";
        let india = "gAWVOAAAAAAAAACMCGRhdGV0aW1llIwIdGltZXpvbmWUk5RoAIwJdGltZWRlbHRhlJOUSwBNWE1LAIeUUpSFlFKULg==";
        assert_eq!(zone(west).map(|zone| zone.name()), Some("Etc/GMT+3"));
        assert_eq!(zone(india), None);
    }

    #[test]
    fn a_duration_may_run_backwards_or_be_long() {
        check(
            "gAWVJwAAAAAAAACMCGRhdGV0aW1llIwJdGltZWRlbHRhlJOUSv////9LAEsFh5RSlC4=",
            Item::Delta(TimeDelta::microseconds(5) - TimeDelta::days(1)),
        );
        check(
            "gAWVJwAAAAAAAACMCGRhdGV0aW1llIwJdGltZWRlbHRhlJOUSv/JmjtLAEsAh5RSlC4=",
            Item::Delta(TimeDelta::days(999_999_999)),
        );
    }

    #[test]
    fn what_would_run_a_program_is_refused_by_its_name() {
        let error = decode("gAWVHwAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu").unwrap_err();
        assert_eq!(error.input, "posix:system");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let lists = |levels: usize| run(format!("{}{}.", "]".repeat(levels), "a".repeat(levels - 1)).as_bytes());
        let tuples = |levels: usize| run(format!("{}N{}.", "(".repeat(levels), "t".repeat(levels)).as_bytes());
        assert!(lists(1).is_ok() && tuples(1).is_ok());
        for levels in [2, 4000] {
            assert!(lists(levels).is_err() && tuples(levels).is_err());
        }
    }

    const CODES: &[u8] = b"\x80\x81\x85\x86\x87\x88\x89\x8c\x93\x94\x95NKMJChjtabRsue(]}).";

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, codes in proptest::collection::vec(proptest::sample::select(CODES), 0..200)) {
            let _ = run(&bytes);
            let _ = run(&codes);
            let _ = decode(&BASE64.encode(&codes));
        }
    }
}
