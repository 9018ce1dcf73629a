//! Which program of `kernels/` dequantizes a weight, with which numbers. Pure.
//!
//! The programs of a family are one file per language; what all share is in `common.*`, which comes
//! before them. They take the parts in the order of [`Part::ALL`](super::Part::ALL), a [`Params`],
//! and write vectors of eight elements: memory behind the result is a multiple of 32 bytes.

use super::split::Run;
use super::{Float, Layout};

/// A file of `kernels/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// bitsandbytes, 4 bits.
    Bnb4,
    /// LLM.int8().
    Int8,
    /// GPTQ.
    Gptq,
    /// AWQ.
    Awq,
    /// compressed-tensors.
    Packed,
    /// FP8 E4M3.
    Fp8,
    /// GGUF.
    Gguf,
    /// From one type of float to another.
    Convert,
}

/// The program of a family: GGUF has one per block type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Program {
    /// The file.
    pub family: Family,
    /// The entry point, less the element type behind `_` that CUDA's have.
    pub entry: &'static str,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Bnb4,
        Self::Int8,
        Self::Gptq,
        Self::Awq,
        Self::Packed,
        Self::Fp8,
        Self::Gguf,
        Self::Convert,
    ];

    /// The programs in the file.
    pub const fn entries(self) -> &'static [&'static str] {
        match self {
            Self::Bnb4 => &["bnb4"],
            Self::Int8 => &["int8"],
            Self::Gptq => &["gptq"],
            Self::Awq => &["awq"],
            Self::Packed => &["packed"],
            Self::Fp8 => &["fp8"],
            Self::Gguf => &["q4_0", "q8_0", "q4_k"],
            Self::Convert => &["convert"],
        }
    }

    /// The file in WGSL, with what it shares.
    pub fn wgsl(self) -> String {
        let own = match self {
            Self::Bnb4 => include_str!("../../kernels/bnb4.wgsl"),
            Self::Int8 => include_str!("../../kernels/int8.wgsl"),
            Self::Gptq => include_str!("../../kernels/gptq.wgsl"),
            Self::Awq => include_str!("../../kernels/awq.wgsl"),
            Self::Packed => include_str!("../../kernels/packed.wgsl"),
            Self::Fp8 => include_str!("../../kernels/fp8.wgsl"),
            Self::Gguf => include_str!("../../kernels/gguf.wgsl"),
            Self::Convert => include_str!("../../kernels/convert.wgsl"),
        };
        [include_str!("../../kernels/common.wgsl"), own].concat()
    }

    /// The file in CUDA C++, with what it shares.
    pub fn cuda(self) -> String {
        let own = match self {
            Self::Bnb4 => include_str!("../../kernels/bnb4.cu"),
            Self::Int8 => include_str!("../../kernels/int8.cu"),
            Self::Gptq => include_str!("../../kernels/gptq.cu"),
            Self::Awq => include_str!("../../kernels/awq.cu"),
            Self::Packed => include_str!("../../kernels/packed.cu"),
            Self::Fp8 => include_str!("../../kernels/fp8.cu"),
            Self::Gguf => include_str!("../../kernels/gguf.cu"),
            Self::Convert => include_str!("../../kernels/convert.cu"),
        };
        [include_str!("../../kernels/common.cuh"), own].concat()
    }
}

/// The numbers of a launch, as the programs lay them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Params {
    /// Vectors of eight elements to write.
    pub vectors: u32,
    /// Rows of the bound parts.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// The first row to write.
    pub first_row: u32,
    /// Rows to write.
    pub run_rows: u32,
    /// Bits of a code.
    pub bits: u32,
    /// Columns per group, elements per absmax.
    pub group: u32,
    /// Groups along a row.
    pub groups: u32,
    /// The type of the scales: the [`code`](Float::code) of a float.
    pub scale: u32,
    /// [`ALIGNED`] and the others.
    pub flags: u32,
    /// Rows per scale, or absmax per second absmax.
    pub height: u32,
    /// The bits of what is added to nested absmax.
    pub offset: u32,
    /// Always 0, which compilers cannot know: see `common.wgsl`.
    pub zero: u32,
    /// Divides numbers of vectors by the vectors of a row: see [`Divisor`]. CUDA's programs use it.
    pub row: Divisor,
    /// Divides vectors of a row by those of a group.
    pub group_of: Divisor,
    /// Nothing: makes the size a multiple of 16 bytes.
    pub spare: [u32; 3],
}

/// A division by multiplication: `n / d == (n * magic) >> shift` in 64 bits, for n below 2^31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Divisor {
    /// ceil(2^shift / d)
    pub magic: u32,
    /// 31 + ceil(log2 d)
    pub shift: u32,
}

impl Divisor {
    /// The division by `d`, from 1 to 2^31; by anything else as by 1.
    pub fn by(d: u32) -> Self {
        let d = if (1..=1 << 31).contains(&d) { u64::from(d) } else { 1 };
        let shift = 31 + d.next_power_of_two().trailing_zeros();
        // At most 2^31 * 2^ceil(log2 d) / d, which is below 2^32.
        let magic = (1_u64 << shift).div_ceil(d);
        Self { magic: u32::try_from(magic).unwrap_or(u32::MAX), shift }
    }
}

/// [`Params::flags`]: no vector crosses a row.
pub const ALIGNED: u32 = 1;
/// [`Params::flags`]: groups by index.
pub const INDEXED: u32 = 2;
/// [`Params::flags`]: there are zero points.
pub const ZEROS: u32 = 4;
/// [`Params::flags`]: zero points are stored less one.
pub const LESS_ONE: u32 = 8;
/// [`Params::flags`]: absmax are nested.
pub const NESTED: u32 = 16;
/// [`Params::flags`]: no vector crosses a group, and groups are in order.
pub const ONE_GROUP: u32 = 32;
/// [`Params::flags`]: codes of a byte are signed integers.
pub const SIGNED: u32 = 64;

impl Params {
    /// The numbers as bytes, for a uniform buffer.
    pub fn to_bytes(&self) -> [u8; 80] {
        let Self { vectors, rows, cols, first_row, run_rows, bits, group, groups, .. } = *self;
        let Self { scale, flags, height, offset, zero, row, group_of, spare, .. } = *self;
        let words = [
            [vectors, rows, cols, first_row],
            [run_rows, bits, group, groups],
            [scale, flags, height, offset],
            [zero, row.magic, row.shift, group_of.magic],
            [group_of.shift, spare[0], spare[1], spare[2]],
        ];
        let mut bytes = [0; 80];
        for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words.as_flattened()) {
            *to = word.to_le_bytes();
        }
        bytes
    }
}

/// What one block of threads writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// That many vectors in order.
    Vectors(u64),
    /// A tile of the result: columns and rows.
    Tile { cols: u64, rows: u64 },
}

/// What is to be run for a [`Run`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// The program.
    pub program: Program,
    /// Its numbers.
    pub params: Params,
    cols: u64,
    run_rows: u64,
}

/// Threads of a block, in both languages.
pub const THREADS: u32 = 256;

impl Launch {
    /// The launch for a run.
    pub fn new(run: &Run) -> Self {
        let weight = &run.weight;
        let (layout, cols) = (weight.layout(), u64::from(weight.cols()));
        let run_rows = run.elements.checked_div(cols).unwrap_or(0);
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let mut params = Params {
            vectors: small(run.elements.div_ceil(8)),
            rows: weight.rows(),
            cols: weight.cols(),
            first_row: run.first_row,
            run_rows: small(run_rows),
            groups: weight.groups(),
            scale: weight.scale().code(),
            row: Divisor::by(weight.cols() / 8),
            ..Params::default()
        };
        let mut flags = 0;
        let mut set = |flag, on| flags |= if on { flag } else { 0 };
        set(ALIGNED, cols.is_multiple_of(8));
        set(INDEXED, weight.is_indexed());
        let mut grouped = |group: u32| {
            params.group = group;
            params.group_of = Divisor::by(group / 8);
            set(ONE_GROUP, group.is_multiple_of(8) && !weight.is_indexed());
        };
        let (family, entry) = match layout {
            Layout::Bnb4 { block, nested } => {
                params.group = block;
                if let Some(nested) = nested {
                    (params.height, params.offset) = (nested.block, nested.offset.to_bits());
                    set(NESTED, true);
                }
                (Family::Bnb4, "bnb4")
            }
            Layout::Int8 => (Family::Int8, "int8"),
            Layout::Gptq { bits, group, less_one } => {
                grouped(group);
                params.bits = bits;
                set(LESS_ONE, less_one);
                (Family::Gptq, "gptq")
            }
            Layout::Awq { group } => {
                grouped(group);
                (Family::Awq, "awq")
            }
            Layout::Packed { bits, group, symmetric } => {
                // One group: nothing crosses it, wherever the row ends.
                grouped(if group >= weight.cols() { 1 << 31 } else { group });
                params.bits = bits;
                set(ZEROS, !symmetric);
                (Family::Packed, "packed")
            }
            Layout::Fp8 { block: [height, width] } | Layout::Bytes { block: [height, width] } => {
                grouped(if width >= weight.cols() { 1 << 31 } else { width });
                params.height = height;
                set(SIGNED, matches!(layout, Layout::Bytes { .. }));
                (Family::Fp8, "fp8")
            }
            Layout::Q4_0 => (Family::Gguf, "q4_0"),
            Layout::Q8_0 => (Family::Gguf, "q8_0"),
            Layout::Q4K => (Family::Gguf, "q4_k"),
            // No run is made of these.
            Layout::Mxfp4 | Layout::Nvfp4 { .. } => (Family::Packed, "packed"),
            Layout::Blocks(block) => (Family::Gguf, block.name()),
        };
        params.flags = flags;
        Self { program: Program { family, entry }, params, cols, run_rows }
    }

    /// The launch that converts `elements` floats, at most [`pieces::MAX`](super::pieces::MAX).
    pub fn convert(elements: u64, from: Float) -> Self {
        let vectors = u32::try_from(elements.div_ceil(8)).unwrap_or(u32::MAX);
        let params = Params { vectors, scale: from.code(), ..Params::default() };
        let program = Program { family: Family::Convert, entry: "convert" };
        Self { program, params, cols: 0, run_rows: 0 }
    }

    /// Blocks of threads in WGSL.
    pub fn wgsl_blocks(&self) -> u64 {
        self.blocks(match self.program.family {
            Family::Gptq => Block::Tile { cols: 64, rows: 32 },
            Family::Awq => Block::Tile { cols: 64, rows: 256 },
            _ => Block::Vectors(THREADS.into()),
        })
    }

    /// Blocks of threads in CUDA, where a thread has four vectors in flight.
    pub fn cuda_blocks(&self) -> u64 {
        self.blocks(match self.program.family {
            Family::Gptq => Block::Tile { cols: 64, rows: 128 },
            Family::Awq => Block::Tile { cols: 64, rows: 256 },
            _ => Block::Vectors(4 * u64::from(THREADS)),
        })
    }

    fn blocks(&self, block: Block) -> u64 {
        match block {
            Block::Vectors(vectors) => u64::from(self.params.vectors).div_ceil(vectors),
            Block::Tile { cols, rows } => self.cols.div_ceil(cols) * self.run_rows.div_ceil(rows),
        }
    }
}

/// The end of a CUDA entry point's name for an element type.
pub const fn suffix(out: Float) -> &'static str {
    match out {
        Float::F32 => "f32",
        Float::F16 => "f16",
        Float::BF16 => "bf16",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_divisor_divides(d in 1..=1_u32 << 31, n in 0..1_u32 << 31, k in 0..40_u32) {
            // Near multiples, where a magic number errs first.
            let near = (n / d * d).saturating_sub(k % 2);
            let by = |d: u32, n: u32| {
                let Divisor { magic, shift } = Divisor::by(d);
                ((u64::from(n) * u64::from(magic)) >> shift) as u32
            };
            let small = (d >> (k % 31)).max(1);
            for (d, n) in [(d, n), (d, near), (small, n), (small, (n / small * small).saturating_sub(1))] {
                prop_assert_eq!(by(d, n), n / d, "{} / {}", n, d);
            }
        }
    }
}
