//! JSON objects in which no key stands twice, at any depth: two readers of one token must not see two things.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why a text is no such object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    NotAnObject,
    DuplicateKey,
}

/// What serde is told of a duplicate, to know it again in its error.
const DUPLICATE: &str = "a key stands twice";

/// # Errors
/// Anything else than one object; a key that stands twice.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, Refused> {
    match serde_json::from_slice::<Strict>(text) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(_) => Err(Refused::NotAnObject),
        Err(error) if error.to_string().starts_with(DUPLICATE) => Err(Refused::DuplicateKey),
        Err(_) => Err(Refused::NotAnObject),
    }
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if map.insert(key, value).is_some() {
                return Err(de::Error::custom(DUPLICATE));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"a":[1,-2,3.5,null,true,"x\u00e9"],"b":{"c":{}}}"#;
        assert_eq!(Value::Object(object(text.as_bytes()).unwrap()), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn refuses_a_key_that_stands_twice_at_any_depth_and_in_any_spelling() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"b":[{"a":1,"a":2}]}"#, r#"{"a":1,"\u0061":2}"#] {
            assert_eq!(object(text.as_bytes()), Err(Refused::DuplicateKey), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_object() {
        let deep = format!("{}{}", "{\"a\":".repeat(1000), "}".repeat(1000));
        for text in ["", "[]", "1", "null", "{", "{} {}", "{\"a\":1,}", "{\"a\":NaN}", "\u{feff}{}", &deep] {
            assert_eq!(object(text.as_bytes()), Err(Refused::NotAnObject), "{text:.40}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(Refused::NotAnObject));
    }
}
