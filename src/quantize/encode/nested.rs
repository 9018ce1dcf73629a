//! bitsandbytes' double quantization: absmax less their mean, in blocks of 256, as its CPU path (0.50
//! and later) stores them.
//!
//! That path looks codes up in a table of 65,536 bins rather than searching the nearest; and the mean
//! depends on the order in which torch adds. This is the order of one thread: with more, torch adds
//! weights of 2,097,152 elements and more (32,768 absmax) in as many parts as it has threads.

use std::sync::OnceLock;

/// Absmax per second absmax.
pub(super) const BLOCK: usize = 256;
/// Bins of the table.
const BINS: usize = 1 << 16;

/// The second level of a weight.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Second {
    /// A code per absmax.
    pub(super) codes: Vec<u8>,
    /// An absmax per block of them.
    pub(super) absmax: Vec<f32>,
    /// What was subtracted first.
    pub(super) offset: f32,
}

/// The code book: the middles of 2^i equal parts of [0.1, 1], times 10^(i - 6), for i from 0 to 6, with
/// either sign; and 0 and 1.
pub(super) fn code_book() -> &'static [f32; 256] {
    static BOOK: OnceLock<[f32; 256]> = OnceLock::new();
    BOOK.get_or_init(|| {
        let mut values = Vec::with_capacity(256);
        for exponent in 0..7 {
            let borders = linspace(0.1, 1.0, (1 << exponent) + 1);
            // The product is one of a Python float and f32 elements: the factor is rounded first.
            let factor = 10_f64.powi(exponent - 6) as f32;
            for pair in borders.windows(2) {
                let [low, high] = pair else { continue };
                let value = factor * ((low + high) / 2.0);
                values.extend([value, -value]);
            }
        }
        values.extend([0.0, 1.0]);
        values.sort_by(f32::total_cmp);
        let mut book = [0.0; 256];
        for (place, value) in book.iter_mut().zip(values) {
            *place = value;
        }
        book
    })
}

/// torch.linspace in f32: the first half counts from the start, the second from the end.
fn linspace(start: f32, end: f32, steps: usize) -> Vec<f32> {
    let step = (end - start) / (steps - 1) as f32;
    let value = |i: usize| match i < steps / 2 {
        true => (step).mul_add(i as f32, start),
        false => (-step).mul_add((steps - 1 - i) as f32, end),
    };
    (0..steps).map(value).collect()
}

/// The code of each bin's value.
fn table() -> &'static [u8; BINS] {
    static TABLE: OnceLock<Box<[u8; BINS]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let book = code_book();
        let mut table = Box::new([0_u8; BINS]);
        let mut code = 0;
        for (bin, place) in table.iter_mut().enumerate() {
            let value = -1.0 + (2.0 * bin as f32) / (BINS - 1) as f32;
            while let [low, high, ..] = book.get(code..).unwrap_or_default()
                && 0.5 * (low + high) < value
            {
                code += 1;
            }
            *place = code as u8;
        }
        table
    })
}

/// Quantizes the absmax of a weight.
pub(super) fn encode(absmax: &[f32]) -> Second {
    let offset = mean(absmax);
    let table = table();
    let mut codes = Vec::with_capacity(absmax.len());
    let mut second = Vec::with_capacity(absmax.len().div_ceil(BLOCK));
    for block in absmax.chunks(BLOCK) {
        let largest = block.iter().fold(0.0_f32, |largest, v| largest.max((v - offset).abs()));
        second.push(largest);
        if largest == 0.0 {
            codes.resize(codes.len() + block.len(), 0);
            continue;
        }
        let reciprocal = 1.0 / largest;
        codes.extend(block.iter().map(|value| {
            let scaled = ((value - offset) * reciprocal).clamp(-1.0, 1.0);
            let bin = (scaled + 1.0) * 0.5 * (BINS - 1) as f32 + 0.5;
            table[(bin as usize).min(BINS - 1)]
        }));
    }
    Second { codes, absmax: second, offset }
}

/// The mean in f32, added as torch adds on one thread: eight lanes, four vectors at a time, in a
/// cascade of four levels.
fn mean(values: &[f32]) -> f32 {
    const LANES: usize = 8;
    const ROWS: usize = 4;
    const LEVELS: usize = 4;
    if values.is_empty() {
        return 0.0;
    }
    let (vectors, tail) = values.as_chunks::<LANES>();
    let (groups, rest) = vectors.as_chunks::<ROWS>();
    let log = usize::BITS - groups.len().max(1).saturating_sub(1).leading_zeros();
    let power = 4.max(log / LEVELS as u32);
    let step = 1_usize << power;
    let add = |to: &mut [[f32; LANES]; ROWS], from: &[[f32; LANES]; ROWS]| {
        for (to, from) in to.iter_mut().flatten().zip(from.iter().flatten()) {
            *to += from;
        }
    };
    let mut levels = [[[0.0_f32; LANES]; ROWS]; LEVELS];
    let (full, partial) = groups.split_at(groups.len() / step * step);
    for (done, part) in full.chunks(step).enumerate() {
        let [first, ..] = &mut levels;
        part.iter().for_each(|group| add(first, group));
        let count = (done + 1) * step;
        for level in 1..LEVELS {
            let (below, above) = levels.split_at_mut(level);
            if let (Some(below), Some(above)) = (below.last_mut(), above.first_mut()) {
                add(above, below);
                *below = [[0.0; LANES]; ROWS];
            }
            if count & ((step - 1) << (level as u32 * power)) != 0 {
                break;
            }
        }
    }
    let [first, higher @ ..] = &mut levels;
    partial.iter().for_each(|group| add(first, group));
    higher.iter().for_each(|level| add(first, level));
    let [mut sum, others @ ..] = *first;
    let add = |sum: &mut [f32; LANES], other: &[f32; LANES]| {
        sum.iter_mut().zip(other).for_each(|(to, from)| *to += from);
    };
    rest.iter().for_each(|vector| add(&mut sum, vector));
    others.iter().for_each(|row| add(&mut sum, row));
    let total = tail.iter().fold(0.0, |total, value| total + value);
    let total = sum.iter().fold(total, |total, value| total + value);
    total / values.len() as f32
}

/// A float as Python writes it: the shortest digits that give the f64 back, of two such the nearer, of
/// two as near the even.
pub(super) fn python_float(value: f32) -> String {
    let value = f64::from(value);
    let shortest = format!("{value:e}");
    let digits = shortest.bytes().take_while(|c| *c != b'e').filter(u8::is_ascii_digit).count();
    let even = format!("{value:.*e}", digits.saturating_sub(1));
    let text = if even.parse() == Ok(value) { even } else { shortest };
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    let sign = if value.is_sign_negative() { "-" } else { "" };
    let plain: String = digits.chars().filter(char::is_ascii_digit).collect();
    match power {
        -4..0 => format!("{sign}0.{}{plain}", "0".repeat((-power - 1) as usize)),
        0..16 => {
            let whole = power as usize + 1;
            let padded = format!("{plain:0<whole$}");
            let (whole, rest) = padded.split_at(whole);
            format!("{sign}{whole}.{}", if rest.is_empty() { "0" } else { rest })
        }
        // At least two digits of exponent, and its sign.
        _ => format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.037_108_343, "0.037108343094587326"),
            // Halfway between two of 17 digits.
            (0.103_565_216, "0.10356521606445312"),
            (12.5, "12.5"),
            (4_194_305.0, "4194305.0"),
            (1e-4, "9.999999747378752e-05"),
            (1.5e-10, "1.4999999853326784e-10"),
            (-2.5e20, "-2.5000000501021934e+20"),
        ] {
            assert_eq!(python_float(value), text);
        }
    }

    #[test]
    fn the_code_book_rises_and_codes_are_near() {
        let book = code_book();
        assert!(book.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((book[127], book[255]), (0.0, 1.0));
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() + 1.5).collect();
        let second = encode(&values);
        for (at, value) in values.iter().enumerate() {
            let absmax = second.absmax[at / BLOCK];
            let near = book[usize::from(second.codes[at])] * absmax + second.offset;
            assert!((near - value).abs() < 0.02, "{value} became {near}");
        }
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 1000.0;
        assert!((f64::from(second.offset) - mean).abs() < 1e-6);
        assert_eq!(encode(&[0.25; 300]).codes, [0; 300]);
    }
}
