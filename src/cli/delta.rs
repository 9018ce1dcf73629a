//! `tenpak delta` and `tenpak delta estimate`.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tokio::runtime::Handle;

use super::error::Failure;
use super::output::Output;
use super::progress::Bar;
use super::publishing::Publishing;
use super::{Global, artifact, bytes};
use crate::format::name::ArtifactSpec;
use crate::quantize::produce::delta::{DeltaMethod, DeltaOptions, delta, estimate};
use crate::quantize::source::ModelSource;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Delta {
    #[command(subcommand)]
    estimate: Option<Estimating>,
    #[command(flatten)]
    what: Option<What>,
    /// The name of the result; the tag is `latest` if left out
    #[arg(long, value_name = "NAME[:TAG]", value_parser = artifact, required = true)]
    name: Option<ArtifactSpec>,
    #[command(flatten)]
    publishing: Publishing,
}

#[derive(Debug, clap::Subcommand)]
enum Estimating {
    /// Predict size and error from a sample of the weights; writes nothing
    Estimate(What),
}

#[derive(Debug, clap::Args)]
struct What {
    /// The fine-tune: a folder, or an artifact of the store
    #[arg(value_name = "FINETUNED")]
    tuned: String,
    /// The artifact that the fine-tune was made from
    #[arg(long, value_name = "ARTIFACT", value_parser = artifact)]
    base: ArtifactSpec,
    /// How to store the differences: lossless, sparse_int8 or uniform
    #[arg(long, value_name = "M", default_value = "lossless")]
    method: String,
    /// sparse_int8: drop differences below T times their root mean square [default: 0.3]
    #[arg(long, value_name = "T")]
    threshold: Option<f32>,
    /// uniform: round differences to multiples of S times their root mean square [default: 0.6]
    #[arg(long, value_name = "S")]
    step: Option<f32>,
}

impl What {
    fn method(&self) -> Result<DeltaMethod, Failure> {
        let Some(mut method) = DeltaMethod::named(&self.method) else {
            let name = &self.method;
            let known = "there are lossless, sparse_int8 and uniform";
            return Err(Failure::usage(format!("no method {name}; {known}")));
        };
        match (&mut method, self.threshold, self.step) {
            (DeltaMethod::SparseInt8 { threshold }, Some(own), None) => *threshold = own,
            (DeltaMethod::Uniform { step }, None, Some(own)) => *step = own,
            (_, None, None) => {}
            _ => {
                return Err(Failure::usage(
                    "--threshold goes with --method sparse_int8, --step with --method uniform",
                ));
            }
        }
        method.check()?;
        Ok(method)
    }

    /// The fine-tune and its base. A quantized fine-tune of a base that is not is read as floats of the base's type.
    fn models(
        &self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(Arc<ModelSource>, Arc<ModelSource>), Failure> {
        let tuned = Arc::new(global.model(&self.tuned, runtime, output)?);
        let base = Arc::new(global.model_of(&self.base, runtime, output)?);
        let is_plain = |source: &ModelSource| Ok::<_, Failure>(source.quantization()?.is_none());
        let tuned = match is_plain(&base)? && (!is_plain(&tuned)? || tuned.is_gguf()) {
            true => tuned.plain(Some(base.named_float()))?,
            false => tuned,
        };
        Ok((tuned, base))
    }
}

impl Delta {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        if let Some(Estimating::Estimate(what)) = &self.estimate {
            return run_estimate(what, global, runtime, output);
        }
        let (Some(what), Some(ArtifactSpec::Named { name, tag })) = (&self.what, &self.name) else {
            return Err(Failure::usage("--name takes a name, not an id"));
        };
        let method = what.method()?;
        let store = global.store()?;
        let (tuned, base) = what.models(global, runtime, output)?;
        let options = DeltaOptions {
            method,
            base_name: what.base.to_string(),
            pack: self.publishing.options(global)?,
        };
        let start = Instant::now();
        let bar = Bar::new(output, "writing the delta");
        let done = delta(&tuned, &base, &store, (name, tag), options, runtime, &bar)?;
        drop(bar);
        output.made(&store);
        let seconds = start.elapsed().as_secs_f64();
        let totals = done.packed.totals;
        let smaller = 1.0 - done.packed.new_bytes as f64 / totals.raw_bytes.max(1) as f64;
        let all = done.deviation();
        let tensors: Vec<_> = done
            .tensors
            .iter()
            .map(|own| {
                let of = own.deviation;
                json!({
                    "name": own.name,
                    "changed": of.changed as f64 / of.elements.max(1) as f64,
                    "max_error": of.max,
                    "relative_error": of.relative(),
                })
            })
            .collect();
        let object = json!({
            "manifest": done.packed.manifest,
            "name": name,
            "tag": tag,
            "delta": done.delta,
            "tensors": tensors,
            "changed": all.changed as f64 / all.elements.max(1) as f64,
            "relative_error": all.relative(),
            "unchanged": done.unchanged,
            "not_in_base": done.own,
            "raw_bytes": totals.raw_bytes,
            "stored_bytes": totals.stored_bytes,
            "new_bytes": done.packed.new_bytes,
            "smaller": smaller,
            "version": done.packed.published.version,
            "expires": done.packed.published.expires,
            "seconds": seconds,
        });
        output.result(object, || {
            let worst = done
                .tensors
                .iter()
                .max_by(|a, b| a.deviation.relative().total_cmp(&b.deviation.relative()));
            let worst = worst.filter(|own| own.deviation.squares > 0.0).map_or_else(
                || "exact".to_owned(),
                |own| {
                    let (relative, max) = (own.deviation.relative(), own.deviation.max);
                    format!(
                        "error {:.3} of the differences; {relative:.3}, {max:.2e} at most, in {}",
                        all.relative(),
                        own.name
                    )
                },
            );
            format!(
                "{name}:{tag}  @{}\n{} tensors changed, {} as in {}, {} not there\n{worst}\n\
                 {} raw, {} new ({:.1}% smaller), in {seconds:.2} s",
                done.packed.manifest,
                done.tensors.len(),
                done.unchanged,
                what.base,
                done.own,
                bytes::size(totals.raw_bytes),
                bytes::size(done.packed.new_bytes),
                smaller * 100.0,
            )
        })
    }
}

fn run_estimate(
    what: &What,
    global: &Global,
    runtime: &Handle,
    output: &Output,
) -> Result<(), Failure> {
    let method = what.method()?;
    let start = Instant::now();
    let (tuned, base) = what.models(global, runtime, output)?;
    let found = estimate(&tuned, &base, method)?;
    let seconds = start.elapsed().as_secs_f64();
    let smaller = 1.0 - found.new_bytes as f64 / found.raw_bytes.max(1) as f64;
    let of = found.deviation;
    let object = json!({
        "method": method.name(),
        "parameters": method.parameters(),
        "raw_bytes": found.raw_bytes,
        "new_bytes": found.new_bytes,
        "smaller": smaller,
        "changed": of.changed as f64 / of.elements.max(1) as f64,
        "relative_error": of.relative(),
        "sampled_bytes": found.sampled_bytes,
        "seconds": seconds,
    });
    output.result(object, || {
        format!(
            "{} against {}: about {} of {} ({:.1}% smaller), error {:.3} of the differences\n\
             from {} that were read, in {seconds:.2} s",
            what.tuned,
            what.base,
            bytes::size(found.new_bytes),
            bytes::size(found.raw_bytes),
            smaller * 100.0,
            of.relative(),
            bytes::size(found.sampled_bytes),
        )
    })
}
