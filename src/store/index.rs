//! The index of all refs: listed, looked up, and changed by replacing its root.
//!
//! Nodes are written before the root that leads to them, and the root only in the place of the one
//! that was read: a writer that is killed or overtaken leaves the index as others know it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::document::{Lifetime, Race, sealed, version_after};
use super::{Rejected, Store, StoreError, unix_now};
use crate::format::id::NodeId;
use crate::format::limits::{MAX_INDEX, MAX_NODE};
use crate::format::name::{ArtifactName, NamePattern, Tag};
use crate::format::names::{self, Edited, Halt, Item, Key, NewNode, Node, NodeSource, Place};
use crate::format::refs::{IndexBody, IndexEntry, RefBody, RootBody, SignedBody};
use crate::format::store as paths;
use crate::transport::{ReadRange, TransportErrorKind};
use crate::trust::{Envelope, KeyId, SeenRefs, SeenState, Signer, TrustError, TrustSet};

/// Nodes read or written at a time.
const AT_ONCE: usize = 16;

/// What is to become of an entry of the index.
#[derive(Debug, Clone)]
pub(super) enum IndexChange {
    /// It is there, unless a newer one is; its version never was before.
    Publish(IndexEntry),
    /// It is there, unless a newer one is.
    Place(IndexEntry),
    /// It is there.
    Force(IndexEntry),
    /// None of this version or an older one is there.
    Remove(ArtifactName, Tag, u64),
}

impl IndexChange {
    fn key(&self) -> Key<'_> {
        match self {
            Self::Publish(entry) | Self::Place(entry) | Self::Force(entry) => {
                (&entry.name, &entry.tag)
            }
            Self::Remove(name, tag, _) => (name, tag),
        }
    }

    /// The entry that takes the place of `known`; `Err` if `known` stays.
    fn instead_of(&self, known: Option<&IndexEntry>) -> Result<Option<IndexEntry>, ()> {
        match self {
            // A writer that was overtaken leaves the entry of the one that overtook it.
            Self::Publish(entry) | Self::Place(entry)
                if known.is_some_and(|known| known.version >= entry.version) =>
            {
                Err(())
            }
            Self::Remove(.., version) if known.is_some_and(|known| known.version > *version) => {
                Err(())
            }
            Self::Publish(entry) | Self::Place(entry) | Self::Force(entry) => {
                Ok(Some(entry.clone()))
            }
            Self::Remove(..) => Ok(None),
        }
    }

    /// The same for entries that are at hand; false if they stay as they are.
    fn apply(&self, entries: &mut Vec<IndexEntry>) -> bool {
        let is_same = |entry: &IndexEntry| (&entry.name, &entry.tag) == self.key();
        let known = entries.iter().position(is_same);
        let Ok(next) = self.instead_of(known.and_then(|at| entries.get(at))) else { return false };
        let changes = known.is_some() || next.is_some();
        entries.retain(|entry| !is_same(entry));
        entries.extend(next);
        changes
    }

    /// Whether the entry is new, and with it every node that leads there.
    fn is_new(&self) -> bool {
        matches!(self, Self::Publish(_))
    }
}

/// The index, in either form; nothing of it is verified.
#[derive(Debug)]
pub(crate) enum Index {
    /// All entries.
    Whole(Envelope<IndexBody>),
    /// The root of the tree of entries.
    Root(Envelope<RootBody>),
}

impl Index {
    pub(super) fn version(&self) -> u64 {
        match self {
            Self::Whole(envelope) => envelope.body().version,
            Self::Root(envelope) => envelope.body().version,
        }
    }

    fn is_signed(&self) -> bool {
        match self {
            Self::Whole(envelope) => envelope.claimed_keys().next().is_some(),
            Self::Root(envelope) => envelope.claimed_keys().next().is_some(),
        }
    }
}

/// What the index lists.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// In the order of names, then tags.
    pub entries: Vec<IndexEntry>,
    /// What the user must hear although it is no error.
    pub warning: Option<String>,
}

/// An index that was read and, if anybody is trusted, verified.
struct Vouched {
    index: Index,
    /// Who vouches for it; `None` if nobody is trusted.
    keys: Option<Vec<KeyId>>,
    warning: Option<String>,
}

/// The nodes that one piece of work has read.
#[derive(Default)]
struct Nodes(HashMap<NodeId, Arc<Node>>);

impl NodeSource for Nodes {
    fn node(&self, id: NodeId) -> Option<Arc<Node>> {
        self.0.get(&id).cloned()
    }
}

impl Store {
    /// What the index lists of these names; `None` if the store has no index. With anybody trusted,
    /// its root must be signed by one of them, valid now, and no older than what this user has seen, and
    /// only what a key may sign is listed.
    ///
    /// # Errors
    /// If the index does not count, a node is missing or wrong, or the store fails.
    pub async fn listed(
        &self,
        wanted: &NamePattern,
        trust: &TrustSet,
        seen: Option<&SeenRefs>,
    ) -> Result<Option<Listed>, StoreError> {
        let Some(Vouched { index, keys, warning }) = self.vouched(trust, seen).await? else {
            return Ok(None);
        };
        let mut entries = match index {
            Index::Whole(envelope) => envelope.body().refs.clone(),
            Index::Root(root) => self.entries(root.body().node, wanted).await?,
        };
        entries.retain(|entry| wanted.matches(&entry.name));
        if let Some(keys) = keys {
            entries.retain(|entry| trust.may_sign(&keys, &entry.name));
        }
        Ok(Some(Listed { entries, warning }))
    }

    async fn vouched(
        &self,
        trust: &TrustSet,
        seen: Option<&SeenRefs>,
    ) -> Result<Option<Vouched>, StoreError> {
        let check = |bytes: Bytes| {
            let index = self.parse_index(&bytes)?;
            if trust.is_empty() {
                return Ok(Vouched { index, keys: None, warning: None });
            }
            let now = unix_now();
            let (keys, signed) = match &index {
                Index::Whole(whole) => {
                    (trust.verify_index(&bytes, now)?.keys, whole.signed_bytes())
                }
                Index::Root(root) => (trust.verify_root(&bytes, now)?.keys, root.signed_bytes()),
            };
            let check =
                |seen: &SeenRefs| seen.check_index(&self.address(), &keys, index.version(), signed);
            let warning = match seen.map(check).transpose()? {
                Some(SeenState::NotWritable { reason }) => {
                    Some(format!("a rollback of the index would go unnoticed: {reason}"))
                }
                _ => None,
            };
            Ok(Vouched { index, keys: Some(keys), warning })
        };
        let (path, limit) = (paths::index(), MAX_INDEX as u64);
        match self.read_checked(&path, &ReadRange::Full, limit, check).await {
            Ok(vouched) => Ok(Some(vouched)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What tells this store from others, wherever it is asked from.
    fn address(&self) -> String {
        let location = self.location().trim_end_matches('/');
        match std::path::absolute(location) {
            Ok(path) if !location.contains("://") => path.display().to_string(),
            _ => location.to_owned(),
        }
    }

    fn parse_index(&self, bytes: &[u8]) -> Result<Index, TrustError> {
        let path = paths::index();
        Ok(match RootBody::is_meant(bytes) {
            true => Index::Root(self.parse(&path, bytes)?),
            false => Index::Whole(self.parse(&path, bytes)?),
        })
    }

    /// The index, if there is one; nothing of it is verified.
    pub(crate) async fn index(&self) -> Result<Option<Index>, StoreError> {
        let found = self.vouched(&TrustSet::default(), None).await?;
        Ok(found.map(|vouched| vouched.index))
    }

    /// A node of the index, which must be one that may stand there.
    pub(crate) async fn node(&self, place: &Place) -> Result<Arc<Node>, StoreError> {
        let check = |bytes: Bytes| {
            let node = Node::parse(&bytes, place.node)?;
            place.check(&node)?;
            Ok::<_, Rejected>(Arc::new(node))
        };
        let (path, limit) = (paths::node(place.node), MAX_NODE as u64);
        let read = self.read_checked(&path, &ReadRange::Full, limit, check).await;
        let by = place.parent().map_or_else(paths::index, paths::node);
        read.map_err(|error| error.named_by(by))
    }

    /// The entries of these names below a node: only the nodes that may hold them are read.
    async fn entries(
        &self,
        top: NodeId,
        wanted: &NamePattern,
    ) -> Result<Vec<IndexEntry>, StoreError> {
        let (mut entries, mut open) = (Vec::new(), vec![Place::top(top)]);
        while !open.is_empty() {
            let read = std::mem::take(&mut open).into_iter().map(|place| async move {
                let node = self.node(&place).await?;
                Ok::<_, StoreError>((place, node))
            });
            let read: Vec<_> = read.collect();
            let mut read = stream::iter(read).buffered(AT_ONCE);
            while let Some((place, node)) = read.try_next().await? {
                for item in node.items() {
                    if let Item::Ref(entry) = item
                        && wanted.matches(&entry.name)
                    {
                        entries.push(entry.clone());
                    }
                }
                open.extend(place.children(&node).filter(|below| below.may_hold(wanted)));
            }
        }
        Ok(entries)
    }

    /// Every node that the index leads to.
    ///
    /// # Errors
    /// If the index cannot be read to its end.
    pub(crate) async fn index_nodes(&self) -> Result<HashSet<NodeId>, StoreError> {
        let Some(Index::Root(root)) = self.index().await? else { return Ok(HashSet::new()) };
        let (mut nodes, mut open) = (HashSet::new(), vec![Place::top(root.body().node)]);
        while !open.is_empty() {
            nodes.extend(open.iter().map(|place| place.node));
            // What is known to hold refs alone leads nowhere.
            open.retain(|place| place.height() != Some(0));
            let read = std::mem::take(&mut open).into_iter().map(|place| async move {
                let node = self.node(&place).await?;
                Ok::<_, StoreError>(place.children(&node).collect::<Vec<_>>())
            });
            let read: Vec<_> = read.collect();
            let mut read = stream::iter(read).buffer_unordered(AT_ONCE);
            while let Some(below) = read.try_next().await? {
                open.extend(below);
            }
        }
        Ok(nodes)
    }

    /// Whether the index is signed, and its entry of a ref.
    pub(super) async fn index_entry(
        &self,
        name: &ArtifactName,
        tag: &Tag,
    ) -> Result<(bool, Option<IndexEntry>), StoreError> {
        let Some(index) = self.index().await? else { return Ok((false, None)) };
        let entry = match &index {
            Index::Whole(whole) => whole.body().get(name, tag).cloned(),
            Index::Root(root) => {
                let top = root.body().node;
                let mut nodes = Nodes::default();
                self.with_nodes(&mut nodes, |nodes| names::find(nodes, top, (name, tag))).await?
            }
        };
        Ok((index.is_signed(), entry))
    }

    /// Runs `work` until it has read every node that it needs.
    async fn with_nodes<T>(
        &self,
        nodes: &mut Nodes,
        work: impl Fn(&Nodes) -> Result<T, Halt>,
    ) -> Result<T, StoreError> {
        loop {
            match work(nodes) {
                Ok(done) => return Ok(done),
                Err(Halt::Needs(place)) => {
                    let node = self.node(&place).await?;
                    nodes.0.insert(place.node, node);
                }
                Err(Halt::Wrong { node, error }) => {
                    return Err(StoreError::format(self, &paths::node(node))(error));
                }
                Err(Halt::Unwritable(error)) => {
                    return Err(StoreError::format(self, &paths::index())(error));
                }
            }
        }
    }

    /// Changes one entry of the index. A lost race is run again on what the winner wrote.
    pub(super) async fn update_index(
        &self,
        change: IndexChange,
        signers: &[Signer],
        lifetime: Lifetime,
    ) -> Result<(), StoreError> {
        let path = paths::index();
        let (mut nodes, mut race) = (Nodes::default(), Race::new(&path, MAX_INDEX));
        loop {
            let index = race.read(self).await?.map(|bytes| self.parse_index(&bytes)).transpose()?;
            let Some(Edited { top, mut new }) =
                self.edited(&mut nodes, index.as_ref(), &change).await?
            else {
                return Ok(());
            };
            self.compare_clock(index.as_ref().map(Index::version))?;
            self.write_nodes(&new).await?;
            let version = version_after(index.as_ref().map(Index::version), RootBody::WHAT)?;
            let expires = unix_now() + lifetime.0.as_secs();
            let root = sealed(RootBody::new(top, version, expires), signers)?;
            if race.write(self, root).await? {
                new.retain(|node| !(node.leads && change.is_new()));
                return self.keep_nodes(&new).await;
            }
        }
    }

    /// The tree after a change; `None` if it stays as it is.
    async fn edited(
        &self,
        nodes: &mut Nodes,
        index: Option<&Index>,
        change: &IndexChange,
    ) -> Result<Option<Edited>, StoreError> {
        let mut entries = match index {
            Some(Index::Root(root)) => return self.grown(nodes, root.body().node, change).await,
            Some(Index::Whole(whole)) => whole.body().refs.clone(),
            None => self.all_refs().await?,
        };
        if !change.apply(&mut entries) && index.is_some() {
            return Ok(None);
        }
        let built = names::build(entries);
        built.map(Some).map_err(StoreError::format(self, &paths::index()))
    }

    async fn grown(
        &self,
        nodes: &mut Nodes,
        top: NodeId,
        change: &IndexChange,
    ) -> Result<Option<Edited>, StoreError> {
        let work = |nodes: &Nodes| {
            let known = names::find(nodes, top, change.key())?;
            match change.instead_of(known.as_ref()) {
                Ok(entry) => names::edit(nodes, top, change.key(), entry),
                Err(()) => Ok(None),
            }
        };
        self.with_nodes(nodes, work).await
    }

    /// An entry for every ref that the store lists. One that is damaged names nothing.
    async fn all_refs(&self) -> Result<Vec<IndexEntry>, StoreError> {
        let listed = match self.list("refs/").await {
            Ok(listed) => listed,
            Err(StoreError::Transport(error)) if error.kind == TransportErrorKind::Unlistable => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let read = listed.into_iter().map(|info| async move {
            match self.document::<RefBody>(&info.path).await {
                Err(StoreError::Trust(_) | StoreError::Damaged { .. }) => Ok(None),
                found => found,
            }
        });
        let read: Vec<_> = read.collect();
        let found: Vec<_> = stream::iter(read).buffered(AT_ONCE).try_collect().await?;
        Ok(found.iter().flatten().map(|envelope| IndexEntry::of(envelope.body())).collect())
    }

    async fn write_nodes(&self, nodes: &[NewNode]) -> Result<(), StoreError> {
        let put = nodes.iter().map(|node| async move {
            let bytes = Bytes::from(node.bytes.clone());
            self.transport().put(&paths::node(node.id), vec![bytes]).await
        });
        let put: Vec<_> = put.collect();
        Ok(stream::iter(put).buffer_unordered(AT_ONCE).try_collect().await?)
    }

    /// Writes nodes again that a collection has marked, and may have deleted since they were written.
    async fn keep_nodes(&self, nodes: &[NewNode]) -> Result<(), StoreError> {
        let keep = nodes.iter().map(|node| async move {
            let tombstone = paths::tombstone(&paths::node(node.id));
            if self.transport().head(&tombstone).await?.is_some() {
                self.transport().delete(&tombstone).await?;
                self.write_nodes(std::slice::from_ref(node)).await?;
            }
            Ok::<_, StoreError>(())
        });
        let keep: Vec<_> = keep.collect();
        stream::iter(keep).buffer_unordered(AT_ONCE).try_collect().await
    }
}
