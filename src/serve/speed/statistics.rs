//! From the times of requests to numbers. Pure.
//!
//! The percentile `p` of `n` samples in order lies at the place `p (n - 1)`, and between two neighbours on the line from
//! one to the other: what numpy, and with it vLLM's bench, has.

use serde::Serialize;

/// The times of one request, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    /// From the request to its first token.
    pub first: f64,
    /// From the request to its last token.
    pub last: f64,
    /// Tokens that it got.
    pub tokens: usize,
    /// Tokens of its prompt, where that is known.
    pub prompt: Option<usize>,
}

impl Timing {
    /// From each token to the next, on average: none where there is no next.
    pub fn per_token(&self) -> Option<f64> {
        let gaps = self.tokens.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((self.last - self.first) / gaps as f64)
    }
}

/// Percentiles, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of all are at most this.
    pub p50: f64,
    /// 90%.
    pub p90: f64,
    /// 95%.
    pub p95: f64,
    /// 99%.
    pub p99: f64,
}

impl Percentiles {
    /// Of seconds; none of none.
    pub fn of(seconds: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = seconds.into_iter().map(|one| one * 1000.0).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |p| percentile(&sorted, p);
        Some(Self { p50: at(0.5)?, p90: at(0.9)?, p95: at(0.95)?, p99: at(0.99)? })
    }
}

/// The percentile of samples in order; none of none.
pub fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    let place = p * sorted.len().checked_sub(1)? as f64;
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    // Between two that are the same there is nothing else, whatever rounding says.
    Some((below + (above - below) * place.fract()).clamp(below, above))
}

/// The least and the most of what repeats gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of values; none of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values = values.into_iter();
        let first = values.next()?;
        let both =
            |own: Self, value: f64| Self { min: own.min.min(value), max: own.max.max(value) };
        Some(values.fold(Self { min: first, max: first }, both))
    }
}

/// One run of a level: the requests that were answered, and the seconds from the first's begin to the last's end.
#[derive(Debug, Clone, PartialEq)]
pub struct Repeat {
    /// Those that were answered.
    pub timings: Vec<Timing>,
    /// How many were not.
    pub failed: usize,
    /// From the first begin to the last end.
    pub seconds: f64,
}

impl Repeat {
    fn tokens_per_second(&self) -> f64 {
        self.timings.iter().map(|own| own.tokens).sum::<usize>() as f64 / self.seconds.max(1e-9)
    }

    fn requests_per_second(&self) -> f64 {
        self.timings.len() as f64 / self.seconds.max(1e-9)
    }

    fn median(&self, of: impl Fn(&Timing) -> Option<f64>) -> Option<f64> {
        Some(Percentiles::of(self.timings.iter().filter_map(of))?.p50)
    }
}

/// How far repeats of a level are apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spreads {
    /// Of the median time to the first token, in milliseconds.
    pub ttft_ms_p50: Option<Spread>,
    /// Of the median time per token, in milliseconds.
    pub tpot_ms_p50: Option<Spread>,
    /// Of the tokens per second.
    pub tokens_per_second: Option<Spread>,
    /// Of the requests per second.
    pub requests_per_second: Option<Spread>,
}

/// What was measured with so many requests at a time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Level {
    /// Requests at a time.
    pub concurrency: usize,
    /// Requests that were answered, over all repeats.
    pub requests: usize,
    /// Those that were not.
    pub failed: usize,
    /// Times to the first token, of all repeats.
    pub ttft_ms: Option<Percentiles>,
    /// Times from one token to the next, of all repeats.
    pub tpot_ms: Option<Percentiles>,
    /// The median of the repeats.
    pub tokens_per_second: f64,
    /// The median of the repeats.
    pub requests_per_second: f64,
    /// Tokens of a prompt on average, where that is known.
    pub prompt_tokens: Option<f64>,
    /// Tokens of an answer on average.
    pub completion_tokens: f64,
    /// How far the repeats are apart.
    pub spread: Spreads,
}

impl Level {
    /// Sums repeats up.
    pub fn of(concurrency: usize, repeats: &[Repeat]) -> Self {
        let all = || repeats.iter().flat_map(|own| &own.timings);
        let requests = all().count();
        let median = |of: &dyn Fn(&Repeat) -> f64| {
            let mut values: Vec<f64> = repeats.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            percentile(&values, 0.5).unwrap_or(0.0)
        };
        let medians = |of: fn(&Timing) -> Option<f64>| {
            Spread::of(repeats.iter().filter_map(move |own| own.median(of)))
        };
        let prompts: Option<Vec<usize>> = all().map(|own| own.prompt).collect();
        let prompts = prompts.filter(|own| !own.is_empty());
        Self {
            concurrency,
            requests,
            failed: repeats.iter().map(|own| own.failed).sum(),
            ttft_ms: Percentiles::of(all().map(|own| own.first)),
            tpot_ms: Percentiles::of(all().filter_map(Timing::per_token)),
            tokens_per_second: median(&Repeat::tokens_per_second),
            requests_per_second: median(&Repeat::requests_per_second),
            prompt_tokens: prompts.map(|own| own.iter().sum::<usize>() as f64 / own.len() as f64),
            completion_tokens: all().map(|own| own.tokens).sum::<usize>() as f64
                / requests.max(1) as f64,
            spread: Spreads {
                ttft_ms_p50: medians(|own| Some(own.first)),
                tpot_ms_p50: medians(Timing::per_token),
                tokens_per_second: Spread::of(repeats.iter().map(Repeat::tokens_per_second)),
                requests_per_second: Spread::of(repeats.iter().map(Repeat::requests_per_second)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What numpy's `percentile` gives of these.
    #[test]
    fn percentiles_are_those_of_numpy() {
        let of = |values: &[f64]| Percentiles::of(values.iter().map(|one| one / 1000.0)).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        close(of(&ten).p50, 5.5);
        close(of(&ten).p90, 9.1);
        close(of(&ten).p95, 9.55);
        close(of(&ten).p99, 9.91);
        close(of(&[7.0]).p99, 7.0);
        close(of(&[3.0, 1.0]).p90, 2.8);
        assert_eq!(Percentiles::of([]), None);
    }

    /// The slow oracle: the line through two neighbours, found by walking along the samples.
    fn walked(sorted: &[f64], p: f64) -> f64 {
        let mut left = p * (sorted.len() - 1) as f64;
        for pair in sorted.windows(2) {
            if left <= 1.0 {
                return pair[0] * (1.0 - left) + pair[1] * left;
            }
            left -= 1.0;
        }
        sorted[sorted.len() - 1]
    }

    proptest! {
        #[test]
        fn percentiles_are_on_the_line(mut values in prop::collection::vec(-1e6..1e6_f64, 1..60), p in 0.0..=1.0_f64) {
            values.sort_by(f64::total_cmp);
            let found = percentile(&values, p).unwrap();
            prop_assert!((found - walked(&values, p)).abs() < 1e-6);
            prop_assert!(values[0] <= found && found <= values[values.len() - 1]);
            // At least as many are below as are to be.
            let below = values.iter().filter(|value| **value <= found).count();
            prop_assert!(below as f64 >= (p * (values.len() - 1) as f64).floor());
            prop_assert!(percentile(&values, 0.0) == Some(values[0]));
        }

        #[test]
        fn the_order_of_requests_does_not_matter(
            timings in prop::collection::vec((0.0..1.0_f64, 0.0..9.0_f64, 0..50_usize), 1..30), seconds in 0.1..9.0_f64,
        ) {
            let one = |(first, more, tokens): &(f64, f64, usize)| {
                Timing { first: *first, last: first + more, tokens: *tokens, prompt: Some(3) }
            };
            let of = |timings: Vec<Timing>| Level::of(2, &[Repeat { timings, failed: 1, seconds }]);
            let level = of(timings.iter().map(one).collect());
            let reversed = of(timings.iter().rev().map(one).collect());
            prop_assert_eq!(&level.ttft_ms, &reversed.ttft_ms);
            prop_assert_eq!(&level.tpot_ms, &reversed.tpot_ms);
            let tokens: usize = timings.iter().map(|own| own.2).sum();
            prop_assert!((level.tokens_per_second * seconds - tokens as f64).abs() < 1e-6);
            prop_assert_eq!((level.requests, level.failed, level.prompt_tokens), (timings.len(), 1, Some(3.0)));
            prop_assert_eq!(level.tpot_ms.is_some(), timings.iter().any(|own| own.2 > 1));
        }
    }

    #[test]
    fn repeats_are_told_apart_and_their_median_counts() {
        let timing = |first: f64| Timing { first, last: first + 0.9, tokens: 10, prompt: None };
        let repeat = |first: f64, seconds: f64| Repeat {
            timings: vec![timing(first); 2],
            failed: 0,
            seconds,
        };
        let level = Level::of(1, &[repeat(0.1, 1.0), repeat(0.2, 2.0), repeat(0.4, 4.0)]);
        assert_eq!(level.tokens_per_second, 10.0);
        assert_eq!(level.requests_per_second, 1.0);
        assert_eq!(level.spread.tokens_per_second, Some(Spread { min: 5.0, max: 20.0 }));
        assert_eq!(level.spread.ttft_ms_p50, Some(Spread { min: 100.0, max: 400.0 }));
        let ms = level.tpot_ms.unwrap();
        assert!((ms.p50 - 100.0).abs() < 1e-9 && (ms.p99 - 100.0).abs() < 1e-9);
        let none = Level::of(1, &[Repeat { timings: Vec::new(), failed: 3, seconds: 0.0 }]);
        assert_eq!((none.ttft_ms, none.failed, none.tokens_per_second), (None, 3, 0.0));
    }
}
