//! The index of all refs: a tree of immutable nodes, each named by its digest.
//!
//! Where one node ends and the next begins follows from the keys alone, so that the same entries
//! give the same tree, whoever wrote them and in whatever order. A node counts only in its
//! [`Place`]: the height and the keys that the nodes above it leave to it.

mod edit;
mod node;
mod place;
#[cfg(test)]
mod tests;

pub use edit::{Edited, Halt, NewNode, NodeSource, build, edit, find};
pub use node::{Child, Item, Key, MAX_HEIGHT, MAX_ITEMS, Node, rank};
pub use place::Place;
