//! Statistics of a model's inputs, and how much each layer suffers from few bits: what budgets are spent by.
//!
//! Statistics are a value: they are written as a safetensors file, which an artifact holds like any other,
//! and read back for the next quantization of the same model.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};

use super::driver::{Contexts, begin, relative};
use super::{CalibrateError, Draws, Sensitivity, inputs};
use crate::lm::Model;
use crate::solve::{Scheme, grid, round_to_nearest};

/// What calibration tokens say of a model, by layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statistics {
    /// By the name of the layer, without `.weight`.
    pub layers: BTreeMap<String, LayerStatistics>,
}

/// What calibration tokens say of a layer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LayerStatistics {
    /// Mean squares of the inputs, by column: the Hessian's diagonal.
    pub squares: Vec<f32>,
    /// Mean magnitudes of the inputs, by column.
    pub means: Vec<f32>,
}

const SQUARES: &str = ".input_squares";
const MEANS: &str = ".input_means";

impl Statistics {
    /// As a safetensors file: for each layer `<name>.input_squares` and `<name>.input_means`, f32 by column.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CalibrateError> {
        let wrong = |error: &dyn std::fmt::Display| CalibrateError::Statistics(error.to_string());
        let mut data: Vec<(String, Vec<u8>)> = Vec::new();
        for (name, layer) in &self.layers {
            for (end, values) in [(SQUARES, &layer.squares), (MEANS, &layer.means)] {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                data.push((format!("{name}{end}"), bytes));
            }
        }
        let views: Result<Vec<_>, _> = data
            .iter()
            .map(|(name, bytes)| {
                TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).map(|view| (name, view))
            })
            .collect();
        serialize(views.map_err(|error| wrong(&error))?, None).map_err(|error| wrong(&error))
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, CalibrateError> {
        let file = SafeTensors::deserialize(bytes);
        let file = file.map_err(|error| CalibrateError::Statistics(error.to_string()))?;
        let mut found = Self::default();
        for (name, view) in file.iter() {
            let of = [SQUARES, MEANS].iter().find_map(|end| Some((name.strip_suffix(end)?, *end)));
            let Some((layer, end)) = of.filter(|_| view.dtype() == Dtype::F32) else {
                let why = format!("tensor {name} is none of calibration's");
                return Err(CalibrateError::Statistics(why));
            };
            let words = view.data().as_chunks::<4>().0.iter();
            let values = words.map(|word| f32::from_le_bytes(*word)).collect();
            let layer = found.layers.entry(layer.to_owned()).or_default();
            *(if end == SQUARES { &mut layer.squares } else { &mut layer.means }) = values;
        }
        for (name, layer) in &found.layers {
            if layer.squares.len() != layer.means.len() {
                let why = format!("{name} has squares and means of unequal length");
                return Err(CalibrateError::Statistics(why));
            }
        }
        Ok(found)
    }
}

/// Runs the model as it is over the tokens, and measures what rounding each layer to each of these numbers
/// of bits would cost; the rest of the scheme is that given. Layers that share an input are one
/// [`Sensitivity`]: engines fuse them.
pub fn measure(
    model: &Model,
    draws: &Draws,
    budget: usize,
    scheme: &Scheme,
    bits: &[u32],
) -> Result<(Statistics, Vec<Sensitivity>), CalibrateError> {
    let mut states = begin(model, draws, budget)?;
    let contexts = Contexts::new(model);
    let contexts = |tokens| contexts.of(tokens);
    let (mut statistics, mut found) = (Statistics::default(), Vec::new());
    for index in 0..model.config().layers {
        let block = model.block(index)?;
        for (number, group) in block.groups().iter().enumerate() {
            let linears = block.linears();
            let members: Vec<_> = group.iter().filter_map(|at| linears.get(*at)).collect();
            let Some(first) = members.first() else { continue };
            let columns = first.weight.dim(1)?;
            inputs::reach(&block, &mut states, &contexts, number)?;
            let seen = inputs::gather(&block, &states, &contexts, number, columns)?;
            let (squares, means) = (seen.squares(), seen.means());
            let names: Vec<String> = members.iter().map(|linear| linear.name.clone()).collect();
            let mut sensitivity = Sensitivity { layers: names, weights: 0, errors: Vec::new() };
            sensitivity.errors = bits.iter().map(|bits| (*bits, 0.0)).collect();
            for linear in members {
                let name = linear.name.clone();
                let (rows, columns) = linear.weight.dims2()?;
                let weight: Vec<f32> = linear.weight.flatten_all()?.to_vec1()?;
                sensitivity.weights += (rows * columns) as u64;
                for (bits, error) in &mut sensitivity.errors {
                    let scheme = Scheme { bits: *bits, ..*scheme };
                    let codes = round_to_nearest(&weight, rows, columns, &squares, &scheme);
                    let codes = codes
                        .map_err(|error| CalibrateError::Layer { layer: name.clone(), error })?;
                    let values = grid::values(&codes);
                    *error += relative(&values, &weight, Some(&seen.hessian), columns);
                }
                let (squares, means) = (squares.clone(), means.clone());
                statistics.layers.insert(name, LayerStatistics { squares, means });
            }
            found.push(sensitivity);
        }
        inputs::advance(&block, &mut states, &contexts)?;
    }
    Ok((statistics, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_as_they_were_written() {
        let of = |n: usize| LayerStatistics {
            squares: (0..n).map(|x| x as f32).collect(),
            means: vec![0.5; n],
        };
        let layers = BTreeMap::from([("a.q_proj".to_owned(), of(3)), ("b".to_owned(), of(0))]);
        let statistics = Statistics { layers };
        let bytes = statistics.to_bytes().unwrap();
        assert_eq!(Statistics::parse(&bytes).unwrap(), statistics);
        let text = String::from_utf8_lossy(&bytes).replace("input_means", "input_weird");
        assert!(Statistics::parse(text.as_bytes()).is_err());
        assert!(Statistics::parse(b"nonsense").is_err());
    }
}
