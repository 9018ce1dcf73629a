//! What is counted, under vLLM's names where the meaning is the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Instant;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// vLLM's bounds, in seconds.
const FIRST: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const EACH: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const WHOLE: [f64; 14] =
    [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0];
const TOKENS: [f64; 14] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4];

type Reasons = Family<[(&'static str, &'static str); 1], Counter<u64, AtomicU64>>;

/// The server's numbers.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    running: Gauge<i64, AtomicI64>,
    waiting: Gauge<i64, AtomicI64>,
    prompt_tokens: Counter,
    made_tokens: Counter,
    finished: Reasons,
    first: Histogram,
    between: Histogram,
    whole: Histogram,
    prompts: Histogram,
    texts: Histogram,
}

impl Metrics {
    pub(crate) fn new(model: &str) -> Self {
        let mut registry = Registry::default();
        let (running, waiting) = (Gauge::default(), Gauge::default());
        let (prompt_tokens, made_tokens, finished) =
            (Counter::default(), Counter::default(), Reasons::default());
        let first = Histogram::new(FIRST);
        let between = Histogram::new(EACH);
        let whole = Histogram::new(WHOLE);
        let (prompts, texts) = (Histogram::new(TOKENS), Histogram::new(TOKENS));
        let own = registry.sub_registry_with_label(("model_name".into(), model.to_owned().into()));
        own.register("vllm:num_requests_running", "Texts of which tokens come", running.clone());
        own.register(
            "vllm:num_requests_waiting",
            "Texts whose first token has not come",
            waiting.clone(),
        );
        own.register("vllm:prompt_tokens", "Tokens of prompts", prompt_tokens.clone());
        own.register("vllm:generation_tokens", "Tokens that were made", made_tokens.clone());
        own.register("vllm:request_success", "Texts that came to their end", finished.clone());
        own.register("vllm:time_to_first_token_seconds", "Until the first token", first.clone());
        own.register(
            "vllm:inter_token_latency_seconds",
            "From one token to the next",
            between.clone(),
        );
        own.register("vllm:e2e_request_latency_seconds", "Until the last token", whole.clone());
        own.register("vllm:request_prompt_tokens", "Tokens of a prompt", prompts.clone());
        own.register("vllm:request_generation_tokens", "Tokens of a text", texts.clone());
        Self {
            registry,
            running,
            waiting,
            prompt_tokens,
            made_tokens,
            finished,
            first,
            between,
            whole,
            prompts,
            texts,
        }
    }

    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// How many texts are being made or wait.
    pub(crate) fn open(&self) -> i64 {
        self.running.get() + self.waiting.get()
    }
}

/// One text, counted from its beginning to its end, whichever way it ends.
#[derive(Debug)]
pub(crate) struct Counted {
    metrics: Arc<Metrics>,
    begin: Instant,
    last: Option<Instant>,
    made: u64,
}

impl Counted {
    pub(crate) fn begin(metrics: &Arc<Metrics>, prompt: usize) -> Self {
        metrics.waiting.inc();
        metrics.prompt_tokens.inc_by(prompt as u64);
        metrics.prompts.observe(prompt as f64);
        Self { metrics: metrics.clone(), begin: Instant::now(), last: None, made: 0 }
    }

    pub(crate) fn token(&mut self) {
        let now = Instant::now();
        match self.last.replace(now) {
            Some(last) => self.metrics.between.observe(now.duration_since(last).as_secs_f64()),
            None => {
                self.metrics.waiting.dec();
                self.metrics.running.inc();
                self.metrics.first.observe(now.duration_since(self.begin).as_secs_f64());
            }
        }
        self.made += 1;
        self.metrics.made_tokens.inc();
    }

    pub(crate) fn end(&mut self, reason: &'static str) {
        self.metrics.finished.get_or_create(&[("finished_reason", reason)]).inc();
        self.metrics.whole.observe(self.begin.elapsed().as_secs_f64());
        self.metrics.texts.observe(self.made as f64);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let gauge = if self.last.is_some() { &self.metrics.running } else { &self.metrics.waiting };
        gauge.dec();
    }
}
