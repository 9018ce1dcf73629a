//! The names of a store's objects.

use std::fmt;

/// A `/`-separated path of an object below the store's root: no empty, `.` or `..` segment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectPath(String);

impl ObjectPath {
    /// Takes `path`, unless a segment is empty, `.` or `..`, or holds a control character or `\`.
    pub fn new(path: impl Into<String>) -> Option<Self> {
        let path = path.into();
        let fits = |segment: &str| !matches!(segment, "" | "." | "..");
        (path.split('/').all(fits) && !path.contains(|c: char| c.is_control() || c == '\\'))
            .then_some(Self(path))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_paths_cannot_leave_the_root() {
        for good in ["a", "packs/00", "refs/org/model/@latest"] {
            assert_eq!(ObjectPath::new(good).map(|p| p.to_string()).as_deref(), Some(good));
        }
        for bad in ["", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\n"] {
            assert_eq!(ObjectPath::new(bad), None, "{bad:?} was accepted");
        }
    }
}
