//! The sampler against a slow one that sorts everything, its numbers, and its errors.

use std::collections::HashMap;

use proptest::prelude::*;
use tenpak::engine::Finish;
use tenpak::engine::sample::{SampleError, Sampler, Sampling};

/// Which tokens may come, each with its probability: by sorting, in f64.
fn oracle(logits: &[f32], of: &Sampling) -> Vec<(u32, f64)> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let mut rows: Vec<(u32, f64)> = (0u32..)
        .zip(logits)
        .map(|(token, logit)| (token, f64::from(((logit - most) / of.temperature).exp())))
        .filter(|(_, weight)| *weight >= f64::from(of.min_p))
        .collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if of.top_k > 0 {
        rows.truncate(of.top_k);
    }
    let keep = |rows: &mut Vec<(u32, f64)>, mass: f32| {
        if mass >= 1.0 {
            return;
        }
        let whole: f64 = rows.iter().map(|row| row.1).sum();
        let mut sum = 0.0;
        let last = rows.iter().position(|row| {
            sum += row.1;
            sum >= whole * f64::from(mass)
        });
        rows.truncate(last.unwrap_or(rows.len() - 1) + 1);
    };
    keep(&mut rows, of.top_p);
    let whole: f64 = rows.iter().map(|row| row.1).sum();
    let entropy: f64 = rows
        .iter()
        .filter(|row| row.1 > 0.0)
        .map(|row| -(row.1 / whole) * (row.1 / whole).ln())
        .sum();
    if of.typical_p < 1.0 {
        let far = |row: &(u32, f64)| (-(row.1 / whole).ln() - entropy).abs();
        rows.sort_by(|a, b| {
            far(a).total_cmp(&far(b)).then(b.1.total_cmp(&a.1)).then(a.0.cmp(&b.0))
        });
        keep(&mut rows, of.typical_p);
    }
    let whole: f64 = rows.iter().map(|row| row.1).sum();
    rows.into_iter().map(|(token, weight)| (token, weight / whole)).collect()
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let masses = prop_oneof![Just(1.0f32), 0.05f32..1.0];
    let zero = prop_oneof![Just(0.0f32), 0.0f32..0.4];
    (0.2f32..3.0, masses.clone(), 0usize..40, zero, masses).prop_map(
        |(temperature, top_p, top_k, min_p, typical_p)| {
            let mut own = Sampling::default();
            (own.temperature, own.top_p, own.top_k) = (temperature, top_p, top_k);
            (own.min_p, own.typical_p) = (min_p, typical_p);
            own
        },
    )
}

/// Logits that are far enough apart for two ways of adding to agree, or equal.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-60i32..60).prop_map(|step| step as f32 / 7.0), 2..300)
}

proptest! {
    #[test]
    fn only_tokens_that_the_filters_leave_are_chosen(logits in logits(), of in sampling(), seed: u64) {
        let allowed = oracle(&logits, &of);
        // At the very border of a mass two sums may differ: half a percent around it is left out.
        let near = |factor: f32| {
            let mut near = of.clone();
            near.top_p = (of.top_p * factor).min(1.0);
            near.typical_p = (of.typical_p * factor).min(1.0);
            oracle(&logits, &near).len() == allowed.len()
        };
        prop_assume!(near(0.9999) && near(1.0001));
        let mut sampler = Sampler::new(&of, &[], logits.len(), &[], seed).unwrap();
        for _ in 0..20 {
            let (chosen, finish) = sampler.next(&logits).unwrap();
            prop_assert!(allowed.iter().any(|(token, _)| *token == chosen.own.token));
            prop_assert_eq!(finish, None);
        }
    }

    #[test]
    fn what_is_told_is_of_the_logits_as_they_came(logits in logits(), mut of in sampling(), count in 0usize..20) {
        of.logprobs = count;
        of.presence_penalty = 1.5;
        of.logit_bias = vec![(0, 50.0)];
        let whole = logits.iter().map(|logit| f64::from(*logit).exp()).sum::<f64>().ln();
        let mut sampler = Sampler::new(&of, &[], logits.len(), &[], 1).unwrap();
        for _ in 0..3 {
            let (scored, _) = sampler.next(&logits).unwrap();
            let right = f64::from(logits[scored.own.token as usize]) - whole;
            prop_assert!((f64::from(scored.own.logprob) - right).abs() < 1e-4);
            let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
            sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
            sorted.truncate(count);
            prop_assert_eq!(scored.top.iter().map(|likely| likely.token).collect::<Vec<_>>(), sorted);
        }
    }

    #[test]
    fn any_logits_and_numbers_give_a_token_or_an_error(
        logits in prop::collection::vec(any::<f32>(), 0..50), vocabulary in 0usize..50,
        numbers in prop::array::uniform7(any::<f32>()), named in prop::collection::vec((0u32..60, any::<f32>()), 0..4),
        counts in (any::<usize>(), 0usize..30, 0usize..5),
    ) {
        let mut of = Sampling::default();
        [of.temperature, of.top_p, of.min_p, of.typical_p, of.repetition_penalty, of.presence_penalty,
            of.frequency_penalty] = numbers;
        of.logit_bias = named.clone();
        of.stop_tokens = named.iter().map(|(token, _)| *token).collect();
        (of.top_k, of.logprobs, of.min_tokens) = counts;
        let Ok(mut sampler) = Sampler::new(&of, &[1, 99], vocabulary, &[2, 77], 0) else { return Ok(()) };
        for _ in 0..4 {
            if let Ok((scored, _)) = sampler.next(&logits) {
                prop_assert!((scored.own.token as usize) < vocabulary);
            }
        }
    }
}

#[test]
fn tokens_come_as_often_as_they_are_likely() {
    let logits: Vec<f32> = (0..50).map(|at| ((at * 37) % 11) as f32 / 3.0).collect();
    let mut of = Sampling::default();
    (of.temperature, of.top_p, of.top_k, of.min_p) = (0.8, 0.9, 30, 0.02);
    let expected: HashMap<u32, f64> = oracle(&logits, &of).into_iter().collect();
    let mut sampler = Sampler::new(&of, &[], 50, &[], 7).unwrap();
    let rounds = 40_000;
    let mut seen: HashMap<u32, f64> = HashMap::new();
    for _ in 0..rounds {
        *seen.entry(sampler.next(&logits).unwrap().0.own.token).or_default() +=
            1.0 / f64::from(rounds);
    }
    for (token, part) in &expected {
        let own = seen.get(token).copied().unwrap_or(0.0);
        // Five standard deviations.
        let bound = 5.0 * (part * (1.0 - part) / f64::from(rounds)).sqrt();
        assert!((own - part).abs() < bound, "token {token}: {own} for {part}");
    }
    assert!(seen.keys().all(|token| expected.contains_key(token)));
}

#[test]
fn one_seed_is_one_text() {
    let logits: Vec<f32> = (0..1000).map(|at| (f64::from(at) * 0.7).sin() as f32).collect();
    let text = |seed: Option<u64>, fallback: u64| {
        let mut of = Sampling::default();
        of.seed = seed;
        let mut sampler = Sampler::new(&of, &[], 1000, &[], fallback).unwrap();
        (0..32).map(|_| sampler.next(&logits).unwrap().0.own.token).collect::<Vec<_>>()
    };
    assert_eq!(text(Some(5), 1), text(Some(5), 2));
    assert_ne!(text(Some(5), 1), text(Some(6), 1));
    assert_ne!(text(None, 1), text(None, 2));
}

#[test]
fn greedy_takes_the_lowest_of_equals_and_penalties_move_it() {
    let logits = [1.0, 3.0, 3.0, -2.0];
    let mut of = Sampling::default();
    of.temperature = 0.0;
    let run = |of: &Sampling, prompt: &[u32]| {
        let mut sampler = Sampler::new(of, prompt, 4, &[], 0).unwrap();
        (0..4).map(|_| sampler.next(&logits).unwrap().0.own.token).collect::<Vec<_>>()
    };
    assert_eq!(run(&of, &[]), [1, 1, 1, 1]);
    of.presence_penalty = 0.5;
    assert_eq!(run(&of, &[1]), [1, 2, 1, 1], "of the prompt nothing is counted");
    of.presence_penalty = 0.0;
    of.frequency_penalty = 1.5;
    assert_eq!(run(&of, &[]), [1, 2, 1, 2]);
    of.frequency_penalty = 0.0;
    of.repetition_penalty = 4.0;
    assert_eq!(run(&of, &[1]), [2, 0, 1, 1], "what the prompt has counts, and once");
    of.repetition_penalty = 1.0;
    of.logit_bias = vec![(3, 100.0)];
    assert_eq!(run(&of, &[]), [3, 3, 3, 3]);
}

#[test]
fn ends_end_unless_they_come_too_early_or_are_ignored() {
    let logits = [1.0, 9.0, 8.0, 0.0];
    let mut of = Sampling::default();
    of.temperature = 0.0;
    let run = |of: &Sampling, ends: &[u32]| {
        let mut sampler = Sampler::new(of, &[], 4, ends, 0).unwrap();
        (0..3)
            .map(|_| sampler.next(&logits).unwrap())
            .map(|(scored, finish)| (scored.own.token, finish.is_some()))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(&of, &[1]), [(1, true), (1, true), (1, true)]);
    of.ignore_eos = true;
    assert_eq!(run(&of, &[1])[0], (1, false));
    of.stop_tokens = vec![1];
    assert_eq!(run(&of, &[])[0], (1, true));
    of.ignore_eos = false;
    of.min_tokens = 2;
    assert_eq!(run(&of, &[2]), [(0, false), (0, false), (1, true)]);
    // Nothing else may come.
    assert_eq!(run(&of, &[0, 1, 2, 3])[0], (1, true));
    let mut sampler = Sampler::new(&of, &[], 4, &[2], 0).unwrap();
    assert_eq!(sampler.next(&logits).unwrap().1, None::<Finish>);
}

#[test]
fn errors_name_what_is_wrong() {
    let mut sampler = Sampler::new(&Sampling::default(), &[], 3, &[], 0).unwrap();
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let told = sampler.next(&[0.0, 1.0, odd]).unwrap_err();
        assert!(matches!(told, SampleError::NotFinite { token: 2, .. }), "{told}");
    }
    let told = sampler.next(&[0.0]).unwrap_err();
    assert_eq!(told, SampleError::Vocabulary { found: 1, expected: 3 });
    type Change = fn(&mut Sampling);
    let wrong: [(&str, Change); 12] = [
        ("temperature is -1", |of| of.temperature = -1.0),
        ("temperature is NaN", |of| of.temperature = f32::NAN),
        ("temperature is inf", |of| of.temperature = f32::INFINITY),
        ("top_p is 0", |of| of.top_p = 0.0),
        ("min_p is 1.5", |of| of.min_p = 1.5),
        ("typical_p is NaN", |of| of.typical_p = f32::NAN),
        ("repetition_penalty is 0", |of| of.repetition_penalty = 0.0),
        ("presence_penalty is 2.5", |of| of.presence_penalty = 2.5),
        ("frequency_penalty is -3", |of| of.frequency_penalty = -3.0),
        ("logprobs is 21", |of| of.logprobs = 21),
        ("logit_bias names token 3", |of| of.logit_bias = vec![(3, 1.0)]),
        ("stop_token_ids names token 9", |of| of.stop_tokens = vec![9]),
    ];
    for (start, change) in wrong {
        let mut of = Sampling::default();
        change(&mut of);
        let told = Sampler::new(&of, &[], 3, &[], 0).unwrap_err().to_string();
        assert!(told.starts_with(start), "{told}");
    }
}
