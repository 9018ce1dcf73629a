// compressed-tensors, pack-quantized, 1 to 8 bits: each row is a stream of bits in whole words. Zero
// points are streams down the rows, one per group; without them a code's middle is zero.

__device__ __forceinline__ int zero_at(const Params &p, const u32 *zeros, u32 group, u32 row) {
    if (!(p.flags & ZEROS)) return 1 << (p.bits - 1);
    u32 bit = row * p.bits;
    return (int)field(zeros, bit / 32 * p.groups + group, p.groups, bit % 32, p.bits);
}

// Element `at` of the result; past its end anything.
__device__ __forceinline__ float value(const Params &p, PARTS, u32 at) {
    u32 row = min(at / p.cols, p.rows - 1), col = at % p.cols;
    u32 bit = col * p.bits;
    u32 word = row * ((p.cols * p.bits + 31) / 32) + bit / 32;
    int code = (int)field(codes, word, 1, bit % 32, p.bits);
    u32 group = group_of(p, index, col);
    return __fmul_rn((float)(code - zero_at(p, zeros, group, row)),
                     scale_at(p, scales, row * p.groups + group));
}

template <int OUT> __device__ __forceinline__ void packed(const Params &p, PARTS, uint4 *result) {
    const u32 first = blockIdx.x * (256 * FLIGHT) + threadIdx.x;
    if ((p.flags & ALIGNED) && (p.flags & ONE_GROUP) && p.bits == 4) {
        // Rows are whole words, and a word is a vector.
        u32 word[FLIGHT];
        float scale[FLIGHT];
        int zero[FLIGHT];
#pragma unroll
        for (u32 j = 0; j < FLIGHT; j++) {
            u32 at = first + 256 * j;
            if (at < p.vectors) {
                word[j] = __ldcs(codes + at);
                u32 row = p.row(at), group = p.group_of(at - row * (p.cols / 8));
                scale[j] = scale_at(p, scales, row * p.groups + group);
                zero[j] = zero_at(p, zeros, group, row);
            }
        }
#pragma unroll
        for (u32 j = 0; j < FLIGHT; j++) {
            u32 at = first + 256 * j;
            if (at >= p.vectors) return;
            Eight e;
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                e.v[i] = __fmul_rn((float)((int)(word[j] >> (4 * i) & 15) - zero[j]), scale[j]);
            }
            store<OUT>(result, at, e);
        }
        return;
    }
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = first + 256 * j;
        if (at >= p.vectors) return;
        Eight e;
        for (u32 i = 0; i < 8; i++) e.v[i] = value(p, PARTS_ARE, 8 * at + i);
        store<OUT>(result, at, e);
    }
}

ENTRIES(packed)
