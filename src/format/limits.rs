//! The limits of version 1 (`format-spec/v1.md`, section 14).

pub use crate::format::dtype::{MAX_RANK, MAX_TENSOR};

/// A chunk, stored or decoded, in bytes.
pub const MAX_CHUNK: u32 = 4 << 20;
/// A pack, in bytes.
pub const MAX_PACK: u64 = 64 << 20;
/// How many bases lie below a chunk.
pub const MAX_DEPTH: u8 = 8;
/// A page of a table, in bytes.
pub const MAX_PAGE: u64 = 64 << 20;
/// Pages of a table.
pub const MAX_PAGES: usize = 4096;
/// Chunk records of a table.
pub const MAX_RECORDS: u64 = 1 << 28;
/// A tensor's name, in bytes.
pub const MAX_NAME: usize = 1024;
/// A file's path, in bytes.
pub const MAX_PATH: usize = 4096;
/// A file, in bytes.
pub const MAX_FILE: u64 = (1 << 53) - 1;
/// A manifest, in bytes.
pub const MAX_MANIFEST: usize = 1 << 20;
/// A ref, in bytes.
pub const MAX_REF: usize = 64 << 10;
/// A node of the refs index, in bytes.
pub const MAX_NODE: usize = 32 << 10;
/// The refs index in the whole form, in bytes.
pub const MAX_INDEX: usize = 16 << 20;
/// A signature file, in bytes.
pub const MAX_SIGNATURE: usize = 64 << 10;
/// Signatures of one ref.
pub const MAX_SIGNATURES: usize = 16;
/// A lease, in bytes.
pub const MAX_LEASE: usize = 4 << 20;
/// A tombstone, a by-tensor entry or a store descriptor, in bytes.
pub const MAX_SMALL: usize = 4 << 10;
/// Files of this size and more have no git-blob SHA-1 (hubs keep them in LFS), in bytes.
pub const GIT_BLOB_LIMIT: u64 = 10 << 20;
