#!/usr/bin/env python3
"""A second reader of TenPak stores, written from v1.md and codecs.md alone: the specification,
executable.

It favours plainness over speed. Numbers in brackets are sections of them. Python 3.9 or later
with the packages `blake3` and `zstandard`.
"""
import argparse
import hashlib
import json
import os
import re
import struct
import sys
import tempfile
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request

from blake3 import blake3
import zstandard

MIB = 1 << 20
CHUNK, PACK, PAGE = 4 * MIB, 64 * MIB, 64 * MIB  # [14]
PAGES, RECORDS, DEPTH, RANK, INT = 4096, 1 << 28, 8, 16, 2**53 - 1
JSON_DEPTH, WINDOW = 127, 8 * MIB
LIMITS = {"manifest": MIB, "ref": 64 << 10, "refs-index": 16 * MIB, "refs-root": 64 << 10, "refs-node": 32 << 10, "lease": 4 * MIB,
          "tombstone": 4 << 10, "by-tensor": 4 << 10, "descriptor": 4 << 10}
BITS = {0: 8, 1: 8, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 32, 8: 64, 9: 64, 16: 4, 17: 6, 18: 6,
        19: 8, 20: 8, 21: 8, 22: 8, 23: 8, 24: 16, 25: 16, 26: 32, 27: 64, 28: 64}  # [13]
NAMES = dict(zip(BITS, "- BOOL U8 I8 I16 U16 I32 U32 I64 U64 F4 F6_E2M3 F6_E3M2 F8_E4M3 F8_E5M2 F8_E8M0 "
                 "F8_E4M3FNUZ F8_E5M2FNUZ F16 BF16 F32 F64 C64".split()))
ZERO = bytes(32)


class Failed(Exception):
    status = 1


class Usage(Failed):
    status = 2


class NotFound(Failed):
    status = 3


class Invalid(Failed):
    status = 4


def need(truth, message):
    if not truth:
        raise Invalid(message)


def digest(data):
    return blake3(data).digest()


# ---- canonical JSON [11] -------------------------------------------------------------------

SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def text(s):
    return '"' + "".join(SHORT.get(c) or ("\\u%04x" % ord(c) if c < " " else c) for c in s) + '"'


def canonical(value):
    if isinstance(value, dict):
        keys = sorted(value, key=lambda k: k.encode())
        return "{" + ",".join(text(k) + ":" + canonical(value[k]) for k in keys) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, str):
        return text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        need(-INT <= value <= INT, "canonical JSON: a number is beyond 2^53 - 1")
        return str(value)
    need(value is None or isinstance(value, bool), "canonical JSON: a number is not an integer")
    return json.dumps(value)


def parse_json(data, what):
    """Parses, writes again, and compares: any other spelling than the canonical one is refused."""
    depth, quoted = 0, False
    for token in re.findall(rb'\\.|["{}\[\]]', data, re.S):  # before a recursive parser sees it
        quoted ^= token == b'"'
        if not quoted:
            depth += (token in b"{[") - (token in b"}]")
            need(depth <= JSON_DEPTH, what + ": nested more than %d deep" % JSON_DEPTH)
    try:
        value = json.loads(data.decode("utf-8"))
        same = canonical(value).encode("utf-8") == data
    except (ValueError, RecursionError) as error:
        raise Invalid("%s: not canonical JSON: %s" % (what, error))
    need(same, what + ": not canonical JSON")
    return value


def integer(of, key, what, most=INT):
    need(type(of.get(key)) is int and 0 <= of[key] <= most, "%s: `%s` is no number from 0 to %d" % (what, key, most))
    return of[key]


def hexed(of, key, what, size=32):
    need(isinstance(of.get(key), str) and re.fullmatch("[0-9a-f]{%d}" % (2 * size), of[key]),
         "%s: `%s` is not %d hexadecimal digits" % (what, key, 2 * size))
    return bytes.fromhex(of[key])


def json_object(data, kind, form):
    need(len(data) <= LIMITS[kind], "%s: longer than %d bytes" % (kind, LIMITS[kind]))
    value = parse_json(data, kind)
    need(isinstance(value, dict), kind + ": no object")
    if form:
        need(value.get("format") == form, "%s: `format` is not %s" % (kind, form))
    return value


# ---- Ed25519, RFC 8032, verification only --------------------------------------------------

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def ed_add(a, b):
    x, y = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    t, z = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = y - x, z - t, z + t, y + x
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def ed_mul(n, point):
    total = (0, 1, 1, 0)
    while n:
        if n & 1:
            total = ed_add(total, point)
        point, n = ed_add(point, point), n >> 1
    return total


def ed_point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - x2) % P or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return (x, y, 1, x * y % P)


def ed_same(a, b):
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0


BASE = ed_point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def ed25519(public, signature, message):
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r, s = ed_point(public), ed_point(signature[:32]), int.from_bytes(signature[32:], "little")
    if not a or not r or s >= L or any(ed_same(ed_mul(8, p), (0, 1, 1, 0)) for p in (a, r)):
        return False  # [10] points of small order sign anything
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    return ed_same(ed_mul(s, BASE), ed_add(r, ed_mul(h, a)))


def key_id(public):  # [10]
    return blake3(public, derive_key_context="tenpak/v1/key-id ed25519").digest(16).hex()


def public_key(path):
    try:
        with open(path, encoding="utf-8") as file:
            line = file.read(4096)
    except (OSError, ValueError) as error:
        raise Usage("--trust %s: %s" % (path, error))
    found = re.match(r"tenpak-ed25519-public ([0-9a-f]{64})(\s|$)", line)
    if not found:
        raise Usage("--trust %s: no line `tenpak-ed25519-public <64 hex>`" % path)
    return bytes.fromhex(found[1])


# ---- binary objects ------------------------------------------------------------------------

class Cursor:
    def __init__(self, data, what):
        self.data, self.at, self.what = data, 0, what

    def take(self, size):
        need(size <= len(self.data) - self.at, self.what + ": truncated")
        self.at += size
        return self.data[self.at - size:self.at]

    def unpack(self, form):
        values = struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))
        return values[0] if len(values) == 1 else values

    def zero(self, size):
        need(not any(self.take(size)), self.what + ": reserved bytes are not zero")

    def magic(self, magic):
        need(self.take(4) == magic, "%s: the magic is not %s" % (self.what, magic.decode()))
        version = self.unpack("B")
        need(version == 1, "%s: unknown version %d" % (self.what, version))

    def text(self, size, most, what):
        need(1 <= size <= most, "%s: %s of %d bytes, not 1 to %d" % (self.what, what, size, most))
        try:
            value = self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise Invalid("%s: %s is not UTF-8" % (self.what, what))
        need(not any(unicodedata.category(c) == "Cc" for c in value), "%s: control character in %s" % (self.what, what))
        return value


# ---- codecs, codecs.md ---------------------------------------------------------------------

FORMS = {(1, 0), (2, 0), (2, 5), (2, 8), (4, 0), (4, 8), (8, 0), (8, 11)}
STREAM, LONGEST = 4096, 14


def read_code(c):
    """[12.2] -> for every 14 bits, the first of them lowest: the symbol and the length of its code."""
    first, listed = c.unpack("BB")
    listed += 1
    need(first + listed <= 256, "code: symbols above 255")
    halves = [half for byte in c.take((listed + 1) // 2) for half in (byte & 15, byte >> 4)]
    need(listed % 2 == 0 or halves[-1] == 0, "code: padding is not zero")
    lengths = halves[:listed]
    need(lengths[0] and lengths[-1], "code: the first or the last symbol listed has none")
    need(max(lengths) <= LONGEST, "code: longer than 14 bits")
    need(sum(1 << LONGEST >> n for n in lengths if n) == 1 << LONGEST, "code: not complete")
    table, code = [None] * (1 << LONGEST), 0
    for length in range(1, LONGEST + 1):
        code <<= 1
        for symbol in (s for s in range(listed) if lengths[s] == length):
            start = int(format(code, "0%db" % length)[::-1], 2)
            for at in range(start, 1 << LONGEST, 1 << length):
                table[at] = (first + symbol, length)
            code += 1
    return table


def read_section(c, n):
    """[12.2] -> the n symbols of a coded plane."""
    count = c.unpack("B")
    need(1 <= count <= 8, "section: not 1 to 8 codes")
    codes = [read_code(c) for _ in range(count)]
    heads = [c.unpack("H") for _ in range(-(-n // STREAM))]
    out = bytearray()
    for i, head in enumerate(heads):
        need(head >> 13 < count, "stream: a code that there is not")
        data, table = c.take(head & 0x1fff), codes[head >> 13]
        at, end, bits = 0, 8 * len(data), data + bytes(3)
        for _ in range(min(STREAM, n - i * STREAM)):
            word = int.from_bytes(bits[at >> 3:(at >> 3) + 3], "little") >> (at & 7)
            symbol, length = table[word & (1 << LONGEST) - 1]
            out.append(symbol)
            at += length
            need(at <= end, "stream: shorter than its symbols")
        need(end - at < 8, "stream: longer than its symbols")
        need(at == end or data[-1] >> (at & 7) == 0, "stream: does not end in zero bits")
    return bytes(out)


def read_planes(c, modes, constants, n):
    """[12.1] the planes, the lowest first; nothing may follow them."""
    need(all(mode <= 2 for mode in modes), "parameters: unknown mode of a plane")
    planes = [bytes([byte]) * n for byte in constants]
    for wanted in (1, 0):
        for p in reversed(range(len(modes))):
            if modes[p] == wanted:
                planes[p] = read_section(c, n) if wanted == 1 else c.take(n)
    need(c.at == len(c.data), "planes: bytes that belong to none")
    return planes


def decode_planes(params, stored, length):
    """[12.1]"""
    width, exponent, modes, constants = params[0], params[1], params[2:10], params[10:18]
    need((width, exponent) in FORMS, "parameters: no such form of elements")
    need(not any(modes[width:]) and not any(params[18:]), "parameters: reserved bytes are not zero")
    need(not any(byte for byte, mode in zip(constants, modes) if mode != 2), "parameters: a constant of no constant plane")
    need(length % width == 0, "the decoded length is no whole number of elements")
    n = length // width
    planes = read_planes(Cursor(stored, "planes"), modes[:width], constants[:width], n)
    out = bytearray(length)
    for p, plane in enumerate(planes):
        out[p::width] = plane
    if exponent == 0:
        return bytes(out)
    form, low = {2: "H", 4: "I", 8: "Q"}[width], 8 * width - 1 - exponent
    numbers = struct.unpack("<%d%s" % (n, form), out)
    top, mask = 8 * width - 1, (1 << low) - 1
    return struct.pack("<%d%s" % (n, form), *((x >> low & 1) << top | x >> low + 1 << low | x & mask for x in numbers))


def decode_palette(params, stored, length):
    """[12.3]"""
    width, mode, constant, count = params[0], params[2], params[10], params[18] + 1
    need(width in (2, 4, 8) and params[1] == 0, "parameters: no such form of elements")
    need(not any(params[3:10]) and not any(params[11:18]) and params[19] == 0, "parameters: reserved bytes are not zero")
    need(mode == 2 or constant == 0, "parameters: a constant of no constant plane")
    need(length % width == 0, "the decoded length is no whole number of elements")
    c = Cursor(stored, "palette")
    values = [c.take(width) for _ in range(count)]
    numbers = [int.from_bytes(value, "little") for value in values]
    need(all(a < b for a, b in zip(numbers, numbers[1:])), "palette: does not ascend")
    indexes, = read_planes(c, [mode], [constant], length // width)
    need(max(indexes) < count, "palette: an index beyond it")
    return b"".join(values[i] for i in indexes)


DELTAS = {(1, 0), (1, 4), (1, 5), (2, 0), (2, 5), (2, 8), (4, 0), (4, 8)}


def read_frequencies(c, width, exponent):
    """[12.4.1] -> raw bits; for each of 1024 slots: quotient (None: escape), change of sign, frequency, first slot."""
    raw, plain, flipped = c.unpack("BBB")
    need(raw <= (22 if width == 4 else 6), "table: more raw bits than its elements may have")
    need(plain <= 128 and flipped <= 128 and (exponent or not flipped), "table: symbols that there are not")
    slots = []
    for count, flips in ((plain, 0), (flipped, 1)):
        for i in range(count):
            frequency = c.unpack("B")
            if frequency >= 128:
                high = c.unpack("B")
                need(1 <= high <= 8, "table: a frequency not written in one way")
                frequency += 128 * (high - 1)
            need(frequency or i < count - 1, "table: symbols behind its last")
            number = i - (not flips)
            quotient = None if number < 0 else number // 2 if number % 2 == 0 else -(number // 2) - 1
            slots += [(quotient, flips, frequency, len(slots))] * frequency
    if not plain and not flipped:
        slots = [(None, 0, 1024, 0)] * 1024
    need(len(slots) == 1024, "table: frequencies do not sum to 1024")
    return raw, slots


def decode_delta(params, stored, base, length):
    """[12.4]"""
    width, exponent, contexts, top, log2 = params[:5]
    need((width, exponent) in DELTAS, "parameters: no such form of elements")
    need(1 <= contexts <= (16 if exponent else 1) and top < 1 << exponent, "parameters: no such contexts")
    need(10 <= log2 <= 22 and not any(params[5:]), "parameters: no such segments, or reserved bytes")
    need(length % width == 0, "the decoded length is no whole number of elements")
    n, segment, c = length // width, 1 << log2, Cursor(stored, "delta")
    count = -(-n // segment)
    directory = [c.unpack("II") for _ in range(count)]
    states = [list(c.unpack("32I")) for _ in range(count)]
    words = [struct.unpack("<%dH" % w, c.take(2 * w)) for w, _ in directory]
    escapes = [c.take(width * e) for _, e in directory]
    tables = [read_frequencies(c, width, exponent) for _ in range(contexts)]
    need(c.at == len(stored), "delta: bytes behind its tables")
    bits, out = 8 * width - (exponent > 0), bytearray()
    mask, shift = (1 << bits) - 1, bits - exponent
    for s in range(count):
        x, own, taken, escaped = states[s], words[s], 0, Cursor(escapes[s], "escapes")
        need(min(x) >= 1 << 16, "segment: a state below 2^16")
        for at in range(s * segment, min(n, (s + 1) * segment), 32):
            elements = [int.from_bytes(base[i * width:(i + 1) * width], "little") for i in range(at, min(n, (s + 1) * segment, at + 32))]
            found = []
            for wide in (False, True):
                for lane, b in enumerate(elements):
                    raw, slots = tables[min(max(top - ((b & mask) >> shift), 0), contexts - 1) if exponent else 0]
                    if not wide:
                        symbol = slots[x[lane] % 1024]
                        x[lane] = symbol[2] * (x[lane] // 1024) + x[lane] % 1024 - symbol[3]
                        take, low = min(raw, 6), 0
                    else:
                        take, low = max(raw - 6, 0), 6
                    part = x[lane] % (1 << take) << low
                    x[lane] >>= take
                    if x[lane] < 1 << 16:
                        need(taken < len(own), "segment: fewer words than its elements need")
                        x[lane], taken = x[lane] << 16 | own[taken], taken + 1
                    found[lane:lane + 1] = [(symbol, part)] if not wide else [(found[lane][0], found[lane][1] + part, raw)]
            for b, ((quotient, flips, _, _), r, raw) in zip(elements, found):
                if quotient is None:
                    out += escaped.take(width)
                    continue
                magnitude = (b & mask) + (quotient << raw) + r - ((1 << raw) >> 1) & mask
                out += (magnitude | ((b >> bits ^ flips) << bits)).to_bytes(width, "little")
        need(taken == len(own), "segment: more words than its elements need")
        need(x == [1 << 16] * 32, "segment: a state does not end at 2^16")
        need(escaped.at == len(escapes[s]), "segment: more escapes than escaped elements")
    return bytes(out)


def decode_patch(params, stored, base, length):
    """[12.5]"""
    width = params[0]
    need(width in (1, 2, 4, 8) and not any(params[1:]), "parameters: no such form of elements, or reserved bytes")
    need(length % width == 0, "the decoded length is no whole number of elements")
    n, c, out = length // width, Cursor(stored, "patch"), bytearray(base)
    counts = [c.unpack("H") for _ in range(-(-n // 65536))]
    indexes = [[c.unpack("H") for _ in range(count)] for count in counts]
    for block, own in enumerate(indexes):
        need(all(a < b for a, b in zip(own, own[1:])), "patch: indexes do not ascend")
        for index in own:
            at = block * 65536 + index
            need(at < n, "patch: an index beyond its block")
            out[at * width:(at + 1) * width] = c.take(width)
    need(c.at == len(stored), "patch: bytes behind its patches")
    return bytes(out)


class Record:
    """[3] chunk record."""

    def __init__(self, data, what="record"):
        self.bytes, c = bytes(data), Cursor(data, what)
        self.codec, self.dtype, self.depth, reserved, self.stored, self.decoded = c.unpack("BBBBII")
        self.params, self.id, self.content, self.base = c.take(20), c.take(32), c.take(32), c.take(32)
        need(reserved == 0, what + ": reserved bytes are not zero")
        need(self.dtype in BITS, "%s: unknown element type %d" % (what, self.dtype))
        need(1 <= self.stored <= CHUNK, what + ": stored length is not 1 to 4 MiB")
        need(1 <= self.decoded <= CHUNK, what + ": decoded length is not 1 to 4 MiB")
        need(self.stored <= self.decoded, what + ": stored length above the decoded length")
        need(self.depth <= DEPTH, what + ": depth above %d" % DEPTH)
        need((self.depth == 0) == (self.base == ZERO), what + ": a base if and only if depth is not 0")
        if self.codec in (0, 1):  # [12]
            need(not any(self.params), what + ": parameters of a codec without any")
        if self.codec in (0, 1, 16, 17):
            need(self.depth == 0, what + ": a base for a codec without one")
        if self.codec in (32, 33):
            need(self.depth > 0, what + ": no base for a codec with one")
        if self.codec == 0:
            need(self.stored == self.decoded and self.id == self.content, what + ": raw, but stored and decoded differ")

    def decode(self, stored, base=None):
        """Stored digest, then decoder, then decoded digest. `base` is what the base decodes to."""
        need(len(stored) == self.stored and digest(stored) == self.id, "stored digest differs")
        if self.codec == 0:
            data = stored
        elif self.codec == 1:
            try:
                frame = zstandard.get_frame_parameters(stored)
                need(frame.dict_id == 0 and frame.window_size <= WINDOW, "zstd: dictionary or window above 8 MiB")
                need(frame.content_size == self.decoded, "zstd: content size is not the decoded length")
                decoder = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()
                data = decoder.decompress(stored)
                need(decoder.eof and not decoder.unused_data, "zstd: not exactly one frame")
            except zstandard.ZstdError as error:
                raise Invalid("zstd: %s" % error)
        elif self.codec == 16:
            data = decode_planes(self.params, stored, self.decoded)
        elif self.codec == 17:
            data = decode_palette(self.params, stored, self.decoded)
        elif self.codec in (32, 33):
            need(base is not None, "the base is missing")
            need(len(base) == self.decoded, "the base has another length")
            data = (decode_delta if self.codec == 32 else decode_patch)(self.params, stored, base, self.decoded)
        else:
            raise Failed("unknown codec %d: this chunk cannot be read" % self.codec)
        need(len(data) == self.decoded, "decoded length differs")
        need(digest(data) == self.content, "decoded digest differs")
        return data


def parse_pack_index(index, chunks_length=None):
    """[4]"""
    c = Cursor(index, "pack index")
    c.magic(b"TPIX")
    c.zero(3)
    n, length, _nonce = c.unpack("IIQ")
    c.zero(8)
    need(n >= 1, "pack index: no chunk")
    need(len(index) == 32 + 128 * n, "pack index: length is not 32 + 128 n")
    need(length + len(index) + 16 <= PACK, "pack index: the pack would be longer than 64 MiB")
    records = [Record(c.take(128), "pack index") for _ in range(n)]
    need(sum(r.stored for r in records) == length, "pack index: chunks length is not the sum of stored lengths")
    need(chunks_length in (None, length), "pack: chunks part is not as long as the index says")
    return records


def parse_trailer(data):
    """[4] -> the length of the index."""
    need(len(data) == 16, "pack trailer: not 16 bytes")
    c = Cursor(data, "pack trailer")
    length = c.unpack("I")
    c.zero(4)
    need(c.take(8) == b"TENPAK01", "pack trailer: the magic is not TENPAK01")
    need(length <= PACK, "pack trailer: index longer than 64 MiB")
    return length


def parse_pack(data, name=None):
    """[4] a whole pack, every chunk of it compared with its stored digest."""
    need(len(data) <= PACK, "pack: longer than 64 MiB")
    length = parse_trailer(data[-16:])
    need(length <= len(data) - 16, "pack trailer: index longer than the pack")
    start = len(data) - 16 - length
    index = data[start:-16]
    need(name in (None, digest(index).hex()), "pack: the index's digest is not the pack's name")
    places, at = {}, 0
    for record in parse_pack_index(index, start):
        need(digest(data[at:at + record.stored]) == record.id, "pack: stored digest of the chunk at %d differs" % at)
        places[at] = record
        at += record.stored
    return places


class Tensor:
    """[5.2], [5.3]"""

    def __init__(self, c):
        self.ordinal, self.file, size, self.dtype, rank = c.unpack("IIHBB")
        need(rank <= RANK, c.what + ": rank above 16")
        self.name = self.key = c.text(size, 1024, "name")
        self.shape = [c.unpack("Q") for _ in range(rank)]
        self.digest, self.grid, self.count = c.take(32), c.unpack("QQQQQ"), c.unpack("I")
        self.what = "tensor " + self.name
        elements = 1
        for n in self.shape:
            elements *= n
        leading, rows, row, block, band = self.grid
        need(self.dtype in BITS and self.dtype != 0, "%s: unknown element type %d" % (self.what, self.dtype))
        bits = BITS[self.dtype]
        self.length = -(-elements * bits // 8)
        need(self.length <= INT, self.what + ": longer than 2^53 - 1 bytes")
        need(leading * rows * row == self.length, self.what + ": the grid does not cover the tensor")
        if self.length == 0:
            need(self.grid == (0,) * 5 and self.count == 0, self.what + ": zero bytes, but a grid or chunks")
            return
        need(min(self.grid) >= 1 and block <= rows and band <= row, self.what + ": grid out of bounds")
        need(block * band <= CHUNK, self.what + ": block above 4 MiB")
        if bits % 8:
            need(leading == rows == 1, self.what + ": elements of no whole bytes in more than one row")
        unit = bits // 8 if bits % 8 == 0 else 1
        need(row % unit == 0 and band % unit == 0, self.what + ": the grid cuts elements")
        need(self.count == leading * -(-row // band) * -(-rows // block), self.what + ": wrong number of records")

    def rectangles(self):
        """(offset of the first row, rows, bytes of each) in chunk order."""
        leading, rows, row, block, band = self.grid
        for matrix in range(leading):
            for left in range(0, row, band or 1):
                for top in range(0, rows, block or 1):
                    yield (matrix * rows + top) * row + left, min(block, rows - top), min(band, row - left)

    def claim(self, records):
        self.records = records
        for record, (_, rows, width) in zip(records, self.rectangles()):
            need(record.decoded == rows * width, self.what + ": a record's length is not that of its rectangle")


class File:
    """[5.4]"""

    def __init__(self, c):
        size, flags, reserved = c.unpack("HBB")
        need(flags < 4 and reserved == 0, c.what + ": reserved bytes are not zero")
        self.path = self.key = c.text(size, 4096, "path")
        self.what = "file " + self.path
        need("\\" not in self.path and not set(self.path.split("/")) & {"", ".", ".."}, self.what + ": forbidden path")
        self.size, self.sha256, self.sha1 = c.unpack("Q"), c.take(32), c.take(20)
        self.executable, self.has_sha1 = flags & 1, flags & 2
        need(self.has_sha1 or not any(self.sha1), self.what + ": a SHA-1 without its flag")
        need(self.size <= INT, self.what + ": longer than 2^53 - 1 bytes")
        self.extents, self.count = [], 0
        for _ in range(c.unpack("I")):
            kind = c.unpack("B")
            need(kind in (1, 2), self.what + ": unknown extent kind %d" % kind)
            if kind == 2:
                self.extents.append(c.unpack("I"))
                continue
            length, whole, count = c.unpack("Q32sI")
            need(1 <= length <= INT and count >= 1, self.what + ": empty content extent")
            self.extents.append((length, whole, self.count, count))
            self.count += count
        content = [extent[0] for extent in self.extents if isinstance(extent, tuple)]
        need(sum(content) == self.size or sum(content) < self.size and len(content) < len(self.extents),
             self.what + ": extents do not sum to its size")

    def claim(self, records):
        self.records = records
        for extent in self.extents:
            if isinstance(extent, tuple):
                length, _, first, count = extent
                need(sum(r.decoded for r in records[first:first + count]) == length,
                     self.what + ": a content extent's chunks are not its length")


def parse_page(data):
    """[5.1] -> kind, entries with their records, all records."""
    need(len(data) <= PAGE, "page: longer than 64 MiB")
    c = Cursor(data, "page")
    c.magic(b"TPPG")
    kind, reserved, n, length, count = c.unpack("BHIII")
    need(kind in (1, 2), "page: unknown kind %d" % kind)
    need(reserved == 0, "page: reserved bytes are not zero")
    c.zero(12)
    need(n >= 1, "page: no entry")
    need(len(data) == 32 + length + 128 * count, "page: length is not what its fields say")
    c.data = data[:32 + length]
    entries = [(Tensor if kind == 1 else File)(c) for _ in range(n)]
    need(c.at == 32 + length, "page: entries are shorter than said")
    c.data = data
    records = [Record(c.take(128), "page record") for _ in range(count)]
    need(sum(e.count for e in entries) <= count, "page: entries claim more records than there are")
    at = 0
    for entry in entries:
        entry.claim(records[at:at + entry.count])
        at += entry.count
    check_order(entries)
    bases = {r.content: r for r in records[at:]}
    need(len(bases) == len(records) - at, "page: a base twice")
    for record in records:
        if record.depth:
            base = bases.get(record.base)
            need(base and base.depth == record.depth - 1, "page: a base is missing, or of another depth")
            need(base.decoded == record.decoded, "page: a base of another length")
    need(set(bases) == {r.base for r in records if r.depth}, "page: a record that no entry claims and no record names")
    return kind, entries, records


def check_order(entries):
    keys = [(e.key.encode(), getattr(e, "file", 0)) for e in entries]
    need(all(a < b for a, b in zip(keys, keys[1:])), "page: entries are not sorted, or one is there twice")


def parse_layout(data, manifest=None, n=None):
    """[7] -> (pack, offset) for every record."""
    c = Cursor(data, "layout")
    c.magic(b"TPLY")
    c.zero(3)
    count, whose = c.unpack("Q32s")
    c.zero(16)
    need(count <= RECORDS and len(data) == 64 + 40 * count, "layout: length is not 64 + 40 n")
    need(n in (None, count), "layout: %s records, the table has %s" % (count, n))
    need(manifest in (None, whose), "layout: of another manifest")
    places = [c.unpack("32sII") for _ in range(count)]
    need(not any(reserved for _, _, reserved in places), "layout: reserved bytes are not zero")
    need(all(offset <= PACK for _, offset, _ in places), "layout: offset beyond a pack")
    return [(pack.hex(), offset) for pack, offset, _ in places]


# ---- JSON objects --------------------------------------------------------------------------

def parse_manifest(data):
    """[6]"""
    m = json_object(data, "manifest", "tenpak-manifest")
    version = m.get("version")
    need(isinstance(version, str) and version.startswith("1."), "manifest: unknown version %s" % version)
    tables = m.get("chunks")
    need(isinstance(tables, list) and len(tables) == 1 and isinstance(tables[0], dict), "manifest: `chunks` is not one table")
    table = tables[0]
    hexed(table, "table", "manifest table")
    pages = table.get("pages")
    need(isinstance(pages, list) and len(pages) <= PAGES, "manifest table: more than %d pages" % PAGES)
    before = ("tensors", b"")
    for page in pages:
        need(isinstance(page, dict), "manifest page: no object")
        hexed(page, "blake3", "manifest page")
        need(1 <= integer(page, "length", "manifest page", PAGE), "manifest page: empty")
        integer(page, "chunks", "manifest page", RECORDS)
        kind, first = page.get("kind"), page.get("first")
        need(kind in ("tensors", "files"), "manifest page: `kind` is not tensors or files")
        need(isinstance(first, str) and first, "manifest page: `first` is no key")
        here = (kind, first.encode())
        rank = ("tensors", "files").index
        need((rank(before[0]), before[1]) <= (rank(kind), here[1]), "manifest: pages are not in order")
        before = here
    need(integer(table, "length", "manifest table") == sum(p["length"] for p in pages), "manifest table: `length` is not the pages' sum")
    totals = m.get("totals")
    need(isinstance(totals, dict), "manifest: no `totals`")
    for key in ("files", "tensors", "records", "chunks", "raw_bytes", "stored_bytes"):
        integer(totals, key, "manifest totals", RECORDS if key == "records" else INT)
    need(sum(p["chunks"] for p in pages) == totals["records"], "manifest: `records` is not the pages' sum")
    need(isinstance(m.get("model_id", ""), str), "manifest: `model_id` is no string")
    for key in ("quantization", "delta", "optimization", "source"):
        need(isinstance(m.get(key, {}), dict), "manifest: `%s` is no object" % key)
    faults = m.get("incomplete", [])
    need(isinstance(faults, list), "manifest: `incomplete` is no array")
    for fault in faults:
        need(isinstance(fault, dict) and all(isinstance(fault.get(k), str) for k in ("fault", "path")),
             "manifest: a fault of `incomplete` has no `fault` or no `path`")
    return m


NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_key(of, what):
    name, tag = of.get("name"), of.get("tag")
    need(isinstance(name, str) and NAME.fullmatch(name), what + ": `name` is no name")
    need(name.partition("/")[0].lower() != "index", what + ": a `name` that begins with `index`")
    need(isinstance(tag, str) and TAG.fullmatch(tag) and tag != "main", what + ": `tag` is no tag")


def check_name(of, what):
    check_key(of, what)
    hexed(of, "manifest", what)
    integer(of, "version", what)


def parse_envelope(data, kind, form):
    """[8] {"signatures": [...], "signed": {...}} -> signed, [(key id, signature)]"""
    whole = json_object(data, kind, None)
    signed, signatures = whole.get("signed"), whole.get("signatures")
    need(isinstance(signed, dict) and signed.get("format") == form, "%s: `format` is not %s" % (kind, form))
    integer(signed, "expires", kind)
    need(isinstance(signatures, list) and len(signatures) <= 16, kind + ": more than 16 signatures")
    for one in signatures:
        need(isinstance(one, dict) and one.get("method") == "ed25519", kind + ": a signature of another method")
        hexed(one, "key", kind, 16)
        hexed(one, "signature", kind, 64)
    keys = [one["key"] for one in signatures]
    need(all(a < b for a, b in zip(keys, keys[1:])), kind + ": signatures are not sorted by key")
    return signed, [(one["key"], bytes.fromhex(one["signature"])) for one in signatures]


def trusted(keys, signatures, domain, signed):
    message = domain + canonical(signed).encode()
    return any(key in keys and ed25519(keys[key], signature, message) for key, signature in signatures)


def parse_ref(data):
    """[8.1]"""
    signed, signatures = parse_envelope(data, "ref", "tenpak-ref")
    check_name(signed, "ref")
    return signed, signatures


def parse_refs_index(data):
    """[8.2]"""
    signed, signatures = parse_envelope(data, "refs-index", "tenpak-refs-index")
    integer(signed, "version", "refs-index")
    refs = signed.get("refs")
    need(isinstance(refs, list), "refs-index: no `refs`")
    for ref in refs:
        need(isinstance(ref, dict), "refs-index: an entry is no object")
        check_name(ref, "refs-index")
    keys = [(r["name"], r["tag"]) for r in refs]
    need(all(a < b for a, b in zip(keys, keys[1:])), "refs-index: not sorted by name and tag")
    return signed, signatures


def parse_refs_root(data):
    """[8.2]"""
    signed, signatures = parse_envelope(data, "refs-root", "tenpak-refs-root")
    integer(signed, "version", "refs-root")
    hexed(signed, "node", "refs-root")
    need(sorted(signed) == ["expires", "format", "node", "version"], "refs-root: a field that nobody knows")
    return signed, signatures


def parse_refs_node(data):
    """[8.3] -> height, [(key, item), ...]"""
    node = json_object(data, "refs-node", "tenpak-refs-node")
    height = integer(node, "height", "refs-node", 15)
    kind, own = ("nodes", "node") if height else ("refs", "manifest")
    need(sorted(node) == sorted(["format", "height", kind]), "refs-node: of height %d without `%s` alone" % (height, kind))
    items = node[kind]
    need(isinstance(items, list) and len(items) <= 64, "refs-node: more than 64 items")
    need(items or not height, "refs-node: no node")
    for item in items:
        need(isinstance(item, dict), "refs-node: an item is no object")
        hexed(item, own, "refs-node")
        check_key(item, "refs-node")
        if not height:
            integer(item, "version", "refs-node")
        fields = ["name", own, "tag"] + ([] if height else ["version"])
        need(sorted(item) == sorted(fields), "refs-node: an item with other fields")
    keys = [(item["name"], item["tag"]) for item in items]
    need(all(a < b for a, b in zip(keys, keys[1:])), "refs-node: not sorted by name and tag")
    return height, list(zip(keys, items))


def rank(key):
    """[8.3]"""
    bits = "".join(format(byte, "08b") for byte in digest("\0".join(key).encode()))
    return min(12, (len(bits) - len(bits.lstrip("0"))) // 3)


class Index:
    """[8.2], [8.3] all refs, whichever the form; `signed` and `signatures` are those of `refs/index`."""

    def __init__(self, store):
        self.store, data = store, store.read("refs/index", LIMITS["refs-index"])
        form = json_object(data, "refs-index", None).get("signed")
        self.whole = not isinstance(form, dict) or form.get("format") != "tenpak-refs-root"
        parse = parse_refs_index if self.whole else parse_refs_root
        self.signed, self.signatures = parse(data)
        self.domain = b"tenpak/v1/refs-index\0" if self.whole else b"tenpak/v1/refs-root\0"

    def node(self, name, height, first, end):
        """A node, which must be of that height, begin with `first` and stay below `end`."""
        data = self.store.part_of_artifact("names/" + name, LIMITS["refs-node"])
        need(digest(data).hex() == name, "refs-node %s: digest differs" % name)
        found, items = parse_refs_node(data)
        if height is not None:
            need(found == height, "refs-node %s: its height is %d, not %d" % (name, found, height))
            need(items and items[0][0] == first, "refs-node %s: does not begin where its parent says" % name)
        need(end is None or not items or items[-1][0] < end, "refs-node %s: goes beyond the next node" % name)
        return found, items

    def find(self, key):
        """-> the entry of a ref, or None"""
        if self.whole:
            items = [((one["name"], one["tag"]), one) for one in self.signed["refs"]]
            return dict(items).get(key)
        name, height, first, end = self.signed["node"], None, None, None
        while True:
            height, items = self.node(name, height, first, end)
            if not height:
                return dict(items).get(key)
            at = max([i for i, (own, _) in enumerate(items) if own <= key], default=0)
            name, first, height = items[at][1]["node"], items[at][0], height - 1
            end = items[at + 1][0] if at + 1 < len(items) else end

    def check(self):
        """Every node, and that the tree is cut as its entries say. -> the number of entries"""
        if self.whole:
            return len(self.signed["refs"])
        levels, tops = {}, [(self.signed["node"], None, None, None)]
        while tops:
            below = []
            for place in tops:
                height, items = self.node(*place)
                levels.setdefault(height, []).append([key for key, _ in items])
                ends = [key for key, _ in items[1:]] + [place[3]]
                if height:
                    below += [(item["node"], height - 1, key, end) for (key, item), end in zip(items, ends)]
            tops = below
        keys = [key for node in levels[0] for key in node]
        for height in range(len(levels)):
            nodes = []
            for key in keys:
                if not nodes or len(nodes[-1]) == 64 or rank(key) > height:
                    nodes.append([])
                nodes[-1].append(key)
            need((nodes or [[]]) == levels[height], "refs-node: height %d is cut elsewhere" % height)
            need((len(nodes) < 2) == (height == len(levels) - 1), "refs-node: the top is of another height")
            keys = [node[0] for node in nodes]
        return sum(map(len, levels[0]))


def parse_descriptor(data):
    """[2.1]"""
    d = json_object(data, "descriptor", "tenpak-store")
    need(type(d.get("version")) is int and d["version"] == 1, "descriptor: unknown version %s" % d.get("version"))
    hexed(d, "store_id", "descriptor", 16)


def parse_by_tensor(data):
    hexed(json_object(data, "by-tensor", "tenpak-by-tensor"), "manifest", "by-tensor")


def parse_lease(data):
    """[9]"""
    lease = json_object(data, "lease", "tenpak-lease")
    integer(lease, "expires", "lease")
    integer(lease, "started", "lease")
    objects = lease.get("objects")
    need(isinstance(objects, list) and all(isinstance(o, str) for o in objects), "lease: `objects` are no paths")


def parse_tombstone(data):
    integer(json_object(data, "tombstone", "tenpak-tombstone"), "marked", "tombstone")


# ---- store and artifact --------------------------------------------------------------------

class Store:
    """A directory or a URL; objects by path, whole or a range of one."""

    def __init__(self, where):
        self.web = where.startswith(("http://", "https://"))
        self.where = where.rstrip("/") if self.web else os.path.abspath(where)
        try:
            parse_descriptor(self.read("tenpak.json", LIMITS["descriptor"]))
        except NotFound:
            raise NotFound("no store at %s: no tenpak.json" % where)

    def read(self, path, most, start=None, length=None):
        """At most `most` + 1 bytes are taken: enough to see that a limit is broken."""
        try:
            if not self.web:
                with open(os.path.join(self.where, path), "rb") as file:
                    file.seek(start or 0)
                    return file.read(most + 1 if length is None else length)
            request = urllib.request.Request(self.where + "/" + urllib.parse.quote(path, safe="/@"))
            if length is not None:
                request.add_header("Range", "bytes=%d-%d" % (start, start + length - 1))
            with urllib.request.urlopen(request, timeout=30) as answer:
                if length is not None and answer.status != 206:  # a host without Range sends it all
                    return answer.read(start + length)[start:]
                return answer.read(most + 1 if length is None else length)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound("not found: " + path)
        except urllib.error.HTTPError as error:
            raise NotFound("not found: " + path) if error.code in (404, 410) else Failed("%s: %s" % (path, error))
        except OSError as error:
            raise Failed("%s: %s" % (path, error))

    def part_of_artifact(self, *args):
        try:
            return self.read(*args)
        except NotFound as error:  # a manifest commits to it
            raise Invalid(str(error))


class Artifact:
    def __init__(self, store, what, trust, now, seen):
        self.store, self.ref = store, None
        keys = {key_id(public): public for public in map(public_key, trust)}
        if what.startswith("@"):
            if not re.fullmatch("@[0-9a-f]{64}", what):
                raise Usage("%s: `@` wants all 64 digits of a manifest id" % what)
            self.id = what[1:]
        else:
            self.id = self.resolve(what, keys, now, seen)
        data = store.read("manifests/" + self.id, MIB)
        need(digest(data).hex() == self.id, "manifest %s: digest differs" % self.id)
        if keys and not any(self.signed_by(key, public) for key, public in keys.items()):
            raise Invalid("manifest %s: signed by no trusted key" % self.id)
        self.manifest = parse_manifest(data)
        self.read_table()

    def resolve(self, what, keys, now, seen):
        name, _, tag = what.partition(":")
        tag = "latest" if tag in ("", "main") else tag
        if not NAME.fullmatch(name) or not TAG.fullmatch(tag):
            raise Usage("%s: neither name[:tag] nor @id" % what)
        ref, signatures = parse_ref(self.store.read("refs/%s/@%s" % (name, tag), LIMITS["ref"]))
        need((ref["name"], ref["tag"]) == (name, tag), "ref %s: made for %s:%s" % (what, ref["name"], ref["tag"]))
        if keys:
            need(trusted(keys, signatures, b"tenpak/v1/ref\0", ref), "ref %s: signed by no trusted key" % what)
            need(ref["expires"] > now, "ref %s: expired" % what)
            need(seen is None or ref["version"] >= seen, "ref %s: version %d, but %s was seen" % (what, ref["version"], seen))
            try:
                index = Index(self.store)
            except NotFound:
                index = None
            if index and trusted(keys, index.signatures, index.domain, index.signed) and index.signed["expires"] > now:
                one = index.find((name, tag))
                need(one is None or ref["version"] >= one["version"], "ref %s: older than the index says" % what)
        self.ref = ref
        return ref["manifest"]

    def signed_by(self, key, public):
        try:
            signature = self.store.read("signatures/%s/%s.ed25519" % (self.id, key), 64 << 10)
        except NotFound:
            return False
        return ed25519(public, signature, b"tenpak/v1/manifest\0" + bytes.fromhex(self.id))

    def read_table(self):
        table, self.tensors, self.files, self.records, at = self.manifest["chunks"][0], [], [], [], 0
        self.bases = {}  # the place of each record's base
        whole = self.store.part_of_artifact("tables/" + table["table"], table["length"])
        need(len(whole) == table["length"], "table: its length is not what the manifest says")
        need(digest(whole).hex() == table["table"], "table: its digest is not its identifier")
        for number, page in enumerate(table["pages"]):
            data = whole[at:at + page["length"]]
            need(digest(data).hex() == page["blake3"], "table %s: digest of page %d differs" % (table["table"], number))
            at += page["length"]
            kind, entries, records = parse_page(data)
            need((kind == 1) == (page["kind"] == "tensors"), "page %d: not of the kind that the manifest says" % number)
            need(entries[0].key == page["first"], "page %d: not the first key that the manifest says" % number)
            need(len(records) == page["chunks"], "page %d: not the records that the manifest says" % number)
            for entry in entries:
                entry.places = range(len(self.records), len(self.records) + entry.count)
                self.records += entry.records
            first, own = len(self.records) - sum(e.count for e in entries), sum(e.count for e in entries)
            self.records += records[own:]
            places = {r.content: first + i for i, r in enumerate(records) if i >= own}
            self.bases.update({first + i: places[r.base] for i, r in enumerate(records) if r.depth})
            (self.tensors if kind == 1 else self.files).extend(entries)
        check_order(self.tensors)
        check_order(self.files)
        self.check_files()
        self.places = None

    def check_files(self):
        """[5.4] folders, ordinals and sizes; [6] totals."""
        paths = {f.path for f in self.files}
        for f in self.files:
            folder = f.path
            while "/" in folder:
                folder = folder.rpartition("/")[0]
                need(folder not in paths, "file %s: is a folder of another" % folder)
        need(sorted(t.ordinal for t in self.tensors) == list(range(len(self.tensors))), "ordinals are not 0 to T - 1, each once")
        self.by_ordinal = sorted(self.tensors, key=lambda t: t.ordinal)
        following = 0
        for place, f in enumerate(self.files):
            size = 0
            for extent in f.extents:
                if isinstance(extent, tuple):
                    size += extent[0]
                    continue
                need(extent == following < len(self.tensors), f.what + ": ordinals do not rise by one")
                need(self.by_ordinal[extent].file == place, self.by_ordinal[extent].what + ": in another file than it names")
                size, following = size + self.by_ordinal[extent].length, following + 1
            need(size == f.size, f.what + ": extents do not sum to its size")
        need(following == len(self.tensors), "a tensor is in no file")
        distinct = {r.id: r.stored for r in self.records}
        said = self.manifest["totals"]
        found = {"files": len(self.files), "tensors": len(self.tensors), "records": len(self.records), "chunks": len(distinct),
                 "raw_bytes": sum(f.size for f in self.files), "stored_bytes": sum(distinct.values())}
        for key, value in found.items():
            need(said[key] == value, "manifest totals: `%s` is %d, found %d" % (key, said[key], value))

    def place(self, index):
        if self.places is None:
            n = len(self.records)
            data = self.store.part_of_artifact("layouts/" + self.id, 64 + 40 * n)
            self.places = parse_layout(data, bytes.fromhex(self.id), n)
        return self.places[index]

    def chunk(self, index, what):
        pack, offset = self.place(index)
        record = self.records[index]
        base = self.chunk(self.bases[index], what) if index in self.bases else None  # at most 8 of them
        try:
            return record.decode(self.store.part_of_artifact("packs/" + pack, PACK, offset, record.stored), base)
        except Failed as error:
            raise type(error)("%s: chunk %s (pack %s, offset %d): %s" % (what, record.id.hex(), pack, offset, error))

    def tensor(self, t):
        out, row = bytearray(t.length), t.grid[2]
        for index, (start, rows, width) in zip(t.places, t.rectangles()):
            data = self.chunk(index, t.what)
            for r in range(rows):
                out[start + r * row:start + r * row + width] = data[r * width:(r + 1) * width]
        need(digest(out) == t.digest, t.what + ": digest of its bytes differs")
        return out

    def file(self, f, out):
        """Writes verified extents into `out`, then compares the file's own digests."""
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % f.size)
        for extent in f.extents:
            whole = blake3()
            if isinstance(extent, tuple):
                _, expected, first, count = extent
                parts = (self.chunk(f.places[i], f.what) for i in range(first, first + count))
            else:
                expected, parts = None, [self.tensor(self.by_ordinal[extent])]
            for data in parts:
                for hasher in (whole, sha256, sha1):
                    hasher.update(data)
                out.write(data)
            need(expected in (None, whole.digest()), f.what + ": digest of a content extent differs")
        need(f.sha256 in (ZERO, sha256.digest()), f.what + ": SHA-256 differs")
        need(not f.has_sha1 or sha1.digest() == f.sha1, f.what + ": git-blob SHA-1 differs")

    def verify(self):
        """Everything, to the end; -> what is damaged."""
        problems = []

        def attempt(act, *args):
            try:
                act(*args)
            except Failed as error:
                problems.append(error)

        for f in self.files:
            attempt(self.file, f, open(os.devnull, "wb"))
        used = set()
        for t in self.tensors:
            used.update(t.places)
        for f in self.files:
            used.update(f.places)
        for index in set(range(len(self.records))) - used:  # bases
            attempt(self.chunk, index, "base")
        attempt(self.packs)
        return problems

    def packs(self):
        """[4] the packs that hold the artifact, whole."""
        packs = {}
        for index in range(len(self.records)):
            packs.setdefault(self.place(index)[0], []).append(index)
        for pack, indexes in sorted(packs.items()):
            try:
                places = parse_pack(self.store.part_of_artifact("packs/" + pack, PACK), pack)
                for index in indexes:
                    found = places.get(self.places[index][1])
                    need(found and found.id == self.records[index].id, "the layout's offset is no such chunk")
            except Invalid as error:
                raise Invalid("pack %s: %s" % (pack, error))

    def unpack(self, out):
        """Into a new or empty folder, so that no link in it leads elsewhere; each file is complete or absent."""
        os.makedirs(out, exist_ok=True)
        if os.listdir(out):
            raise Failed("%s: is not empty" % out)
        for f in self.files:
            path = os.path.join(out, *f.path.split("/"))  # safe by the rules of [5.4]
            os.makedirs(os.path.dirname(path), exist_ok=True)
            handle, part = tempfile.mkstemp(dir=os.path.dirname(path))
            try:
                with os.fdopen(handle, "wb") as file:
                    self.file(f, file)
                mask = os.umask(0)
                os.umask(mask)
                os.chmod(part, (0o777 if f.executable else 0o666) & ~mask)
                os.rename(part, path)
            except BaseException:
                os.unlink(part)
                raise


# ---- command line --------------------------------------------------------------------------

def check_chunk(data):
    """[3], [12] a record, then, if it has a base, the length of what that decodes to (0: not at hand) and
    that; then the stored bytes."""
    record, c, base = Record(data[:128]), Cursor(data[128:], "chunk"), None
    if record.depth:
        base = c.take(c.unpack("I")) or None
    record.decode(c.data[c.at:], base)


class Graph(Artifact):
    """[5], [6] a manifest's length, the manifest and its table."""

    def __init__(self, data):
        size = Cursor(data, "graph").unpack("I")
        self.manifest, self.store, self.table = parse_manifest(data[4:4 + size]), self, data[4 + size:]
        self.read_table()

    def part_of_artifact(self, path, most):
        return self.table[:most + 1]


def check_page(data, kind):
    need(parse_page(data)[0] == kind, "page: its kind is not the one announced")


CHECKS = {"graph": Graph, "json": lambda data: parse_json(data, "json"), "record": Record, "chunk": check_chunk, "tensor-page": lambda data: check_page(data, 1),
          "file-page": lambda data: check_page(data, 2), "pack-trailer": parse_trailer,
          "pack": parse_pack, "pack-index": parse_pack_index, "layout": parse_layout, "manifest": parse_manifest,
          "ref": parse_ref, "refs-index": parse_refs_index, "refs-root": parse_refs_root,
          "refs-node": parse_refs_node, "descriptor": parse_descriptor,
          "by-tensor": parse_by_tensor, "lease": parse_lease, "tombstone": parse_tombstone}


def check(kind, path):
    with open(path, "rb") as file:
        data = file.read()
    status, words = 0, "fine"
    try:
        CHECKS[kind](data)
    except Failed as error:
        status, words = error.status, error
    print("%d %s: %s" % (status, path, words))
    return status


def report(as_json, value, words):
    print(json.dumps(value, sort_keys=True) if as_json else words)


def inspect(artifact):
    totals = artifact.manifest["totals"]
    lines = ["manifest %s" % artifact.id] + ["%12s %d" % (key, totals[key]) for key in sorted(totals)]
    lines += ["file   %s %d bytes" % (f.path, f.size) for f in artifact.files]
    lines += ["tensor %s %s %s %d chunks" % (t.name, NAMES.get(t.dtype, t.dtype), t.shape, t.count) for t in artifact.by_ordinal]
    return "\n".join(lines)


def arguments():
    parser = argparse.ArgumentParser(description="Reads TenPak stores; see v1.md.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("verify", "unpack", "inspect"):
        one = commands.add_parser(name)
        one.add_argument("store", help="directory or http(s) URL")
        one.add_argument("artifact", help="name[:tag] or @id")
        one.add_argument("--trust", action="append", default=[], metavar="PUB", help="key file; repeatable")
        one.add_argument("--now", type=int, default=int(time.time()), help="Unix seconds for expiry")
        one.add_argument("--seen", type=int, help="version of this ref seen before")
        one.add_argument("--json", action="store_true")
        if name == "unpack":
            one.add_argument("out")
    one = commands.add_parser("names", help="check the index of refs, node by node")
    one.add_argument("store", help="directory or http(s) URL")
    one = commands.add_parser("check", help="parse single objects")
    one.add_argument("kind", choices=sorted(CHECKS))
    one.add_argument("files", nargs="+")
    return parser.parse_args()


def main():
    args = arguments()
    try:
        if args.command == "check":
            return max(check(args.kind, path) for path in args.files)
        if args.command == "names":
            print("%d refs" % Index(Store(args.store)).check())
            return 0
        artifact = Artifact(Store(args.store), args.artifact, args.trust, args.now, args.seen)
        done = {"manifest": artifact.id, "files": len(artifact.files), "tensors": len(artifact.tensors)}
        if args.command == "inspect":
            report(args.json, dict(done, totals=artifact.manifest["totals"]), inspect(artifact))
        elif args.command == "unpack":
            artifact.unpack(args.out)
            report(args.json, done, "%d files" % len(artifact.files))
        else:
            problems = artifact.verify()
            for problem in problems:
                print("damaged: %s" % problem, file=sys.stderr)
            report(args.json, dict(done, damaged=len(problems)), "%d problems" % len(problems))
            return max([p.status for p in problems], default=0)
    except Failed as error:
        print("reader: %s" % error, file=sys.stderr)
        return error.status
    except OSError as error:
        print("reader: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
