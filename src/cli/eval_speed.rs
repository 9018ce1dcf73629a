//! `tenpak eval speed`.

use std::sync::Mutex;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::error::{FAILED, Failure, NETWORK};
use super::open_engine::open_engine;
use super::output::Output;
use super::progress::Bar;
use super::{Global, artifact, bytes};
use crate::serve::speed::{
    Client, ClientError, Embedded, Level, Percentiles, Plan, Target, measure,
};

/// What is measured by a server's address, and by an artifact's name.
#[derive(Debug, Clone)]
enum Measured {
    Url(String),
    Artifact(crate::format::name::ArtifactSpec),
}

fn measured(text: &str) -> Result<Measured, String> {
    match text.starts_with("http://") || text.starts_with("https://") {
        true => Ok(Measured::Url(text.to_owned())),
        false => artifact(text).map(Measured::Artifact),
    }
}

fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(1..=1_000_000) => text.parse().map_err(|_| String::new()),
        _ => Err("a number from 1 to 1000000".to_owned()),
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Speed {
    /// The artifact to run in this process, or the address of a server that speaks as OpenAI's does
    #[arg(value_name = "ARTIFACT|URL", value_parser = measured)]
    target: Measured,
    /// Requests at a time; several numbers are levels that are measured one after the other
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "1", value_parser = count)]
    concurrency: Vec<usize>,
    /// Tokens of a prompt, about
    #[arg(long, value_name = "N", default_value = "512", value_parser = count)]
    input_tokens: usize,
    /// Tokens of an answer
    #[arg(long, value_name = "N", default_value = "128", value_parser = count)]
    output_tokens: usize,
    /// Requests of each repeat of a level [default: 3 for each at a time, and at least 6]
    #[arg(long, value_name = "N", value_parser = count)]
    requests: Option<usize>,
    /// How often each level is measured
    #[arg(long, value_name = "N", default_value = "3", value_parser = count)]
    repeats: usize,
    /// The server's key
    #[arg(long, value_name = "KEY", env = "TENPAK_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The model to ask the server for [default: the first that it lists]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

impl Speed {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let plan = Plan {
            concurrency: self.concurrency,
            input: self.input_tokens,
            output: self.output_tokens,
            requests: self.requests,
            repeats: self.repeats,
        };
        let (target, about): (Box<dyn Target>, Value) = match self.target {
            Measured::Url(url) => {
                let client = runtime
                    .block_on(Client::connect(&url, self.api_key, self.model))
                    .map_err(failure)?;
                let about = json!({"target": url, "model": client.model(), "ignore_eos": client.ignores_ends()});
                (Box::new(client), about)
            }
            Measured::Artifact(spec) => {
                if self.api_key.is_some() || self.model.is_some() {
                    return Err(Failure::usage(
                        "--api-key and --model are for the address of a server",
                    ));
                }
                let engine = open_engine(&spec, global, runtime, output)?;
                let info = engine.info();
                if !info.generates {
                    return Err(Failure::usage(format!(
                        "{spec} makes embeddings, no text, and so has no tokens to time"
                    )));
                }
                let tokens = plan.input + plan.output;
                if tokens > info.max_context {
                    return Err(Failure::usage(format!(
                        "{tokens} tokens, and {spec} takes {}: give fewer with --input-tokens and --output-tokens",
                        info.max_context
                    )));
                }
                let about = json!({"target": spec.to_string(), "model": spec.to_string(), "ignore_eos": true});
                (Box::new(Embedded(engine)), about)
            }
        };
        let bar = Bar::of_steps(output, "measuring");
        let begun = Mutex::new(false);
        let step = |all: usize| {
            if let Ok(mut begun) = begun.lock() {
                if !*begun {
                    bar.begin(all as u64);
                    *begun = true;
                }
                bar.advance(1);
            }
        };
        let (levels, failed) = runtime.block_on(measure(target.as_ref(), &plan, &step));
        drop(bar);
        let Some(last) = levels.last() else {
            return Err(Failure::failed(format!(
                "no request was answered: {}",
                failed.unwrap_or_else(|| "there was none".to_owned())
            )));
        };
        let mut object = about;
        if let Some(object) = object.as_object_mut() {
            object.insert("input_tokens".to_owned(), plan.input.into());
            object.insert("output_tokens".to_owned(), plan.output.into());
            object.insert("repeats".to_owned(), plan.repeats.into());
            object.insert("seconds".to_owned(), start.elapsed().as_secs_f64().into());
            object.insert("levels".to_owned(), json!(levels));
            if let Value::Object(own) = json!(last) {
                object.extend(own);
            }
        }
        output.result(object, || table(&levels))?;
        match failed {
            None => Ok(()),
            Some(why) => {
                let count: usize = levels.iter().map(|own| own.failed).sum();
                Err(Failure::told(
                    FAILED,
                    format!(
                        "{count} measured requests were not answered; the first failure: {why}"
                    ),
                ))
            }
        }
    }
}

fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Address(_) => Failure::usage(error),
        ClientError::Unreachable { .. } => Failure::new(NETWORK, error),
        error => Failure::failed(error),
    }
}

/// The levels for people.
fn table(levels: &[Level]) -> String {
    let head = [
        "at a time",
        "requests",
        "first token ms: p50",
        "p90",
        "p95",
        "p99",
        "per token ms: p50",
        "p90",
        "p95",
        "p99",
        "tokens/s",
        "spread",
        "requests/s",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for level in levels {
        let mut row = vec![level.concurrency.to_string(), level.requests.to_string()];
        for own in [level.ttft_ms, level.tpot_ms] {
            let number = |value: f64| format!("{value:.1}");
            match own {
                Some(Percentiles { p50, p90, p95, p99 }) => {
                    row.extend([p50, p90, p95, p99].map(number))
                }
                None => row.extend(["-"; 4].map(str::to_owned)),
            }
        }
        row.push(format!("{:.1}", level.tokens_per_second));
        let spread = level.spread.tokens_per_second;
        row.push(
            spread.map_or_else(String::new, |own| format!("{:.1} to {:.1}", own.min, own.max)),
        );
        row.push(format!("{:.2}", level.requests_per_second));
        rows.push(row);
    }
    bytes::table(&rows)
}
