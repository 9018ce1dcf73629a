//! Rounds in which the fewest bits are sought that keep limits of quality.

use super::candidate::Candidate;
use super::error::OptimizeError;
use super::evidence::product_key;
use super::exam::Exam;
use super::options::Watch;
use super::outcome::{Row, Setting};
use super::prices::Price;
use super::solve::Fit;
use super::stages::Run;
use crate::quantize::lm::Model;
use crate::quantize::produce::{Bits, expected_losses};

/// Budgets that are thought of, in hundredths of bits: errors of fewer are not small.
const BUDGETS: std::ops::RangeInclusive<u32> = 300..=800;
/// From one to the next.
const STEP: usize = 5;

impl Run<'_> {
    /// Tries budgets of bits; each becomes a candidate. Tells of each whether anything was computed.
    pub(super) fn rounds(
        &mut self,
        (lm, exam): (&Model, &mut Exam<'_>),
        (rows, bits, prices): (&mut Vec<Row>, &mut Vec<Bits>, &mut Vec<Price>),
        setting: &Setting<'_>,
        time_left: &dyn Fn() -> bool,
        watch: &dyn Watch,
    ) -> Vec<bool> {
        let mut computed = Vec::new();
        let mut fit = match self.fit(lm) {
            Ok(Some(fit)) => fit,
            Ok(None) => return computed,
            Err(error) => {
                self.notes.push(format!("bits are not solved for: {error}"));
                return computed;
            }
        };
        while let Some(budget) = fit.next().filter(|_| time_left()) {
            let candidate = Candidate::mixed(budget);
            let same = |own: &Candidate| own.recipe == candidate.recipe;
            let at = match self.candidates.iter().position(same) {
                Some(at) => at,
                None => {
                    let (at, mut own) = (self.candidates.len(), Bits::new());
                    let size = self.size(&candidate, Some(lm), &mut own);
                    let size = size.map_err(|error| error.to_string());
                    let first = rows.len();
                    for hardware in &self.options.hardware {
                        let (row, price) = Row::new((at, &candidate), &size, hardware, setting);
                        prices.extend(price.filter(|price| !prices.contains(price)));
                        rows.push(row);
                    }
                    self.candidates.push(candidate);
                    watch.begin(rows.get(first..).unwrap_or_default());
                    // Other limits drop it everywhere: more bits would not help, and fewer lose more.
                    let open = rows.iter().skip(first).any(|row| row.dropped.is_none());
                    let new = open && self.try_at((at, &own), rows, Some(exam), time_left, watch);
                    bits.push(own);
                    computed.push(new);
                    at
                }
            };
            let share = rows.iter().find(|row| row.candidate == at).and_then(|row| self.share(row));
            let Some(share) = share else { break };
            fit.note(budget, share);
        }
        computed
    }

    /// The limit, in nats: losses and divergences are expected to be alike.
    fn limit(&self) -> Option<f64> {
        let ppl = self.constraints.max_ppl_delta.map(|percent| (percent / 100.0).ln_1p());
        let limits = [ppl, self.constraints.max_kl];
        limits.into_iter().flatten().min_by(f64::total_cmp)
    }

    /// What is expected of each budget; none where there is nothing to solve for.
    fn fit(&mut self, lm: &Model) -> Result<Option<Fit>, OptimizeError> {
        let Some(limit) = self.limit().filter(|limit| *limit > 0.0) else {
            self.notes
                .push("mixed: there is no limit of quality above 0 to solve bits for".to_owned());
            return Ok(None);
        };
        let samples = self.workshop.samples.as_ref().ok_or(OptimizeError::NotCalibrated)?;
        let recipe = Candidate::mixed(*BUDGETS.end()).recipe;
        let more = ["losses".to_owned(), samples.digest().to_string()];
        let key = product_key(self.workshop.digest, recipe.as_ref(), &more)?;
        let losses = match (self.evidence.losses(key), &recipe) {
            (Some(known), _) => known.clone(),
            (None, None) => return Ok(None),
            (None, Some(recipe)) => {
                let budgets: Vec<u32> = BUDGETS.step_by(STEP).collect();
                let float = self.workshop.float;
                let found = expected_losses(lm, self.statistics(lm)?, recipe, float, &budgets)?;
                self.evidence.note_losses(key, found.clone());
                found
            }
        };
        Ok(Some(Fit::new(losses.into_iter().map(|(bits, loss)| (bits, loss / limit)).collect())))
    }

    /// The share of the limit that a candidate is sure to keep within; of one that surely does not, what it has.
    fn share(&self, row: &Row) -> Option<f64> {
        let quality = row.quality.as_ref()?;
        let nats = |percent: f64| (percent / 100.0).ln_1p();
        let delta = quality.ppl_delta_percent.rising(nats);
        let ppl = self.constraints.max_ppl_delta.map(|percent| (delta, nats(percent)));
        let kl = self.constraints.max_kl.map(|most| (quality.kl, most));
        let share = |(figure, limit): (super::figure::Figure, f64)| {
            if figure.low > limit { figure.value / limit } else { figure.high / limit }
        };
        [ppl, kl].into_iter().flatten().map(share).max_by(f64::total_cmp)
    }
}
