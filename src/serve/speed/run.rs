//! Levels: so many requests at a time, each begun when another has ended.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::future::join_all;

use super::statistics::{Level, Repeat, Timing};

/// What is measured.
#[async_trait]
pub trait Target: Send + Sync {
    /// A prompt of about `input` tokens, which follows from `seed`.
    ///
    /// # Errors
    /// If none can be made; in words.
    async fn prepare(&self, input: usize, seed: u64) -> Result<Prompt, String>;

    /// Asks for `output` tokens after a prompt.
    ///
    /// # Errors
    /// If it is not answered, or not to its end; in words.
    async fn complete(&self, prompt: &Prompt, output: usize) -> Result<Timing, String>;
}

/// A prompt that is ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
}

/// What is measured of a target.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests at a time, level by level.
    pub concurrency: Vec<usize>,
    /// Tokens of a prompt.
    pub input: usize,
    /// Tokens of an answer.
    pub output: usize,
    /// Requests of each repeat of a level; none: a few for each that runs at a time.
    pub requests: Option<usize>,
    /// How often each level is measured.
    pub repeats: usize,
}

impl Plan {
    /// Requests of each repeat of a level.
    pub fn requests_of(&self, concurrency: usize) -> usize {
        self.requests.unwrap_or_else(|| concurrency.saturating_mul(3).max(6)).max(1)
    }
}

/// Measures each level. `step` hears of each request that has ended, those that warm up too, and how many there are
/// in all. Gives the first failure as well, if there was any.
pub async fn measure(
    target: &dyn Target,
    plan: &Plan,
    step: &(dyn Fn(usize) + Send + Sync),
) -> (Vec<Level>, Option<String>) {
    let repeats = plan.repeats.max(1);
    let all: usize = plan
        .concurrency
        .iter()
        .map(|own| plan.requests_of(*own).saturating_mul(repeats) + warm_up(*own, plan))
        .sum();
    let (mut levels, mut first, mut seed) = (Vec::new(), None, 0);
    for concurrency in plan.concurrency.iter().copied() {
        let mut measured = Vec::new();
        for repeat in 0..=repeats {
            let requests = if repeat == 0 {
                warm_up(concurrency, plan)
            } else {
                plan.requests_of(concurrency)
            };
            let (found, failure) =
                once(target, plan, (concurrency, requests, seed), &|| step(all)).await;
            seed += requests as u64;
            first = first.or(failure);
            if repeat > 0 {
                measured.push(found);
            } else if found.timings.is_empty() {
                // It answers nothing: the rest would take long to say the same.
                return (levels, first);
            }
        }
        levels.push(Level::of(concurrency, &measured));
    }
    (levels, first)
}

/// Requests that are not measured.
fn warm_up(concurrency: usize, plan: &Plan) -> usize {
    concurrency.min(plan.requests_of(concurrency)).max(1)
}

async fn once(
    target: &dyn Target,
    plan: &Plan,
    (concurrency, requests, seed): (usize, usize, u64),
    step: &(dyn Fn() + Send + Sync),
) -> (Repeat, Option<String>) {
    let (mut prompts, mut first) = (Vec::new(), None);
    for index in 0..requests {
        match target.prepare(plan.input, seed + index as u64).await {
            Ok(prompt) => prompts.push(prompt),
            Err(why) => drop(first.get_or_insert(why)),
        }
    }
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    let worker = || async {
        let mut own = Vec::new();
        while let Some(prompt) = prompts.get(next.fetch_add(1, Ordering::Relaxed)) {
            own.push(target.complete(prompt, plan.output).await);
            step();
        }
        own
    };
    let results = join_all((0..concurrency.max(1)).map(|_| worker())).await;
    let seconds = begin.elapsed().as_secs_f64();
    let mut timings = Vec::new();
    for result in results.into_iter().flatten() {
        match result {
            Ok(timing) => timings.push(timing),
            Err(why) => drop(first.get_or_insert(why)),
        }
    }
    let failed = requests - timings.len();
    (Repeat { timings, failed, seconds }, first)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    /// Answers after a while, every third request excepted where `fails`.
    #[derive(Default)]
    struct Slow {
        now: AtomicUsize,
        most: AtomicUsize,
        seeds: Mutex<Vec<u64>>,
        fails: bool,
    }

    #[async_trait]
    impl Target for Slow {
        async fn prepare(&self, input: usize, seed: u64) -> Result<Prompt, String> {
            self.seeds.lock().unwrap().push(seed);
            Ok(Prompt::Tokens(vec![u32::try_from(seed).unwrap(); input]))
        }

        async fn complete(&self, prompt: &Prompt, output: usize) -> Result<Timing, String> {
            let Prompt::Tokens(tokens) = prompt else { return Err("text".to_owned()) };
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.now.fetch_sub(1, Ordering::SeqCst);
            if self.fails && tokens[0] % 3 == 0 {
                return Err(format!("request {}", tokens[0]));
            }
            Ok(Timing { first: 0.001, last: 0.01, tokens: output, prompt: Some(tokens.len()) })
        }
    }

    fn measured(target: &Slow, plan: &Plan) -> (Vec<Level>, Option<String>, usize, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (steps, all) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let step = |of: usize| {
            steps.fetch_add(1, Ordering::SeqCst);
            all.store(of, Ordering::SeqCst);
        };
        let (levels, first) = runtime.block_on(measure(target, plan, &step));
        (levels, first, steps.into_inner(), all.into_inner())
    }

    #[test]
    fn as_many_run_at_a_time_as_the_level_says() {
        let plan =
            Plan { concurrency: vec![1, 4], input: 5, output: 7, requests: Some(8), repeats: 2 };
        let slow = Slow::default();
        let (levels, first, steps, all) = measured(&slow, &plan);
        assert_eq!((first, steps, all), (None, 1 + 16 + 4 + 16, 1 + 16 + 4 + 16));
        assert_eq!(slow.most.into_inner(), 4);
        assert_eq!([levels[0].concurrency, levels[1].concurrency], [1, 4]);
        assert_eq!([levels[0].requests, levels[1].requests], [16, 16]);
        assert_eq!((levels[1].prompt_tokens, levels[1].completion_tokens), (Some(5.0), 7.0));
        assert!(levels[1].requests_per_second > 2.0 * levels[0].requests_per_second);
        let mut seeds = slow.seeds.into_inner().unwrap();
        let count = seeds.len();
        seeds.dedup();
        assert_eq!(seeds.len(), count, "no prompt twice");
    }

    #[test]
    fn failures_are_counted_and_the_first_is_told() {
        let plan =
            Plan { concurrency: vec![2], input: 1, output: 1, requests: Some(6), repeats: 1 };
        let slow = Slow { fails: true, ..Slow::default() };
        let (levels, first, ..) = measured(&slow, &plan);
        assert_eq!((levels[0].failed, levels[0].requests), (2, 4));
        assert_eq!(first.as_deref(), Some("request 0"));
        // One that answers nothing is not asked for long.
        let plan = Plan { concurrency: vec![1], ..plan };
        let (levels, first, steps, _) = measured(&slow, &plan);
        assert_eq!((levels, first.is_some(), steps), (Vec::new(), true, 1));
    }
}
