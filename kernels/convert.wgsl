// Floats of one type as another: bf16, f16 and f32, rounded to nearest, ties to even. All of it in
// integers, so that no device flushes what is subnormal and a NaN is the reference's.

// The bits of f32 for 16 bits of the type `p.scale`.
fn widened(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let magnitude = half & 0x7fffu;
    if p.scale == 2u {
        return (half | select(0u, 0x40u, magnitude > 0x7f80u)) << 16u;
    }
    if magnitude >= 0x7c00u {
        return sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13u) | select(0u, 0x400000u, magnitude > 0x7c00u);
    }
    if magnitude >= 0x400u {
        return sign | ((magnitude << 13u) + 0x38000000u);
    }
    if magnitude == 0u {
        return sign;
    }
    // Units of 2^-24.
    let top = firstLeadingBit(magnitude);
    return sign | ((top + 103u) << 23u) | ((magnitude << (23u - top)) & 0x7fffffu);
}

// Element `i` of vector `at`, as the bits of f32.
fn wide(at: u32, i: u32) -> u32 {
    if p.scale == 0u {
        return codes[8u * at + i];
    }
    return widened((codes[4u * at + (i >> 1u)] >> (16u * (i & 1u))) & 0xffffu);
}

fn narrow(bits: u32) -> u32 {
    if OUT == 1u {
        return f16_of(bits);
    }
    return bf16_of(bits);
}

fn narrow_pair(at: u32, i: u32) -> u32 {
    return narrow(wide(at, i)) | (narrow(wide(at, i + 1u)) << 16u);
}

@compute @workgroup_size(256)
fn convert(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = block_of(id, count) * 256u + thread;
    if at >= p.vectors {
        return;
    }
    if OUT == 0u {
        result[2u * at] = vec4<u32>(wide(at, 0u), wide(at, 1u), wide(at, 2u), wide(at, 3u));
        result[2u * at + 1u] = vec4<u32>(wide(at, 4u), wide(at, 5u), wide(at, 6u), wide(at, 7u));
    } else {
        result[at] = vec4<u32>(
            narrow_pair(at, 0u), narrow_pair(at, 2u), narrow_pair(at, 4u), narrow_pair(at, 6u));
    }
}
