//! The table of what kernels reach, and which row of it counts. Pure.

use std::sync::LazyLock;

use serde::Deserialize;

use super::roofline::Kernels;

const TABLE: &str = include_str!("data/kernels.toml");

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kernels: Vec<Kernels>,
}

/// A table that is none has no row; a test holds that it is one.
static ROWS: LazyLock<Vec<Kernels>> =
    LazyLock::new(|| toml::from_str::<Table>(TABLE).unwrap_or_default().kernels);

/// Every row.
pub fn rows() -> &'static [Kernels] {
    &ROWS
}

/// What kernels of an engine reach on weights that are stored so, on a device. Where nobody measured just
/// that, the nearest: of the engine on any device, or of any engine.
pub fn find<'t>(
    rows: &'t [Kernels],
    engine: &str,
    weights: &str,
    device: &str,
) -> Option<&'t Kernels> {
    let find = |engine: &str, weights: &str, device: &str| {
        let is = |own: &&Kernels| {
            (own.engine.as_str(), own.weights.as_str(), own.device.as_str())
                == (engine, weights, device)
        };
        rows.iter().find(is)
    };
    find(engine, weights, device)
        .or_else(|| find(engine, weights, "*"))
        .or_else(|| find("*", weights, "*"))
        .or_else(|| find(engine, "*", "*"))
        .or_else(|| find("*", "*", "*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_one_and_the_nearest_row_counts() {
        let table: Table = toml::from_str(TABLE).unwrap();
        assert_eq!(table.kernels, rows());
        let band = |engine, weights, device| {
            let found = find(rows(), engine, weights, device).unwrap();
            (found.engine.as_str(), found.weights.as_str(), found.device.as_str())
        };
        assert_eq!(band("vllm", "16", "h100"), ("vllm", "16", "h100"));
        assert_eq!(band("vllm", "16", "a10g"), ("vllm", "16", "*"));
        assert_eq!(band("llama.cpp", "gguf", "l4"), ("llama.cpp", "*", "*"));
        assert_eq!(band("sglang", "int3", "l4"), ("*", "*", "*"));
        for (at, row) in rows().iter().enumerate() {
            let name = format!("{} {} {}", row.engine, row.weights, row.device);
            assert!(row.memory > 0.0 && row.memory <= 1.0, "{name}");
            assert!(row.compute > 0.0 && row.compute <= 1.0, "{name}");
            assert!(row.band >= 1.15 && row.p >= 1.0 && !row.source.is_empty(), "{name}");
            let same = |own: &Kernels| {
                (&own.engine, &own.weights, &own.device) == (&row.engine, &row.weights, &row.device)
            };
            assert_eq!(rows().iter().position(same), Some(at), "{name} is there twice");
        }
    }
}
