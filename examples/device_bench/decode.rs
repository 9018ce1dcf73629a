//! Chunks of bf16 weights at their entropy, as a load decodes them: what each half times and compares.

use half::bf16;
use tenpak::codec::{CodecChoice, Encoder, Program};
use tenpak::dtype::Dtype;
use tenpak::format::grid::Rect;

use super::Failure;

/// Bytes of a chunk: what the packer cuts matrices into, about.
const CHUNK: u64 = 1 << 20;

/// A chunk, encoded and decoded.
pub struct Chunk {
    pub decoded: Vec<u8>,
    pub program: Program,
    pub image: Vec<u8>,
}

impl Chunk {
    /// Numbers whose exponents spread as those of weights do.
    pub fn new() -> Result<Self, Failure> {
        let mut state = 7_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let normal = |next: &mut dyn FnMut() -> f32| (0..12).map(|_| next()).sum::<f32>() * 0.02;
        let decoded: Vec<u8> =
            (0..CHUNK / 2).flat_map(|_| bf16::from_f32(normal(&mut next)).to_le_bytes()).collect();
        let choice = CodecChoice::Float;
        let encoded = Encoder::default().encode(choice, Dtype::BF16, decoded.clone().into(), None);
        let program =
            Program::of(&encoded.record, &encoded.stored)?.ok_or("a codec of no kernel")?;
        let mut image = Vec::new();
        program.image(&encoded.stored, &mut image);
        Ok(Self { decoded, program, image })
    }

    /// Its places in a tensor of `len` bytes.
    pub fn places(len: u64) -> impl Iterator<Item = Rect> {
        let start = (0..len / CHUNK).map(|at| at * CHUNK);
        start.map(|start| Rect { start, rows: 1, width: CHUNK, stride: CHUNK })
    }
}
