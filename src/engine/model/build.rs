//! Weights out of the bytes of their tensors.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::error::ModelError;
use super::layer::{Layer, Linear};
use super::outline::{EMBEDDING, Group, HEAD, NORM, WeightPlan, in_layer};
use super::place::Part;
use crate::dequant::config::{Facts, Method};
use crate::dequant::{Float, Part as Stored, Parts, Weight};
use crate::engine::compute::Matrix;
use crate::format::id::ContentDigest;
use crate::quantize::lm::gguf;

/// Weights by what they are made of.
pub(super) type Known = HashMap<Vec<ContentDigest>, Arc<Matrix>>;

/// The weights of a group, by name.
pub(super) struct Built {
    weights: HashMap<String, Arc<Matrix>>,
}

impl Built {
    /// Makes the weights of `group` of the bytes of its tensors, in their order. Those that are known already
    /// are not among these.
    pub(super) fn new(
        group: &Group,
        method: Option<&Method>,
        mut bytes: impl Iterator<Item = Bytes>,
        known: &Known,
    ) -> Result<Self, ModelError> {
        let mut weights = HashMap::new();
        for plan in &group.0 {
            let weight = match known.get(&plan.key()) {
                Some(weight) => weight.clone(),
                None => {
                    let own: Vec<Bytes> = bytes.by_ref().take(plan.tensors.len()).collect();
                    Arc::new(matrix(plan, method, &own)?)
                }
            };
            weights.insert(plan.name.clone(), weight);
        }
        Ok(Self { weights })
    }

    fn take(&mut self, name: &str) -> Result<Arc<Matrix>, ModelError> {
        self.weights.remove(name).ok_or_else(|| ModelError::Missing(name.to_owned()))
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        let own = self.take(name)?;
        let mut values = vec![0.0; own.columns()];
        crate::engine::compute::row(&own, 0, &mut values);
        Ok(values)
    }

    /// The layer that they make.
    pub(super) fn layer(mut self, index: usize) -> Result<Layer, ModelError> {
        let mut linears = Vec::new();
        for part in Part::ALL {
            let weight = self.take(&in_layer(index, &format!("{}.weight", part.name())))?;
            let bias = in_layer(index, &format!("{}.bias", part.name()));
            let bias = match self.weights.contains_key(&bias) {
                true => Some(self.vector(&bias)?),
                false => None,
            };
            linears.push(Linear { weight, bias });
        }
        let norm = in_layer(index, "self_attn.q_norm.weight");
        let head_norms = match self.weights.contains_key(&norm) {
            true => Some([
                self.vector(&norm)?,
                self.vector(&in_layer(index, "self_attn.k_norm.weight"))?,
            ]),
            false => None,
        };
        Ok(Layer {
            input_norm: self.vector(&in_layer(index, "input_layernorm.weight"))?,
            post_norm: self.vector(&in_layer(index, "post_attention_layernorm.weight"))?,
            head_norms,
            linears: linears.try_into().map_err(|_| ModelError::Ended)?,
        })
    }

    /// The embedding.
    pub(super) fn embedding(mut self) -> Result<Arc<Matrix>, ModelError> {
        self.take(EMBEDDING)
    }

    /// The last norm, and the head unless it is the embedding.
    pub(super) fn end(mut self) -> Result<(Vec<f32>, Option<Arc<Matrix>>), ModelError> {
        Ok((self.vector(NORM)?, self.weights.remove(HEAD)))
    }
}

/// A weight; a vector is one row.
fn matrix(
    plan: &WeightPlan,
    method: Option<&Method>,
    bytes: &[Bytes],
) -> Result<Matrix, ModelError> {
    let (rows, columns) = match plan.shape.as_slice() {
        [rows, columns] => (*rows, *columns),
        [values] => (1, *values),
        _ => return Err(ModelError::Missing(plan.name.clone())),
    };
    let missing = || ModelError::Missing(plan.name.clone());
    if let ([(request, None)], [own]) = (plan.tensors.as_slice(), bytes) {
        let dtype = request.entry.dtype;
        let float = Float::of_dtype(dtype).ok_or_else(|| ModelError::Dtype {
            name: plan.name.clone(),
            dtype: dtype.to_string(),
        })?;
        // Beside quantized weights, what is kept gives its place in the load back.
        let own = if method.is_some() { Bytes::copy_from_slice(own) } else { own.clone() };
        let own = Matrix::floats(rows, columns, float, own).ok_or_else(missing)?;
        return Ok(in_order(own, plan.permuted));
    }
    let method = method.ok_or_else(missing)?;
    let mut facts = Facts::default();
    let [mut codes, mut scales, mut zeros] = [Bytes::new(), Bytes::new(), Bytes::new()];
    for ((request, role), bytes) in plan.tensors.iter().zip(bytes) {
        let Some(role) = role else { continue };
        let read = if role.is_read() { bytes.to_vec() } else { Vec::new() };
        facts.add(*role, request.entry.dtype, request.entry.shape.dims(), read);
        match role.part() {
            Some(Stored::Codes) => codes = bytes.clone(),
            Some(Stored::Scales) => scales = bytes.clone(),
            Some(Stored::Zeros) => zeros = bytes.clone(),
            _ => {}
        }
    }
    let wrong = |error| ModelError::Weight { name: plan.name.clone(), error };
    let (weight, table, index): (Weight, _, _) = method.weight(&facts).map_err(wrong)?;
    let got = [weight.rows() as usize, weight.cols() as usize];
    if got != [rows, columns] {
        return Err(ModelError::Shape {
            name: plan.name.clone(),
            got: got.to_vec(),
            want: vec![rows, columns],
        });
    }
    let parts =
        Parts { codes: &codes, scales: &scales, zeros: &zeros, index: &index, table: &table };
    let matrix = Matrix::quantized(&weight, &parts).map_err(wrong)?;
    Ok(in_order(matrix, plan.permuted))
}

/// A weight whose rows GGUF has permuted in heads of so many, as the model has it; a bias is one row.
fn in_order(matrix: Matrix, head: Option<usize>) -> Matrix {
    let rows = matrix.rows();
    let Some(size) = head.filter(|size| *size > 1 && rows > 1) else { return matrix };
    // Where GGUF has each row of the model.
    let mut place = vec![0; rows];
    for row in 0..rows {
        if let Some(place) = place.get_mut(gguf::source_row(row, size)) {
            *place = row;
        }
    }
    matrix.with_rows(|row| place.get(row).copied().unwrap_or(0))
}
