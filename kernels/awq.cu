// AWQ, GEMM version: word c of line `col` has rows 8c to 8c + 7, in the order 0 2 4 6 1 3 5 7 from the
// low nibble up. A thread turns eight columns of a word around and writes eight vectors; a block writes
// a tile of 64 columns and 256 rows.

template <int OUT> __device__ __forceinline__ void awq(const Params &p, PARTS, uint4 *result) {
    const u32 eights = p.cols / 8, tiles = (eights + 7) / 8;
    const u32 eight = blockIdx.x % tiles * 8 + (threadIdx.x & 7);
    const u32 line = blockIdx.x / tiles * 256 + (threadIdx.x >> 3) * 8;
    if (eight >= eights || line >= p.run_rows) return;
    const u32 row = p.first_row + line, words = p.rows / 8;
    u32 packed[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) packed[i] = __ldg(codes + (eight * 8 + i) * words + row / 8);
    const u32 group = p.group_of(eight);
    const u32 zero = __ldg(zeros + group * words + row / 8);
    float scale[8];
#pragma unroll
    for (u32 j = 0; j < 8; j++) scale[j] = scale_at(p, scales, group * p.rows + row + j);
#pragma unroll
    for (u32 j = 0; j < 8; j++) {
        // Even rows in the low half, odd ones in the high half.
        const u32 shift = 4 * (j >> 1) + 16 * (j & 1);
        const int shifted = (int)(zero >> shift & 15);
        Eight e;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            e.v[i] = __fmul_rn((float)((int)(packed[i] >> shift & 15) - shifted), scale[j]);
        }
        store<OUT>(result, (line + j) * eights + eight, e);
    }
}

ENTRIES(awq)
