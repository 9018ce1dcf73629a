//! What the winner's manifest says of the choice. Pure.
//!
//! Canonical JSON has integers only: all other numbers are decimal texts, of at most six significant digits.

use serde_json::{Map, Value, json};

use super::constraints::OptimizationConstraints;
use super::error::OptimizeError;
use super::figure::Figure;
use super::options::OptimizeOptions;
use super::outcome::Row;
use super::prices::Price;
use crate::format::id::ContentDigest;
use crate::quantize::produce::{TOOL, VERSION};

/// A number as a decimal text.
fn decimal(value: f64) -> String {
    if !value.is_finite() {
        return "unknown".to_owned();
    }
    let magnitude = value.abs().max(1e-12).log10().floor() as i32;
    let digits = usize::try_from((5 - magnitude).clamp(0, 12)).unwrap_or(0);
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    if text == "-0" { "0".to_owned() } else { text }
}

fn range(figure: Figure) -> Value {
    json!({
        "high": decimal(figure.high), "low": decimal(figure.low), "source": figure.source,
        "value": decimal(figure.value),
    })
}

/// The section. `text` is what quality was measured on.
///
/// # Errors
/// If a text has no canonical form.
pub(super) fn section(
    winner: &Row,
    rows: &[Row],
    prices: &[Price],
    options: &OptimizeOptions,
    constraints: &OptimizationConstraints,
    text: Option<(&[u32], usize)>,
) -> Result<Map<String, Value>, OptimizeError> {
    let figures = &winner.figures;
    let mut said = Map::new();
    let mut put = |key: &str, value: Value| drop(said.insert(key.to_owned(), value));
    put("selected_method", json!(winner.method));
    put("objective", json!(options.objective.name()));
    put("hardware", json!(winner.hardware));
    put("currency", json!(options.prices.currency));
    put("measured", json!(winner.measured));
    put("tool", json!(TOOL));
    put("tool_version", json!(VERSION));
    if let Some(engine) = winner.engine {
        put("engine", json!(engine.name()));
    }
    if let Some(cost) = figures.cost_per_1m_tokens {
        put("cost_per_1m_tokens", json!(decimal(cost.value)));
        put("cost_range", range(cost));
    }
    if let Some(speed) = &winner.speed {
        let times = speed.times(constraints.latency_of);
        put("latency_of", json!(constraints.latency_of.name()));
        put("latency_p50_ms", json!(decimal(times.p50.value)));
        put("latency_p95_ms", json!(decimal(times.p95.value)));
        put("latency_range", range(times.p50));
        put("tokens_per_second", json!(decimal(speed.tokens_per_second.value)));
    }
    if let Some(source) = &winner.speed_source {
        put("speed_source", json!(source));
    }
    if let Some(compression) = figures.compression {
        put("compression", json!(decimal(compression.value)));
    }
    if let Some(memory) = figures.memory {
        put("memory_bytes", json!(memory.value as u64));
    }
    if let Some(delta) = figures.ppl_delta_percent {
        put("ppl_delta_percent", range(delta));
    }
    if let Some(quality) = &winner.quality {
        let mut own = Map::new();
        own.insert("kl".to_owned(), range(quality.kl));
        for (key, value) in [
            ("perplexity", quality.perplexity),
            ("base_perplexity", quality.base_perplexity),
            ("kl_median", quality.kl_median),
            ("kl_p99", quality.kl_p99),
            ("same_top", quality.same_top),
            ("error_probability", options.error),
        ] {
            own.insert(key.to_owned(), json!(decimal(value)));
        }
        own.insert("tokens".to_owned(), json!(quality.tokens));
        own.insert("windows".to_owned(), json!(quality.windows));
        if let Some((tokens, context)) = text {
            let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
            own.insert("context".to_owned(), json!(context));
            own.insert("text_tokens".to_owned(), json!(ContentDigest::of(&bytes)));
        }
        put("quality", Value::Object(own));
    }
    let limits = constraints.limits();
    let limits: Map<String, Value> =
        limits.map(|(limit, bound)| (field(limit.flag()), json!(decimal(bound)))).collect();
    put("constraints", Value::Object(limits));
    let (input, output) = options.workload.mean();
    put(
        "workload",
        json!({
            "concurrency": options.workload.concurrency, "input_tokens": decimal(input),
            "output_tokens": decimal(output), "percentile": constraints.percentile.name(),
            "utilization_percent": options.workload.utilization_percent,
        }),
    );
    let price = |own: &Price| {
        json!({
            "date": own.date, "hardware": own.hardware, "instance": own.instance,
            "per": own.per.as_deref().unwrap_or("device"), "per_hour": decimal(own.per_hour),
            "provider": own.provider, "region": own.region, "source": own.source,
        })
    };
    put("prices", prices.iter().map(price).collect());
    put("candidates", rows.iter().map(candidate).collect());
    Ok(said)
}

fn candidate(row: &Row) -> Value {
    let mut own = Map::new();
    own.insert("method".to_owned(), json!(row.method));
    own.insert("hardware".to_owned(), json!(row.hardware));
    if let Some(id) = row.manifest {
        own.insert("manifest".to_owned(), json!(id));
    }
    if let Some(why) = &row.dropped {
        own.insert("dropped".to_owned(), json!(why));
    }
    if let Some(cost) = row.figures.cost_per_1m_tokens {
        own.insert("cost_per_1m_tokens".to_owned(), json!(decimal(cost.value)));
    }
    if let Some(delta) = row.figures.ppl_delta_percent {
        own.insert("ppl_delta_percent".to_owned(), json!(decimal(delta.value)));
    }
    Value::Object(own)
}

/// A flag as a field's name.
fn field(flag: &str) -> String {
    flag.trim_start_matches('-').replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_texts_of_six_digits() {
        for (value, text) in [
            (0.15, "0.15"),
            (45.2, "45.2"),
            (1234567.8, "1234568"),
            (0.000_123_456_78, "0.000123457"),
            (-0.0, "0"),
            (f64::INFINITY, "unknown"),
        ] {
            assert_eq!(decimal(value), text);
        }
        assert_eq!(field("--max-ppl-delta"), "max_ppl_delta");
    }
}
