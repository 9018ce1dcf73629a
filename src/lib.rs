//! Model weights as signed graphs of content-addressed chunks.

pub mod edge;
pub mod format;
pub mod id;
pub mod source;
