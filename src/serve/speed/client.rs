//! A client of any server that speaks as OpenAI's does: completions that are streamed, with a length that is known.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::events::Events;
use super::pool::{Pool, connections};
use super::prompts;
use super::run::{Prompt, Target};
use super::statistics::Timing;

/// The longest answer that comes whole.
const ANSWER: usize = 64 << 20;
/// How long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a prompt's length is mended.
const TRIES: usize = 8;
/// Characters of a server's own words that an error repeats.
const WORDS: usize = 300;

/// Why a server cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address is none.
    #[error("{0}: an address begins with http:// or https://, and has no user, query or fragment")]
    Address(String),
    /// The system's certificates cannot be used.
    #[error("certificates: {0}")]
    Certificates(String),
    /// It does not answer.
    #[error("{url}: {why}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// It answers otherwise than such a server does.
    #[error("{url}: {why}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

/// How the server is told the length of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dialect {
    ignore_eos: bool,
    usage: bool,
}

/// What servers take, the best first.
const DIALECTS: [Dialect; 3] = [
    Dialect { ignore_eos: true, usage: true },
    Dialect { ignore_eos: false, usage: true },
    Dialect { ignore_eos: false, usage: false },
];

/// How the tokens of a text are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// `/tokenize`, which names the text so.
    Tokenize(&'static str),
    /// By what a completion says that it was given.
    Usage,
}

/// A server that is measured.
#[derive(Debug)]
pub struct Client {
    base: String,
    key: Option<String>,
    model: String,
    http: Pool,
    dialect: Dialect,
    counting: Counting,
    /// For a number of tokens, the number of words that gave it last.
    words: Mutex<Option<(usize, usize)>>,
}

impl Client {
    /// Asks a server what it serves, and what it understands.
    ///
    /// # Errors
    /// If there is none, or it does not speak as OpenAI's does.
    pub async fn connect(
        url: &str,
        key: Option<String>,
        model: Option<String>,
    ) -> Result<Self, ClientError> {
        let client = Self::open(url, key)?;
        let model = match model {
            Some(model) => model,
            None => client.models().await?.swap_remove(0),
        };
        client.asking(model).await
    }

    /// The server at an address; nothing is asked yet.
    ///
    /// # Errors
    /// If it is no address.
    pub fn open(url: &str, key: Option<String>) -> Result<Self, ClientError> {
        let parsed = url::Url::parse(url).ok().filter(|own| {
            matches!(own.scheme(), "http" | "https")
                && own.has_host()
                && own.username().is_empty()
                && own.password().is_none()
        });
        let plain = parsed.filter(|own| own.query().is_none() && own.fragment().is_none());
        plain.ok_or_else(|| ClientError::Address(url.to_owned()))?;
        let base = url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).to_owned();
        Ok(Self {
            base,
            key,
            model: String::new(),
            http: connections().map_err(ClientError::Certificates)?,
            dialect: DIALECTS[0],
            counting: Counting::Usage,
            words: Mutex::new(None),
        })
    }

    /// The same, for one of its models, once it is known what the server understands.
    ///
    /// # Errors
    /// If it does not answer, or not as such a server does.
    pub async fn asking(mut self, model: String) -> Result<Self, ClientError> {
        self.model = model;
        self.dialect = self.understood().await?;
        self.counting = self.counted().await;
        Ok(self)
    }

    /// The model that is asked for.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether answers go on after a token that ends texts, so that their length is known.
    pub fn ignores_ends(&self) -> bool {
        self.dialect.ignore_eos
    }

    /// The models that it lists: one at least.
    ///
    /// # Errors
    /// If it does not answer, or lists none.
    pub async fn models(&self) -> Result<Vec<String>, ClientError> {
        let (url, status, value) = self.ask(Method::GET, "/v1/models", None).await?;
        let wrong = |why: String| ClientError::Answer { url: url.clone(), why };
        if status != StatusCode::OK {
            return Err(wrong(refusal(status, &value)));
        }
        let all =
            value.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let id = |own: &Value| own.get("id").and_then(Value::as_str).map(str::to_owned);
        let all: Vec<String> = all.iter().filter_map(id).collect();
        if all.is_empty() { Err(wrong("it lists no model".to_owned())) } else { Ok(all) }
    }

    /// The version that it says it is.
    pub async fn version(&self) -> Option<String> {
        let (_, status, value) = self.ask(Method::GET, "/version", None).await.ok()?;
        let version =
            value.get("version").and_then(Value::as_str).filter(|_| status == StatusCode::OK);
        version.map(str::to_owned)
    }

    /// The answer to a completion that is asked for; what the server says where it refuses it.
    ///
    /// # Errors
    /// If it does not answer, or by something else than a refusal.
    pub async fn completion(&self, body: Value) -> Result<Result<Value, String>, ClientError> {
        let (url, status, value) = self.ask(Method::POST, "/v1/completions", Some(body)).await?;
        match status {
            StatusCode::OK => Ok(Ok(value)),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                Ok(Err(refusal(status, &value)))
            }
            _ => Err(ClientError::Answer { url, why: refusal(status, &value) }),
        }
    }

    /// The best that the server takes.
    async fn understood(&self) -> Result<Dialect, ClientError> {
        let mut last = None;
        for dialect in DIALECTS {
            let body = self.body("time", 1, dialect);
            match self.completion(body).await? {
                Ok(_) => return Ok(dialect),
                Err(why) => {
                    let url = format!("{}/v1/completions", self.base);
                    last = Some(ClientError::Answer { url, why });
                }
            }
        }
        Err(last.unwrap_or_else(|| ClientError::Address(self.base.clone())))
    }

    /// How it counts.
    async fn counted(&self) -> Counting {
        for field in ["prompt", "content"] {
            if self.tokenize(field, "time year").await.is_some_and(|count| count > 0) {
                return Counting::Tokenize(field);
            }
        }
        Counting::Usage
    }

    async fn tokenize(&self, field: &'static str, text: &str) -> Option<usize> {
        let body = json!({"model": self.model, field: text});
        let (_, status, value) = self.ask(Method::POST, "/tokenize", Some(body)).await.ok()?;
        let count = value
            .get("count")
            .and_then(Value::as_u64)
            .and_then(|count| usize::try_from(count).ok());
        let listed = || value.get("tokens").and_then(Value::as_array).map(Vec::len);
        count.or_else(listed).filter(|_| status == StatusCode::OK)
    }

    /// The tokens of a text; none if the server does not tell.
    async fn count(&self, text: &str) -> Option<usize> {
        match self.counting {
            Counting::Tokenize(field) => self.tokenize(field, text).await,
            Counting::Usage => self.streamed(text, 1).await.ok()?.prompt,
        }
    }

    fn body(&self, prompt: &str, output: usize, dialect: Dialect) -> Value {
        let mut body = json!({
            "model": self.model, "prompt": prompt, "max_tokens": output, "temperature": 0, "stream": true,
        });
        if let Some(object) = body.as_object_mut() {
            if dialect.ignore_eos {
                object.insert("ignore_eos".to_owned(), true.into());
            }
            if dialect.usage {
                object.insert("stream_options".to_owned(), json!({"include_usage": true}));
            }
        }
        body
    }

    /// A whole answer; what is no JSON is its text.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(String, StatusCode, Value), ClientError> {
        let url = format!("{}{path}", self.base);
        let failed = |why: String| ClientError::Unreachable { url: url.clone(), why };
        let answer = self.send(method, path, body).await.map_err(failed)?;
        let status = answer.status();
        let whole =
            tokio::time::timeout(PATIENCE, Limited::new(answer.into_body(), ANSWER).collect());
        let whole =
            whole.await.map_err(|_| failed("it stopped in the middle of an answer".to_owned()))?;
        let bytes = whole.map_err(|error| failed(error.to_string()))?.to_bytes();
        let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Ok((url, status, value))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(PATIENCE, self.http.request(request)).await;
        let answer = answer.map_err(|_| format!("no answer for {} s", PATIENCE.as_secs()))?;
        answer.map_err(|error| causes(&error))
    }

    /// A streamed completion.
    async fn streamed(&self, prompt: &str, output: usize) -> Result<Timing, String> {
        let body = self.body(prompt, output, self.dialect);
        let begin = Instant::now();
        let answer = self.send(Method::POST, "/v1/completions", Some(body)).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        if status != StatusCode::OK {
            let whole =
                Limited::new(body, ANSWER).collect().await.map_err(|error| error.to_string())?;
            let text = String::from_utf8_lossy(&whole.to_bytes()).into_owned();
            let value = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text));
            return Err(refusal(status, &value));
        }
        let mut stream = Stream::default();
        while !stream.done {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            let Some(frame) =
                frame.map_err(|_| format!("no token for {} s", PATIENCE.as_secs()))?
            else {
                break;
            };
            let frame =
                frame.map_err(|error| format!("the answer broke off: {}", causes(&error)))?;
            let now = begin.elapsed().as_secs_f64();
            if let Ok(bytes) = frame.into_data() {
                stream.take(&bytes, now)?;
            }
        }
        stream.timing()
    }
}

/// What has come of a streamed answer.
#[derive(Debug, Default)]
struct Stream {
    events: Events,
    first: Option<f64>,
    last: f64,
    chunks: usize,
    completion: Option<usize>,
    prompt: Option<usize>,
    done: bool,
}

impl Stream {
    fn take(&mut self, bytes: &[u8], now: f64) -> Result<(), String> {
        for data in self.events.push(bytes).map_err(|error| error.to_string())? {
            if data == "[DONE]" {
                self.done = true;
                break;
            }
            let value: Value = serde_json::from_str(&data)
                .map_err(|error| format!("an event that is no JSON: {error}"))?;
            if value.get("error").is_some_and(|error| !error.is_null()) {
                return Err(words(&value));
            }
            if value
                .get("choices")
                .and_then(Value::as_array)
                .is_some_and(|choices| !choices.is_empty())
            {
                self.first = self.first.or(Some(now));
                self.last = now;
                self.chunks += 1;
            }
            let usage = |name: &str| {
                let count =
                    value.get("usage").and_then(|usage| usage.get(name)).and_then(Value::as_u64);
                count.and_then(|count| usize::try_from(count).ok())
            };
            self.completion = usage("completion_tokens").or(self.completion);
            self.prompt = usage("prompt_tokens").or(self.prompt);
        }
        Ok(())
    }

    fn timing(self) -> Result<Timing, String> {
        if !self.done {
            return Err("the answer ended without [DONE]".to_owned());
        }
        let first = self.first.ok_or("the answer has no token")?;
        // Without usage, each event is taken for a token.
        let tokens = self.completion.unwrap_or(self.chunks);
        Ok(Timing { first, last: self.last, tokens, prompt: self.prompt })
    }
}

#[async_trait]
impl Target for Client {
    async fn prepare(&self, input: usize, seed: u64) -> Result<Prompt, String> {
        let known = *self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.filter(|(tokens, _)| *tokens == input).map(|(_, words)| words);
        let mut words = known.unwrap_or(input).max(1);
        let mut best: Option<(usize, usize)> = None;
        for _ in 0..TRIES {
            // One that costs a completion is not asked for each prompt.
            if self.counting == Counting::Usage && known.is_some() {
                break;
            }
            // A completion that counts is of other words: the server may keep what it made of them.
            let counted = if self.counting == Counting::Usage { !seed } else { seed };
            let Some(count) = self.count(&prompts::text(words, counted)).await else { break };
            if best.is_none_or(|(off, _)| count.abs_diff(input) < off) {
                best = Some((count.abs_diff(input), words));
            }
            match prompts::next_try(words, count, input) {
                Some(next) => words = next,
                None => break,
            }
        }
        let words = best.map_or(words, |(_, words)| words);
        *self.words.lock().unwrap_or_else(PoisonError::into_inner) = Some((input, words));
        Ok(Prompt::Text(prompts::text(words, seed)))
    }

    async fn complete(&self, prompt: &Prompt, output: usize) -> Result<Timing, String> {
        let Prompt::Text(text) = prompt else {
            return Err("tokens, where a text is taken".to_owned());
        };
        self.streamed(text, output).await
    }
}

/// An error with what it came from.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// A refusal in words.
fn refusal(status: StatusCode, value: &Value) -> String {
    let advice = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; give its key with --api-key",
        StatusCode::NOT_FOUND => "; is it a server that speaks as OpenAI's does?",
        _ => "",
    };
    format!("{}: {}{advice}", status.as_u16(), words(value))
}

/// What a server says is wrong.
fn words(value: &Value) -> String {
    let message = value
        .pointer("/error/message")
        .or_else(|| value.get("message"))
        .or_else(|| value.get("error"));
    let text = message.unwrap_or(value);
    let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
    text.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_timed_as_vllms_bench_does() {
        let mut stream = Stream::default();
        stream.take(b"data: {\"choices\":[{\"text\":\"a\"}]}\n\n", 0.5).unwrap();
        stream.take(b"data: {\"choices\":[{\"text\":\"b\"}],\"usage\":null}\n\n", 0.7).unwrap();
        let usage = b"data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
        stream.take(usage, 0.9).unwrap();
        assert!(stream.done);
        let timing = stream.timing().unwrap();
        assert_eq!(timing, Timing { first: 0.5, last: 0.7, tokens: 3, prompt: Some(9) });
        let mut bare = Stream::default();
        bare.take(b"data: {\"choices\":[{\"text\":\"a\"}]}\n\n", 0.5).unwrap();
        bare.take(b"data: [DONE]\n\n", 0.6).unwrap();
        assert_eq!(bare.timing().unwrap().tokens, 1);
        let cut = Stream { first: Some(0.1), chunks: 1, ..Stream::default() };
        assert!(cut.timing().unwrap_err().contains("[DONE]"));
        assert!(Stream { done: true, ..Stream::default() }.timing().is_err());
        for wrong in [&b"data: {\"error\":{\"message\":\"no room\"}}\n\n"[..], b"data: {\n\n"] {
            let why = Stream::default().take(wrong, 0.0).unwrap_err();
            assert!(why.contains("no room") || why.contains("no JSON"), "{why}");
        }
    }

    #[test]
    fn refusals_are_told_in_the_servers_words() {
        let said =
            refusal(StatusCode::UNAUTHORIZED, &json!({"error": {"message": "who\nare you"}}));
        assert_eq!(said, "401: whoare you; give its key with --api-key");
        assert_eq!(refusal(StatusCode::BAD_GATEWAY, &Value::from("x".repeat(900))).len(), 305);
    }
}
