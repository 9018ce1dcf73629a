//! What the edge keeps and where it comes from: verified chunks in memory and on disk, the origins
//! behind them, files put together from chunks, artifacts, and small objects as their origin has them.

pub(crate) mod budget;
pub(crate) mod catalog;
pub(crate) mod chunks;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod origins;
pub(crate) mod packs;
pub(crate) mod parts;
pub(crate) mod reader;
pub(crate) mod recency;
pub(crate) mod relay;
pub(crate) mod revision;
pub(crate) mod source;
