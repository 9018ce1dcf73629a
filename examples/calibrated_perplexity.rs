//! Quantizes a model folder in memory with given calibration tokens, and measures its perplexity on a text:
//! what `tests/judges/perplexity.py` compares with other tools.
//!
//! ```text
//! calibrated_perplexity MODEL TOKENS TEXT CONTEXT METHOD BITS GROUP sym|asym
//! ```
//!
//! TOKENS is a JSON array of arrays of token ids; METHOD one of plain, rtn, hqq, gptq, gptq-stored,
//! gptq-activation, gptq-group-aware, awq. Prints one JSON object.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use candle_core::{Device, Tensor};
use tenpak::dequant::Float;
use tenpak::quantize::calibrate::{
    CalibrateOptions, Calibrated, CalibrationSamples, Layer, Solver, calibrate,
};
use tenpak::quantize::eval::{PerplexityOptions, perplexity};
use tenpak::quantize::lm::{LmError, Model, Text};
use tenpak::quantize::solve::gptq::Order;
use tenpak::quantize::solve::{Scheme, grid};
use tenpak::quantize::source::ModelSource;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, tokens, text, context, method, bits, group, kind] = arguments.as_slice() else {
        return Err("MODEL TOKENS TEXT CONTEXT METHOD BITS GROUP sym|asym".into());
    };
    let model = Model::open(ModelSource::folder(Path::new(model))?)?;
    let runs: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(tokens)?)?;
    let text = model.tokenizer()?.encode(&Text::read(Path::new(text))?)?;
    let mut options = PerplexityOptions::default();
    options.context = Some(context.parse()?);
    let gptq = |order| Solver::Gptq { damping: 0.01, order };
    let solver = match method.as_str() {
        "plain" => None,
        "rtn" => Some(Solver::RoundToNearest),
        "hqq" => Some(Solver::Hqq),
        "gptq" => Some(gptq(Order::Static)),
        "gptq-group-aware" => Some(gptq(Order::GroupAware)),
        "gptq-stored" => Some(gptq(Order::Stored)),
        "gptq-activation" => Some(gptq(Order::Activation)),
        "awq" => Some(Solver::Awq { clip: true }),
        other => return Err(format!("{other} is no method").into()),
    };
    let shrinks = std::env::var("SHRINKS").ok().map_or(Ok(0), |text| text.parse())?;
    let scheme = Scheme {
        bits: bits.parse()?,
        group: Some(group.parse()?),
        symmetric: kind == "sym",
        scale: Float::F16,
        shrinks,
    };
    let (mut layers, mut changed) = (HashMap::<String, Layer>::new(), HashMap::new());
    let start = Instant::now();
    let mut raised = 0;
    if let Some(solver) = solver {
        let draws = CalibrationSamples::of_runs(runs);
        let options = CalibrateOptions::new(solver);
        calibrate(&model, &draws, &options, &|_| Some(scheme), &mut |one| {
            match one {
                Calibrated::Layer(layer) => {
                    raised += layer.raised;
                    layers.insert(layer.name.clone(), layer);
                }
                Calibrated::Changed { name, values } => drop(changed.insert(name, values)),
                _ => {}
            }
            Ok(())
        })?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut block = |index: usize| {
        let mut block = model.block(index)?;
        for which in 0..4 {
            if let Some(norm) = block.norm_mut(which)
                && let Some(values) = changed.get(&norm.name)
            {
                let stored = Tensor::new(values.as_slice(), &Device::Cpu)?;
                norm.weight = Some((stored + f64::from(norm.offset))?);
            }
        }
        for linear in block.linears_mut() {
            if let Some(layer) = layers.get(&linear.name) {
                let values = grid::values(&layer.codes);
                linear.set(values)?;
            }
        }
        Ok::<_, LmError>(block)
    };
    let found = perplexity(&model, &text, &options, &mut block, &mut |_, _| {})?;
    let object = serde_json::json!({
        "method": method,
        "perplexity": found.perplexity,
        "tokens": found.tokens,
        "quantizing_seconds": seconds,
        "damping_raised": raised,
    });
    println!("{object}");
    Ok(())
}
