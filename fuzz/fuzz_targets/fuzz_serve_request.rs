//! Any bytes as the body of a completion or a chat: it is taken with a bounded number of texts, or refused in
//! OpenAI's form.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use tenpak::engine::text::{ChatTemplate, TemplateFiles, Tokenizer};
use tenpak::engine::{Engine, Events, ModelInfo, Refused, Request};
use tenpak::serve::http::{Reader, Server};

/// Requests are read, not answered.
struct Idle(usize);

impl Engine for Idle {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            max_context: 512,
            vocabulary: self.0,
            ends: vec![0],
            generates: true,
            quantization: String::new(),
            adapters: vec!["adapter".to_owned()],
        }
    }

    fn submit(&self, _: Request) -> Result<Events, Refused> {
        Err(Refused::Unable("nothing is answered"))
    }

    fn embed(&self, _: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Refused> {
        Err(Refused::Unable("nothing is answered"))
    }
}

static READER: LazyLock<Reader> = LazyLock::new(|| {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/lm/base/tokenizer.json");
    let tokenizer = Tokenizer::parse(&std::fs::read(fixture).expect("a tokenizer")).expect("a tokenizer");
    let template = include_bytes!("../../tests/serve/templates/qwen3.jinja");
    let files = TemplateFiles { jinja: Some(template), ..TemplateFiles::default() };
    let engine = Arc::new(Idle(tokenizer.count()));
    let mut server = Server::new(engine, Arc::new(tokenizer), "model");
    server.template = ChatTemplate::load(&files).expect("a template").map(Arc::new);
    Reader::new(server)
});

fuzz_target!(|input: &[u8]| {
    let Some((first, body)) = input.split_first() else { return };
    match READER.read(first & 1 == 1, body) {
        Ok(texts) => assert!((1..=128).contains(&texts)),
        Err(told) => {
            let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
            assert!(told["error"]["message"].is_string() && told["error"]["type"].is_string());
            assert!(told.to_string().len() < 2000, "an error repeats what was sent");
        }
    }
});
