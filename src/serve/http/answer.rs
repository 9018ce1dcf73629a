//! An answer while it is made: several texts at once, told together or as a stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;

use super::choice::{Choice, Delta, Rules};
use super::error::ApiError;
use super::metrics::Counted;
use super::outbox::{self, Outbox};
use super::plan::{Form, Plan};
use super::response::{Answer, ChoiceAnswer, Message, Usage};
use super::state::State;
use super::told::Teller;
use crate::engine::text::Detokenizer;

/// The texts of one answer. Dropping it ends them.
pub(crate) struct Running {
    state: Arc<State>,
    choices: Vec<Choice>,
    ready: VecDeque<Delta>,
    /// Which text is asked first, so that none waits for others.
    turn: usize,
    prompt_tokens: usize,
}

impl Running {
    /// Hands every text of a plan to the engine.
    pub(crate) fn begin(state: &Arc<State>, plan: &Plan) -> Result<Self, ApiError> {
        let tokenizer = &state.server.tokenizer;
        let sampling = &plan.request.sampling;
        let own_ends: &[u32] = if sampling.ignore_eos { &[] } else { &state.info.ends };
        let (mut choices, mut ready) = (Vec::new(), VecDeque::new());
        for (prompt, max_tokens) in plan.prompts.iter().zip(&plan.max_tokens) {
            let scores = plan.echo && plan.logprobs.is_some();
            let only_prompt = *max_tokens == 0;
            let echoed = match &prompt.text {
                _ if !plan.echo => None,
                Some(text) => Some(text.clone()),
                None => Some(tokenizer.decode(&prompt.tokens)?),
            };
            for copy in 0..plan.n {
                let mut request = plan.request.clone();
                request.prompt.clone_from(&prompt.tokens);
                // The prompt alone is scored by a text of one token, which is not told.
                request.max_tokens = (*max_tokens).max(1);
                request.sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(copy as u64));
                let counted = Counted::begin(&state.metrics, prompt.tokens.len());
                let needed = scores || !only_prompt;
                let events = needed.then(|| state.server.engine.submit(request)).transpose()?;
                let rules = Rules {
                    echo: echoed.clone().map(|text| (text, prompt.tokens.clone())),
                    prompt_scores: scores,
                    only_prompt,
                    stops: plan.stops.clone(),
                    include_stop: plan.include_stop,
                    ends: own_ends.iter().chain(&sampling.stop_tokens).copied().collect(),
                    named_ends: sampling.stop_tokens.clone(),
                    min_tokens: sampling.min_tokens,
                    scores: plan.logprobs.is_some(),
                };
                let text = Detokenizer::after(tokenizer.clone(), plan.skip_special, &prompt.tokens);
                let mut choice = Choice::new(choices.len(), events, rules, text, counted);
                ready.extend(choice.begin());
                choices.push(choice);
            }
        }
        let prompt_tokens = plan.prompts.iter().map(|prompt| prompt.tokens.len()).sum();
        Ok(Self { state: state.clone(), choices, ready, turn: 0, prompt_tokens })
    }

    /// The next part of any text; none when all have ended.
    pub(crate) async fn next(&mut self) -> Option<Result<Delta, ApiError>> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Some(Ok(delta));
            }
            if !self.choices.iter().any(Choice::is_open) {
                return None;
            }
            let count = self.choices.len();
            let (at, event) = poll_fn(|context| {
                for step in 0..count {
                    let at = (self.turn + step) % count;
                    if let Poll::Ready(event) = self.choices[at].poll(context) {
                        return Poll::Ready((at, event));
                    }
                }
                Poll::Pending
            })
            .await;
            self.turn = (at + 1) % count;
            let tokenizer = &self.state.server.tokenizer;
            let characters =
                |token: u32| String::from_utf8_lossy(tokenizer.bytes(token)).chars().count();
            match self.choices[at].take(event, characters) {
                Ok(delta) => self.ready.extend(delta),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn usage(&self) -> Usage {
        Usage::new(self.prompt_tokens, self.choices.iter().map(Choice::made).sum())
    }
}

/// Answers a plan.
pub(crate) async fn answer(state: &Arc<State>, plan: Plan) -> Result<Response, ApiError> {
    let running = Running::begin(state, &plan)?;
    let teller = Teller::new(state.server.tokenizer.clone(), &plan);
    if plan.stream {
        return Ok(stream(state, running, teller, plan.include_usage));
    }
    let mut running = running;
    let mut texts: Vec<(String, Vec<_>, Option<_>)> =
        running.choices.iter().map(|_| (String::new(), Vec::new(), None)).collect();
    while let Some(delta) = running.next().await {
        let delta = delta?;
        let own = &mut texts[delta.index];
        own.0.push_str(&delta.text);
        own.1.extend(delta.tokens);
        own.2 = delta.end.or(own.2.take());
    }
    let choices = texts.into_iter().enumerate().map(|(index, (text, tokens, end))| {
        let (finish_reason, stop_reason) =
            end.map_or((None, None), |end| (Some(end.reason), end.stop));
        let logprobs = teller.logprobs(&tokens);
        let (text, message) = match teller.form {
            Form::Completion => (Some(text), None),
            Form::Chat => (None, Some(Message { role: Some("assistant"), content: Some(text) })),
        };
        ChoiceAnswer { index, text, message, delta: None, logprobs, finish_reason, stop_reason }
    });
    let mut answer = teller.answer(choices.collect());
    answer.usage = Some(running.usage());
    Ok(Json(answer).into_response())
}

/// Answers as server-sent events.
fn stream(state: &Arc<State>, running: Running, teller: Teller, include_usage: bool) -> Response {
    let (to, from) = outbox::body(state.server.limits.backlog);
    tokio::spawn(async move {
        tokio::select! {
            () = pump(running, &teller, &to, include_usage) => {}
            // The client has gone: the texts end with what is dropped here.
            () = to.closed() => {}
        }
    });
    let mut response = Body::from_stream(from).into_response();
    let headers = response.headers_mut();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect answers are asked not to.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

async fn pump(mut running: Running, teller: &Teller, to: &Outbox, include_usage: bool) {
    let mut begun = vec![false; running.choices.len()];
    while let Some(delta) = running.next().await {
        let delta = match delta {
            Ok(delta) => delta,
            Err(error) => {
                to.send(event(&error.body()));
                break;
            }
        };
        let first = !std::mem::replace(&mut begun[delta.index], true);
        if first && teller.form == Form::Chat {
            let role = Message { role: Some("assistant"), content: Some(String::new()) };
            if !to.send(event(&teller.part(delta.index, None, Some(role)))) {
                return;
            }
        }
        let (finish_reason, stop_reason) =
            delta.end.map_or((None, None), |end| (Some(end.reason), end.stop));
        let logprobs = teller.logprobs(&delta.tokens);
        let (text, message) = match teller.form {
            Form::Completion => (Some(delta.text), None),
            Form::Chat => {
                let content = (!delta.text.is_empty() || logprobs.is_some()).then_some(delta.text);
                (None, Some(Message { role: None, content }))
            }
        };
        let mut part = teller.part(delta.index, text, message);
        if let Some(own) = part.choices.first_mut() {
            (own.logprobs, own.finish_reason, own.stop_reason) =
                (logprobs, finish_reason, stop_reason);
        }
        if !to.send(event(&part)) {
            return;
        }
    }
    if include_usage && !running.choices.iter().any(Choice::is_open) {
        let mut last = teller.chunk(Vec::new());
        last.usage = Some(running.usage());
        to.send(event(&last));
    }
    to.send(Bytes::from_static(b"data: [DONE]\n\n"));
}

fn event(of: &impl Serialize) -> Bytes {
    // JSON has no line ends of its own; what is told here can always be written.
    let json = serde_json::to_string(of).unwrap_or_default();
    Bytes::from(format!("data: {json}\n\n"))
}

impl Teller {
    fn answer(&self, choices: Vec<ChoiceAnswer>) -> Answer {
        let object = match self.form {
            Form::Completion => "text_completion",
            Form::Chat => "chat.completion",
        };
        self.told(object, choices)
    }

    fn chunk(&self, choices: Vec<ChoiceAnswer>) -> Answer {
        let object = match self.form {
            Form::Completion => "text_completion",
            Form::Chat => "chat.completion.chunk",
        };
        self.told(object, choices)
    }

    fn told(&self, object: &'static str, choices: Vec<ChoiceAnswer>) -> Answer {
        let (id, model) = (self.id.clone(), self.model.clone());
        Answer { id, object, created: self.created, model, choices, usage: None }
    }

    /// A part of one text.
    fn part(&self, index: usize, text: Option<String>, delta: Option<Message>) -> Answer {
        let own = ChoiceAnswer {
            index,
            text,
            message: None,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
        };
        self.chunk(vec![own])
    }
}
