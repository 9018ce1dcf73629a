//! Answers of S3 as XML. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::edge::api::s3::keys::Page;
use crate::format::markup::escape;
use crate::format::time;

/// The page as XML.
pub(crate) fn listing(page: &Page, bucket: &str) -> String {
    let text = |value: &str| match page.query.is_url {
        true => escape(&encode(value)),
        false => escape(value),
    };
    let mut out = element("Name", &escape(bucket)) + &element("Prefix", &text(&page.query.prefix));
    if let Some(delimiter) = &page.query.delimiter {
        out += &element("Delimiter", &text(delimiter));
    }
    match page.query.is_v2 {
        true => out += &second(page, text),
        false => {
            out += &element("Marker", &text(page.query.marker.as_deref().unwrap_or_default()));
            if page.truncated {
                out += &element("NextMarker", &text(&page.last));
            }
        }
    }
    out += &element("MaxKeys", &page.query.max.to_string());
    out += &element("IsTruncated", if page.truncated { "true" } else { "false" });
    if page.query.is_url {
        out += &element("EncodingType", "url");
    }
    for entry in &page.entries {
        let inside = element("Key", &text(&entry.key))
            + &element("LastModified", &date(entry.modified))
            + &element("ETag", &escape(&format!("\"{}\"", entry.etag)))
            + &element("Size", &entry.size.to_string())
            + &element("StorageClass", "STANDARD");
        out += &element("Contents", &inside);
    }
    for prefix in &page.prefixes {
        out += &element("CommonPrefixes", &element("Prefix", &text(prefix)));
    }
    document("ListBucketResult", &out)
}

/// What only the second version of a listing says.
fn second(page: &Page, text: impl Fn(&str) -> String) -> String {
    let mut out = String::new();
    if let Some(after) = &page.query.start_after {
        out += &element("StartAfter", &text(after));
    }
    if let Some(token) = &page.query.token {
        out += &element("ContinuationToken", &escape(token));
    }
    if page.truncated {
        let token = crate::format::id::to_hex(page.last.as_bytes());
        out += &element("NextContinuationToken", &token);
    }
    let count = page.entries.len() + page.prefixes.len();
    out + &element("KeyCount", &count.to_string())
}

/// Where a bucket lies: in no region.
pub(crate) fn location() -> String {
    document("LocationConstraint", "")
}

/// The answer to a listing of buckets.
pub(crate) fn buckets(buckets: &[String]) -> String {
    let bucket = |name: &String| {
        element("Bucket", &(element("Name", &escape(name)) + &element("CreationDate", EPOCH)))
    };
    let owner = element("Owner", &element("ID", "tenpak"));
    let all: String = buckets.iter().map(bucket).collect();
    document("ListAllMyBucketsResult", &(owner + &element("Buckets", &all)))
}

/// An error as S3 words it.
pub(crate) fn error(code: &str, message: &str, resource: &str) -> String {
    let inside = element("Code", code)
        + &element("Message", &escape(message))
        + &element("Resource", &escape(resource));
    format!("{HEAD}<Error>{inside}</Error>")
}

/// A bucket is a part of all names, and has no time.
const EPOCH: &str = "1970-01-01T00:00:00.000Z";

/// A time as S3 writes it. It says seconds, as headers do: clients compare the two.
fn date(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    time::date_with_fraction(seconds)
}

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

fn document(name: &str, inside: &str) -> String {
    format!("{HEAD}<{name} xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inside}</{name}>")
}

fn element(name: &str, inside: &str) -> String {
    format!("<{name}>{inside}</{name}>")
}

/// Percent-encoding as S3 does it for `encoding-type=url`.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte.into());
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::api::s3::keys::Query;

    #[test]
    fn text_is_made_safe() {
        let query = Query::parse("prefix=%3Ca%26%01&encoding-type=url").unwrap();
        assert!(listing(&Page::new(query), "b").contains("<Prefix>%3Ca%26%01</Prefix>"));
        let query = Query::parse("prefix=%3Ca%26%01").unwrap();
        assert!(listing(&Page::new(query), "b").contains("<Prefix>&lt;a&amp;\u{fffd}</Prefix>"));
    }
}
