//! Chunks of bf16 weights at their entropy, as a load decodes them: what each half times and compares.

use half::bf16;
use tenpak::chunk::codec::{CodecChoice, Encoder, Program};
use tenpak::format::dtype::Dtype;
use tenpak::format::grid::Rect;
use tenpak::load::sink::decode::Placed;

use super::Failure;

/// Bytes of a chunk: what the packer cuts matrices into, about.
const CHUNK: u64 = 1 << 20;

/// A tensor of one chunk after the other, all with the same values, and as it is decoded.
pub struct Chunks {
    /// What each is decoded to.
    pub decoded: Vec<u8>,
    pub placed: Vec<Placed>,
    /// The images of all.
    pub images: Vec<u8>,
}

impl Chunks {
    /// Numbers whose exponents spread as those of weights do, for a tensor of `len` bytes.
    pub fn new(len: u64) -> Result<Self, Failure> {
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
        image.resize(image.len().next_multiple_of(256), 0);
        let placed = (0..len / CHUNK).map(|number| Placed {
            program: program.clone(),
            at: number * image.len() as u64,
            rect: Rect { start: number * CHUNK, rows: 1, width: CHUNK, stride: CHUNK },
        });
        let placed: Vec<_> = placed.collect();
        Ok(Self { decoded, images: image.repeat(placed.len()), placed })
    }

    /// Bytes that they are decoded to.
    pub fn len(&self) -> u64 {
        CHUNK * self.placed.len() as u64
    }
}
