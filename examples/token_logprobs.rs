//! What a model folder, quantized or not, says of given tokens: what `tests/judges/engines.py` compares engines
//! with. Nothing is cached: for small models.
//!
//! ```text
//! token_logprobs MODEL RUNS
//! ```
//!
//! RUNS is a JSON array of arrays of token ids. Prints one JSON object: for each run, and each of its tokens but
//! the first, the logarithm of its probability (nats), the likeliest token, and the logarithm of that one's; of a model
//! that predicts nothing its last hidden states.

use std::error::Error;
use std::path::Path;

use serde_json::json;
use tenpak::quantize::lm::{Context, Model, NoTap};
use tenpak::quantize::source::ModelSource;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, runs] = arguments.as_slice() else { return Err("MODEL RUNS".into()) };
    let model = Model::open(ModelSource::folder(Path::new(model))?)?;
    let runs: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(runs)?)?;
    let head = if model.config().is_causal() { Some(model.head()?) } else { None };
    let (mut said, mut last) = (Vec::new(), Vec::new());
    for run in &runs {
        let context = Context::new(model.config(), run.len())?;
        let mut states = model.embed(&[run])?.pop().ok_or("no states")?;
        for index in 0..model.config().layers {
            states = model.block(index)?.forward(&states, &context, &mut NoTap)?;
        }
        let Some(head) = &head else {
            last.push(states.to_vec2::<f32>()?);
            continue;
        };
        let mut tokens = Vec::new();
        for (logits, token) in head.logits(&states)?.to_vec2::<f32>()?.iter().zip(&run[1..]) {
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            let best = best.ok_or("no vocabulary")?;
            let top = f64::from(logits[best]);
            let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - top).exp()).sum();
            let own = logits.get(*token as usize).ok_or("a token beyond the vocabulary")?;
            tokens.push(json!([f64::from(*own) - top - sum.ln(), best, -sum.ln()]));
        }
        said.push(tokens);
    }
    println!("{}", json!({ "runs": said, "states": last }));
    Ok(())
}
