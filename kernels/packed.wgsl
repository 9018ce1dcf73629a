// compressed-tensors, pack-quantized, 1 to 8 bits: each row is a stream of bits in whole words. Zero
// points are streams down the rows, one per group; without them a code's middle is zero.

fn zero_at(group: u32, row: u32) -> i32 {
    if !has(ZEROS) {
        return i32(1u << (p.bits - 1u));
    }
    let bit = row * p.bits;
    let at = bit / 32u * p.groups + group;
    return i32(field(zeros[at], zeros[at + p.groups], bit % 32u, p.bits));
}

// Element `at` of the result; past its end anything.
fn value(at: u32) -> f32 {
    let row = min(at / p.cols, p.rows - 1u);
    let col = at % p.cols;
    let bit = col * p.bits;
    let word = row * ((p.cols * p.bits + 31u) / 32u) + bit / 32u;
    let code = i32(field(codes[word], codes[word + 1u], bit % 32u, p.bits));
    let group = group_of(col);
    return f32(code - zero_at(group, row)) * scale_at(row * p.groups + group);
}

@compute @workgroup_size(256)
fn packed(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = block_of(id, count) * 256u + thread;
    if at >= p.vectors {
        return;
    }
    let first = 8u * at;
    if has(ALIGNED) && has(ONE_GROUP) && p.bits == 4u {
        // Rows are whole words, and a word is a vector.
        let row = first / p.cols;
        let group = first % p.cols / p.group;
        let zero = vec4<i32>(zero_at(group, row));
        let scale = scale_at(row * p.groups + group);
        let word = codes[at];
        store(at,
            vec4<f32>(vec4<i32>(nibbles4(word, 0u)) - zero) * scale,
            vec4<f32>(vec4<i32>(nibbles4(word, 16u)) - zero) * scale);
        return;
    }
    store(at,
        vec4<f32>(value(first), value(first + 1u), value(first + 2u), value(first + 3u)),
        vec4<f32>(value(first + 4u), value(first + 5u), value(first + 6u), value(first + 7u)));
}
