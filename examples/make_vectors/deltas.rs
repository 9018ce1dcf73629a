//! Chunks of codecs 32 and 33, put together here from tables that are given, by a plain encoder of
//! its own: no change to the library's encoder changes them.
//!
//! One file: the encoder is of no use but to these vectors.

use tenpak::format::dtype::Dtype;
use tenpak::format::id::{DecodedDigest, StoredDigest};
use tenpak::format::record::{Base, ChunkRecord, CodecId};

use super::codecs::{Hostile, noise};
use super::golden::Objects;

const LANES: usize = 32;
const SLOTS: u64 = 1024;

/// A context's raw bits, and its frequencies without and with a change of sign.
#[derive(Clone)]
struct Table(u8, Vec<u16>, Vec<u16>);

impl Table {
    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.0, self.1.len() as u8, self.2.len() as u8];
        for &f in self.1.iter().chain(&self.2) {
            out.push(if f < 128 { f as u8 } else { 128 | f as u8 });
            out.extend((f >= 128).then_some((f >> 7) as u8));
        }
        out
    }

    /// The frequency and the first slot of a symbol; of the escape if it has none.
    fn symbol(&self, quotient: i64, flips: bool) -> (u64, u64, bool) {
        let folded = if quotient < 0 { -2 * quotient - 1 } else { 2 * quotient } as usize;
        let (before, of, at) = match flips {
            true => (self.1.iter().sum::<u16>(), &self.2, folded),
            false => (0, &self.1, folded + 1),
        };
        match of.get(at) {
            Some(&f) if f > 0 => {
                (f.into(), u64::from(before + of[..at].iter().sum::<u16>()), false)
            }
            _ => (self.1.first().map_or(SLOTS, |&f| f.into()), 0, true),
        }
    }
}

/// Parameters, without those that are zero.
#[derive(Clone, Copy)]
struct Head {
    width: usize,
    exponent: u32,
    contexts: u8,
    top: u8,
    log2: u8,
}

impl Head {
    fn bytes(&self) -> [u8; 20] {
        let mut out = [0; 20];
        let head = [self.width as u8, self.exponent as u8, self.contexts, self.top, self.log2];
        out[..5].copy_from_slice(&head);
        out
    }
}

/// The parts of a delta, which may be changed before they are put together.
#[derive(Clone)]
struct Parts {
    directory: Vec<[u32; 2]>,
    states: Vec<[u32; LANES]>,
    words: Vec<u16>,
    escapes: Vec<u8>,
    tables: Vec<u8>,
}

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let mut out: Vec<u8> =
            self.directory.iter().flatten().flat_map(|n| n.to_le_bytes()).collect();
        out.extend(self.states.iter().flatten().flat_map(|n| n.to_le_bytes()));
        out.extend(self.words.iter().flat_map(|n| n.to_le_bytes()));
        [&out[..], &self.escapes, &self.tables].concat()
    }
}

/// Numbers as elements.
fn bytes(numbers: &[u64], width: usize) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()[..width].to_vec()).collect()
}

/// What coding one element needs: frequency, first slot, raw bits, how many, whether it is escaped.
type Step = (u64, u64, u64, u32, bool);

fn step(head: Head, tables: &[Table], b: u64, x: u64) -> Step {
    let bits = 8 * head.width as u32 - u32::from(head.exponent > 0);
    let (b, x, modulus) = (b as i64, x as i64, 1_i64 << bits);
    let exponent = (b % modulus) >> (bits - head.exponent);
    let context = if head.exponent == 0 { 0 } else { (i64::from(head.top) - exponent).max(0) };
    let table = &tables[(context as usize).min(tables.len() - 1)];
    let half = modulus / 2;
    let difference = (x % modulus - b % modulus + half).rem_euclid(modulus) - half;
    let biased = difference + ((1 << table.0) >> 1);
    let (f, start, escapes) = table.symbol(biased >> table.0, (b ^ x) >> bits & 1 == 1);
    let raw = if escapes { 0 } else { biased & ((1 << table.0) - 1) };
    (f, start, raw as u64, table.0.into(), escapes)
}

fn encode(head: Head, tables: &[Table], base: &[u64], decoded: &[u64]) -> Parts {
    encode_from(1 << 16, head, tables, base, decoded)
}

/// The same, so that every state ends as `first`.
fn encode_from(first: u64, head: Head, tables: &[Table], base: &[u64], decoded: &[u64]) -> Parts {
    let both = base.iter().zip(decoded);
    let steps: Vec<Step> = both.map(|(&b, &x)| step(head, tables, b, x)).collect();
    let mut parts = Parts {
        directory: vec![],
        states: vec![],
        words: vec![],
        escapes: vec![],
        tables: tables.iter().flat_map(Table::bytes).collect(),
    };
    let segment = 1 << head.log2;
    for (steps, decoded) in steps.chunks(segment).zip(decoded.chunks(segment)) {
        let (mut states, mut words) = ([first; LANES], Vec::new());
        for steps in steps.chunks(LANES).rev() {
            for (state, &(_, _, raw, bits, _)) in states.iter_mut().zip(steps).rev() {
                let bits = bits.saturating_sub(6);
                if *state >> (32 - bits) > 0 {
                    words.push(*state as u16);
                    *state >>= 16;
                }
                *state = *state << bits | raw >> 6 & ((1 << bits) - 1);
            }
            for (state, &(f, start, raw, bits, _)) in states.iter_mut().zip(steps).rev() {
                let bits = bits.min(6);
                if *state >= f << (22 - bits) {
                    words.push(*state as u16);
                    *state >>= 16;
                }
                *state = *state << bits | raw & ((1 << bits) - 1);
                *state = *state / f * SLOTS + *state % f + start;
            }
        }
        let escaped: Vec<u64> =
            steps.iter().zip(decoded).filter(|(step, _)| step.4).map(|(_, &x)| x).collect();
        parts.directory.push([words.len() as u32, escaped.len() as u32]);
        parts.states.push(states.map(|state| state as u32));
        parts.words.extend(words.iter().rev());
        parts.escapes.extend(bytes(&escaped, head.width));
    }
    parts
}

/// A record, what its base decodes to, and its stored bytes.
fn chunk(
    (codec, element): (CodecId, Dtype),
    parameters: [u8; 20],
    base: &[u8],
    stored: &[u8],
    decoded: &[u8],
) -> Vec<u8> {
    let record = ChunkRecord {
        codec,
        element,
        parameters,
        base: Some(Base { decoded: DecodedDigest::of(base), depth: 1 }),
        stored_len: stored.len() as u32,
        stored: StoredDigest::of(stored),
        decoded_len: decoded.len() as u32,
        decoded: DecodedDigest::of(decoded),
    };
    [&record.to_bytes()[..], &(base.len() as u32).to_le_bytes(), base, stored].concat()
}

/// `n` numbers that look like noise, the same everywhere.
fn random(seed: u64, n: usize) -> Vec<u64> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ state >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
    };
    (0..n).map(|_| next()).collect()
}

/// Elements of a base, floats with exponents from `top` down, and others near them.
fn pair(head: Head, n: usize, most: u64) -> (Vec<u64>, Vec<u64>) {
    let bits = 8 * head.width as u32;
    let all = u64::MAX >> (64 - bits);
    if head.exponent == 0 {
        let base: Vec<u64> = random(1, n).iter().map(|x| x & all).collect();
        let noise = random(2, n).into_iter().map(|x| (x % (2 * most + 1)).wrapping_sub(most));
        let near = base.iter().zip(noise).map(|(b, d)| b.wrapping_add(d) & all).collect();
        return (base, near);
    }
    let mantissa = bits - 1 - head.exponent;
    let float = |x: &u64| {
        let exponent = u64::from(head.top).saturating_sub((x >> 24).trailing_zeros().into());
        x >> 20 & 1 << (bits - 1) | exponent << mantissa | x & ((1 << mantissa) - 1)
    };
    let base: Vec<u64> = random(1, n).iter().map(|x| float(&(x << 8 | x >> 20))).collect();
    let near = |(b, d): (&u64, u64)| {
        let magnitude = b & (all >> 1);
        let low = u64::from(head.top) - (magnitude >> mantissa).min(head.top.into());
        let most = most << low.min(8);
        let sign = if low > 2 && d >> 30 & 7 == 0 { 1 << (bits - 1) } else { 0 };
        let sum = magnitude.wrapping_add(d % (2 * most + 1)).wrapping_sub(most);
        (sum & (all >> 1)) | (b ^ sign) & !(all >> 1)
    };
    let near = base.iter().zip(random(2, n)).map(near).collect();
    (base, near)
}

/// Frequencies that halve, of `count` symbols, the escape's first.
fn halving(count: u32) -> Vec<u16> {
    let mut list: Vec<u16> = (1..count).map(|i| (SLOTS as u16 >> i).max(1)).collect();
    let rest = SLOTS as u16 - list.iter().sum::<u16>();
    list.insert(0, rest);
    list
}

/// Adds one chunk of every form of elements, and of every way a table may be.
pub fn golden(out: &mut Objects) {
    let mut add = |name: &str, bytes: Vec<u8>| out.insert(format!("v1/chunks/{name}"), bytes);
    let mut delta = |name: &str, element, head: Head, n, most, tables: &[Table]| {
        let (base, mut near) = pair(head, n, most);
        for (x, &b) in near.iter_mut().zip(&base) {
            // Unchanged where its table has no symbol for the change.
            *x = if step(head, tables, b, *x).0 == 0 { b } else { *x };
        }
        let stored = encode(head, tables, &base, &near).bytes();
        let (base, near) = (bytes(&base, head.width), bytes(&near, head.width));
        add(name, chunk((CodecId::DELTA, element), head.bytes(), &base, &stored, &near));
    };
    let head = |width, exponent, contexts, top| Head { width, exponent, contexts, top, log2: 10 };
    // Two segments; changes of sign; more raw bits where the base is smaller.
    let mut signed = halving(9);
    signed.pop();
    let tables = [
        Table(0, halving(5), vec![]),
        Table(0, halving(8), vec![]),
        Table(1, halving(8), vec![]),
        Table(2, signed, vec![0, 1, 1, 1, 1]),
        Table(6, vec![100, 500, 200, 124], vec![60, 40]),
    ];
    delta("delta-bf16", Dtype::BF16, head(2, 8, 5, 122), 1500, 1, &tables);
    // A context of which all is escaped, one with a single symbol, one that never comes.
    let tables =
        [Table(0, vec![], vec![]), Table(0, vec![0, 1024], vec![]), Table(6, halving(6), vec![])];
    let tables = [&tables[..], &[Table(0, vec![], vec![])]].concat();
    delta("delta-f16", Dtype::F16, head(2, 5, 4, 15), 900, 1, &tables);
    // Raw bits beyond those beside the symbol.
    let tables = [
        Table(14, halving(6), vec![]),
        Table(15, halving(6), vec![]),
        Table(22, halving(4), vec![]),
    ];
    delta("delta-f32", Dtype::F32, head(4, 8, 3, 122), 1100, 30_000, &tables);
    delta("delta-e4m3", Dtype::F8_E4M3, head(1, 4, 1, 7), 3000, 1, &[Table(0, halving(9), vec![])]);
    delta(
        "delta-e5m2",
        Dtype::F8_E5M2,
        head(1, 5, 16, 15),
        3000,
        1,
        &vec![Table(1, halving(7), vec![]); 16],
    );
    // Every quotient there is, and numbers that wrap.
    let all = Table(0, vec![8; 128], vec![]);
    let one_segment = Head { log2: 12, ..head(1, 0, 1, 0) };
    delta("delta-u8", Dtype::U8, one_segment, 3000, 63, &[all]);
    delta("delta-i16", Dtype::I16, head(2, 0, 1, 0), 1024, 200, &[Table(6, halving(11), vec![])]);
    delta(
        "delta-i32",
        Dtype::I32,
        head(4, 0, 1, 0),
        1025,
        900_000,
        &[Table(20, halving(3), vec![])],
    );

    let mut patch = |name: &str, element, width: usize, n: usize, patches: &[(usize, u64)]| {
        let (base, stored, decoded) = patched(width, n, patches);
        let mut parameters = [0; 20];
        parameters[0] = width as u8;
        add(name, chunk((CodecId::PATCH, element), parameters, &base, &stored, &decoded));
    };
    let two_blocks = [(0, 7), (65_535, 8), (65_536, 9), (65_599, 0)];
    patch("patch-u8", Dtype::U8, 1, 65_600, &two_blocks);
    patch("patch-bf16", Dtype::BF16, 2, 40, &[(3, 0x3f80), (39, 0xffff)]);
    patch("patch-f32", Dtype::F32, 4, 9, &[(0, 1), (1, 2), (8, 0x7fc0_0000)]);
    patch("patch-f64", Dtype::F64, 8, 5, &[(2, u64::MAX)]);
    patch("patch-nothing", Dtype::BF16, 2, 40, &[]);
}

/// A base, the patches as they are stored, and what they make of it.
fn patched(width: usize, n: usize, patches: &[(usize, u64)]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let base = noise(1, n * width);
    let mut decoded = base.clone();
    let mut parts = [vec![], vec![], vec![]];
    for block in 0..n.div_ceil(1 << 16) {
        let own: Vec<_> = patches.iter().filter(|patch| patch.0 >> 16 == block).collect();
        parts[0].extend((own.len() as u16).to_le_bytes());
        for (at, value) in own {
            parts[1].extend((*at as u16).to_le_bytes());
            parts[2].extend(&value.to_le_bytes()[..width]);
            decoded[at * width..(at + 1) * width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
    }
    (base, parts.concat(), decoded)
}

/// One chunk for each rule.
pub fn hostile() -> Vec<Hostile> {
    let mut out = heads();
    out.extend(tables());
    out.extend(segments());
    out.extend(patches());
    out
}

const HEAD: Head = Head { width: 2, exponent: 8, contexts: 1, top: 122, log2: 10 };
const N: usize = 600;

/// A chunk that breaks no rule, with and without escapes.
fn good(escapes: bool) -> (Vec<u64>, Vec<u64>, Parts) {
    let (base, _) = pair(HEAD, N, 0);
    let mut near = base.clone();
    let table = match escapes {
        true => Table(0, vec![24, 500, 500], vec![]),
        false => Table(0, vec![0, 524, 500], vec![]),
    };
    for (i, x) in near.iter_mut().enumerate() {
        *x -= u64::from(i % 3 == 0);
        *x ^= if escapes && i % 50 == 7 { 0x5555 } else { 0 };
    }
    let parts = encode(HEAD, &[table], &base, &near);
    (base, near, parts)
}

fn delta(
    section: &'static str,
    name: &'static str,
    error: &'static str,
    change: impl FnOnce(&mut [u8; 20], &mut Parts),
) -> Hostile {
    let (base, near, mut parts) = good(true);
    let mut parameters = HEAD.bytes();
    change(&mut parameters, &mut parts);
    let (base, near) = (bytes(&base, 2), bytes(&near, 2));
    let of = (CodecId::DELTA, Dtype::BF16);
    (section, name, error, chunk(of, parameters, &base, &parts.bytes(), &near))
}

fn heads() -> Vec<Hostile> {
    let parameter = |name, error, at: usize, with| delta("12.4", name, error, |p, _| p[at] = with);
    let two = |name, error, with: [u8; 4]| {
        delta("12.4", name, error, |p, _| p[..4].copy_from_slice(&with))
    };
    let part = |name, error, change: fn(&mut Parts)| delta("12.4", name, error, |_, p| change(p));
    let (base, near, parts) = good(true);
    let (base, near) = (bytes(&base, 2), bytes(&near, 2));
    let of = (CodecId::DELTA, Dtype::BF16);
    let cut = |name, error, len: usize| {
        ("12.4", name, error, chunk(of, HEAD.bytes(), &base, &parts.bytes()[..len], &near))
    };
    let against = |name, error, base: &[u8]| {
        ("12.4", name, error, chunk(of, HEAD.bytes(), base, &parts.bytes(), &near))
    };
    let odd = [&near[..], &[0]].concat();
    vec![
        parameter("delta-width-3", "no form of elements", 0, 3),
        two("delta-width-8", "no form of elements", [8, 11, 1, 122]),
        parameter("delta-exponent-6", "no form of elements", 1, 6),
        parameter("delta-contexts-0", "no contexts", 2, 0),
        parameter("delta-contexts-17", "no contexts", 2, 17),
        two("delta-contexts-of-integers", "no contexts", [2, 0, 2, 0]),
        two("delta-top-beyond", "no contexts", [2, 5, 1, 32]),
        two("delta-top-of-integers", "no contexts", [2, 0, 1, 1]),
        parameter("delta-segment-9", "no length", 4, 9),
        parameter("delta-segment-23", "no length", 4, 23),
        parameter("delta-sixth-parameter", "should be zero", 5, 1),
        parameter("delta-last-parameter", "should be zero", 19, 1),
        (
            "12.4",
            "delta-half-element",
            "whole number",
            chunk(of, HEAD.bytes(), &odd, &parts.bytes(), &odd),
        ),
        against("delta-base-missing", "needs the chunk", b""),
        against("delta-base-short", "of 1200 bytes, not of 1198", &base[..1198]),
        against("delta-base-long", "of 1200 bytes, not of 1201", &odd),
        cut("delta-cut-in-directory", "cut short", 7),
        cut("delta-cut-in-states", "cut short", 135),
        cut("delta-cut-in-words", "overruns", 140),
        part("delta-words-overrun", "overruns", |p| p.directory[0][0] += 40),
        part("delta-words-overrun-far", "overruns", |p| p.directory[0][0] = u32::MAX),
        part("delta-escapes-overrun", "overruns", |p| p.directory[0][1] += 40),
        part("delta-escapes-overrun-far", "overruns", |p| p.directory[0] = [u32::MAX; 2]),
        part("delta-trailing", "behind its tables", |p| p.tables.push(0)),
    ]
}

fn tables() -> Vec<Hostile> {
    let table = |name, error, bytes: &[u8]| {
        delta("12.4.1", name, error, |_, parts| parts.tables = bytes.to_vec())
    };
    let flat = |count: u8, each: u8| [&[0, count, 0][..], &vec![each; count.into()]].concat();
    let integers = delta("12.4.1", "table-signs-of-integers", "that there are not", |p, parts| {
        p[..4].copy_from_slice(&[2, 0, 1, 0]);
        parts.tables = vec![0, 1, 1, 0x80, 4, 0x80, 4];
    });
    let wide = {
        let head = Head { width: 4, ..HEAD };
        let (base, near) = pair(head, N, 1);
        let mut parts = encode(head, &[Table(0, halving(5), vec![])], &base, &near);
        parts.tables[0] = 23;
        let (base, near) = (bytes(&base, 4), bytes(&near, 4));
        let of = (CodecId::DELTA, Dtype::F32);
        let chunk = chunk(of, head.bytes(), &base, &parts.bytes(), &near);
        ("12.4.1", "table-raw-bits-23", "more raw bits", chunk)
    };
    vec![
        table("table-missing", "cut short", &[]),
        table("table-cut-in-head", "cut short", &[0, 8]),
        table("table-cut-in-list", "cut short", &flat(8, 127)[..10]),
        table("table-cut-in-frequency", "cut short", &[0, 1, 0, 0x80]),
        table("table-raw-bits-7", "more raw bits", &[7, 1, 0, 0x80, 8]),
        wide,
        table("table-symbols-129", "that there are not", &flat(129, 8)),
        table("table-signs-129", "that there are not", &[&[0, 0, 129][..], &[8; 129]].concat()),
        integers,
        table("table-sum-1023", "sum to 1024", &[0, 2, 0, 0xfe, 7, 1]),
        table("table-sum-1025", "sum to 1024", &[0, 2, 0, 0x80, 8, 1]),
        table("table-sum-0", "behind its last", &flat(1, 0)),
        table("table-last-0", "behind its last", &[0, 2, 0, 0x80, 8, 0]),
        table("table-sign-last-0", "behind its last", &[0, 1, 1, 0x80, 8, 0]),
        table("table-frequency-in-two", "in one way", &[0, 2, 0, 0x85, 0, 5]),
        table("table-frequency-above", "in one way", &[0, 1, 0, 0x80, 9]),
        table("table-trailing", "behind its tables", &[0, 1, 0, 0x80, 8, 1]),
    ]
}

fn segments() -> Vec<Hostile> {
    let part = |name, error, escapes, change: fn(&mut Parts)| {
        let (base, near, mut parts) = good(escapes);
        change(&mut parts);
        let (base, near) = (bytes(&base, 2), bytes(&near, 2));
        let of = (CodecId::DELTA, Dtype::BF16);
        ("12.4.2", name, error, chunk(of, HEAD.bytes(), &base, &parts.bytes(), &near))
    };
    vec![
        part("state-below", "below 2^16", false, |p| p.states[0][31] = 0xffff),
        part("state-0", "below 2^16", false, |p| p.states[0][0] = 0),
        {
            let (base, near, _) = good(true);
            let table = Table(0, vec![24, 500, 500], vec![]);
            let parts = encode_from((1 << 16) + 1, HEAD, &[table], &base, &near);
            let (base, near) = (bytes(&base, 2), bytes(&near, 2));
            let of = (CodecId::DELTA, Dtype::BF16);
            let chunk = chunk(of, HEAD.bytes(), &base, &parts.bytes(), &near);
            ("12.4.2", "state-ends-elsewhere", "end where it began", chunk)
        },
        part("words-left", "as many words", false, |p| {
            p.directory[0][0] += 1;
            p.words.push(0);
        }),
        part("words-missing", "as many words", false, |p| {
            p.directory[0][0] -= 1;
            p.words.pop();
        }),
        part("words-none", "as many words", false, |p| {
            p.directory[0][0] = 0;
            p.words.clear();
        }),
        part("escape-missing", "element is missing", true, |p| {
            p.directory[0][1] -= 1;
            p.escapes.truncate(p.escapes.len() - 2);
        }),
        part("escape-left", "more escapes", true, |p| {
            p.directory[0][1] += 1;
            p.escapes.extend([0, 0]);
        }),
    ]
}

fn patches() -> Vec<Hostile> {
    let (base, stored, decoded) = patched(2, 40, &[(3, 0x3f80), (39, 0xffff)]);
    let of = (CodecId::PATCH, Dtype::BF16);
    let p = |width, last| {
        let mut parameters = [0; 20];
        (parameters[0], parameters[19]) = (width, last);
        parameters
    };
    let with = |name, error, stored: &[u8]| {
        ("12.5", name, error, chunk(of, p(2, 0), &base, stored, &decoded))
    };
    let parameter = |name, error, p| ("12.5", name, error, chunk(of, p, &base, &stored, &decoded));
    let against = |name, error, base: &[u8]| {
        ("12.5", name, error, chunk(of, p(2, 0), base, &stored, &decoded))
    };
    let change = |name, error, at: usize, with_: &[u8]| {
        let mut stored = stored.clone();
        stored[at..at + with_.len()].copy_from_slice(with_);
        with(name, error, &stored)
    };
    let odd = [&base[..], &[0]].concat();
    vec![
        parameter("patch-width-3", "no form of elements", p(3, 0)),
        parameter("patch-width-0", "no form of elements", p(0, 0)),
        parameter("patch-last-parameter", "should be zero", p(2, 1)),
        ("12.5", "patch-half-element", "whole number", chunk(of, p(2, 0), &odd, &stored, &odd)),
        against("patch-base-missing", "needs the chunk", b""),
        against("patch-base-short", "of 80 bytes, not of 78", &base[..78]),
        against("patch-base-long", "of 80 bytes, not of 81", &odd),
        with("patch-cut-in-counts", "cut short", &stored[..1]),
        with("patch-cut-in-indexes", "cut short", &stored[..5]),
        with("patch-cut-in-elements", "cut short", &stored[..9]),
        with("patch-trailing", "behind its patches", &[&stored[..], &[0]].concat()),
        change("patch-too-few", "behind its patches", 0, &[1]),
        change("patch-too-many", "cut short", 0, &[3]),
        change("patch-descends", "do not ascend", 2, &[39, 0, 3, 0]),
        change("patch-twice", "do not ascend", 2, &[39, 0, 39, 0]),
        change("patch-index-beyond", "beyond the chunk", 4, &[40, 0]),
    ]
}
