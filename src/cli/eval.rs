//! `tenpak eval`.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use tokio::runtime::Handle;

use super::error::Failure;
use super::eval_speed::Speed;
use super::output::Output;
use super::progress::Bar;
use super::{Global, artifact};
use crate::format::name::ArtifactSpec;
use crate::quantize::eval::{PerplexityOptions, perplexity};
use crate::quantize::lm::{Model, Text};

#[derive(Debug, clap::Args)]
pub(super) struct Eval {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Measure a language model's perplexity on a text
    Ppl(Ppl),
    /// Measure how fast a model answers, in this process or on a server
    Speed(Speed),
}

#[derive(Debug, clap::Args)]
struct Ppl {
    /// The model to evaluate
    #[arg(value_parser = artifact)]
    artifact: ArtifactSpec,
    /// The text to predict: a file in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens per window; windows do not overlap [default: 2048, or as many as the model takes]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
}

impl Eval {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        match self.what {
            What::Ppl(ppl) => ppl.run(global, runtime, output),
            What::Speed(speed) => speed.run(global, runtime, output),
        }
    }
}

impl Ppl {
    fn run(self, global: &Global, runtime: &Handle, output: &Output) -> Result<(), Failure> {
        let start = Instant::now();
        let text = Text::read(&self.text)?;
        let source = global.model_of(&self.artifact, runtime, output)?;
        let manifest = source.id();
        let model = Model::open(source)?;
        let tokens = model.tokenizer()?.encode(&text)?;
        let options = PerplexityOptions { context: self.context, ..PerplexityOptions::default() };
        let bar = Bar::of_steps(output, "evaluating");
        let mut begun = false;
        let mut told = |step: usize, steps: usize| {
            if !begun {
                bar.begin(steps as u64);
                begun = true;
            }
            bar.advance(u64::from(step > 0));
        };
        let mut block = |index| model.block(index);
        let found = perplexity(&model, &tokens, &options, &mut block, &mut told)?;
        drop(bar);
        let seconds = start.elapsed().as_secs_f64();
        let object = json!({
            "manifest": manifest,
            "perplexity": found.perplexity,
            "loss": found.loss,
            "tokens": found.tokens,
            "windows": found.windows,
            "context": found.context,
            "seconds": seconds,
        });
        output.result(object, || {
            format!(
                "perplexity {:.4} over {} tokens, in {} windows of {}, in {seconds:.2} s\n",
                found.perplexity, found.tokens, found.windows, found.context
            )
        })
    }
}
