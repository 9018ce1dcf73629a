//! Every path against a slow decoder that follows the specification bit by bit.

use proptest::prelude::*;

use super::*;

/// The chunk as the specification says it, or nothing if it breaks a rule.
fn oracle(parameters: &[u8; 20], codec: CodecId, stored: &[u8], len: usize) -> Option<Vec<u8>> {
    let (width, exponent) = (usize::from(parameters[0]), u32::from(parameters[1]));
    let palette = codec == CodecId::PALETTE;
    let n = len / width;
    let mut rest = stored.to_vec();
    let mut take =
        |count: usize| (count <= rest.len()).then(|| rest.drain(..count).collect::<Vec<u8>>());
    let values = match palette {
        true => Some(take(width * (usize::from(parameters[18]) + 1))?),
        false => None,
    };
    let count = if palette { 1 } else { width };
    let mut planes = vec![Vec::new(); count];
    for p in (0..count).rev().filter(|p| parameters[2 + p] == 1) {
        let mut codes = Vec::new();
        for _ in 0..take(1)?[0] {
            let head = take(2)?;
            let listed = usize::from(head[1]) + 1;
            let nibbles = take(listed.div_ceil(2))?;
            let mut all = Vec::new();
            for i in 0..listed {
                let length = u32::from(nibbles[i / 2] >> (4 * (i % 2)) & 15);
                all.push((length, usize::from(head[0]) + i));
            }
            all.retain(|&(length, _)| length > 0);
            all.sort_unstable();
            codes.push(all);
        }
        let heads = take(2 * n.div_ceil(STREAM))?;
        for (i, head) in heads.chunks(2).enumerate() {
            let head = u16::from_le_bytes([head[0], head[1]]);
            let bytes = take(usize::from(head % 8192))?;
            let bits: Vec<u32> =
                (0..8 * bytes.len()).map(|i| u32::from(bytes[i / 8] >> (i % 8) & 1)).collect();
            let mut bits = bits.into_iter();
            for _ in 0..STREAM.min(n - i * STREAM) {
                let (mut code, mut length, mut next, mut symbols) = (0, 0, 0, Vec::new());
                while symbols.is_empty() {
                    code = code << 1 | bits.next()?;
                    length += 1;
                    next <<= 1;
                    for &(_, symbol) in
                        codes.get(usize::from(head / 8192))?.iter().filter(|c| c.0 == length)
                    {
                        if next == code {
                            symbols.push(symbol);
                        }
                        next += 1;
                    }
                }
                planes[p].push(symbols[0] as u8);
            }
            (bits.len() < 8 && bits.all(|bit| bit == 0)).then_some(())?;
        }
    }
    for p in (0..count).rev() {
        match parameters[2 + p] {
            0 => planes[p] = take(n)?,
            2 => planes[p] = vec![parameters[10 + p]; n],
            _ => {}
        }
    }
    rest.is_empty().then_some(())?;
    let mut out = Vec::new();
    for i in 0..n {
        if let Some(values) = &values {
            let at = width * usize::from(planes[0][i]);
            out.extend_from_slice(values.get(at..at + width)?);
            continue;
        }
        let number = planes.iter().rev().fold(0_u64, |x, plane| x << 8 | u64::from(plane[i]));
        let bits = 8 * width as u32;
        let mantissa = bits - 1 - exponent;
        let number = match exponent {
            0 => number,
            _ => {
                let (low, sign) = (number & ((1 << mantissa) - 1), number >> mantissa & 1);
                low | number >> (mantissa + 1) << mantissa | sign << (bits - 1)
            }
        };
        out.extend_from_slice(&number.to_le_bytes()[..width]);
    }
    Some(out)
}

/// Encodes on every path, which must agree, and decodes on every path and by the oracle.
fn check(element: Dtype, decoded: &[u8]) -> Option<usize> {
    let drafts: Vec<_> = Simd::available()
        .map(|simd| {
            let mut encoder = Encoder { simd, ..Encoder::default() };
            encoder.draft(element, decoded).map(|d| (d.codec(), d.parameters(), d.finish(), d.len))
        })
        .collect();
    assert!(drafts.windows(2).all(|two| two[0] == two[1]), "paths encode differently");
    let (codec, parameters, stored, len) = drafts.into_iter().next()??;
    assert!(stored.len() <= len && len < decoded.len(), "{len} said, {} made", stored.len());
    for simd in Simd::available() {
        let mut out = vec![0xaa; decoded.len()];
        decode_with(simd, codec, &parameters, &stored, &mut out).unwrap();
        assert!(out == decoded, "{simd:?} decodes something else");
    }
    let slow = oracle(&parameters, codec, &stored, decoded.len());
    assert!(slow.as_deref() == Some(decoded), "the specification says something else");
    Some(stored.len())
}

/// A generator that is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 ^ self.0 >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
    }

    /// Normal enough: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() & 0xffff) as f32 / 65536.0).sum::<f32>() - 6.0
    }
}

const FLOATS: [Dtype; 6] =
    [Dtype::BF16, Dtype::F16, Dtype::F32, Dtype::F64, Dtype::F8_E4M3, Dtype::I32];

/// Elements of `width` bytes from numbers, whose highest bytes are taken.
fn elements(width: usize, n: usize, mut number: impl FnMut(usize) -> u64) -> Vec<u8> {
    (0..n).flat_map(|i| number(i).to_le_bytes()[8 - width..].to_vec()).collect()
}

#[test]
fn adversarial_elements_round_trip_on_every_path() {
    let mut random = Random(1);
    let normal = |random: &mut Random| f64::from(random.normal()).to_bits();
    for element in FLOATS {
        let width = form(element).unwrap().width();
        for n in [1, 7, 4095, 4096, 4097, 3 * 4096 + 5, 9 * 4096] {
            check(element, &elements(width, n, |_| 0));
            check(element, &elements(width, n, |_| 0x8000_0000_0000_0000));
            check(element, &elements(width, n, |i| (i as u64 % 2) << 55));
            check(element, &elements(width, n, |i| ((i > n / 2) as u64) << 63));
            // Every payload of NaN, of both signs; denormals; every exponent once.
            check(element, &elements(width, n, |i| 0x7fff_ffff_ffff_ffff ^ (i as u64) << 47));
            check(element, &elements(width, n, |i| (i as u64) << 40 & 0x000f_ffff_ffff_ffff));
            check(element, &elements(width, n, |i| (i as u64) << 52));
            check(element, &elements(width, n, |_| random.next() << 16));
            check(element, &elements(width, n, |_| normal(&mut random)));
            // Half of it still, half of it noise.
            let mixed = |i| if i % 8192 < 4096 { 7 << 48 } else { random.next() << 16 };
            check(element, &elements(width, n, mixed));
        }
    }
}

#[test]
fn weights_are_stored_within_a_percent_of_their_entropy() {
    let mut random = Random(2);
    let mut decoded = Vec::new();
    let mut counts = [0_u32; 256];
    for _ in 0..128 {
        let scale = 0.02 * (0.35 * random.normal()).exp();
        for _ in 0..2048 {
            let bits = ((random.normal() * scale).to_bits() >> 16) as u16;
            counts[usize::from(bits >> 7 & 0xff)] += 1;
            decoded.extend_from_slice(&bits.to_le_bytes());
        }
    }
    let n = decoded.len() as f64 / 2.0;
    let entropy: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| f64::from(count) * (n / f64::from(count)).log2())
        .sum();
    let limit = (entropy + 8.0 * n) / 8.0 * 1.01;
    let stored = check(Dtype::BF16, &decoded).unwrap();
    assert!((stored as f64) < limit, "{stored} bytes, {limit} at most");
    // The rest of a number is its sign and the top of its mantissa, all but noise: nothing that
    // decodes again is much smaller.
    assert!((stored as f64) > 0.97 * limit, "{stored} bytes cannot hold them");
}

#[test]
fn few_values_are_a_palette_and_wide_casts_lose_their_zeros() {
    let mut random = Random(3);
    let values: Vec<u32> = (0..16).map(|_| random.normal().to_bits()).collect();
    let cast: Vec<u8> =
        (0..20_000).flat_map(|_| values[random.next() as usize % 16].to_le_bytes()).collect();
    let stored = check(Dtype::F32, &cast).unwrap();
    assert!(stored < cast.len() / 8 + 200, "{stored} bytes for 4 bits of each");
    let cast: Vec<u8> =
        (0..20_000).flat_map(|_| (random.normal().to_bits() & 0xffff_0000).to_le_bytes()).collect();
    let stored = check(Dtype::F32, &cast).unwrap();
    assert!(stored < cast.len() * 11 / 32, "{stored} bytes for 11 bits of each");
}

#[test]
fn a_palette_has_256_values_and_no_more() {
    for (values, codec) in [(256, CodecId::PALETTE), (257, CodecId::PLANES)] {
        let decoded: Vec<u8> = (0..9000_u32).flat_map(|i| (i * i % values).to_le_bytes()).collect();
        let decoded = [decoded, (0..values).flat_map(u32::to_le_bytes).collect()].concat();
        check(Dtype::U32, &decoded).unwrap();
        let mut encoder = Encoder::default();
        assert_eq!(encoder.draft(Dtype::U32, &decoded).map(|d| d.codec()), Some(codec));
    }
}

#[test]
fn noise_is_left_alone() {
    let mut random = Random(4);
    for element in FLOATS {
        let noise: Vec<u8> = (0..65_536).map(|_| random.next() as u8).collect();
        assert_eq!(check(element, &noise), None, "{element}");
    }
}

#[test]
fn codes_are_complete_whatever_the_counts() {
    let mut random = Random(5);
    for round in 0..2000 {
        let mut counts = [0_u32; 256];
        let used = 2 + random.next() as usize % 255;
        for count in counts.iter_mut().take(used) {
            // From flat to so steep that the longest codes must be cut.
            *count = 1 + (1_u32 << (random.next() % (1 + round % 31))) / 2;
        }
        let lengths = huffman::lengths(&counts);
        assert!(huffman::is_complete(&lengths), "{counts:?}");
        assert!((0..256).all(|s| (counts[s] > 0) == (lengths[s] > 0)));
    }
    // One length more or less is noticed.
    let lengths = huffman::lengths(&[1; 256]);
    for wrong in [0, 7, 9, 15] {
        let mut lengths = lengths;
        lengths[3] = wrong;
        assert!(!huffman::is_complete(&lengths));
    }
}

proptest! {
    /// Whatever is stored, no path panics, and all say the same as the specification.
    #[test]
    fn damaged_chunks_are_refused_or_decoded_alike(
        kind in 0_usize..FLOATS.len(),
        seed: u64,
        n in 1_usize..10_000,
        damage in prop::collection::vec((0_usize..1 << 16, any::<u8>()), 0..4),
        cut in 0_usize..8,
    ) {
        let mut random = Random(seed);
        let element = FLOATS[kind];
        let width = form(element).unwrap().width();
        let decoded = elements(width, n, |_| f64::from(random.normal()).to_bits());
        let mut encoder = Encoder::default();
        let Some(draft) = encoder.draft(element, &decoded) else { return Ok(()) };
        let (codec, parameters, mut stored) = (draft.codec(), draft.parameters(), draft.finish());
        for (at, with) in damage {
            let at = at % stored.len().min(if at % 2 == 0 { 40 } else { usize::MAX });
            stored[at] = with;
        }
        stored.truncate(stored.len() - cut.saturating_sub(4));
        let results: Vec<_> = Simd::available().map(|simd| {
            let mut out = vec![0; decoded.len()];
            decode_with(simd, codec, &parameters, &stored, &mut out).map(|()| out)
        }).collect();
        prop_assert!(results.windows(2).all(|two| two[0] == two[1]), "paths disagree");
        if let Ok(out) = &results[0] {
            let slow = oracle(&parameters, codec, &stored, decoded.len());
            prop_assert!(slow.as_ref() == Some(out), "the specification says something else");
        }
    }
}
