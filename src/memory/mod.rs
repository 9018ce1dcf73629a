//! Host memory: slots that destinations lend, buffers that are used again, pages from the system, and the
//! threads that fill them.

pub(crate) mod buffers;
pub(crate) mod pages;
pub(crate) mod pool;
pub mod slot;
