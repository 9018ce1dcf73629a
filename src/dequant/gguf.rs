//! The blocks of GGUF files, after llama.cpp's `ggml-common.h`: their names, numbers and sizes.

/// A type of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are llama.cpp's")]
pub enum Block {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Iq2Xxs,
    Iq2Xs,
    Iq3Xxs,
    Iq1S,
    Iq4Nl,
    Iq3S,
    Iq2S,
    Iq4Xs,
    Iq1M,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
}

/// A type, its name, its number in files, and the elements and bytes of a block.
const TYPES: [(Block, &str, u32, usize, usize); 25] = [
    (Block::Q4_0, "q4_0", 2, 32, 18),
    (Block::Q4_1, "q4_1", 3, 32, 20),
    (Block::Q5_0, "q5_0", 6, 32, 22),
    (Block::Q5_1, "q5_1", 7, 32, 24),
    (Block::Q8_0, "q8_0", 8, 32, 34),
    (Block::Q8_1, "q8_1", 9, 32, 36),
    (Block::Q2K, "q2_k", 10, 256, 84),
    (Block::Q3K, "q3_k", 11, 256, 110),
    (Block::Q4K, "q4_k", 12, 256, 144),
    (Block::Q5K, "q5_k", 13, 256, 176),
    (Block::Q6K, "q6_k", 14, 256, 210),
    (Block::Q8K, "q8_k", 15, 256, 292),
    (Block::Iq2Xxs, "iq2_xxs", 16, 256, 66),
    (Block::Iq2Xs, "iq2_xs", 17, 256, 74),
    (Block::Iq3Xxs, "iq3_xxs", 18, 256, 98),
    (Block::Iq1S, "iq1_s", 19, 256, 50),
    (Block::Iq4Nl, "iq4_nl", 20, 32, 18),
    (Block::Iq3S, "iq3_s", 21, 256, 110),
    (Block::Iq2S, "iq2_s", 22, 256, 82),
    (Block::Iq4Xs, "iq4_xs", 23, 256, 136),
    (Block::Iq1M, "iq1_m", 29, 256, 56),
    (Block::Tq1_0, "tq1_0", 34, 256, 54),
    (Block::Tq2_0, "tq2_0", 35, 256, 66),
    (Block::Mxfp4, "mxfp4", 39, 32, 17),
    (Block::Nvfp4, "nvfp4", 40, 64, 36),
];

impl Block {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|(block, ..)| *block)
    }

    fn row(self) -> (&'static str, u32, usize, usize) {
        let own = TYPES.iter().find(|(block, ..)| *block == self);
        own.map_or(("", 0, 1, 0), |(_, name, number, elements, bytes)| {
            (name, *number, *elements, *bytes)
        })
    }

    /// The type that `quantize`'s method of this name makes.
    pub fn named(method: &str) -> Option<Self> {
        TYPES.iter().find(|(_, name, ..)| *name == method).map(|(block, ..)| *block)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The type that GGUF files number so.
    pub fn numbered(number: u32) -> Option<Self> {
        TYPES.iter().find(|(_, _, own, ..)| *own == number).map(|(block, ..)| *block)
    }

    /// Its number in GGUF files.
    pub fn number(self) -> u32 {
        self.row().1
    }

    /// Elements of a block.
    pub fn elements(self) -> usize {
        self.row().2
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        self.row().3
    }
}
