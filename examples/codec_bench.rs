//! Encodes and decodes a file of elements chunk by chunk on one thread, alone or against another file
//! of the same length, and says what took how long.
//!
//! `cargo run --release --example codec_bench -- DTYPE FILE [auto|float|zstd [BASE]]`; pin it to one
//! core.

use std::error::Error;
use std::time::Instant;

use bytes::BytesMut;
use serde_json::json;
use tenpak::chunk::codec::{self, CodecChoice, Encoder};
use tenpak::chunk::verified::VerifiedChunk;
use tenpak::format::dtype::Dtype;
use tenpak::format::id::{DecodedDigest, StoredDigest};
use tenpak::format::record::{Base, ChunkRecord};

const CHUNK: usize = 1 << 20;
const BASE: Base = Base { decoded: DecodedDigest::from_bytes([1; 32]), depth: 1 };
/// The fastest of so many passes counts.
const PASSES: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dtype, file, rest @ ..] = &arguments[..] else {
        return Err("usage: codec_bench DTYPE FILE [CODEC [BASE]]".into());
    };
    let element = Dtype::from_name(dtype).ok_or("no such element type")?;
    let wanted = rest.first().map_or("auto", String::as_str);
    let choice = CodecChoice::ALL.into_iter().find(|(_, name)| *name == wanted);
    let (choice, _) = choice.ok_or("no such codec")?;
    let data = std::fs::read(file)?;
    let base = rest.get(1).map(std::fs::read).transpose()?;
    if base.as_ref().is_some_and(|base| base.len() != data.len()) {
        return Err("the base has another length".into());
    }
    // Each chunk and what it is stored against.
    let base_of = |i: usize| base.as_ref().and_then(|base| base.chunks(CHUNK).nth(i));
    let parts: Vec<_> =
        data.chunks(CHUNK).enumerate().map(|(i, chunk)| (chunk, base_of(i))).collect();
    let mut encoder = Encoder::default();

    let mut encode = f64::INFINITY;
    for _ in 0..PASSES {
        let start = Instant::now();
        for &(chunk, base) in &parts {
            std::hint::black_box(encoder.compress(choice, element, chunk, base));
        }
        encode = encode.min(start.elapsed().as_secs_f64());
    }

    let chunks: Vec<_> = parts
        .iter()
        .map(|&(chunk, base)| {
            let raw = ChunkRecord::raw(element, chunk.len() as u32, blake3::hash(chunk));
            match encoder.compress(choice, element, chunk, base) {
                None => (raw, chunk.to_vec()),
                Some(payload) => {
                    let record = ChunkRecord {
                        codec: payload.codec,
                        parameters: payload.parameters,
                        // Nothing here asks for its name.
                        base: payload.codec.has_base().then_some(BASE),
                        stored_len: payload.stored.len() as u32,
                        stored: StoredDigest::of(&payload.stored),
                        ..raw
                    };
                    (record, payload.stored.to_vec())
                }
            }
        })
        .collect();

    let (mut verify, mut decode) = (f64::INFINITY, f64::INFINITY);
    let mut out = BytesMut::with_capacity(CHUNK);
    for _ in 0..PASSES {
        let (mut verified, mut decoded) = (0.0, 0.0);
        for ((record, stored), &(chunk, base)) in chunks.iter().zip(&parts) {
            let stored = BytesMut::from(&stored[..]);
            let start = Instant::now();
            let known = VerifiedChunk::verify(*record, stored).map_err(|bad| bad.error)?;
            verified += start.elapsed().as_secs_f64();
            out.clear();
            let start = Instant::now();
            codec::decode(&known, base, &mut out)?;
            decoded += start.elapsed().as_secs_f64();
            if out != chunk {
                return Err("it decodes to something else".into());
            }
        }
        (verify, decode) = (verify.min(verified), decode.min(decoded));
    }

    let mut codecs = std::collections::BTreeMap::<_, usize>::new();
    for (record, _) in &chunks {
        *codecs.entry(record.codec.name()).or_default() += 1;
    }
    let stored: usize = chunks.iter().map(|(_, stored)| stored.len()).sum();
    let report = json!({
        "bytes": data.len(), "stored_bytes": stored, "encode_s": encode, "decode_s": decode,
        "verify_s": verify, "seconds": encode + decode, "chunks": codecs,
    });
    println!("{report}");
    Ok(())
}
