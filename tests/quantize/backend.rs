//! Other tools are run in the user's Python, and what they write is packed with their name on it.
//!
//! The driver is the real one; the tool is a stand-in that Python finds in its place.

use std::path::{Path, PathBuf};

use super::model::{llama, write};
use super::run::{Run, command, done, fresh_folder, objects, pack, python_command, tenpak, text};

const TOOL: &str = r#"
import json, os, pathlib, struct
class QuantizeConfig:
    def __init__(self, **numbers):
        self.numbers = numbers
class GPTQModel:
    @classmethod
    def load(cls, source, config):
        self = cls()
        self.config = config.numbers | {"quant_method": "gptq", "source": sorted(os.listdir(source))}
        return self
    def quantize(self, samples, batch_size):
        print("not an event")
        self.config["samples"] = [len(sample["input_ids"]) for sample in samples]
        if os.environ.get("FAIL"):
            raise RuntimeError("the tool is broken")
    def save(self, out):
        out = pathlib.Path(out)
        (out / "config.json").write_text(json.dumps({"quantization_config": self.config}))
        header = json.dumps({"a.qweight": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        (out / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
"#;
const TOKENIZER: &str = r#"
class AutoTokenizer:
    @classmethod
    def from_pretrained(cls, source):
        return lambda text: {"input_ids": text.split()}
"#;

/// Python packages that stand in for the real ones.
fn stand_ins(folder: &Path) -> PathBuf {
    let path = folder.join("stand-ins");
    for (package, code) in [("gptqmodel", TOOL), ("transformers", TOKENIZER)] {
        std::fs::create_dir_all(path.join(package)).unwrap();
        std::fs::write(path.join(package).join("__init__.py"), code).unwrap();
    }
    let info = path.join("gptqmodel-9.9.9.dist-info");
    std::fs::create_dir_all(&info).unwrap();
    std::fs::write(
        info.join("METADATA"),
        "Metadata-Version: 2.1\nName: gptqmodel\nVersion: 9.9.9\n",
    )
    .unwrap();
    path
}

fn quantize(folder: &Path, source: &str, more: &[&str], environment: &[(&str, &str)]) -> Run {
    let python = python_command();
    let store = folder.join("store");
    let scratch = folder.join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    let all = [
        &[
            "--json",
            "quantize",
            source,
            "--store",
            text(&store),
            "--name",
            "q",
            "--preset",
            "gptq_fast",
        ],
        &[
            "--backend",
            "gptqmodel",
            "--samples",
            "3",
            "--sample-length",
            "4",
            "--work",
            text(&scratch),
        ][..],
        &["--python", python.get_program().to_str().unwrap()],
        more,
    ];
    let mut command = command(&all.concat());
    command.env("PYTHONPATH", stand_ins(folder)).env("PYTHONDONTWRITEBYTECODE", "1");
    command.envs(environment.iter().copied());
    let run = Run::of(command.output().unwrap());
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0, "its output is cleared away");
    run
}

#[test]
fn a_tool_is_run_and_named() {
    let folder = fresh_folder("tool");
    let (model, store) = (write(&folder.join("model"), &llama(1, 64)), folder.join("store"));
    let words = folder.join("words.txt");
    std::fs::write(&words, "a b c d e f g h i j").unwrap();
    let base = pack(&store, &model, "base", &[]);
    for (source, artifact) in [(text(&model), false), ("base", true)] {
        let run = quantize(&folder, source, &["--calibration", text(&words)], &[]);
        assert_eq!(run.status, Some(0), "{}", run.error);
        let said = &run.json["quantization"];
        assert_eq!((&said["tool"], &said["tool_version"]), (&"gptqmodel".into(), &"9.9.9".into()));
        assert_eq!((&said["backend"], &said["method"]), (&"gptqmodel".into(), &"gptq".into()));
        let out = folder.join(format!("out-{artifact}"));
        done(&["unpack", "q", "--store", text(&store), "--out", text(&out)]);
        let config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
        let config = &config["quantization_config"];
        assert_eq!((&config["bits"], &config["sym"]), (&4.into(), &true.into()));
        assert_eq!(config["samples"], serde_json::json!([4, 4]), "of ten words");
        let files = serde_json::json!(["config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(config["source"], files);
        assert!(out.join("tokenizer.json").exists(), "what the tool does not save is copied");
        let manifest = store.join("manifests").join(run.text("manifest"));
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        let source = manifest.get("source").map(|source| source["manifest"].clone());
        assert_eq!(source, artifact.then(|| base.json["manifest"].clone()));
    }
}

#[test]
fn layers_that_are_skipped_are_left_out_by_the_tool() {
    let folder = fresh_folder("tool_skips");
    let (model, words) = (write(&folder.join("model"), &llama(1, 64)), folder.join("words.txt"));
    std::fs::write(&words, "a b c d e f g h i j").unwrap();
    let more = ["--calibration", text(&words), "--skip", "*.q_proj"];
    let run = quantize(&folder, text(&model), &more, &[]);
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert_eq!(run.json["quantization"]["skip"], serde_json::json!(["*.q_proj"]));
    let out = folder.join("out");
    done(&["unpack", "q", "--store", text(&folder.join("store")), "--out", text(&out)]);
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    let dynamic = config["quantization_config"]["dynamic"].as_object().unwrap();
    let keys: Vec<_> = dynamic.keys().collect();
    assert_eq!(keys, [r"-:^model\.layers\.0\.self_attn\.q_proj$"]);
}

#[test]
fn what_fails_is_told_and_changes_nothing() {
    let folder = fresh_folder("tool_fails");
    let (model, store) = (write(&folder.join("model"), &llama(1, 64)), folder.join("store"));
    pack(&store, &model, "base", &[]);
    let before = objects(&store);
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let (words, empty) = (file("words.txt", b"a b c d e"), file("empty.txt", b" \n"));
    let (short, binary) = (file("short.txt", b"a b"), file("binary.txt", b"a \xff\xfe b"));
    let model = text(&model);
    for (more, environment, status, says) in [
        (&["--calibration", text(&words)][..], &[("FAIL", "1")][..], 1, "the tool is broken"),
        (&["--calibration", text(&short)], &[], 1, "has 2 tokens, and one sample takes 4"),
        (&["--calibration", text(&empty)], &[], 1, "empty.txt: it is empty"),
        (&["--calibration", text(&binary)], &[], 1, "binary.txt: not UTF-8"),
        (&["--calibration", "none.txt"], &[], 1, "none.txt: "),
        (&[], &[], 2, "--calibration FILE"),
        (&["--calibration", text(&words), "--format", "awq"], &[], 2, "gptq"),
        (&["--calibration", text(&words), "--skip", "*.nothing"], &[], 2, "no linear layer"),
    ] {
        let run = quantize(&folder, model, more, environment);
        assert_eq!(run.status, Some(status), "{more:?}: {}", run.error);
        assert!(run.error.contains(says), "{:?} does not say {says:?}", run.error);
        assert_eq!(objects(&store), before, "{more:?}");
    }
    for (more, says) in [
        (&["--method", "nf4", "--backend", "autoawq"][..], "autoawq does not do nf4"),
        (&["--method", "nf4", "--backend", "none"], "there are gptqmodel"),
    ] {
        let all = ["quantize", model, "--store", text(&store), "--name", "q"];
        let run = tenpak(&[&all[..], more].concat());
        assert!(run.status == Some(2) && run.error.contains(says), "{}", run.error);
    }
    let words = ["--calibration", text(&words)];
    let all = ["quantize", model, "--store", text(&store), "--name", "q", "--preset", "gptq_fast"];
    let more = ["--backend", "gptqmodel", "--python", "/nowhere/python"];
    let run = tenpak(&[&all[..], &more, &words].concat());
    assert!(
        run.error.contains("/nowhere/python") && run.error.contains("--python"),
        "{}",
        run.error
    );
}
