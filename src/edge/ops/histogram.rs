//! Times to first byte, by interface and outcome, as Prometheus reads histograms.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;

/// Upper bounds of the buckets in microseconds; the last has none.
const BOUNDS: [u64; 13] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000,
];
const BUCKETS: usize = BOUNDS.len() + 1;

/// The interface that answers, as metrics call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Native,
    Hub,
    S3,
    Own,
}

impl Api {
    pub(crate) const ALL: [Self; 4] = [Self::Native, Self::Hub, Self::S3, Self::Own];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Native => "pack",
            Self::Hub => "hub",
            Self::S3 => "s3",
            Self::Own => "own",
        }
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It got what it asked for.
    Ok,
    /// It has it already.
    Unchanged,
    /// It should not have asked so.
    Refused,
    /// The edge or its origin could not.
    Failed,
}

impl Outcome {
    const ALL: [Self; 4] = [Self::Ok, Self::Unchanged, Self::Refused, Self::Failed];

    pub(crate) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            200..=299 => Self::Ok,
            304 => Self::Unchanged,
            500.. => Self::Failed,
            _ => Self::Refused,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unchanged => "unchanged",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Default)]
struct Histogram {
    /// How many fell into each bucket alone.
    counts: [AtomicU64; BUCKETS],
    microseconds: AtomicU64,
}

/// One histogram for each interface and outcome.
#[derive(Debug, Default)]
pub(crate) struct Histograms([[Histogram; Outcome::ALL.len()]; Api::ALL.len()]);

impl Histograms {
    pub(crate) fn observe(&self, api: Api, outcome: Outcome, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let histogram = &self.0[api as usize][outcome as usize];
        let bucket = BOUNDS.partition_point(|bound| *bound < took);
        histogram.counts[bucket].fetch_add(1, Ordering::Relaxed);
        histogram.microseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// The requests of an interface, by outcome.
    pub(crate) fn count(&self, api: Api, outcome: Outcome) -> u64 {
        let histogram = &self.0[api as usize][outcome as usize];
        histogram.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Those that anything fell into, as text.
    pub(crate) fn write(&self, name: &str, help: &str, out: &mut String) {
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for api in Api::ALL {
            for outcome in Outcome::ALL {
                if self.count(api, outcome) == 0 {
                    continue;
                }
                let histogram = &self.0[api as usize][outcome as usize];
                let of = format!("face=\"{}\",outcome=\"{}\"", api.as_str(), outcome.as_str());
                let mut sum = 0;
                let bounds = BOUNDS.iter().map(|bound| (*bound as f64 / 1e6).to_string());
                let bounds = bounds.chain(std::iter::once("+Inf".to_owned()));
                for (count, bound) in histogram.counts.iter().zip(bounds) {
                    sum += count.load(Ordering::Relaxed);
                    let _ = writeln!(out, "{name}_bucket{{{of},le=\"{bound}\"}} {sum}");
                }
                let seconds = histogram.microseconds.load(Ordering::Relaxed) as f64 / 1e6;
                let _ = writeln!(out, "{name}_sum{{{of}}} {seconds}\n{name}_count{{{of}}} {sum}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_is_at_most_their_bound() {
        let histograms = Histograms::default();
        for micros in [1, 250, 251, 999_999, 60_000_000] {
            histograms.observe(Api::Hub, Outcome::Ok, Duration::from_micros(micros));
        }
        let mut out = String::new();
        histograms.write("x", "y", &mut out);
        for line in [
            "# TYPE x histogram",
            "x_bucket{face=\"hub\",outcome=\"ok\",le=\"0.00025\"} 2",
            "x_bucket{face=\"hub\",outcome=\"ok\",le=\"0.0005\"} 3",
            "x_bucket{face=\"hub\",outcome=\"ok\",le=\"1\"} 4",
            "x_bucket{face=\"hub\",outcome=\"ok\",le=\"5\"} 4",
            "x_bucket{face=\"hub\",outcome=\"ok\",le=\"+Inf\"} 5",
            "x_sum{face=\"hub\",outcome=\"ok\"} 61.000501",
            "x_count{face=\"hub\",outcome=\"ok\"} 5",
        ] {
            assert!(out.lines().any(|l| l == line), "no {line} in {out}");
        }
        assert!(!out.contains("pack"));
    }
}
