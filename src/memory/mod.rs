//! Host memory: pages from the system, and buffers that are used again.

pub(crate) mod buffers;
pub(crate) mod pages;
