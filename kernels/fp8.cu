// FP8 E4M3, or signed bytes, with a scale per block of rows and columns.

// Exponent and mantissa as those of an f16, 2^8 too small: subnormal codes need no care.
__device__ __forceinline__ float from_e4m3(u32 code) {
    u32 magnitude = code & 0x7f;
    float x = from_f16((u16)((code & 0x80) << 8 | magnitude << 7)) * 256.0f;
    return magnitude == 0x7f ? __uint_as_float(0x7fc00000) : x;
}

// The scale of element `at`.
__device__ __forceinline__ float block_scale(const Params &p, const void *scales, u32 at) {
    u32 row = min(at / p.cols, p.rows - 1);
    return scale_at(p, scales, (p.first_row + row) / p.height * p.groups + at % p.cols / p.group);
}

template <int OUT> __device__ __forceinline__ void fp8(const Params &p, PARTS, uint4 *result) {
    const u32 first = blockIdx.x * (256 * FLIGHT) + threadIdx.x;
    const bool even = (p.flags & ALIGNED) && (p.flags & ONE_GROUP);
    uint2 both[FLIGHT];
    float scale[FLIGHT];
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = first + 256 * j;
        if (at < p.vectors) {
            both[j] = __ldcs((const uint2 *)codes + at);
            if (even) {
                u32 row = p.row(at), group = p.group_of(at - row * (p.cols / 8));
                scale[j] = scale_at(p, scales, (p.first_row + row) / p.height * p.groups + group);
            }
        }
    }
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = first + 256 * j;
        if (at >= p.vectors) return;
        Eight e;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            u32 word = i < 4 ? both[j].x : both[j].y;
            u32 code = word >> (8 * (i % 4)) & 0xff;
            float s = even ? scale[j] : block_scale(p, scales, 8 * at + i);
            float x = p.flags & SIGNED ? signed_byte(word, i % 4) : from_e4m3(code);
            e.v[i] = __fmul_rn(x, s);
        }
        store<OUT>(result, at, e);
    }
}

ENTRIES(fp8)
