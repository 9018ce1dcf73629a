//! Changing one entry of a tree: which nodes are new, and which is the top now. Pure.
//!
//! Whoever holds the nodes is asked for them one by one; where one is lacking, the work stops with
//! [`Halt::Needs`] and is begun again once it was read. What is not on the way to the entry is
//! neither asked for nor written, but for the neighbours that a node is joined to.

use std::sync::Arc;

use super::node::{Child, Item, Key, MAX_HEIGHT, MAX_ITEMS, Node, rank};
use super::place::Place;
use crate::format::error::FormatError;
use crate::format::id::NodeId;
use crate::format::name::{ArtifactName, Tag};
use crate::format::refs::IndexEntry;

/// Why the work cannot go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Halt {
    /// A node has not been read yet.
    Needs(Box<Place>),
    /// A node is not one that may stand where it does.
    Wrong {
        /// The node.
        node: NodeId,
        /// What is wrong.
        error: FormatError,
    },
    /// An entry has no canonical form.
    Unwritable(FormatError),
}

/// Nodes that were read.
pub trait NodeSource {
    /// The node, if it was read.
    fn node(&self, id: NodeId) -> Option<Arc<Node>>;
}

/// A node that a change makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Its digest.
    pub id: NodeId,
    /// Its canonical bytes.
    pub bytes: Vec<u8>,
    /// Whether the entry that was put is below it: where that entry is of a version that never was
    /// before, so is the node.
    pub leads: bool,
}

/// A tree after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// Its top.
    pub top: NodeId,
    /// The nodes that it has and the tree before had not.
    pub new: Vec<NewNode>,
}

type OwnedKey = (ArtifactName, Tag);

fn owned((name, tag): Key<'_>) -> OwnedKey {
    (name.clone(), tag.clone())
}

fn read(source: &impl NodeSource, place: &Place) -> Result<Arc<Node>, Halt> {
    let node = source.node(place.node).ok_or_else(|| Halt::Needs(Box::new(place.clone())))?;
    place.check(&node).map_err(|error| Halt::Wrong { node: place.node, error })?;
    Ok(node)
}

/// A node, and the way there.
struct Way {
    /// The nodes above, from the top on, each with the item that the way goes through.
    above: Vec<(Place, Arc<Node>, usize)>,
    place: Place,
    node: Arc<Node>,
}

impl Way {
    /// The node of `height` where `key` is or would be.
    fn to(source: &impl NodeSource, top: NodeId, height: u8, key: Key<'_>) -> Result<Self, Halt> {
        let place = Place::top(top);
        let node = read(source, &place)?;
        let top = Self { above: Vec::new(), place, node };
        top.down(source, height, |node| node.position(key))
    }

    /// Goes down to `height`, by the items that `choose` names.
    fn down(
        mut self,
        source: &impl NodeSource,
        height: u8,
        choose: impl Fn(&Node) -> usize,
    ) -> Result<Self, Halt> {
        while self.node.height() > height {
            let at = choose(&self.node);
            let Some(below) = self.place.child(&self.node, at) else { break };
            let node = read(source, &below)?;
            self.above.push((self.place, self.node, at));
            (self.place, self.node) = (below, node);
        }
        Ok(self)
    }

    /// The node of the same height on the other side of an edge of this one.
    fn beside(&self, source: &impl NodeSource, forward: bool) -> Result<Option<Self>, Halt> {
        for (depth, (place, node, at)) in self.above.iter().enumerate().rev() {
            let next = if forward { at.checked_add(1) } else { at.checked_sub(1) };
            let Some((at, below)) = next.and_then(|at| Some((at, place.child(node, at)?))) else {
                continue;
            };
            let mut above: Vec<_> = self.above.iter().take(depth).cloned().collect();
            above.push((place.clone(), node.clone(), at));
            let node = read(source, &below)?;
            let way = Self { above, place: below, node };
            let edge = |node: &Node| match forward {
                true => 0,
                false => node.items().len().saturating_sub(1),
            };
            return way.down(source, self.node.height(), edge).map(Some);
        }
        Ok(None)
    }

    fn first_key(&self) -> Option<Key<'_>> {
        self.node.items().first().map(Item::key)
    }

    fn is_first(&self) -> bool {
        self.above.iter().all(|(_, _, at)| *at == 0)
    }
}

/// Cuts what one height holds into the nodes of that height.
fn cut(height: u8, items: Vec<Item>) -> Vec<Node> {
    let (mut nodes, mut open) = (Vec::new(), Vec::new());
    for item in items {
        let begins = open.len() == MAX_ITEMS || rank(item.key()) > height;
        if begins && !open.is_empty() {
            nodes.push(Node::new(height, std::mem::take(&mut open)));
        }
        open.push(item);
    }
    if !open.is_empty() {
        nodes.push(Node::new(height, open));
    }
    nodes
}

/// Part of one height, before and after.
struct Change {
    /// Keys of items that go.
    gone: Vec<OwnedKey>,
    /// Items that come, in order.
    come: Vec<Item>,
    /// The item that leads to the entry that was put.
    leads: Option<OwnedKey>,
}

impl Change {
    fn first_key(&self) -> Option<OwnedKey> {
        let come = self.come.first().map(|item| owned(item.key()));
        self.gone.first().cloned().into_iter().chain(come).min()
    }

    fn ends_before(&self, end: Key<'_>) -> bool {
        self.gone.last().is_none_or(|(name, tag)| (name, tag) < end)
    }

    /// Whether an item of that key is there before, and none after.
    fn loses(&self, key: Key<'_>) -> bool {
        self.gone.iter().any(|(name, tag)| (name, tag) == key)
            && self.come.iter().all(|item| item.key() != key)
    }

    /// The items after the change.
    fn apply(&self, nodes: &[Way]) -> Vec<Item> {
        let before = nodes.iter().flat_map(|way| way.node.items());
        let stays = before.filter(|item| {
            let key = item.key();
            self.gone.iter().all(|(name, tag)| (name, tag) != key)
        });
        let mut after: Vec<Item> = stays.chain(&self.come).cloned().collect();
        after.sort_by(|a, b| a.key().cmp(&b.key()));
        after
    }

    /// Notes the nodes that `new` lacks, and makes of all of them the change one height above.
    fn rise(
        self,
        before: &[Way],
        after: Vec<Node>,
        new: &mut Vec<NewNode>,
    ) -> Result<Self, FormatError> {
        let (mut come, mut leads) = (Vec::new(), None);
        for node in after {
            let bytes = node.to_bytes()?;
            let id = NodeId::of(&bytes);
            let Some(first) = node.items().first().map(|item| owned(item.key())) else { continue };
            let own = self.leads.as_ref().is_some_and(|(name, tag)| {
                node.items().iter().any(|item| item.key() == (name, tag))
            });
            if own {
                leads = Some(first.clone());
            }
            if before.iter().all(|way| way.place.node != id) {
                new.push(NewNode { id, bytes, leads: own });
            }
            come.push(Item::Node(Child { name: first.0, node: id, tag: first.1 }));
        }
        let gone = before.iter().filter_map(|way| way.first_key().map(owned)).collect();
        Ok(Self { gone, come, leads })
    }
}

/// The only node that a height has, if it has one only.
fn only(come: &[Item]) -> Option<NodeId> {
    match come {
        [Item::Node(child)] => Some(child.node),
        _ => None,
    }
}

/// Cuts heights on until one has a single node.
fn top_of(
    mut height: u8,
    mut change: Change,
    mut new: Vec<NewNode>,
) -> Result<Edited, FormatError> {
    loop {
        if let Some(top) = only(&change.come) {
            return Ok(Edited { top, new });
        }
        if change.come.is_empty() {
            let bytes = Node::new(0, Vec::new()).to_bytes()?;
            let top = NodeId::of(&bytes);
            new.push(NewNode { id: top, bytes, leads: false });
            return Ok(Edited { top, new });
        }
        let nodes = cut(height, std::mem::take(&mut change.come));
        change = change.rise(&[], nodes, &mut new)?;
        height = height.saturating_add(1);
    }
}

/// The tree of these entries, of which those that come later replace those with the same key.
///
/// # Errors
/// If a version has no canonical form.
pub fn build(entries: Vec<IndexEntry>) -> Result<Edited, FormatError> {
    let sorted: std::collections::BTreeMap<OwnedKey, IndexEntry> =
        entries.into_iter().map(|e| ((e.name.clone(), e.tag.clone()), e)).collect();
    let items: Vec<Item> = sorted.into_values().map(Item::Ref).collect();
    let (mut new, none) = (Vec::new(), Change { gone: Vec::new(), come: Vec::new(), leads: None });
    let change = none.rise(&[], cut(0, items), &mut new)?;
    top_of(1, change, new)
}

/// The entry of a ref in the tree below `top`.
///
/// # Errors
/// If a node is wrong, or has not been read.
pub fn find(
    source: &impl NodeSource,
    top: NodeId,
    key: Key<'_>,
) -> Result<Option<IndexEntry>, Halt> {
    Ok(Way::to(source, top, 0, key)?.node.entry(key).cloned())
}

/// Puts an entry into the tree below `top`, in the place of the one with the same key, or takes
/// that one out. `None` if nothing changes.
///
/// # Errors
/// If a node is wrong, or has not been read.
pub fn edit(
    source: &impl NodeSource,
    top: NodeId,
    key: Key<'_>,
    entry: Option<IndexEntry>,
) -> Result<Option<Edited>, Halt> {
    let way = Way::to(source, top, 0, key)?;
    let known = way.node.entry(key);
    if known == entry.as_ref() {
        return Ok(None);
    }
    let leads = entry.is_some().then(|| owned(key));
    let gone = known.map(|_| owned(key)).into_iter().collect();
    let mut change = Change { gone, come: entry.map(Item::Ref).into_iter().collect(), leads };
    let mut new = Vec::new();
    for height in 0..=MAX_HEIGHT {
        let part = part(source, top, height, &change)?;
        let after = cut(height, change.apply(&part));
        change = change.rise(&part, after, &mut new).map_err(Halt::Unwritable)?;
        let is_whole = part.first().is_some_and(Way::is_first)
            && part.last().is_some_and(|way| way.place.end().is_none());
        if is_whole && (change.come.len() < 2 || part.iter().any(|way| way.above.is_empty())) {
            let above = height.saturating_add(1);
            return top_of(above, change, new).map(Some).map_err(Halt::Unwritable);
        }
    }
    Ok(None)
}

/// The nodes of `height` that a change may cut anew: from one that begins where it did, up to
/// where the next begins as it did.
fn part(
    source: &impl NodeSource,
    top: NodeId,
    height: u8,
    change: &Change,
) -> Result<Vec<Way>, Halt> {
    let Some((name, tag)) = change.first_key() else { return Ok(Vec::new()) };
    let way = Way::to(source, top, height, (&name, &tag))?;
    let joined = way.first_key().is_some_and(|first| change.loses(first));
    let before = if joined { way.beside(source, false)? } else { None };
    let mut part: Vec<Way> = before.into_iter().chain([way]).collect();
    while let Some(last) = part.last() {
        let Some(end) = last.place.end() else { break };
        let after = cut(height, change.apply(&part));
        let is_full = after.last().is_none_or(|node| node.items().len() == MAX_ITEMS);
        if change.ends_before(end) && (is_full || rank(end) > height) {
            break;
        }
        let Some(next) = last.beside(source, true)? else { break };
        part.push(next);
    }
    Ok(part)
}
