//! From a layer's weight to the tensors of its format.

use super::ProduceError;
use super::recipe::{Format, Method, Recipe};
use crate::dequant::Float;
use crate::dequant::codes::Codes;
use crate::dequant::gguf::Block;
use crate::format::dtype::Dtype;
use crate::format::id::ContentDigest;
use crate::quantize::encode::rtn::{Rounding, Rule};
use crate::quantize::encode::{
    EncodeError, Encoded, Matrix, awq, fp4, fp8, gguf, gptq, int8, nf4, packed, rtn,
};

/// A layer that is to be quantized.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// The name of its weight.
    pub name: &'a str,
    /// Its weight.
    pub weight: Matrix<'a>,
}

/// What gives the codes of layers. It is asked for one after the other, in the order of the model.
pub trait Solver {
    /// Told before all else, if the method is calibrated: the model's tensors with their digests, and the
    /// linear layers that stay as they are.
    fn sources(&mut self, _tensors: &[(&str, ContentDigest)], _kept: &[String]) {}

    /// The digest of what a calibrated method knows of the layer: part of the key of what it produces.
    fn statistics(&self, _weight: &str) -> Option<[u8; 32]> {
        None
    }

    /// The codes of a layer.
    ///
    /// # Errors
    /// If there are no codes for the weight.
    fn solve(
        &mut self,
        layer: &Layer<'_>,
        recipe: &Recipe,
        threads: usize,
    ) -> Result<Codes, ProduceError>;

    /// Another tensor as the quantized model needs it: a norm whose layers were scaled. `None` leaves it
    /// as it is.
    ///
    /// # Errors
    /// If its values cannot be had.
    fn change(&mut self, _name: &str, _bytes: &[u8]) -> Result<Option<Vec<u8>>, ProduceError> {
        Ok(None)
    }
}

/// Rounds to the nearest, by the rule of the format.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoundToNearest;

impl Solver for RoundToNearest {
    fn solve(
        &mut self,
        layer: &Layer<'_>,
        recipe: &Recipe,
        threads: usize,
    ) -> Result<Codes, ProduceError> {
        let rule = match recipe.format {
            Format::Gptq | Format::GptqV2 => Rule::Gptq,
            Format::Awq => Rule::Awq,
            Format::Bitsandbytes | Format::CompressedTensors | Format::Gguf => Rule::Packed,
        };
        let group = recipe.group_size.map(|group| group as usize);
        let Recipe { bits, symmetric, .. } = *recipe;
        rtn::codes(&layer.weight, Rounding { rule, bits, group, symmetric }, threads)
            .map_err(ProduceError::layer(layer.name))
    }
}

/// The tensors that the weight of a layer becomes.
pub(super) fn encode(
    layer: &Layer<'_>,
    recipe: &Recipe,
    solver: &mut dyn Solver,
    threads: usize,
) -> Result<Vec<Encoded>, ProduceError> {
    let weight = &layer.weight;
    let encoded = match recipe.method {
        Method::Nf4 => nf4::encode_weight(weight, recipe.double_quant, threads),
        Method::Int8 => int8::encode_weight(weight, threads),
        Method::Fp8 => fp8::encode_weight(weight, threads),
        Method::Mxfp4 => fp4::mxfp4(weight, threads),
        Method::Nvfp4 => fp4::nvfp4(weight, threads),
        method if method.is_gguf() => {
            let block = block(recipe.method);
            gguf::blocks(weight, block, threads).map(|bytes| {
                let width = weight.columns() / block.elements() * block.bytes();
                let dims = vec![weight.rows() as u64, width as u64];
                vec![Encoded { end: "weight", dtype: Dtype::U8, dims, bytes }]
            })
        }
        _ => {
            let codes = solver.solve(layer, recipe, threads)?;
            match recipe.format {
                Format::Gptq => gptq::pack(&codes, gptq::Version::V1, threads),
                Format::GptqV2 => gptq::pack(&codes, gptq::Version::V2, threads),
                Format::Awq => awq::pack(&codes, threads),
                Format::Bitsandbytes | Format::CompressedTensors | Format::Gguf => {
                    match is_bytes(recipe) {
                        true => packed::int8(&codes, weight.float()),
                        false => packed::pack(&codes, weight.float(), threads),
                    }
                }
            }
        }
    };
    encoded.map_err(ProduceError::layer(layer.name))
}

/// The blocks of a method of GGUF's.
pub(super) fn block(method: Method) -> Block {
    Block::named(method.name()).unwrap_or(Block::Q4_0)
}

/// Whether compressed-tensors stores a byte per code (`int-quantized`), for int8 activations.
pub(super) fn is_bytes(recipe: &Recipe) -> bool {
    recipe.format == Format::CompressedTensors
        && (recipe.bits, recipe.group_size, recipe.symmetric) == (8, None, true)
        && recipe.average_bits.is_none()
}

/// The end of the name of bitsandbytes' `quant_state`.
pub(super) const STATE: &str = "weight.quant_state.bitsandbytes__nf4";

/// A tensor before it is made: the end of its name, its type and its dimensions.
pub(super) type Announced = (&'static str, Dtype, Vec<u64>);

/// What the weight of a layer becomes, before it does. `state` is the length of bitsandbytes'
/// `quant_state`, which depends on the weight where absmax are quantized.
pub(super) fn announce(
    recipe: &Recipe,
    float: Float,
    [rows, columns]: [u64; 2],
    state: u64,
) -> Result<Vec<Announced>, EncodeError> {
    let elements = rows * columns;
    let bits = u64::from(recipe.bits);
    let group = recipe.group_size.map_or(columns, u64::from).clamp(1, columns.max(1));
    let groups = columns.div_ceil(group);
    let scale = float.dtype();
    if elements == 0 {
        return Err(EncodeError::Empty { rows, columns });
    }
    Ok(match (recipe.method, recipe.format) {
        (Method::Nf4, _) => {
            let blocks = elements.div_ceil(nf4::BLOCK as u64);
            let mut tensors = vec![("weight", Dtype::U8, vec![elements.div_ceil(2), 1])];
            if recipe.double_quant {
                tensors.extend([
                    ("weight.absmax", Dtype::U8, vec![blocks]),
                    ("weight.nested_absmax", Dtype::F32, vec![blocks.div_ceil(256)]),
                    ("weight.nested_quant_map", Dtype::F32, vec![256]),
                ]);
            } else {
                tensors.push(("weight.absmax", Dtype::F32, vec![blocks]));
            }
            tensors.extend([
                ("weight.quant_map", Dtype::F32, vec![16]),
                (STATE, Dtype::U8, vec![state]),
            ]);
            tensors
        }
        (Method::Int8, _) => vec![
            ("SCB", Dtype::F32, vec![rows]),
            ("weight", Dtype::I8, vec![rows, columns]),
            ("weight_format", Dtype::U8, vec![]),
        ],
        (Method::Fp8, _) => vec![
            ("weight", Dtype::F8_E4M3, vec![rows, columns]),
            ("weight_scale", scale, vec![rows, 1]),
        ],
        (Method::Mxfp4 | Method::Nvfp4, _) => {
            let nv = recipe.method == Method::Nvfp4;
            if !columns.is_multiple_of(group) || !columns.is_multiple_of(2) {
                return Err(EncodeError::Groups { columns, group });
            }
            let mut tensors = Vec::new();
            if nv {
                tensors.push(("weight_global_scale", Dtype::F32, vec![1]));
            }
            let scale = if nv { Dtype::F8_E4M3 } else { Dtype::U8 };
            tensors.push(("weight_packed", Dtype::U8, vec![rows, columns / 2]));
            tensors.push(("weight_scale", scale, vec![rows, groups]));
            tensors
        }
        (_, Format::Gptq | Format::GptqV2) => {
            if !rows.is_multiple_of(32) || !columns.is_multiple_of(32) {
                return Err(EncodeError::GptqShape { rows, columns });
            }
            vec![
                ("g_idx", Dtype::I32, vec![columns]),
                ("qweight", Dtype::I32, vec![columns / 32 * bits, rows]),
                ("qzeros", Dtype::I32, vec![groups, rows / 32 * bits]),
                ("scales", Dtype::F16, vec![groups, rows]),
            ]
        }
        (_, Format::Awq) => {
            if !rows.is_multiple_of(8) || !columns.is_multiple_of(group) {
                return Err(EncodeError::AwqShape { rows, columns, group });
            }
            vec![
                ("qweight", Dtype::I32, vec![columns, rows / 8]),
                ("qzeros", Dtype::I32, vec![groups, rows / 8]),
                ("scales", Dtype::F16, vec![groups, rows]),
            ]
        }
        (_, Format::Gguf) => {
            let block = block(recipe.method);
            let (own, bytes) = (block.elements() as u64, block.bytes() as u64);
            if !columns.is_multiple_of(own) {
                return Err(EncodeError::Blocks { columns, block: own });
            }
            vec![("weight", Dtype::U8, vec![rows, columns / own * bytes])]
        }
        (_, Format::Bitsandbytes | Format::CompressedTensors) => {
            if !columns.is_multiple_of(group) {
                return Err(EncodeError::Groups { columns, group });
            }
            let mut tensors = match is_bytes(recipe) {
                true => vec![("weight", Dtype::I8, vec![rows, columns])],
                false => {
                    vec![("weight_packed", Dtype::I32, vec![rows, (columns * bits).div_ceil(32)])]
                }
            };
            tensors.push(("weight_scale", scale, vec![rows, groups]));
            if !is_bytes(recipe) {
                tensors.push(("weight_shape", Dtype::I64, vec![2]));
            }
            if !recipe.symmetric {
                let height = (rows * bits).div_ceil(32);
                tensors.push(("weight_zero_point", Dtype::I32, vec![height, groups]));
            }
            tensors
        }
    })
}
