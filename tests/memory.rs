//! Calibration holds one block, one Hessian and what factoring that takes, however many blocks a model has.
//!
//! Every allocation is counted; the states of the calibration text lie in a file, and what one run of it takes
//! is stated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::bf16;
use rand::{Rng, SeedableRng, rngs::StdRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tenpak::calibrate::{CalibrateOptions, Draws, Solver, calibrate, measure};
use tenpak::lm::{Folder, Model};
use tenpak::quant::Float;
use tenpak::solve::Scheme;
use tenpak::solve::gptq::Order;

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

const HIDDEN: usize = 256;
const WIDE: usize = 704;
const TOKENS: usize = 32;

/// A Llama of so many blocks, its weights made of a seed.
fn write(dir: &Path, blocks: usize) {
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
    add("model.embed_tokens.weight".to_owned(), &[64, HIDDEN]);
    for block in 0..blocks {
        let name = |rest: &str| format!("model.layers.{block}.{rest}.weight");
        for part in ["q", "k", "v", "o"] {
            add(name(&format!("self_attn.{part}_proj")), &[HIDDEN, HIDDEN]);
        }
        for part in ["gate", "up"] {
            add(name(&format!("mlp.{part}_proj")), &[WIDE, HIDDEN]);
        }
        add(name("mlp.down_proj"), &[HIDDEN, WIDE]);
        add(name("input_layernorm"), &[HIDDEN]);
        add(name("post_attention_layernorm"), &[HIDDEN]);
    }
    add("model.norm.weight".to_owned(), &[HIDDEN]);
    let views = data.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    let config = format!(
        r#"{{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":{HIDDEN},
        "intermediate_size":{WIDE},"num_hidden_layers":{blocks},"num_attention_heads":8,
        "num_key_value_heads":8,"vocab_size":64,"max_position_embeddings":256,"rms_norm_eps":1e-5,
        "tie_word_embeddings":true,"torch_dtype":"bfloat16","hidden_act":"silu","rope_theta":10000.0}}"#
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
}

#[test]
fn calibration_holds_one_block_whatever_the_model() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory");
    let open = |blocks: usize| {
        let dir = folder.join(blocks.to_string());
        write(&dir, blocks);
        Model::open(Box::new(Folder::open(&dir).unwrap())).unwrap()
    };
    let tokens: Vec<u32> = (0..400).map(|at| (at * 13 + at / 7) % 64).collect();
    let draws = Draws::of_tokens(&tokens, 4, TOKENS, 1).unwrap();
    let scheme =
        Scheme { bits: 4, group: Some(32), symmetric: false, scale: Float::F16, shrinks: 0 };
    // Numbers of f32: a block, the widest Hessian, what one run of tokens makes of the widest layers.
    let block = 4.0 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * WIDE) as f64;
    let hessian = 4.0 * (WIDE * WIDE) as f64;
    let activations = 4.0 * (TOKENS * (8 * HIDDEN + 6 * WIDE) + 8 * TOKENS * TOKENS * 4) as f64;
    // Beside the Hessian there are, while it is factored, its permuted copy and the inverse; products have
    // buffers of a size of their own, whatever the model's.
    let bound = 1.2 * (block + 3.0 * hessian) + activations + 6e6;
    let gptq = Solver::Gptq { damping: 0.01, order: Order::GroupAware };
    for (name, solver) in [
        ("gptq", Some(gptq)),
        ("awq", Some(Solver::Awq { clip: true })),
        ("nearest", Some(Solver::Nearest)),
        ("statistics", None),
    ] {
        let run = |blocks: usize| {
            let model = open(blocks);
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
        let (one, three) = (run(1), run(3));
        println!(
            "{name}: {:.2} and {:.2} of a block ({block}) and a Hessian ({hessian}); activations {activations}",
            one / (block + hessian),
            three / (block + hessian)
        );
        assert!(three < 1.02 * one + 200_000.0, "{name}: {three} with 3 blocks, {one} with 1");
        assert!(three < bound, "{name}: {three} of {bound}");
    }
}
