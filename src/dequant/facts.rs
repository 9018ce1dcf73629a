//! What is known of a checkpoint's stored tensors: what each is to a weight, and what they say together. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::gguf::Block;
use super::{Float, Part, QuantError};
use crate::format::dtype::{Dtype, Shape};

/// The types of blocks in GGUF files, by the names of their tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks(Arc<BTreeMap<String, Block>>);

impl Blocks {
    /// The type of a tensor; none for one of whole elements.
    pub fn of(&self, tensor: &str) -> Option<Block> {
        self.0.get(tensor).copied()
    }

    /// The names of the types that occur, with how many tensors have each.
    pub fn names(&self) -> BTreeMap<&'static str, usize> {
        let mut names = BTreeMap::new();
        self.0.values().for_each(|block| *names.entry(block.name()).or_insert(0) += 1);
        names
    }
}

impl FromIterator<(String, Block)> for Blocks {
    fn from_iter<I: IntoIterator<Item = (String, Block)>>(all: I) -> Self {
        Self(Arc::new(all.into_iter().collect()))
    }
}

/// What a tensor is to a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// One of the parts.
    Part(Part),
    /// All of it: blocks of this type.
    Blocks(Block),
    /// NVFP4's scale of all, which each scale is divided by.
    Divisor,
    /// NVFP4's scale of all, which each scale is multiplied with.
    Factor,
    /// The second level's code book, which follows the first in [`Part::Table`].
    NestedTable,
    /// bitsandbytes' `quant_state`.
    State,
    /// compressed-tensors' `weight_shape`.
    Shape,
    /// Says nothing that is needed.
    Nothing,
}

impl Role {
    /// Whether the tensor is small and read here, not only by kernels.
    pub fn is_read(self) -> bool {
        !matches!(self.part(), Some(Part::Codes | Part::Scales | Part::Zeros))
    }

    /// The part that it is.
    pub fn part(self) -> Option<Part> {
        match self {
            Self::Part(part) => Some(part),
            Self::Blocks(_) => Some(Part::Codes),
            _ => None,
        }
    }
}

/// A tensor as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type.
    pub dtype: Dtype,
    /// Its dimensions.
    pub dims: &'a [u64],
}

/// A quantized weight among a checkpoint's tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// The name of the weight.
    pub name: String,
    /// Its tensors, by their place in the list.
    pub tensors: Vec<(usize, Role)>,
}

/// Dimensions and type of a tensor, and its bytes where its role [is read](Role::is_read).
#[derive(Debug, Clone, Default)]
pub struct Facts(HashMap<Role, Fact>, Option<Block>);

type Fact = (Dtype, Vec<u64>, Vec<u8>);

impl Facts {
    /// Notes a tensor; its bytes only where the role [is read](Role::is_read).
    pub fn add(&mut self, role: Role, dtype: Dtype, dims: &[u64], bytes: Vec<u8>) {
        let role = match role {
            Role::Blocks(block) => {
                self.1 = Some(block);
                Role::Part(Part::Codes)
            }
            role => role,
        };
        self.0.insert(role, (dtype, dims.to_vec(), bytes));
    }

    /// The bytes of a part that was noted, by its type and dimensions.
    pub fn byte_len(&self, part: Part) -> u64 {
        let of = |(dtype, dims, _): &Fact| Shape::new(dims.clone())?.byte_len(*dtype);
        self.0.get(&Role::Part(part)).and_then(of).unwrap_or(0)
    }

    pub(super) fn dims(&self, part: Part) -> Result<&[u64], QuantError> {
        match self.0.get(&Role::Part(part)) {
            Some((_, dims, _)) => Ok(dims),
            None => {
                Err(QuantError::Unsupported("a quantized weight is loaded without all its tensors"))
            }
        }
    }

    pub(super) fn bytes(&self, role: Role) -> &[u8] {
        self.0.get(&role).map_or(&[], |(_, _, bytes)| bytes)
    }

    pub(super) fn scale(&self) -> Result<Float, QuantError> {
        let dtype = self.0.get(&Role::Part(Part::Scales)).map(|(dtype, ..)| *dtype);
        dtype.and_then(Float::of_dtype).ok_or(QuantError::Unsupported("scales that are not floats"))
    }

    /// The type of the blocks that were noted.
    pub(super) fn block(&self) -> Option<Block> {
        self.1
    }

    /// Whether a tensor of this role was noted.
    pub(super) fn has(&self, role: Role) -> bool {
        self.0.contains_key(&role)
    }
}
