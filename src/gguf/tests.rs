//! Headers that are whole, cut, or made to hurt; configurations and tokenizers out of them.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A header that is being written.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    values: u64,
    tensors: Vec<u8>,
    count: u64,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Writer {
    fn put(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.bytes.extend([text(key), kind.to_le_bytes().into(), value.into()].concat());
        self.values += 1;
        self
    }

    fn u32(self, key: &str, value: u32) -> Self {
        self.put(key, 4, &value.to_le_bytes())
    }

    fn f32(self, key: &str, value: f32) -> Self {
        self.put(key, 6, &value.to_le_bytes())
    }

    fn text(self, key: &str, value: &str) -> Self {
        self.put(key, 8, &text(value))
    }

    fn texts(self, key: &str, values: &[&str]) -> Self {
        let head = [8_u32.to_le_bytes().to_vec(), (values.len() as u64).to_le_bytes().to_vec()];
        let all: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        self.put(key, 9, &[head.concat(), all].concat())
    }

    fn array(self, key: &str, kind: u32, count: u64, values: &[u8]) -> Self {
        let head = [kind.to_le_bytes().to_vec(), count.to_le_bytes().to_vec()].concat();
        self.put(key, 9, &[head, values.to_vec()].concat())
    }

    fn tensor(mut self, name: &str, dims: &[u64], kind: u32) -> Self {
        self.tensors.extend([text(name), (dims.len() as u32).to_le_bytes().into()].concat());
        dims.iter().for_each(|dim| self.tensors.extend(dim.to_le_bytes()));
        self.tensors.extend([&kind.to_le_bytes()[..], &0_u64.to_le_bytes()].concat());
        self.count += 1;
        self
    }

    fn end(self) -> Vec<u8> {
        let head = [MAGIC, &3_u32.to_le_bytes(), &self.count.to_le_bytes()].concat();
        [head, self.values.to_le_bytes().into(), self.bytes, self.tensors].concat()
    }
}

fn llama() -> Writer {
    Writer::default()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .u32("llama.context_length", 64)
        .u32("llama.embedding_length", 32)
        .u32("llama.feed_forward_length", 48)
        .u32("llama.attention.head_count", 4)
        .u32("llama.attention.head_count_kv", 2)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .f32("llama.rope.freq_base", 10_000.0)
        .tensor("token_embd.weight", &[32, 100], 1)
        .tensor("blk.0.attn_q.weight", &[32, 32], 2)
}

fn none(_: &str) -> Option<Vec<f32>> {
    None
}

#[test]
fn a_configuration_is_in_the_names_of_transformers() {
    let bytes = llama().end();
    let header = Header::parse(&bytes).unwrap();
    assert_eq!(header.blocks().collect::<Vec<_>>(), [("blk.0.attn_q.weight", Block::Q4_0)]);
    let made = config::config(&[header], &none).unwrap();
    for (key, value) in [
        ("model_type", json!("llama")),
        ("architectures", json!(["LlamaForCausalLM"])),
        ("vocab_size", json!(100)),
        ("head_dim", json!(8)),
        ("num_key_value_heads", json!(2)),
        ("rms_norm_eps", json!(1e-5)),
        ("rope_theta", json!(10_000.0)),
        ("tie_word_embeddings", json!(true)),
        ("attention_bias", json!(false)),
        ("dtype", json!("float16")),
    ] {
        assert_eq!(made[key], value, "{key}");
    }
    // Experts make it another.
    let bytes = llama().u32("llama.expert_count", 4).u32("llama.expert_used_count", 2).end();
    let made = config::config(&[Header::parse(&bytes).unwrap()], &none).unwrap();
    assert_eq!((&made["model_type"], &made["num_local_experts"]), (&json!("mixtral"), &json!(4)));
    // Factors of Llama 3 are found again.
    let factors = |theta: f64, dim: u32, factor: f64| -> Vec<f32> {
        let of = |pair: u32| {
            let wave = std::f64::consts::TAU * theta.powf(2.0 * f64::from(pair) / f64::from(dim));
            match wave {
                wave if wave < 2048.0 => 1.0,
                wave if wave > 8192.0 => factor,
                wave => {
                    let smooth = (8192.0 / wave - 1.0) / 3.0;
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            }
        };
        (0..dim / 2).map(|pair| of(pair) as f32).collect()
    };
    let bytes =
        llama().u32("llama.attention.key_length", 64).f32("llama.rope.scaling.x", 0.0).end();
    let headers = [Header::parse(&bytes).unwrap()];
    let of = |values: Vec<f32>| {
        config::config(&headers, &move |name| (name == config::FACTORS[0]).then(|| values.clone()))
    };
    let made = of(factors(10_000.0, 64, 8.0)).unwrap();
    assert_eq!(made["rope_scaling"]["rope_type"], "llama3");
    assert_eq!(made["rope_scaling"]["factor"], 8.0);
    assert_eq!(made["rope_scaling"]["original_max_position_embeddings"], 8192);
    assert!(of(vec![1.0, 7.0, 3.0]).unwrap_err().to_string().contains("rope_freqs"));
    for (bytes, says) in [
        (Writer::default().end(), "general.architecture is missing"),
        (
            Writer::default()
                .text("general.architecture", "x")
                .u32("x.attention.head_count", 1)
                .end(),
            "\"x\"",
        ),
        (
            Writer::default().text("general.architecture", "llama").end(),
            "llama.attention.head_count is missing",
        ),
    ] {
        let error =
            config::config(&[Header::parse(&bytes).unwrap()], &none).unwrap_err().to_string();
        assert!(error.replace("the value ", "").contains(says), "{error}");
    }
}

/// A file of another architecture.
fn of(arch: &str) -> Writer {
    let key = |key: &str| format!("{arch}.{key}");
    Writer::default()
        .text("general.architecture", arch)
        .u32(&key("block_count"), 4)
        .u32(&key("context_length"), 64)
        .u32(&key("embedding_length"), 32)
        .u32(&key("feed_forward_length"), 48)
        .u32(&key("attention.head_count"), 4)
        .u32(&key("attention.head_count_kv"), 2)
        .u32(&key("rope.dimension_count"), 4)
}

#[test]
fn what_a_family_alone_has_is_read() {
    let made = |writer: Writer| {
        let bytes = writer.end();
        config::config(&[Header::parse(&bytes).unwrap()], &none).map_err(|own| own.to_string())
    };
    let kinds = ["sliding_attention", "sliding_attention", "full_attention", "full_attention"];
    let own = of("cohere2")
        .f32("cohere2.logit_scale", 0.25)
        .u32("cohere2.attention.sliding_window", 7)
        .array("cohere2.attention.sliding_window_pattern", 7, 4, &[1, 1, 0, 0]);
    let own = made(own).unwrap();
    assert_eq!((&own["layer_types"], &own["sliding_window"]), (&json!(kinds), &json!(7)));
    assert_eq!((&own["logit_scale"], &own["partial_rotary_factor"]), (&json!(0.25), &json!(0.5)));
    let own = made(of("stablelm").put("stablelm.use_parallel_residual", 7, &[0])).unwrap();
    assert_eq!(own["use_parallel_residual"], false);
    let own = made(of("gptneox")).unwrap();
    assert_eq!((&own["rotary_pct"], &own["use_parallel_residual"]), (&json!(0.5), &json!(true)));
    let own = of("mistral3")
        .f32("mistral3.attention.temperature_scale", 0.5)
        .text("mistral3.rope.scaling.type", "yarn")
        .f32("mistral3.rope.scaling.factor", 4.0)
        .f32("mistral3.rope.scaling.yarn_log_multiplier", 1.0);
    let own = made(own).unwrap();
    assert_eq!(own["model_type"], "ministral3");
    let scaling = json!({"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.5});
    assert_eq!(own["rope_scaling"], scaling);
    assert_eq!(made(of("mistral3")).unwrap()["model_type"], "mistral");
    let two = of("falcon").tensor("blk.0.attn_norm_2.weight", &[32], 0);
    assert_eq!(made(two).unwrap()["new_decoder_architecture"], true);
    // Not everything that is written is told by a file alone.
    assert!(made(of("glm4moe")).unwrap_err().contains("config.json beside"));
}

#[test]
fn a_tokenizer_of_byte_pairs_is_made_of_metadata() {
    let types: Vec<u8> = [3_i32, 1, 1, 1, 5].iter().flat_map(|kind| kind.to_le_bytes()).collect();
    let bytes = Writer::default()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "llama-bpe")
        .texts("tokenizer.ggml.tokens", &["<s>", "a", "b", "ab", "[PAD4]"])
        .array("tokenizer.ggml.token_type", 5, 5, &types)
        .texts("tokenizer.ggml.merges", &["a b"])
        .u32("tokenizer.ggml.bos_token_id", 0)
        .text("tokenizer.chat_template", "{{ x }}")
        .end();
    let files = tokenizer::files(&Header::parse(&bytes).unwrap()).unwrap();
    let [(_, own), (_, config), (_, generation)] = &files[..] else { panic!("{files:?}") };
    assert_eq!(own["model"]["vocab"], json!({"<s>": 0, "a": 1, "b": 2, "ab": 3}));
    assert_eq!(own["model"]["merges"], json!([["a", "b"]]));
    assert_eq!(own["model"]["ignore_merges"], true);
    assert_eq!(own["added_tokens"][0]["content"], "<s>");
    assert_eq!(own["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
    assert_eq!(
        (&config["bos_token"], &config["chat_template"]),
        (&json!("<s>"), &json!("{{ x }}"))
    );
    assert_eq!(generation["bos_token_id"], 0);
}

#[test]
fn pieces_with_scores_merge_in_their_order() {
    let scores: Vec<u8> =
        [0.0_f32, -1.0, -2.0, -3.0, -9.0, -5.0].iter().flat_map(|own| own.to_le_bytes()).collect();
    let of = |tokens: &[&str]| {
        let bytes = Writer::default()
            .text("tokenizer.ggml.model", "llama")
            .texts("tokenizer.ggml.tokens", tokens)
            .array("tokenizer.ggml.scores", 6, 6, &scores)
            .end();
        let files = tokenizer::files(&Header::parse(&bytes).unwrap());
        files.map(|files| files.into_iter().next().unwrap().1)
    };
    let made = of(&["<unk>", "a", "b", "c", "abc", "ab"]).unwrap();
    assert_eq!(made["model"]["merges"], json!([["a", "b"], ["ab", "c"]]));
    assert_eq!(made["model"]["byte_fallback"], true);
    assert!(of(&["a", "b"]).is_err());
}

#[test]
fn what_is_cut_or_wrong_is_an_error_and_costs_nothing() {
    let whole = llama().texts("tokenizer.ggml.tokens", &["a", "b"]).end();
    assert!(Header::parse(&whole).is_ok());
    for cut in 0..whole.len() {
        assert!(Header::parse(&whole[..cut]).is_err(), "cut at {cut}");
    }
    let huge = 1_u64 << 60;
    let nested: Vec<u8> =
        (0..9).flat_map(|_| [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat()).collect();
    for (bytes, says) in [
        (Writer::default().put("a", 8, &huge.to_le_bytes()).end(), "ends at byte"),
        (
            Writer::default().array("a", 4, huge, &[]).end(),
            "1152921504606846976 values in an array",
        ),
        (Writer::default().array("a", 8, 1 << 24, &[]).end(), "ends at byte"),
        (Writer::default().array("a", 9, 1, &nested).end(), "more than 4 deep"),
        (Writer::default().put("a", 13, &[]).end(), "type 13"),
        (Writer::default().u32("a", 1).u32("a", 2).end(), "two values of a"),
        (Writer::default().u32("general.alignment", 3).end(), "general.alignment"),
        (Writer::default().put("a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]).end(), "UTF-8"),
        (Writer::default().tensor("a", &[1], 0).tensor("a", &[1], 0).end(), "called so"),
        (Writer::default().tensor("", &[1], 0).end(), "no name"),
        (Writer::default().tensor("a", &[1; 9], 0).end(), "8 dimensions"),
        (b"GGML".to_vec(), "does not begin"),
    ] {
        let error = Header::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for (dims, kind, says) in [
        (&[33_u64][..], 2, "whole number of blocks"),
        (&[], 2, "without a row"),
        (&[u64::MAX, 2], 0, "too large"),
        (&[1], 99, "type 99"),
    ] {
        let bytes = Writer::default().tensor("a", dims, kind).end();
        let error = Header::parse(&bytes).unwrap().tensors[0].stored().unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

proptest! {
    #[test]
    fn whatever_it_says_nothing_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = llama()
            .text("tokenizer.ggml.model", "gpt2")
            .texts("tokenizer.ggml.tokens", &["a", "b"])
            .texts("tokenizer.ggml.merges", &["a b", "x", " "])
            .end();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(header) = Header::parse(&bytes) {
            drop(tokenizer::files(&header));
            header.tensors.iter().for_each(|tensor| drop(tensor.stored()));
            if let Ok(own) = config::Metadata::new(&header)
                && let (Ok(family), Ok(heads)) = (own.family(&|_| false), own.heads())
            {
                for tensor in &header.tensors {
                    drop(family.originals(tensor.name, &tensor.dims, heads));
                }
            }
            drop(config::config(&[header], &|_| Some(vec![1.0; 16])));
        }
    }
}
