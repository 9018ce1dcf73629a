// What every kernel shares: the numbers of a launch, the bindings, floating-point formats, and the
// store of eight elements. See src/quant/kernel.rs for the host's side of `Params`.
//
// Results equal src/quant/reference.rs bit for bit, except that a device may flush subnormal f32 to
// zero, and that a NaN stays a NaN but not the same one.

struct Params {
    vectors: u32,
    rows: u32,
    cols: u32,
    first_row: u32,
    run_rows: u32,
    bits: u32,
    group: u32,
    groups: u32,
    scale: u32,
    flags: u32,
    height: u32,
    offset: u32,
    zero: u32,
    row_magic: u32,
    row_shift: u32,
    group_magic: u32,
    group_shift: u32,
    spare0: u32,
    spare1: u32,
    spare2: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> codes: array<u32>;
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> zeros: array<u32>;
@group(0) @binding(4) var<storage, read> index: array<u32>;
@group(0) @binding(5) var<storage, read> table: array<f32>;
@group(0) @binding(6) var<storage, read_write> result: array<vec4<u32>>;

// The type of the result and of scales: 0 is f32, 1 f16, 2 bf16.
override OUT: u32 = 0u;

const ALIGNED = 1u;
const INDEXED = 2u;
const ZEROS = 4u;
const LESS_ONE = 8u;
const NESTED = 16u;
const ONE_GROUP = 32u;
const SIGNED = 64u;

fn has(flag: u32) -> bool {
    return (p.flags & flag) != 0u;
}

// Number of this block: the host spreads blocks over two dimensions.
fn block_of(id: vec3<u32>, count: vec3<u32>) -> u32 {
    return id.y * count.x + id.x;
}

// Rounds `x` to f32 here and now: without it a compiler may contract a product with what follows, and
// the reference does not.
fn rounded(x: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(x) ^ p.zero);
}

// In integers: devices may flush what is subnormal in f16.
fn from_f16(half: u32) -> f32 {
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    var bits = (magnitude << 13u) + 0x38000000u;
    if magnitude < 0x400u {
        bits = bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8);
    } else if magnitude >= 0x7c00u {
        bits = (magnitude << 13u) + 0x70000000u;
    }
    return bitcast<f32>(bits | sign);
}

fn to_f16(x: f32) -> u32 {
    return f16_of(bitcast<u32>(x));
}

fn to_bf16(x: f32) -> u32 {
    return bf16_of(bitcast<u32>(x));
}

// From the bits of f32.
fn f16_of(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x3ffu);
    }
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    if magnitude >= 0x38800000u {
        let rebased = magnitude - 0x38000000u;
        return sign | ((rebased + 0xfffu + ((rebased >> 13u) & 1u)) >> 13u);
    }
    if magnitude <= 0x33000000u {
        return sign;
    }
    // Subnormal in f16: the mantissa in units of 2^-24.
    let mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    let shift = 126u - (magnitude >> 23u);
    let down = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    let up = u32(rest > half || (rest == half && (down & 1u) == 1u));
    return sign | (down + up);
}

fn bf16_of(bits: u32) -> u32 {
    if (bits & 0x7fffffffu) > 0x7f800000u {
        return (bits >> 16u) | 0x40u;
    }
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

fn pair(low: f32, high: f32) -> u32 {
    if OUT == 1u {
        return to_f16(low) | (to_f16(high) << 16u);
    }
    return to_bf16(low) | (to_bf16(high) << 16u);
}

// Writes vector number `at`.
fn store(at: u32, low: vec4<f32>, high: vec4<f32>) {
    if OUT == 0u {
        result[2u * at] = bitcast<vec4<u32>>(low);
        result[2u * at + 1u] = bitcast<vec4<u32>>(high);
    } else {
        result[at] = vec4<u32>(
            pair(low.x, low.y), pair(low.z, low.w), pair(high.x, high.y), pair(high.z, high.w));
    }
}

fn scale_at(at: u32) -> f32 {
    if p.scale == 0u {
        return bitcast<f32>(scales[at]);
    }
    let half = (scales[at >> 1u] >> (16u * (at & 1u))) & 0xffffu;
    if p.scale == 1u {
        return from_f16(half);
    }
    return bitcast<f32>(half << 16u);
}

fn group_of(col: u32) -> u32 {
    if has(INDEXED) {
        return min(index[col], p.groups - 1u);
    }
    return col / p.group;
}

// The `width` bits at bit `shift` of `low`, going on in `high`.
fn field(low: u32, high: u32, shift: u32, width: u32) -> u32 {
    var bits = low >> shift;
    if shift + width > 32u {
        bits |= high << (32u - shift);
    }
    return bits & ((1u << width) - 1u);
}

// Four bytes as signed numbers.
fn signed4(word: u32) -> vec4<f32> {
    let all = vec4<i32>(vec4<u32>(word << 24u, word << 16u, word << 8u, word));
    return vec4<f32>(all >> vec4<u32>(24u));
}

// The four nibbles of `word` at bits 0, 4, 8, 12 from `shift` on.
fn nibbles4(word: u32, shift: u32) -> vec4<u32> {
    return (vec4<u32>(word) >> (vec4<u32>(0u, 4u, 8u, 12u) + shift)) & vec4<u32>(15u);
}
