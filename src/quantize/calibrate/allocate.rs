//! Bits by layer, for a budget of bits on average. Pure.
//!
//! The sum of errors is the least that the budget allows, by dynamic programming over layers and bits spent: these
//! are counted in the greatest part that all layers' sizes are multiples of, or, where there would be too many, in
//! parts that are rounded up.

/// What rounding costs layers that are fused, and so have the same bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Sensitivity {
    /// The names of the layers.
    pub layers: Vec<String>,
    /// Their weights.
    pub weights: u64,
    /// Numbers of bits, and the error at each.
    pub errors: Vec<(u32, f64)>,
}

/// Bits by layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Each layer's bits, in the order given.
    pub bits: Vec<(String, u32)>,
    /// Bits per weight on average.
    pub average: f64,
    /// The errors' sum.
    pub error: f64,
}

/// The most parts that what can be spent is cut into.
const PARTS: u64 = 20_000;

/// The least errors for everything that can be spent.
struct Table<'l> {
    layers: &'l [Sensitivity],
    /// Numbers of bits that each may have, rising, with the error at each.
    choices: Vec<Vec<(u32, f64)>>,
    /// Bits that the fewest of each take.
    base: u64,
    /// Bits of a part.
    unit: u64,
    /// What is taken of each layer's choices when so many parts are left for it and those before it.
    taken: Vec<Vec<u8>>,
    /// The least sum of errors for so many parts.
    least: Vec<f64>,
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

impl<'l> Table<'l> {
    /// Up to `budget` bits per weight on average; `None` if the fewest take more already.
    fn new(layers: &'l [Sensitivity], budget: f64) -> Option<Self> {
        let choices: Vec<Vec<(u32, f64)>> = layers.iter().map(|own| finite(&own.errors)).collect();
        let (mut base, mut most) = (0, 0);
        for (layer, own) in layers.iter().zip(&choices) {
            base += layer.weights * u64::from(own.first()?.0);
            most += layer.weights * u64::from(own.last()?.0);
        }
        let total: u64 = layers.iter().map(|layer| layer.weights).sum();
        let left = (budget * total as f64 + 1e-6 * total as f64).min(most as f64) - base as f64;
        if layers.is_empty() || left < 0.0 {
            return None;
        }
        let common = layers.iter().fold(0, |common, layer| divisor(common, layer.weights));
        let unit = common.max((most - base).div_ceil(PARTS)).max(1);
        let parts = (left / unit as f64) as usize;
        let mut least = vec![0.0; parts + 1];
        let mut taken = Vec::with_capacity(layers.len());
        for (layer, choices) in layers.iter().zip(&choices) {
            let fewest = choices.first()?.0;
            let mut next = vec![f64::INFINITY; parts + 1];
            let mut own = vec![0_u8; parts + 1];
            for (which, (bits, error)) in (0_u8..).zip(choices) {
                // Rounded up: the budget holds.
                let cost = (layer.weights * u64::from(bits - fewest)).div_ceil(unit) as usize;
                let before = least.iter().take((parts + 1).saturating_sub(cost));
                let now = next.iter_mut().zip(&mut own).skip(cost);
                for (before, (sum, taken)) in before.zip(now) {
                    if before + error < *sum {
                        (*sum, *taken) = (before + error, which);
                    }
                }
            }
            least = next;
            taken.push(own);
        }
        Some(Self { layers, choices, base, unit, taken, least })
    }

    /// Parts that so many bits per weight on average are.
    fn parts(&self, budget: f64) -> Option<usize> {
        let total: u64 = self.layers.iter().map(|layer| layer.weights).sum();
        let left = budget * total as f64 + 1e-6 * total as f64 - self.base as f64;
        (left >= 0.0).then(|| ((left / self.unit as f64) as usize).min(self.least.len() - 1))
    }

    /// Who has which bits, for so many parts.
    fn at(&self, mut parts: usize) -> Allocation {
        let (mut spent, mut error, mut bits) = (0_u64, 0.0, Vec::new());
        let all = self.layers.iter().zip(&self.choices).zip(&self.taken);
        for ((layer, choices), taken) in all.rev() {
            let which = taken.get(parts).copied().unwrap_or(0);
            let (Some(own), Some(fewest)) = (choices.get(usize::from(which)), choices.first())
            else {
                continue;
            };
            let cost = (layer.weights * u64::from(own.0 - fewest.0)).div_ceil(self.unit) as usize;
            parts = parts.saturating_sub(cost);
            spent += layer.weights * u64::from(own.0);
            error += own.1;
            bits.push(layer.layers.iter().map(|name| (name.clone(), own.0)).collect::<Vec<_>>());
        }
        let total: u64 = self.layers.iter().map(|layer| layer.weights).sum();
        let average = spent as f64 / total.max(1) as f64;
        Allocation { bits: bits.into_iter().rev().flatten().collect(), average, error }
    }
}

/// Numbers of bits at which the error is known, rising, each once.
fn finite(errors: &[(u32, f64)]) -> Vec<(u32, f64)> {
    let mut sorted: Vec<(u32, f64)> =
        errors.iter().copied().filter(|(_, error)| error.is_finite()).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    sorted.dedup_by_key(|own| own.0);
    sorted
}

/// Spends at most `budget` bits per weight on average; `None` if the fewest bits take more already.
pub fn allocate(layers: &[Sensitivity], budget: f64) -> Option<Allocation> {
    let table = Table::new(layers, budget)?;
    Some(table.at(table.parts(budget)?))
}

/// The least sum of errors for each of some budgets; none for those below the fewest bits.
pub fn least_errors(layers: &[Sensitivity], budgets: &[f64]) -> Vec<Option<f64>> {
    let most = budgets.iter().copied().fold(0.0, f64::max);
    let table = Table::new(layers, most);
    let of = |budget: &f64| {
        let table = table.as_ref()?;
        table.least.get(table.parts(*budget)?).copied()
    };
    budgets.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(name: &str, weights: u64, errors: [f64; 4]) -> Sensitivity {
        let errors = [2, 3, 4, 8].into_iter().zip(errors).collect();
        Sensitivity { layers: vec![name.to_owned()], weights, errors }
    }

    #[test]
    fn bits_go_where_they_help() {
        let mut tied = layer("q", 10, [8.0, 4.0, 1.0, 0.0]);
        tied.layers.push("k".to_owned());
        let layers = [tied, layer("o", 10, [0.2, 0.1, 0.05, 0.0])];
        let found = allocate(&layers, 3.0).unwrap();
        let bits = [("q".to_owned(), 4), ("k".to_owned(), 4), ("o".to_owned(), 2)];
        assert_eq!((found.bits.as_slice(), found.average), (&bits[..], 3.0));
        assert!((found.error - 1.2).abs() < 1e-12);
        assert_eq!(allocate(&layers, 1.9), None);
        let all = allocate(&layers, 99.0).unwrap();
        assert!(all.bits.iter().all(|(_, bits)| *bits == 8) && all.error == 0.0);
        assert_eq!(allocate(&[], 4.0), None);
    }

    proptest! {
        /// Against every choice there is.
        #[test]
        fn no_choice_within_the_budget_is_better(
            all in prop::collection::vec((prop::array::uniform4(0.0_f64..1.0), 1_u64..9), 1..5),
            budget in 2.0_f64..8.5,
        ) {
            let layers: Vec<_> = all.iter().map(|(errors, weights)| layer("x", *weights, *errors)).collect();
            let total: u64 = layers.iter().map(|own| own.weights).sum();
            let found = allocate(&layers, budget).unwrap();
            prop_assert!(found.average <= budget + 1e-5);
            let (mut best, count) = (f64::INFINITY, layers.len());
            for choice in 0..4_usize.pow(count as u32) {
                let own = |at: usize| layers[at].errors[choice / 4_usize.pow(at as u32) % 4];
                let spent: u64 = (0..count).map(|at| layers[at].weights * u64::from(own(at).0)).sum();
                if spent as f64 <= budget * total as f64 {
                    best = best.min((0..count).map(|at| own(at).1).sum());
                }
            }
            prop_assert!((found.error - best).abs() < 1e-9, "{} for {best}", found.error);
            let curve = least_errors(&layers, &[1.5, budget, 8.0]);
            prop_assert!(curve[0].is_none() && (curve[1].unwrap() - best).abs() < 1e-9);
            prop_assert!(curve[2].unwrap() <= best + 1e-9);
        }
    }

    /// Sizes without a common part, and more than fit a table: within a percent of the budget.
    #[test]
    fn parts_that_are_rounded_up_keep_the_budget() {
        let layers: Vec<_> = (0..40_u64)
            .map(|at| {
                layer(
                    "x",
                    1_000_003 + at * at * 7919,
                    [4.0, 1.0, 0.25, 0.001].map(|e| e * (1 + at) as f64),
                )
            })
            .collect();
        for budget in [2.0, 3.1, 4.7, 7.9] {
            let found = allocate(&layers, budget).unwrap();
            assert!(found.average <= budget + 1e-5 && found.average > budget * 0.98, "{found:?}");
        }
    }
}
