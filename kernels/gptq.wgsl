// GPTQ, 2, 3, 4 or 8 bits: word w of a column's stream is codes[w * rows + row], so that eight
// neighbouring columns of the result are `bits` bytes of one stream. Zero points are streams along the
// rows, one per group.
//
// A block writes a tile of 64 columns and 32 rows: eight threads write 128 bytes of a row, and the
// threads of a column of the tile read 128 bytes of a line of words.

fn zero_at(group: u32, row: u32) -> i32 {
    let bit = row * p.bits;
    let word = group * (p.rows * p.bits / 32u) + bit / 32u;
    let zero = field(zeros[word], zeros[word + 1u], bit % 32u, p.bits);
    return i32(zero) + select(0, 1, has(LESS_ONE));
}

fn value(code: u32, group: u32, row: u32) -> f32 {
    return f32(i32(code) - zero_at(group, row)) * scale_at(group * p.rows + row);
}

// Eight codes of `row`, from column 8 * eight on: the first four and the last four, each in the low
// bits of its word.
fn codes_of(eight: u32, row: u32) -> vec2<u32> {
    let bit = eight * p.bits * 8u;
    let at = bit / 32u * p.rows + row;
    if p.bits == 4u {
        return vec2<u32>(codes[at], codes[at] >> 16u);
    }
    if p.bits == 8u {
        return vec2<u32>(codes[at], codes[at + p.rows]);
    }
    if p.bits == 2u {
        let both = codes[at] >> (bit % 32u);
        return vec2<u32>(both, both >> 8u);
    }
    let both = field(codes[at], codes[at + p.rows], bit % 32u, 24u);
    return vec2<u32>(both, both >> 12u);
}

@compute @workgroup_size(256)
fn gptq(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let eights = p.cols / 8u;
    let tiles = (eights + 7u) / 8u;
    let block = block_of(id, count);
    let eight = block % tiles * 8u + (thread & 7u);
    let line = block / tiles * 32u + (thread >> 3u);
    if eight >= eights || line >= p.run_rows {
        return;
    }
    let row = p.first_row + line;
    let packed = codes_of(eight, row);
    let shift = vec4<u32>(0u, 1u, 2u, 3u) * p.bits;
    let mask = vec4<u32>((1u << p.bits) - 1u);
    let low = (vec4<u32>(packed.x) >> shift) & mask;
    let high = (vec4<u32>(packed.y) >> shift) & mask;
    let col = 8u * eight;
    if has(ONE_GROUP) {
        let group = col / p.group;
        let zero = vec4<i32>(zero_at(group, row));
        let scale = scale_at(group * p.rows + row);
        store(line * eights + eight,
            vec4<f32>(vec4<i32>(low) - zero) * scale,
            vec4<f32>(vec4<i32>(high) - zero) * scale);
    } else {
        store(line * eights + eight,
            vec4<f32>(
                value(low.x, group_of(col), row), value(low.y, group_of(col + 1u), row),
                value(low.z, group_of(col + 2u), row), value(low.w, group_of(col + 3u), row)),
            vec4<f32>(
                value(high.x, group_of(col + 4u), row), value(high.y, group_of(col + 5u), row),
                value(high.z, group_of(col + 6u), row), value(high.w, group_of(col + 7u), row)));
    }
}
