//! How tensor parallelism splits a tensor, by its name, and the grid that suits the split.
//!
//! The packer cuts with [`choose_grid`], the loader shards with [`split_axis`]: both read the same
//! rule, so that shards of 1, 2, 4 or 8 ranks begin and end on chunk borders where the shape allows.
//! Integers only: the same tensor is cut alike on every machine.

use crate::format::dtype::{Dtype, Shape};
use crate::format::grid::Grid;

/// Decoded bytes that a chunk should have.
const CHUNK: u64 = 1 << 20;
/// Smaller matrices are plain runs: each rank fetches them whole.
const MIN_MATRIX: u64 = 256 << 10;
/// Borders are kept for this many ranks and its divisors.
const RANKS: u64 = 8;
/// Rows that quantizers and kernels like to find together.
const ROW_MULTIPLE: u64 = 32;

/// The axis on which ranks divide a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SplitAxis {
    /// The last but one dimension (the only one of a vector): outputs of a layer, or a vocabulary.
    Rows,
    /// The last dimension: inputs of a layer.
    Columns,
    /// Not at all: every rank needs it.
    ArtifactGraph,
}

impl SplitAxis {
    /// The dimension that is split, of a shape that [`split_axis`] was asked about.
    pub fn dimension(self, shape: &Shape) -> Option<usize> {
        match (self, shape.dims().len()) {
            (Self::ArtifactGraph, _) | (_, 0) => None,
            (Self::Rows, 1) => Some(0),
            (Self::Rows, rank) => Some(rank - 2),
            (Self::Columns, rank) => Some(rank - 1),
        }
    }

    fn transposed(self) -> Self {
        match self {
            Self::Rows => Self::Columns,
            Self::Columns => Self::Rows,
            Self::ArtifactGraph => Self::ArtifactGraph,
        }
    }
}

/// Layers whose weight `[out, in]` is split by inputs; their sum over ranks is the output.
const BY_INPUT: &[&str] = &[
    "o_proj",
    "out_proj",
    "down_proj",
    "fc2",
    "w2",
    "wo",
    "c_proj",
    "dense_4h_to_h",
    "linear_2",
    "fc_out",
    "ff_out",
    "attn_out",
    "proj_out",
    "lin2",
    "out_lin",
];
/// Layers that every rank keeps whole: routers and low-rank inputs.
const REPLICATED: &[&str] =
    &["gate", "router", "shared_expert_gate", "q_a_proj", "kv_a_proj_with_mqa", "wkv_a", "wq_a"];
/// Layers known to be split by outputs, beyond what matrices do anyway: it decides for biases and
/// for tensors of more than two dimensions.
const BY_OUTPUT: &[&str] = &[
    "q_proj",
    "k_proj",
    "v_proj",
    "qkv_proj",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "fc1",
    "w1",
    "w3",
    "w13",
    "wq",
    "wk",
    "wv",
    "wqkv",
    "Wqkv",
    "c_fc",
    "c_attn",
    "query",
    "key",
    "value",
    "query_key_value",
    "dense_h_to_4h",
    "in_proj",
    "q_b_proj",
    "kv_b_proj",
    "linear_1",
    "fc_in",
    "q_lin",
    "k_lin",
    "v_lin",
    "lin1",
    "lm_head",
    "embed_out",
    "intermediate.dense",
];

/// What kind of parameter of its layer a tensor is.
#[derive(PartialEq)]
enum Parameter {
    Weight,
    Bias,
    /// Stored `[in, out]`: GPTQ and AWQ.
    Transposed,
    /// One number per input.
    PerInput,
}

/// How ranks divide the tensor called `name`: as vLLM does.
///
/// Queries, keys, values, gate, up, embeddings and heads by rows; o, down, out_proj, fc2, w2 by
/// columns; matrices of unknown names by rows; vectors whole, but for the biases of layers that are
/// split by rows. The last two dimensions count; experts before them are never split.
pub fn split_axis(name: &str, shape: &Shape) -> SplitAxis {
    let rank = shape.dims().len();
    let (layer, parameter) = parse(name);
    let known = layer_axis(layer);
    let weight = match (known, rank) {
        (Some(axis), _) => axis,
        (None, 2) => SplitAxis::Rows,
        (None, _) => SplitAxis::ArtifactGraph,
    };
    let axis = match parameter {
        Parameter::Weight => weight,
        Parameter::Transposed => weight.transposed(),
        // A bias is `[out]`, that of experts `[experts, out]`; split like outputs, or added once.
        Parameter::Bias => match (weight, rank) {
            (SplitAxis::Rows, 1) => SplitAxis::Rows,
            (SplitAxis::Rows, _) => SplitAxis::Columns,
            _ => SplitAxis::ArtifactGraph,
        },
        Parameter::PerInput if weight == SplitAxis::Columns => SplitAxis::Rows,
        Parameter::PerInput => SplitAxis::ArtifactGraph,
    };
    match (axis, rank) {
        (_, 0) => SplitAxis::ArtifactGraph,
        // Vectors: a bias, or one scale per output of a quantized layer.
        (SplitAxis::Columns, 1) => SplitAxis::ArtifactGraph,
        (axis, _) => axis,
    }
}

/// The layer's path, without the parameter, and what the parameter is.
fn parse(name: &str) -> (&str, Parameter) {
    let (layer, last) = name.rsplit_once('.').unwrap_or(("", name));
    match last {
        "bias" => (layer, Parameter::Bias),
        "qweight" | "qzeros" | "scales" => (layer, Parameter::Transposed),
        "g_idx" => (layer, Parameter::PerInput),
        "input_scale" | "weight_scale_2" => ("gate", Parameter::Weight),
        _ if last.starts_with("weight") => (layer, Parameter::Weight),
        // A parameter that carries its layer's name itself, as fused experts do.
        _ => match last.strip_suffix("_bias") {
            Some(_) if !last.is_empty() => {
                let layer = &name[..name.len() - "_bias".len()];
                (layer, Parameter::Bias)
            }
            _ => (name, Parameter::Weight),
        },
    }
}

fn layer_axis(layer: &str) -> Option<SplitAxis> {
    let last = layer.rsplit('.').next().unwrap_or(layer);
    let is = |names: &[&str]| names.iter().any(|&n| n == last || ends_with_path(layer, n));
    if is(REPLICATED) {
        Some(SplitAxis::ArtifactGraph)
    } else if is(BY_INPUT) || ends_with_path(layer, "output.dense") || is_attention_dense(layer) {
        Some(SplitAxis::Columns)
    } else if is(BY_OUTPUT) {
        Some(SplitAxis::Rows)
    } else {
        None
    }
}

/// GPT-NeoX, Falcon and Phi call the output of attention plainly `dense`.
fn is_attention_dense(layer: &str) -> bool {
    ["attention.dense", "self_attention.dense", "self_attn.dense"]
        .iter()
        .any(|n| ends_with_path(layer, n))
}

/// Whether the last segments of `path` are those of `tail`.
fn ends_with_path(path: &str, tail: &str) -> bool {
    path.strip_suffix(tail).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

/// The grid for a tensor, which is valid for it; `None` if the shape has too many bytes.
pub fn choose_grid(name: &str, dtype: Dtype, shape: &Shape) -> Option<Grid> {
    let len = shape.byte_len(dtype)?;
    let run = Grid::run(len, CHUNK);
    let (Some(size), [leading @ .., rows, columns]) = (dtype.size(), shape.dims()) else {
        return Some(run);
    };
    if len == 0 {
        return Some(run);
    }
    // No overflow: none of the factors is 0, and their product is `len`.
    let leading: u64 = leading.iter().product();
    let (rows, columns) = (*rows, *columns);
    let matrix = Matrix { leading, rows, columns, size };
    if matrix.bytes() < MIN_MATRIX {
        return Some(run);
    }
    Some(match split_axis(name, shape) {
        SplitAxis::ArtifactGraph if leading == 1 => run,
        SplitAxis::ArtifactGraph | SplitAxis::Rows => matrix.by_rows(),
        SplitAxis::Columns => matrix.by_columns(),
    })
}

struct Matrix {
    leading: u64,
    rows: u64,
    columns: u64,
    size: u64,
}

impl Matrix {
    const fn bytes(&self) -> u64 {
        self.rows * self.row_bytes()
    }

    const fn row_bytes(&self) -> u64 {
        self.columns * self.size
    }

    fn grid(&self, block_rows: u64, band_bytes: u64) -> Grid {
        let (leading, rows, row_bytes) = (self.leading, self.rows, self.row_bytes());
        Grid { leading, rows, row_bytes, block_rows: block_rows.clamp(1, rows), band_bytes }
    }

    /// Blocks of whole rows; single rows are cut further where they are longer than two chunks.
    fn by_rows(&self) -> Grid {
        let row_bytes = self.row_bytes();
        if row_bytes > 2 * CHUNK {
            return self.grid(1, CHUNK);
        }
        self.grid(self.block_rows(row_bytes, true), row_bytes)
    }

    /// Bands of an eighth of the columns, or the most equal parts the shape allows, in blocks.
    fn by_columns(&self) -> Grid {
        let parts =
            [RANKS, RANKS / 2, RANKS / 4].into_iter().find(|n| self.columns.is_multiple_of(*n));
        let band = match parts {
            Some(parts) => {
                let band = self.columns / parts;
                // Long rows: the band is divided further, so that a chunk has rows to speak of.
                let wide = (band * self.size).div_ceil(CHUNK);
                (wide..=band).find(|n| band.is_multiple_of(*n)).map_or(band, |n| band / n)
            }
            // No equal parts: narrow bands, so that what a rank fetches beyond its own is little.
            None => {
                let least = (16 << 10) / (self.rows.min(16 << 10) * self.size);
                self.columns.div_ceil(256).max(16).max(least).min(self.columns)
            }
        };
        let band = (band * self.size).min(self.row_bytes());
        self.grid(self.block_rows(band, false), band)
    }

    /// Rows of a block of `width` bytes per row: near the chunk size, in multiples of 32, and, where
    /// `split` is by rows, dividing an eighth of the rows or straddling its border by little.
    fn block_rows(&self, width: u64, split: bool) -> u64 {
        let most = (2 * CHUNK / width).clamp(1, self.rows);
        let step = if most > 1 << 16 { ROW_MULTIPLE } else { 1 };
        let eighth = self.rows.is_multiple_of(RANKS).then_some(self.rows / RANKS);
        let cost = |&rows: &u64| {
            let bytes = rows * width;
            let distance = 64 * bytes.max(CHUNK) / bytes.min(CHUNK);
            let aligned = !split || eighth.is_some_and(|eighth| eighth % rows == 0);
            // Each of the seven borders between ranks may cut a block, which two ranks then fetch:
            // a hundredth of the matrix fetched twice weighs like a chunk of twice the size.
            let straddling = if aligned { 0 } else { 6400 * (RANKS - 1) * rows / self.rows };
            let odd = if rows % ROW_MULTIPLE == 0 { 0 } else { 16 };
            distance + straddling + odd
        };
        (1..=most / step).map(|n| n * step).min_by_key(cost).unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims.to_vec()).unwrap()
    }

    #[test]
    fn names_are_split_as_vllm_does() {
        use SplitAxis::*;
        for (name, dims, axis) in [
            ("model.layers.0.self_attn.q_proj.weight", &[8, 8][..], Rows),
            ("model.layers.0.self_attn.q_proj.bias", &[8], Rows),
            ("model.layers.0.self_attn.o_proj.weight", &[8, 8], Columns),
            ("model.layers.0.self_attn.o_proj.bias", &[8], ArtifactGraph),
            ("model.layers.0.mlp.down_proj.weight", &[8, 8], Columns),
            ("model.layers.0.input_layernorm.weight", &[8], ArtifactGraph),
            ("model.embed_tokens.weight", &[8, 8], Rows),
            ("lm_head.weight", &[8, 8], Rows),
            ("something.new.weight", &[8, 8], Rows),
            ("something.new.bias", &[8], ArtifactGraph),
            ("model.layers.0.mlp.gate.weight", &[8, 8], ArtifactGraph),
            ("model.layers.0.mlp.gate_proj.weight", &[8, 8], Rows),
            ("model.layers.0.mlp.experts.down_proj", &[4, 8, 8], Columns),
            ("model.layers.0.mlp.experts.gate_up_proj", &[4, 8, 8], Rows),
            ("model.layers.0.mlp.experts.gate_up_proj_bias", &[4, 8], Columns),
            ("model.layers.0.mlp.experts.down_proj_bias", &[4, 8], ArtifactGraph),
            ("model.layers.0.mlp.experts.7.w2.weight", &[8, 8], Columns),
            ("q_proj.qweight", &[8, 8], Columns),
            ("q_proj.scales", &[8, 8], Columns),
            ("down_proj.qweight", &[8, 8], Rows),
            ("down_proj.qzeros", &[8, 8], Rows),
            ("down_proj.g_idx", &[8], Rows),
            ("q_proj.g_idx", &[8], ArtifactGraph),
            ("q_proj.weight_scale_inv", &[8, 8], Rows),
            ("encoder.layer.0.attention.output.dense.weight", &[8, 8], Columns),
            ("encoder.layer.0.intermediate.dense.weight", &[8, 8], Rows),
            ("encoder.layer.0.intermediate.dense.bias", &[8], Rows),
            ("encoder.layer.0.output.dense.bias", &[8], ArtifactGraph),
            ("vision.patch_embed.proj.weight", &[8, 3, 2, 2], ArtifactGraph),
            ("scale", &[], ArtifactGraph),
        ] {
            assert_eq!(split_axis(name, &shape(dims)), axis, "{name}");
        }
    }

    #[test]
    fn large_matrices_keep_eighths_on_chunk_borders() {
        for (name, dims) in [
            ("q_proj.weight", [4096, 4096]),
            ("up_proj.weight", [14336, 4096]),
            ("embed_tokens.weight", [32000, 4096]),
            ("k_proj.weight", [1024, 4096]),
            ("k_proj.weight", [256, 2048]),
            ("up_proj.weight", [11008, 4096]),
        ] {
            let grid = choose_grid(name, Dtype::BF16, &shape(&dims)).unwrap();
            assert_eq!(grid.band_bytes, grid.row_bytes);
            assert_eq!(dims[0] / 8 % grid.block_rows, 0, "{name} {dims:?}: {grid:?}");
            assert!(
                dims[0] % 512 != 0 || grid.block_rows.is_multiple_of(32),
                "{name} {dims:?}: {grid:?}"
            );
            assert!(grid.block_rows * grid.band_bytes <= 2 << 20);
        }
        for (name, dims) in [
            ("o_proj.weight", [4096, 4096]),
            ("down_proj.weight", [4096, 14336]),
            ("down_proj.weight", [4096, 11008]),
            ("o_proj.weight", [512, 512]),
        ] {
            let grid = choose_grid(name, Dtype::BF16, &shape(&dims)).unwrap();
            assert_eq!(dims[1] * 2 / 8 % grid.band_bytes, 0, "{name} {dims:?}: {grid:?}");
            assert!(grid.block_rows.is_multiple_of(32), "{name} {dims:?}: {grid:?}");
            assert!(grid.block_rows * grid.band_bytes <= 2 << 20);
        }
        let grid = choose_grid("experts.down_proj", Dtype::BF16, &shape(&[16, 2048, 768])).unwrap();
        assert_eq!((grid.leading, grid.rows, grid.band_bytes), (16, 2048, 192));
        let small = choose_grid("norm.weight", Dtype::F32, &shape(&[4096])).unwrap();
        assert_eq!(small, Grid::run(4 * 4096, CHUNK));
    }

    proptest! {
        /// Whatever the shape, the grid is valid, and no chunk of a large tensor is tiny.
        #[test]
        fn every_grid_is_valid(
            name in prop::sample::select(vec!["q_proj.weight", "o_proj.weight", "gate.weight", "x"]),
            code in prop::sample::select(Dtype::ALL[1..].to_vec()),
            dims in prop::collection::vec(prop_oneof![0_u64..5, 1_u64..700, 5000_u64..6000], 0..5),
        ) {
            let shape = shape(&dims);
            if let Some(grid) = choose_grid(name, code, &shape) {
                let len = shape.byte_len(code).unwrap();
                prop_assert!(grid.validate(len, code).is_ok(), "{grid:?} for {dims:?} {code}");
                prop_assert!(grid.chunks() <= 1 + len / (4 << 10), "{grid:?} for {dims:?} {code}");
            }
        }
    }
}
