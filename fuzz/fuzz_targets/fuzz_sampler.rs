//! Any numbers as a request's and as a model's: a token that the model has, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::engine::sample::{Sampler, Sampling};

/// Takes numbers from the input; zeros when it has ended.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn word(&mut self) -> u32 {
        let (word, rest) = self.0.split_at(self.0.len().min(4));
        self.0 = rest;
        word.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
    }

    fn float(&mut self) -> f32 {
        f32::from_bits(self.word())
    }
}

fuzz_target!(|input: &[u8]| {
    let mut numbers = Numbers(input);
    let mut of = Sampling::default();
    for field in [
        &mut of.temperature,
        &mut of.top_p,
        &mut of.min_p,
        &mut of.typical_p,
        &mut of.repetition_penalty,
        &mut of.presence_penalty,
        &mut of.frequency_penalty,
    ] {
        *field = numbers.float();
    }
    let word = numbers.word();
    (of.top_k, of.logprobs) = ((word & 15) as usize, (word >> 4 & 31) as usize);
    (of.min_tokens, of.ignore_eos) = ((word >> 9 & 3) as usize, word >> 11 & 1 == 1);
    let vocabulary = (word >> 16 & 63) as usize;
    let bias = numbers.float();
    of.logit_bias = vec![(word >> 22 & 63, bias)];
    of.stop_tokens = vec![word >> 26];
    let Ok(mut sampler) = Sampler::new(&of, &[1, 2, 90], vocabulary, &[0, 70], 1) else { return };
    for _ in 0..4 {
        let logits: Vec<f32> = (0..vocabulary).map(|_| numbers.float()).collect();
        if let Ok((scored, _)) = sampler.next(&logits) {
            assert!((scored.own.token as usize) < vocabulary && scored.top.len() <= of.logprobs);
            assert!(scored.own.logprob <= 1e-3 && !scored.own.logprob.is_nan());
        }
    }
});
