//! What a candidate loses, from what it cost on windows of text beside what they cost the unquantized model.
//! Pure.

use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::sequential::{Estimate, Observed};

/// One window of text, as the model and the candidate read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Which of the text's windows it is.
    pub place: usize,
    /// Nats that its tokens cost the unquantized model, in all.
    pub base: f64,
    /// Nats that they cost the candidate.
    pub own: f64,
    /// Of how many tokens both have the same first choice.
    pub same_top: u32,
    /// Billionths of nats by which the candidate's distribution diverges, for each token that counts.
    pub kl: Vec<u64>,
}

impl Window {
    fn tokens(&self) -> f64 {
        self.kl.len() as f64
    }

    fn divergence(&self) -> f64 {
        self.kl.iter().map(|own| nats(*own)).sum()
    }
}

/// Nats, from billionths of them.
fn nats(billionths: u64) -> f64 {
    billionths as f64 * 1e-9
}

/// Billionths of nats; a divergence is never negative, but its rounding may be.
pub fn billionths(nats: f64) -> u64 {
    (nats * 1e9).round().clamp(0.0, 1e18) as u64
}

/// What a candidate loses.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quality {
    /// Perplexity of the candidate, and of the unquantized model.
    pub perplexity: f64,
    /// Perplexity of the unquantized model on the same windows.
    pub base_perplexity: f64,
    /// By how much the first is above the second, in percent.
    pub ppl_delta_percent: Figure,
    /// Mean KL divergence from the unquantized model's distribution, in nats.
    pub kl: Figure,
    /// The middle token's.
    pub kl_median: f64,
    /// The 99th percentile's.
    pub kl_p99: f64,
    /// The share of tokens whose first choice is the same.
    pub same_top: f64,
    /// Tokens that count.
    pub tokens: u64,
    /// Windows that were read.
    pub windows: u64,
}

impl Quality {
    /// The same where divergences are known from below only: they may be any larger.
    #[must_use]
    pub fn from_below(mut self) -> Self {
        self.kl.high = f64::INFINITY;
        self
    }

    /// Of some of a text's `all` windows, with intervals that the truth is beyond on each side with probability
    /// `tail`; none of no tokens.
    pub fn of(windows: &[Window], all: usize, tail: f64) -> Option<Self> {
        let tokens: f64 = windows.iter().map(Window::tokens).sum();
        let estimate = |sum: fn(&Window) -> f64| {
            let observed =
                |own: &Window| Observed { place: own.place, tokens: own.tokens(), sum: sum(own) };
            Estimate::of(windows.iter().map(observed).collect(), all)
        };
        let figure = |estimate: Estimate| {
            let (low, high) = estimate.interval(tail);
            Figure::measured(estimate.mean, low, high)
        };
        let loss = estimate(|own| own.own - own.base)?;
        let base = windows.iter().map(|own| own.base).sum::<f64>() / tokens;
        let own = windows.iter().map(|own| own.own).sum::<f64>() / tokens;
        let mut tokenwise: Vec<u64> =
            windows.iter().flat_map(|own| own.kl.iter().copied()).collect();
        tokenwise.sort_unstable();
        let rank = |share: f64| {
            let count = tokenwise.len();
            let at = ((count as f64 * share).ceil() as usize).clamp(1, count.max(1)) - 1;
            tokenwise.get(at).map_or(0.0, |own| nats(*own))
        };
        let kl = figure(estimate(Window::divergence)?);
        Some(Self {
            perplexity: own.exp(),
            base_perplexity: base.exp(),
            ppl_delta_percent: figure(loss).rising(|nats| nats.exp_m1() * 100.0),
            // Nothing diverges by less than nothing.
            kl: Figure { low: kl.low.max(0.0), ..kl },
            kl_median: rank(0.5),
            kl_p99: rank(0.99),
            same_top: windows.iter().map(|own| f64::from(own.same_top)).sum::<f64>() / tokens,
            tokens: tokens as u64,
            windows: windows.len() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(base: f64, own: f64, kl: &[f64], same_top: u32) -> Window {
        Window {
            place: 0,
            base,
            own,
            same_top,
            kl: kl.iter().map(|nats| billionths(*nats)).collect(),
        }
    }

    #[test]
    fn losses_are_those_of_all_tokens_and_intervals_hold_them() {
        let windows = [
            window(20.0, 20.2, &[0.01, 0.02, 0.0, 0.05], 3),
            window(24.0, 24.5, &[0.02, 0.01, 0.03, 0.04], 4),
            window(9.0, 9.1, &[0.02, 0.0], 2),
        ];
        let found = Quality::of(&windows, 3, 0.01).unwrap();
        assert!((found.perplexity - (53.8_f64 / 10.0).exp()).abs() < 1e-9);
        assert!((found.base_perplexity - 5.3_f64.exp()).abs() < 1e-9);
        let delta = found.ppl_delta_percent;
        assert!((delta.value - (0.08_f64.exp() - 1.0) * 100.0).abs() < 1e-9);
        assert!(delta.low < delta.value && delta.value < delta.high);
        assert!((found.kl.value - 0.02).abs() < 1e-9 && found.kl.low >= 0.0);
        assert_eq!((found.kl_median, found.kl_p99, found.same_top), (0.02, 0.05, 0.9));
        assert_eq!((found.tokens, found.windows), (10, 3));
        assert_eq!(Quality::of(&[], 0, 0.01), None);
        let nan = Quality::of(&vec![window(1.0, f64::NAN, &[0.0], 0); 2], 2, 0.01).unwrap();
        assert!(nan.ppl_delta_percent.value.is_nan());
        assert_eq!(
            [billionths(-1e-12), billionths(f64::NAN), billionths(1.5)],
            [0, 0, 1_500_000_000]
        );
    }

    #[test]
    fn the_model_itself_loses_nothing_for_sure() {
        let same = vec![window(5.0, 5.0, &[0.0; 4], 4), window(6.0, 6.0, &[0.0; 4], 4)];
        let found = Quality::of(&same, 2, 0.001).unwrap();
        assert_eq!(found.ppl_delta_percent, Figure::measured(0.0, 0.0, 0.0));
        assert_eq!((found.kl.high, found.same_top), (0.0, 1.0));
    }
}
