//! Chunks of the codecs of `codecs.md`, put together here bit by bit from codes that are given:
//! no change to the library's encoder changes them.

use std::error::Error;

use tenpak::format::dtype::Dtype;
use tenpak::format::id::{DecodedDigest, StoredDigest};
use tenpak::format::record::{ChunkRecord, CodecId};

use super::golden::Objects;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Symbols of a stream.
const STREAM: usize = 4096;

/// A code: its first symbol, and lengths from there on.
struct Code(u8, Vec<u8>);

impl Code {
    /// Its bytes in a section.
    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.0, (self.1.len() - 1) as u8];
        out.extend(self.1.chunks(2).map(|two| two[0] | two.get(1).unwrap_or(&0) << 4));
        out
    }

    /// The bits of a symbol, the first one first.
    fn bits(&self, symbol: u8) -> Vec<u8> {
        let length = self.1[usize::from(symbol - self.0)];
        let mut next = 0_u32;
        for bits in 1..=length {
            next <<= 1;
            for (i, _) in self.1.iter().enumerate().filter(|(_, l)| **l == bits) {
                if bits == length && i == usize::from(symbol - self.0) {
                    return (0..bits).rev().map(|bit| (next >> bit & 1) as u8).collect();
                }
                next += 1;
            }
        }
        Vec::new()
    }

    fn stream(&self, symbols: &[u8]) -> Vec<u8> {
        let bits: Vec<u8> = symbols.iter().flat_map(|&symbol| self.bits(symbol)).collect();
        let byte = |bits: &[u8]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit);
        bits.chunks(8).map(byte).collect()
    }

    /// Symbols that it has codes for, again and again.
    fn symbols(&self, n: usize) -> Vec<u8> {
        let used: Vec<u8> = (self.0..=255).zip(&self.1).filter(|s| *s.1 > 0).map(|s| s.0).collect();
        (0..n).map(|i| used[(i * i + i / 7) % used.len()]).collect()
    }
}

/// A section: `codes`, and for each stream which of them and its symbols.
fn section(codes: &[&Code], streams: &[(u16, &[u8])]) -> Vec<u8> {
    let mut out = vec![codes.len() as u8];
    out.extend(codes.iter().flat_map(|code| code.bytes()));
    let streams: Vec<_> =
        streams.iter().map(|&(of, symbols)| (of, codes[usize::from(of)].stream(symbols))).collect();
    let head = |(of, stream): &(u16, Vec<u8>)| (of << 13 | stream.len() as u16).to_le_bytes();
    out.extend(streams.iter().flat_map(head));
    out.extend(streams.into_iter().flat_map(|(_, stream)| stream));
    out
}

fn parameters(width: u8, exponent: u8, modes: &[u8], constants: &[u8], values: u8) -> [u8; 20] {
    let mut out = [0; 20];
    (out[0], out[1], out[18]) = (width, exponent, values);
    out[2..2 + modes.len()].copy_from_slice(modes);
    out[10..10 + constants.len()].copy_from_slice(constants);
    out
}

/// Elements from their planes, the lowest first.
fn merge(exponent: u32, planes: &[Vec<u8>]) -> Vec<u8> {
    let bits = 8 * planes.len() as u32;
    let element = |i: usize| {
        let x = planes.iter().rev().fold(0_u64, |x, plane| x << 8 | u64::from(plane[i]));
        if exponent == 0 {
            return x;
        }
        let mantissa = bits - 1 - exponent;
        let (e, s) = (x >> (mantissa + 1), x >> mantissa & 1);
        s << (bits - 1) | e << mantissa | x & ((1 << mantissa) - 1)
    };
    (0..planes[0].len()).flat_map(|i| element(i).to_le_bytes()[..planes.len()].to_vec()).collect()
}

/// A record and its stored bytes.
fn chunk(
    (codec, element): (CodecId, Dtype),
    parameters: [u8; 20],
    stored: &[u8],
    decoded: &[u8],
) -> Vec<u8> {
    let record = ChunkRecord {
        codec,
        element,
        parameters,
        base: None,
        stored_len: stored.len() as u32,
        stored: StoredDigest::of(stored),
        decoded_len: decoded.len() as u32,
        decoded: DecodedDigest::of(decoded),
    };
    [&record.to_bytes()[..], stored].concat()
}

/// Bytes without structure, the same everywhere.
pub fn noise(seed: usize, n: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * 167 + seed * 59 + i * i / 31) % 256) as u8).collect()
}

/// Lengths 1, 2, 3 and so on to `longest`, which two symbols have.
fn steep(first: u8, longest: u8) -> Code {
    Code(first, (1..=longest).chain([longest]).collect())
}

/// Adds one chunk of every form and mode.
pub fn golden(out: &mut Objects) -> Result<()> {
    let mut add = |name: &str, bytes: Vec<u8>| out.insert(format!("v1/chunks/{name}"), bytes);
    let (steep8, flat) = (steep(118, 8), Code(120, vec![2; 4]));

    // Two streams, each with a code of its own.
    let mut high = steep8.symbols(STREAM);
    high.extend(flat.symbols(904));
    let low = noise(1, high.len());
    let coded = section(&[&steep8, &flat], &[(0, &high[..STREAM]), (1, &high[STREAM..])]);
    let decoded = merge(8, &[low.clone(), high]);
    let of = (CodecId::PLANES, Dtype::BF16);
    let p = parameters(2, 8, &[0, 1], &[], 0);
    add("planes-bf16", chunk(of, p, &[coded, low].concat(), &decoded));

    // The longest codes, a gap between symbols, and planes that are constant.
    let mut longest = steep(100, 14);
    longest.1.splice(3..3, [0, 0]);
    let (high, middle) = (longest.symbols(300), noise(2, 300));
    let coded = section(&[&longest], &[(0, &high)]);
    let decoded = merge(8, &[vec![0; 300], vec![0x80; 300], middle.clone(), high]);
    let p = parameters(4, 8, &[2, 2, 0, 1], &[0, 0x80], 0);
    let of = (CodecId::PLANES, Dtype::F32);
    add("planes-f32", chunk(of, p, &[coded, middle].concat(), &decoded));

    // Both planes coded: the higher comes first.
    let (high, low) = (steep8.symbols(500), flat.symbols(500));
    let stored = [section(&[&steep8], &[(0, &high)]), section(&[&flat], &[(0, &low)])].concat();
    let decoded = merge(5, &[low, high]);
    let p = parameters(2, 5, &[1, 1], &[], 0);
    add("planes-f16", chunk((CodecId::PLANES, Dtype::F16), p, &stored, &decoded));

    let planes: Vec<_> = (0..6).map(|seed| noise(seed, 64)).collect();
    let mut stored = section(&[&flat], &[(0, &flat.symbols(64))]);
    stored.extend(planes.iter().rev().flatten());
    let all = [&planes[..], &[vec![9; 64], flat.symbols(64)]].concat();
    let p = parameters(8, 11, &[0, 0, 0, 0, 0, 0, 2, 1], &[0, 0, 0, 0, 0, 0, 9], 0);
    add("planes-f64", chunk((CodecId::PLANES, Dtype::F64), p, &stored, &merge(11, &all)));

    let seven = Code(128, vec![7; 128]);
    let symbols = seven.symbols(1000);
    let stored = section(&[&seven], &[(0, &symbols)]);
    let p = parameters(1, 0, &[1], &[], 0);
    add("planes-u8", chunk((CodecId::PLANES, Dtype::U8), p, &stored, &symbols));

    let low = flat.symbols(100);
    let stored = section(&[&flat], &[(0, &low)]);
    let decoded = merge(0, &[low, vec![255; 100], vec![255; 100], vec![255; 100]]);
    let p = parameters(4, 0, &[1, 2, 2, 2], &[0, 255, 255, 255], 0);
    add("planes-i32", chunk((CodecId::PLANES, Dtype::I32), p, &stored, &decoded));

    let values: Vec<[u8; 2]> = [0x0000, 0x3c01, 0x3f80, 0xbf80_u16].map(u16::to_le_bytes).into();
    let four = Code(0, vec![1, 2, 3, 3]);
    let indexes = four.symbols(200);
    let stored = [values.concat(), section(&[&four], &[(0, &indexes)])].concat();
    let decoded: Vec<u8> = indexes.iter().flat_map(|&i| values[usize::from(i)]).collect();
    let p = parameters(2, 0, &[1], &[], 3);
    add("palette-bf16", chunk((CodecId::PALETTE, Dtype::BF16), p, &stored, &decoded));

    let stored = 1.5_f32.to_le_bytes();
    let p = parameters(4, 0, &[2], &[], 0);
    add("palette-f32", chunk((CodecId::PALETTE, Dtype::F32), p, &stored, &stored.repeat(9)));

    let values: Vec<[u8; 8]> = (0..256_u64).map(|i| ((i << 40) | (i * 3)).to_le_bytes()).collect();
    let indexes = noise(3, 400);
    let decoded: Vec<u8> = indexes.iter().flat_map(|&i| values[usize::from(i)]).collect();
    let p = parameters(8, 0, &[0], &[], 255);
    let stored = [values.concat(), indexes].concat();
    add("palette-f64", chunk((CodecId::PALETTE, Dtype::F64), p, &stored, &decoded));
    Ok(())
}

/// A chunk that breaks a rule: the section that says it, its name, the error.
pub type Hostile = (&'static str, &'static str, &'static str, Vec<u8>);

/// One chunk for each rule.
pub fn hostile() -> Vec<Hostile> {
    let mut out = planes();
    out.extend(sections());
    out.extend(palettes());
    out
}

fn planes() -> Vec<Hostile> {
    let n = 32;
    let flat = Code(120, vec![2; 4]);
    let good = section(&[&flat], &[(0, &flat.symbols(n))]);
    let stored = [&good[..], &noise(1, n)].concat();
    let with = |name, error, parameters: [u8; 20], stored: &[u8], len: usize| {
        let of = (CodecId::PLANES, Dtype::BF16);
        ("12.1", name, error, chunk(of, parameters, stored, &vec![1; len]))
    };
    let bf16 = |modes: &[u8], constants: &[u8]| parameters(2, 8, modes, constants, 0);
    let change = |name, error, at: usize, byte| {
        let mut parameters = bf16(&[0, 1], &[]);
        parameters[at] = byte;
        with(name, error, parameters, &stored, 2 * n)
    };
    vec![
        change("planes-width-0", "no form of elements", 0, 0),
        change("planes-width-3", "no form of elements", 0, 3),
        change("planes-width-16", "no form of elements", 0, 16),
        change("planes-exponent-6", "no form of elements", 1, 6),
        change("planes-mode-3", "no way to store", 2, 3),
        change("planes-mode-beyond", "should be zero", 4, 1),
        change("planes-constant-of-raw", "should be zero", 10, 1),
        change("planes-values", "should be zero", 18, 1),
        change("planes-last-parameter", "should be zero", 19, 1),
        with("planes-half-element", "whole number", bf16(&[0, 1], &[]), &stored, 2 * n + 1),
        with("planes-raw-short", "cut short", bf16(&[0, 1], &[]), &stored[..stored.len() - 1], 64),
        with("planes-trailing", "no plane", bf16(&[0, 1], &[]), &[&stored[..], b"x"].concat(), 64),
        with("planes-unused", "no plane", bf16(&[2, 2], &[1, 1]), b"x", 64),
    ]
}

fn sections() -> Vec<Hostile> {
    let n = 32;
    let flat = Code(120, vec![2; 4]);
    let symbols = flat.symbols(n);
    let bytes = |name, error, stored: Vec<u8>| {
        let (of, p) = ((CodecId::PLANES, Dtype::U8), parameters(1, 0, &[1], &[], 0));
        ("12.2", name, error, chunk(of, p, &stored, &vec![1; n]))
    };
    let good = section(&[&flat], &[(0, &symbols)]);
    // The code is at 1 to 4, the stream's head at 5 and 6, its 8 bytes behind.
    let change = |name, error, at: usize, with: &[u8]| {
        let mut stored = good.clone();
        stored[at..at + with.len()].copy_from_slice(with);
        bytes(name, error, stored)
    };
    let code = |name, error, first, lengths: &[u8]| {
        let head = Code(first, lengths.to_vec()).bytes();
        bytes(name, error, [&[1][..], &head, &[8, 0], &good[7..]].concat())
    };
    let two = |of: u16| {
        let mut stored = vec![2];
        stored.extend([flat.bytes(), flat.bytes()].concat());
        stored.extend((of << 13 | 8).to_le_bytes());
        [&stored, &good[7..]].concat()
    };
    vec![
        change("section-0-codes", "1 to 8 codes", 0, &[0]),
        change("section-9-codes", "1 to 8 codes", 0, &[9]),
        bytes("section-cut-in-code", "cut short", good[..3].to_vec()),
        bytes("section-cut-in-lengths", "cut short", good[..6].to_vec()),
        bytes("section-cut-in-stream", "overruns", good[..14].to_vec()),
        code("code-symbols-above-255", "above 255", 253, &[2; 4]),
        code("code-begins-without", "one way", 119, &[0, 2, 2, 2, 2]),
        code("code-ends-without", "one way", 120, &[2, 2, 2, 2, 0]),
        bytes(
            "code-padding",
            "one way",
            [&[1, 120, 2, 0x22, 0x11][..], &[8, 0], &good[7..]].concat(),
        ),
        code("code-one-symbol", "complete code", 120, &[1]),
        code("code-incomplete", "complete code", 120, &[2, 2, 2]),
        code("code-oversubscribed", "complete code", 120, &[1, 2, 2, 2]),
        code("code-15-bits", "complete code", 100, &(1..=15).chain([15]).collect::<Vec<u8>>()),
        bytes("stream-code-unknown", "code that there is not", two(2)),
        change("stream-overruns", "overruns", 5, &[9]),
        change("stream-overruns-far", "overruns", 5, &[0xff, 0x1f]),
        bytes(
            "stream-too-long",
            "as long as its symbols",
            [&good[..5], &[9, 0], &good[7..], &[0]].concat(),
        ),
        bytes(
            "stream-too-short",
            "as long as its symbols",
            [&good[..5], &[7, 0], &good[7..14]].concat(),
        ),
        {
            let odd = section(&[&flat], &[(0, &symbols[..31])]);
            let mut stored = odd.clone();
            stored[14] |= 0x80;
            let (of, p) = ((CodecId::PLANES, Dtype::U8), parameters(1, 0, &[1], &[], 0));
            ("12.2", "stream-padding", "end in zero bits", chunk(of, p, &stored, &[1; 31]))
        },
    ]
}

fn palettes() -> Vec<Hostile> {
    let n = 32;
    let with = |name, error, parameters: [u8; 20], stored: &[u8]| {
        let of = (CodecId::PALETTE, Dtype::BF16);
        ("12.3", name, error, chunk(of, parameters, stored, &vec![1; 2 * n]))
    };
    let indexes = [0, 1].repeat(n / 2);
    let stored = [&[1, 0, 2, 0][..], &indexes].concat();
    let p = |width, exponent, values| parameters(width, exponent, &[0], &[], values);
    vec![
        with("palette-width-1", "no form of elements", p(1, 0, 1), &stored),
        with("palette-exponent", "no form of elements", p(2, 8, 1), &stored),
        with("palette-second-mode", "should be zero", parameters(2, 0, &[0, 1], &[], 1), &stored),
        with("palette-cut-short", "cut short", p(2, 0, 255), &stored),
        with("palette-descends", "ascend", p(2, 0, 1), &[&[2, 0, 1, 0][..], &indexes].concat()),
        with("palette-value-twice", "ascend", p(2, 0, 1), &[&[2, 0, 2, 0][..], &indexes].concat()),
        with(
            "palette-index-beyond",
            "beyond its palette",
            p(2, 0, 0),
            &[&[1, 0][..], &indexes].concat(),
        ),
        with(
            "palette-constant-beyond",
            "beyond its palette",
            parameters(2, 0, &[2], &[1], 0),
            &[1, 0],
        ),
        with("palette-trailing", "no plane", p(2, 0, 1), &[&stored[..], b"x"].concat()),
    ]
}
