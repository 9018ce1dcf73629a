//! The blocks of GGUF files that `quantize` writes, after llama.cpp's `ggml-common.h`.

use super::Layout;

/// A type of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Block {
    /// 32 elements in 18 bytes.
    Q4_0,
    /// 32 elements in 34 bytes.
    Q8_0,
    /// 256 elements in 144 bytes.
    Q4K,
}

impl Block {
    /// The type that `quantize`'s method of this name makes.
    pub fn named(method: &str) -> Option<Self> {
        Some(match method {
            "q4_0" => Self::Q4_0,
            "q8_0" => Self::Q8_0,
            "q4_k" => Self::Q4K,
            _ => return None,
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
        }
    }

    /// The type that GGUF files number so.
    pub fn numbered(number: u32) -> Option<Self> {
        Some(match number {
            2 => Self::Q4_0,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            _ => return None,
        })
    }

    /// The layout of a weight of such blocks.
    pub fn layout(self) -> Layout {
        match self {
            Self::Q4_0 => Layout::Q4_0,
            Self::Q8_0 => Layout::Q8_0,
            Self::Q4K => Layout::Q4K,
        }
    }

    /// Elements of a block.
    pub fn elements(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q8_0 => 32,
            Self::Q4K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
        }
    }
}
