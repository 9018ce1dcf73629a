// What every kernel shares: the numbers of a launch, floating-point formats, and the store of eight
// elements. See src/quant/kernel.rs for the host's side of `Params`.
//
// Results equal src/quant/reference.rs bit for bit (compile with --fmad=false), except that a NaN stays
// a NaN but not the same one. Every buffer goes on for at least 16 bytes behind its part.
//
// No header is needed, so that NVRTC compiles this without a toolkit. The tests also run it as C++ on
// the host (tests/cuda_host.h), where __CUDA_ARCH__ is not defined.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct Divisor {
    u32 magic, shift;
    __device__ u32 operator()(u32 n) const { return (u32)(((u64)n * magic) >> shift); }
};

struct Params {
    u32 vectors, rows, cols, first_row, run_rows, bits, group, groups;
    u32 scale, flags, height, offset, zero;
    Divisor row, group_of;
    u32 spare[3];
};

enum Flag : u32 { ALIGNED = 1, INDEXED = 2, ZEROS = 4, LESS_ONE = 8, NESTED = 16, ONE_GROUP = 32, SIGNED = 64 };
enum Out { F32 = 0, F16 = 1, BF16 = 2 };

// The parts of a weight, in the order of Part::ALL.
#define PARTS                                                                                     \
    const u32 *__restrict__ codes, const void *__restrict__ scales, const u32 *__restrict__ zeros, \
        const u32 *__restrict__ index, const float *__restrict__ table
#define PARTS_ARE codes, scales, zeros, index, table

// The entry points of the program `name`, one per type of the result.
#define ENTRIES(name)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) name##_f32(Params p, PARTS, uint4 *result) { \
        name<F32>(p, PARTS_ARE, result);                                                           \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) name##_f16(Params p, PARTS, uint4 *result) { \
        name<F16>(p, PARTS_ARE, result);                                                           \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) name##_bf16(Params p, PARTS, uint4 *result) { \
        name<BF16>(p, PARTS_ARE, result);                                                          \
    }

// Vectors that a thread has in flight.
#define FLIGHT 4u

#ifdef __CUDA_ARCH__

__device__ __forceinline__ float from_f16(u16 half) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
}

__device__ __forceinline__ u32 pair_f16(float low, float high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

__device__ __forceinline__ u32 pair_bf16(float low, float high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}

#endif

struct Eight {
    float v[8];
};

template <int OUT> __device__ __forceinline__ u32 pair(float low, float high) {
    return OUT == F16 ? pair_f16(low, high) : pair_bf16(low, high);
}

// Writes vector number `at`; the result is not read again by this kernel.
template <int OUT> __device__ __forceinline__ void store(uint4 *result, u32 at, const Eight &e) {
    if (OUT == F32) {
        uint4 low = {__float_as_uint(e.v[0]), __float_as_uint(e.v[1]), __float_as_uint(e.v[2]),
                     __float_as_uint(e.v[3])};
        uint4 high = {__float_as_uint(e.v[4]), __float_as_uint(e.v[5]), __float_as_uint(e.v[6]),
                      __float_as_uint(e.v[7])};
        __stcs(result + 2 * (u64)at, low);
        __stcs(result + 2 * (u64)at + 1, high);
    } else {
        uint4 all = {pair<OUT>(e.v[0], e.v[1]), pair<OUT>(e.v[2], e.v[3]), pair<OUT>(e.v[4], e.v[5]),
                     pair<OUT>(e.v[6], e.v[7])};
        __stcs(result + at, all);
    }
}

__device__ __forceinline__ float scale_at(const Params &p, const void *scales, u32 at) {
    if (p.scale == F32) return __ldg((const float *)scales + at);
    u16 half = __ldg((const u16 *)scales + at);
    return p.scale == F16 ? from_f16(half) : __uint_as_float((u32)half << 16);
}

__device__ __forceinline__ u32 group_of(const Params &p, const u32 *index, u32 col) {
    return p.flags & INDEXED ? min(__ldg(index + col), p.groups - 1) : col / p.group;
}

// The `width` bits at bit `shift` of a stream whose words are `stride` apart, beginning at `at`.
__device__ __forceinline__ u32 field(const u32 *words, u32 at, u32 stride, u32 shift, u32 width) {
    u32 bits = __ldg(words + at) >> shift;
    if (shift + width > 32) bits |= __ldg(words + at + stride) << (32 - shift);
    return bits & ((1u << width) - 1);
}

// Byte `i` of `word`, as a signed number.
__device__ __forceinline__ float signed_byte(u32 word, u32 i) {
    return (float)(signed char)(word >> (8 * i));
}
