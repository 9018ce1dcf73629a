//! The folders and files of an artifact. Pure.

use std::collections::BTreeMap;

use crate::store::ArtifactGraph;

/// The place of a node in its tree; the root's is 0.
pub(crate) type NodeIndex = u32;

/// A folder or a file.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) parent: NodeIndex,
    pub(crate) kind: Kind,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// What lies in it, by name.
    Folder(BTreeMap<String, NodeIndex>),
    File(File),
}

/// What is known of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File {
    /// Its place in the artifact.
    pub(crate) index: u32,
    pub(crate) size: u64,
    pub(crate) executable: bool,
    pub(crate) sha256: [u8; 32],
}

/// The files of an artifact in their folders.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// The node of each file.
    files: Vec<NodeIndex>,
}

impl Tree {
    pub(crate) fn of(whole: &ArtifactGraph) -> Self {
        let files = whole
            .files
            .iter()
            .map(|(file, _)| (file.path.as_str(), file.size, file.executable, file.sha256));
        Self::new(files)
    }

    /// Of files with distinct paths, none of which is a folder of another.
    pub(super) fn new<'a>(files: impl Iterator<Item = (&'a str, u64, bool, [u8; 32])>) -> Self {
        let root = Node { name: String::new(), parent: 0, kind: Kind::Folder(BTreeMap::new()) };
        let mut tree = Self { nodes: vec![root], files: Vec::new() };
        for (index, (path, size, executable, sha256)) in (0..).zip(files) {
            let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
            let folder = folders.split('/').filter(|part| !part.is_empty());
            let parent = folder.fold(0, |parent, part| tree.folder(parent, part));
            let file = File { index, size, executable, sha256 };
            let node = tree.add(parent, name, Kind::File(file));
            tree.files.push(node);
        }
        tree
    }

    fn folder(&mut self, parent: NodeIndex, name: &str) -> NodeIndex {
        match self.child(parent, name) {
            Some(found) => found,
            None => self.add(parent, name, Kind::Folder(BTreeMap::new())),
        }
    }

    fn add(&mut self, parent: NodeIndex, name: &str, kind: Kind) -> NodeIndex {
        // A path has at most 4096 bytes, and a table fits memory.
        let index = self.nodes.len() as NodeIndex;
        self.nodes.push(Node { name: name.to_owned(), parent, kind });
        if let Some(Node { kind: Kind::Folder(children), .. }) = self.nodes.get_mut(parent as usize)
        {
            children.insert(name.to_owned(), index);
        }
        index
    }

    pub(crate) fn len(&self) -> u64 {
        self.nodes.len() as u64
    }

    pub(crate) fn node(&self, index: NodeIndex) -> Option<&Node> {
        self.nodes.get(index as usize)
    }

    pub(crate) fn child(&self, parent: NodeIndex, name: &str) -> Option<NodeIndex> {
        match &self.node(parent)?.kind {
            Kind::Folder(children) => children.get(name).copied(),
            Kind::File(_) => None,
        }
    }

    /// A node's path.
    pub(crate) fn path(&self, index: NodeIndex) -> String {
        let (mut parts, mut at) = (Vec::new(), index);
        while at != 0
            && let Some(node) = self.node(at)
        {
            parts.push(node.name.as_str());
            at = node.parent;
        }
        parts.reverse();
        parts.join("/")
    }

    /// The node of a file.
    pub(crate) fn of_file(&self, file: u32) -> Option<NodeIndex> {
        self.files.get(file as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stand_in_their_folders() {
        let paths = ["a", "b/c d/e", "b/c d/\u{fc}", "b/f", "z\"'$"];
        let tree = Tree::new(paths.iter().map(|path| (*path, 1, false, [0; 32])));
        for (file, path) in (0..).zip(paths) {
            let found = path.split('/').try_fold(0, |parent, part| tree.child(parent, part));
            assert_eq!(found, tree.of_file(file));
            assert_eq!(tree.path(found.unwrap()), path);
        }
        assert_eq!((tree.len(), tree.child(0, "c d")), (8, None));
        assert_eq!(tree.child(1, "a"), None, "a file holds nothing");
    }
}
