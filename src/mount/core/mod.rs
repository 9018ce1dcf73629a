//! What the mount decides without any I/O: names and inode numbers, which chunks hold which bytes of a file,
//! what of it the kernel has, and what is read ahead of whom. Pure.

pub(crate) mod folders;
pub(crate) mod follow;
pub(crate) mod held;
pub(crate) mod inodes;
pub(crate) mod map;
pub(crate) mod order;
pub(crate) mod tree;
