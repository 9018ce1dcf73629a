//! What the nodes above leave to a node: its height and its keys.

use super::node::{Child, Item, Key, Node};
use crate::format::error::FormatError;
use crate::format::id::NodeId;
use crate::format::name::{ArtifactName, NamePattern, Tag};

const WHAT: &str = "node of the index";

/// Where a node stands in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// The node that lists it; `None` for the top.
    parent: Option<NodeId>,
    /// What its parent says: its height and first key.
    says: Option<(u8, (ArtifactName, Tag))>,
    /// The next key of what lies above it.
    end: Option<(ArtifactName, Tag)>,
}

fn owned((name, tag): Key<'_>) -> (ArtifactName, Tag) {
    (name.clone(), tag.clone())
}

fn shown((name, tag): Key<'_>) -> String {
    format!("{name}:{tag}")
}

impl Place {
    /// The place of the node that the root names.
    pub fn top(node: NodeId) -> Self {
        Self { node, parent: None, says: None, end: None }
    }

    /// The height of the node, unless it is the top.
    pub fn height(&self) -> Option<u8> {
        self.says.as_ref().map(|(height, _)| *height)
    }

    /// The node that lists this one; `None` for the top.
    pub fn parent(&self) -> Option<NodeId> {
        self.parent
    }

    /// The next key of what lies above: where the next node of the same height begins.
    pub(super) fn end(&self) -> Option<Key<'_>> {
        self.end.as_ref().map(|(name, tag)| (name, tag))
    }

    /// Whether the node that was read may stand here.
    ///
    /// # Errors
    /// If its height or a key is not what the nodes above say.
    pub fn check(&self, node: &Node) -> Result<(), FormatError> {
        let Some((height, first)) = &self.says else { return Ok(()) };
        let wrong = |why: String| {
            let parent = self.parent.map_or_else(String::new, |id| id.to_hex());
            Err(FormatError::invalid(WHAT, format!("{why} that {parent} says")))
        };
        if node.height() != *height {
            return wrong(format!("its height is {}, not the {height}", node.height()));
        }
        let Some(item) = node.items().first() else {
            return Err(FormatError::invalid(WHAT, "it is empty, and not the top"));
        };
        let first = (&first.0, &first.1);
        if item.key() != first {
            let (is, says) = (shown(item.key()), shown(first));
            return wrong(format!("it begins with {is}, not with the {says}"));
        }
        if let (Some(last), Some((name, tag))) = (node.items().last(), &self.end)
            && last.key() >= (name, tag)
        {
            let (is, end) = (shown(last.key()), shown((name, tag)));
            return Err(FormatError::invalid(
                WHAT,
                format!("it goes on to {is}, where {end} begins the next node"),
            ));
        }
        Ok(())
    }

    /// The places of the nodes that `node`, which stands here, lists.
    pub fn children<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = Self> + 'a {
        (0..node.items().len()).filter_map(|at| self.child(node, at))
    }

    /// The place of item `at` of `node`, which stands here; `None` of an entry.
    pub fn child(&self, node: &Node, at: usize) -> Option<Self> {
        let Item::Node(Child { name, node: id, tag }) = node.items().get(at)? else { return None };
        let next = node.items().get(at.checked_add(1)?);
        let end = next.map(|item| owned(item.key())).or_else(|| self.end.clone());
        let height = node.height().checked_sub(1)?;
        let says = Some((height, (name.clone(), tag.clone())));
        Some(Self { node: *id, parent: Some(self.node), says, end })
    }

    /// Whether a name that is wanted may be in this node.
    pub fn may_hold(&self, wanted: &NamePattern) -> bool {
        let from = self.says.as_ref().map(|(_, (name, _))| name.as_str());
        let to = self.end.as_ref().map(|(name, _)| name.as_str());
        wanted.may_lie_between(from, to)
    }
}
