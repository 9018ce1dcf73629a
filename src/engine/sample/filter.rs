//! Which tokens stay candidates: min_p, top_k, top_p and typical, in this order.
//!
//! A candidate's weight is relative to the likeliest token's, whose weight is 1. The likeliest token always
//! stays. Of tokens equally likely, the one with the lower id is the likelier.

use std::cmp::Ordering;

use super::numbers;

/// A token, and its weight with the weight's logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: u32,
    log: f32,
    weight: f32,
}

impl Candidate {
    /// With the logarithm of its weight, which is at most 0.
    pub(super) fn new(token: u32, log: f32) -> Self {
        Self { token, log, weight: numbers::exp(log) }
    }

    fn weight(self) -> f64 {
        f64::from(self.weight)
    }
}

/// The likelier first.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.log.total_cmp(&a.log).then(a.token.cmp(&b.token))
}

/// Puts the likeliest `count` first, in order.
fn lead(candidates: &mut [Candidate], count: usize) {
    let count = count.min(candidates.len());
    if count < candidates.len() && count > 0 {
        candidates.select_nth_unstable_by(count - 1, likelier);
    }
    candidates[..count].sort_unstable_by(likelier);
}

fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| candidate.weight()).sum()
}

/// Keeps the likeliest `count`; 0 keeps all.
pub(super) fn top_k(candidates: &mut Vec<Candidate>, count: usize) {
    if count > 0 && count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, likelier);
        candidates.truncate(count);
    }
}

/// Keeps the likeliest until they reach `mass` of the whole.
pub(super) fn top_p(candidates: &mut Vec<Candidate>, mass: f32) {
    if mass >= 1.0 {
        return;
    }
    let enough = total(candidates) * f64::from(mass);
    // Most texts need few tokens: only as many are sorted as are needed, in growing steps.
    let (mut sorted, mut step, mut sum) = (0, 64, 0.0);
    while sorted < candidates.len() {
        lead(&mut candidates[sorted..], step);
        let end = candidates.len().min(sorted + step);
        for at in sorted..end {
            sum += candidates[at].weight();
            if sum >= enough {
                candidates.truncate(at + 1);
                return;
            }
        }
        (sorted, step) = (end, step * 8);
    }
}

/// Keeps the tokens whose surprise is nearest to the expected one, until they reach `mass` of the whole.
pub(super) fn typical(candidates: &mut Vec<Candidate>, mass: f32) {
    if mass >= 1.0 || candidates.len() < 2 {
        return;
    }
    let whole = total(candidates);
    let surprise = |candidate: &Candidate| whole.ln() - f64::from(candidate.log);
    let expected: f64 = candidates
        .iter()
        .map(|candidate| candidate.weight() / whole * surprise(candidate))
        // What has no weight has no part in it, however surprising.
        .filter(|part| part.is_finite())
        .sum();
    let distance = |candidate: &Candidate| (surprise(candidate) - expected).abs();
    candidates.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(likelier(a, b)));
    let (enough, mut sum) = (whole * f64::from(mass), 0.0);
    let last = candidates.iter().position(|candidate| {
        sum += candidate.weight();
        sum >= enough
    });
    if let Some(last) = last {
        candidates.truncate(last + 1);
    }
}

/// The token at `part` (0 to 1) of the candidates' whole weight.
pub(super) fn draw(candidates: &[Candidate], part: f64) -> Option<u32> {
    let wanted = total(candidates) * part;
    let mut sum = 0.0;
    for candidate in candidates {
        sum += candidate.weight();
        if sum > wanted {
            return Some(candidate.token);
        }
    }
    // Rounding, at the very end: the last that has any weight.
    candidates.iter().rev().find(|candidate| candidate.weight() > 0.0).map(|last| last.token)
}
