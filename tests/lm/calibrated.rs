//! Calibration on the trained model: what solvers make of it predicts almost as well, better than
//! rounding, and is the same at any number of threads.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use tenpak::dequant::Float;
use tenpak::quantize::calibrate::{
    BUILT_IN, CalibrateError, CalibrateOptions, Calibrated, CalibrationSamples, Layer, Solver,
    allocate, calibrate, measure, sensitivities,
};
use tenpak::quantize::eval::{PerplexityOptions, perplexity};
use tenpak::quantize::lm::{Block, Context, LmError, Model, NoTap};
use tenpak::quantize::solve::gptq::Order;
use tenpak::quantize::solve::{Scheme, grid};
use tenpak::quantize::source::ModelSource;

use super::{families, fixture};

fn open(name: &str) -> Model {
    Model::open(ModelSource::folder(&fixture(name)).unwrap()).unwrap()
}

fn scheme(bits: u32) -> Scheme {
    Scheme { bits, group: Some(128), symmetric: false, scale: Float::F16, shrinks: 0 }
}

const GPTQ: Solver = Solver::Gptq { damping: 0.01, order: Order::Static };

/// What calibration made: layers, and other tensors that changed.
#[derive(Default, Debug, PartialEq)]
struct Made {
    layers: Vec<Layer>,
    changed: HashMap<String, Vec<f32>>,
}

/// Runs of tokens and their length: few, as a debug build is slow.
const FEW: (usize, usize) = (12, 128);

fn calibrated(
    model: &Model,
    solver: Solver,
    size: (usize, usize),
    budget: usize,
    scheme: &dyn Fn(&str) -> Option<Scheme>,
) -> Result<Made, CalibrateError> {
    let tokenizer = model.tokenizer()?;
    let draws = CalibrationSamples::new(BUILT_IN, &tokenizer, model.config(), size, 1)?;
    let mut options = CalibrateOptions::new(solver);
    options.budget = budget;
    let mut made = Made::default();
    calibrate(model, &draws, &options, scheme, &mut |one| {
        match one {
            Calibrated::Layer(layer) => made.layers.push(layer),
            Calibrated::Changed { name, values } => drop(made.changed.insert(name, values)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(made)
}

/// The perplexity with these in place of the model's own, on the beginning of the test text.
fn measured(model: &Model, made: &Made) -> f64 {
    let text = std::fs::read_to_string(fixture("test.txt")).unwrap();
    let tokens = model.tokenizer().unwrap().encode(&text).unwrap();
    measured_on(model, made, &tokens[..2048], 256)
}

/// A block with these in place of the model's own.
fn put(model: &Model, made: &Made, index: usize) -> Result<Block, LmError> {
    let mut block = model.block(index)?;
    for which in 0..4 {
        let Some(norm) = block.norm_mut(which) else { continue };
        if let Some(values) = made.changed.get(&norm.name) {
            let stored = Tensor::new(values.as_slice(), &Device::Cpu)?;
            norm.weight = Some((stored + f64::from(norm.offset))?);
        }
        let bias = norm.name.replace(".weight", ".bias");
        if let Some(values) = made.changed.get(&bias) {
            norm.bias = Some(Tensor::new(values.as_slice(), &Device::Cpu)?);
        }
    }
    for linear in block.linears_mut() {
        if let Some(values) = made.changed.get(&format!("{}.bias", linear.name)) {
            linear.bias = Some(Tensor::new(values.as_slice(), &Device::Cpu)?);
        }
        if let Some(layer) = made.layers.iter().find(|layer| layer.name == linear.name) {
            let values = grid::values(&layer.codes);
            linear.set(values)?;
        }
    }
    Ok(block)
}

/// The states that leave the last block.
fn states(model: &Model, made: &Made, tokens: &[u32]) -> Tensor {
    let context = Context::new(model.config(), tokens.len()).unwrap();
    let mut state = model.embed(&[tokens]).unwrap().remove(0);
    for index in 0..model.config().layers {
        let block = put(model, made, index).unwrap();
        state = block.forward(&state, &context, &mut NoTap).unwrap();
    }
    state
}

fn measured_on(model: &Model, made: &Made, tokens: &[u32], context: usize) -> f64 {
    let mut options = PerplexityOptions::default();
    options.context = Some(context);
    let mut block = |index: usize| put(model, made, index);
    perplexity(model, tokens, &options, &mut block, &mut |_, _| {}).unwrap().perplexity
}

#[test]
fn calibrated_methods_beat_rounding() {
    let model = open("base");
    // The blocks after the first, and two bits, so that it shows; a debug build is slow.
    let some = |name: &str| (!name.contains(".0.")).then(|| scheme(2));
    let of = |solver| {
        // A Hessian of few tokens says little of 512 columns.
        let size = if solver == GPTQ { (40, 256) } else { FEW };
        let made = calibrated(&model, solver, size, 1 << 30, &some).unwrap();
        assert_eq!(made.layers.len(), 14);
        measured(&model, &made)
    };
    let plain = measured(&model, &Made::default());
    let rounded = of(Solver::RoundToNearest);
    let (gptq, awq, hqq) = (of(GPTQ), of(Solver::Awq { clip: true }), of(Solver::Hqq));
    println!("plain {plain:.3}, rounded {rounded:.3}, gptq {gptq:.3}, awq {awq:.3}, hqq {hqq:.3}");
    let lost = rounded - plain;
    assert!(lost > 0.0 && gptq - plain < 0.7 * lost, "gptq {gptq}, rounded {rounded}");
    assert!(awq - plain < 0.9 * lost, "awq {awq}, rounded {rounded}");
    assert!(hqq - plain < lost, "hqq {hqq}, rounded {rounded}");
}

#[test]
fn neither_threads_nor_where_states_lie_change_a_byte() {
    let model = open("base");
    let some = |name: &str| name.contains(".0.self_attn").then(|| scheme(4));
    let run = |threads: usize, budget: usize, solver: Solver| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| calibrated(&model, solver, FEW, budget, &some).unwrap())
    };
    for solver in [GPTQ, Solver::Awq { clip: true }] {
        let one = run(1, 1 << 30, solver);
        assert_eq!(one.layers.len(), 4);
        assert_eq!(run(3, 100_000, solver), one);
    }
}

#[test]
fn layers_left_out_stay_and_scales_are_folded_whole() {
    let model = open("base");
    let made = calibrated(&model, Solver::Awq { clip: false }, FEW, 1 << 30, &|_| Some(scheme(8)))
        .unwrap();
    // At 8 bits nearly nothing is lost: a scale that is not undone would show.
    let (plain, awq) = (measured(&model, &Made::default()), measured(&model, &made));
    assert!((awq / plain - 1.0).abs() < 3e-3, "{awq} for {plain}");
    assert!(!made.changed.is_empty() && made.changed.keys().all(|name| name.contains("layernorm")));
    let only = |name: &str| name.ends_with("gate_proj").then(|| scheme(4));
    let made = calibrated(&model, Solver::Awq { clip: true }, FEW, 1 << 30, &only).unwrap();
    assert!(made.changed.is_empty(), "up_proj reads that norm and stays as it is");
    assert_eq!(made.layers.len(), 3);
}

/// Nothing says what became of the rows of a layer that stays as it is.
#[test]
fn a_layer_that_stays_gives_nothing_scaled() {
    let model = open("base");
    let all = |name: &str| name.contains(".1.mlp.").then(|| scheme(8));
    let awq = Solver::Awq { clip: false };
    let whole = calibrated(&model, awq, FEW, 1 << 30, &all).unwrap();
    let made = calibrated(&model, awq, FEW, 1 << 30, &|name| {
        all(name).filter(|_| name.ends_with("down_proj"))
    })
    .unwrap();
    assert_eq!((whole.layers.len(), made.layers.len(), made.changed.len()), (3, 1, 0));
    let down = |made: &Made| made.layers.iter().find(|own| own.name.contains("down")).cloned();
    assert_ne!(down(&whole), down(&made), "up_proj gives its rows scaled where it is solved too");
    let (plain, awq) = (measured(&model, &Made::default()), measured(&model, &made));
    assert!((awq / plain - 1.0).abs() < 1e-3, "{awq} for {plain}");
}

#[test]
fn bits_are_allocated_by_what_layers_suffer() {
    let model = open("base");
    let tokenizer = model.tokenizer().unwrap();
    let draws = CalibrationSamples::new(BUILT_IN, &tokenizer, model.config(), (8, 128), 1).unwrap();
    let statistics = measure(&model, &draws).unwrap();
    let layers = sensitivities(&model, &statistics, &|_| true, &scheme(4), &[2, 3, 4, 8]).unwrap();
    assert_eq!((statistics.layers.len(), layers.len()), (21, 12));
    let found = allocate(&layers, 3.5).unwrap();
    assert!(found.average <= 3.5 && found.average > 3.0);
    let bits: HashMap<_, _> = found.bits.iter().cloned().collect();
    for index in 0..3 {
        let of = |name: &str| bits[&format!("model.layers.{index}.{name}")];
        assert_eq!(of("self_attn.q_proj"), of("self_attn.v_proj"), "fused");
        assert_eq!(of("mlp.gate_proj"), of("mlp.up_proj"), "fused");
    }
    let of_bits = |bits: &dyn Fn(&str) -> u32| {
        let made = calibrated(&model, Solver::RoundToNearest, FEW, 1 << 30, &|name| {
            Some(scheme(bits(name)))
        });
        measured(&model, &made.unwrap())
    };
    let (mixed, three) = (of_bits(&|name| bits[name]), of_bits(&|_| 3));
    assert!(mixed < three, "{mixed} at {} bits, {three} at 3", found.average);
}

#[test]
fn an_encoder_is_calibrated() {
    let model = open("tiny/bert");
    let tokens: Vec<u32> = (0..600).map(|at| (at * 7 + at / 5) % 48).collect();
    let draws = CalibrationSamples::of_tokens(&tokens, 12, 40, 3).unwrap();
    let run = |solver| {
        let (mut layers, mut changed) = (Vec::new(), Vec::new());
        let all = |_: &str| Some(Scheme { group: None, ..scheme(4) });
        let options = CalibrateOptions::new(solver);
        calibrate(&model, &draws, &options, &all, &mut |one| {
            match one {
                Calibrated::Layer(layer) => layers.push(layer),
                Calibrated::Changed { name, .. } => changed.push(name),
                _ => {}
            }
            Ok(())
        })
        .map(|()| (layers, changed))
    };
    let (gptq, rounded) = (run(GPTQ).unwrap().0, run(Solver::RoundToNearest).unwrap().0);
    assert_eq!((gptq.len(), rounded.len()), (12, 12));
    let error = |layers: &[Layer]| layers.iter().map(|layer| layer.error).sum::<f64>();
    assert!(error(&gptq) < 0.8 * error(&rounded), "{} {}", error(&gptq), error(&rounded));
    // No norm of it feeds linear layers only: what can be scaled are the rows of v, and their bias.
    let (awq, changed) = run(Solver::Awq { clip: true }).unwrap();
    assert_eq!((awq.len(), changed.is_empty()), (12, false));
    assert!(changed.iter().all(|name| name.ends_with("attention.self.value.bias")), "{changed:?}");
}

/// Tokens as they come, for models that know no words.
fn any_tokens(vocabulary: usize) -> Vec<u32> {
    (0..2400_u64)
        .map(|at| (at * at % 1009 + at * 7) % vocabulary as u64)
        .map(|id| id as u32)
        .collect()
}

/// A text of them that differs from others.
fn any_text(vocabulary: usize, which: u64) -> Vec<u32> {
    let one = |at: u64| ((which * 131 + at * at * 7 + at * 3 * which) % vocabulary as u64) as u32;
    (0..48).map(one).collect()
}

/// Calibration of models of every kind of piece, at eight bits: a scale that is not undone, an expert that is fed
/// the wrong tokens, or a norm that is not what it is taken for would show.
#[test]
fn every_kind_of_block_is_calibrated() {
    let solvers = [GPTQ, Solver::RoundToNearest, Solver::Awq { clip: false }];
    // Whether AWQ changes what is no weight, too: a norm or a bias.
    for (family, changes) in [
        ("gemma2", true),
        ("starcoder2", true),
        ("mixtral", true),
        ("qwen2_moe", true),
        ("deepseek_v3", true),
        ("olmo2", false),
        ("phi", true),
        ("phi3", true),
        ("cohere", true),
        ("falcon", true),
        ("bloom", true),
        ("gpt2", true),
        ("gptj", true),
        ("opt", true),
        ("llama4_text", true),
        ("granitemoe", true),
        ("gpt_neox", true),
        ("gpt_oss", true),
        ("roberta", true),
    ] {
        let model = families::open(family);
        let tokens = any_tokens(model.config().vocabulary);
        let draws = CalibrationSamples::of_tokens(&tokens, 24, 40, 3).unwrap();
        let eight = |_: &str| Some(Scheme { group: None, scale: Float::F32, ..scheme(8) });
        // Over several texts: in a single one, a router's near tie may go the other way, and all behind it.
        let texts: Vec<Vec<u32>> =
            (0..6).map(|text| any_text(model.config().vocabulary, text)).collect();
        let plain: Vec<Tensor> =
            texts.iter().map(|text| states(&model, &Made::default(), text)).collect();
        // Of the token in the middle: those that a rounded router's input sends elsewhere are far off.
        let apart = |made: &Made| {
            let rows = |x: &Tensor| x.sqr().unwrap().sum(1).unwrap().to_vec1::<f32>().unwrap();
            let one = |(text, plain): (&Vec<u32>, &Tensor)| {
                let states = states(&model, made, text);
                let (off, whole) = (rows(&(states - plain).unwrap()), rows(plain));
                let mut apart: Vec<f32> =
                    off.iter().zip(&whole).map(|(a, b)| (a / b).sqrt()).collect();
                apart.sort_by(f32::total_cmp);
                apart[apart.len() / 2]
            };
            texts.iter().zip(&plain).map(one).sum::<f32>() / texts.len() as f32
        };
        let mut costs = Vec::new();
        for solver in solvers {
            let mut made = Made::default();
            let run =
                calibrate(&model, &draws, &CalibrateOptions::new(solver), &eight, &mut |one| {
                    match one {
                        Calibrated::Layer(layer) => made.layers.push(layer),
                        Calibrated::Changed { name, values } => {
                            drop(made.changed.insert(name, values))
                        }
                        _ => {}
                    }
                    Ok(())
                });
            let awq = matches!(solver, Solver::Awq { .. });
            run.unwrap_or_else(|e| panic!("{family}, {solver:?}: {e}"));
            assert_eq!(awq && changes, !made.changed.is_empty(), "{family}, {solver:?}");
            let layers: usize = (0..model.config().layers)
                .map(|index| model.block(index).unwrap().linears().len())
                .sum();
            assert_eq!(made.layers.len(), layers, "{family}");
            let of_experts = |index: usize| {
                let block = model.block(index).unwrap();
                (0..block.groups().len()).any(|group| block.expert(group).is_some())
            };
            let told = made.layers.iter().any(|layer| layer.tokens.is_some());
            assert_eq!(told, (0..model.config().layers).any(of_experts), "{family}, {solver:?}");
            let off = apart(&made);
            println!("{family} {solver:?} {off}");
            assert!(off < 0.25, "{family}, {solver:?}: {off}");
            costs.push(off);
        }
        // GPTQ of as few tokens as this is not worse than rounding.
        assert!(costs[0] < 1.1 * costs[1], "{family}: {costs:?}");
        // What statistics say of every layer, and ties of what engines fuse.
        let statistics = measure(&model, &draws).unwrap();
        let found =
            sensitivities(&model, &statistics, &|_| true, &eight("").unwrap(), &[4, 8]).unwrap();
        let tied: usize = found.iter().map(|own| own.layers.len()).sum();
        assert_eq!(tied, statistics.layers.len(), "{family}");
    }
}

/// Experts that are not held together are read, changed and put away one by one, and come to the same.
#[test]
fn experts_that_do_not_fit_come_to_the_same() {
    for family in ["mixtral", "gpt_oss", "qwen2_moe"] {
        let model = families::open(family);
        let tokens = any_tokens(model.config().vocabulary);
        let draws = CalibrationSamples::of_tokens(&tokens, 24, 40, 3).unwrap();
        let away = families::open(family).with_room(0);
        let is_expert = |name: &str| name.contains(".experts.");
        let block = away.block(1).unwrap();
        assert!(block.linears().iter().all(|own| own.is_held() != is_expert(&own.name)));
        assert!(model.block(1).unwrap().linears().iter().all(|own| own.is_held()));
        assert_eq!(
            states(&away, &Made::default(), &tokens[..48]).to_vec2::<f32>().unwrap(),
            states(&model, &Made::default(), &tokens[..48]).to_vec2::<f32>().unwrap()
        );
        for solver in [GPTQ, Solver::Hqq, Solver::Awq { clip: true }] {
            let four = |_: &str| Some(Scheme { group: None, ..scheme(4) });
            let run = |model: &Model| {
                let mut made = Made::default();
                calibrate(model, &draws, &CalibrateOptions::new(solver), &four, &mut |one| {
                    match one {
                        Calibrated::Layer(layer) => made.layers.push(layer),
                        Calibrated::Changed { name, values } => {
                            drop(made.changed.insert(name, values))
                        }
                        _ => {}
                    }
                    Ok(())
                })
                .unwrap();
                made
            };
            assert!(run(&away) == run(&model), "{family}, {solver:?}");
        }
        assert_eq!(measure(&away, &draws).unwrap(), measure(&model, &draws).unwrap(), "{family}");
    }
}

/// An expert that few tokens go to is rounded to the nearest, and says how many they were.
#[test]
fn an_expert_of_few_tokens_is_rounded() {
    let model = families::open("mixtral");
    let tokens: Vec<u32> = (0..600).map(|at| at % 3).collect();
    let draws = CalibrationSamples::of_tokens(&tokens, 4, 40, 3).unwrap();
    let four = |_: &str| Some(Scheme { group: None, ..scheme(4) });
    let mut layers = Vec::new();
    calibrate(&model, &draws, &CalibrateOptions::new(GPTQ), &four, &mut |one| {
        if let Calibrated::Layer(layer) = one {
            layers.push(layer);
        }
        Ok(())
    })
    .unwrap();
    let (few, many): (Vec<&Layer>, Vec<&Layer>) = layers
        .iter()
        .filter(|layer| layer.tokens.is_some())
        .partition(|layer| layer.tokens < Some(Layer::LEAST));
    assert!(!few.is_empty() && !many.is_empty(), "{} and {}", few.len(), many.len());
    assert!(
        few.iter().all(|layer| layer.damping == 0.0)
            && many.iter().all(|layer| layer.damping > 0.0)
    );
    let sum = |index: usize, end: &str| -> usize {
        let own = layers.iter().filter(|layer| layer.name.contains(&format!(".{index}.block")));
        own.filter(|layer| layer.name.ends_with(end)).filter_map(|layer| layer.tokens).sum()
    };
    let model = model.config();
    for index in 0..model.layers {
        assert_eq!(
            (sum(index, "w1") % 160, sum(index, "w1")),
            (0, sum(index, "w2")),
            "every token goes to as many"
        );
    }
}

#[test]
fn what_cannot_be_calibrated_is_named() {
    let model = open("base");
    let tokenizer = model.tokenizer().unwrap();
    let short = CalibrationSamples::new("a few words", &tokenizer, model.config(), (8, 128), 1)
        .unwrap_err();
    assert!(short.to_string().contains("give a longer one"), "{short}");
    let nine =
        calibrated(&model, GPTQ, FEW, 1 << 30, &|_| Some(scheme(9))).unwrap_err().to_string();
    assert!(nine.contains("model.layers.0.self_attn.q_proj: codes have 2 to 8 bits"), "{nine}");
}
