// LLM.int8(): one absmax per row. First the product, then 1/127: bitsandbytes' order.

__device__ __forceinline__ float value(u32 word, u32 i, float absmax) {
    return __fmul_rn(__fmul_rn(signed_byte(word, i), absmax), 0.007874015718698502f);
}

template <int OUT> __device__ __forceinline__ void int8(const Params &p, PARTS, uint4 *result) {
    const float *absmax = (const float *)scales;
    const u32 first = blockIdx.x * (256 * FLIGHT) + threadIdx.x;
    uint2 both[FLIGHT];
    float scale[FLIGHT];
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = first + 256 * j;
        if (at < p.vectors) {
            both[j] = __ldcs((const uint2 *)codes + at);
            if (p.flags & ALIGNED) scale[j] = __ldg(absmax + p.row(at));
        }
    }
#pragma unroll
    for (u32 j = 0; j < FLIGHT; j++) {
        u32 at = first + 256 * j;
        if (at >= p.vectors) return;
        Eight e;
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            float s = scale[j];
            if (!(p.flags & ALIGNED)) s = __ldg(absmax + min((8 * at + i) / p.cols, p.rows - 1));
            e.v[i] = value(i < 4 ? both[j].x : both[j].y, i % 4, s);
        }
        store<OUT>(result, at, e);
    }
}

ENTRIES(int8)
