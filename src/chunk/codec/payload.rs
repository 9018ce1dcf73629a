//! What an encoder makes of a chunk.

use bytes::Bytes;

use crate::format::record::CodecId;

/// A chunk's stored bytes, and what is needed to decode them.
#[derive(Debug, Clone)]
pub struct Payload {
    /// Through which codec.
    pub codec: CodecId,
    /// Its parameters.
    pub parameters: [u8; 20],
    /// What is stored.
    pub stored: Bytes,
}
