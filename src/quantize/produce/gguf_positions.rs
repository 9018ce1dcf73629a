//! Rotary positions of a model as GGUF says them. Pure.

use serde_json::Value;

use super::ProduceError;
use super::gguf_values::Values;
use crate::gguf::config::llama3_factor;

/// What a config says of positions: in one object, under either name; where it says so for each type of layer, of
/// those that see all.
fn positions(config: &Value) -> Option<&Value> {
    let own = |key: &str| config.get(key).filter(|own| own.is_object());
    let all = own("rope_scaling").or_else(|| own("rope_parameters"))?;
    Some(all.get("full_attention").filter(|own| own.is_object()).unwrap_or(all))
}

/// A number of them.
pub(super) fn rope(config: &Value, key: &str) -> Option<f64> {
    let new = config.get("rope_parameters").and_then(|own| own.get(key));
    new.or_else(|| positions(config)?.get(key)).and_then(Value::as_f64)
}

fn scaled(config: &Value) -> Option<&str> {
    let own = positions(config)?;
    let kind = own.get("rope_type").or_else(|| own.get("type"))?.as_str()?;
    (kind != "default").then_some(kind)
}

/// Whether they are scaled as YaRN does.
pub(super) fn is_yarn(config: &Value) -> bool {
    scaled(config) == Some("yarn")
}

/// Refuses positions that GGUF cannot say here.
pub(super) fn check_scaling(config: &Value) -> Result<(), ProduceError> {
    match scaled(config) {
        None | Some("linear" | "yarn" | "llama3") => Ok(()),
        Some(kind) => Err(ProduceError::GgufPositions(kind.to_owned())),
    }
}

/// Says how they are scaled.
pub(super) fn scaling(
    config: &Value,
    arch: &str,
    own: &dyn Fn(&str) -> String,
    values: &mut Values,
) {
    let Some(kind @ ("linear" | "yarn")) = scaled(config) else { return };
    values.text(&own("rope.scaling.type"), kind);
    for (key, there) in [
        ("factor", "rope.scaling.factor"),
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(value) = rope(config, key) {
            values.f32(&own(there), value);
        }
    }
    // llama.cpp multiplies by what YaRN makes of the factor, too.
    let usual = rope(config, "factor").map_or(1.0, |factor| 0.1 * factor.max(1.0).ln() + 1.0);
    if let Some(factor) = rope(config, "attention_factor").filter(|_| kind == "yarn") {
        values.f32(&own("rope.scaling.attn_factor"), factor / usual);
    }
    if let Some(all) = rope(config, "mscale_all_dim").filter(|_| kind == "yarn") {
        let by = if arch == "deepseek2" { 0.1 } else { 1.0 };
        values.f32(&own("rope.scaling.yarn_log_multiplier"), by * all);
    }
    let original = rope(config, "original_max_position_embeddings")
        .or_else(|| config.get("max_position_embeddings").and_then(Value::as_f64));
    if let Some(original) = original {
        values.u32(&own("rope.scaling.original_context_length"), original as u64);
    }
}

/// The factors that Llama 3 divides its frequencies by, as the tensor `rope_freqs.weight` has them.
pub(super) fn factors(config: &Value) -> Option<Vec<f32>> {
    if scaled(config) != Some("llama3") {
        return None;
    }
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let dim = number("head_dim")
        .or(Some(number("hidden_size")? / number("num_attention_heads")?.max(1)))?;
    let theta = rope(config, "rope_theta").or_else(|| config.get("rope_theta")?.as_f64())?;
    let (factor, low) = (rope(config, "factor")?, rope(config, "low_freq_factor")?);
    let high = rope(config, "high_freq_factor")?;
    let original = rope(config, "original_max_position_embeddings")?;
    let of = |pair: u64| {
        let wave = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / dim as f64);
        llama3_factor(wave, factor, [low, high], original)
    };
    Some((0..dim.min(1 << 16) / 2).map(|pair| of(pair) as f32).collect())
}
