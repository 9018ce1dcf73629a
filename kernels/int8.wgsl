// LLM.int8(): one absmax per row. First the product, then 1/127: bitsandbytes' order.

fn value(code: vec4<f32>, absmax: vec4<f32>) -> vec4<f32> {
    let both = code * absmax;
    let once = vec4<f32>(rounded(both.x), rounded(both.y), rounded(both.z), rounded(both.w));
    return once * 0.007874015718698502;
}

// The absmax of element `at`.
fn absmax(at: u32) -> f32 {
    return bitcast<f32>(scales[min(at / p.cols, p.rows - 1u)]);
}

fn absmax4(at: u32) -> vec4<f32> {
    return vec4<f32>(absmax(at), absmax(at + 1u), absmax(at + 2u), absmax(at + 3u));
}

@compute @workgroup_size(256)
fn int8(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = block_of(id, count) * 256u + thread;
    if at >= p.vectors {
        return;
    }
    let low = signed4(codes[2u * at]);
    let high = signed4(codes[2u * at + 1u]);
    if has(ALIGNED) {
        let scale = vec4<f32>(absmax(8u * at));
        store(at, value(low, scale), value(high, scale));
    } else {
        store(at, value(low, absmax4(8u * at)), value(high, absmax4(8u * at + 4u)));
    }
}
