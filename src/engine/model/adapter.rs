//! LoRA adapters in PEFT's form: `y += scale * B (A x)`, on the states of those who asked for one.
//! Source: Hu et al. 2021; names and `adapter_config.json` as PEFT writes them.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::error::ModelError;
use super::place::{Part, Place};
use crate::engine::compute::{Matrix, States, product};

/// An adapter.
#[derive(Debug)]
pub struct Adapter {
    pairs: HashMap<Place, [Matrix; 2]>,
    scale: f32,
}

impl Adapter {
    /// What `adapter_config.json` scales it by.
    pub(super) fn scale(config: &Value) -> Result<f32, ModelError> {
        let wrong = |why: &str| ModelError::Adapter(format!("adapter_config.json: {why}"));
        let number = |key: &str| config.get(key).and_then(Value::as_f64);
        if config.get("peft_type").and_then(Value::as_str).is_some_and(|kind| kind != "LORA") {
            return Err(wrong("peft_type is not LORA"));
        }
        for key in ["use_dora", "fan_in_fan_out"] {
            if config.get(key).and_then(Value::as_bool) == Some(true) {
                return Err(wrong(&format!("{key} is not supported")));
            }
        }
        let filled = |key: &str| match config.get(key) {
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
            _ => false,
        };
        for key in ["modules_to_save", "rank_pattern", "alpha_pattern"] {
            if filled(key) {
                return Err(wrong(&format!("{key} is not supported")));
            }
        }
        let (rank, alpha) = (number("r").unwrap_or(0.0), number("lora_alpha").unwrap_or(0.0));
        if !(rank >= 1.0 && alpha.is_finite()) {
            return Err(wrong("r and lora_alpha are needed"));
        }
        let rooted = config.get("use_rslora").and_then(Value::as_bool) == Some(true);
        Ok((alpha / if rooted { rank.sqrt() } else { rank }) as f32)
    }

    /// Where the tensor `name` belongs, and whether it is the second of its pair.
    pub(super) fn place(name: &str) -> Option<(Place, bool)> {
        let (_, rest) = name.split_once("layers.")?;
        let (layer, rest) = rest.split_once('.')?;
        let layer = layer.parse().ok()?;
        let part = Part::ALL.into_iter().find(|part| {
            rest.strip_prefix(part.name()).is_some_and(|rest| rest.starts_with(".lora_"))
        })?;
        let second = match rest.strip_prefix(part.name())? {
            ".lora_A.weight" | ".lora_A.default.weight" => false,
            ".lora_B.weight" | ".lora_B.default.weight" => true,
            _ => return None,
        };
        Some((Place { layer, part }, second))
    }

    /// Of pairs A `[rank, inputs]` and B `[outputs, rank]`.
    pub(super) fn new(pairs: HashMap<Place, [Matrix; 2]>, scale: f32) -> Self {
        Self { pairs, scale }
    }

    /// Adds what the states' adapters bring.
    pub(super) fn apply(of: &[Option<Arc<Self>>], place: Place, x: &States, out: &mut States) {
        let mut done: Vec<*const Self> = Vec::new();
        for adapter in of.iter().flatten() {
            if done.contains(&Arc::as_ptr(adapter)) {
                continue;
            }
            done.push(Arc::as_ptr(adapter));
            let Some([down, up]) = adapter.pairs.get(&place) else { continue };
            let rows: Vec<usize> = of
                .iter()
                .enumerate()
                .filter(|(_, own)| own.as_ref().is_some_and(|own| Arc::ptr_eq(own, adapter)))
                .map(|(row, _)| row)
                .collect();
            let mut own = States::new(rows.len(), x.width());
            for (to, from) in own.rows_mut().zip(&rows) {
                to.copy_from_slice(x.row(*from));
            }
            let (mut narrow, mut wide) =
                (States::new(rows.len(), down.rows()), States::new(rows.len(), up.rows()));
            product(down, &own, &mut narrow);
            product(up, &narrow, &mut wide);
            for (from, to) in wide.rows().zip(&rows) {
                for (value, more) in out.row_mut(*to).iter_mut().zip(from) {
                    *value += adapter.scale * more;
                }
            }
        }
    }
}
