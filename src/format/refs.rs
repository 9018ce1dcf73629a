//! The signed bodies of refs and of their index.
//!
//! A ref says which manifest a tag names, until when, and as which version; the index lists every
//! ref of a store, through its root or, in the whole form, itself. All are canonical JSON, wrapped in an envelope of signatures whose message
//! begins with a domain of its own, so that none can stand for another or for a manifest.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::FormatError;
use super::json::MAX_INTEGER;
use super::limits::{MAX_INDEX, MAX_REF};
use super::name::{ArtifactName, Tag};
use crate::format::id::{ManifestId, NodeId};

/// How long a new ref or index is valid: 90 days.
pub const DEFAULT_LIFETIME_SECONDS: u64 = 90 * 24 * 60 * 60;

/// Where the ref of `name` and `tag` lies in a store.
pub fn ref_path(name: &ArtifactName, tag: &Tag) -> String {
    format!("refs/{name}/@{tag}")
}

/// The version that follows `previous`: never lower than the time in milliseconds, so that a store
/// which was created anew does not look rolled back. `None` once versions are used up.
pub fn next_version(previous: Option<u64>, now_unix_ms: u64) -> Option<u64> {
    let next = match previous {
        Some(version) => version.checked_add(1)?.max(now_unix_ms),
        None => now_unix_ms,
    };
    (next <= MAX_INTEGER).then_some(next)
}

/// What an envelope can hold.
pub trait SignedBody: Serialize + DeserializeOwned {
    /// What every message that signs such a body begins with.
    const DOMAIN: &'static [u8];
    /// The largest envelope in bytes.
    const LIMIT: usize;
    /// What it is, for messages.
    const WHAT: &'static str;

    /// Rules beyond the types.
    ///
    /// # Errors
    /// If one is broken.
    fn check(&self) -> Result<(), FormatError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum RefFormat {
    #[serde(rename = "tenpak-ref")]
    V1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum IndexFormat {
    #[serde(rename = "tenpak-refs-index")]
    V1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum RootFormat {
    #[serde(rename = "tenpak-refs-root")]
    V1,
}

/// Which manifest a tag names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefBody {
    /// Unix time in seconds from which the ref is no longer valid.
    pub expires: u64,
    format: RefFormat,
    /// The artifact.
    pub manifest: ManifestId,
    /// Its name.
    pub name: ArtifactName,
    /// Its tag.
    pub tag: Tag,
    /// Grows with every change and every renewal.
    pub version: u64,
}

impl RefBody {
    /// A ref.
    pub fn new(
        name: ArtifactName,
        tag: Tag,
        manifest: ManifestId,
        version: u64,
        expires: u64,
    ) -> Self {
        Self { expires, format: RefFormat::V1, manifest, name, tag, version }
    }
}

impl SignedBody for RefBody {
    const DOMAIN: &'static [u8] = b"tenpak/v1/ref\0";
    const LIMIT: usize = MAX_REF;
    const WHAT: &'static str = "ref";

    fn check(&self) -> Result<(), FormatError> {
        Ok(())
    }
}

/// One ref, as the index lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexEntry {
    /// The artifact.
    pub manifest: ManifestId,
    /// Its name.
    pub name: ArtifactName,
    /// Its tag.
    pub tag: Tag,
    /// The version of the ref.
    pub version: u64,
}

impl IndexEntry {
    /// The entry of a ref.
    pub fn of(body: &RefBody) -> Self {
        let (name, tag) = (body.name.clone(), body.tag.clone());
        Self { manifest: body.manifest, name, tag, version: body.version }
    }
}

/// The root of the index: every ref of a store at one moment, in the tree below one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootBody {
    /// Unix time in seconds from which the index is no longer valid.
    pub expires: u64,
    format: RootFormat,
    /// The top of the tree.
    pub node: NodeId,
    /// Grows with every change and every renewal.
    pub version: u64,
}

impl RootBody {
    /// The root of the tree below `node`.
    pub fn new(node: NodeId, version: u64, expires: u64) -> Self {
        Self { expires, format: RootFormat::V1, node, version }
    }

    /// Whether a document is one, rather than an index in the whole form; it may be malformed.
    pub fn is_meant(document: &[u8]) -> bool {
        // No name or tag holds a quote.
        let format = b"\"format\":\"tenpak-refs-root\"";
        document.len() <= Self::LIMIT && document.windows(format.len()).any(|w| w == format)
    }
}

impl SignedBody for RootBody {
    const DOMAIN: &'static [u8] = b"tenpak/v1/refs-root\0";
    const LIMIT: usize = MAX_REF;
    const WHAT: &'static str = "index of refs";

    fn check(&self) -> Result<(), FormatError> {
        Ok(())
    }
}

/// Every ref of a store at one moment, in the whole form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexBody {
    /// Unix time in seconds from which the index is no longer valid.
    pub expires: u64,
    format: IndexFormat,
    /// Strictly ascending by name, then tag.
    pub refs: Vec<IndexEntry>,
    /// Grows with every change and every renewal.
    pub version: u64,
}

impl IndexBody {
    /// An index of `refs`, which are put in order.
    pub fn new(mut refs: Vec<IndexEntry>, version: u64, expires: u64) -> Self {
        refs.sort_by(|a, b| (&a.name, &a.tag).cmp(&(&b.name, &b.tag)));
        Self { expires, format: IndexFormat::V1, refs, version }
    }

    /// The entry of one ref.
    pub fn get(&self, name: &ArtifactName, tag: &Tag) -> Option<&IndexEntry> {
        let at = self.refs.binary_search_by(|e| (&e.name, &e.tag).cmp(&(name, tag))).ok()?;
        self.refs.get(at)
    }
}

impl SignedBody for IndexBody {
    const DOMAIN: &'static [u8] = b"tenpak/v1/refs-index\0";
    const LIMIT: usize = MAX_INDEX;
    const WHAT: &'static str = "index of refs";

    fn check(&self) -> Result<(), FormatError> {
        for pair in self.refs.windows(2) {
            if let [a, b] = pair
                && (&a.name, &a.tag) >= (&b.name, &b.tag)
            {
                return Err(FormatError::RefOrder { name: b.name.clone(), tag: b.tag.clone() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_follow_the_clock_and_never_fall() {
        assert_eq!(next_version(None, 1000), Some(1000));
        assert_eq!(next_version(Some(7), 1000), Some(1000));
        assert_eq!(next_version(Some(1000), 1000), Some(1001));
        assert_eq!(next_version(Some(5000), 1000), Some(5001));
        assert_eq!(next_version(Some(MAX_INTEGER - 1), 0), Some(MAX_INTEGER));
        assert_eq!(next_version(Some(MAX_INTEGER), 0), None);
        assert_eq!(next_version(Some(u64::MAX), 0), None);
    }

    #[test]
    fn an_index_is_sorted_and_searched() {
        let entry = |name: &str, tag: &str| IndexEntry {
            manifest: ManifestId::of(name.as_bytes()),
            name: name.parse().unwrap(),
            tag: tag.parse().unwrap(),
            version: 1,
        };
        let mut index =
            IndexBody::new(vec![entry("b", "x"), entry("a", "y"), entry("a", "x")], 1, 2);
        assert!(index.check().is_ok());
        assert_eq!(index.get(&"a".parse().unwrap(), &"y".parse().unwrap()), Some(&entry("a", "y")));
        assert_eq!(index.get(&"b".parse().unwrap(), &"y".parse().unwrap()), None);
        index.refs.swap(0, 1);
        assert!(index.check().is_err());
        let twice = IndexBody::new(vec![entry("a", "x"), entry("a", "x")], 1, 2);
        assert!(twice.check().is_err());
    }
}
