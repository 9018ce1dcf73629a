// Runs CUDA kernels as C++ on the host, one thread after the other, so that what they compute can be
// compared with the reference on a machine without a device. Compile with -ffp-contract=off.
//
// A thread is a fiber, which __syncthreads() leaves until all of its block have come so far.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(n)
#define __shared__ static

struct uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx;

static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
static inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++) reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
static inline unsigned atomicOr(unsigned *at, unsigned bits) {
    unsigned old = *at;
    *at |= bits;
    return old;
}
static inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

// A read or write that is not aligned to its type faults on a device.
template <class T> static void aligned(const T *at) {
    if ((uintptr_t)at % sizeof(T)) __builtin_trap();
}
template <class T> static T __ldg(const T *at) {
    aligned(at);
    return *at;
}
template <class T> static T __ldcs(const T *at) {
    aligned(at);
    return *at;
}
template <class T> static void __stcs(T *at, T value) {
    aligned(at);
    *at = value;
}

// What cvt.f32.f16 and cvt.rn.{f16x2,bf16x2}.f32 do.
static inline float from_f16(unsigned short half) {
    unsigned magnitude = half & 0x7fff;
    float x = magnitude < 0x400    ? std::ldexp((float)magnitude, -24)
              : magnitude < 0x7c00 ? __uint_as_float((magnitude << 13) + 0x38000000)
                                   : __uint_as_float((magnitude << 13) + 0x70000000);
    return half & 0x8000 ? -x : x;
}
static inline unsigned to_f16(float x) {
    unsigned sign = __float_as_uint(x) >> 16 & 0x8000;
    x = std::fabs(x);
    if (std::isnan(x)) return 0x7fff;
    if (x >= 65520) return sign | 0x7c00;
    int exponent = x == 0 ? -14 : std::ilogb(x);
    if (exponent < -14) exponent = -14;
    // In units of the last place; a carry into the exponent is right as it is.
    unsigned mantissa = (unsigned)std::nearbyint(std::ldexp(x, 10 - exponent));
    return sign | (mantissa + ((unsigned)(exponent + 14) << 10));
}
static inline unsigned to_bf16(float x) {
    if (std::isnan(x)) return 0x7fff;
    unsigned bits = __float_as_uint(x);
    unsigned down = bits >> 16, rest = bits & 0xffff;
    return down + (rest > 0x8000 || (rest == 0x8000 && down & 1));
}
static inline unsigned pair_f16(float low, float high) { return to_f16(low) | to_f16(high) << 16; }
static inline unsigned pair_bf16(float low, float high) { return to_bf16(low) | to_bf16(high) << 16; }

static ucontext_t scheduler, fibers[256];
static unsigned running;
static bool ended[256];
static void (*body)();

static void __syncthreads() {
    unsigned self = running;
    swapcontext(&fibers[self], &scheduler);
    threadIdx.x = self;
}

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
// Of a warp's threads, all of whose block ask at a time.
static unsigned __ballot_sync(unsigned, bool yes) {
    static bool said[256];
    unsigned self = threadIdx.x, ballot = 0;
    said[self] = yes;
    __syncthreads();
    for (unsigned lane = 0; lane < 32; lane++) ballot |= (unsigned)said[(self & ~31u) + lane] << lane;
    __syncthreads();
    return ballot;
}

static void fiber() {
    body();
    ended[running] = true;
}

// Runs `kernel` with `blocks` blocks of 256 threads, in so many lines, so many times.
static void run_blocks(unsigned blocks, void (*kernel)(), unsigned lines = 1, unsigned depth = 1) {
    static std::vector<char> stacks(256 * 65536);
    body = kernel;
    for (unsigned block = 0; block < blocks * lines * depth; block++) {
        blockIdx = {block % blocks, block / blocks % lines, block / blocks / lines};
        for (unsigned t = 0; t < 256; t++) {
            ended[t] = false;
            getcontext(&fibers[t]);
            fibers[t].uc_stack.ss_sp = &stacks[t * 65536];
            fibers[t].uc_stack.ss_size = 65536;
            fibers[t].uc_link = &scheduler;
            makecontext(&fibers[t], fiber, 0);
        }
        for (bool more = true; more;) {
            more = false;
            for (running = 0; running < 256; running++) {
                if (ended[running]) continue;
                threadIdx = {running, 0, 0};
                swapcontext(&scheduler, &fibers[running]);
                more |= !ended[running];
            }
        }
    }
}
