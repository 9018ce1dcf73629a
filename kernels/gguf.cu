// GGUF blocks: the scales lie among the codes. Blocks of 18 and 34 bytes begin on even bytes, so they
// are read in halves.

// The four bytes at byte `at`, which is even.
__device__ __forceinline__ u32 bytes4(const u32 *codes, u32 at) {
    const u16 *half = (const u16 *)codes + at / 2;
    return (u32)__ldg(half) | (u32)__ldg(half + 1) << 16;
}

__device__ __forceinline__ float half_at(const u32 *codes, u32 at) {
    return from_f16(__ldg((const u16 *)codes + at / 2));
}

__device__ __forceinline__ u32 byte_at(const u32 *codes, u32 at) {
    return __ldg((const u8 *)codes + at);
}

// 32 elements: f16 scale, then element j and j + 16 in byte j.
template <int OUT> __device__ __forceinline__ void q4_0(const Params &p, PARTS, uint4 *result) {
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = blockIdx.x * (256 * FLIGHT) + 256 * j + threadIdx.x;
        if (at >= p.vectors) return;
        u32 base = at / 4 * 18, start = base + 2 + 8 * (at & 1), shift = 2 * (at & 2);
        u32 low = bytes4(codes, start), high = bytes4(codes, start + 4);
        float scale = half_at(codes, base);
        Eight e;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u32 code = (i < 4 ? low : high) >> (8 * (i % 4) + shift) & 15;
            e.v[i] = __fmul_rn((float)((int)code - 8), scale);
        }
        store<OUT>(result, at, e);
    }
}

// 32 elements: f16 scale, then signed bytes.
template <int OUT> __device__ __forceinline__ void q8_0(const Params &p, PARTS, uint4 *result) {
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = blockIdx.x * (256 * FLIGHT) + 256 * j + threadIdx.x;
        if (at >= p.vectors) return;
        u32 base = at / 4 * 34, start = base + 2 + 8 * (at & 3);
        u32 low = bytes4(codes, start), high = bytes4(codes, start + 4);
        float scale = half_at(codes, base);
        Eight e;
#pragma unroll
        for (u32 i = 0; i < 8; i++) e.v[i] = __fmul_rn(signed_byte(i < 4 ? low : high, i % 4), scale);
        store<OUT>(result, at, e);
    }
}

// 256 elements: two f16, eight scales and minima of 6 bits, then nibbles: 32 elements in the low ones
// of 32 bytes, the next 32 in the high ones.
template <int OUT> __device__ __forceinline__ void q4_k(const Params &p, PARTS, uint4 *result) {
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = blockIdx.x * (256 * FLIGHT) + 256 * j + threadIdx.x;
        if (at >= p.vectors) return;
        u32 base = at / 32 * 144, sub = (at & 31) / 4;
        u32 scale = byte_at(codes, base + 4 + sub) & 63, least = byte_at(codes, base + 8 + sub) & 63;
        if (sub >= 4) {
            u32 both = byte_at(codes, base + 8 + sub);
            scale = (both & 15) | byte_at(codes, base + sub) >> 6 << 4;
            least = both >> 4 | byte_at(codes, base + 4 + sub) >> 6 << 4;
        }
        float d = __fmul_rn(half_at(codes, base), (float)scale);
        float m = __fmul_rn(half_at(codes, base + 2), (float)least);
        u32 word = (base + 16 + sub / 2 * 32 + 8 * (at & 3)) / 4, shift = 4 * (sub & 1);
        u32 low = __ldg(codes + word), high = __ldg(codes + word + 1);
        Eight e;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u32 code = (i < 4 ? low : high) >> (8 * (i % 4) + shift) & 15;
            e.v[i] = __fsub_rn(__fmul_rn(d, (float)code), m);
        }
        store<OUT>(result, at, e);
    }
}

ENTRIES(q4_0)
ENTRIES(q8_0)
ENTRIES(q4_k)
