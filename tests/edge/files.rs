//! Files put together from chunks: every range of every file is the file's own, whatever grid its tensors
//! have and whatever its chunks are stored against; and no byte is hashed twice on the way.

use std::path::Path;
use std::time::{Duration, Instant};

use super::command::Served;
use super::model::Tensor;
use super::run::{done, pack, text};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Rows, bands of columns, several matrices in one tensor, a plain run.
const TENSORS: &[Tensor<'_>] = &[
    ("model.embed_tokens.weight", &[2000, 2048], 1),
    ("model.layers.0.mlp.down_proj.weight", &[4096, 1024], 2),
    ("model.layers.0.mlp.experts.down_proj", &[2, 4096, 512], 3),
    ("model.norm.weight", &[512], 4),
];

/// A copy of a model in which some elements differ a little.
fn nudge(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for name in ["config.json", "tokenizer.bin", "model.safetensors"] {
        let mut bytes = std::fs::read(from.join(name)).expect("a file");
        if name == "model.safetensors" {
            let head = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
            bytes[head..].iter_mut().step_by(64).for_each(|byte| *byte ^= 1);
        }
        std::fs::write(to.join(name), bytes).expect("a file");
    }
}

/// Asks until there is memory for an answer.
fn ask(edge: &Served, target: &str, headers: &str) -> (String, Vec<u8>) {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let (head, body) = edge.ask(target, headers, "");
        if !head.starts_with("http/1.1 503") {
            return (head, body);
        }
        assert!(Instant::now() < end, "{head}");
    }
}

/// Whole files, unless only few bytes are asked for at a time, and ranges.
fn check(edge: &Served, repo: &str, model: &Path, rng: &mut StdRng, longest: usize) {
    for name in ["model.safetensors", "tokenizer.bin"] {
        let right = std::fs::read(model.join(name)).expect("a file");
        let target = format!("GET /{repo}/resolve/main/{name}");
        if longest >= right.len() {
            let (head, body) = ask(edge, &target, "");
            assert!(head.starts_with("http/1.1 200"), "{head}");
            assert!(body == right, "{name} is another file");
        }
        for _ in 0..12 {
            let start = rng.gen_range(0..right.len());
            let len = 1 << rng.gen_range(0..=longest.ilog2());
            let end = (start + rng.gen_range(1..=len)).min(right.len());
            let range = format!("Range: bytes={start}-{}\r\n", end - 1);
            let (head, body) = ask(edge, &target, &range);
            assert!(head.starts_with("http/1.1 206"), "{head}");
            assert!(body == right[start..end], "{name} {start}..{end}");
        }
    }
}

#[test]
fn every_range_of_a_file_is_its_own() {
    let edge = Served::of("file-ranges", TENSORS, &[], &[]);
    let fine = edge.folder.join("fine");
    nudge(&edge.model, &fine);
    let store = edge.folder.join("store");
    pack(&store, &fine, "org/fine", &["--base", "org/m"]);
    let depths = done(&["inspect", "org/fine", "--store", text(&store)]);
    assert!(depths.json.to_string().contains("delta"), "{}", depths.json);
    let disk = edge.folder.join("chunks");
    let tight = edge.beside(&["--answer-memory", "1", "--cache-memory", "8M"]);
    let on_disk = edge.beside(&["--cache-dir", text(&disk), "--cache-memory", "1"]);
    let mut rng = StdRng::seed_from_u64(3);
    for (edge, longest) in [(&edge, 64 << 20), (&tight, 256 << 10), (&on_disk, 64 << 20)] {
        check(edge, "org/m", &edge.model, &mut rng, longest);
        check(edge, "org/fine", &fine, &mut rng, longest);
    }
}

/// From the origin to a client of the Hub or of S3 each byte is hashed once, and from memory never.
#[test]
fn a_byte_is_hashed_once_and_from_memory_never() {
    for (name, codec) in [("hashed-raw", "raw"), ("hashed-float", "auto")] {
        let packed = Served::of(name, TENSORS, &["--codec", codec], &[]);
        let edge = packed.cold(&[]);
        let hashed = || edge.metric("tenpak_edge_hashed_bytes_total");
        assert_eq!(hashed(), 0);
        let right = std::fs::read(packed.model.join("model.safetensors")).expect("a file");
        let targets = ["/org/m/resolve/main/model.safetensors", "/s3/org/m/model.safetensors"];
        let (_, body) = edge.ask(&format!("GET {}", targets[0]), "", "");
        assert!(body == right);
        let cold = hashed();
        assert_eq!(cold, edge.metric("tenpak_edge_origin_bytes_total"));
        assert!(cold <= right.len() as u64, "{cold} bytes hashed for {}", right.len());
        if codec == "raw" {
            assert_eq!(cold, right.len() as u64);
        }
        for target in targets {
            assert!(edge.ask(&format!("GET {target}"), "", "").1 == right, "{target}");
            assert!(
                edge.ask(&format!("GET {target}"), "Range: bytes=5-9999999\r\n", "").1
                    == right[5..10_000_000]
            );
        }
        assert_eq!(hashed(), cold, "bytes in memory are hashed again");
    }
}
