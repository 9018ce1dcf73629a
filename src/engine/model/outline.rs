//! Which stored tensors a model is made of, group by group in the order of use. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::error::ModelError;
use super::place::Part;
use crate::dequant::config::{Method, Module, Role};
use crate::format::id::ContentDigest;
use crate::load::modules;
use crate::quantize::lm::{LmConfig, gguf};
use crate::schedule::plan::TensorRequest;

/// A weight of a model: a plain tensor, or a quantized one's.
#[derive(Debug, Clone)]
pub(super) struct WeightPlan {
    /// The model's name for it.
    pub(super) name: String,
    /// `[rows, columns]`, or `[values]`.
    pub(super) shape: Vec<usize>,
    /// Its tensors, each with what it is to the weight; a plain one's role is none.
    pub(super) tensors: Vec<(Arc<TensorRequest>, Option<Role>)>,
    /// Rows of a head, where GGUF has them in another order.
    pub(super) permuted: Option<usize>,
}

impl WeightPlan {
    /// What it is made of: two weights of the same are the same.
    pub(super) fn key(&self) -> Vec<ContentDigest> {
        self.tensors.iter().map(|(request, _)| request.entry.digest).collect()
    }

    /// Bytes of it as it is stored.
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|(request, _)| request.entry.byte_len()).sum()
    }
}

/// Weights that are used together.
#[derive(Debug, Clone, Default)]
pub(super) struct Group(pub(super) Vec<WeightPlan>);

impl Group {
    /// Bytes of it as it is stored.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(WeightPlan::bytes).sum()
    }
}

/// All groups of a model.
#[derive(Debug, Clone)]
pub(super) struct Outline {
    /// The embedding.
    pub(super) embedding: Group,
    /// The layers.
    pub(super) layers: Vec<Group>,
    /// The last norm, and the head unless it is the embedding.
    pub(super) end: Group,
}

pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(super) const NORM: &str = "model.norm.weight";
pub(super) const HEAD: &str = "lm_head.weight";

/// The name of a weight of layer `index`.
pub(super) fn in_layer(index: usize, name: &str) -> String {
    format!("model.layers.{index}.{name}")
}

impl Outline {
    /// Finds a model's weights among all tensors.
    ///
    /// # Errors
    /// If one is missing.
    pub(super) fn new(
        config: &LmConfig,
        json: &Value,
        method: Option<&Method>,
        all: &[Arc<TensorRequest>],
    ) -> Result<Self, ModelError> {
        let finder = Finder::new(json, method, all);
        let (hidden, wide) = (config.hidden, config.intermediate);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let embedding = Group(vec![finder.find(EMBEDDING, &[config.vocabulary, hidden])?]);
        let mut layers = Vec::new();
        for index in 0..config.layers {
            let name = |own: &str| in_layer(index, own);
            let mut group = vec![finder.find(&name("input_layernorm.weight"), &[hidden])?];
            for part in Part::ALL {
                let shape = match part {
                    Part::Q => [q, hidden],
                    Part::K | Part::V => [kv, hidden],
                    Part::O => [hidden, q],
                    Part::Gate | Part::Up => [wide, hidden],
                    Part::Down => [hidden, wide],
                };
                group.push(finder.find(&name(&format!("{}.weight", part.name())), &shape)?);
                let bias = name(&format!("{}.bias", part.name()));
                if finder.has(&bias) {
                    group.push(finder.find(&bias, &[shape[0]])?);
                }
                if config.has_head_norms() && matches!(part, Part::Q | Part::K) {
                    let norm = if part == Part::Q { "q_norm" } else { "k_norm" };
                    let norm = name(&format!("self_attn.{norm}.weight"));
                    group.push(finder.find(&norm, &[config.head_dim])?);
                }
            }
            group.push(finder.find(&name("post_attention_layernorm.weight"), &[hidden])?);
            layers.push(Group(group));
        }
        let mut end = vec![finder.find(NORM, &[hidden])?];
        if !config.tied {
            end.push(finder.find(HEAD, &[config.vocabulary, hidden])?);
        }
        Ok(Self { embedding, layers, end: Group(end) })
    }

    /// All groups, in the order of use.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Group> {
        [&self.embedding].into_iter().chain(&self.layers).chain([&self.end])
    }
}

/// Finds weights by the model's names for them.
struct Finder<'a> {
    json: &'a Value,
    gguf: bool,
    all: &'a [Arc<TensorRequest>],
    names: HashMap<String, usize>,
    modules: HashMap<String, Module>,
}

impl<'a> Finder<'a> {
    fn new(json: &'a Value, method: Option<&Method>, all: &'a [Arc<TensorRequest>]) -> Self {
        let gguf = matches!(method, Some(Method::Gguf(_)));
        let own = |name: &str| {
            let other = gguf::original(json, name).filter(|_| gguf);
            let name = other.unwrap_or_else(|| name.to_owned());
            // Some checkpoints leave the first word out.
            match name.starts_with("model.") || name == HEAD {
                true => name,
                false => format!("model.{name}"),
            }
        };
        let mut names = HashMap::new();
        for (at, request) in all.iter().enumerate() {
            names.entry(own(&request.entry.name)).or_insert(at);
        }
        let modules = method.map(|method| modules(method, all)).unwrap_or_default();
        let modules = modules.into_iter().map(|module| (own(&module.name), module)).collect();
        Self { json, gguf, all, names, modules }
    }

    fn has(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.modules.contains_key(name)
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<WeightPlan, ModelError> {
        let missing = || ModelError::Missing(name.to_owned());
        let heads = gguf::heads(self.json, name).filter(|_| self.gguf);
        let heads = heads.and_then(|heads| usize::try_from(heads).ok());
        let permuted = heads.zip(shape.first()).map(|(heads, rows)| rows / heads.max(1));
        let tensors = match self.modules.get(name) {
            Some(module) => {
                let own = module.tensors.iter();
                let own = own.map(|(at, role)| Some((self.all.get(*at)?.clone(), Some(*role))));
                own.collect::<Option<Vec<_>>>().ok_or_else(missing)?
            }
            None => {
                let at = self.names.get(name).ok_or_else(missing)?;
                vec![(self.all.get(*at).ok_or_else(missing)?.clone(), None)]
            }
        };
        if let [(plain, None)] = tensors.as_slice() {
            let dims = plain.entry.shape.dims();
            if !dims.iter().copied().eq(shape.iter().map(|dim| *dim as u64)) {
                let got = dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX));
                return Err(ModelError::Shape {
                    name: name.to_owned(),
                    got: got.collect(),
                    want: shape.to_vec(),
                });
            }
        }
        Ok(WeightPlan { name: name.to_owned(), shape: shape.to_vec(), tensors, permuted })
    }
}
