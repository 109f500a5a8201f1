//! JSON without the freedoms that hide mistakes: an object that names a key twice is refused.

use crate::invalid::Invalid;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Reads JSON strictly. `what` names it in the error. Depth is bounded by serde_json's own limit.
pub fn from_slice<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Invalid> {
    let value = value(bytes).map_err(|e| Invalid::new(what, String::from_utf8_lossy(bytes), e.to_string()))?;
    serde_json::from_value(value).map_err(|e| Invalid::new(what, "", e.to_string()))
}

fn value(bytes: &[u8]) -> serde_json::Result<Value> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut from)?;
    from.end()?;
    Ok(value)
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            let value = from.next_value_seed(Strict)?;
            if fields.contains_key(&key) {
                let key = crate::invalid::printable(&key, 64);
                return Err(A::Error::custom(format!("key `{key}` appears twice")));
            }
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        from_slice::<Value>("args", text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_hides_mistakes_is_refused() {
        assert!(error(r#"{"a":1,"b":{"a":1,"a":2}}"#).contains("key `a` appears twice"));
        assert!(error(r#""\ud800""#).contains("hex escape"));
        assert!(error("1e999").contains("out of range"));
        assert!(error("NaN").contains("expected"));
        assert!(error("[1,2").contains("EOF"));
        assert!(error("1 2").contains("trailing"));
        assert!(error(&"[".repeat(100_000)).contains("recursion"));
    }

    proptest! {
        #[test]
        fn anything_ends_without_panic_and_sound_json_is_unchanged(bytes: Vec<u8>, keys in proptest::collection::hash_set("[a-z]{1,5}", 0..5)) {
            let _ = value(&bytes);
            let object: Value = Value::Object(keys.into_iter().map(|key| (key, Value::from(1))).collect());
            prop_assert_eq!(value(object.to_string().as_bytes()).unwrap(), object);
        }
    }
}
