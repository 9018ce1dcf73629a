//! Looking at an artifact: its tensors by layer, and how well its chunks are encoded.

use std::collections::{BTreeMap, HashSet};

use super::order::{only_bases, units};
use crate::format::dtype::{Dtype, Shape};
use crate::store::{ArtifactGraph, Placed};

/// Chunks in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Encoding {
    /// Chunks.
    pub chunks: u64,
    /// Their stored bytes.
    pub stored_bytes: u64,
    /// How many use which codec.
    pub codecs: BTreeMap<String, u64>,
    /// Chunks that these are stored against, directly or through each other, counted apart.
    pub base_chunks: u64,
    /// Their stored bytes.
    pub base_bytes: u64,
}

impl Encoding {
    /// Of these chunks.
    pub fn of<'a>(chunks: impl IntoIterator<Item = &'a Placed>) -> Self {
        let mut encoding = Self::default();
        for chunk in chunks {
            encoding.chunks += 1;
            encoding.stored_bytes += u64::from(chunk.record.stored_len);
            *encoding.codecs.entry(chunk.record.codec.name().into_owned()).or_default() += 1;
        }
        encoding
    }

    /// Of a tensor, with its bases.
    pub fn of_tensor(whole: &ArtifactGraph, ordinal: usize) -> Self {
        let own = whole.tensor_chunks(ordinal);
        let first = whole.tensors.get(ordinal).map_or(0, |(_, first)| *first);
        let bases = (first..first + own.len()).flat_map(|chunk| whole.bases_of(chunk));
        Self::of(own).with_bases(bases.filter_map(|base| whole.chunks.get(base)))
    }

    fn with_bases<'a>(mut self, bases: impl IntoIterator<Item = &'a Placed>) -> Self {
        let mut seen = HashSet::new();
        for base in bases.into_iter().filter(|base| seen.insert(base.record.stored)) {
            self.base_chunks += 1;
            self.base_bytes += u64::from(base.record.stored_len);
        }
        self
    }

    fn add(&mut self, other: Self) {
        self.base_chunks += other.base_chunks;
        self.base_bytes += other.base_bytes;
        self.chunks += other.chunks;
        self.stored_bytes += other.stored_bytes;
        for (codec, count) in other.codecs {
            *self.codecs.entry(codec).or_default() += count;
        }
    }
}

/// Tensors whose names differ only in numbers, of one type and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The name, with `*`, or `{first..last}`, where the numbers are.
    pub name: String,
    /// How many there are.
    pub count: u64,
    /// Their element type.
    pub dtype: Dtype,
    /// Their shape.
    pub shape: Shape,
    /// Their bytes.
    pub bytes: u64,
    /// Their chunks.
    pub encoding: Encoding,
}

/// What a person wants to see of an artifact.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Tensors by layer, in load order of their firsts.
    pub groups: Vec<Group>,
    /// All chunks, counted as often as they are used; apart from them, those that only others are
    /// stored against.
    pub all: Encoding,
    /// Stored bytes of chunks that the artifact uses more than once, beyond the first use.
    pub repeated_bytes: u64,
}

/// Looks at an artifact.
pub fn inspect(whole: &ArtifactGraph) -> Inspection {
    let mut groups = Vec::<(Group, Vec<(u64, u64)>)>::new();
    let mut places = BTreeMap::<(Vec<String>, u8, Vec<u64>), usize>::new();
    for (i, (tensor, _)) in whole.tensors.iter().enumerate() {
        let (pattern, numbers) = pattern(&tensor.name);
        let encoding = Encoding::of_tensor(whole, i);
        let key = (pattern, tensor.dtype.code(), tensor.shape.dims().to_vec());
        let at = *places.entry(key).or_insert_with(|| {
            let group = Group {
                name: tensor.name.clone(),
                count: 0,
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                bytes: 0,
                encoding: Encoding::default(),
            };
            groups.push((group, numbers.iter().map(|&n| (n, n)).collect()));
            groups.len() - 1
        });
        let Some((group, ranges)) = groups.get_mut(at) else { continue };
        group.count += 1;
        group.bytes += tensor.byte_len();
        group.encoding.add(encoding);
        for (range, number) in ranges.iter_mut().zip(numbers) {
            *range = (range.0.min(number), range.1.max(number));
        }
    }
    let name = |(group, ranges): (Group, Vec<(u64, u64)>)| {
        let mut ranges = ranges.into_iter();
        let segment = |segment: &str| match segment.parse::<u64>() {
            Err(_) => segment.to_owned(),
            Ok(_) => match ranges.next() {
                Some((first, last)) if first != last => format!("{{{first}..{last}}}"),
                _ => segment.to_owned(),
            },
        };
        let name = group.name.split('.').map(segment).collect::<Vec<_>>().join(".");
        Group { name, ..group }
    };
    let units = units(whole);
    let used: Vec<&Placed> = units
        .iter()
        .flatten()
        .filter_map(|unit| whole.chunks.get(unit.chunks.clone()))
        .flatten()
        .collect();
    let (mut seen, mut repeated) = (HashSet::new(), 0);
    for chunk in &used {
        if !seen.insert(chunk.record.stored) {
            repeated += u64::from(chunk.record.stored_len);
        }
    }
    Inspection {
        groups: groups.into_iter().map(name).collect(),
        all: Encoding::of(used).with_bases(&only_bases(whole)),
        repeated_bytes: repeated,
    }
}

/// The segments of a name, `*` for numbers, and the numbers.
fn pattern(name: &str) -> (Vec<String>, Vec<u64>) {
    let mut numbers = Vec::new();
    let segment = |segment: &str| match segment.parse::<u64>() {
        Ok(number) => {
            numbers.push(number);
            "*".to_owned()
        }
        Err(_) => segment.to_owned(),
    };
    (name.split('.').map(segment).collect(), numbers)
}
