//! A tree against a sorted map: whatever is put and taken out, in whatever order.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::edit::{Edited, Halt, NodeSource, build, edit, find};
use super::node::{Child, Item, MAX_ITEMS, Node, entry, rank};
use super::place::Place;
use crate::format::id::NodeId;
use crate::format::name::{ArtifactName, NamePattern, Tag};
use crate::format::refs::IndexEntry;

type Map = BTreeMap<(ArtifactName, Tag), IndexEntry>;

/// Nodes that lie in a store, and which of them were asked for.
#[derive(Default)]
struct Shelf {
    nodes: HashMap<NodeId, Arc<Node>>,
    asked: RefCell<HashSet<NodeId>>,
}

impl NodeSource for Shelf {
    fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.asked.borrow_mut().insert(id);
        self.nodes.get(&id).cloned()
    }
}

impl Shelf {
    fn keep(&mut self, edited: &Edited) -> NodeId {
        for new in &edited.new {
            let node = Node::parse(&new.bytes, new.id).unwrap();
            self.nodes.insert(new.id, Arc::new(node));
        }
        edited.top
    }

    fn built(&mut self, map: &Map) -> NodeId {
        let edited = build(map.values().cloned().collect()).unwrap();
        self.keep(&edited)
    }

    fn put(&mut self, top: NodeId, entry: IndexEntry) -> NodeId {
        let key = (entry.name.clone(), entry.tag.clone());
        self.change(top, &key, Some(entry))
    }

    fn change(
        &mut self,
        top: NodeId,
        (name, tag): &(ArtifactName, Tag),
        entry: Option<IndexEntry>,
    ) -> NodeId {
        match edit(self, top, (name, tag), entry).unwrap() {
            Some(edited) => self.keep(&edited),
            None => top,
        }
    }

    /// The entries that a listing finds, and the nodes that it reads.
    fn list(&self, top: NodeId, wanted: &NamePattern) -> (Vec<IndexEntry>, usize) {
        let (mut entries, mut read, mut open) = (Vec::new(), 0, vec![Place::top(top)]);
        while !open.is_empty() {
            let mut below = Vec::new();
            for place in open {
                let node = &self.nodes[&place.node];
                place.check(node).unwrap();
                read += 1;
                entries.extend(node.items().iter().filter_map(|item| match item {
                    Item::Ref(entry) if wanted.matches(&entry.name) => Some(entry.clone()),
                    _ => None,
                }));
                below.extend(place.children(node).filter(|place| place.may_hold(wanted)));
            }
            open = below;
        }
        (entries, read)
    }
}

fn key(entry: &IndexEntry) -> (ArtifactName, Tag) {
    (entry.name.clone(), entry.tag.clone())
}

fn map(entries: impl IntoIterator<Item = IndexEntry>) -> Map {
    entries.into_iter().map(|entry| (key(&entry), entry)).collect()
}

fn numbered(count: usize) -> Map {
    map((0..count).map(|i| entry(&format!("org{}/model-{i:06}", i % 7), "latest", i as u64)))
}

/// Names none of which begins a node.
fn ungrouped(count: usize) -> Vec<IndexEntry> {
    (0..).map(|i| entry(&format!("x{i:07}"), "latest", 1)).filter(is_low).take(count).collect()
}

fn is_low(entry: &IndexEntry) -> bool {
    rank((&entry.name, &entry.tag)) == 0
}

#[derive(Debug, Clone)]
enum Op {
    Put(usize, u64),
    Remove(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0_usize..400, 0_u64..4).prop_map(|(at, version)| Op::Put(at, version)),
        2 => (0_usize..400).prop_map(Op::Remove),
    ];
    prop::collection::vec(op, 0..60)
}

fn pool(at: usize) -> IndexEntry {
    // Two thirds begin no node, so that runs are cut by counting too.
    match at % 3 {
        0 => entry(&format!("m{}/n{}", at % 11, at), ["a", "b", "latest"][at % 3], 0),
        _ => entry(&format!("x{:07}", at * 3), "latest", 0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any changes, one by one, of any tree: the tree of what is then there, built at once.
    #[test]
    fn changes_give_the_tree_that_is_built_at_once(first in 0_usize..400, ops in ops()) {
        let mut map = map((0..first).map(pool));
        let mut shelf = Shelf::default();
        let mut top = shelf.built(&map);
        for op in ops {
            match op {
                Op::Put(at, version) => {
                    let entry = IndexEntry { version, ..pool(at) };
                    map.insert(key(&entry), entry.clone());
                    top = shelf.put(top, entry);
                }
                Op::Remove(at) => {
                    let key = key(&pool(at));
                    map.remove(&key);
                    top = shelf.change(top, &key, None);
                }
            }
            prop_assert_eq!(top, build(map.values().cloned().collect()).unwrap().top);
        }
        for at in 0..400 {
            let (name, tag) = key(&pool(at));
            let found = find(&shelf, top, (&name, &tag)).unwrap();
            prop_assert_eq!(found.as_ref(), map.get(&(name, tag)));
        }
        for wanted in ["*", "m1*", "m10/", "m1/", "m3/n3", "x0000*", "zzz", "zzz*"] {
            let wanted: NamePattern = wanted.parse().unwrap();
            let expected = map.values().filter(|entry| wanted.matches(&entry.name)).cloned();
            prop_assert_eq!(shelf.list(top, &wanted).0, expected.collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_order_does_not_matter() {
    let map = numbered(700);
    let mut shelf = Shelf::default();
    let expected = shelf.built(&map);
    let entries: Vec<_> = map.values().cloned().collect();
    for step in [1, 3, 699, 353] {
        let mut top = shelf.built(&Map::new());
        let empty = top;
        let order: Vec<usize> = (0..700).map(|i| i * step % 700).collect();
        order.iter().for_each(|at| top = shelf.put(top, entries[*at].clone()));
        assert_eq!(top, expected, "step {step}");
        for at in order {
            top = shelf.change(top, &key(&entries[at]), None);
        }
        assert_eq!(top, empty, "step {step}");
    }
}

#[test]
fn a_change_reads_and_writes_one_path() {
    let map = numbered(40_000);
    let mut shelf = Shelf::default();
    let top = shelf.built(&map);
    let (mut most_read, mut most_new, mut read, mut new, mut bytes) = (0, 0, 0, 0, 0);
    for i in 0..200 {
        let entry = entry(&format!("org{}/model-{:06}x", i % 7, i * 199), "latest", 1);
        shelf.asked.take();
        let edited = edit(&shelf, top, (&entry.name, &entry.tag), Some(entry.clone()));
        let edited = edited.unwrap().unwrap();
        let (asked, made) = (shelf.asked.borrow().len(), edited.new.len());
        (most_read, most_new) = (most_read.max(asked), most_new.max(made));
        (read, new) = (read + asked, new + made);
        bytes += edited.new.iter().map(|node| node.bytes.len()).sum::<usize>();
        let leads: Vec<_> = edited.new.iter().filter(|node| node.leads).collect();
        assert_eq!(leads.last().unwrap().id, edited.top);
        assert!(edited.new.iter().all(|node| !shelf.nodes.contains_key(&node.id)));
    }
    // Five or six nodes lie on a path; one in 8 new entries cuts a node in two.
    assert!(most_read <= 9 && read <= 200 * 7, "{most_read} {read}");
    assert!(most_new <= 12 && new <= 200 * 7, "{most_new} {new}");
    assert!(bytes <= 200 * 12_000, "{bytes}");
}

#[test]
fn a_prefix_reads_only_the_nodes_that_can_hold_it() {
    let mut all = numbered(20_000);
    let own = ["a-z/one", "a/one", "a/two", "a0"].map(|name| entry(name, "latest", 1));
    all.extend(map(own));
    let mut shelf = Shelf::default();
    let top = shelf.built(&all);
    for (wanted, count) in
        [("a/", 2), ("a/two", 1), ("a*", 4), ("nobody/", 0), ("org3/model-00*", 1429)]
    {
        let (found, read) = shelf.list(top, &wanted.parse().unwrap());
        assert_eq!(found.len(), count, "{wanted}");
        // Two nodes at most of each height hold an edge of the range.
        assert!(read <= 14 + count / 4, "{wanted}: {read} nodes");
    }
}

#[test]
fn names_without_borders_are_cut_by_counting() {
    let entries = ungrouped(1000);
    let mut shelf = Shelf::default();
    let all = map(entries.clone());
    let expected = shelf.built(&all);
    assert!(shelf.nodes.values().all(|node| node.items().len() <= MAX_ITEMS));
    assert_eq!(shelf.nodes.values().filter(|node| node.height() == 0).count(), 16);
    let mut top = shelf.built(&Map::new());
    for at in 0..1000 {
        top = shelf.put(top, entries[at * 7 % 1000].clone());
    }
    assert_eq!(top, expected);
    // What keeps its place moves no border: the rest of the run is neither read nor written.
    let newer = IndexEntry { version: 2, ..entries[100].clone() };
    shelf.asked.take();
    let edited = edit(&shelf, top, (&newer.name, &newer.tag), Some(newer.clone()));
    let (read, new) = (shelf.asked.borrow().len(), edited.unwrap().unwrap().new.len());
    assert!(read <= 3 && new <= 3, "{read} read, {new} written");
}

#[test]
fn a_tree_may_be_empty_and_what_changes_nothing_is_told() {
    let mut shelf = Shelf::default();
    let top = shelf.built(&Map::new());
    let one = entry("a", "latest", 1);
    let (name, tag) = key(&one);
    assert!(edit(&shelf, top, (&name, &tag), None).unwrap().is_none());
    let with = shelf.put(top, one.clone());
    assert!(edit(&shelf, with, (&name, &tag), Some(one)).unwrap().is_none());
    assert_eq!(shelf.change(with, &(name, tag), None), top);
}

/// A tree of two leaves, of which one is not what its parent says.
fn hostile(change: impl Fn(&mut Vec<Item>, &mut u8), parent: impl Fn(&mut Vec<Child>)) -> String {
    let mut shelf = Shelf::default();
    let mut add = |node: Node| {
        let bytes = node.to_bytes().unwrap();
        let id = NodeId::of(&bytes);
        shelf.nodes.insert(id, Arc::new(node));
        id
    };
    let leaf = |names: &[&str]| -> Vec<Item> {
        names.iter().map(|name| Item::Ref(entry(name, "latest", 1))).collect()
    };
    let (mut bad, mut height) = (leaf(&["b", "c"]), 0);
    change(&mut bad, &mut height);
    let bad = add(Node::new(height, bad));
    let good = add(Node::new(0, leaf(&["m", "n"])));
    let child = |name: &str, node| Child { name: name.parse().unwrap(), node, tag: Tag::default() };
    let mut children = vec![child("b", bad), child("m", good)];
    parent(&mut children);
    let top = add(Node::new(1, children.into_iter().map(Item::Node).collect()));
    let name = "b".parse().unwrap();
    match find(&shelf, top, (&name, &Tag::default())) {
        Err(Halt::Wrong { node, error }) => {
            assert_eq!(node, bad, "the error names another node");
            error.to_string()
        }
        Err(Halt::Needs(place)) => format!("needs {}", place.node),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nodes_out_of_place_are_refused() {
    let as_is = |_: &mut Vec<Item>, _: &mut u8| {};
    let item = |name: &str| Item::Ref(entry(name, "latest", 1));
    let first = hostile(|items, _| items[0] = item("a"), |_| {});
    assert!(first.contains("it begins with a:latest, not with the b:latest"), "{first}");
    let beyond = hostile(|items, _| items.push(item("m")), |_| {});
    assert!(beyond.contains("goes on to m:latest, where m:latest begins the next"), "{beyond}");
    let empty = hostile(|items, _| items.clear(), |_| {});
    assert!(empty.contains("empty, and not the top"), "{empty}");
    let height = hostile(
        |items, height| {
            let Item::Ref(entry) = items.remove(0) else { unreachable!() };
            let child = Child { name: entry.name, node: NodeId::of(b""), tag: entry.tag };
            *items = vec![Item::Node(child)];
            *height = 1;
        },
        |_| {},
    );
    assert!(height.contains("its height is 1, not the 0"), "{height}");
    let unknown = NodeId::of(b"unknown");
    let missing = hostile(as_is, |children| children[0].node = unknown);
    assert_eq!(missing, format!("needs {unknown}"));
}
