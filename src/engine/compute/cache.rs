//! Keys and values of the tokens that were seen, in blocks.

use super::lanes::LANES;
use super::states::States;

/// Tokens of a block.
pub const BLOCK: usize = 16;

/// Keys and values of all blocks of a model.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<Layer>,
    heads: usize,
    /// Values of a head, padded to whole lanes.
    width: usize,
    blocks: usize,
}

/// Of one of its layers: `[block, head, token, width]` each.
#[derive(Debug)]
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    /// Room for so many blocks; the system gives memory to those that are used.
    pub fn new(layers: usize, heads: usize, head_dim: usize, blocks: usize) -> Self {
        let width = head_dim.next_multiple_of(LANES);
        let len = blocks * heads * BLOCK * width;
        let layer = |_| Layer { keys: vec![0.0; len], values: vec![0.0; len] };
        Self { layers: (0..layers).map(layer).collect(), heads, width, blocks }
    }

    /// Bytes of one block.
    pub fn block_bytes(layers: usize, heads: usize, head_dim: usize) -> usize {
        layers * 2 * heads * BLOCK * head_dim.next_multiple_of(LANES) * size_of::<f32>()
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Heads of keys.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    /// Values of a head, with their padding.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Where a block's tokens of a head begin.
    pub(super) fn place(&self, block: u32, head: usize) -> usize {
        (block as usize * self.heads + head) * BLOCK * self.width
    }

    pub(super) fn keys(&self, layer: usize) -> &[f32] {
        self.layers.get(layer).map_or(&[], |layer| &layer.keys)
    }

    pub(super) fn values(&self, layer: usize) -> &[f32] {
        self.layers.get(layer).map_or(&[], |layer| &layer.values)
    }

    /// Puts keys and values, `[heads * head_dim]` each, of state `row` where the token has its place.
    pub fn put(
        &mut self,
        layer: usize,
        (block, at): (u32, usize),
        row: usize,
        [keys, values]: [&States; 2],
    ) {
        let (heads, width) = (self.heads, self.width);
        let begin = self.place(block, 0);
        let Some(layer) = self.layers.get_mut(layer) else { return };
        for (to, from) in [(&mut layer.keys, keys), (&mut layer.values, values)] {
            let head_dim = from.width() / heads.max(1);
            for (head, own) in from.row(row).chunks(head_dim.max(1)).enumerate() {
                let place = begin + (head * BLOCK + at) * width;
                if let Some(slot) = to.get_mut(place..place + own.len()) {
                    slot.copy_from_slice(own);
                }
            }
        }
    }
}
