//! The embedded engine, in this process: no HTTP and no text is between.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::prompts;
use super::run::{Prompt, Target};
use super::statistics::Timing;
use crate::engine::sample::Sampling;
use crate::engine::{Engine, Event, Request};

/// An engine that is measured.
pub struct Embedded(pub Arc<dyn Engine>);

#[async_trait]
impl Target for Embedded {
    async fn prepare(&self, input: usize, seed: u64) -> Result<Prompt, String> {
        let info = self.0.info();
        Ok(Prompt::Tokens(prompts::tokens(input.max(1), info.vocabulary, &info.ends, seed)))
    }

    async fn complete(&self, prompt: &Prompt, output: usize) -> Result<Timing, String> {
        let Prompt::Tokens(tokens) = prompt else {
            return Err("a text, where tokens are taken".to_owned());
        };
        let request = Request {
            prompt: tokens.clone(),
            sampling: Sampling { temperature: 0.0, ignore_eos: true, ..Sampling::default() },
            constraint: None,
            max_tokens: output,
            prompt_logprobs: None,
            adapter: None,
        };
        let begin = Instant::now();
        let mut events = self.0.submit(request).map_err(|refused| refused.to_string())?;
        let (mut first, mut last, mut count) = (None, 0.0, 0);
        while let Some(event) = events.recv().await {
            match event {
                Event::Token(_) => {
                    last = begin.elapsed().as_secs_f64();
                    first = first.or(Some(last));
                    count += 1;
                }
                Event::Failed(why) => return Err(why),
                Event::End(_) => break,
                Event::Prompt(_) => {}
            }
        }
        let first = first.ok_or("the engine ended without a token")?;
        Ok(Timing { first, last, tokens: count, prompt: Some(tokens.len()) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::{Events, Finish, Likely, ModelInfo, Refused, Scored};

    struct Counting;

    impl Engine for Counting {
        fn info(&self) -> ModelInfo {
            ModelInfo {
                max_context: 64,
                vocabulary: 100,
                ends: vec![2],
                generates: true,
                quantization: "none".to_owned(),
                adapters: Vec::new(),
            }
        }

        fn submit(&self, request: Request) -> Result<Events, Refused> {
            assert!(request.sampling.ignore_eos && request.sampling.temperature == 0.0);
            assert!(request.prompt.iter().all(|token| *token < 100 && *token != 2));
            if request.prompt.len() > 60 {
                return Err(Refused::TooLong { tokens: request.prompt.len(), most: 60 });
            }
            let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                for token in 0..request.max_tokens as u32 {
                    let own = Likely { token, logprob: 0.0 };
                    drop(sender.send(Event::Token(Scored { own, top: Vec::new() })));
                    std::thread::sleep(Duration::from_millis(5));
                }
                drop(sender.send(Event::End(Finish::Length)));
            });
            Ok(receiver)
        }

        fn embed(&self, _: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Refused> {
            Err(Refused::Unable("it makes text"))
        }
    }

    #[test]
    fn tokens_are_counted_and_timed() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let target = Embedded(Arc::new(Counting));
        let timing = runtime.block_on(async {
            let prompt = target.prepare(40, 1).await.unwrap();
            target.complete(&prompt, 5).await.unwrap()
        });
        assert_eq!((timing.tokens, timing.prompt), (5, Some(40)));
        assert!(timing.first >= 0.02 && timing.per_token().unwrap() >= 0.005, "{timing:?}");
        let refused = runtime.block_on(async {
            let prompt = target.prepare(61, 1).await.unwrap();
            target.complete(&prompt, 5).await
        });
        assert!(refused.unwrap_err().contains("room for 60"));
    }
}
