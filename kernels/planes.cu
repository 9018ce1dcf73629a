// Codecs 16 (planes) and 17 (palette) of format-spec/codecs.md, of as many chunks as the grid is deep: one
// has too few streams to fill a device. `huffman` decodes coded planes, a thread per stream of 4096 symbols;
// `merge` puts planes together, a thread per word of the result. The host has checked the heads
// (src/codec/float/program.rs, which says what is in `p` and in `chunk`).

struct Program {
    u32 elements, width, exponent, coded, words, start, row_words, stride_words;
    u32 palette, stored_words, plane_stride, streams;
    // Where the chunk, its symbols and its result begin.
    u32 chunk_at, symbols_at, result_at[2];
    // Kind and value.
    u32 planes[8][4];
    // Where the codes and the streams are in `chunk`, and how many codes.
    u32 coded_planes[8][4];
};

enum Codec : u32 { STREAM = 4096, MAX_BITS = 14, LOOK_BITS = 9, LOOK = 512, CODE_WORDS = 80 };
enum Fault : u32 { BAD_LENGTH = 1, BAD_PADDING = 2, BAD_INDEX = 4 };

// The 32 bits from `bit` on, in the word before the `last` at most; what lies behind the stored bytes may be
// read and is not used.
__device__ __forceinline__ u32 bits_at(u32 last, const u32 *chunk, u32 bit) {
    const u32 word = min(bit >> 5, last - 1), shift = bit & 31;
    const u32 low = __ldg(chunk + word) >> shift;
    return shift ? low | __ldg(chunk + word + 1) << (32 - shift) : low;
}

// The first symbol of `bits`, and above it the length of its code.
__device__ __forceinline__ u32 first(const u32 *code, u32 bits) {
    const u32 high = __brev(bits) >> (32 - MAX_BITS);
    u32 length = 1;
    while (length < MAX_BITS && high >= (__ldg(code + length) & 0xffff)) length++;
    const u32 place = ((high >> (MAX_BITS - length)) + (__ldg(code + length) >> 16)) & 0xff;
    return (__ldg(code + 16 + (place >> 2)) >> (8 * (place & 3)) & 0xff) | length << 8;
}

// What 9 bits decode to: up to three symbols, then from bit 24 on their bits, from bit 28 on how many; 0
// where a longer code begins.
__device__ __forceinline__ u32 look(const u32 *code, u32 window) {
    u32 used = 0, entry = 0;
    for (u32 count = 0; count < 3; count++) {
        const u32 one = first(code, window >> used), length = one >> 8;
        if (used + length > LOOK_BITS) break;
        used += length;
        entry = (entry & 0xffffff) | (one & 0xff) << (8 * count) | used << 24 | (count + 1) << 28;
    }
    return entry;
}

extern "C" __global__ void __launch_bounds__(256)
    huffman(const Program *__restrict__ programs, const u32 *__restrict__ chunks, u32 *__restrict__ symbols,
            u32 *result, u32 *errors) {
    // One table for each of at most 8 codes.
    __shared__ u32 looks[8 * LOOK];
    const Program &p = programs[blockIdx.z];
    if (blockIdx.y >= p.coded || blockIdx.x * 256 >= p.streams) return;
    const u32 *chunk = chunks + p.chunk_at, *plane = p.coded_planes[blockIdx.y];
    for (u32 at = threadIdx.x; at < plane[2] * LOOK; at += 256) {
        looks[at] = look(chunk + plane[0] + at / LOOK * CODE_WORDS, at % LOOK);
    }
    __syncthreads();
    const u32 stream = blockIdx.x * 256 + threadIdx.x;
    if (stream >= p.streams) return;
    const u32 head = __ldg(chunk + plane[1] + stream), code = min(head >> 24, plane[2] - 1);
    const u32 end = __ldg(chunk + plane[1] + stream + 1) & 0xffffff;
    const u32 count = min((u32)STREAM, p.elements - stream * STREAM);
    const u32 *table = chunk + plane[0] + code * CODE_WORDS;
    u32 bit = 8 * (head & 0xffffff), made = 0, word = 0;
    const u32 last = p.stored_words - 1;
    u32 *out = symbols + p.symbols_at + (u64)blockIdx.y * p.plane_stride + stream * (STREAM / 4);
    while (made < count) {
        const u32 bits = bits_at(last, chunk, bit);
        u32 entry = looks[code * LOOK + bits % LOOK];
        if (entry == 0 || made + 3 > count) {
            const u32 one = first(table, bits);
            entry = (one & 0xff) | one >> 8 << 24 | 1u << 28;
        }
        bit += entry >> 24 & 15;
        for (u32 left = entry >> 28; left > 0; left--) {
            word |= (entry & 0xff) << (8 * (made & 3));
            entry >>= 8;
            if ((++made & 3) == 0) {
                *out++ = word;
                word = 0;
            }
        }
    }
    if (made & 3) *out = word;
    if ((bit + 7) / 8 != end) {
        atomicOr(errors, (u32)BAD_LENGTH);
    } else if (bit & 7 && (bits_at(last, chunk, bit & ~7u) & 0xff) >> (bit & 7)) {
        atomicOr(errors, (u32)BAD_PADDING);
    }
}

// What `merge` reads.
struct Planes {
    const Program &p;
    const u32 *chunk, *symbols;
    u32 *errors;

    __device__ __forceinline__ u32 stored_byte(u32 at) const {
        return __ldg(chunk + (at >> 2)) >> (8 * (at & 3)) & 0xff;
    }

    // Byte `e` of a plane.
    __device__ __forceinline__ u32 byte(u32 plane, u32 e) const {
        const u32 kind = p.planes[plane][0], value = p.planes[plane][1];
        if (kind == 2) return value;
        if (kind == 0) return stored_byte(value + e);
        return symbols[(u64)value * p.plane_stride + (e >> 2)] >> (8 * (e & 3)) & 0xff;
    }

    // `count` planes from `plane` on, as a number; the sign of a float back above its exponent, where the
    // number has so many bits.
    __device__ __forceinline__ u32 number(u32 plane, u32 e, u32 count, u32 exponent) const {
        u32 x = 0;
        for (u32 i = 0; i < count; i++) x |= byte(plane + i, e) << (8 * i);
        if (exponent == 0) return x;
        const u32 top = 8 * count - 1, mantissa = (1u << (top - exponent)) - 1, sign = 1u << top;
        return (x >> 1 & (sign - 1) & ~mantissa) | (x << exponent & sign) | (x & mantissa);
    }

    // Bytes `from` to `from + count` of the value of element `e`.
    __device__ __forceinline__ u32 value(u32 e, u32 from, u32 count) const {
        u32 index = byte(0, e), x = 0;
        if (index >= p.palette) {
            atomicOr(errors, (u32)BAD_INDEX);
            index = 0;
        }
        for (u32 i = 0; i < count; i++) x |= stored_byte(index * p.width + from + i) << (8 * i);
        return x;
    }

    // `count` bytes of element `e` from `from` on; 0 beyond the last element.
    __device__ __forceinline__ u32 element(u32 e, u32 from, u32 count) const {
        if (e >= p.elements) return 0;
        if (p.palette > 0) return value(e, from, count);
        if (p.width == 8 && from == 0) return number(0, e, 4, 0);
        return number(from, e, count, p.exponent);
    }
};

extern "C" __global__ void __launch_bounds__(256)
    merge(const Program *__restrict__ programs, const u32 *__restrict__ chunks, u32 *symbols,
          u32 *__restrict__ results, u32 *errors) {
    const Program &p = programs[blockIdx.z];
    const u32 at = blockIdx.x * 256 + threadIdx.x;
    if (at >= p.words) return;
    const Planes planes = {p, chunks + p.chunk_at, symbols + p.symbols_at, errors};
    u32 *result = results + ((u64)p.result_at[1] << 32 | p.result_at[0]);
    u32 word = 0;
    if (p.width == 1) {
        for (u32 i = 0; i < 4; i++) word |= planes.element(4 * at + i, 0, 1) << (8 * i);
    } else if (p.width == 2) {
        word = planes.element(2 * at, 0, 2) | planes.element(2 * at + 1, 0, 2) << 16;
    } else if (p.width == 4) {
        word = planes.element(at, 0, 4);
    } else {
        word = planes.element(at >> 1, 4 * (at & 1), 4);
    }
    // Rows of a wide tensor: beyond 2^32 words.
    result[p.start + (u64)(at / p.row_words) * p.stride_words + at % p.row_words] = word;
}
