//! Gradients agree with differences of what the model's predictions cost.

use candle_core::{Device, Tensor};
use tenpak::quantize::lm::{Block, Context, Model, NoTap};
use tenpak::quantize::source::ModelSource;

use super::{families, fixture};

/// What `next` cost after the states went through the blocks from `first` on, in nats.
fn cost(model: &Model, blocks: &[Block], state: &Tensor, next: &[u32]) -> f64 {
    let context = Context::new(model.config(), state.dim(0).unwrap()).unwrap();
    let mut state = state.clone();
    for block in blocks {
        state = block.forward(&state, &context, &mut NoTap).unwrap();
    }
    let state = state.narrow(0, 0, next.len()).unwrap();
    model.head().unwrap().losses(&state, next).unwrap().into_iter().sum()
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let known = ["base", "tiny/llama", "tiny/mistral", "tiny/qwen2", "tiny/qwen3"];
    let recorded =
        ["gemma2", "gpt2", "falcon", "phi", "stablelm", "glm4", "olmo2", "granite", "cohere"];
    let opened = known
        .into_iter()
        .map(|name| (name, Model::open(ModelSource::folder(&fixture(name)).unwrap()).unwrap()));
    for (name, model) in opened.chain(recorded.map(|name| (name, families::open(name)))) {
        let vocabulary = model.config().vocabulary as u32;
        let tokens: Vec<u32> = (0..24).map(|at| (at * 37 + 5) % vocabulary).collect();
        let next = &tokens[1..];
        let context = Context::new(model.config(), tokens.len()).unwrap();
        let blocks: Vec<Block> =
            (0..model.config().layers).map(|index| model.block(index).unwrap()).collect();
        let mut entering = vec![model.embed(&[&tokens]).unwrap().remove(0)];
        for block in &blocks {
            let last = entering.last().unwrap();
            entering.push(block.forward(last, &context, &mut NoTap).unwrap());
        }
        let mut gradient = model.head().unwrap().gradient(&entering[blocks.len()], next).unwrap();
        for (index, block) in blocks.iter().enumerate().rev() {
            let state = &entering[index];
            let found = block.gradients(state, &context, &gradient).unwrap().unwrap();
            // Along the gradient itself, where the slope is steepest.
            let length = found.input.sqr().unwrap().sum_all().unwrap();
            let length = f64::from(length.to_scalar::<f32>().unwrap()).sqrt();
            let step = 2e-3 / length;
            let moved = |by: f64| (state + (&found.input * (by * step)).unwrap()).unwrap();
            let slope = cost(&model, &blocks[index..], &moved(1.0), next)
                - cost(&model, &blocks[index..], &moved(-1.0), next);
            let told = 2.0 * step * length * length;
            assert!((slope / told - 1.0).abs() < 0.05, "{name}, block {index}: {slope} for {told}");
            // Outputs of layers are moved by a bias.
            for (at, output) in found.outputs.iter().enumerate() {
                let sums: Vec<f32> = output.sum(0).unwrap().to_vec1().unwrap();
                let length = sums.iter().map(|sum| f64::from(*sum).powi(2)).sum::<f64>().sqrt();
                if length < 1e-2 {
                    continue;
                }
                let step = 4e-3 / length;
                let with = |by: f64| {
                    let mut blocks = blocks[index..].to_vec();
                    let mut linears = blocks[0].linears_mut();
                    let bias: Vec<f32> =
                        sums.iter().map(|sum| (f64::from(*sum) * by * step) as f32).collect();
                    let bias = Tensor::new(bias.as_slice(), &Device::Cpu).unwrap();
                    linears[at].bias = Some(match &linears[at].bias {
                        Some(own) => (own + bias).unwrap(),
                        None => bias,
                    });
                    cost(&model, &blocks, state, next)
                };
                let (slope, told) = (with(1.0) - with(-1.0), 2.0 * step * length * length);
                assert!(
                    (slope / told - 1.0).abs() < 0.1,
                    "{name}, block {index}, layer {at}: {slope} for {told}"
                );
            }
            gradient = found.input;
        }
    }
}
