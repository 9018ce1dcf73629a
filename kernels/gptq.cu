// GPTQ, 2, 3, 4 or 8 bits: word w of a column's stream is codes[w * rows + row], so that eight
// neighbouring columns of the result are `bits` bytes of one stream. Zero points are streams along the
// rows, one per group.
//
// A block writes a tile of 64 columns and 128 rows: eight threads write 128 bytes of a row, and the
// threads of a column of the tile read 128 bytes of a line of words, so that both are whole sectors.

__device__ __forceinline__ int zero_at(const Params &p, const u32 *zeros, u32 group, u32 row) {
    u32 bit = row * p.bits;
    u32 word = group * (p.rows * p.bits / 32) + bit / 32;
    return (int)field(zeros, word, 1, bit % 32, p.bits) + (p.flags & LESS_ONE ? 1 : 0);
}

// Eight codes of `row`, from column 8 * eight on.
__device__ __forceinline__ u64 codes_of(const Params &p, const u32 *codes, u32 eight, u32 row) {
    u32 bit = eight * p.bits * 8;
    u32 at = bit / 32 * p.rows + row;
    if (p.bits == 4) return __ldcs(codes + at);
    if (p.bits == 8) return (u64)__ldcs(codes + at + p.rows) << 32 | __ldcs(codes + at);
    if (p.bits == 2) return __ldg(codes + at) >> (bit % 32) & 0xffff;
    return field(codes, at, p.rows, bit % 32, 24);
}

template <int OUT> __device__ __forceinline__ void gptq(const Params &p, PARTS, uint4 *result) {
    const u32 eights = p.cols / 8, tiles = (eights + 7) / 8;
    const u32 eight = blockIdx.x % tiles * 8 + (threadIdx.x & 7);
    const u32 first = blockIdx.x / tiles * 128 + (threadIdx.x >> 3);
    if (eight >= eights) return;
    const u32 group = p.group_of(eight), mask = (1u << p.bits) - 1;
    u64 packed[FLIGHT];
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 line = first + 32 * j;
        if (line < p.run_rows) packed[j] = codes_of(p, codes, eight, p.first_row + line);
    }
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 line = first + 32 * j, row = p.first_row + line;
        if (line >= p.run_rows) return;
        Eight e;
        if (p.flags & ONE_GROUP) {
            int zero = zero_at(p, zeros, group, row);
            float scale = scale_at(p, scales, group * p.rows + row);
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                int code = (int)((u32)(packed[j] >> (i * p.bits)) & mask);
                e.v[i] = __fmul_rn((float)(code - zero), scale);
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                u32 g = group_of(p, index, 8 * eight + i);
                int code = (int)((u32)(packed[j] >> (i * p.bits)) & mask);
                float scale = scale_at(p, scales, g * p.rows + row);
                e.v[i] = __fmul_rn((float)(code - zero_at(p, zeros, g, row)), scale);
            }
        }
        store<OUT>(result, line * eights + eight, e);
    }
}

ENTRIES(gptq)
