//! Which tensors are wanted, and which pages of a table can hold them. Pure.

use std::ops::Range;

use crate::format::glob::{Glob, GlobError};
use crate::format::limits::MAX_NAME;
use crate::format::manifest::PageRef;
use crate::format::page::PageKind;
use crate::store::StoreError;

/// The longest pattern in bytes.
const MAX_PATTERN: usize = 4 * MAX_NAME;

/// Which tensors are wanted.
#[derive(Debug, Clone)]
pub enum Selection {
    /// All, in load order.
    All,
    /// Those whose name matches one of the patterns: the first pattern's first, in load order within
    /// one pattern. Every pattern must match a tensor.
    Patterns(Vec<Pattern>),
}

impl Selection {
    /// Patterns for names; no pattern at all selects every tensor.
    ///
    /// # Errors
    /// If a pattern is none.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, StoreError> {
        if patterns.is_empty() {
            return Ok(Self::All);
        }
        let patterns = patterns.iter().map(|text| Pattern::new(text.as_ref()));
        Ok(Self::Patterns(patterns.collect::<Result<_, _>>()?))
    }
}

/// A pattern for names: `*`, `?`, `[ab]` and `{a,b}` as in a shell; `*` spans dots.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    /// What every match begins with.
    prefix: String,
    /// `None`: only the prefix itself matches.
    glob: Option<Glob>,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// If it is longer than four names, or no glob.
    pub fn new(text: &str) -> Result<Self, StoreError> {
        let wrong = |why| {
            let pattern = text.chars().take(MAX_NAME).collect();
            StoreError::Pattern { pattern, why }
        };
        if text.len() > MAX_PATTERN {
            return Err(wrong(GlobError::TooLong(MAX_PATTERN)));
        }
        let literal = text.find(['*', '?', '[', ']', '{', '}', '\\']);
        let glob = match literal {
            None => None,
            Some(_) => Some(Glob::new(text).map_err(wrong)?),
        };
        let (prefix, _) = text.split_at(literal.unwrap_or(text.len()));
        Ok(Self { text: text.to_owned(), prefix: prefix.to_owned(), glob })
    }

    /// The pattern that only `name` matches, whatever characters it has.
    pub fn exact(name: &str) -> Self {
        Self { text: name.to_owned(), prefix: name.to_owned(), glob: None }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.text == name || self.glob.as_ref().is_some_and(|glob| glob.matches(name))
    }

    /// The tensor pages that can hold a match: from the last one that begins before the prefix.
    pub(super) fn pages(&self, pages: &[PageRef]) -> Range<usize> {
        let tensors = pages.partition_point(|page| page.kind == PageKind::Tensors);
        let pages = pages.get(..tensors).unwrap_or_default();
        let prefix = self.prefix.as_str();
        let start = pages.partition_point(|page| page.first.as_str() < prefix);
        let end = pages.partition_point(|page| {
            let first = page.first.as_str();
            first <= prefix || (self.glob.is_some() && first.starts_with(prefix))
        });
        start.saturating_sub(1)..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::PageDigest;

    fn pages(firsts: &[&str]) -> Vec<PageRef> {
        let page = |first: &&str, kind| PageRef {
            blake3: PageDigest::of(b""),
            chunks: 0,
            first: (*first).to_owned(),
            kind,
            length: 1,
        };
        let mut pages: Vec<_> = firsts.iter().map(|f| page(f, PageKind::Tensors)).collect();
        pages.push(page(&"b", PageKind::Files));
        pages
    }

    #[test]
    fn patterns_read_only_the_pages_that_can_match() {
        let pages = pages(&["a", "b", "b", "b.x", "c"]);
        for (pattern, range) in [
            ("0", 0..0),
            ("a", 0..1),
            ("aa", 0..1),
            ("b", 0..3),
            ("b.a", 2..3),
            ("b.x", 2..4),
            ("c", 3..5),
            ("zz", 4..5),
            ("*", 0..5),
            ("b*", 0..4),
            ("b.*", 2..4),
            ("[ab]", 0..5),
            ("a?", 0..1),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().pages(&pages), range, "{pattern}");
        }
    }

    #[test]
    fn names_match_as_in_a_shell() {
        let matches = |pattern: &str, name: &str| Pattern::new(pattern).unwrap().matches(name);
        assert!(matches("layers.*.weight", "layers.1.q.weight"));
        assert!(
            matches("layers.{1,2}.w", "layers.2.w") && !matches("layers.{1,2}.w", "layers.3.w")
        );
        assert!(matches("odd]name", "odd]name") && Pattern::new("odd[name").is_err());
        assert!(!matches("a", "ab") && !matches("a*", "ba"));
        assert!(Pattern::new("{").is_err());
    }

    #[test]
    fn a_pattern_has_a_longest_and_a_deepest() {
        let nested = |n: usize| format!("{}a{}", "{".repeat(n), "}".repeat(n));
        let classes = |n: usize| "[!a]".repeat(n);
        assert!(Pattern::new(&nested(200)).is_ok_and(|pattern| pattern.matches("a")));
        assert!(Pattern::new(&nested(2000)).is_err());
        assert!(Pattern::new(&classes(1024)).is_ok_and(|p| p.matches(&"b".repeat(1024))));
        for text in [nested(60_000), classes(3_000_000)] {
            let error = Pattern::new(&text).unwrap_err().to_string();
            assert!(error.contains("longer than 4096 bytes") && error.len() < 8000);
        }
    }
}
