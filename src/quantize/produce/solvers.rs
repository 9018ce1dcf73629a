//! What gives codes besides rounding: HQQ from the weight alone, GPTQ and AWQ from what the layers of the
//! model are fed.

use std::collections::{HashMap, HashSet};

use super::ProduceError;
use super::method::{Layer, Solver};
use super::outline::Bits;
use super::recipe::{ActOrder, Format, Method, Recipe};
use crate::dequant::Float;
use crate::dequant::codes::Codes;
use crate::format::id::ContentDigest;
use crate::quantize::calibrate::{
    CalibrateError, CalibrateOptions, Calibrated, CalibrationSamples, Solver as Solving, calibrate,
};
use crate::quantize::lm::{LmError, Model, Spool};
use crate::quantize::solve::gptq::Order;
use crate::quantize::solve::{Scheme, hqq};

/// What is added to a Hessian's diagonal, as a part of its mean: AutoGPTQ's and llm-compressor's.
const DAMPING: f32 = 0.01;

/// HQQ: needs nothing but the weight.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hqq;

impl Solver for Hqq {
    fn solve(
        &mut self,
        layer: &Layer<'_>,
        recipe: &Recipe,
        _: usize,
    ) -> Result<Codes, ProduceError> {
        let (rows, columns) = (layer.weight.rows(), layer.weight.columns());
        let mut weight = vec![0.0; layer.weight.elements()];
        layer.weight.read(0, &mut weight);
        hqq::solve(&weight, rows, columns, &scheme(recipe, layer.weight.float()))
            .map_err(|error| CalibrateError::Layer { layer: layer.name.to_owned(), error }.into())
    }
}

/// The grid of a recipe.
pub(super) fn scheme(recipe: &Recipe, weight: Float) -> Scheme {
    let scale = match recipe.format {
        Format::CompressedTensors => weight,
        _ => Float::F16,
    };
    let group = recipe.group_size.map(|group| group as usize);
    Scheme { bits: recipe.bits, group, symmetric: recipe.symmetric, scale, shrinks: 0 }
}

/// What a layer's codes cost, for the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Solved {
    /// The layer, without `.weight`.
    pub layer: String,
    /// The squared error of its output, relative to the output.
    pub error: f64,
    /// What was added to the Hessian's diagonal, as a part of its mean.
    pub damping: f32,
    /// How often that was raised for want of a factor.
    pub raised: u32,
    /// Of a layer of an expert, how many calibration tokens went to it.
    pub tokens: Option<usize>,
}

/// Where the codes of a layer lie until they are packed.
struct Spooled {
    at: u64,
    /// Without its codes, scales and zero points, which lie there in that order.
    codes: Codes,
}

/// GPTQ and AWQ. The model is run when the first layer is asked for; codes wait in a file that no name
/// leads to, because files list layers in another order than the model runs them.
pub struct Calibrating {
    model: Model,
    samples: CalibrationSamples,
    recipe: Recipe,
    /// The type of the model's weights.
    float: Float,
    /// Of the tokens, and of the tensors that come before the block's end.
    key: blake3::Hasher,
    sources: Vec<(Option<usize>, String, ContentDigest)>,
    spool: Option<(Spool, HashMap<String, Spooled>)>,
    changed: HashMap<String, Vec<f32>>,
    solved: Vec<Solved>,
    skip: Vec<String>,
    /// Bits by layer, where layers have numbers of their own.
    bits: Bits,
}

impl Calibrating {
    /// Prepares to calibrate `model`, whose weights are of type `float`, with these tokens. `bits` are those
    /// of each layer, where layers have numbers of their own.
    pub fn new(
        model: Model,
        samples: CalibrationSamples,
        recipe: &Recipe,
        float: Float,
        bits: Bits,
    ) -> Self {
        let mut key = blake3::Hasher::new();
        key.update(samples.digest().as_bytes());
        // What a layer is fed depends on the bits of those before it.
        for (layer, bits) in &bits {
            key.update(format!("{layer} {bits}\n").as_bytes());
        }
        Self {
            model,
            samples,
            recipe: recipe.clone(),
            float,
            key,
            sources: Vec::new(),
            spool: None,
            changed: HashMap::new(),
            solved: Vec::new(),
            skip: Vec::new(),
            bits,
        }
    }

    /// What became of the layers, in the model's order; empty if all had been produced before.
    pub fn solved(&self) -> &[Solved] {
        &self.solved
    }

    fn run(&mut self) -> Result<(), CalibrateError> {
        if self.spool.is_some() {
            return Ok(());
        }
        let file = Spool::new()?;
        let order = match self.recipe.act_order {
            Some(ActOrder::Group) => Order::Activation,
            Some(ActOrder::Stored) => Order::Stored,
            Some(ActOrder::Static) | None => Order::Static,
        };
        let solver = match self.recipe.method {
            Method::Awq => Solving::Awq { clip: true },
            _ => Solving::Gptq { damping: DAMPING, order },
        };
        let (recipe, float, bits) = (&self.recipe, self.float, &self.bits);
        let scheme = |layer: &str| {
            let bits = bits.get(layer).copied().unwrap_or(recipe.bits);
            scheme(&recipe.with_bits(bits), float)
        };
        let (mut at, mut layers) = (0, HashMap::new());
        let (changed, solved, skip) = (&mut self.changed, &mut self.solved, &self.skip);
        // Of a stack that stays whole, the model's slices are no tensors.
        let names: HashSet<&str> = self.sources.iter().map(|(_, name, _)| name.as_str()).collect();
        let wanted = |layer: &str| {
            let is_kept = skip.iter().any(|kept| kept == layer);
            let is_there = names.contains(format!("{layer}.weight").as_str());
            (!is_kept && is_there).then(|| scheme(layer))
        };
        let mut take = |made: Calibrated| {
            match made {
                Calibrated::Layer(made) => {
                    let mut codes = made.codes;
                    let mut bytes = std::mem::take(&mut codes.codes);
                    let scales = std::mem::take(&mut codes.scales);
                    bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
                    bytes.append(&mut codes.zeros);
                    file.write_bytes(at, &bytes)?;
                    layers.insert(made.name.clone(), Spooled { at, codes });
                    at += bytes.len() as u64;
                    solved.push(Solved {
                        layer: made.name,
                        error: made.error,
                        damping: made.damping,
                        raised: made.raised,
                        tokens: made.tokens,
                    });
                }
                Calibrated::Changed { name, values } => drop(changed.insert(name, values)),
                Calibrated::Block(..) => {}
            }
            Ok(())
        };
        calibrate(&self.model, &self.samples, &CalibrateOptions::new(solver), &wanted, &mut take)?;
        self.spool = Some((file, layers));
        Ok(())
    }

    /// Reads a layer's codes back.
    fn read(&self, layer: &str) -> Option<Result<Codes, LmError>> {
        let (file, layers) = self.spool.as_ref()?;
        let Spooled { at, codes } = layers.get(layer)?;
        let (elements, groups) = (codes.rows * codes.columns, codes.rows * codes.groups());
        Some(file.read_bytes(*at, elements + 5 * groups).map(|mut bytes| {
            let zeros = bytes.split_off(elements + 4 * groups);
            let scales = bytes.split_off(elements);
            let scales = scales.as_chunks::<4>().0.iter().map(|scale| f32::from_le_bytes(*scale));
            Codes { codes: bytes, scales: scales.collect(), zeros, ..codes.clone() }
        }))
    }
}

impl Solver for Calibrating {
    fn sources(&mut self, tensors: &[(&str, ContentDigest)], kept: &[String]) {
        let place =
            |(name, digest): &(&str, ContentDigest)| (block(name), (*name).to_owned(), *digest);
        self.sources = tensors.iter().map(place).collect();
        self.sources.sort();
        self.skip = kept.to_vec();
        kept.iter().for_each(|layer| _ = self.key.update(layer.as_bytes()).update(b"\n"));
    }

    fn statistics(&self, weight: &str) -> Option<[u8; 32]> {
        let own = block(weight);
        let mut key = self.key.clone();
        for (_, name, digest) in self.sources.iter().filter(|(block, _, _)| *block <= own) {
            key.update(name.as_bytes()).update(digest.as_bytes());
        }
        Some(*key.finalize().as_bytes())
    }

    fn solve(&mut self, layer: &Layer<'_>, _: &Recipe, _: usize) -> Result<Codes, ProduceError> {
        self.run()?;
        let name = layer.name.strip_suffix(".weight").unwrap_or(layer.name);
        let read = self.read(name).ok_or_else(|| ProduceError::NotRun(layer.name.to_owned()))?;
        Ok(read.map_err(CalibrateError::from)?)
    }

    fn change(&mut self, name: &str, bytes: &[u8]) -> Result<Option<Vec<u8>>, ProduceError> {
        if self.recipe.method != Method::Awq {
            return Ok(None);
        }
        self.run()?;
        let Some(values) = self.changed.get(name) else { return Ok(None) };
        let mut changed = Vec::with_capacity(bytes.len());
        let float = if bytes.len() == 4 * values.len() { Float::F32 } else { self.float };
        values.iter().for_each(|value| float.push(*value, &mut changed));
        Ok(Some(changed))
    }
}

/// The block of a tensor: the first number in its name. Those outside of blocks come first.
fn block(name: &str) -> Option<usize> {
    name.split('.').find_map(|segment| segment.parse().ok())
}
