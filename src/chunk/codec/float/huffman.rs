//! Canonical Huffman codes of at most 14 bits: their lengths from counts, their codes, and the table
//! that decodes up to six symbols at a look.
//!
//! A code is complete: every string of bits decodes, so decoding cannot fail before it ends.

#![expect(
    clippy::indexing_slicing,
    reason = "symbols are bytes, and lengths of codes were checked"
)]

/// The longest code, in bits: four fill what an 8-byte word has left beside 7 bits.
pub(super) const MAX_BITS: u32 = 14;
/// Bits that a look at the table takes; longer codes are rare and found otherwise. The table stays
/// in half of a first-level cache.
const LOOK_BITS: u32 = 11;
/// Symbols that one look at a table yields at most.
pub(super) const MAX_AT_ONCE: usize = 6;

/// The length of each symbol's code, 0 for those that have none.
pub(super) type Lengths = [u8; 256];

/// The lengths for symbols with these counts, of which at least two are not zero.
pub(super) fn lengths(counts: &[u32; 256]) -> Lengths {
    let mut order: Vec<(u64, u8)> = (0..=255_u8)
        .filter(|&symbol| counts[usize::from(symbol)] > 0)
        .map(|symbol| (u64::from(counts[usize::from(symbol)]), symbol))
        .collect();
    order.sort_unstable();
    let weights: Vec<u64> = order.iter().map(|&(weight, _)| weight).collect();
    let mut depths = depths(&weights);
    limit(&mut depths);
    let mut lengths = [0; 256];
    for (&(_, symbol), depth) in order.iter().zip(depths) {
        lengths[usize::from(symbol)] = depth as u8;
    }
    lengths
}

/// The depth of each leaf of the Huffman tree over ascending weights; depths descend.
fn depths(weights: &[u64]) -> Vec<u32> {
    let leaves = weights.len();
    // Nodes in the order of their making have ascending weights, so two queues are enough.
    let mut nodes: Vec<u64> = Vec::with_capacity(leaves);
    let mut parents = vec![0_usize; 2 * leaves];
    let (mut leaf, mut node) = (0, 0);
    for made in 0..leaves.saturating_sub(1) {
        let mut weight = 0;
        for _ in 0..2 {
            let takes_leaf =
                leaf < leaves && nodes.get(node).is_none_or(|&inner| weights[leaf] <= inner);
            if takes_leaf {
                weight += weights[leaf];
                parents[leaf] = leaves + made;
                leaf += 1;
            } else {
                weight += nodes[node];
                parents[leaves + node] = leaves + made;
                node += 1;
            }
        }
        nodes.push(weight);
    }
    let mut depth = vec![0_u32; 2 * leaves];
    for i in (0..leaves + nodes.len().saturating_sub(1)).rev() {
        depth[i] = depth[parents[i]] + 1;
    }
    depth.truncate(leaves);
    depth
}

/// Makes descending depths at most [`MAX_BITS`] and the code complete again.
fn limit(depths: &mut [u32]) {
    const ONE: u32 = 1 << MAX_BITS;
    for depth in depths.iter_mut() {
        *depth = (*depth).min(MAX_BITS);
    }
    let mut used: u32 = depths.iter().map(|depth| ONE >> depth).sum();
    // Too many: the rarest symbols that can still grow do.
    while used > ONE {
        let Some(depth) = depths.iter_mut().find(|depth| **depth < MAX_BITS) else { break };
        used -= ONE >> (*depth + 1);
        *depth += 1;
    }
    // Room left: the commonest symbols that fit into it shrink.
    while used < ONE {
        let fits = |depth: &u32| *depth > 1 && used + (ONE >> depth) <= ONE;
        let Some(depth) = depths.iter_mut().rev().find(|depth| fits(depth)) else { break };
        used += ONE >> *depth;
        *depth -= 1;
    }
}

/// Whether these lengths are of a complete code, which has two symbols at least.
pub(super) fn is_complete(lengths: &Lengths) -> bool {
    let mut used = 0_u32;
    for length in lengths.iter().map(|&length| u32::from(length)) {
        match length {
            0 => {}
            1..=MAX_BITS => used += 1 << (MAX_BITS - length),
            _ => return false,
        }
    }
    used == 1 << MAX_BITS
}

/// Each symbol's code, its first bit lowest, numbered as RFC 1951 does.
pub(super) fn codes(lengths: &Lengths) -> [u16; 256] {
    let mut count = [0_u16; LEVELS];
    for &length in lengths.iter().filter(|&&length| length > 0) {
        count[usize::from(length)] += 1;
    }
    let mut next = [0_u16; LEVELS];
    for bits in 1..LEVELS {
        next[bits] = (next[bits - 1] + count[bits - 1]) << 1;
    }
    let mut codes = [0; 256];
    for (code, &length) in codes.iter_mut().zip(lengths) {
        if length > 0 {
            let next = &mut next[usize::from(length)];
            *code = next.reverse_bits() >> (16 - u32::from(length));
            *next += 1;
        }
    }
    codes
}

/// What the next 11 bits decode to, for each string of them: in the lowest byte how many bits are
/// used, then how many symbols they are, then the symbols; 0 where a longer code begins.
pub(super) struct Table {
    /// Behind those for narrower windows, which only its making needs.
    windows: Box<[u64; 2 * TABLE]>,
    /// Symbols in the order of their codes.
    symbols: [u8; 256],
    /// For each length: where its codes end, as 14 bits, first bit highest; and what to add to a
    /// code's number for its place in `symbols`.
    levels: [(u16, u16); LEVELS],
}

/// Entries of a table.
pub(super) const TABLE: usize = 1 << LOOK_BITS;
pub(super) const LEVELS: usize = MAX_BITS as usize + 1;

impl Table {
    /// The table of a complete code.
    #[inline(always)]
    pub(super) fn new(lengths: &Lengths) -> Self {
        let codes = codes(lengths);
        let (symbols, levels) = order(lengths);
        // What a window begins with: symbol and length, 0 where a longer code begins.
        let mut single = [(0_u8, 0_u8); TABLE];
        for symbol in 0..=255_u8 {
            let length = lengths[usize::from(symbol)];
            if (1..=LOOK_BITS as u8).contains(&length) {
                let code = usize::from(codes[usize::from(symbol)]);
                for slot in single[code..].iter_mut().step_by(1 << length) {
                    *slot = (symbol, length);
                }
            }
        }
        // Windows of n bits from 2^n on: what follows a symbol is a narrower window.
        let mut windows = Box::new([0_u64; 2 * TABLE]);
        for width in 1..=LOOK_BITS {
            for bits in 0..1_usize << width {
                let (symbol, length) = single[bits];
                if length == 0 || u32::from(length) > width {
                    continue;
                }
                let rest = windows[(1 << width | bits) >> length];
                windows[1 << width | bits] = if rest >> 8 & 0xff < MAX_AT_ONCE as u64 {
                    let count_and_bits = (rest & 0xffff) + (1 << 8 | u64::from(length));
                    (rest >> 16) << 24 | u64::from(symbol) << 16 | count_and_bits
                } else {
                    at_most(&single, bits, width)
                };
            }
        }
        Self { windows, symbols, levels }
    }

    /// The entries, by the next bits.
    pub(super) fn entries(&self) -> &[u64; TABLE] {
        self.windows.last_chunk().unwrap_or(&[0; TABLE])
    }

    /// The first symbol that `bits` begin with, and the length of its code.
    pub(super) fn first(&self, bits: u64) -> (u8, usize) {
        let code = (bits as u16).reverse_bits() >> (16 - MAX_BITS);
        let mut length = 1;
        while length < MAX_BITS as usize && code >= self.levels[length].0 {
            length += 1;
        }
        let number = code >> (MAX_BITS as usize - length);
        let place = number.wrapping_add(self.levels[length].1);
        (self.symbols[usize::from(place) % 256], length)
    }
}

/// The symbols in the order of their codes, and the levels of a [`Table`].
pub(super) fn order(lengths: &Lengths) -> ([u8; 256], [(u16, u16); LEVELS]) {
    let mut places = [0_u16; LEVELS + 1];
    for &length in lengths.iter().filter(|&&length| length > 0) {
        places[usize::from(length) + 1] += 1;
    }
    let mut levels = [(0, 0); LEVELS];
    let mut end = 0_u16;
    for length in 1..LEVELS {
        let count = places[length + 1];
        places[length + 1] += places[length];
        // The first code of this length, as a number of that many bits.
        let first = end >> (MAX_BITS as usize - length);
        end += count << (MAX_BITS as usize - length);
        levels[length] = (end, places[length].wrapping_sub(first));
    }
    let mut symbols = [0; 256];
    for symbol in 0..=255_u8 {
        let length = lengths[usize::from(symbol)];
        if length > 0 {
            let place = &mut places[usize::from(length)];
            symbols[usize::from(*place)] = symbol;
            *place += 1;
        }
    }
    (symbols, levels)
}

/// The entry of a window of `width` bits that begins with more symbols than an entry holds.
fn at_most(single: &[(u8, u8); TABLE], bits: usize, width: u32) -> u64 {
    let (mut used, mut entry) = (0, 0);
    for count in 0..MAX_AT_ONCE {
        let (symbol, length) = single[bits >> used];
        if length == 0 || used + u32::from(length) > width {
            break;
        }
        used += u32::from(length);
        let symbols = entry & !0xffff | u64::from(symbol) << (16 + 8 * count);
        entry = symbols | (count as u64 + 1) << 8 | u64::from(used);
    }
    entry
}
