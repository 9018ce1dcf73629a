//! Experts that are stacked in one tensor, and weights that are stored by columns, as the tensors of single linear
//! layers: what runs and quantizes models, and the engines that load the result, know no others.

use std::collections::HashMap;
use std::sync::Arc;

use super::family::{Family, Stacked};
use super::{LmConfig, LmError};
use crate::quantize::source::plain::Piece;
use crate::quantize::source::{ModelSource, Tensor};

/// The model with each linear layer that is `wanted`, by its name without `.weight`, as a tensor of outputs by inputs.
/// Of experts that are stacked all are taken apart if one is wanted. A model that is not described, or has no
/// configuration, stays as it is.
///
/// # Errors
/// If two tensors would have one name.
pub fn apart(
    source: Arc<ModelSource>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<Arc<ModelSource>, LmError> {
    let config = source.config().map_err(LmError::from).and_then(LmConfig::parse);
    let Ok(config) = config else { return Ok(source) };
    let own = pieces(&source, &config, wanted);
    // Of one that is transposed it must be known that it was looked at.
    match own.is_empty() && !(config.about.attention.transposed || config.about.mlp.transposed) {
        true => Ok(source),
        false => Ok(source.in_pieces(own)?),
    }
}

/// The same of all layers of a model that is run.
pub(super) fn all(
    source: Arc<ModelSource>,
    config: &LmConfig,
) -> Result<Arc<ModelSource>, LmError> {
    let own = pieces(&source, config, &|_| true);
    if own.is_empty() { Ok(source) } else { Ok(source.in_pieces(own)?) }
}

/// What tensors, by number, are put in pieces.
fn pieces(
    source: &ModelSource,
    config: &LmConfig,
    wanted: &dyn Fn(&str) -> bool,
) -> HashMap<usize, Vec<Piece>> {
    let numbers = source.tensors().iter().enumerate();
    let by_name = numbers.map(|(at, tensor)| (tensor.name.as_str(), at)).collect();
    let mut found = Found { source, by_name, wanted, pieces: HashMap::new() };
    let prefix = config.prefix(&|name| source.tensor(name).is_some());
    for (index, layer) in config.by_layer.iter().enumerate() {
        let path = format!("{prefix}{}", config.about.block.replace("{}", &index.to_string()));
        for name in turned(&config.about) {
            found.turn(&format!("{path}.{name}"));
        }
        if layer.has_experts {
            found.unstack(&path, &config.about);
            let count = config.numbers.experts.as_ref().map_or(0, |own| own.count);
            found.rename(&path, &config.about, count);
        }
    }
    found.pieces
}

/// The linear layers of a block that are stored by columns.
fn turned(about: &Family) -> impl Iterator<Item = &String> {
    let (own, mlp) = (&about.attention, &about.mlp);
    let attention = [own.q.as_ref(), own.k.as_ref(), own.v.as_ref(), Some(&own.o)];
    let attention = attention.into_iter().flatten().chain(own.qkv.iter().map(|fused| &fused.name));
    let mlp_names = [mlp.gate.as_ref(), mlp.up.as_ref(), mlp.gate_up.as_ref(), Some(&mlp.down)];
    let (has_own, has_mlp) = (own.transposed, mlp.transposed);
    attention
        .filter(move |_| has_own)
        .chain(mlp_names.into_iter().flatten().filter(move |_| has_mlp))
}

struct Found<'a> {
    source: &'a ModelSource,
    by_name: HashMap<&'a str, usize>,
    wanted: &'a dyn Fn(&str) -> bool,
    pieces: HashMap<usize, Vec<Piece>>,
}

impl<'a> Found<'a> {
    fn tensor(&self, name: &str) -> Option<(usize, &'a Tensor)> {
        let at = *self.by_name.get(name)?;
        Some((at, self.source.tensors().get(at)?))
    }

    /// The weight of a layer as its kind is stored: outputs by inputs where it is wanted, else by columns.
    fn turn(&mut self, layer: &str) {
        let name = format!("{layer}.weight");
        let Some((at, tensor)) = self.tensor(&name) else { return };
        let linear = (self.wanted)(layer);
        let [rows, columns] = *tensor.shape.dims() else { return };
        if linear != self.source.is_linear(at) {
            let dims = vec![columns, rows];
            let piece = Piece { name, dims, of: (0, 1), transposed: true, rows: (0, 1), linear };
            self.pieces.insert(at, vec![piece]);
        }
    }

    /// The layers of a block's experts.
    fn unstack(&mut self, path: &str, about: &Family) {
        let Some(experts) = &about.experts else { return };
        let (Some(stacked), [Some(gate), Some(up), Some(down)]) =
            (&experts.stacked, experts.names())
        else {
            return;
        };
        let of = |name: &String| format!("{path}.{name}");
        let (Some(both), Some(out)) =
            (self.tensor(&of(&stacked.gate_up)), self.tensor(&of(&stacked.down)))
        else {
            return;
        };
        let (Some(ups), Some(downs)) = (matrices(both.1, stacked), matrices(out.1, stacked)) else {
            return;
        };
        let layers = [&gate, &up, &down].map(of);
        let named = |layer: &str, expert: u64| layer.replace("{}", &expert.to_string());
        let any =
            |layer: &String| (0..ups.count).any(|expert| (self.wanted)(&named(layer, expert)));
        if !ups.rows.is_multiple_of(2) || ups.count != downs.count || !layers.iter().any(any) {
            return;
        }
        let wide = ups.rows / 2;
        let halves = if stacked.interleaved { [(0, 2), (1, 2)] } else { [(0, 1), (wide, 1)] };
        let [gate, up, down] = layers;
        let biases = stacked.biases.as_ref().map(|own| own.each_ref().map(of));
        let biases = biases.map(|own| own.map(|name| self.tensor(&name).map(|(at, _)| at)));
        let [of_ups, of_down] = biases.unwrap_or([None, None]);
        let [ups_at, down_at] = [both.0, out.0];
        for expert in 0..ups.count {
            let parts = [(&gate, halves[0]), (&up, halves[1])];
            for (layer, rows) in parts {
                let layer = named(layer, expert);
                let piece = |end: &str, dims: Vec<u64>, transposed| Piece {
                    name: format!("{layer}.{end}"),
                    dims,
                    of: (expert, ups.count),
                    transposed,
                    rows,
                    linear: true,
                };
                let weight = piece("weight", vec![wide, ups.columns], stacked.transposed);
                self.pieces.entry(ups_at).or_default().push(weight);
                let bias = of_ups.map(|at| (at, piece("bias", vec![wide], false)));
                bias.into_iter().for_each(|(at, own)| self.pieces.entry(at).or_default().push(own));
            }
            let layer = named(&down, expert);
            let piece = |end: &str, dims: Vec<u64>, transposed| Piece {
                name: format!("{layer}.{end}"),
                dims,
                of: (expert, downs.count),
                transposed,
                rows: (0, 1),
                linear: true,
            };
            let weight = piece("weight", vec![downs.rows, downs.columns], stacked.transposed);
            self.pieces.entry(down_at).or_default().push(weight);
            let bias = of_down.map(|at| (at, piece("bias", vec![downs.rows], false)));
            bias.into_iter().for_each(|(at, own)| self.pieces.entry(at).or_default().push(own));
        }
    }

    /// A block's experts and their router, where they have other names.
    fn rename(&mut self, path: &str, about: &Family, count: usize) {
        let Some(experts) = &about.experts else { return };
        let (Some(also), [Some(gate), Some(up), Some(down)]) = (&experts.also, experts.names())
        else {
            return;
        };
        let mut names = vec![(also.router.clone(), experts.router.clone())];
        for expert in 0..count {
            let of = |name: &str| name.replace("{}", &expert.to_string());
            let pairs = [(&also.gate, &gate), (&also.up, &up), (&also.down, &down)];
            names.extend(pairs.map(|(from, to)| (of(from), of(to))));
        }
        for ((from, to), end) in names.iter().flat_map(|pair| [(pair, "weight"), (pair, "bias")]) {
            let Some((at, tensor)) = self.tensor(&format!("{path}.{from}.{end}")) else { continue };
            let (name, dims) = (format!("{path}.{to}.{end}"), tensor.shape.dims().to_vec());
            let (of, rows) = ((0, 1), (0, 1));
            let own = Piece { name, dims, of, transposed: false, rows, linear: true };
            self.pieces.insert(at, vec![own]);
        }
    }
}

/// The matrices of a stack, outputs by inputs.
#[derive(Clone, Copy)]
struct Matrices {
    count: u64,
    rows: u64,
    columns: u64,
}

fn matrices(tensor: &Tensor, stacked: &Stacked) -> Option<Matrices> {
    let [count, one, other] = *tensor.shape.dims() else { return None };
    let (rows, columns) = if stacked.transposed { (other, one) } else { (one, other) };
    Some(Matrices { count, rows, columns })
}
