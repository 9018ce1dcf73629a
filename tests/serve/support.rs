//! An engine that is scripted, a server over it, and a client that says exactly what it is told.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tenpak::engine::sample::Sampler;
use tenpak::engine::text::{ChatTemplate, TemplateFiles, Tokenizer};
use tenpak::engine::{Engine, Event, Events, Finish, ModelInfo, Refused, Request};
use tenpak::serve::http::{Server, serve};
use tokio::net::TcpListener;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{Semaphore, oneshot};

pub const CONTEXT: usize = 2048;
/// No text has it: it ends texts.
pub const END: u32 = 0;

pub fn tokenizer() -> Arc<Tokenizer> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base/tokenizer.json");
    Arc::new(Tokenizer::parse(&fs::read(fixture).unwrap()).unwrap())
}

/// Chooses tokens by the real sampler from logits that follow from the text so far. What stands behind `say:` in
/// a prompt is what it says, token by token; `fail:` fails after two tokens.
pub struct Scripted {
    pub tokenizer: Arc<Tokenizer>,
    /// Texts that are being made.
    pub open: Arc<AtomicUsize>,
    /// Tokens that were made.
    pub made: Arc<AtomicUsize>,
    /// A token waits for each; none: none waits.
    pub steps: Option<Arc<Semaphore>>,
    pub generates: bool,
}

impl Scripted {
    pub fn new() -> Self {
        Self {
            tokenizer: tokenizer(),
            open: Arc::default(),
            made: Arc::default(),
            steps: None,
            generates: true,
        }
    }
}

/// Logits that any change of the text changes.
fn logits(text: &[u32], vocabulary: usize, said: Option<u32>) -> Vec<f32> {
    let mut state = text.iter().fold(0x9e37_79b9_7f4a_7c15u64, |state, token| {
        (state ^ u64::from(*token)).wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29)
    });
    let mut logits: Vec<f32> = (0..vocabulary)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 * 8.0
        })
        .collect();
    if let Some(token) = said {
        logits[token as usize] = 60.0;
    } else {
        logits[END as usize] -= 20.0;
    }
    logits
}

impl Engine for Scripted {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            max_context: CONTEXT,
            vocabulary: self.tokenizer.count(),
            ends: vec![END],
            generates: self.generates,
            quantization: "none".to_owned(),
            adapters: vec!["spoken".to_owned()],
        }
    }

    fn submit(&self, request: Request) -> Result<Events, Refused> {
        if !self.generates {
            return Err(Refused::Unable("this model makes embeddings"));
        }
        let prompt = self.tokenizer.decode(&request.prompt).unwrap();
        if prompt.contains("busy:") {
            return Err(Refused::Busy(7));
        }
        let said = prompt.split_once("say:").map(|(_, said)| {
            let said = said.split('|').next().unwrap();
            // Byte by byte where it says so, so that characters are cut.
            let mut tokens: Vec<u32> = match said.strip_prefix("bytes:") {
                None => self.tokenizer.encode(said, false).unwrap(),
                Some(said) => said.bytes().map(|byte| self.byte(byte)).collect(),
            };
            tokens.push(END);
            tokens
        });
        let fails = prompt.contains("fail:");
        let (to, events) = unbounded_channel();
        let (open, made, steps) = (self.open.clone(), self.made.clone(), self.steps.clone());
        let vocabulary = self.tokenizer.count();
        open.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            let _open = Leaves(open);
            let sampler = Sampler::new(&request.sampling, &request.prompt, vocabulary, &[END], 42);
            let mut sampler = match sampler {
                Ok(sampler) => sampler.with_constraint(request.constraint),
                Err(error) => return drop(to.send(Event::Failed(error.to_string()))),
            };
            let mut text = Vec::new();
            if let Some(count) = request.prompt_logprobs {
                let scored = request.prompt.iter().enumerate().skip(1).map(|(at, token)| {
                    let mut sampling = request.sampling.clone();
                    (sampling.logprobs, sampling.logit_bias) = (count, vec![(*token, 100.0)]);
                    sampling.temperature = 0.0;
                    let row = logits(&request.prompt[..at], vocabulary, None);
                    let mut own = Sampler::new(&sampling, &[], vocabulary, &[], 0).unwrap();
                    own.next(&row).unwrap().0
                });
                if to.send(Event::Prompt(scored.collect())).is_err() {
                    return;
                }
            }
            text.extend(&request.prompt);
            for at in 0..request.max_tokens {
                match &steps {
                    Some(steps) => tokio::select! {
                        step = steps.acquire() => step.unwrap().forget(),
                        () = to.closed() => return,
                    },
                    None => tokio::task::yield_now().await,
                }
                if fails && at == 2 {
                    return drop(to.send(Event::Failed("the weights are damaged".to_owned())));
                }
                let said = said.as_ref().map(|said| said.get(at).copied().unwrap_or(END));
                let (scored, finish) = match sampler.next(&logits(&text, vocabulary, said)) {
                    Ok(next) => next,
                    Err(error) => return drop(to.send(Event::Failed(error.to_string()))),
                };
                text.push(scored.own.token);
                made.fetch_add(1, Ordering::AcqRel);
                if to.send(Event::Token(scored)).is_err() {
                    return;
                }
                if let Some(finish) = finish {
                    return drop(to.send(Event::End(finish)));
                }
            }
            drop(to.send(Event::End(Finish::Length)));
        });
        Ok(events)
    }

    fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Refused> {
        if self.generates {
            return Err(Refused::Unable("this model makes text"));
        }
        Ok(texts.iter().map(|text| vec![text.len() as f32, 0.5, -1.0]).collect())
    }
}

impl Scripted {
    pub fn byte(&self, byte: u8) -> u32 {
        (0..self.tokenizer.count() as u32)
            .find(|token| {
                self.tokenizer.bytes(*token) == [byte] && !self.tokenizer.is_special(*token)
            })
            .unwrap_or_else(|| panic!("no token for byte {byte}"))
    }
}

struct Leaves(Arc<AtomicUsize>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A server that runs until it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub open: Arc<AtomicUsize>,
    pub made: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

pub fn start(engine: Scripted, change: impl FnOnce(&mut Server)) -> Running {
    let (open, made, tokenizer) =
        (engine.open.clone(), engine.made.clone(), engine.tokenizer.clone());
    let mut server = Server::new(Arc::new(engine), tokenizer, "org/model");
    server.names.push("short".to_owned());
    let template = "{% for m in messages %}{% if m.role == 'odd' %}{{ raise_exception('no odd roles') }}{% endif %}\
                    {{ m.content }}{% if not loop.last %}|{% endif %}{% endfor %}{% if add_generation_prompt %}|{% endif %}";
    let config = json!({ "chat_template": template }).to_string();
    let files = TemplateFiles { tokenizer_config: Some(config.as_bytes()), ..Default::default() };
    server.template = ChatTemplate::load(&files).unwrap().map(Arc::new);
    change(&mut server);
    let (stop, stopped) = oneshot::channel::<()>();
    let (told, address) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let stopped = async { drop(stopped.await) };
            serve(listener, server, stopped).await.unwrap();
        });
    });
    let address = address.recv().unwrap();
    Running { address, open, made, stop: Some(stop), thread: Some(thread) }
}

impl Running {
    /// Tells the server to stop.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has stopped.
    pub fn join(mut self) {
        self.stop();
        self.thread.take().unwrap().join().unwrap();
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that refuses by the head may have closed already.
        drop(stream.write_all(body));
        stream
    }

    pub fn raw(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        Reply::read(self.send(method, path, headers, body))
    }

    pub fn get(&self, path: &str) -> Reply {
        self.raw("GET", path, "", b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.raw("POST", path, "content-type: application/json\r\n", body.to_string().as_bytes())
    }

    /// The answer, which must be one.
    pub fn ask(&self, path: &str, body: &Value) -> Value {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        reply.json()
    }

    /// The error, which must be one in OpenAI's form.
    pub fn refused(&self, path: &str, body: &Value) -> (u16, Value) {
        let reply = self.post(path, body);
        let error = reply.error();
        (reply.status, error)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut rest = &bytes[end + 4..];
        let mut body = Vec::new();
        if head.contains("transfer-encoding: chunked") {
            while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
                let length = std::str::from_utf8(&rest[..line]).unwrap();
                let length = usize::from_str_radix(length, 16).unwrap();
                body.extend_from_slice(&rest[line + 2..line + 2 + length]);
                rest = &rest[line + 2 + length + 2..];
            }
        } else {
            body = rest.to_vec();
        }
        Self { status, head, body }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }

    pub fn error(&self) -> Value {
        let json = self.json();
        let error = &json["error"];
        assert!(self.status >= 400, "{}: {json}", self.status);
        assert!(
            error["message"].as_str().is_some_and(|told| !told.is_empty() && told.len() < 1000),
            "{json}"
        );
        assert!(error["type"].is_string(), "{json}");
        for field in ["param", "code"] {
            assert!(error.get(field).is_some_and(|own| own.is_string() || own.is_null()), "{json}");
        }
        error.clone()
    }

    /// The events of a stream, which must end as streams end.
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        let mut events: Vec<&str> =
            text.split("\n\n").map(|event| event.strip_prefix("data: ").unwrap_or(event)).collect();
        assert_eq!(events.pop(), Some(""), "{text}");
        assert_eq!(events.pop(), Some("[DONE]"), "{text}");
        events.into_iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

/// Waits for what must come to be.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what} did not come to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}
