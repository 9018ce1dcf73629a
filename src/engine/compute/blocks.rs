//! Codes of GGUF's blocks that have a scale for each group of 16 or 32 columns. Those that stand for points of a grid
//! have none, and are decoded as they are read.

use super::lanes::LANES;
use crate::dequant::gguf::Block;

/// Columns of a group.
pub(super) fn group(block: Block) -> Option<usize> {
    match block {
        Block::Q2K | Block::Q3K | Block::Q6K => Some(LANES),
        Block::Q4_1 | Block::Iq4Nl | Block::Iq4Xs | Block::Q5_0 | Block::Q5_1 | Block::Q5K => {
            Some(2 * LANES)
        }
        _ => None,
    }
}

/// The codes of blocks.
pub(super) fn codes(block: Block, stored: &[u8], codes: &mut [u8]) {
    let blocks = stored.chunks_exact(block.bytes());
    for (codes, own) in codes.chunks_exact_mut(block.elements()).zip(blocks) {
        let (of, from) = (|at: usize| own.get(at).copied().unwrap_or(0), |at| own.get(at..));
        let behind = |at| from(at).unwrap_or_default();
        match block {
            Block::Iq4Nl => halves(codes, behind(2)),
            Block::Q4_1 => halves(codes, behind(4)),
            Block::Q5_0 | Block::Q5_1 => {
                let fifth = if block == Block::Q5_0 { 2 } else { 4 };
                halves(codes, behind(fifth + 4));
                for (at, code) in codes.iter_mut().enumerate() {
                    *code |= (of(fifth + at / 8) >> (at % 8) & 1) << 4;
                }
            }
            Block::Iq4Xs => {
                let all = codes.chunks_exact_mut(32).zip(behind(8).chunks_exact(16));
                all.for_each(|(codes, bytes)| halves(codes, bytes));
            }
            Block::Q5K => {
                let all = codes.chunks_exact_mut(64).zip(behind(48).chunks_exact(32));
                for (at, (codes, bytes)) in all.enumerate() {
                    halves(codes, bytes);
                    above(codes, behind(16), 2 * at, 1);
                }
            }
            Block::Q6K => {
                let parts = behind(0).chunks_exact(64).zip(behind(128).chunks_exact(32));
                for (codes, (low, high)) in codes.chunks_exact_mut(128).zip(parts) {
                    halves(codes, low);
                    above(codes, high, 0, 2);
                }
            }
            Block::Q2K | Block::Q3K => {
                let low = if block == Block::Q2K { 16 } else { 32 };
                for (at, code) in codes.iter_mut().enumerate() {
                    *code = of(low + at / 128 * 32 + at % 32) >> (at % 128 / 32 * 2) & 3;
                    if block == Block::Q3K {
                        *code |= (of(at % 32) >> (at / 32) & 1) << 2;
                    }
                }
            }
            _ => {}
        }
    }
}

/// The low halves of bytes, then their high ones.
pub(super) fn halves(codes: &mut [u8], bytes: &[u8]) {
    let (first, second) = codes.split_at_mut(codes.len() / 2);
    for ((low, high), byte) in first.iter_mut().zip(second).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// The bits from the fifth on, `bits` of them: those of the first 32 columns from bit `first` of `high` on, those
/// of the next behind them.
fn above(codes: &mut [u8], high: &[u8], first: usize, bits: usize) {
    for (at, codes) in codes.chunks_exact_mut(32).enumerate() {
        for (code, high) in codes.iter_mut().zip(high) {
            *code |= (high >> (first + at * bits) & ((1 << bits) - 1)) << 4;
        }
    }
}
