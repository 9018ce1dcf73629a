//! Host memory: pages from the system, buffers that are used again, and the threads that fill them.

pub(crate) mod buffers;
pub(crate) mod pages;
pub(crate) mod pool;
