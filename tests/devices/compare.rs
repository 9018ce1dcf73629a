//! Comparing what a kernel wrote with the reference.

use tenpak::dequant::Float;

fn is_nan(out: Float, bits: u32) -> bool {
    match out {
        Float::F32 => f32::from_bits(bits).is_nan(),
        Float::F16 => bits & 0x7fff > 0x7c00,
        Float::BF16 => bits & 0x7fff > 0x7f80,
    }
}

/// Asserts that `got` is `expected`, bit for bit, but for what is in a NaN.
pub fn assert_same(what: &str, out: Float, got: &[u8], expected: &[u8]) {
    assert_eq!(got.len(), expected.len(), "{what} {out:?}: bytes");
    if got == expected {
        return;
    }
    let size = out.size() as usize;
    let bits = |bytes: &[u8]| bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte));
    for (at, (got, expected)) in got.chunks(size).zip(expected.chunks(size)).enumerate() {
        let (got, expected) = (bits(got), bits(expected));
        let same = got == expected || (is_nan(out, got) && is_nan(out, expected));
        assert!(same, "{what} {out:?}: element {at} is {got:#x}, and should be {expected:#x}");
    }
}
