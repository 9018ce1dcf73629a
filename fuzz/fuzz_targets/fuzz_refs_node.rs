//! A node of the index of refs: what is accepted is written again byte for byte, and a tree that it is
//! the top of is changed without a panic.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tenpak::format::id::NodeId;
use tenpak::format::names::{self, Item, Node, NodeSource, Place};

/// A store that has one node, whichever is asked for.
struct One(Arc<Node>);

impl NodeSource for One {
    fn node(&self, _: NodeId) -> Option<Arc<Node>> {
        Some(self.0.clone())
    }
}

fuzz_target!(|data: &[u8]| {
    let id = NodeId::of(data);
    let Ok(node) = Node::parse(data, id) else { return };
    assert!(node.to_bytes().is_ok_and(|bytes| bytes == data), "another spelling was accepted");
    let place = Place::top(id);
    assert!(place.check(&node).is_ok());
    for below in place.children(&node) {
        assert_eq!(below.height(), node.height().checked_sub(1));
        // A node never stands below itself.
        assert!(below.check(&node).is_err());
    }
    let source = One(Arc::new(node.clone()));
    for item in node.items() {
        let known = names::find(&source, id, item.key());
        if let Item::Ref(entry) = item {
            assert_eq!(known.ok().flatten().as_ref(), Some(entry));
        }
        drop(names::edit(&source, id, item.key(), None));
    }
});
