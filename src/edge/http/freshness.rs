//! How long an answer of an origin may be used again: HTTP's caching rules (RFC 9111) for a shared
//! cache. Pure.
//!
//! Where a header is malformed or says two things, the answer counts as stale. Who asks may demand
//! more than the origin (`no-cache`, `max-age`, `min-fresh`) and never gets less.

use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use hyper::header::{AGE, CACHE_CONTROL, DATE, EXPIRES, HeaderName, PRAGMA, VARY};

/// The longest time that is told apart from for ever.
const EVER: Duration = Duration::from_secs(1 << 31);

/// What an origin's answer says of its own use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Freshness {
    answered: SystemTime,
    /// How old it was when it came.
    initial_age: Duration,
    /// From its making on; `None` if the origin says nothing.
    lifetime: Option<Duration>,
    /// Whether it may be kept.
    pub(crate) storable: bool,
    /// Whether it may never be used without asking.
    no_cache: bool,
    /// How long past its lifetime it may be used while the origin cannot be asked; `None` if the
    /// origin says nothing.
    pub(crate) stale_if_error: Option<Duration>,
}

/// What a client's own directives demand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Demands {
    no_cache: bool,
    max_age: Option<Duration>,
    min_fresh: Duration,
    /// How stale it may be.
    max_stale: Duration,
    /// Whether the origin may not be asked.
    pub(crate) only_if_cached: bool,
}

impl Freshness {
    /// Reads the head of an answer that was asked for and came at these times.
    pub(crate) fn of(headers: &HeaderMap, asked: SystemTime, answered: SystemTime) -> Self {
        let control = Directives::of(headers, CACHE_CONTROL);
        let date = time(headers, DATE).unwrap_or(answered);
        let apparent = answered.duration_since(date).unwrap_or_default();
        let delay = answered.duration_since(asked).unwrap_or_default();
        let given = control.seconds("s-maxage").or_else(|| control.seconds("max-age"));
        let lifetime = given.or_else(|| {
            headers.contains_key(EXPIRES).then(|| {
                let expires = time(headers, EXPIRES);
                expires.and_then(|end| end.duration_since(date).ok()).unwrap_or_default()
            })
        });
        let strict = ["must-revalidate", "proxy-revalidate", "s-maxage", "no-cache"];
        let is_strict = strict.iter().any(|name| control.has(name));
        let any_vary = headers.get_all(VARY).iter().any(|vary| vary.as_bytes().contains(&b'*'));
        Self {
            answered,
            initial_age: apparent.max(age(headers) + delay),
            lifetime,
            storable: !["no-store", "private"].iter().any(|name| control.has(name)) && !any_vary,
            no_cache: control.has("no-cache"),
            stale_if_error: match is_strict {
                true => Some(Duration::ZERO),
                false => control.seconds("stale-if-error"),
            },
        }
    }

    /// What holds for an origin that speaks no HTTP.
    pub(crate) fn unsaid(answered: SystemTime) -> Self {
        Self::of(&HeaderMap::new(), answered, answered)
    }

    /// Whether the origin says how long.
    pub(crate) fn is_explicit(&self) -> bool {
        self.lifetime.is_some() || self.no_cache || !self.storable
    }

    /// How long ago the origin made it.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        self.initial_age + now.duration_since(self.answered).unwrap_or_default()
    }

    /// How long ago it stopped being fresh, or how long it still is, if nothing is said for `unsaid`.
    fn overdue(&self, now: SystemTime, unsaid: Duration) -> Result<Duration, Duration> {
        let lifetime = self.lifetime.unwrap_or(unsaid);
        let age = self.age(now);
        match lifetime.checked_sub(age) {
            Some(left) if !left.is_zero() => Err(left),
            _ => Ok(age.saturating_sub(lifetime)),
        }
    }

    /// Whether it may be used without asking the origin.
    pub(crate) fn serves(&self, now: SystemTime, unsaid: Duration, asked: &Demands) -> bool {
        if self.no_cache || asked.no_cache {
            return false;
        }
        if asked.max_age.is_some_and(|most| self.age(now) >= most) {
            return false;
        }
        match self.overdue(now, unsaid) {
            Err(left) => left > asked.min_fresh || asked.min_fresh.is_zero(),
            Ok(past) => {
                let strict = self.stale_if_error == Some(Duration::ZERO);
                !strict && !asked.max_stale.is_zero() && past <= asked.max_stale
            }
        }
    }

    /// Whether it may be used although the origin cannot be asked: `unsaid` is how long it is fresh,
    /// and `bound` how long it may be stale, where the origin does not say.
    pub(crate) fn serves_stale(&self, now: SystemTime, unsaid: Duration, bound: Duration) -> bool {
        let past = self.overdue(now, unsaid).unwrap_or_default();
        past <= self.stale_if_error.unwrap_or(bound) && !self.no_cache
    }
}

impl Demands {
    /// Reads the head of a request.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let control = Directives::of(headers, CACHE_CONTROL);
        let pragma = Directives::of(headers, PRAGMA);
        let max_stale = match control.value("max-stale") {
            Some(None) => EVER,
            Some(Some(_)) => control.seconds("max-stale").unwrap_or_default(),
            None => Duration::ZERO,
        };
        Self {
            no_cache: control.has("no-cache") || (control.0.is_empty() && pragma.has("no-cache")),
            max_age: control.seconds("max-age"),
            min_fresh: control.seconds("min-fresh").unwrap_or_default(),
            max_stale,
            only_if_cached: control.has("only-if-cached"),
        }
    }
}

/// The directives of a header: names in lower case.
struct Directives(Vec<(String, Option<String>)>);

impl Directives {
    fn of(headers: &HeaderMap, name: HeaderName) -> Self {
        let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        let members = lines.flat_map(members);
        let directive = |member: String| match member.split_once('=') {
            Some((name, value)) => (name.to_ascii_lowercase(), Some(value.to_owned())),
            None => (member.to_ascii_lowercase(), None),
        };
        Self(members.map(directive).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| given.trim() == name)
    }

    /// The value of the first such directive.
    fn value(&self, name: &str) -> Option<Option<&str>> {
        let found = self.0.iter().find(|(given, _)| given.trim() == name)?;
        Some(found.1.as_deref())
    }

    /// The seconds that a directive gives: the fewest, if it stands there twice, and none at all if
    /// one is malformed.
    fn seconds(&self, name: &str) -> Option<Duration> {
        let given = self.0.iter().filter(|(given, _)| given.trim() == name);
        given
            .map(|(given, value)| {
                let value = value.as_deref().unwrap_or_default();
                let value =
                    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
                if given == name { seconds(value).unwrap_or_default() } else { Duration::ZERO }
            })
            .min()
    }
}

/// The members of a list; a comma in a quoted string is none of the list's.
fn members(line: &str) -> Vec<String> {
    let (mut all, mut current, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            ',' if !quoted => all.push(std::mem::take(&mut current)),
            '"' if !escaped => {
                quoted = !quoted;
                current.push(c);
            }
            c => current.push(c),
        }
        escaped = c == '\\' && quoted && !escaped;
    }
    all.push(current);
    all.iter().map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
}

fn seconds(text: &str) -> Option<Duration> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().map_or(EVER, Duration::from_secs).min(EVER))
}

/// The first `Age`; one that is no number does not count.
fn age(headers: &HeaderMap) -> Duration {
    let first = headers.get(AGE).and_then(|age| age.to_str().ok());
    let first = first.and_then(|age| age.split(',').next());
    first.and_then(|age| seconds(age.trim())).unwrap_or_default()
}

/// A date that stands there once.
fn time(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => httpdate::parse_http_date(value.to_str().ok()?).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_headers_say_is_read(
            values in prop::collection::vec(
                prop_oneof![
                    "[ -~\\x80-\\xff]{0,40}",
                    "(max-age|s-maxage|min-fresh|max-stale|no-cache|stale-if-error)[ =\",0-9a-z]{0,30}",
                ],
                1..4,
            ),
            offset in 0..1u64 << 40,
        ) {
            let mut headers = HeaderMap::new();
            for name in [CACHE_CONTROL, AGE, EXPIRES, DATE, VARY, PRAGMA] {
                for value in &values {
                    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                        headers.append(name.clone(), value);
                    }
                }
            }
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(offset);
            let freshness = Freshness::of(&headers, now, now);
            let demands = Demands::of(&headers);
            // More is never allowed to those who demand more, nor to what grows older.
            let later = now + EVER * 2;
            if freshness.serves(now, EVER, &demands) && demands.max_stale.is_zero() {
                prop_assert!(freshness.serves(now, EVER, &Demands::default()));
            }
            if freshness.serves_stale(later, Duration::ZERO, EVER) {
                prop_assert!(freshness.serves_stale(now, Duration::ZERO, EVER));
            }
        }
    }
}
