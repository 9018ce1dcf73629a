//! Which tensors of a checkpoint make up a quantized weight: from its `config.json` and their names
//! and shapes. Pure.
//!
//! Numbers are taken from shapes where shapes say them, so that rules for single modules (GPTQ's
//! `dynamic`, compressed-tensors' `config_groups`) need not be interpreted.

use std::collections::HashMap;

use serde_json::Value;

use super::{Float, Layout, Nested, Part, QuantError, Weight};
use crate::format::dtype::Dtype;

pub use super::facts::{Blocks, Facts, Module, Role, Stored};

/// Files that say how a checkpoint is quantized; the first that does counts.
pub const CONFIGS: [&str; 2] = ["config.json", "quantize_config.json"];

/// What a checkpoint says of its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// GPTQ.
    Gptq {
        /// Bits where a module has no index to tell them from.
        bits: u32,
        /// Columns per group; none for the whole row.
        group: Option<u32>,
        /// Whether zero points are stored less one.
        less_one: bool,
    },
    /// AWQ, GEMM version.
    Awq {
        /// Columns per group.
        group: Option<u32>,
    },
    /// bitsandbytes, 4 bits.
    Bnb4,
    /// LLM.int8().
    Bnb8,
    /// compressed-tensors, `pack-quantized`.
    Packed {
        /// Bits of a code.
        bits: u32,
        /// Columns per group; none for the whole row.
        group: Option<u32>,
    },
    /// compressed-tensors, `int-quantized`: a byte per code.
    Bytes {
        /// Columns per group; none for the whole row.
        group: Option<u32>,
    },
    /// FP8 with scales: compressed-tensors' `float-quantized`, and `fp8`.
    Fp8 {
        /// Rows and columns of a block, if scales are by block.
        block: Option<[u32; 2]>,
    },
    /// MXFP4: 4-bit floats with an exponent per 32: gpt-oss, and compressed-tensors' `mxfp4-pack-quantized`.
    Mxfp4,
    /// NVFP4: 4-bit floats with an FP8 scale per 16, and one scale for all: compressed-tensors'
    /// `nvfp4-pack-quantized`, and ModelOpt's.
    Nvfp4,
    /// GGUF: rows of blocks. Which ones, the files' headers tell.
    Gguf(Blocks),
}

impl Method {
    /// What `config.json` (or `quantize_config.json`) says; none if nothing is quantized.
    ///
    /// # Errors
    /// If the method is not known here, or a number of it makes no sense.
    pub fn of_config(config: &Value) -> Result<Option<Self>, QuantError> {
        let nested = config.get("quantization_config").or_else(|| config.get("compression_config"));
        let own = config.get("quant_method").is_some() || config.get("bits").is_some();
        let Some(config) = nested.or(own.then_some(config)) else { return Ok(None) };
        let number = |key: &str| config.get(key).and_then(Value::as_i64);
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let flag = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
        let bits = number("bits").and_then(|bits| u32::try_from(bits).ok());
        let group = number("group_size").and_then(|group| u32::try_from(group).ok());
        let unsupported = |why| Err(QuantError::Unsupported(why));
        Ok(Some(match text("quant_method") {
            Some("gptq") | None => {
                let Some(bits) = bits else { return unsupported("a GPTQ config without bits") };
                let format = text("checkpoint_format").unwrap_or("gptq");
                match format {
                    "gptq" | "gptq_v2" => Self::Gptq { bits, group, less_one: format == "gptq" },
                    _ => return unsupported("a checkpoint_format that is not gptq or gptq_v2"),
                }
            }
            Some("awq") if !matches!(text("version"), None | Some("gemm" | "GEMM")) => {
                return unsupported("a version of AWQ that is not gemm");
            }
            Some("awq") if bits.is_some_and(|bits| bits != 4) => {
                return unsupported("AWQ of other than 4 bits");
            }
            Some("awq") => Self::Awq { group },
            Some("bitsandbytes") if flag("load_in_8bit") || flag("_load_in_8bit") => Self::Bnb8,
            Some("bitsandbytes") => Self::Bnb4,
            Some("mxfp4") => Self::Mxfp4,
            Some("modelopt" | "modelopt_fp4") => match text("quant_algo") {
                Some("NVFP4") => Self::Nvfp4,
                Some("FP8") => Self::Fp8 { block: None },
                _ => return unsupported("a quant_algo of ModelOpt that is not NVFP4 or FP8"),
            },
            Some("fp8") => Self::Fp8 { block: block(config.get("weight_block_size")) },
            Some("compressed-tensors") => {
                let weights = config.get("config_groups").and_then(Value::as_object);
                let weights = weights.and_then(|groups| groups.values().next()?.get("weights"));
                let of_weights = |key: &str| weights.and_then(|weights| weights.get(key));
                let size = of_weights("group_size").and_then(Value::as_i64);
                let size = size.and_then(|group| u32::try_from(group).ok());
                match text("format") {
                    Some("pack-quantized") => {
                        let bits = of_weights("num_bits").and_then(Value::as_u64);
                        match bits.and_then(|bits| u32::try_from(bits).ok()) {
                            Some(bits) => Self::Packed { bits, group: size },
                            None => return unsupported("compressed-tensors without num_bits"),
                        }
                    }
                    Some("int-quantized") => match of_weights("num_bits").and_then(Value::as_u64) {
                        Some(8) => Self::Bytes { group: size },
                        _ => return unsupported("int-quantized weights of other than 8 bits"),
                    },
                    Some("float-quantized") => {
                        Self::Fp8 { block: block(of_weights("block_structure")) }
                    }
                    Some("mxfp4-pack-quantized") => Self::Mxfp4,
                    Some("nvfp4-pack-quantized") => Self::Nvfp4,
                    _ => {
                        return unsupported(
                            "a compressed-tensors format that is not pack-quantized, int-quantized, float-quantized, mxfp4-pack-quantized or nvfp4-pack-quantized",
                        );
                    }
                }
            }
            _ => {
                return unsupported(
                    "a quant_method that is not gptq, awq, bitsandbytes, fp8, mxfp4, modelopt or compressed-tensors",
                );
            }
        }))
    }

    /// The ends of the names of a module's tensors, the codes first, then the scales.
    fn names(&self) -> &'static [(&'static str, Role)] {
        use Role::{NestedTable, Nothing, Shape, State};
        const CODES: Role = Role::Part(Part::Codes);
        const SCALES: Role = Role::Part(Part::Scales);
        const ZEROS: Role = Role::Part(Part::Zeros);
        const INDEX: Role = Role::Part(Part::Index);
        match self {
            Self::Gptq { .. } => {
                &[("qweight", CODES), ("scales", SCALES), ("qzeros", ZEROS), ("g_idx", INDEX)]
            }
            Self::Awq { .. } => &[("qweight", CODES), ("scales", SCALES), ("qzeros", ZEROS)],
            Self::Bnb4 => &[
                ("weight", CODES),
                ("weight.absmax", SCALES),
                ("weight.nested_absmax", ZEROS),
                ("weight.quant_map", Role::Part(Part::Table)),
                ("weight.nested_quant_map", NestedTable),
                ("weight.quant_state.bitsandbytes__nf4", State),
                ("weight.quant_state.bitsandbytes__fp4", State),
            ],
            Self::Bnb8 => &[("weight", CODES), ("SCB", SCALES), ("weight_format", Nothing)],
            Self::Packed { .. } => &[
                ("weight_packed", CODES),
                ("weight_scale", SCALES),
                ("weight_zero_point", ZEROS),
                ("weight_g_idx", INDEX),
                ("weight_shape", Shape),
            ],
            Self::Bytes { .. } => {
                &[("weight", CODES), ("weight_scale", SCALES), ("weight_zero_point", ZEROS)]
            }
            Self::Fp8 { .. } => {
                &[("weight", CODES), ("weight_scale", SCALES), ("weight_scale_inv", SCALES)]
            }
            // What gpt-oss calls them stands by itself: its experts are stacked.
            Self::Mxfp4 => &[("weight_packed", CODES), ("weight_scale", SCALES)],
            Self::Nvfp4 => &[
                ("weight_packed", CODES),
                ("weight_scale", SCALES),
                ("weight_global_scale", Role::Divisor),
                ("weight", CODES),
                ("weight_scale_2", Role::Factor),
            ],
            Self::Gguf(_) => &[],
        }
    }

    /// The quantized weights among `tensors`. A module whose codes are there without scales is
    /// quantized all the same, if its codes have a name that says so: reading it is an error.
    pub fn modules(&self, tensors: &[Stored<'_>]) -> Vec<Module> {
        let by_name: HashMap<&str, usize> =
            tensors.iter().enumerate().map(|(at, tensor)| (tensor.name, at)).collect();
        let mut modules = Vec::new();
        if let Self::Gguf(blocks) = self {
            let one = |(at, tensor): (usize, &Stored<'_>)| {
                let role = Role::Blocks(blocks.of(tensor.name)?);
                Some(Module { name: tensor.name.to_owned(), tensors: vec![(at, role)] })
            };
            return tensors.iter().enumerate().filter_map(one).collect();
        }
        let ends = self.names();
        let codes = ends.iter().filter(|(_, role)| *role == Role::Part(Part::Codes));
        for (codes, _) in codes {
            for tensor in tensors {
                let Some(base) = tensor.name.strip_suffix(codes) else { continue };
                // Of ModelOpt, what is stored in two nibbles of a byte.
                let whole = matches!(self, Self::Nvfp4) && *codes == "weight";
                if !(base.is_empty() || base.ends_with('.')) || whole && tensor.dtype != Dtype::U8 {
                    continue;
                }
                let others = ends
                    .iter()
                    .filter(|(end, role)| *role != Role::Part(Part::Codes) || end == codes);
                let found = others.filter_map(|(end, role)| {
                    by_name.get(format!("{base}{end}").as_str()).map(|at| (*at, *role))
                });
                let found: Vec<_> = found.collect();
                let scaled = found.iter().any(|(_, role)| *role == Role::Part(Part::Scales));
                if scaled || *codes != "weight" {
                    modules.push(Module { name: format!("{base}weight"), tensors: found });
                }
            }
        }
        if *self == Self::Mxfp4 {
            modules.extend(stacked(tensors, &by_name));
        }
        modules
    }

    /// The weight that the facts of a module's tensors make, and the bytes of its code book and its
    /// index, as kernels take them.
    ///
    /// # Errors
    /// If the tensors do not fit each other or the method.
    pub fn weight(&self, facts: &Facts) -> Result<(Weight, Vec<u8>, Vec<u8>), QuantError> {
        let codes = facts.dims(Part::Codes)?;
        let index = facts.bytes(Role::Part(Part::Index));
        let mut table = facts.bytes(Role::Part(Part::Table)).to_vec();
        table.extend_from_slice(facts.bytes(Role::NestedTable));
        let weight = match *self {
            Self::Bnb4 => {
                let (layout, [rows, cols]) = bnb4(facts.bytes(Role::State))?;
                Weight::new(layout, rows, cols, Float::F32)
            }
            Self::Bnb8 => {
                let [rows, cols] = two(codes)?;
                Weight::new(Layout::Int8, rows, cols, Float::F32)
            }
            Self::Gptq { bits, group, less_one } => {
                let ([words, rows], [groups, _]) = (two(codes)?, two(facts.dims(Part::Scales)?)?);
                // Layers may have other bits than the config says: there is a group for each input.
                let cols = match facts.dims(Part::Index) {
                    Ok([cols]) => *cols,
                    _ => (u64::from(words) * 32).checked_div(bits.into()).unwrap_or(0),
                };
                let cols = small(cols)?;
                let bits = small((u64::from(words) * 32).checked_div(cols.into()).unwrap_or(0))?;
                let layout = Layout::Gptq { bits, group: group_of(cols, groups, group), less_one };
                Weight::new(layout, rows, cols, facts.scale()?)
            }
            Self::Awq { group } => {
                let ([cols, words], [groups, _]) = (two(codes)?, two(facts.dims(Part::Scales)?)?);
                let rows = small(u64::from(words) * 8)?;
                Weight::new(
                    Layout::Awq { group: group_of(cols, groups, group) },
                    rows,
                    cols,
                    facts.scale()?,
                )
            }
            Self::Packed { bits, group } => {
                let shape = facts.bytes(Role::Shape).as_chunks::<8>().0.iter();
                let shape: Vec<u64> = shape.map(|dim| u64::from_le_bytes(*dim)).collect();
                let ([rows, cols], [_, groups]) = (two(&shape)?, two(facts.dims(Part::Scales)?)?);
                let group = group_of(cols, groups, group);
                // Layers may have other bits than the config's first group says; a row of whole words tells.
                let [_, words] = two(codes)?;
                let told = (u64::from(words) * 32).checked_div(cols.into()).unwrap_or(0);
                let bits = if cols >= 32 { small(told)? } else { bits };
                let symmetric = !facts.has(Role::Part(Part::Zeros));
                Weight::new(Layout::Packed { bits, group, symmetric }, rows, cols, facts.scale()?)
            }
            Self::Bytes { group } => {
                if facts.has(Role::Part(Part::Zeros)) {
                    return Err(QuantError::Unsupported("int-quantized weights with zero points"));
                }
                let ([rows, cols], [_, groups]) = (two(codes)?, two(facts.dims(Part::Scales)?)?);
                let block = [1, group_of(cols, groups, group)];
                Weight::new(Layout::Bytes { block }, rows, cols, facts.scale()?)
            }
            Self::Fp8 { block } => {
                let [rows, cols] = two(codes)?;
                let scales: u64 = facts.dims(Part::Scales)?.iter().product();
                let block = match block {
                    _ if scales == 1 => [rows.max(1), cols.max(1)],
                    _ if scales == u64::from(rows) => [1, cols.max(1)],
                    Some(block) => block,
                    None => return Err(QuantError::Unsupported("FP8 scales of no known shape")),
                };
                Weight::new(Layout::Fp8 { block }, rows, cols, facts.scale()?)
            }
            Self::Mxfp4 => {
                let [rows, groups] = groups_of(facts)?;
                let all = codes.iter().try_fold(2_u64, |all, dim| all.checked_mul(*dim));
                let cols = all.and_then(|all| all.checked_div(rows.into())).unwrap_or(0);
                let cols = small(cols)?;
                if u64::from(groups) * 32 != u64::from(cols) {
                    return Err(QuantError::Unsupported("MXFP4 with a scale per other than 32"));
                }
                Weight::new(Layout::Mxfp4, rows, cols, Float::F32)
            }
            Self::Nvfp4 => {
                let ([rows, bytes], [_, groups]) = (two(codes)?, groups_of(facts)?);
                let cols = small(u64::from(bytes) * 2)?;
                if u64::from(groups) * 16 != u64::from(cols) {
                    return Err(QuantError::Unsupported("NVFP4 with a scale per other than 16"));
                }
                let (divisor, factor) = (facts.bytes(Role::Divisor), facts.bytes(Role::Factor));
                let divides = !divisor.is_empty();
                table = [divisor, factor].concat();
                Weight::new(Layout::Nvfp4 { divides }, rows, cols, Float::F32)
            }
            Self::Gguf(_) => {
                let block =
                    facts.block().ok_or(QuantError::Unsupported("a GGUF tensor of no blocks"))?;
                let ([rows, bytes], own) = (folded(codes)?, block.bytes() as u64);
                if !u64::from(bytes).is_multiple_of(own) {
                    return Err(QuantError::Unsupported("a GGUF row of no whole blocks"));
                }
                let cols = small(u64::from(bytes) / own * block.elements() as u64)?;
                Weight::new(Layout::of_blocks(block), rows, cols, Float::F16)
            }
        }?;
        if index.is_empty() {
            return Ok((weight, table, Vec::new()));
        }
        let indexed = weight.indexed()?;
        indexed.check_index(index)?;
        // An index that only counts groups up is as good as none, and faster.
        let group = match weight.layout() {
            Layout::Gptq { group, .. } | Layout::Packed { group, .. } => group,
            _ => 1,
        };
        let mut groups = (0..weight.cols()).map(|col| col / group.max(1));
        let counts_up = index
            .as_chunks::<4>()
            .0
            .iter()
            .all(|at| Some(u32::from_le_bytes(*at)) == groups.next());
        Ok(if counts_up { (weight, table, Vec::new()) } else { (indexed, table, index.to_vec()) })
    }
}

/// The experts of gpt-oss: codes `[experts, rows, groups, 16]` beside `[experts, rows, groups]` exponents.
fn stacked(tensors: &[Stored<'_>], by_name: &HashMap<&str, usize>) -> Vec<Module> {
    let one = |(at, tensor): (usize, &Stored<'_>)| {
        let base = tensor.name.strip_suffix("_blocks")?;
        let scales = by_name.get(format!("{base}_scales").as_str());
        let scales = scales.map(|scales| (*scales, Role::Part(Part::Scales)));
        let tensors = [Some((at, Role::Part(Part::Codes))), scales].into_iter().flatten();
        Some(Module { name: base.to_owned(), tensors: tensors.collect() })
    };
    tensors.iter().enumerate().filter_map(one).collect()
}

fn small(n: u64) -> Result<u32, QuantError> {
    u32::try_from(n).map_err(|_| QuantError::Unsupported("a dimension of 2^32 or more"))
}

/// Rows of all leading dimensions, and the last.
fn folded(dims: &[u64]) -> Result<[u32; 2], QuantError> {
    let (last, rest) = dims.split_last().unwrap_or((&0, &[]));
    let rows = rest.iter().try_fold(1_u64, |all, dim| all.checked_mul(*dim));
    let large = QuantError::Unsupported("a dimension of 2^32 or more");
    Ok([small(rows.ok_or(large)?)?, small(*last)?])
}

/// Rows and groups of FP4's scales.
fn groups_of(facts: &Facts) -> Result<[u32; 2], QuantError> {
    folded(facts.dims(Part::Scales)?)
}

fn two(dims: &[u64]) -> Result<[u32; 2], QuantError> {
    match dims {
        [rows, cols] => Ok([small(*rows)?, small(*cols)?]),
        _ => Err(QuantError::Unsupported("a quantized weight that is not a matrix")),
    }
}

/// Columns per group, of so many groups: as said if that fits, else as few as give so many.
fn group_of(cols: u32, groups: u32, said: Option<u32>) -> u32 {
    let fits = |group: &u32| *group > 0 && cols.div_ceil(*group) == groups;
    said.filter(fits).unwrap_or(cols.div_ceil(groups.max(1)).max(1))
}

fn block(value: Option<&Value>) -> Option<[u32; 2]> {
    let number = |at: usize| u32::try_from(value?.get(at)?.as_u64()?).ok().filter(|n| *n > 0);
    Some([number(0)?, number(1)?])
}

/// What bitsandbytes' `quant_state` says.
fn bnb4(state: &[u8]) -> Result<(Layout, [u32; 2]), QuantError> {
    let wrong = QuantError::Unsupported("a quant_state that bitsandbytes does not write");
    let state: Value = serde_json::from_slice(state).map_err(|_| wrong.clone())?;
    let number = |key: &str| u32::try_from(state.get(key)?.as_u64()?).ok();
    let parse = || {
        let dims: Option<Vec<u64>> =
            state.get("shape")?.as_array()?.iter().map(Value::as_u64).collect();
        let nested = match number("nested_blocksize") {
            Some(block) => {
                Some(Nested { block, offset: state.get("nested_offset")?.as_f64()? as f32 })
            }
            None => None,
        };
        Some((Layout::Bnb4 { block: number("blocksize")?, nested }, dims?))
    };
    let (layout, dims) = parse().ok_or(wrong)?;
    Ok((layout, two(&dims)?))
}
