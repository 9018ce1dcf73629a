// Codecs 32 (delta) and 33 (patch) of format-spec/codecs.md. `delta` decodes a segment with a warp, a lane
// each; `copy_base` and then `patch_words` make a chunk of which little has changed. The host has checked
// what lengths and tables say (src/codec/delta/program.rs, which says what is in `p` and in `chunk`).

struct Program {
    u32 width, shift, sign, magnitude, top, contexts, segment_log2;
    u32 elements, parts, tables_at, segments_at, words;
    // First word, words of a row, words from row to row.
    u32 base_start, base_row, base_stride, result_start, result_row, result_stride, spare[6];
    // Of each context, the raw bits that are not beside a symbol.
    u32 high[16];
};

enum Fault : u32 { BAD_WORDS = 1, BAD_STATE = 2, BAD_ESCAPES = 4 };
enum State : u32 { LOWEST = 65536 };

__device__ __forceinline__ u64 base_word(const Program &p, u32 word) {
    return p.base_start + (u64)(word / p.base_row) * p.base_stride + word % p.base_row;
}

__device__ __forceinline__ u64 result_word(const Program &p, u32 word) {
    return p.result_start + (u64)(word / p.result_row) * p.result_stride + word % p.result_row;
}

// Byte `at` of what is stored; any of it beyond its end.
__device__ __forceinline__ u32 stored_byte(const Program &p, const u32 *chunk, u32 at) {
    return __ldg(chunk + min(at >> 2, p.tables_at - 1)) >> (8 * (at & 3)) & 0xff;
}

// Gives a lane whose state is too low the next word; how many bytes all of them took.
__device__ __forceinline__ u32 refill(const Program &p, const u32 *chunk, u32 at, u32 before, bool asks, u32 &state) {
    const bool low = asks && state < LOWEST;
    const u32 needed = __ballot_sync(0xffffffff, low);
    if (low) {
        const u32 word = at + 2 * __popc(needed & before);
        state = state << 16 | stored_byte(p, chunk, word) | stored_byte(p, chunk, word + 1) << 8;
    }
    return 2 * __popc(needed);
}

extern "C" __global__ void __launch_bounds__(256)
    delta(Program p, const u32 *__restrict__ chunk, const u32 *__restrict__ base, u32 *__restrict__ result, u32 *errors) {
    const u32 lane = threadIdx.x & 31, segment = blockIdx.x * 8 + (threadIdx.x >> 5), before = (1u << lane) - 1;
    const bool there = segment < p.parts;
    u32 state = LOWEST, at = 0, end = 0, escape_at = 0, escape_end = 0, count = 0;
    const u32 first = segment << p.segment_log2;
    if (there) {
        const u32 *place = chunk + p.segments_at + 4 * segment;
        state = __ldg(chunk + 2 * p.parts + 32 * segment + lane);
        at = __ldg(place), end = __ldg(place + 1), escape_at = __ldg(place + 2), escape_end = __ldg(place + 3);
        count = min(1u << p.segment_log2, p.elements - first);
    }
    // As many steps for all segments of a block: those that have fewer are idle.
    const u32 most = min(1u << p.segment_log2, p.elements - ((blockIdx.x * 8) << p.segment_log2));
    for (u32 row = 0; row < (most + 31) / 32; row++) {
        const u32 number = first + 32 * row + lane;
        const bool active = 32 * row + lane < count;
        u32 b = 0;
        if (active) {
            const u32 byte = number * p.width;
            b = __ldg(base + base_word(p, byte >> 2)) >> (8 * (byte & 3)) & (p.sign | p.magnitude);
        }
        const u32 magnitude = b & p.magnitude;
        const int below = (int)p.top - (int)(magnitude >> p.shift);
        const u32 context = min(below > 0 ? (u32)below : 0u, p.contexts - 1);
        const u32 entry = __ldg(chunk + p.tables_at + (context << 10) + (state & 1023)), beside = entry >> 21 & 7;
        u32 raw = 0, high = 0;
        if (active) {
            state = (state >> 10) * (entry & 0x7ff) + (entry >> 11 & 0x3ff);
            raw = state & ((1u << beside) - 1);
            state >>= beside;
        }
        at += refill(p, chunk, at, before, active, state);
        if (p.width == 4) {
            high = p.high[context];
            if (active) {
                raw |= (state & ((1u << high) - 1)) << beside;
                state >>= high;
            }
            at += refill(p, chunk, at, before, active, state);
        }
        const bool escapes = active && entry >> 24 == 0x80;
        const u32 escaped = __ballot_sync(0xffffffff, escapes);
        u32 element = 0;
        if (escapes) {
            const u32 from = escape_at + p.width * __popc(escaped & before);
            for (u32 i = 0; i < p.width; i++) element |= stored_byte(p, chunk, from + i) << (8 * i);
        } else {
            const u32 bits = beside + high, quotient = (u32)((int)entry >> 25);
            const u32 difference = (quotient << bits) + raw - (1u << bits >> 1);
            const u32 flip = entry >> 24 & 1 ? p.sign : 0;
            element = (magnitude + difference & p.magnitude) | (b & p.sign ^ flip);
        }
        escape_at += p.width * __popc(escaped);
        if (active) {
            const u32 byte = number * p.width;
            u8 *to = (u8 *)(result + result_word(p, byte >> 2)) + (byte & 3);
            if (p.width == 1) *to = (u8)element;
            else if (p.width == 2) *(u16 *)to = (u16)element;
            else *(u32 *)to = element;
        }
    }
    u32 wrong = 0;
    if (at != end) wrong |= BAD_WORDS;
    if (state != LOWEST) wrong |= BAD_STATE;
    if (escape_at != escape_end) wrong |= BAD_ESCAPES;
    if (there && wrong) atomicOr(errors, wrong);
}

extern "C" __global__ void __launch_bounds__(256)
    copy_base(Program p, const u32 *__restrict__ chunk, const u32 *__restrict__ base, u32 *__restrict__ result, u32 *errors) {
    const u32 at = blockIdx.x * 256 + threadIdx.x;
    if (at < p.words) result[result_word(p, at)] = __ldg(base + base_word(p, at));
}

extern "C" __global__ void __launch_bounds__(256)
    patch_words(Program p, const u32 *__restrict__ chunk, const u32 *__restrict__ base, u32 *__restrict__ result, u32 *errors) {
    const u32 at = blockIdx.x * 256 + threadIdx.x;
    if (at >= p.parts) return;
    const u32 word = __ldg(chunk + 3 * at);
    result[result_word(p, word)] =
        (__ldg(base + base_word(p, word)) & ~__ldg(chunk + 3 * at + 1)) | __ldg(chunk + 3 * at + 2);
}
