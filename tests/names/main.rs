//! The index of refs: what it costs, that no writer's entry is lost, that nothing old or mixed counts
//! under trusted keys, and that collections leave what it needs.

#![cfg(feature = "cli")]

#[path = "../support/library.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod library;
#[path = "../support/run.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod run;
#[path = "../support/s3.rs"]
mod s3;

mod collected;
mod cost;
mod forms;
mod trusted;
mod writers;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use library::runtime;
use tenpak::format::id::ManifestId;
use tenpak::format::name::{ArtifactName, NamePattern, Tag};
use tenpak::format::names;
use tenpak::format::refs::{IndexEntry, RootBody};
use tenpak::format::store as paths;
use tenpak::store::{Store, unix_now};
use tenpak::transport::dir::DirBackend;
use tenpak::trust::{Envelope, Signer, TrustSet};

fn open(folder: &Path) -> Store {
    Store::new(Arc::new(DirBackend::new(folder.to_owned())))
}

fn entry(name: &str, version: u64) -> IndexEntry {
    IndexEntry {
        manifest: ManifestId::of(name.as_bytes()),
        name: name.parse().expect("a name"),
        tag: Tag::default(),
        version,
    }
}

/// Names a manifest that need not be there.
fn publish(store: &Store, name: &str, signers: &[Signer]) {
    let (manifest, name) = (ManifestId::of(name.as_bytes()), name.parse().expect("a name"));
    let tag = Tag::default();
    let published = store.publish(&name, &tag, manifest, signers, Default::default());
    runtime().block_on(published).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn remove(store: &Store, name: &str) {
    let name: ArtifactName = name.parse().expect("a name");
    let tag = Tag::default();
    let removed = store.unpublish(&name, &tag, &[], Default::default());
    assert!(runtime().block_on(removed).expect("removed"));
}

/// The names that the index lists.
fn listed(store: &Store, wanted: &str) -> Vec<String> {
    let wanted: NamePattern = wanted.parse().expect("a pattern");
    let listed = runtime().block_on(store.listed(&wanted, &TrustSet::default(), None));
    let listed = listed.unwrap_or_else(|error| panic!("{error}")).expect("an index");
    listed.entries.iter().map(|entry| entry.name.to_string()).collect()
}

/// Writes an index of these entries, as if each had been published.
fn write_index(store: &Store, entries: Vec<IndexEntry>, signers: &[Signer]) {
    let built = names::build(entries).expect("a tree");
    let root = RootBody::new(built.top, 1, unix_now() + 1000);
    let mut envelope = Envelope::new(root).expect("a root");
    signers.iter().for_each(|signer| envelope.sign(signer).expect("signed"));
    let root = Bytes::from(envelope.to_bytes().expect("a root"));
    runtime().block_on(async {
        for node in built.new {
            let path = paths::node(node.id);
            store.transport().put(&path, vec![node.bytes.into()]).await.expect("written");
        }
        store.transport().put(&paths::index(), vec![root]).await.expect("written");
    });
}

fn root_of(store: &Store) -> Envelope<RootBody> {
    let bytes = runtime().block_on(store.read(&paths::index(), 1 << 16)).expect("an index");
    Envelope::parse(&bytes).expect("a root")
}
