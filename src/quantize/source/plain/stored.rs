//! A quantized checkpoint of safetensors: weights for the tensors that they are stored in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::super::{ModelSource, SourceError};
use super::made::{From, Made, facts};
use super::view::{Builder, finish, named};
use crate::dequant::Float;
use crate::dequant::config::{Method, Module, Role, Stored};
use crate::format::dtype::Shape;
use crate::gguf::names::Change;

/// The view.
pub(super) fn view(
    inner: Arc<ModelSource>,
    method: &Method,
    float: Float,
) -> Result<ModelSource, SourceError> {
    let stored = inner.tensors().iter().map(|one| Stored {
        name: &one.name,
        dtype: one.dtype,
        dims: one.shape.dims(),
    });
    let modules = method.modules(&stored.collect::<Vec<_>>());
    let mut of: HashMap<usize, &Module> = HashMap::new();
    let mut parts = HashSet::new();
    for module in &modules {
        parts.extend(module.tensors.iter().map(|(at, _)| *at));
        let first = module.tensors.iter().find(|(_, role)| role.part().is_some());
        of.extend(first.map(|(at, _)| (*at, module)));
    }
    let mut tensors = Vec::new();
    for (at, tensor) in inner.tensors().iter().enumerate() {
        let path = inner.files().get(tensor.file).map(|file| file.path.clone());
        let path = path.ok_or_else(|| SourceError::Defect(tensor.name.clone()))?;
        if let Some(module) = of.get(&at) {
            tensors.push((path, weight(&inner, module, method, float)?));
        } else if !parts.contains(&at) && !is_of_scheme(&tensor.name) {
            tensors.push((
                path,
                Made {
                    name: tensor.name.clone(),
                    dtype: tensor.dtype,
                    shape: tensor.shape.clone(),
                    from: From::Stored(at),
                    slice: None,
                    change: Change::Same,
                    matrices: 1,
                },
            ));
        }
    }
    finish(Builder::new(inner), tensors, Some(named(method)))
}

/// Scales of activations and caches, which a model of floats has no use for.
fn is_of_scheme(name: &str) -> bool {
    let ends = [
        ".input_scale",
        ".input_global_scale",
        ".k_scale",
        ".v_scale",
        ".output_scale",
        ".q_scale",
    ];
    ends.iter().any(|end| name.ends_with(end))
}

/// The weight that a module's tensors make.
fn weight(
    inner: &ModelSource,
    module: &Module,
    method: &Method,
    float: Float,
) -> Result<Made, SourceError> {
    let name = &module.name;
    let wrong = |error| SourceError::Weight { name: name.clone(), error };
    let dims_of = |role: Role| {
        let own = module.tensors.iter().find(|(_, own)| own.part() == role.part())?;
        inner.tensors().get(own.0).map(|tensor| tensor.shape.dims().to_vec())
    };
    let (facts, _) = facts(inner, module, false)?;
    let (weight, ..) = method.weight(&facts).map_err(wrong)?;
    let (rows, columns) = (u64::from(weight.rows()), u64::from(weight.cols()));
    let scales = dims_of(Role::Part(crate::dequant::Part::Scales)).unwrap_or_default();
    // Experts that are stacked: gpt-oss has its matrices the other way around.
    let (dims, change, matrices) = match *scales {
        [experts, own, _] if experts * own == rows => {
            (vec![experts, columns, own], Change::Transposed, experts)
        }
        _ => (vec![rows, columns], Change::Same, 1),
    };
    let shape = Shape::new(dims).ok_or_else(|| SourceError::Defect(name.clone()))?;
    let from = From::Module(module.clone(), method.clone());
    let dtype = float.dtype();
    Ok(Made { name: name.clone(), dtype, shape, from, slice: None, change, matrices })
}
