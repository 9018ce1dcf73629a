// FP8 E4M3, or signed bytes, with a scale per block of rows and columns.

fn from_e4m3(code: u32) -> f32 {
    let magnitude = code & 0x7fu;
    var bits = (magnitude << 20u) + (120u << 23u);
    if magnitude < 8u {
        bits = bitcast<u32>(f32(magnitude) * 0.001953125);
    } else if magnitude == 0x7fu {
        bits = 0x7fc00000u;
    }
    return bitcast<f32>(bits | ((code & 0x80u) << 24u));
}

fn four(word: u32) -> vec4<f32> {
    if has(SIGNED) {
        return signed4(word);
    }
    return vec4<f32>(
        from_e4m3(word & 0xffu), from_e4m3((word >> 8u) & 0xffu),
        from_e4m3((word >> 16u) & 0xffu), from_e4m3(word >> 24u));
}

// The scale of element `at`.
fn block_scale(at: u32) -> f32 {
    let row = min(at / p.cols, p.rows - 1u);
    return scale_at((p.first_row + row) / p.height * p.groups + at % p.cols / p.group);
}

fn scale4(at: u32) -> vec4<f32> {
    return vec4<f32>(
        block_scale(at), block_scale(at + 1u), block_scale(at + 2u), block_scale(at + 3u));
}

@compute @workgroup_size(256)
fn fp8(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = block_of(id, count) * 256u + thread;
    if at >= p.vectors {
        return;
    }
    let low = four(codes[2u * at]);
    let high = four(codes[2u * at + 1u]);
    if has(ALIGNED) && has(ONE_GROUP) {
        let scale = block_scale(8u * at);
        store(at, low * scale, high * scale);
    } else {
        store(at, low * scale4(8u * at), high * scale4(8u * at + 4u));
    }
}
