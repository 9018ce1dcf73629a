//! What went out and came in over the last hour, sampled.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time between two samples.
pub(crate) const EVERY: Duration = Duration::from_secs(10);
/// Samples kept: one hour.
const KEPT: usize = 360;

/// Counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// Bytes sent to clients since the start.
    pub(crate) sent: u64,
    /// Bytes that origins sent since the start.
    pub(crate) fetched: u64,
}

/// Bytes per second between two samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    /// How long ago, in seconds.
    pub(crate) ago: f64,
    pub(crate) sent: f64,
    pub(crate) fetched: f64,
}

/// The samples of the last hour.
#[derive(Debug, Default)]
pub(crate) struct Traffic(Mutex<VecDeque<Sample>>);

impl Traffic {
    /// Takes a sample.
    pub(crate) fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() > KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// The rates between neighbouring samples and up to `now`, the oldest first.
    pub(crate) fn rates(&self, now: Sample) -> Vec<Rate> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Sample> = samples.iter().copied().collect();
        all.push(now);
        let rate = |two: &[Sample]| {
            let [from, to] = two else { return None };
            let seconds = to.at.duration_since(from.at).as_secs_f64();
            (seconds > 0.0).then(|| Rate {
                ago: now.at.duration_since(to.at).as_secs_f64(),
                sent: to.sent.saturating_sub(from.sent) as f64 / seconds,
                fetched: to.fetched.saturating_sub(from.fetched) as f64 / seconds,
            })
        };
        all.windows(2).filter_map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_lie_between_samples() {
        let traffic = Traffic::default();
        let start = Instant::now();
        let sample = |seconds: u64, sent: u64, fetched: u64| Sample {
            at: start + Duration::from_secs(seconds),
            sent,
            fetched,
        };
        assert!(traffic.rates(sample(0, 0, 0)).is_empty());
        traffic.add(sample(0, 0, 0));
        traffic.add(sample(10, 1000, 100));
        assert_eq!(
            traffic.rates(sample(12, 1000, 300)),
            [
                Rate { ago: 2.0, sent: 100.0, fetched: 10.0 },
                Rate { ago: 0.0, sent: 0.0, fetched: 100.0 }
            ]
        );
        for second in 11..2000 {
            traffic.add(sample(second * 10, 0, 0));
        }
        assert_eq!(traffic.rates(sample(20_000, 0, 0)).len(), KEPT + 1);
    }
}
