//! Conditional requests (RFC 9110, section 13). Pure.
//!
//! Entity tags decide where both sides have them; times only where they do not.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::HeaderMap;
use hyper::header::{
    HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};

/// What the conditions of a GET or HEAD come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The object is to be sent.
    Send,
    /// The client has it.
    NotModified,
    /// The client wants another one than this.
    Failed,
}

/// Holds the conditions of `headers` against an object with that entity tag, last modified then.
pub(crate) fn judge(
    headers: &HeaderMap,
    tag: Option<&HeaderValue>,
    modified: Option<SystemTime>,
) -> Verdict {
    let tag = tag.and_then(|tag| Tag::parse(tag.to_str().ok()?).map(|(tag, _)| tag));
    if headers.contains_key(IF_MATCH) {
        if !matches(headers, IF_MATCH, tag, |given, tag| given.is_strongly(tag)) {
            return Verdict::Failed;
        }
    } else if let (Some(since), Some(modified)) = (time(headers, IF_UNMODIFIED_SINCE), modified)
        && seconds(modified) > seconds(since)
    {
        return Verdict::Failed;
    }
    if headers.contains_key(IF_NONE_MATCH) {
        if matches(headers, IF_NONE_MATCH, tag, |given, tag| given.is_weakly(tag)) {
            return Verdict::NotModified;
        }
    } else if let (Some(since), Some(modified)) = (time(headers, IF_MODIFIED_SINCE), modified)
        && seconds(modified) <= seconds(since)
    {
        return Verdict::NotModified;
    }
    Verdict::Send
}

/// Whether a range is to be looked at: without `If-Range` always, otherwise only if the object is
/// still exactly the one that the client has a part of.
pub(crate) fn range_counts(
    headers: &HeaderMap,
    tag: Option<&HeaderValue>,
    modified: Option<SystemTime>,
) -> bool {
    let Some(given) = headers.get(IF_RANGE) else { return true };
    let Ok(given) = given.to_str() else { return false };
    if let Some((given, "")) = Tag::parse(given.trim()) {
        let tag = tag.and_then(|tag| Tag::parse(tag.to_str().ok()?));
        return tag.is_some_and(|(tag, _)| given.is_strongly(tag));
    }
    match (httpdate::parse_http_date(given), modified) {
        (Ok(given), Some(modified)) => seconds(given) == seconds(modified),
        _ => false,
    }
}

/// An entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    text: &'a str,
}

impl<'a> Tag<'a> {
    /// Reads the tag that `text` begins with; gives what follows.
    fn parse(text: &'a str) -> Option<(Self, &'a str)> {
        let (weak, quoted) = match text.strip_prefix("W/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (text, rest) = quoted.strip_prefix('"')?.split_once('"')?;
        Some((Self { weak, text }, rest))
    }

    fn is_weakly(self, other: Self) -> bool {
        self.text == other.text
    }

    fn is_strongly(self, other: Self) -> bool {
        self == other && !self.weak
    }
}

/// Whether a list of tags, or `*`, holds the object's.
fn matches(
    headers: &HeaderMap,
    name: HeaderName,
    tag: Option<Tag<'_>>,
    same: impl Fn(Tag<'_>, Tag<'_>) -> bool,
) -> bool {
    headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        let mut rest = value.trim();
        if rest == "*" {
            return true;
        }
        // A comma may stand in a tag.
        while let Some((given, after)) = Tag::parse(rest) {
            if tag.is_some_and(|tag| same(given, tag)) {
                return true;
            }
            rest = after.trim_start_matches([',', ' ', '\t']);
        }
        false
    })
}

fn time(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// HTTP's dates are whole seconds.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    fn then() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(784_111_777_500)
    }

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    #[test]
    fn conditions_are_held_against_the_object() {
        use Verdict::*;
        let tag = HeaderValue::from_static("\"a,b\"");
        for (given, expected) in [
            (&[][..], Send),
            (&[("if-none-match", "\"a,b\"")], NotModified),
            (&[("if-none-match", "W/\"a,b\"")], NotModified),
            (&[("if-none-match", "\"x\", W/\"y\" ,\t\"a,b\"")], NotModified),
            (&[("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", " * ")], NotModified),
            (&[("if-none-match", "\"a\"")], Send),
            (&[("if-none-match", "a,b")], Send),
            (&[("if-none-match", "\"a,b")], Send),
            (&[("if-none-match", "\"x\""), ("if-modified-since", THEN)], Send),
            (&[("if-modified-since", THEN)], NotModified),
            (&[("if-modified-since", BEFORE)], Send),
            (&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], NotModified),
            (&[("if-modified-since", "yesterday")], Send),
            (&[("if-match", "\"a,b\"")], Send),
            (&[("if-match", "*")], Send),
            (&[("if-match", "W/\"a,b\"")], Failed),
            (&[("if-match", "\"x\"")], Failed),
            (&[("if-match", "\"x\""), ("if-unmodified-since", THEN)], Failed),
            (&[("if-unmodified-since", THEN)], Send),
            (&[("if-unmodified-since", BEFORE)], Failed),
        ] {
            assert_eq!(judge(&headers(given), Some(&tag), Some(then())), expected, "{given:?}");
        }
        let given = headers(&[("if-none-match", "\"x\"")]);
        assert_eq!(judge(&given, None, None), Send);
    }

    #[test]
    fn a_part_is_sent_only_of_the_same_object() {
        let (strong, weak) =
            (HeaderValue::from_static("\"a\""), HeaderValue::from_static("W/\"a\""));
        for (given, tag, expected) in [
            ("\"a\"", Some(&strong), true),
            ("\"b\"", Some(&strong), false),
            ("W/\"a\"", Some(&strong), false),
            ("\"a\"", Some(&weak), false),
            ("W/\"a\"", Some(&weak), false),
            ("\"a\", \"b\"", Some(&strong), false),
            ("\"a\"", None, false),
            (THEN, Some(&strong), true),
            (BEFORE, Some(&strong), false),
            ("then", Some(&strong), false),
        ] {
            let given = headers(&[("if-range", given)]);
            assert_eq!(range_counts(&given, tag, Some(then())), expected, "{given:?}");
        }
        assert!(range_counts(&HeaderMap::new(), None, None));
        assert!(!range_counts(&headers(&[("if-range", THEN)]), None, None));
    }
}
