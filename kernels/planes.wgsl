// Codecs 16 (planes) and 17 (palette) of format-spec/codecs.md. `huffman` decodes coded planes, a thread
// per stream of 4096 symbols; `merge` puts planes together, a thread per word of the result. The host
// has checked the heads (src/codec/float/program.rs, which says what is in `p` and in `chunk`).

struct Params {
    elements: u32,
    width: u32,
    exponent: u32,
    coded: u32,
    words: u32,
    start: u32,
    row_words: u32,
    stride_words: u32,
    palette: u32,
    stored_words: u32,
    plane_stride: u32,
    streams: u32,
    spare: vec4<u32>,
    // Kind and value.
    planes: array<vec4<u32>, 8>,
    // Where the codes and the streams are in `chunk`, and how many codes.
    coded_planes: array<vec4<u32>, 8>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunk: array<u32>;
@group(0) @binding(2) var<storage, read_write> symbols: array<u32>;
@group(0) @binding(3) var<storage, read_write> result: array<u32>;
@group(0) @binding(4) var<storage, read_write> errors: atomic<u32>;

const STREAM = 4096u;
const MAX_BITS = 14u;
const LOOK_BITS = 9u;
const LOOK = 512u;
const CODE_WORDS = 80u;
const BAD_LENGTH = 1u;
const BAD_PADDING = 2u;
const BAD_INDEX = 4u;

// What the next 9 bits decode to: up to three symbols, then from bit 24 on their bits, from bit 28 on
// how many; 0 where a longer code begins. One table for each of at most 8 codes.
var<workgroup> looks: array<u32, 4096>;

// The 32 bits from `bit` on; what lies behind the stored bytes may be read and is not used.
fn bits_at(bit: u32) -> u32 {
    let at = min(bit >> 5u, p.stored_words - 2u);
    let shift = bit & 31u;
    let low = chunk[at] >> shift;
    return low | select(chunk[at + 1u] << (32u - shift), 0u, shift == 0u);
}

// 1 where codes of this length, and all shorter ones, end before `high`.
fn beyond(code: u32, length: u32, high: u32) -> u32 {
    return u32(high >= (chunk[code + length] & 0xffffu));
}

// The first symbol of `bits`, and above it the length of its code. No loop: Mesa's device in software
// ends a thread's loops after 65535 rounds of all of them.
fn first(code: u32, bits: u32) -> u32 {
    let high = reverseBits(bits) >> (32u - MAX_BITS);
    let length = 1u + beyond(code, 1u, high) + beyond(code, 2u, high) + beyond(code, 3u, high)
        + beyond(code, 4u, high) + beyond(code, 5u, high) + beyond(code, 6u, high)
        + beyond(code, 7u, high) + beyond(code, 8u, high) + beyond(code, 9u, high)
        + beyond(code, 10u, high) + beyond(code, 11u, high) + beyond(code, 12u, high)
        + beyond(code, 13u, high);
    let place = ((high >> (MAX_BITS - length)) + (chunk[code + length] >> 16u)) & 0xffu;
    return ((chunk[code + 16u + (place >> 2u)] >> (8u * (place & 3u))) & 0xffu) | (length << 8u);
}

fn look(code: u32, window: u32) -> u32 {
    var used = 0u;
    var entry = 0u;
    for (var count = 0u; count < 3u; count++) {
        let one = first(code, window >> used);
        let length = one >> 8u;
        if used + length > LOOK_BITS {
            break;
        }
        used += length;
        entry = (entry & 0xffffffu) | ((one & 0xffu) << (8u * count)) | (used << 24u)
            | ((count + 1u) << 28u);
    }
    return entry;
}

// Symbols that a thread has made, those that are no word yet, and where the next word goes.
var<private> made: u32;
var<private> word: u32;
var<private> out: u32;

fn emit(symbol: u32) {
    word |= symbol << (8u * (made & 3u));
    made++;
    if (made & 3u) == 0u {
        symbols[out] = word;
        out++;
        word = 0u;
    }
}

@compute @workgroup_size(128)
fn huffman(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let plane = p.coded_planes[id.y];
    for (var at = thread; at < plane.z * LOOK; at += 128u) {
        looks[at] = look(plane.x + at / LOOK * CODE_WORDS, at % LOOK);
    }
    workgroupBarrier();
    let stream = id.x * 128u + thread;
    if stream >= p.streams {
        return;
    }
    let head = chunk[plane.y + stream];
    let code = min(head >> 24u, plane.z - 1u);
    let end = chunk[plane.y + stream + 1u] & 0xffffffu;
    let count = min(STREAM, p.elements - stream * STREAM);
    let table = plane.x + code * CODE_WORDS;
    var bit = 8u * (head & 0xffffffu);
    out = id.y * p.plane_stride + stream * (STREAM / 4u);
    made = 0u;
    word = 0u;
    while made < count {
        let bits = bits_at(bit);
        var entry = looks[code * LOOK + bits % LOOK];
        if entry == 0u || made + 3u > count {
            let one = first(table, bits);
            entry = (one & 0xffu) | ((one >> 8u) << 24u) | (1u << 28u);
        }
        bit += (entry >> 24u) & 15u;
        emit(entry & 0xffu);
        if (entry >> 28u) > 1u {
            emit((entry >> 8u) & 0xffu);
        }
        if (entry >> 28u) > 2u {
            emit((entry >> 16u) & 0xffu);
        }
    }
    if (made & 3u) != 0u {
        symbols[out] = word;
    }
    if (bit + 7u) / 8u != end {
        atomicOr(&errors, BAD_LENGTH);
    } else if (bit & 7u) != 0u && ((bits_at(bit & 0xfffffff8u) & 0xffu) >> (bit & 7u)) != 0u {
        atomicOr(&errors, BAD_PADDING);
    }
}

fn stored_byte(at: u32) -> u32 {
    return (chunk[at >> 2u] >> (8u * (at & 3u))) & 0xffu;
}

// Byte `e` of a plane.
fn plane_byte(plane: u32, e: u32) -> u32 {
    let source = p.planes[plane];
    if source.x == 2u {
        return source.y;
    }
    if source.x == 1u {
        return (symbols[source.y * p.plane_stride + (e >> 2u)] >> (8u * (e & 3u))) & 0xffu;
    }
    return stored_byte(source.y + e);
}

// `count` planes from `plane` on, as a number; the sign of a float back above its exponent, where the
// number has so many bits.
fn number(plane: u32, e: u32, count: u32, exponent: u32) -> u32 {
    var x = 0u;
    for (var i = 0u; i < count; i++) {
        x |= plane_byte(plane + i, e) << (8u * i);
    }
    if exponent == 0u {
        return x;
    }
    let top = 8u * count - 1u;
    let mantissa = (1u << (top - exponent)) - 1u;
    let sign = 1u << top;
    let exponents = (sign - 1u) & ~mantissa;
    return ((x >> 1u) & exponents) | ((x << exponent) & sign) | (x & mantissa);
}

// `count` bytes, behind `skip`, of the value of element `e`.
fn value(e: u32, skip: u32, count: u32) -> u32 {
    var index = plane_byte(0u, e);
    if index >= p.palette {
        atomicOr(&errors, BAD_INDEX);
        index = 0u;
    }
    var x = 0u;
    for (var i = 0u; i < count; i++) {
        x |= stored_byte(index * p.width + skip + i) << (8u * i);
    }
    return x;
}

// `count` bytes of element `e`, behind `skip`; 0 beyond the last element.
fn element(e: u32, skip: u32, count: u32) -> u32 {
    if e >= p.elements {
        return 0u;
    }
    if p.palette > 0u {
        return value(e, skip, count);
    }
    if p.width == 8u && skip == 0u {
        return number(0u, e, 4u, 0u);
    }
    return number(skip, e, count, p.exponent);
}

@compute @workgroup_size(256)
fn merge(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = (id.y * count.x + id.x) * 256u + thread;
    if at >= p.words {
        return;
    }
    var merged = 0u;
    switch p.width {
        case 1u: {
            for (var i = 0u; i < 4u; i++) {
                merged |= element(4u * at + i, 0u, 1u) << (8u * i);
            }
        }
        case 2u: {
            merged = element(2u * at, 0u, 2u) | (element(2u * at + 1u, 0u, 2u) << 16u);
        }
        case 4u: {
            merged = element(at, 0u, 4u);
        }
        default: {
            merged = element(at >> 1u, 4u * (at & 1u), 4u);
        }
    }
    result[p.start + at / p.row_words * p.stride_words + at % p.row_words] = merged;
}
