//! Artifact names, tags, and the ARTIFACT argument of the command line.
//!
//! A name becomes a directory below `refs/` and a tag a file there, so both are restricted to
//! characters that are safe in paths, URLs and shells on every system, and neither can be `..`.
//! One name has one spelling: `main` is read as `latest` and never written.

use std::fmt;
use std::str::FromStr;

use crate::format::id::ManifestId;

const MAX_SEGMENT: usize = 96;
const MAX_TAG: usize = 128;
const MIN_PREFIX: usize = 6;

/// Why a text names no artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not one or two well-formed segments.
    #[error(
        "`{0}` is no artifact name: expected `model` or `org/model`, each of 1 to 96 letters, digits, `.`, `_` or `-`, beginning with a letter or digit"
    )]
    Name(String),
    /// `refs/index` is the index of all refs.
    #[error("`{0}` is reserved: a name cannot begin with the segment `index`; choose another")]
    Reserved(String),
    /// Not a well-formed tag.
    #[error(
        "`{0}` is no tag: expected 1 to 128 letters, digits, `.`, `_` or `-`, beginning with a letter or digit"
    )]
    Tag(String),
    /// Not a manifest id nor a prefix of one.
    #[error("`@{0}` is no manifest id: expected `@` and 6 to 64 lowercase hexadecimal digits")]
    Id(String),
}

/// At most 80 characters of hostile text, without control characters.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

fn is_word(text: &str, limit: usize) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= limit
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

macro_rules! text_type {
    ($name:ident) => {
        impl $name {
            /// The canonical spelling.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                let value: Self = text.parse().map_err(serde::de::Error::custom)?;
                if value.0 != text {
                    return Err(serde::de::Error::custom(format_args!(
                        "`{}` must be written `{value}`",
                        shown(&text)
                    )));
                }
                Ok(value)
            }
        }
    };
}

/// `model` or `org/model`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArtifactName(String);

text_type!(ArtifactName);

impl FromStr for ArtifactName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut segments = text.split('/');
        let first = segments.next().unwrap_or_default();
        let fits = is_word(first, MAX_SEGMENT)
            && segments.next().is_none_or(|second| is_word(second, MAX_SEGMENT))
            && segments.next().is_none();
        if !fits {
            return Err(NameError::Name(shown(text)));
        }
        // Case-insensitive, because some file systems are.
        if first.eq_ignore_ascii_case("index") {
            return Err(NameError::Reserved(shown(text)));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A tag of an artifact; `main` and `latest` are the same tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

text_type!(Tag);

impl Default for Tag {
    fn default() -> Self {
        Self("latest".to_owned())
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if !is_word(text, MAX_TAG) {
            return Err(NameError::Tag(shown(text)));
        }
        Ok(if text == "main" { Self::default() } else { Self(text.to_owned()) })
    }
}

/// One name, or all names that begin alike: `org/model`, `org/`, `org/llama-*`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePattern {
    /// This name alone.
    Name(ArtifactName),
    /// All that begin so.
    Prefix(String),
}

impl NamePattern {
    /// Every name.
    pub const ALL: Self = Self::Prefix(String::new());

    /// Whether it means this name.
    pub fn matches(&self, name: &ArtifactName) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Prefix(prefix) => name.as_str().starts_with(prefix.as_str()),
        }
    }

    /// Whether it may mean a name from `from` to `to`, both included, in the order of names.
    pub fn may_lie_between(&self, from: Option<&str>, to: Option<&str>) -> bool {
        // The names of a prefix lie together, and it comes before all of them.
        let (first, is_begun) = match self {
            Self::Name(name) => (name.as_str(), false),
            Self::Prefix(prefix) => (prefix.as_str(), from.is_some_and(|f| f.starts_with(prefix))),
        };
        from.is_none_or(|from| from <= first || is_begun) && to.is_none_or(|to| first <= to)
    }

    /// The names' folder, ending in `/`: nothing below another folder matches.
    pub fn folder(&self) -> String {
        match self {
            Self::Name(name) => format!("{name}/"),
            Self::Prefix(prefix) => {
                prefix.split_inclusive('/').filter(|part| part.ends_with('/')).collect()
            }
        }
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let prefix = match text.strip_suffix('*') {
            None if text.ends_with('/') => text,
            None => return Ok(Self::Name(text.parse()?)),
            Some(prefix) => prefix,
        };
        // With one letter more it is a name, or it begins none.
        match prefix.is_empty() || format!("{prefix}a").parse::<ArtifactName>().is_ok() {
            true => Ok(Self::Prefix(prefix.to_owned())),
            false => Err(NameError::Name(shown(text))),
        }
    }
}

/// A manifest id, or its first 6 or more digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id, if all of its digits were given.
    pub fn exact(&self) -> Option<ManifestId> {
        self.0.parse().ok()
    }

    /// Whether `id` begins with these digits.
    pub fn matches(&self, id: ManifestId) -> bool {
        id.to_hex().starts_with(&self.0)
    }
}

/// What the command line calls ARTIFACT: `name[:tag]`, or `@` and an id or a prefix of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ArtifactSpec {
    /// Through a ref.
    Named {
        /// The artifact.
        name: ArtifactName,
        /// Which of its refs; `latest` if left out.
        tag: Tag,
    },
    /// By what it contains.
    Id(IdPrefix),
}

impl FromStr for ArtifactSpec {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some(digits) = text.strip_prefix('@') {
            let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
            return if (MIN_PREFIX..=64).contains(&digits.len()) && digits.as_bytes().iter().all(hex)
            {
                Ok(Self::Id(IdPrefix(digits.to_owned())))
            } else {
                Err(NameError::Id(shown(digits)))
            };
        }
        let (name, tag) = match text.split_once(':') {
            Some((name, tag)) => (name.parse()?, tag.parse()?),
            None => (text.parse()?, Tag::default()),
        };
        Ok(Self::Named { name, tag })
    }
}

impl fmt::Display for ArtifactSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { name, tag } => write!(f, "{name}:{tag}"),
            Self::Id(prefix) => write!(f, "@{}", prefix.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_or_two_words() {
        let long = "a".repeat(96);
        for good in ["a", "org/model", "A.b_c-1/0x", "indexes/a", "a/index", &long] {
            assert_eq!(good.parse::<ArtifactName>().map(|n| n.to_string()).as_deref(), Ok(good));
        }
        let too_long = "a".repeat(97);
        for bad in [
            "", "/", "a/", "/a", "a/b/c", "..", "a/..", ".a", "-a", "a b", "a\n", "a\\b", "ü",
            "a:b", "index", "Index", "index/a", "a//b", &too_long,
        ] {
            assert!(bad.parse::<ArtifactName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn patterns_are_names_or_what_they_begin_with() {
        let of = |text: &str| text.parse::<NamePattern>().unwrap();
        let names = ["a", "a-b", "a/b", "ab", "b"].map(|name| name.parse().unwrap());
        let count = |text: &str| names.iter().filter(|name| of(text).matches(name)).count();
        assert_eq!(["a", "a*", "a/", "a/*", "*", "c*"].map(count), [1, 4, 1, 1, 5, 0]);
        assert_eq!(
            ["a/b", "a/", "a/b*", "ab*", "*"].map(|text| of(text).folder()),
            ["a/b/", "a/", "a/", "", ""]
        );
        assert_eq!(of("*"), NamePattern::ALL);
        for bad in ["", "/", "a//", "a/b/", "a/b/c*", "-*", "a b*", "index/", "**", "../"] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad:?} was accepted");
        }
        // Against what is listed: a range is passed over only if it holds no name that matches.
        for text in ["a", "a*", "a-b", "a/", "b*", "*", "aa*"] {
            for from in 0..names.len() {
                for to in from..names.len() {
                    let some = names[from..=to].iter().any(|name| of(text).matches(name));
                    let may = |from, to| of(text).may_lie_between(from, to);
                    let (first, last) = (names[from].as_str(), names[to].as_str());
                    assert!(!some || may(Some(first), Some(last)), "{text} {from} {to}");
                    assert!(!some || may(None, Some(last)) && may(Some(first), None));
                }
            }
        }
        assert!(!of("a").may_lie_between(Some("a-b"), None));
        assert!(!of("a/*").may_lie_between(Some("ab"), None));
        assert!(!of("b*").may_lie_between(None, Some("ab")));
    }

    #[test]
    fn main_is_latest_and_has_one_spelling() {
        assert_eq!("main".parse::<Tag>(), Ok(Tag::default()));
        assert_eq!("v1.0".parse::<Tag>().map(|t| t.to_string()).as_deref(), Ok("v1.0"));
        assert!(serde_json::from_str::<Tag>("\"latest\"").is_ok());
        assert!(serde_json::from_str::<Tag>("\"main\"").is_err());
        for bad in ["", ".", "..", "a/b", "a:b", "@a", &"a".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?} was accepted");
        }
        assert!("a".repeat(128).parse::<Tag>().is_ok());
    }

    #[test]
    fn specs_are_names_or_ids() {
        let show = |text: &str| text.parse::<ArtifactSpec>().map(|spec| spec.to_string());
        assert_eq!(show("a/b").as_deref(), Ok("a/b:latest"));
        assert_eq!(show("a/b:main").as_deref(), Ok("a/b:latest"));
        assert_eq!(show("a:v2").as_deref(), Ok("a:v2"));
        assert_eq!(show("@00ff00").as_deref(), Ok("@00ff00"));
        for bad in
            ["", "@", "@00ff0", "@00FF00", "a:", ":a", "a:b:c", &format!("@{}", "0".repeat(65))]
        {
            assert!(bad.parse::<ArtifactSpec>().is_err(), "{bad:?} was accepted");
        }
        let id = ManifestId::of(b"x");
        let Ok(ArtifactSpec::Id(full)) = format!("@{id}").parse() else { panic!("no id") };
        assert_eq!(full.exact(), Some(id));
        let Ok(ArtifactSpec::Id(part)) = format!("@{}", &id.to_hex()[..8]).parse() else {
            panic!("no prefix")
        };
        assert!(part.exact().is_none() && part.matches(id));
        assert!(!part.matches(ManifestId::of(b"y")));
    }
}
