//! What differs between two artifacts: by content, never by place.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::format::id::{ContentDigest, StoredDigest};
use crate::format::page::{Extent, FileEntry, TensorEntry};
use crate::store::ArtifactGraph;

/// How one file or tensor differs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the second artifact has it.
    Added,
    /// Only the first artifact has it.
    Removed,
    /// Both have it, with different content, type or shape.
    Changed,
}

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Diff {
    /// Files that differ, by path.
    pub files: BTreeMap<String, Change>,
    /// Tensors that differ, by name; of tensors of one name in several files, `name (file)`.
    pub tensors: BTreeMap<String, Change>,
    /// Files that are the same.
    pub same_files: u64,
    /// Tensors that are the same.
    pub same_tensors: u64,
    /// Stored bytes of the distinct chunks that both have.
    pub shared_bytes: u64,
    /// Stored bytes of those that only the first has.
    pub only_first_bytes: u64,
    /// Stored bytes of those that only the second has.
    pub only_second_bytes: u64,
    /// Of these, stored bytes of chunks that are stored against what the first holds.
    pub second_against_first_bytes: u64,
    /// Of the first's, stored bytes of chunks that are stored against what the second holds.
    pub first_against_second_bytes: u64,
}

/// Compares two artifacts.
pub fn diff(first: &ArtifactGraph, second: &ArtifactGraph) -> Diff {
    let (files, same_files) = compare(&files(first), &files(second));
    let (tensors, same_tensors) = compare(&tensors(first), &tensors(second));
    let (a, b) = (chunks(first), chunks(second));
    let sum = |own: &HashMap<StoredDigest, u32>, other: &HashMap<StoredDigest, u32>, both| {
        let hit = own.iter().filter(|(digest, _)| other.contains_key(*digest) == both);
        hit.map(|(_, len)| u64::from(*len)).sum()
    };
    Diff {
        files,
        tensors,
        same_files,
        same_tensors,
        shared_bytes: sum(&a, &b, true),
        only_first_bytes: sum(&a, &b, false),
        only_second_bytes: sum(&b, &a, false),
        second_against_first_bytes: against(second, first, &a),
        first_against_second_bytes: against(first, second, &b),
    }
}

/// Stored bytes of the distinct chunks that only `own` has and that are stored against a content of
/// `other`, whose chunks are `shared`.
fn against(own: &ArtifactGraph, other: &ArtifactGraph, shared: &HashMap<StoredDigest, u32>) -> u64 {
    let contents: HashSet<_> = other.chunks.iter().map(|chunk| chunk.record.decoded).collect();
    let mut seen = HashSet::new();
    let hits = own.chunks.iter().map(|chunk| &chunk.record).filter(|record| {
        record.base.is_some_and(|base| contents.contains(&base.decoded))
            && !shared.contains_key(&record.stored)
            && seen.insert(record.stored)
    });
    hits.map(|record| u64::from(record.stored_len)).sum()
}

fn compare<T: PartialEq>(
    first: &BTreeMap<String, T>,
    second: &BTreeMap<String, T>,
) -> (BTreeMap<String, Change>, u64) {
    let mut changes = BTreeMap::new();
    let mut same = 0;
    for (name, content) in first {
        match second.get(name) {
            None => {
                changes.insert(name.clone(), Change::Removed);
            }
            Some(other) if other == content => same += 1,
            Some(_) => {
                changes.insert(name.clone(), Change::Changed);
            }
        }
    }
    let added = second.keys().filter(|name| !first.contains_key(*name));
    changes.extend(added.map(|name| (name.clone(), Change::Added)));
    (changes, same)
}

/// A file's content: the digests of its parts, its tensors' names apart.
type FileContent = (bool, u64, Vec<ContentDigest>);

fn files(whole: &ArtifactGraph) -> BTreeMap<String, FileContent> {
    let content = |file: &FileEntry| {
        let digest = |extent: &Extent| match *extent {
            Extent::Content { digest, .. } => Some(digest),
            Extent::Tensor { ordinal } => whole.tensors.get(ordinal as usize).map(|t| t.0.digest),
        };
        let digests = file.extents.iter().filter_map(digest).collect();
        (file.path.clone(), (file.executable, file.size, digests))
    };
    whole.files.iter().map(|(file, _)| content(file)).collect()
}

fn tensors(whole: &ArtifactGraph) -> BTreeMap<String, (u8, Vec<u64>, ContentDigest)> {
    let mut tensors = BTreeMap::new();
    for (tensor, _) in &whole.tensors {
        let TensorEntry { name, file, dtype, shape, digest, .. } = tensor;
        let key = match tensors.contains_key(name) {
            false => name.clone(),
            true => {
                let path = whole.files.get(*file as usize).map_or("", |(file, _)| &file.path);
                format!("{name} ({path})")
            }
        };
        tensors.insert(key, (dtype.code(), shape.dims().to_vec(), *digest));
    }
    tensors
}

fn chunks(whole: &ArtifactGraph) -> HashMap<StoredDigest, u32> {
    whole.chunks.iter().map(|chunk| (chunk.record.stored, chunk.record.stored_len)).collect()
}
