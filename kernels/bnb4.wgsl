// bitsandbytes, 4 bits: a code book of 16 values, an absmax per block, perhaps nested. The element
// with the even index is in the high nibble. A block is a power of two of 8 elements or more, so a
// vector has one absmax.

var<workgroup> book: array<f32, 16>;

fn absmax(block: u32) -> f32 {
    if !has(NESTED) {
        return bitcast<f32>(scales[block]);
    }
    let code = (scales[block >> 2u] >> (8u * (block & 3u))) & 0xffu;
    let second = bitcast<f32>(zeros[block / p.height]);
    return rounded(table[16u + code] * second) + bitcast<f32>(p.offset);
}

@compute @workgroup_size(256)
fn bnb4(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if thread < 16u {
        book[thread] = table[thread];
    }
    workgroupBarrier();
    let at = block_of(id, count) * 256u + thread;
    if at >= p.vectors {
        return;
    }
    let word = codes[at];
    let scale = absmax(at * 8u / p.group);
    let low = vec4<f32>(
        book[(word >> 4u) & 15u], book[word & 15u],
        book[(word >> 12u) & 15u], book[(word >> 8u) & 15u]);
    let high = vec4<f32>(
        book[(word >> 20u) & 15u], book[(word >> 16u) & 15u],
        book[word >> 28u], book[(word >> 24u) & 15u]);
    store(at, low * scale, high * scale);
}
