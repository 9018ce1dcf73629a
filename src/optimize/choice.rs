//! Which candidate is the best, which are not beaten in everything, and what would have to give where none
//! keeps all limits. Pure.

use serde::Serialize;

use super::constraints::{Figures, Limit, Objective, OptimizationConstraints, number};
use super::figure::{Figure, Verdict};

/// Candidates whose objective is this close are told apart by quality: a half percent is less than any of the
/// numbers is sure to.
const TIE: f64 = 1.005;

/// A candidate, as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// What is known of it.
    pub figures: &'a Figures,
    /// Whether it is left: it keeps all limits, and nothing else speaks against it.
    pub fits: bool,
}

/// What is to be the least; none where it is not known.
fn objective(which: Objective, figures: &Figures) -> Option<f64> {
    let figure = match which {
        Objective::Cost => figures.cost_per_1m_tokens,
        Objective::Latency => figures.latency_ms,
        Objective::Memory => figures.memory,
        Objective::Quality => figures.ppl_delta_percent.or(figures.kl),
    };
    figure.map(|figure| figure.value).filter(|value| value.is_finite())
}

/// What ties are broken by: quality, then memory.
fn tie(figures: &Figures) -> (f64, f64) {
    let of = |figure: Option<Figure>| {
        figure.map(|own| own.value).filter(|own| own.is_finite()).unwrap_or(f64::INFINITY)
    };
    (of(figures.ppl_delta_percent), of(figures.memory))
}

/// The place of the best candidate: of those within a half percent of the least objective the one that loses
/// least, then takes the least memory, then comes first. None if none fits.
pub fn choose(which: Objective, entries: &[Entry<'_>]) -> Option<usize> {
    let known = |(at, entry): (usize, &Entry<'_>)| {
        let value = objective(which, entry.figures).filter(|_| entry.fits)?;
        Some((at, value, tie(entry.figures)))
    };
    let all: Vec<(usize, f64, (f64, f64))> = entries.iter().enumerate().filter_map(known).collect();
    let least = all.iter().map(|own| own.1).min_by(f64::total_cmp)?;
    // What is lost may be negative: then nothing ties but what is equal.
    let limit = if least > 0.0 && which != Objective::Quality { least * TIE } else { least };
    let ties = all.iter().filter(|own| own.1 <= limit);
    let by = |one: &&(usize, f64, (f64, f64)), other: &&(usize, f64, (f64, f64))| {
        let order = one.2.0.total_cmp(&other.2.0).then(one.2.1.total_cmp(&other.2.1));
        order.then(one.0.cmp(&other.0))
    };
    ties.min_by(by).map(|own| own.0)
}

/// Which candidates no other beats: none costs no more, loses no more and is no slower, and is better in one of
/// these. Those of which one is not known are not among them.
pub fn front(all: &[Figures]) -> Vec<bool> {
    let point = |own: &Figures| {
        let of = |figure: Option<Figure>| figure.map(|own| own.value).filter(|v| v.is_finite());
        let latency = of(own.latency_ms).unwrap_or(0.0);
        Some([of(own.cost_per_1m_tokens)?, of(own.ppl_delta_percent)?, latency])
    };
    let points: Vec<Option<[f64; 3]>> = all.iter().map(point).collect();
    let beats = |one: &[f64; 3], other: &[f64; 3]| {
        let pairs = || one.iter().zip(other);
        pairs().all(|(a, b)| a <= b) && pairs().any(|(a, b)| a < b)
    };
    let stands = |own: &Option<[f64; 3]>| {
        own.as_ref().is_some_and(|own| !points.iter().flatten().any(|other| beats(other, own)))
    };
    points.iter().map(stands).collect()
}

/// A limit that would have to give.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Relaxation {
    /// The candidate that would then be the best.
    pub candidate: usize,
    /// What to give in place of the limits: each with what it is, and what it would have to be.
    pub limits: Vec<(Limit, f64, f64)>,
    /// What is known of the objective there.
    pub objective: Option<f64>,
}

impl Relaxation {
    /// What to do, in words.
    pub fn in_words(&self, label: &str, which: Objective, currency: &str) -> String {
        let one = |(limit, from, to): &(Limit, f64, f64)| {
            format!("{} {} instead of {}", limit.flag(), outward(*limit, *to), number(*from))
        };
        let give: Vec<String> = self.limits.iter().map(one).collect();
        let buys = self.objective.map(|value| match which {
            Objective::Cost => format!(", at {} {currency} per million tokens", number(value)),
            Objective::Latency => format!(", at {} ms", number(value)),
            Objective::Memory => format!(", with {} bytes", number(value)),
            Objective::Quality => format!(", at {}% of perplexity", number(value)),
        });
        format!("{label} would do with {}{}", give.join(" and "), buys.unwrap_or_default())
    }
}

/// A number that is rounded so that the limit still holds.
fn outward(limit: Limit, value: f64) -> String {
    if matches!(limit, Limit::MaxMemory) {
        return format!("{:.0}", value.ceil());
    }
    let magnitude = value.abs().max(1e-9).log10().floor();
    let unit = 10_f64.powf(magnitude - 2.0);
    let rounded = match limit {
        Limit::MinCompression | Limit::MinTokensPerS => (value / unit).floor() * unit,
        _ => (value / unit).ceil() * unit,
    };
    number(rounded)
}

/// The nearest misses: for each limit the best candidate that misses it alone, and where each misses several,
/// the one that misses fewest.
pub fn nearest(
    constraints: &OptimizationConstraints,
    which: Objective,
    all: &[Option<Figures>],
) -> Vec<Relaxation> {
    let miss = |(candidate, figures): (usize, &Option<Figures>)| {
        let figures = figures.as_ref()?;
        let found = constraints.judge(figures);
        let missed = found.iter().filter(|own| own.verdict != Verdict::Met);
        let give =
            |own: &super::constraints::Finding| Some((own.limit, own.bound, own.would_keep()?));
        // A limit of what is not known cannot be said to give.
        let limits = missed.map(give).collect::<Option<Vec<_>>>()?;
        Some(Relaxation { candidate, limits, objective: objective(which, figures) })
    };
    let mut misses: Vec<Relaxation> =
        all.iter().enumerate().filter_map(miss).filter(|own| !own.limits.is_empty()).collect();
    let key = |own: &Relaxation| (own.limits.len(), own.objective.unwrap_or(f64::INFINITY));
    misses.sort_by(|one, other| {
        let (a, b) = (key(one), key(other));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(one.candidate.cmp(&other.candidate))
    });
    let fewest = misses.first().map_or(0, |own| own.limits.len());
    let mut seen = Vec::new();
    misses.retain(|own| {
        let limits: Vec<Limit> = own.limits.iter().map(|own| own.0).collect();
        let new = !seen.contains(&limits);
        seen.push(limits);
        new && own.limits.len() == fewest
    });
    misses
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figures(cost: Option<f64>, loss: Option<f64>, memory: f64) -> Figures {
        Figures {
            cost_per_1m_tokens: cost.map(Figure::exact),
            ppl_delta_percent: loss.map(Figure::exact),
            memory: Some(Figure::exact(memory)),
            ..Figures::default()
        }
    }

    fn some_figures() -> impl Strategy<Value = Figures> {
        // Few values, so that ties are common.
        let cost = prop_oneof![
            Just(None),
            Just(Some(f64::NAN)),
            (1..6_i32).prop_map(|n| Some(f64::from(n)))
        ];
        let close = prop_oneof![Just(1.0), Just(1.004), Just(1.006)];
        let loss = prop_oneof![Just(None), (-2..3_i32).prop_map(|n| Some(f64::from(n)))];
        (cost, close, loss, 1..3_i32).prop_map(|(cost, close, loss, memory)| {
            figures(cost.map(|cost| cost * close), loss, f64::from(memory))
        })
    }

    proptest! {
        /// Against a choice that looks at every pair.
        #[test]
        fn the_choice_is_that_of_looking_at_all_pairs(
            all in proptest::collection::vec((some_figures(), any::<bool>()), 0..7)
        ) {
            let entries: Vec<Entry<'_>> =
                all.iter().map(|(figures, fits)| Entry { figures, fits: *fits }).collect();
            for which in [Objective::Cost, Objective::Memory, Objective::Quality] {
                let value = |at: usize| {
                    let (figures, fits) = &all[at];
                    let figure = match which {
                        Objective::Cost => figures.cost_per_1m_tokens,
                        Objective::Memory => figures.memory,
                        _ => figures.ppl_delta_percent,
                    };
                    figure.map(|own| own.value).filter(|own| *fits && own.is_finite())
                };
                let able: Vec<usize> = (0..all.len()).filter(|at| value(*at).is_some()).collect();
                let worse = |one: usize, other: usize| {
                    // Whether `other` is preferred, both being good enough.
                    let of = |at: usize| {
                        let figures = &all[at].0;
                        let loss = figures.ppl_delta_percent.map_or(f64::INFINITY, |own| own.value);
                        (loss, figures.memory.unwrap().value, at)
                    };
                    of(other) < of(one)
                };
                let factor = if which == Objective::Quality { 1.0 } else { TIE };
                let good = |at: &usize| {
                    able.iter().all(|other| {
                        value(*at).unwrap() <= value(*other).unwrap() * factor
                    })
                };
                let good: Vec<usize> = able.iter().copied().filter(good).collect();
                let best = good.iter().find(|at| !good.iter().any(|other| worse(**at, *other)));
                prop_assert_eq!(choose(which, &entries), best.copied());
            }
        }

        #[test]
        fn the_front_holds_whatever_is_best_by_some_weights(
            all in proptest::collection::vec(some_figures(), 1..7), weight in 0.01..1.0_f64
        ) {
            let front = front(&all);
            let score = |own: &Figures| {
                let (cost, loss) = (own.cost_per_1m_tokens?.value, own.ppl_delta_percent?.value);
                cost.is_finite().then_some(cost * weight + loss * (1.0 - weight))
            };
            let scores: Vec<Option<f64>> = all.iter().map(score).collect();
            if let Some(least) = scores.iter().flatten().copied().min_by(f64::total_cmp) {
                prop_assert!(scores.iter().zip(&front).any(|(own, on)| *own == Some(least) && *on));
            }
            prop_assert!(scores.iter().zip(&front).all(|(own, on)| own.is_some() || !on));
        }
    }

    #[test]
    fn the_nearest_misses_name_what_would_have_to_give() {
        let limits = OptimizationConstraints {
            max_ppl_delta: Some(1.0),
            max_memory: Some(2),
            ..OptimizationConstraints::default()
        };
        let lossy = figures(Some(0.5), Some(2.3456), 1.0);
        let cheap = figures(Some(0.25), Some(1.5), 2.0);
        let large = figures(Some(0.75), Some(0.5), 7.0);
        let both = figures(Some(0.1), Some(9.0), 9.0);
        let all = [Some(lossy), Some(both), None, Some(large), Some(cheap)];
        let found = nearest(&limits, Objective::Cost, &all);
        let who: Vec<usize> = found.iter().map(|own| own.candidate).collect();
        assert_eq!(who, [4, 3], "one for each limit, the cheapest first");
        assert_eq!(
            found[0].in_words("nf4", Objective::Cost, "USD"),
            "nf4 would do with --max-ppl-delta 1.5 instead of 1, at 0.25 USD per million tokens"
        );
        let found = nearest(&limits, Objective::Cost, &[Some(both), Some(lossy)]);
        assert_eq!(found[0].limits, [(Limit::MaxPplDelta, 1.0, 2.3456)]);
        assert!(found[0].in_words("a", Objective::Memory, "USD").contains("--max-ppl-delta 2.35 "));
        let found = nearest(&limits, Objective::Cost, &[Some(both)]);
        assert_eq!(found[0].limits.len(), 2);
        assert!(nearest(&limits, Objective::Cost, &[None, Some(Figures::default())]).is_empty());
    }
}
