//! Every path against a slow decoder that follows the specification step by step.

use proptest::prelude::*;

use super::table::{SLOTS, SYMBOLS};
use super::*;

/// What a symbol stands for: how many slots before it and of its own; quotient and change of sign,
/// or nothing for an escape.
type Symbol = (u64, u64, Option<(i64, bool)>);

/// The chunk as the specification says it, or nothing if it breaks a rule.
fn oracle(parameters: &[u8; 20], stored: &[u8], base: &[u8]) -> Option<Vec<u8>> {
    let [w, e, contexts, top, log2, ..] = parameters.map(usize::from);
    let n = base.len() / w;
    let segments = n.div_ceil(1 << log2);
    let mut rest = stored.to_vec();
    let mut take = |n: usize| (n <= rest.len()).then(|| rest.drain(..n).collect::<Vec<u8>>());
    let numbers = |bytes: Vec<u8>, size: usize| -> Vec<u64> {
        let number = |b: &[u8]| b.iter().rev().fold(0, |x, &byte| x << 8 | u64::from(byte));
        bytes.chunks(size).map(number).collect()
    };
    let directory = numbers(take(8 * segments)?, 4);
    let mut states = numbers(take(128 * segments)?, 4);
    let mut words = Vec::new();
    for of in directory.chunks(2) {
        words.push(numbers(take(2 * of[0] as usize)?, 2));
    }
    let mut escapes = Vec::new();
    for of in directory.chunks(2) {
        escapes.push(numbers(take(w * of[1] as usize)?, w));
    }
    let mut tables: Vec<(u32, Vec<Symbol>)> = Vec::new();
    for _ in 0..contexts {
        let head = take(3)?;
        let mut symbols = Vec::new();
        let mut start = 0;
        for (listed, flips) in [(head[1], false), (head[2], true)] {
            for i in 0..i64::from(listed) {
                let low = u64::from(take(1)?[0]);
                let frequency =
                    if low < 128 { low } else { low - 128 + 128 * u64::from(take(1)?[0]) };
                let folded = if flips { i } else { i - 1 };
                let quotient = if folded % 2 == 0 { folded / 2 } else { -(folded + 1) / 2 };
                let means = (flips || i > 0).then_some((quotient, flips));
                symbols.push((start, frequency, means));
                start += frequency;
            }
        }
        if symbols.is_empty() {
            symbols.push((0, 1024, None));
            start = 1024;
        }
        (start == 1024).then_some(())?;
        tables.push((u32::from(head[0]), symbols));
    }
    rest.is_empty().then_some(())?;
    let bits = 8 * w - usize::from(e > 0);
    let modulus = 1_i64 << bits;
    let base = numbers(base.to_vec(), w);
    let mut out = Vec::new();
    for (s, base) in base.chunks(1 << log2).enumerate() {
        let states = &mut states[32 * s..32 * (s + 1)];
        states.iter().all(|&state| state >= 1 << 16).then_some(())?;
        let mut words = words[s].iter();
        let mut escapes = escapes[s].iter();
        let mut refill = |state: &mut u64| {
            if *state < 1 << 16 {
                *state = *state << 16 | *words.next()?;
            }
            Some(())
        };
        for base in base.chunks(32) {
            let mut decoded = Vec::new();
            for (&b, state) in base.iter().zip(states.iter_mut()) {
                let exponent = (b as i64 % modulus) >> (bits - e);
                let context = if e == 0 { 0 } else { (top as i64 - exponent).max(0) as usize };
                let (raw_bits, symbols) = &tables[context.min(contexts - 1)];
                let slot = *state % 1024;
                let &(start, frequency, means) = symbols.iter().find(|s| slot < s.0 + s.1)?;
                *state = *state / 1024 * frequency + slot - start;
                let beside = (*raw_bits).min(6);
                let raw = *state % (1 << beside);
                *state >>= beside;
                refill(state)?;
                decoded.push((means, raw as i64, *raw_bits));
            }
            for ((&b, state), (means, mut raw, raw_bits)) in
                base.iter().zip(states.iter_mut()).zip(decoded)
            {
                if raw_bits > 6 {
                    raw += (*state % (1 << (raw_bits - 6))) as i64 * 64;
                    *state >>= raw_bits - 6;
                    refill(state)?;
                }
                let element = match means {
                    None => *escapes.next()?,
                    Some((quotient, flips)) => {
                        let half = if raw_bits > 0 { 1 << (raw_bits - 1) } else { 0 };
                        let sum = b as i64 % modulus + quotient * (1 << raw_bits) + raw - half;
                        let sign = if e > 0 { b >> bits ^ u64::from(flips) } else { 0 };
                        sum.rem_euclid(modulus) as u64 | sign << bits
                    }
                };
                out.extend_from_slice(&element.to_le_bytes()[..w]);
            }
        }
        states.iter().all(|&state| state == 1 << 16).then_some(())?;
        (words.next().is_none() && escapes.next().is_none()).then_some(())?;
    }
    Some(out)
}

/// Encodes on every path, which must agree, and decodes on every path and by the oracle; how many
/// bytes are stored.
fn check(element: Dtype, base: &[u8], decoded: &[u8]) -> usize {
    let encoded: Vec<_> = Simd::available()
        .map(|simd| {
            let mut scratch = Scratch::default();
            let draft = Draft::new(simd, form(element).unwrap(), base, decoded, &mut scratch);
            let (parameters, len) = (draft.parameters(), draft.len);
            (parameters, draft.finish(decoded), len)
        })
        .collect();
    assert!(encoded.windows(2).all(|two| two[0] == two[1]), "paths encode differently");
    let (parameters, stored, said) = &encoded[0];
    assert!(
        stored.len().abs_diff(*said as usize) < 400 + stored.len() / 8,
        "{said} said, {} made",
        stored.len()
    );
    for simd in Simd::available() {
        let mut out = vec![0xaa; decoded.len()];
        decode_with(simd, parameters, stored, base, &mut out).unwrap();
        assert!(out == decoded, "{simd:?} decodes something else");
    }
    let slow = oracle(parameters, stored, base);
    assert!(slow.as_deref() == Some(decoded), "the specification says something else");
    stored.len()
}

/// A generator that is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 ^ self.0 >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
    }

    /// Normal enough: the sum of twelve uniform numbers.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| (self.next() & 0xffff) as f64 / 65536.0).sum::<f64>() - 6.0
    }
}

const ELEMENTS: [Dtype; 8] = [
    Dtype::BF16,
    Dtype::F16,
    Dtype::F32,
    Dtype::F8_E4M3,
    Dtype::F8_E5M2,
    Dtype::U8,
    Dtype::I16,
    Dtype::I32,
];

/// The highest bytes of numbers, whatever the type means by them.
fn elements(element: Dtype, numbers: &[f64]) -> Vec<u8> {
    let narrow = |x: f64, exponent: u32, mantissa: u32| {
        // As many bits of the f32 as there are, its exponent moved into range and cut off there.
        let bits = (x as f32).to_bits();
        let middle = (1 << (exponent - 1)) - 1;
        let e = ((bits >> 23 & 0xff) as i32 - 127 + middle).clamp(0, (1 << exponent) - 1) as u32;
        bits >> 31 << (exponent + mantissa)
            | e << mantissa
            | bits >> (23 - mantissa) & ((1 << mantissa) - 1)
    };
    let one = |&x: &f64| match element {
        Dtype::BF16 => narrow(x, 8, 7).to_le_bytes()[..2].to_vec(),
        Dtype::F16 => narrow(x, 5, 10).to_le_bytes()[..2].to_vec(),
        Dtype::F32 => (x as f32).to_le_bytes().to_vec(),
        Dtype::F8_E4M3 => narrow(x, 4, 3).to_le_bytes()[..1].to_vec(),
        Dtype::F8_E5M2 => narrow(x, 5, 2).to_le_bytes()[..1].to_vec(),
        Dtype::U8 => vec![(x * 40.0) as i64 as u8],
        Dtype::I16 => ((x * 4000.0) as i64 as u16).to_le_bytes().to_vec(),
        _ => ((x * 1e8) as i64 as u32).to_le_bytes().to_vec(),
    };
    numbers.iter().flat_map(one).collect()
}

/// Elements of `width` bytes from numbers, whose highest bytes are taken.
fn bits(width: usize, n: usize, mut number: impl FnMut(usize) -> u64) -> Vec<u8> {
    (0..n).flat_map(|i| number(i).to_le_bytes()[8 - width..].to_vec()).collect()
}

#[test]
fn what_differs_a_little_takes_little_on_every_path() {
    let mut random = Random(1);
    for element in ELEMENTS {
        for n in [1, 31, 32, 33, 1024, 1025, 40_000] {
            for noise in [0.0, 1e-4, 1e-2, 1.0] {
                let numbers: Vec<f64> = (0..n).map(|_| random.normal()).collect();
                let changed: Vec<f64> =
                    numbers.iter().map(|x| x + noise * random.normal()).collect();
                let (base, decoded) = (elements(element, &numbers), elements(element, &changed));
                let stored = check(element, &base, &decoded);
                if n == 40_000 && noise <= 1e-2 {
                    assert!(stored < 7 * decoded.len() / 8, "{element}, {noise}: {stored}");
                }
            }
        }
    }
}

#[test]
fn adversarial_elements_round_trip_on_every_path() {
    let mut random = Random(2);
    for element in ELEMENTS {
        let w = form(element).unwrap().width;
        for n in [7, 1024, 3001] {
            let patterns = [
                bits(w, n, |_| 0),
                bits(w, n, |_| u64::MAX),
                bits(w, n, |_| 1 << 63),
                bits(w, n, |i| (i as u64 % 2) << 63),
                bits(w, n, |i| (i as u64 % 2) << 55),
                // Every payload of NaN, of both signs; denormals; every exponent once.
                bits(w, n, |i| 0x7fff_ffff_ffff_ffff ^ (i as u64) << 47),
                bits(w, n, |i| 0x7f80_0000_0000_0000 | (i as u64) << 48),
                bits(w, n, |i| (i as u64) << 40 & 0x007f_ffff_ffff_ffff),
                bits(w, n, |i| (i as u64) << 55),
                bits(w, n, |i| (i as u64) << 58),
                bits(w, n, |_| random.next() << 16),
                elements(element, &(0..n).map(|_| random.normal()).collect::<Vec<_>>()),
            ];
            for base in &patterns {
                for decoded in &patterns {
                    check(element, base, decoded);
                }
            }
        }
    }
}

#[test]
fn what_is_the_same_takes_next_to_nothing() {
    let mut random = Random(3);
    for element in ELEMENTS {
        let base = bits(form(element).unwrap().width, 100_000, |_| random.next() << 16);
        let stored = check(element, &base, &base);
        assert!(stored < 400, "{element}: {stored}");
    }
}

#[test]
fn frequencies_sum_up_whatever_the_counts() {
    let mut random = Random(4);
    for round in 0..500 {
        let mut counts = [0_u32; SYMBOLS];
        let used = 1 + random.next() as usize % SYMBOLS;
        for count in counts.iter_mut().take(used) {
            *count = 1 + (1_u32 << (random.next() % (1 + round % 24))) / 2;
        }
        let frequencies = table::normalise(&counts);
        assert_eq!(frequencies.iter().map(|&f| usize::from(f)).sum::<usize>(), SLOTS);
        assert!(counts.iter().zip(frequencies).all(|(&count, f)| (count > 0) == (f > 0)));
    }
}

proptest! {
    /// Whatever is stored, no path panics, and all say the same as the specification.
    #[test]
    fn damaged_chunks_are_refused_or_decoded_alike(
        kind in 0_usize..ELEMENTS.len(),
        seed: u64,
        n in 1_usize..5000,
        noise in 0_i32..5,
        damage in prop::collection::vec((0_usize..1 << 16, any::<u8>()), 0..4),
        parameter in prop::option::of((0_usize..6, 0_u8..24)),
        cut in 0_usize..8,
    ) {
        let mut random = Random(seed);
        let element = ELEMENTS[kind];
        let numbers: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let noise = 10_f64.powi(-noise);
        let changed: Vec<f64> = numbers.iter().map(|x| x + noise * random.normal()).collect();
        let (base, decoded) = (elements(element, &numbers), elements(element, &changed));
        let mut scratch = Scratch::default();
        let form = form(element).unwrap();
        let draft = Draft::new(Simd::best(), form, &base, &decoded, &mut scratch);
        let mut parameters = draft.parameters();
        let mut stored = draft.finish(&decoded);
        for (at, with) in damage {
            // The directory and the tables more often than the words between.
            let at = match at % 3 {
                0 => at % stored.len().min(40),
                1 => stored.len() - 1 - at % stored.len().min(60),
                _ => at % stored.len(),
            };
            stored[at] = with;
        }
        if let Some((at, with)) = parameter {
            parameters[at] = with;
        }
        stored.truncate(stored.len() - cut.saturating_sub(4));
        let results: Vec<_> = Simd::available().map(|simd| {
            let mut out = vec![0; decoded.len()];
            decode_with(simd, &parameters, &stored, &base, &mut out).map(|()| out)
        }).collect();
        prop_assert!(results.windows(2).all(|two| two[0] == two[1]), "paths disagree");
        if let Ok(out) = &results[0] {
            let slow = oracle(&parameters, &stored, &base);
            prop_assert!(slow.as_ref() == Some(out), "the specification says something else");
        }
    }
}
