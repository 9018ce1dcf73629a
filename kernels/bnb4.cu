// bitsandbytes, 4 bits: a code book of 16 values, an absmax per block, perhaps nested. The element
// with the even index is in the high nibble. A block is a power of two of 8 elements or more, so a
// vector has one absmax.
//
// The code book lies in 16 banks of shared memory: a warp's reads never conflict.

__device__ __forceinline__ float absmax(const Params &p, const void *scales, const u32 *second,
                                        const float *table, u32 block) {
    if (!(p.flags & NESTED)) return __ldg((const float *)scales + block);
    float code = __ldg(table + 16 + __ldg((const u8 *)scales + block));
    float outer = __uint_as_float(__ldg(second + block / p.height));
    return __fadd_rn(__fmul_rn(code, outer), __uint_as_float(p.offset));
}

template <int OUT> __device__ __forceinline__ void bnb4(const Params &p, PARTS, uint4 *result) {
    __shared__ float book[16];
    if (threadIdx.x < 16) book[threadIdx.x] = table[threadIdx.x];
    __syncthreads();
    const u32 first = blockIdx.x * (256 * FLIGHT) + threadIdx.x;
    const u32 shift = 31 - __clz(p.group);
    u32 word[FLIGHT];
    float scale[FLIGHT];
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = first + 256 * j;
        if (at < p.vectors) {
            word[j] = __ldcs(codes + at);
            scale[j] = absmax(p, scales, zeros, table, (at * 8) >> shift);
        }
    }
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = first + 256 * j;
        if (at >= p.vectors) return;
        Eight e;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u32 nibble = word[j] >> (4 * (i ^ 1)) & 15;
            e.v[i] = __fmul_rn(book[nibble], scale[j]);
        }
        store<OUT>(result, at, e);
    }
}

ENTRIES(bnb4)
