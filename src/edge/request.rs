//! What a request asks for. Pure; whatever a client sends, it means an object of the store, or
//! nothing.

use hyper::HeaderMap;
use hyper::header::{GetAll, HeaderValue, IF_RANGE, RANGE};

use crate::source::{ObjectPath, Version};

/// The folders of a store that are served.
const FOLDERS: [&str; 7] =
    ["refs", "manifests", "tables", "layouts", "packs", "by-tensor", "signatures"];
/// The one object at the top.
const DESCRIPTOR: &str = "tenpak.json";

/// The part of an object that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// From a byte to before another, which may lie beyond the end.
    Between(u64, u64),
    /// From a byte to the end.
    From(u64),
    /// The last bytes.
    Last(u64),
}

/// The object that a request's path names, if a store may hold it.
pub(super) fn object_path(path: &str) -> Option<ObjectPath> {
    let path = ObjectPath::new(decode(path.strip_prefix('/')?)?)?;
    let served = match path.as_str().split_once('/') {
        Some((folder, _)) => FOLDERS.contains(&folder),
        None => path.as_str() == DESCRIPTOR,
    };
    served.then_some(path)
}

/// Whether the object of that path may be replaced.
pub(super) fn is_mutable(path: &ObjectPath) -> bool {
    ["refs/", "layouts/"].iter().any(|folder| path.as_str().starts_with(folder))
}

/// Undoes percent-encoding; `None` if it is broken or hides no UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        };
        out.push(byte);
    }
    String::from_utf8(out).ok()
}

/// The range asked for. One that is malformed, manifold or conditional means the whole object, as
/// HTTP allows.
pub(super) fn wanted(headers: &HeaderMap) -> Wanted {
    if headers.contains_key(IF_RANGE) {
        return Wanted::Whole;
    }
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    range.and_then(parse_range).unwrap_or(Wanted::Whole)
}

fn parse_range(range: &str) -> Option<Wanted> {
    let number = |text: &str| -> Option<u64> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (unit, range) = range.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    match range.trim().split_once('-')? {
        ("", last) => Some(Wanted::Last(number(last)?)),
        (first, "") => Some(Wanted::From(number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Wanted::Between(first, last.saturating_add(1)))
        }
    }
}

/// A backend's version as an entity tag.
pub(super) fn entity_tag(version: &Version) -> Option<HeaderValue> {
    let text = version.tag.as_str();
    let quoted = text.trim_start_matches("W/").starts_with('"');
    match quoted {
        true => HeaderValue::try_from(text).ok(),
        false => HeaderValue::try_from(format!("\"{}\"", text.replace('"', ""))).ok(),
    }
}

/// Whether one of the tags of an `If-None-Match` is `tag`, by weak comparison.
pub(super) fn matches(given: GetAll<'_, HeaderValue>, tag: &HeaderValue) -> bool {
    let Ok(tag) = tag.to_str() else {
        return false;
    };
    let strong = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let tag = strong(tag);
    given
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim() == "*" || strong(one) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stores_own_paths_are_served() {
        for (path, object) in [
            ("/tenpak.json", "tenpak.json"),
            ("/packs/00", "packs/00"),
            ("/refs/org/model/@latest", "refs/org/model/@latest"),
            ("/refs/a%20b/%40v%25", "refs/a b/@v%"),
        ] {
            assert_eq!(object_path(path).map(|p| p.to_string()).as_deref(), Some(object));
        }
        for path in [
            "",
            "/",
            "*",
            "/packs",
            "/packs/",
            "/other/x",
            "/tenpak.json/x",
            "/.lock",
            "/packs/../secret",
            "/packs/%2e%2e/secret",
            "/packs/%2E%2E%2Fsecret",
            "/%2e/packs/x",
            "/packs//x",
            "/packs/%",
            "/packs/%4",
            "/packs/%zz",
            "/packs/%ff",
            "/packs/%00",
            "/packs%5cx",
            "/packs/a%0ab",
        ] {
            assert_eq!(object_path(path), None, "{path}");
        }
    }

    #[test]
    fn ranges_are_read() {
        for (text, expected) in [
            ("bytes=0-0", Some(Wanted::Between(0, 1))),
            ("bytes=5-9", Some(Wanted::Between(5, 10))),
            ("Bytes=5-", Some(Wanted::From(5))),
            ("bytes=-7", Some(Wanted::Last(7))),
            ("bytes=0-99999999999999999999", Some(Wanted::Between(0, u64::MAX))),
            ("bytes=9-5", None),
            ("bytes=0-1,3-4", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("lines=1-2", None),
            ("bytes", None),
        ] {
            assert_eq!(parse_range(text), expected, "{text}");
        }
    }
}
