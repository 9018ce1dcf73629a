//! Inode numbers: what each means, and how long. Pure.
//!
//! Numbers are never used again. An artifact has a block of them while the kernel remembers any of its nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::tree::{NodeIndex, Tree};

/// The number of the mount's root.
pub(crate) const ROOT: u64 = 1;

/// What a number means.
#[derive(Debug)]
pub(crate) enum Means<A> {
    /// A folder of names.
    Folder(String),
    /// A node of an artifact.
    Node(Arc<Block<A>>, NodeIndex),
}

/// The numbers of an artifact.
#[derive(Debug)]
pub(crate) struct Block<A> {
    /// The number of its root folder.
    pub(crate) first: u64,
    pub(crate) tree: Tree,
    /// Whatever the artifact is to its user.
    pub(crate) artifact: A,
}

impl<A> Block<A> {
    pub(crate) fn number(&self, node: NodeIndex) -> u64 {
        self.first + u64::from(node)
    }
}

/// All numbers.
#[derive(Debug)]
pub(crate) struct Inodes<A> {
    next: u64,
    /// By the first number, with how many references to its nodes the kernel holds.
    blocks: BTreeMap<u64, (Arc<Block<A>>, u64)>,
    folders: HashMap<u64, String>,
    numbers: HashMap<String, u64>,
    /// The block whose root is the mount's; it stays.
    root: Option<u64>,
}

impl<A> Inodes<A> {
    /// The root is a folder of names.
    pub(crate) fn new() -> Self {
        let (blocks, root) = (BTreeMap::new(), None);
        let (folders, numbers) = (HashMap::new(), HashMap::new());
        Self { next: ROOT + 1, blocks, folders, numbers, root }
    }

    /// An artifact gets numbers.
    pub(crate) fn add(&mut self, tree: Tree, artifact: A) -> Arc<Block<A>> {
        let first = self.next;
        self.next += tree.len();
        let block = Arc::new(Block { first, tree, artifact });
        self.blocks.insert(first, (block.clone(), 0));
        block
    }

    /// The artifact's root is the mount's, for good.
    pub(crate) fn set_root(&mut self, block: &Block<A>) {
        self.root = Some(block.first);
    }

    /// The number of a folder of names.
    pub(crate) fn folder(&mut self, folder: &str) -> u64 {
        if folder.is_empty() {
            return ROOT;
        }
        if let Some(number) = self.numbers.get(folder) {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(folder.to_owned(), number);
        self.folders.insert(number, folder.to_owned());
        number
    }

    pub(crate) fn means(&self, number: u64) -> Option<Means<A>> {
        if number == ROOT {
            return match self.root {
                Some(first) => {
                    self.blocks.get(&first).map(|(block, _)| Means::Node(block.clone(), 0))
                }
                None => Some(Means::Folder(String::new())),
            };
        }
        if let Some(folder) = self.folders.get(&number) {
            return Some(Means::Folder(folder.clone()));
        }
        let (_, (block, _)) = self.blocks.range(..=number).next_back()?;
        let node = number - block.first;
        (node < block.tree.len()).then(|| Means::Node(block.clone(), node as NodeIndex))
    }

    /// The kernel holds one more reference to a node of the artifact. False if it has no numbers any more.
    pub(crate) fn refer(&mut self, block: &Block<A>) -> bool {
        match self.blocks.get_mut(&block.first) {
            Some((_, references)) => {
                *references += 1;
                true
            }
            None => false,
        }
    }

    /// The kernel gives up so many references to a node.
    pub(crate) fn forget(&mut self, number: u64, count: u64) -> Option<Arc<Block<A>>> {
        let (first, (block, references)) = self.blocks.range_mut(..=number).next_back()?;
        if number - block.first >= block.tree.len() {
            return None;
        }
        *references = references.saturating_sub(count);
        let first = *first;
        if *references > 0 || self.root == Some(first) {
            return None;
        }
        self.blocks.remove(&first).map(|(block, _)| block)
    }

    /// How many artifacts have numbers.
    #[cfg(test)]
    fn artifacts(&self) -> usize {
        self.blocks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: usize) -> Tree {
        let paths: Vec<String> = (0..files).map(|number| format!("d/{number}")).collect();
        Tree::new(paths.iter().map(|path| (path.as_str(), 1, false, [0; 32])))
    }

    #[test]
    fn numbers_mean_one_thing_and_are_not_used_again() {
        let mut inodes = Inodes::new();
        assert!(matches!(inodes.means(ROOT), Some(Means::Folder(name)) if name.is_empty()));
        let org = inodes.folder("org");
        let first = inodes.add(tree(3), "first");
        let model = inodes.folder("org/model");
        assert_eq!((inodes.folder("org"), inodes.folder("")), (org, ROOT));
        assert!(matches!(inodes.means(org), Some(Means::Folder(name)) if name == "org"));
        assert!(matches!(inodes.means(model), Some(Means::Folder(name)) if name == "org/model"));
        for node in 0..5 {
            let means = inodes.means(first.number(node));
            assert!(
                matches!(means, Some(Means::Node(block, at)) if block.artifact == "first" && at == node)
            );
        }
        assert!(inodes.means(model + 1).is_none() && inodes.means(0).is_none());

        assert!(inodes.refer(&first) && inodes.refer(&first));
        assert!(inodes.forget(first.number(2), 1).is_none());
        assert!(inodes.forget(org, 5).is_none() && inodes.forget(99, 5).is_none());
        assert!(inodes.forget(first.number(0), 1).is_some());
        assert!(inodes.means(first.number(0)).is_none() && !inodes.refer(&first));
        let second = inodes.add(tree(1), "second");
        assert!(second.first > model);
        inodes.set_root(&second);
        assert!(
            matches!(inodes.means(ROOT), Some(Means::Node(block, 0)) if block.artifact == "second")
        );
        inodes.refer(&second);
        assert!(inodes.forget(second.first, 7).is_none(), "the root stays");
        assert_eq!(inodes.artifacts(), 1);
    }
}
