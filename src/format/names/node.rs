//! One node: its bytes, and the rules that hold inside of it.

use serde::{Deserialize, Serialize};

use crate::format::error::FormatError;
use crate::format::id::NodeId;
use crate::format::json;
use crate::format::limits::MAX_NODE;
use crate::format::name::{ArtifactName, Tag};
use crate::format::refs::IndexEntry;

/// Items of a node.
pub const MAX_ITEMS: usize = 64;
/// The height of a node.
pub const MAX_HEIGHT: u8 = 15;
/// The rank of a key.
const MAX_RANK: u8 = 12;

const WHAT: &str = "node of the index";

/// What entries are sorted by: name, then tag.
pub type Key<'a> = (&'a ArtifactName, &'a Tag);

/// How high in the tree a key begins nodes: a third of the zero bits that its digest begins with, so
/// that one key in eight begins a node, and one of those in eight a node above.
pub fn rank((name, tag): Key<'_>) -> u8 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_str().as_bytes()).update(&[0]).update(tag.as_str().as_bytes());
    let digest = hasher.finalize();
    let first = digest.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    u8::try_from(first.leading_zeros() / 3).map_or(MAX_RANK, |rank| rank.min(MAX_RANK))
}

/// A node, as the one above it lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Child {
    /// The name of its first key.
    pub name: ArtifactName,
    /// The node.
    pub node: NodeId,
    /// The tag of its first key.
    pub tag: Tag,
}

/// What a node holds: refs at height 0, nodes above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A ref.
    Ref(IndexEntry),
    /// A node one below.
    Node(Child),
}

impl Item {
    /// Its key, or the first one below it.
    pub fn key(&self) -> Key<'_> {
        match self {
            Self::Ref(entry) => (&entry.name, &entry.tag),
            Self::Node(child) => (&child.name, &child.tag),
        }
    }
}

#[derive(Serialize, Deserialize)]
enum NodeFormat {
    #[serde(rename = "tenpak-refs-node")]
    V1,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    format: NodeFormat,
    height: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<Vec<Child>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refs: Option<Vec<IndexEntry>>,
}

/// A node of the index. Its items strictly ascend by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    height: u8,
    items: Vec<Item>,
}

impl Node {
    /// A node of these items, which must be of its height.
    pub(super) fn new(height: u8, items: Vec<Item>) -> Self {
        Self { height, items }
    }

    /// Its distance from the refs.
    pub fn height(&self) -> u8 {
        self.height
    }

    /// Its items in order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Its canonical bytes.
    ///
    /// # Errors
    /// If a version has no canonical form.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let (mut refs, mut nodes) = (Vec::new(), Vec::new());
        for item in &self.items {
            match item {
                Item::Ref(entry) => refs.push(entry.clone()),
                Item::Node(child) => nodes.push(child.clone()),
            }
        }
        let low = self.height == 0;
        let (refs, nodes) = (low.then_some(refs), (!low).then_some(nodes));
        let wire = Wire { format: NodeFormat::V1, height: self.height, nodes, refs };
        json::to_bytes(&wire).map_err(FormatError::json(WHAT))
    }

    /// Reads a node. Whether it is in its place is for [`super::Place`].
    ///
    /// # Errors
    /// If it is not the one that `id` names, or breaks a rule.
    pub fn parse(bytes: &[u8], id: NodeId) -> Result<Self, FormatError> {
        let limit = MAX_NODE as u64;
        if bytes.len() > MAX_NODE {
            return Err(FormatError::Limit { what: WHAT, value: bytes.len() as u64, limit });
        }
        let found = NodeId::of(bytes);
        if found != id {
            let (expected, found) = (id.to_hex(), found.to_hex());
            return Err(FormatError::Digest { what: WHAT, expected, found });
        }
        let wire: Wire = json::parse(bytes, MAX_NODE).map_err(FormatError::json(WHAT))?;
        let node = Self::of(wire)?;
        node.check()?;
        Ok(node)
    }

    fn of(Wire { height, nodes, refs, .. }: Wire) -> Result<Self, FormatError> {
        let items = match (height, refs, nodes) {
            (0, Some(refs), None) => refs.into_iter().map(Item::Ref).collect(),
            (1.., None, Some(nodes)) => nodes.into_iter().map(Item::Node).collect(),
            _ => {
                let why = format!("height {height} without its kind of items, or with another");
                return Err(FormatError::invalid(WHAT, why));
            }
        };
        Ok(Self { height, items })
    }

    fn check(&self) -> Result<(), FormatError> {
        if self.height > MAX_HEIGHT {
            let (value, limit) = (u64::from(self.height), u64::from(MAX_HEIGHT));
            return Err(FormatError::Limit { what: "height of a node", value, limit });
        }
        if self.items.len() > MAX_ITEMS {
            let (value, limit) = (self.items.len() as u64, MAX_ITEMS as u64);
            return Err(FormatError::Limit { what: "items of a node", value, limit });
        }
        if self.items.is_empty() && self.height > 0 {
            return Err(FormatError::invalid(WHAT, "it lists no node"));
        }
        for pair in self.items.windows(2) {
            let [a, b] = pair else { continue };
            if a.key() >= b.key() {
                let (name, tag) = b.key();
                return Err(FormatError::RefOrder { name: name.clone(), tag: tag.clone() });
            }
        }
        Ok(())
    }

    /// The last item whose key is not above `key`, or the first.
    pub fn position(&self, key: Key<'_>) -> usize {
        self.items.partition_point(|item| item.key() <= key).saturating_sub(1)
    }

    /// The entry of a ref, in a node of height 0.
    pub fn entry(&self, key: Key<'_>) -> Option<&IndexEntry> {
        match self.items.get(self.position(key)) {
            Some(Item::Ref(entry)) if (&entry.name, &entry.tag) == key => Some(entry),
            _ => None,
        }
    }
}

/// An entry for tests.
#[cfg(test)]
pub(super) fn entry(name: &str, tag: &str, version: u64) -> IndexEntry {
    IndexEntry {
        manifest: crate::format::id::ManifestId::of(name.as_bytes()),
        name: name.parse().unwrap(),
        tag: tag.parse().unwrap(),
        version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(name: &str) -> Item {
        let (name, tag) = (name.parse().unwrap(), Tag::default());
        Item::Node(Child { name, node: NodeId::of(b"below"), tag })
    }

    fn refs(names: &[&str]) -> Vec<Item> {
        names.iter().map(|name| Item::Ref(entry(name, "latest", 1))).collect()
    }

    fn parse(node: &Node) -> Result<Node, FormatError> {
        let bytes = node.to_bytes().unwrap();
        Node::parse(&bytes, NodeId::of(&bytes))
    }

    #[test]
    fn nodes_read_back() {
        for node in [
            Node::new(0, Vec::new()),
            Node::new(0, refs(&["a", "a-b", "a/b", "b"])),
            Node::new(1, vec![child("a")]),
            Node::new(15, vec![child("a"), child("b")]),
        ] {
            assert_eq!(parse(&node).unwrap(), node);
        }
    }

    #[test]
    fn the_largest_node_is_within_the_limit() {
        let long = |i: usize| {
            let name = format!("{}/{}{i:03}", "o".repeat(96), "m".repeat(93));
            let mut item = entry(&name, &"t".repeat(128), json::MAX_INTEGER);
            item.tag = "t".repeat(128).parse().unwrap();
            Item::Ref(item)
        };
        let full = Node::new(0, (0..MAX_ITEMS).map(long).collect());
        let bytes = full.to_bytes().unwrap();
        assert!(bytes.len() <= MAX_NODE && bytes.len() > MAX_NODE * 3 / 4, "{}", bytes.len());
        assert!(parse(&full).is_ok());
        let above = Node::new(0, (0..=MAX_ITEMS).map(long).collect());
        assert!(parse(&above).unwrap_err().to_string().contains("items of a node"));
    }

    #[test]
    fn broken_nodes_are_refused_and_it_is_said_why() {
        let of = |node: Node| parse(&node).unwrap_err().to_string();
        assert!(of(Node::new(0, refs(&["b", "a"]))).contains("a:latest is out of order"));
        assert!(of(Node::new(0, refs(&["a", "a"]))).contains("listed twice"));
        assert!(of(Node::new(1, Vec::new())).contains("lists no node"));
        assert!(of(Node::new(16, vec![child("a")])).contains("height of a node: 16"));
        let bytes = Node::new(0, refs(&["a"])).to_bytes().unwrap();
        let other = Node::parse(&bytes, NodeId::of(b"")).unwrap_err().to_string();
        assert!(other.contains("the digest is"), "{other}");
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [
            ("\"height\":0", "\"height\":1"),
            ("\"refs\"", "\"nodes\""),
            ("tenpak-refs-node", "tenpak-refs-index"),
            ("\"height\":0,", ""),
            ("\"height\":0", "\"height\":256"),
            ("\"height\":0", "\"height\": 0"),
            ("\"version\":1", "\"version\":1,\"wersion\":1"),
        ] {
            let bad = text.replace(from, to);
            assert_ne!(bad, text);
            assert!(Node::parse(bad.as_bytes(), NodeId::of(bad.as_bytes())).is_err(), "{bad}");
        }
        let long = format!("{text}{}", " ".repeat(MAX_NODE));
        let long = Node::parse(long.as_bytes(), NodeId::of(long.as_bytes())).unwrap_err();
        assert!(long.to_string().contains("limit"), "{long}");
    }

    #[test]
    fn ranks_are_a_third_of_the_zeros_of_the_digest() {
        let mut seen = [0_u32; 4];
        for i in 0..20_000 {
            let (name, tag) = (format!("m{i}").parse().unwrap(), Tag::default());
            let digest = blake3::hash(format!("m{i}\0latest").as_bytes());
            let bits: String = digest.as_bytes().iter().map(|b| format!("{b:08b}")).collect();
            let zeros = bits.len() - bits.trim_start_matches('0').len();
            assert_eq!(usize::from(rank((&name, &tag))), zeros / 3);
            seen[(zeros / 3).min(3)] += 1;
        }
        assert!((17_300..17_700).contains(&seen[0]), "{seen:?}");
    }

    #[test]
    fn keys_are_found() {
        let node = Node::new(0, refs(&["b", "d", "f"]));
        let at = |name: &str| {
            let name = name.parse().unwrap();
            let key = (&name, &Tag::default());
            (node.position(key), node.entry(key).is_some())
        };
        assert_eq!(
            ["a", "b", "c", "d", "f", "g"].map(at),
            [(0, false), (0, true), (0, false), (1, true), (2, true), (2, false)]
        );
    }
}
