//! Statistics of what a model's layers are fed, which cost a run of the model to measure.
//!
//! They are a value: tensors, which an artifact holds like any other, read back for the next quantization of
//! the same model.

use std::collections::BTreeMap;

use super::CalibrateError;
use crate::format::dtype::Dtype;

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
    /// Mean squares of the loss's gradient by the outputs, by row: with `squares`, the diagonal of the Fisher
    /// information in factors. None of a model that predicts nothing.
    pub gradients: Vec<f32>,
}

const SQUARES: &str = ".input_squares";
const MEANS: &str = ".input_means";
const GRADIENTS: &str = ".output_gradients";

impl Statistics {
    /// As tensors: for each layer `<name>.input_means` and `<name>.input_squares`, f32 by column, and
    /// `<name>.output_gradients`, f32 by row; by name.
    pub fn to_tensors(&self) -> Vec<(String, Vec<u8>)> {
        let mut all = Vec::new();
        for (name, layer) in &self.layers {
            let all_of =
                [(MEANS, &layer.means), (SQUARES, &layer.squares), (GRADIENTS, &layer.gradients)];
            for (end, values) in all_of.into_iter().filter(|(_, values)| !values.is_empty()) {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                all.push((format!("{name}{end}"), bytes));
            }
        }
        all
    }

    /// Reads what [`to_tensors`](Self::to_tensors) gave.
    ///
    /// # Errors
    /// If a tensor is none of statistics, or holds numbers that no mean is.
    pub fn of_tensors<'t>(
        tensors: impl Iterator<Item = (&'t str, Dtype, &'t [u8])>,
    ) -> Result<Self, CalibrateError> {
        let mut found = Self::default();
        for (name, dtype, bytes) in tensors {
            let ends = [SQUARES, MEANS, GRADIENTS];
            let of = ends.iter().find_map(|end| Some((name.strip_suffix(end)?, *end)));
            let (words, rest) = bytes.as_chunks::<4>();
            let Some((layer, end)) = of.filter(|_| dtype == Dtype::F32 && rest.is_empty()) else {
                return Err(CalibrateError::Foreign(name.to_owned()));
            };
            let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
            if values.iter().any(|value| !value.is_finite() || *value < 0.0) {
                return Err(CalibrateError::NoMean(name.to_owned()));
            }
            let layer = found.layers.entry(layer.to_owned()).or_default();
            match end {
                SQUARES => layer.squares = values,
                MEANS => layer.means = values,
                _ => layer.gradients = values,
            }
        }
        for (name, layer) in &found.layers {
            if layer.squares.len() != layer.means.len() {
                return Err(CalibrateError::Lengths(name.clone()));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_as_they_were_written() {
        let of = |n: usize| LayerStatistics {
            squares: (0..n).map(|x| x as f32).collect(),
            means: vec![0.5; n],
            gradients: vec![0.25; 2 * n],
        };
        let layers = BTreeMap::from([("a.q_proj".to_owned(), of(3)), ("b".to_owned(), of(1))]);
        let statistics = Statistics { layers };
        let tensors = statistics.to_tensors();
        let read = |dtype, rename: &dyn Fn(&str) -> String| {
            let named: Vec<_> =
                tensors.iter().map(|(name, bytes)| (rename(name), bytes.as_slice())).collect();
            let tensors = named.iter().map(|(name, bytes)| (name.as_str(), dtype, *bytes));
            Statistics::of_tensors(tensors)
        };
        assert_eq!(read(Dtype::F32, &str::to_owned).unwrap(), statistics);
        assert!(read(Dtype::I32, &str::to_owned).is_err());
        assert!(read(Dtype::F32, &|name| name.replace("means", "weird")).is_err());
        let bad = [("a.input_squares", Dtype::F32, &f32::NAN.to_le_bytes()[..])];
        assert!(Statistics::of_tensors(bad.into_iter()).is_err());
    }
}
