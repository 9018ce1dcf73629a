//! Bits by layer, for a budget of bits on average. Pure.
//!
//! Everything begins with the fewest bits; then, again and again, the step that takes away the most error per
//! bit spent is taken, as long as the budget lasts. Steps that pay less than a longer one are passed over, so
//! that what is taken always pays less and less.

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

/// Spends at most `budget` bits per weight on average; `None` if the fewest bits take more already.
pub fn allocate(layers: &[Sensitivity], budget: f64) -> Option<Allocation> {
    let curves: Vec<Vec<(u32, f64)>> = layers.iter().map(|layer| hull(&layer.errors)).collect();
    let total: u64 = layers.iter().map(|layer| layer.weights).sum();
    let mut at = vec![0_usize; layers.len()];
    let spent = |at: &[usize]| -> f64 {
        let all = layers.iter().zip(&curves).zip(at);
        all.map(|((layer, curve), at)| {
            layer.weights as f64 * curve.get(*at).map_or(0.0, |(bits, _)| f64::from(*bits))
        })
        .sum()
    };
    let limit = budget * total as f64;
    if layers.is_empty() || curves.iter().any(Vec::is_empty) || spent(&at) > limit {
        return None;
    }
    loop {
        let left = limit - spent(&at);
        let mut best: Option<(f64, usize)> = None;
        for (which, ((layer, curve), at)) in layers.iter().zip(&curves).zip(&at).enumerate() {
            let (Some(now), Some(next)) = (curve.get(*at), curve.get(at + 1)) else { continue };
            let cost = layer.weights as f64 * f64::from(next.0 - now.0);
            let gain = (now.1 - next.1) / cost.max(1.0);
            if cost <= left && best.is_none_or(|(most, _)| gain > most) {
                best = Some((gain, which));
            }
        }
        match best.and_then(|(_, which)| at.get_mut(which)) {
            Some(step) => *step += 1,
            None => break,
        }
    }
    let mut found =
        Allocation { bits: Vec::new(), average: spent(&at) / total.max(1) as f64, error: 0.0 };
    for ((layer, curve), at) in layers.iter().zip(&curves).zip(&at) {
        let Some((bits, error)) = curve.get(*at) else { continue };
        found.error += error;
        found.bits.extend(layer.layers.iter().map(|name| (name.clone(), *bits)));
    }
    Some(found)
}

/// The sum of errors at each of some budgets; none for those below the fewest bits.
pub fn least_errors(layers: &[Sensitivity], budgets: &[f64]) -> Vec<Option<f64>> {
    budgets.iter().map(|budget| allocate(layers, *budget).map(|found| found.error)).collect()
}

/// The numbers of bits that pay: each step takes away less error per bit than the one before.
fn hull(errors: &[(u32, f64)]) -> Vec<(u32, f64)> {
    let mut sorted: Vec<(u32, f64)> =
        errors.iter().copied().filter(|(_, error)| error.is_finite()).collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let gain = |a: (u32, f64), b: (u32, f64)| (a.1 - b.1) / f64::from(b.0 - a.0);
    let mut kept: Vec<(u32, f64)> = Vec::new();
    for point in sorted {
        if kept.last().is_some_and(|last| last.0 == point.0 || point.1 >= last.1) {
            continue;
        }
        while let [.., before, last] = kept.as_slice() {
            if gain(*before, *last) > gain(*last, point) {
                break;
            }
            kept.pop();
        }
        kept.push(point);
    }
    kept
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
        assert_eq!(least_errors(&layers, &[1.9, 3.0]), [None, Some(found.error)]);
    }

    proptest! {
        /// The budget holds, and of layers of equal size no other choice along the curves is better by
        /// more than one step.
        #[test]
        fn the_budget_holds(
            errors in prop::collection::vec(prop::array::uniform4(0.0_f64..1.0), 1..5),
            budget in 2.0_f64..8.0,
        ) {
            let layers: Vec<_> = errors.iter().map(|e| {
                let mut e = *e;
                e.sort_by(|a, b| b.total_cmp(a));
                layer("x", 7, e)
            }).collect();
            let found = allocate(&layers, budget).unwrap();
            prop_assert!(found.average <= budget + 1e-9);
            let best = |at: usize| -> Vec<f64> {
                layers.iter().map(|layer| layer.errors[at].1).collect()
            };
            let at = [2, 3, 4, 8].iter().filter(|bits| f64::from(**bits) <= budget).count() - 1;
            let (uniform, largest) = (best(at).iter().sum::<f64>(), best(0).into_iter().fold(0.0, f64::max));
            prop_assert!(found.error <= uniform + largest, "{} for {uniform}", found.error);
        }
    }
}
