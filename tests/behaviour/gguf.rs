//! GGUF files are packed tensor by tensor: those that GGUF's own library writes.

use std::path::Path;

use serde_json::Value;

use super::run::{done, fresh_folder, pack, python_command, reader_agrees, text};

/// Writes a file, and says what each tensor is: its type, its shape, the digest of its bytes.
const WRITE: &str = r#"
import sys, json, blake3, gguf, numpy as np
rng = np.random.default_rng(1)
writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_block_count(1)
writer.add_array("tokenizer.ggml.tokens", ["<s>", "a", "é"])
kinds = gguf.GGMLQuantizationType
for name, kind in [("token_embd.weight", None), ("blk.0.attn_q.weight", kinds.Q4_0), ("blk.0.ffn_up.weight", kinds.Q8_0),
                   ("output_norm.weight", None)]:
    values = rng.standard_normal((40, 256) if "norm" not in name else 5).astype(np.float32)
    if kind is None:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
reader = gguf.GGUFReader(sys.argv[1])
print(json.dumps({t.name: blake3.blake3(t.data.tobytes()).hexdigest() for t in reader.tensors}))
"#;

#[test]
fn tensors_of_gguf_files_are_tensors() {
    let folder = fresh_folder("gguf");
    let (model, store) = (folder.join("model"), folder.join("store"));
    std::fs::create_dir_all(&model).unwrap();
    let path = model.join("model.gguf");
    let output = python_command().args(["-c", WRITE, text(&path)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(expected.as_object().unwrap().len(), 4);
    // One that only claims to be GGUF is plain bytes.
    std::fs::write(model.join("other.gguf"), b"GGUF no more").unwrap();
    let run = pack(&store, &model, "g", &[]);
    assert_eq!(run.number("tensors"), 4);
    let loaded = done(&["load", "g", "--store", text(&store), "--digest"]);
    assert_eq!(loaded.json["digests"], expected);
    let out = folder.join("out");
    reader_agrees(&store, "g", &out);
    let same = |name: &str| {
        let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
        assert_eq!(read(&out), read(&model), "{name}");
    };
    same("model.gguf");
    same("other.gguf");
}
