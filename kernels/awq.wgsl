// AWQ, GEMM version: word c of line `col` has rows 8c to 8c + 7, in the order 0 2 4 6 1 3 5 7 from the
// low nibble up. A thread turns eight columns of a word around and writes eight vectors; a block writes
// a tile of 64 columns and 256 rows.

@compute @workgroup_size(256)
fn awq(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let eights = p.cols / 8u;
    let tiles = (eights + 7u) / 8u;
    let block = block_of(id, count);
    let eight = block % tiles * 8u + (thread & 7u);
    let line = block / tiles * 256u + (thread >> 3u) * 8u;
    if eight >= eights || line >= p.run_rows {
        return;
    }
    let row = p.first_row + line;
    let words = p.rows / 8u;
    let start = eight * 8u * words + row / 8u;
    let low = vec4<u32>(
        codes[start], codes[start + words], codes[start + 2u * words], codes[start + 3u * words]);
    let high = vec4<u32>(
        codes[start + 4u * words], codes[start + 5u * words],
        codes[start + 6u * words], codes[start + 7u * words]);
    let group = eight * 8u / p.group;
    let zero = zeros[group * words + row / 8u];
    for (var j = 0u; j < 8u; j++) {
        // Even rows in the low half, odd ones in the high half.
        let shift = vec4<u32>(4u * (j >> 1u) + 16u * (j & 1u));
        let shifted = vec4<i32>(i32((zero >> shift.x) & 15u));
        let scale = scale_at(group * p.rows + row + j);
        store((line + j) * eights + eight,
            vec4<f32>(vec4<i32>((low >> shift) & vec4<u32>(15u)) - shifted) * scale,
            vec4<f32>(vec4<i32>((high >> shift) & vec4<u32>(15u)) - shifted) * scale);
    }
}
