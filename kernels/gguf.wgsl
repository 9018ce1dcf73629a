// GGUF blocks: the scales lie among the codes. Blocks of 18 and 34 bytes begin on even bytes.

// The four bytes at byte `at`.
fn bytes4(at: u32) -> u32 {
    let shift = 8u * (at & 3u);
    if shift == 0u {
        return codes[at >> 2u];
    }
    return (codes[at >> 2u] >> shift) | (codes[(at >> 2u) + 1u] << (32u - shift));
}

fn half_at(at: u32) -> f32 {
    return from_f16((codes[at >> 2u] >> (8u * (at & 2u))) & 0xffffu);
}

fn byte_at(at: u32) -> u32 {
    return (codes[at >> 2u] >> (8u * (at & 3u))) & 0xffu;
}

// The low nibbles of four bytes, from bit `shift` of each on.
fn low4(word: u32, shift: u32) -> vec4<i32> {
    return vec4<i32>((vec4<u32>(word) >> (vec4<u32>(0u, 8u, 16u, 24u) + shift)) & vec4<u32>(15u));
}

// 32 elements: f16 scale, then element j and j + 16 in byte j.
@compute @workgroup_size(256)
fn q4_0(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = block_of(id, count) * 256u + thread;
    if at >= p.vectors {
        return;
    }
    let base = at / 4u * 18u;
    let start = base + 2u + 8u * (at & 1u);
    let shift = 2u * (at & 2u);
    let scale = half_at(base);
    store(at,
        vec4<f32>(low4(bytes4(start), shift) - vec4<i32>(8)) * scale,
        vec4<f32>(low4(bytes4(start + 4u), shift) - vec4<i32>(8)) * scale);
}

// 32 elements: f16 scale, then signed bytes.
@compute @workgroup_size(256)
fn q8_0(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = block_of(id, count) * 256u + thread;
    if at >= p.vectors {
        return;
    }
    let base = at / 4u * 34u;
    let start = base + 2u + 8u * (at & 3u);
    let scale = half_at(base);
    store(at, signed4(bytes4(start)) * scale, signed4(bytes4(start + 4u)) * scale);
}

// 256 elements: two f16, eight scales and minima of 6 bits, then nibbles: 32 elements in the low ones
// of 32 bytes, the next 32 in the high ones.
@compute @workgroup_size(256)
fn q4_k(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = block_of(id, count) * 256u + thread;
    if at >= p.vectors {
        return;
    }
    let base = at / 32u * 144u;
    let sub = (at & 31u) / 4u;
    var scale = byte_at(base + 4u + sub) & 63u;
    var least = byte_at(base + 8u + sub) & 63u;
    if sub >= 4u {
        let both = byte_at(base + 8u + sub);
        scale = (both & 15u) | ((byte_at(base + sub) >> 6u) << 4u);
        least = (both >> 4u) | ((byte_at(base + 4u + sub) >> 6u) << 4u);
    }
    // Exact, so that it does not matter if the difference is contracted.
    let d = half_at(base) * f32(scale);
    let m = half_at(base + 2u) * f32(least);
    let word = (base + 16u + sub / 2u * 32u + 8u * (at & 3u)) >> 2u;
    let shift = 4u * (sub & 1u);
    store(at,
        vec4<f32>(low4(codes[word], shift)) * d - m,
        vec4<f32>(low4(codes[word + 1u], shift)) * d - m);
}
