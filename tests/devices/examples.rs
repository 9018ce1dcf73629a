//! The example programs do what they say, on the adapter that there is.

#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "a program of its own, whose `main` is not run here"
)]
#[path = "../../examples/lazy_layers.rs"]
mod lazy_layers;
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "a program of its own, whose `main` is not run here"
)]
#[path = "../../examples/quantized_matmul.rs"]
mod quantized_matmul;

#[test]
fn a_quantized_model_is_streamed_in_and_multiplied() {
    let report = quantized_matmul::run(None).unwrap();
    assert_eq!(report.weights, 4);
    assert!(report.worst < 1e-4, "{report:?}");
}

#[test]
fn a_model_runs_in_a_quarter_of_its_size() {
    let report = lazy_layers::run(2).unwrap();
    assert!(report.error < 1e-4, "{report:?}");
    assert!(report.stats.peak <= report.budget && report.budget * 4 <= report.model);
    // All but the first layer came ahead, and each left and came again; the last run ahead is of the
    // layer that would be next.
    assert_eq!(report.stats.fetches + report.stats.prefetches, 34);
    assert!(report.stats.prefetches >= 30 && report.stats.evictions >= 28, "{report:?}");
}
