//! Which bytes of an object a `Range` means (RFC 9110, section 14). Pure.
//!
//! Whatever a client sends, the parts lie in the object, ascend, do not touch, and are few: what it
//! costs to answer is bounded by the object, not by the header.

use std::ops::Range;

use hyper::HeaderMap;
use hyper::header::RANGE;

/// Ranges looked at in one header.
const MAX_SPECS: usize = 1000;
/// Parts of one answer.
const MAX_PARTS: usize = 100;
/// Parts that lie closer than this are one: what lies between costs less than a part's own head.
const GAP: u64 = 96;

/// The bytes that are wanted of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// All of them: no range, or one that HTTP says to ignore.
    Whole,
    /// One range, not empty.
    Part(Range<u64>),
    /// Several.
    Parts(Vec<Range<u64>>),
    /// None that the object has, or too many small ones.
    Beyond,
}

/// The bytes that `headers` ask for of an object of `size` bytes.
pub(crate) fn wanted(headers: &HeaderMap, size: u64) -> Ranges {
    let mut values = headers.get_all(RANGE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Ranges::Whole };
    let Some(specs) = value.to_str().ok().and_then(specs) else { return Ranges::Whole };
    let mut found = Vec::new();
    for (count, spec) in specs.enumerate() {
        if count == MAX_SPECS {
            return Ranges::Beyond;
        }
        match parse(spec, size) {
            Some(range) if range.is_empty() => {}
            Some(range) => found.push(range),
            // One that is malformed spoils them all.
            None => return Ranges::Whole,
        }
    }
    let mut parts = merge(found);
    match (parts.pop(), parts.len()) {
        (None, _) => Ranges::Beyond,
        (Some(only), 0) => Ranges::Part(only),
        (Some(_), count) if count >= MAX_PARTS => Ranges::Beyond,
        (Some(last), _) => {
            parts.push(last);
            Ranges::Parts(parts)
        }
    }
}

/// The members of a range header in bytes; `None` if it is of another unit or empty.
fn specs(value: &str) -> Option<impl Iterator<Item = &str>> {
    let (unit, set) = value.split_once('=')?;
    let members = move || set.split(',').map(str::trim).filter(|spec| !spec.is_empty());
    members().next()?;
    unit.eq_ignore_ascii_case("bytes").then(members)
}

/// One range, cut to the object; `None` if it is malformed.
fn parse(spec: &str, size: u64) -> Option<Range<u64>> {
    let number = |text: &str| -> Option<u64> {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // A number that is too large lies beyond every object.
        plain.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (first, last) = spec.split_once('-')?;
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(range)
}

/// The same bytes in ascending parts that neither overlap nor nearly touch.
fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP) => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    fn of(value: &str, size: u64) -> Ranges {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::try_from(value).unwrap());
        wanted(&headers, size)
    }

    #[test]
    fn ranges_are_read() {
        use Ranges::*;
        let many = |step: u64, count: u64| {
            let all: Vec<String> = (0..count).map(|i| format!("{0}-{0}", i * step)).collect();
            format!("bytes={}", all.join(","))
        };
        for (text, expected) in [
            ("bytes=0-0", Part(0..1)),
            ("bytes=5-9", Part(5..10)),
            ("Bytes=5-", Part(5..1000)),
            ("bytes=-7", Part(993..1000)),
            ("bytes=-2000", Part(0..1000)),
            ("bytes=990-99999999999999999999", Part(990..1000)),
            ("bytes=1000-", Beyond),
            ("bytes=-0", Beyond),
            ("bytes=99999999999999999999-", Beyond),
            ("bytes=9-5", Whole),
            ("bytes=0-1,9-5", Whole),
            ("bytes=0-1, 3-4", Part(0..5)),
            ("bytes=0-1,,300-301,", Parts(vec![0..2, 300..302])),
            ("bytes=300-301,0-1", Parts(vec![0..2, 300..302])),
            ("bytes=0-1,1000-2000", Part(0..2)),
            ("bytes=0-500,200-700,-300", Part(0..1000)),
            ("bytes=", Whole),
            ("bytes=,", Whole),
            ("bytes=-", Whole),
            ("bytes=--1", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=1-2-3", Whole),
            ("lines=1-2", Whole),
            ("bytes", Whole),
        ] {
            assert_eq!(of(text, 1000), expected, "{text}");
        }
        assert_eq!(of(&many(2, 900), 1_000_000), Part(0..1799));
        let Parts(parts) = of(&many(200, 100), 1_000_000) else { panic!("100 parts are few") };
        assert_eq!(parts.len(), 100);
        assert_eq!(of(&many(200, 101), 1_000_000), Beyond);
        assert_eq!(of(&many(2, 1001), 1_000_000), Beyond);
        let mut two = HeaderMap::new();
        two.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        two.append(RANGE, HeaderValue::from_static("bytes=5-6"));
        assert_eq!(wanted(&two, 1000), Whole);
    }

    proptest! {
        #[test]
        fn parts_hold_what_was_asked_and_little_else(
            asked in prop::collection::vec((0..5000_u64, 0..400_u64), 1..60),
        ) {
            const SIZE: u64 = 4000;
            let specs: Vec<String> =
                asked.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
            let parts = match of(&format!("bytes={}", specs.join(",")), SIZE) {
                Ranges::Part(part) => vec![part],
                Ranges::Parts(parts) => parts,
                Ranges::Beyond => Vec::new(),
                Ranges::Whole => panic!("every range is well formed"),
            };
            prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= SIZE));
            prop_assert!(parts.windows(2).all(|two| two[0].end + GAP < two[1].start));
            let mut wanted = vec![false; SIZE as usize];
            for (first, more) in &asked {
                (*first..=first + more).filter(|b| *b < SIZE).for_each(|b| wanted[b as usize] = true);
            }
            let mut sent = vec![false; SIZE as usize];
            for part in &parts {
                prop_assert!(wanted[part.start as usize] && wanted[part.end as usize - 1]);
                part.clone().for_each(|b| sent[b as usize] = true);
            }
            let mut unasked = 0;
            for (wanted, sent) in wanted.iter().zip(&sent) {
                prop_assert!(*sent || !wanted, "a byte is missing");
                unasked = if *sent && !wanted { unasked + 1 } else { 0 };
                prop_assert!(unasked <= GAP, "bytes that nobody asked for");
            }
        }
    }
}
