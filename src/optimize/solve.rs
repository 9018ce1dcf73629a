//! The fewest bits with which a limit of quality is kept: which budget is tried next, by what layers' sensitivities
//! predict and by what was measured of those that were tried. Pure.
//!
//! Sensitivities give the loss that is expected of small errors; what is measured corrects it. A loss is told
//! by the share of the limit that its interval's upper end has: 1 is the limit itself.

/// What is aimed at: a little is left for what the prediction is off by.
const AIM: f64 = 0.93;
/// What is measured between this and the limit is near enough.
const NEAR: f64 = 0.8;
/// How often it is tried.
pub const ROUNDS: usize = 3;

/// What is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Budgets in hundredths of bits, rising, each with the share of the limit that is predicted.
    predicted: Vec<(u32, f64)>,
    /// Budgets that were tried, each with the share that was measured.
    tried: Vec<(u32, f64)>,
}

impl Fit {
    /// By a prediction for some budgets.
    pub fn new(mut predicted: Vec<(u32, f64)>) -> Self {
        predicted.retain(|(_, share)| share.is_finite() && *share >= 0.0);
        predicted.sort_by_key(|own| own.0);
        Self { predicted, tried: Vec::new() }
    }

    /// Takes over what was measured of a budget. What is no number is far beyond the limit.
    pub fn note(&mut self, budget: u32, share: f64) {
        let share = if share.is_finite() { share.max(0.0) } else { 1e9 };
        self.tried.push((budget, share));
    }

    /// The budget to try next; none where it was tried often enough, or what is known is near enough, or no budget
    /// is left.
    pub fn next(&self) -> Option<u32> {
        if self.tried.len() >= ROUNDS {
            return None;
        }
        let kept = self.tried.iter().filter(|own| own.1 <= 1.0);
        if kept.clone().any(|own| own.1 >= NEAR) {
            return None;
        }
        // What has more bits than one that keeps it is dearer, what has fewer than one that does not keeps it less.
        let most = kept.map(|own| own.0).min().unwrap_or(u32::MAX);
        let least = self.tried.iter().filter(|own| own.1 > 1.0).map(|own| own.0).max();
        let open = |own: &&(u32, f64)| own.0 < most && least.is_none_or(|least| own.0 > least);
        let mut open = self.predicted.iter().filter(open);
        let wanted = self.corrected()?;
        let last = open.clone().next_back()?;
        Some(open.find(|own| own.1 <= wanted).unwrap_or(last).0)
    }

    /// The predicted share of which the measured one is what is aimed at.
    fn corrected(&self) -> Option<f64> {
        let of = |(budget, share): (u32, f64)| {
            let own = self.predicted.iter().find(|own| own.0 == budget)?.1;
            Some((own.max(1e-12).ln(), share.max(1e-3).ln()))
        };
        let mut points: Vec<(f64, f64)> = self.tried.iter().copied().filter_map(of).collect();
        // The nearest to the limit first.
        points.sort_by(|one, other| one.1.abs().total_cmp(&other.1.abs()));
        let slope = match points.as_slice() {
            [one, other, ..] if (one.0 - other.0).abs() > 1e-9 => {
                ((one.1 - other.1) / (one.0 - other.0)).clamp(0.5, 2.0)
            }
            _ => 1.0,
        };
        Some(match points.first() {
            Some((own, share)) => (own + (AIM.ln() - share) / slope).exp(),
            None => AIM,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Errors as rounding has them: four times less with each bit.
    fn curve(factor: f64) -> Vec<(u32, f64)> {
        (60..=160_u32).map(|at| (at * 5, factor * 4_f64.powf(-f64::from(at) / 20.0))).collect()
    }

    /// Tries until it is done; gives the fewest bits that keep the limit.
    fn solve(fit: &mut Fit, truth: impl Fn(u32) -> f64) -> Option<u32> {
        while let Some(budget) = fit.next() {
            fit.note(budget, truth(budget));
        }
        assert!(fit.tried.len() <= ROUNDS);
        fit.tried.iter().filter(|own| own.1 <= 1.0).map(|own| own.0).min()
    }

    #[test]
    fn a_prediction_that_is_right_takes_one_round() {
        let own = curve(100.0);
        let mut fit = Fit::new(own.clone());
        let truth = |budget| own.iter().find(|one| one.0 == budget).unwrap().1;
        let found = solve(&mut fit, truth).unwrap();
        assert_eq!(fit.tried.len(), 1);
        assert!(truth(found) <= 1.0 && truth(found - 10) > 0.9);
    }

    #[test]
    fn what_cannot_be_had_ends_soon() {
        let mut fit = Fit::new(curve(100.0));
        assert_eq!(solve(&mut fit, |_| f64::NAN), None);
        assert_eq!(fit.tried.last().unwrap().0, 800, "the most bits were tried");
        assert_eq!(Fit::new(Vec::new()).next(), None);
        assert_eq!(solve(&mut Fit::new(curve(100.0)), |_| 0.0), Some(300));
    }

    proptest! {
        /// However far the prediction is off, and if it is by another power: what is found is within a fifth of a
        /// bit of the fewest that keep the limit, or nothing keeps it.
        #[test]
        fn three_rounds_are_enough(off in -1.5_f64..1.5, power in 0.75_f64..1.3, factor in 20.0_f64..2000.0) {
            let own = curve(factor);
            let truth = |budget: u32| {
                let predicted = own.iter().find(|one| one.0 == budget).unwrap().1;
                off.exp() * predicted.powf(power)
            };
            let best = own.iter().find(|one| truth(one.0) <= 1.0).map(|one| one.0);
            let found = solve(&mut Fit::new(own.clone()), truth);
            match (best, found) {
                (Some(best), Some(found)) => prop_assert!(found >= best && found - best <= 25, "{best} {found}"),
                (best, found) => prop_assert_eq!(best, found),
            }
        }
    }
}
