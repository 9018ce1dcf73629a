//! Calibration holds one block, the Hessian of its widest input and a fifth of both, however many blocks a model
//! has.
//!
//! Every allocation is counted. Beside that bound stand the activations of the tokens that go through a block
//! together, which lie in a file between, and buffers of products, which do not grow with the model.

#![cfg(feature = "cli")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use rand::{Rng, SeedableRng, rngs::StdRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tenpak::dequant::Float;
use tenpak::quantize::calibrate::{
    CalibrateOptions, CalibrationSamples, Solver, calibrate, measure,
};
use tenpak::quantize::lm::Model;
use tenpak::quantize::solve::Scheme;
use tenpak::quantize::solve::gptq::Order;
use tenpak::quantize::source::ModelSource;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most bytes that were held at a time, beyond those held before.
fn peak(of: impl FnOnce()) -> f64 {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    of();
    (MOST.load(Ordering::Relaxed) - before) as f64
}

/// Tokens of a run, and runs, all of which go through a block together.
const TOKENS: usize = 24;
const RUNS: usize = 4;
/// Buffers of products: less than the block and the Hessian that a mistake would hold twice.
const PRODUCTS: f64 = 1e6;

/// Hidden and intermediate width, and tokens of the vocabulary.
#[derive(Clone, Copy)]
struct Shape {
    hidden: usize,
    wide: usize,
    words: usize,
}

/// A Llama of so many blocks, its weights made of a seed.
fn write(dir: &Path, Shape { hidden, wide, words }: Shape, blocks: usize) {
    std::fs::create_dir_all(dir).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let mut data: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| {
        let value = |_| match shape.len() {
            1 => bf16::ONE.to_le_bytes(),
            _ => bf16::from_f32(random.gen_range(-0.05_f32..0.05)).to_le_bytes(),
        };
        let bytes = (0..shape.iter().product::<usize>()).flat_map(value).collect();
        data.push((name, shape.to_vec(), bytes));
    };
    add("model.embed_tokens.weight".to_owned(), &[words, hidden]);
    for block in 0..blocks {
        let name = |rest: &str| format!("model.layers.{block}.{rest}.weight");
        for part in ["q", "k", "v", "o"] {
            add(name(&format!("self_attn.{part}_proj")), &[hidden, hidden]);
        }
        for part in ["gate", "up"] {
            add(name(&format!("mlp.{part}_proj")), &[wide, hidden]);
        }
        add(name("mlp.down_proj"), &[hidden, wide]);
        add(name("input_layernorm"), &[hidden]);
        add(name("post_attention_layernorm"), &[hidden]);
    }
    add("model.norm.weight".to_owned(), &[hidden]);
    let views = data.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    let config = format!(
        r#"{{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":{hidden},
        "intermediate_size":{wide},"num_hidden_layers":{blocks},"num_attention_heads":8,
        "num_key_value_heads":8,"vocab_size":{words},"max_position_embeddings":256,"rms_norm_eps":1e-5,
        "tie_word_embeddings":true,"torch_dtype":"bfloat16","hidden_act":"silu","rope_theta":10000.0}}"#
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
}

#[test]
fn calibration_holds_a_block_and_a_hessian_whatever_the_model() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory");
    let tokens: Vec<u32> = (0..400).map(|at| (at * 13 + at / 7) % 64).collect();
    let draws = CalibrationSamples::of_tokens(&tokens, RUNS, TOKENS, 1).unwrap();
    let scheme =
        Scheme { bits: 4, group: Some(32), symmetric: false, scale: Float::F16, shrinks: 0 };
    // A Hessian that is larger than the block, and a block that is larger than every Hessian.
    let (wide, square) =
        (Shape { hidden: 128, wide: 1024, words: 64 }, Shape { hidden: 384, wide: 448, words: 64 });
    // An embedding and a head that are larger than both.
    let worded = Shape { words: 20_000, ..square };
    let gptq = Solver::Gptq { damping: 0.01, order: Order::Static };
    for (name, solver, shape) in [
        ("gptq", Some(gptq), wide),
        ("gptq", Some(gptq), square),
        ("awq", Some(Solver::Awq { clip: true }), square),
        ("nearest", Some(Solver::RoundToNearest), square),
        ("gptq", Some(gptq), worded),
        ("statistics", None, square),
        ("statistics", None, worded),
    ] {
        let Shape { hidden, wide, words } = shape;
        let run = |blocks: usize| {
            let dir = folder.join(format!("{hidden}-{wide}-{words}-{blocks}"));
            write(&dir, shape, blocks);
            let model = Model::open(ModelSource::folder(&dir).unwrap()).unwrap();
            peak(|| match solver {
                None => drop(measure(&model, &draws).unwrap()),
                Some(solver) => {
                    let mut options = CalibrateOptions::new(solver);
                    options.budget = 0;
                    calibrate(&model, &draws, &options, &|_| Some(scheme), &mut |_| Ok(()))
                        .unwrap();
                }
            })
        };
        let block = 4.0 * (4 * hidden * hidden + 3 * hidden * wide) as f64;
        // Statistics need none.
        let hessian = if solver.is_some() { 4.0 * (hidden.max(wide) as f64).powi(2) } else { 0.0 };
        let together = (RUNS * TOKENS) as f64;
        let activations = 4.0 * together * (4 * hidden + 3 * wide) as f64;
        let bound = 1.2 * (block + hessian) + activations + PRODUCTS;
        // The first makes what each thread keeps for its products.
        run(1);
        let (one, three) = (run(1), run(3));
        println!(
            "{name}: {:.2} and {:.2} of a block ({block}) and a Hessian ({hessian}) beside activations ({activations}), {:.0} beyond both",
            (one - activations) / (block + hessian),
            (three - activations) / (block + hessian),
            three - activations - 1.2 * (block + hessian),
        );
        assert!(three < 1.02 * one + 200_000.0, "{name}: {three} with 3 blocks, {one} with 1");
        assert!(three < bound, "{name}: {three} of {bound}");
    }
}
