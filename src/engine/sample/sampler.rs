//! The state of one text's sampling.
//!
//! In vLLM's order: the grammar, min_tokens, logit_bias, penalties, temperature, min_p, top_k, top_p, and then
//! typical. What is told of probabilities is of the logits as they came.

use std::collections::{HashMap, HashSet};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::error::SampleError;
use super::filter::{self, Candidate};
use super::numbers;
use super::{Constraint, Sampling};
use crate::engine::request::{Finish, Likely, Scored};

/// Chooses the tokens of one text; another's choices do not change its own.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    vocabulary: usize,
    /// Tokens that end the text, and those that must not come before `min_tokens`.
    ends: HashSet<u32>,
    held_back: Vec<u32>,
    /// What the prompt has, if that matters, and how often the text has what it has.
    prompt: HashSet<u32>,
    counts: HashMap<u32, u32>,
    made: usize,
    constraint: Option<Constraint>,
    random: ChaCha8Rng,
    /// Room that each step uses again.
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// Of a text that goes on from `prompt`. `ends` are the tokens with which the model ends texts; `seed`
    /// counts where the request names none.
    ///
    /// # Errors
    /// If a number of the request is outside its range.
    pub fn new(
        sampling: &Sampling,
        prompt: &[u32],
        vocabulary: usize,
        ends: &[u32],
        seed: u64,
    ) -> Result<Self, SampleError> {
        sampling.check(vocabulary)?;
        let mut held_back: Vec<u32> = ends.iter().chain(&sampling.stop_tokens).copied().collect();
        held_back.retain(|token| (*token as usize) < vocabulary);
        held_back.sort_unstable();
        held_back.dedup();
        let own = if sampling.ignore_eos { &[][..] } else { ends };
        let penalized = sampling.repetition_penalty != 1.0;
        let prompt = if penalized { prompt } else { &[] };
        Ok(Self {
            vocabulary,
            ends: own.iter().chain(&sampling.stop_tokens).copied().collect(),
            held_back,
            prompt: prompt.iter().copied().filter(|token| (*token as usize) < vocabulary).collect(),
            counts: HashMap::new(),
            made: 0,
            constraint: None,
            random: ChaCha8Rng::seed_from_u64(sampling.seed.unwrap_or(seed)),
            logits: Vec::new(),
            candidates: Vec::new(),
            sampling: sampling.clone(),
        })
    }

    /// Of a text that keeps to a grammar.
    #[must_use]
    pub fn with_constraint(mut self, constraint: Option<Constraint>) -> Self {
        self.constraint = constraint;
        self
    }

    /// The next token, and whether the text ends with it.
    ///
    /// # Errors
    /// If a logit is no number, or nothing may come next.
    pub fn next(&mut self, logits: &[f32]) -> Result<(Scored, Option<Finish>), SampleError> {
        if logits.len() != self.vocabulary {
            let (found, expected) = (logits.len(), self.vocabulary);
            return Err(SampleError::Vocabulary { found, expected });
        }
        if !numbers::all_finite(logits)
            && let Some(token) = logits.iter().position(|logit| !logit.is_finite())
        {
            return Err(SampleError::NotFinite { token, value: logits[token] });
        }
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.change()?;
        let token = self.choose()?;
        self.made += 1;
        *self.counts.entry(token).or_default() += 1;
        let mut finish = self.ends.contains(&token).then_some(Finish::Stop);
        if let Some(constraint) = &mut self.constraint
            && constraint.take(token)?
        {
            finish = Some(Finish::Stop);
        }
        Ok((score(logits, token, self.sampling.logprobs), finish))
    }

    /// What changes single logits.
    fn change(&mut self) -> Result<(), SampleError> {
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(&mut self.logits)?;
        }
        let sampling = &self.sampling;
        if self.made < sampling.min_tokens {
            hold_back(&mut self.logits, &self.held_back);
        }
        for (token, bias) in &sampling.logit_bias {
            change(&mut self.logits, *token, |logit| logit + bias);
        }
        let repetition = sampling.repetition_penalty;
        if repetition != 1.0 {
            let fresh = self.prompt.iter().filter(|token| !self.counts.contains_key(token));
            for token in self.counts.keys().chain(fresh) {
                change(&mut self.logits, *token, |logit| {
                    if logit > 0.0 { logit / repetition } else { logit * repetition }
                });
            }
        }
        let (presence, frequency) = (sampling.presence_penalty, sampling.frequency_penalty);
        if presence != 0.0 || frequency != 0.0 {
            for (token, count) in &self.counts {
                change(&mut self.logits, *token, |logit| {
                    logit - presence - frequency * *count as f32
                });
            }
        }
        Ok(())
    }

    fn choose(&mut self) -> Result<u32, SampleError> {
        let (best, most) = likeliest(&self.logits).ok_or(SampleError::Nothing)?;
        let sampling = &self.sampling;
        if sampling.is_greedy() {
            return Ok(best);
        }
        let floor = sampling.min_p.ln();
        let candidates = &mut self.candidates;
        candidates.clear();
        for (token, logit) in (0u32..).zip(&self.logits) {
            let log = (logit - most) / sampling.temperature;
            if log >= floor && log > f32::NEG_INFINITY {
                candidates.push(Candidate::new(token, log));
            }
        }
        filter::top_k(candidates, sampling.top_k);
        filter::top_p(candidates, sampling.top_p);
        filter::typical(candidates, sampling.typical_p);
        // 53 bits, as many as a fraction has.
        let part = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        filter::draw(candidates, part).ok_or(SampleError::Nothing)
    }
}

/// Changes a logit that is not masked, and keeps it a number.
fn change(logits: &mut [f32], token: u32, by: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token as usize).filter(|logit| logit.is_finite()) {
        *logit = by(*logit).clamp(f32::MIN, f32::MAX);
    }
}

/// Masks what must not come yet, unless nothing else may come.
fn hold_back(logits: &mut [f32], tokens: &[u32]) {
    let kept: Vec<f32> = tokens.iter().map(|token| logits[*token as usize]).collect();
    for token in tokens {
        logits[*token as usize] = f32::NEG_INFINITY;
    }
    if logits.iter().all(|logit| *logit == f32::NEG_INFINITY) {
        for (token, logit) in tokens.iter().zip(kept) {
            logits[*token as usize] = logit;
        }
    }
}

/// The likeliest token that is not masked; of equals, the lowest.
fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    let most = numbers::greatest(logits);
    let at = logits.iter().position(|logit| *logit == most && most > f32::NEG_INFINITY)?;
    Some((u32::try_from(at).ok()?, most))
}

/// A token among the likeliest `count`, by finite logits as the model gave them.
pub(crate) fn score(logits: &[f32], token: u32, count: usize) -> Scored {
    let most = numbers::greatest(logits);
    let whole = f64::from(most) + numbers::sum_exp(logits, most).ln();
    let likely = |token: u32| {
        let logit = logits.get(token as usize).copied().unwrap_or(f32::MIN);
        Likely { token, logprob: (f64::from(logit) - whole) as f32 }
    };
    let mut top: Vec<u32> = Vec::with_capacity(count + 1);
    if count > 0 {
        for (token, logit) in (0u32..).zip(logits) {
            let full = top.len() == count;
            if full && top.last().is_some_and(|last| *logit <= logits[*last as usize]) {
                continue;
            }
            let at = top.partition_point(|other| logits[*other as usize] >= *logit);
            top.insert(at, token);
            top.truncate(count);
        }
    }
    Scored { own: likely(token), top: top.into_iter().map(likely).collect() }
}
