// Codecs 32 (delta) and 33 (patch) of format-spec/codecs.md. `delta` decodes a segment with 32 threads, a
// lane each; `copy_base` and then `patch` make a chunk of which little has changed. The host has checked
// what lengths and tables say (src/codec/delta/program.rs, which says what is in `p` and in `chunk`).

struct Params {
    width: u32,
    shift: u32,
    sign: u32,
    magnitude: u32,
    top: u32,
    contexts: u32,
    segment_log2: u32,
    elements: u32,
    parts: u32,
    tables_at: u32,
    segments_at: u32,
    words: u32,
    // First word, words of a row, words from row to row.
    base_start: u32,
    base_row: u32,
    base_stride: u32,
    result_start: u32,
    result_row: u32,
    result_stride: u32,
    spare0: u32,
    spare1: u32,
    spare2: vec4<u32>,
    // Of each context, the raw bits that are not beside a symbol.
    high: array<vec4<u32>, 4>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> chunk: array<u32>;
@group(0) @binding(2) var<storage, read> base: array<u32>;
@group(0) @binding(3) var<storage, read_write> result: array<u32>;
@group(0) @binding(4) var<storage, read_write> errors: atomic<u32>;

const BAD_WORDS = 1u;
const BAD_STATE = 2u;
const BAD_ESCAPES = 4u;
const LOWEST = 65536u;

// Which lanes need something, for three questions of a step; taken turns, so that a barrier suffices.
var<workgroup> votes: array<atomic<u32>, 3>;
var<workgroup> elements: array<u32, 32>;

fn base_at(word: u32) -> u32 {
    return base[p.base_start + word / p.base_row * p.base_stride + word % p.base_row];
}

fn result_at(word: u32) -> u32 {
    return p.result_start + word / p.result_row * p.result_stride + word % p.result_row;
}

// Byte `at` of what is stored; any of it beyond its end.
fn stored_byte(at: u32) -> u32 {
    return (chunk[min(at >> 2u, p.tables_at - 1u)] >> (8u * (at & 3u))) & 0xffu;
}

// The element that begins at byte `at`. No loop: Mesa's device in software ends a thread's loops after
// 65535 rounds of all of them.
fn stored_element(at: u32) -> u32 {
    var element = stored_byte(at);
    if p.width > 1u {
        element |= stored_byte(at + 1u) << 8u;
    }
    if p.width > 2u {
        element |= (stored_byte(at + 2u) << 16u) | (stored_byte(at + 3u) << 24u);
    }
    return element;
}

// Elements that make up a word.
fn word_of(at: u32) -> u32 {
    var word = elements[at];
    if p.width == 2u {
        word |= elements[at + 1u] << 16u;
    }
    if p.width == 1u {
        word |= (elements[at + 1u] << 8u) | (elements[at + 2u] << 16u) | (elements[at + 3u] << 24u);
    }
    return word;
}

// The lanes that say yes. All lanes ask the same questions in the same order.
fn ballot(question: u32, lane: u32, yes: bool) -> u32 {
    if yes {
        atomicOr(&votes[question], 1u << lane);
    }
    workgroupBarrier();
    let said = atomicLoad(&votes[question]);
    // The one that was asked before is not read any more.
    if lane == 0u {
        atomicStore(&votes[(question + 2u) % 3u], 0u);
    }
    return said;
}

@compute @workgroup_size(32)
fn delta(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    if lane < 3u {
        atomicStore(&votes[lane], 0u);
    }
    workgroupBarrier();
    let segment = id.x;
    let before = (1u << lane) - 1u;
    var state = chunk[2u * p.parts + 32u * segment + lane];
    let place = p.segments_at + 4u * segment;
    var at = chunk[place];
    let end = chunk[place + 1u];
    var escape_at = chunk[place + 2u];
    let escape_end = chunk[place + 3u];
    let first = segment << p.segment_log2;
    let count = min(1u << p.segment_log2, p.elements - first);
    let rows = (count + 31u) / 32u;
    for (var row = 0u; row < rows; row++) {
        let number = first + 32u * row + lane;
        let works = 32u * row + lane < count;
        var b = 0u;
        if works {
            let byte = number * p.width;
            b = (base_at(byte >> 2u) >> (8u * (byte & 3u))) & (p.sign | p.magnitude);
        }
        let magnitude = b & p.magnitude;
        let below = max(i32(p.top) - i32(magnitude >> p.shift), 0);
        let context = min(u32(below), p.contexts - 1u);
        let entry = chunk[p.tables_at + (context << 10u) + (state & 1023u)];
        let beside = (entry >> 21u) & 7u;
        var raw = 0u;
        if works {
            state = (state >> 10u) * (entry & 0x7ffu) + ((entry >> 11u) & 0x3ffu);
            raw = state & ((1u << beside) - 1u);
            state >>= beside;
        }
        let low = works && state < LOWEST;
        let needed = ballot(0u, lane, low);
        if low {
            let word = at + 2u * countOneBits(needed & before);
            state = (state << 16u) | stored_byte(word) | (stored_byte(word + 1u) << 8u);
        }
        at += 2u * countOneBits(needed);
        var high = 0u;
        if p.width == 4u {
            high = p.high[context >> 2u][context & 3u];
            if works {
                raw |= (state & ((1u << high) - 1u)) << beside;
                state >>= high;
            }
        }
        let low_again = p.width == 4u && works && state < LOWEST;
        let needed_again = ballot(1u, lane, low_again);
        if low_again {
            let word = at + 2u * countOneBits(needed_again & before);
            state = (state << 16u) | stored_byte(word) | (stored_byte(word + 1u) << 8u);
        }
        at += 2u * countOneBits(needed_again);
        let escapes = works && (entry >> 24u) == 0x80u;
        let escaped = ballot(2u, lane, escapes);
        var element = 0u;
        if escapes {
            element = stored_element(escape_at + p.width * countOneBits(escaped & before));
        } else {
            let bits = beside + high;
            let quotient = bitcast<u32>(bitcast<i32>(entry) >> 25u);
            let difference = (quotient << bits) + raw - ((1u << bits) >> 1u);
            let flip = select(0u, p.sign, ((entry >> 24u) & 1u) == 1u);
            element = ((magnitude + difference) & p.magnitude) | ((b & p.sign) ^ flip);
        }
        escape_at += p.width * countOneBits(escaped);
        // Lanes that make up a word write it together.
        elements[lane] = select(0u, element, works);
        workgroupBarrier();
        let each = 4u / p.width;
        if lane < 32u / each {
            let index = (first + 32u * row) / each + lane;
            if index < p.words {
                result[result_at(index)] = word_of(lane * each);
            }
        }
        workgroupBarrier();
    }
    var wrong = 0u;
    if at != end {
        wrong |= BAD_WORDS;
    }
    if state != LOWEST {
        wrong |= BAD_STATE;
    }
    if escape_at != escape_end {
        wrong |= BAD_ESCAPES;
    }
    if wrong != 0u {
        atomicOr(&errors, wrong);
    }
}

fn index_of(id: vec3<u32>, count: vec3<u32>, thread: u32) -> u32 {
    return (id.y * count.x + id.x) * 256u + thread;
}

@compute @workgroup_size(256)
fn copy_base(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = index_of(id, count, thread);
    if at < p.words {
        result[result_at(at)] = base_at(at);
    }
}

@compute @workgroup_size(256)
fn patch_words(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let at = index_of(id, count, thread);
    if at < p.parts {
        let word = chunk[3u * at];
        result[result_at(word)] = (base_at(word) & ~chunk[3u * at + 1u]) | chunk[3u * at + 2u];
    }
}
