//! Canonical JSON: one byte string per value.
//!
//! Objects are sorted by the UTF-8 bytes of their keys, nothing is written between tokens, and
//! numbers are integers of at most 2^53 - 1 in magnitude. [`parse`] accepts exactly what
//! [`to_bytes`] writes, so an identifier over the bytes is an identifier over the value.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The largest magnitude of a number: what every JSON reader can hold exactly.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Why bytes are not canonical JSON of the expected shape.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// More bytes than the format allows for this object.
    #[error("{length} bytes exceed the limit of {limit}")]
    TooLong { length: usize, limit: usize },
    /// Not JSON, or a field is missing or has the wrong type.
    #[error("not the expected JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A fraction, an exponent, or an integer beyond 2^53 - 1.
    #[error("the number {0} is not an integer within 2^53 - 1")]
    Number(String),
    /// The same value has another, canonical spelling.
    #[error("not canonical: byte {at} differs from the canonical spelling")]
    NotCanonical { at: usize },
}

/// The canonical bytes of `value`.
///
/// # Errors
/// If it holds a number that is no integer within 2^53 - 1.
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, JsonError> {
    let value = serde_json::to_value(value)?;
    let mut out = Vec::new();
    write(&value, &mut out)?;
    Ok(out)
}

/// Reads canonical JSON of at most `limit` bytes; any other spelling is refused.
///
/// # Errors
/// If they are too long, not canonical, or not of this type.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, JsonError> {
    if bytes.len() > limit {
        return Err(JsonError::TooLong { length: bytes.len(), limit });
    }
    let value: Value = serde_json::from_slice(bytes)?;
    let mut canonical = Vec::with_capacity(bytes.len());
    write(&value, &mut canonical)?;
    if canonical != bytes {
        let at = bytes.iter().zip(&canonical).take_while(|(a, b)| a == b).count();
        return Err(JsonError::NotCanonical { at });
    }
    Ok(serde_json::from_value(value)?)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), JsonError> {
    match value {
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match magnitude {
                Some(magnitude) if magnitude <= MAX_INTEGER => {
                    out.extend_from_slice(number.to_string().as_bytes());
                }
                _ => return Err(JsonError::Number(number.to_string())),
            }
        }
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            // Sorted here, not by the map: another crate may switch the map to insertion order.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push(b'{');
            for (i, (key, item)) in fields.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                write(item, out)?;
            }
            out.push(b'}');
        }
        Value::Null | Value::Bool(_) | Value::String(_) => serde_json::to_writer(out, value)?,
    }
    Ok(())
}

/// The same with the keys of all objects in order. Whether serde_json keeps them so by itself is up to what else a
/// program is built of.
pub fn in_order(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            fields.into_iter().map(|(key, value)| (key.clone(), in_order(value))).collect()
        }
        Value::Array(list) => list.iter().map(in_order).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_bytes_are_sorted_and_tight() {
        let value = json!({"b": [1, -2, true, null], "a": {"é": "\u{1}\n\"\\/", "z": 0}});
        let bytes = to_bytes(&value).unwrap();
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            "{\"a\":{\"z\":0,\"é\":\"\\u0001\\n\\\"\\\\/\"},\"b\":[1,-2,true,null]}"
        );
        assert_eq!(parse::<Value>(&bytes, 1000).unwrap(), value);
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for text in [
            "{ }",
            "{}\n",
            "{\"b\":1,\"a\":2}",
            "{\"a\":1,\"a\":1}",
            "1.0",
            "1e3",
            "-0",
            "9007199254740992",
            "\"\\u0041\"",
            "\"\\/\"",
            "[1,]",
            "",
            "\u{feff}{}",
        ] {
            assert!(parse::<Value>(text.as_bytes(), 100).is_err(), "{text:?} was accepted");
        }
        assert!(matches!(parse::<Value>(b"{}", 1), Err(JsonError::TooLong { .. })));
        assert!(parse::<Value>("[".repeat(100_000).as_bytes(), 1 << 20).is_err());
    }
}
