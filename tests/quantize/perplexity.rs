//! What formats without calibration cost the fixture's language model.

use super::calibrated::{fixture, perplexity};
use super::quantized;
use super::run::{fresh_folder, pack};

/// Presets, the most that they may raise perplexity by, and what they were measured to raise it to.
const MEASURED: [(&str, f64, f64); 3] =
    [("bnb_int8", 0.005, 31.87995), ("bnb_nf4", 0.015, 32.28228), ("nf4_double", 0.015, 32.28315)];

#[test]
fn eight_and_four_bits_cost_no_more_than_was_measured() {
    let store = fresh_folder("perplexity").join("store");
    pack(&store, &fixture("base"), "base", &[]);
    let exact = perplexity(&store, "base");
    for (preset, most, measured) in MEASURED {
        quantized(&store, "base", preset, &["--preset", preset]);
        let got = perplexity(&store, preset);
        assert!(got / exact - 1.0 <= most, "{preset}: {got}, the model itself {exact}");
        // Processors add in other orders.
        assert!((got / measured - 1.0).abs() < 1e-4, "{preset}: {got}, measured {measured}");
    }
}
