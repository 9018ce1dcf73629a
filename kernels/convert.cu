// Floats of one type as another: bf16, f16 and f32, rounded to nearest, ties to even. All of it in
// integers, so that a NaN is the reference's.

// The bits of f32 for 16 bits of the type `scale`.
__device__ __forceinline__ u32 widened(u32 scale, u32 half) {
    const u32 sign = (half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (scale == BF16) return (half | (magnitude > 0x7f80 ? 0x40u : 0u)) << 16;
    if (magnitude >= 0x7c00) {
        return sign | 0x7f800000 | (magnitude & 0x3ff) << 13 | (magnitude > 0x7c00 ? 0x400000u : 0u);
    }
    if (magnitude >= 0x400) return sign | ((magnitude << 13) + 0x38000000);
    if (magnitude == 0) return sign;
    // Units of 2^-24.
    const u32 top = 31 - __clz(magnitude);
    return sign | (top + 103) << 23 | (magnitude << (23 - top) & 0x7fffff);
}

__device__ __forceinline__ u32 narrow_f16(u32 bits) {
    const u32 sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00 | (magnitude >> 13 & 0x3ff);
    if (magnitude >= 0x477ff000) return sign | 0x7c00;
    if (magnitude >= 0x38800000) {
        const u32 rebased = magnitude - 0x38000000;
        return sign | (rebased + 0xfff + (rebased >> 13 & 1)) >> 13;
    }
    if (magnitude <= 0x33000000) return sign;
    // Subnormal in f16: the mantissa in units of 2^-24.
    const u32 mantissa = (magnitude & 0x7fffff) | 0x800000, shift = 126 - (magnitude >> 23);
    const u32 down = mantissa >> shift, rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    return sign | (down + (rest > half || (rest == half && (down & 1)) ? 1u : 0u));
}

__device__ __forceinline__ u32 narrow_bf16(u32 bits) {
    if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <int OUT> __device__ __forceinline__ u32 narrow(u32 bits) {
    return OUT == F16 ? narrow_f16(bits) : narrow_bf16(bits);
}

template <int OUT> __device__ __forceinline__ void convert(const Params &p, PARTS, uint4 *result) {
    const u32 first = blockIdx.x * (256 * FLIGHT) + threadIdx.x;
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        const u32 at = first + 256 * j;
        if (at >= p.vectors) return;
        u32 wide[8];
        if (p.scale == F32) {
            const uint4 *from = (const uint4 *)codes + 2 * (u64)at;
            const uint4 low = __ldcs(from), high = __ldcs(from + 1);
            wide[0] = low.x, wide[1] = low.y, wide[2] = low.z, wide[3] = low.w;
            wide[4] = high.x, wide[5] = high.y, wide[6] = high.z, wide[7] = high.w;
        } else {
            const uint4 all = __ldcs((const uint4 *)codes + at);
            const u32 words[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
            for (u32 i = 0; i < 8; i++) wide[i] = widened(p.scale, words[i / 2] >> (16 * (i & 1)) & 0xffff);
        }
        if (OUT == F32) {
            __stcs(result + 2 * (u64)at, uint4{wide[0], wide[1], wide[2], wide[3]});
            __stcs(result + 2 * (u64)at + 1, uint4{wide[4], wide[5], wide[6], wide[7]});
        } else {
            u32 words[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) words[i] = narrow<OUT>(wide[2 * i]) | narrow<OUT>(wide[2 * i + 1]) << 16;
            __stcs(result + at, uint4{words[0], words[1], words[2], words[3]});
        }
    }
}

ENTRIES(convert)
