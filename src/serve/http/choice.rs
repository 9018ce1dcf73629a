//! One text of an answer: from what the engine sends to what a client is told.
//!
//! Streamed or not, an answer is made of the same parts, so that both say the same.

use std::collections::HashSet;
use std::task::{Context, Poll};

use super::error::ApiError;
use super::metrics::Counted;
use super::response::StopReason;
use crate::engine::text::{Detokenizer, StopStrings};
use crate::engine::{Event, Events, Finish, Likely, Scored};

/// A token as it is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) token: u32,
    /// None for a prompt's first.
    pub(crate) logprob: Option<f32>,
    pub(crate) top: Vec<Likely>,
    /// Characters of the text before it.
    pub(crate) offset: usize,
}

/// Why a text ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) reason: &'static str,
    pub(crate) stop: Option<StopReason>,
}

/// A part of a text.
#[derive(Debug)]
pub(crate) struct Delta {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Told>,
    pub(crate) end: Option<End>,
}

/// What a text begins with, and what ends it.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The prompt, if the text begins with it.
    pub(crate) echo: Option<(String, Vec<u32>)>,
    /// Whether the prompt's tokens are told too; the engine then sends them first.
    pub(crate) prompt_scores: bool,
    /// Whether the text is the prompt alone.
    pub(crate) only_prompt: bool,
    pub(crate) stops: Vec<String>,
    pub(crate) include_stop: bool,
    /// Tokens that end the text: the model's own, and those that were named.
    pub(crate) ends: HashSet<u32>,
    pub(crate) named_ends: Vec<u32>,
    pub(crate) min_tokens: usize,
    /// Whether tokens are told.
    pub(crate) scores: bool,
}

/// One text while it is made.
#[derive(Debug)]
pub(crate) struct Choice {
    index: usize,
    events: Option<Events>,
    rules: Rules,
    text: Detokenizer,
    stops: StopStrings,
    counted: Option<Counted>,
    made: usize,
    offset: usize,
    last: Option<u32>,
    /// Told with the next text.
    tokens: Vec<Told>,
}

impl Choice {
    /// Without events a text is its prompt.
    pub(crate) fn new(
        index: usize,
        events: Option<Events>,
        rules: Rules,
        text: Detokenizer,
        counted: Counted,
    ) -> Self {
        let stops = StopStrings::new(&rules.stops, rules.include_stop);
        Self {
            index,
            events,
            text,
            stops,
            counted: Some(counted),
            made: 0,
            offset: 0,
            last: None,
            tokens: Vec::new(),
            rules,
        }
    }

    pub(crate) fn made(&self) -> usize {
        self.made
    }

    pub(crate) fn is_open(&self) -> bool {
        self.events.is_some()
    }

    /// What is told before anything is made.
    pub(crate) fn begin(&mut self) -> Option<Delta> {
        if self.rules.prompt_scores {
            return None;
        }
        let echo = self.rules.echo.take().map(|(text, _)| text);
        if self.events.is_none() {
            let end = self.close("length", None);
            return Some(self.delta(echo.unwrap_or_default(), Some(end)));
        }
        let echo = echo?;
        self.offset = echo.chars().count();
        Some(self.delta(echo, None))
    }

    /// Waits for the engine.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        match &mut self.events {
            Some(events) => events.poll_recv(context),
            None => Poll::Pending,
        }
    }

    /// What comes of one event. `pieces` gives a token's text.
    pub(crate) fn take(
        &mut self,
        event: Option<Event>,
        characters: impl Fn(u32) -> usize,
    ) -> Result<Option<Delta>, ApiError> {
        match event {
            Some(Event::Prompt(scored)) => Ok(self.prompt(&scored, characters)),
            Some(Event::Token(scored)) => Ok(self.token(scored)),
            Some(Event::End(finish)) => Ok(Some(self.end(finish))),
            Some(Event::Failed(told)) => {
                self.events = None;
                Err(ApiError::failed(told))
            }
            None => {
                self.events = None;
                Err(ApiError::failed("the engine ended before the text did"))
            }
        }
    }

    fn prompt(&mut self, scored: &[Scored], characters: impl Fn(u32) -> usize) -> Option<Delta> {
        let (text, prompt) = self.rules.echo.take()?;
        let mut offset = 0;
        for (at, token) in prompt.iter().enumerate() {
            let own = at.checked_sub(1).and_then(|before| scored.get(before));
            let told = Told {
                token: *token,
                logprob: own.map(|own| own.own.logprob),
                top: own.map(|own| own.top.clone()).unwrap_or_default(),
                offset,
            };
            offset += characters(*token);
            self.tokens.push(told);
        }
        self.offset = text.chars().count();
        let end = self.rules.only_prompt.then(|| self.close("length", None));
        Some(self.delta(text, end))
    }

    fn token(&mut self, scored: Scored) -> Option<Delta> {
        if self.rules.only_prompt {
            let end = self.close("length", None);
            return Some(self.delta(String::new(), Some(end)));
        }
        self.made += 1;
        if let Some(counted) = &mut self.counted {
            counted.token();
        }
        let token = scored.own.token;
        self.last = Some(token);
        if self.rules.scores {
            let (own, top) = (scored.own, scored.top);
            self.tokens.push(Told { token, logprob: Some(own.logprob), top, offset: self.offset });
        }
        let hidden = self.rules.ends.contains(&token) && !self.rules.include_stop;
        let text = if hidden { String::new() } else { self.text.push(token) };
        self.offset += text.chars().count();
        self.pass(&text, None)
    }

    /// Hands text on through the stop strings.
    fn pass(&mut self, text: &str, finish: Option<End>) -> Option<Delta> {
        let mut told = String::new();
        if self.made <= self.rules.min_tokens && finish.is_none() {
            told = self.stops.pass(text);
        } else {
            let passed = self.stops.push(text);
            told.push_str(&passed.text);
            if let Some(which) = passed.stop {
                let stop = self.rules.stops.get(which).cloned().map(StopReason::Text);
                let end = self.close("stop", stop);
                return Some(self.delta(told, Some(end)));
            }
        }
        if let Some(end) = finish {
            told.push_str(&self.stops.finish());
            let end = self.close(end.reason, end.stop);
            return Some(self.delta(told, Some(end)));
        }
        (!told.is_empty()).then(|| self.delta(told, None))
    }

    fn end(&mut self, finish: Finish) -> Delta {
        let reason = match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        let named =
            self.last.filter(|last| finish == Finish::Stop && self.rules.named_ends.contains(last));
        let end = End { reason, stop: named.map(StopReason::Token) };
        let rest = self.text.finish();
        match self.pass(&rest, Some(end.clone())) {
            Some(delta) => delta,
            None => self.delta(String::new(), Some(end)),
        }
    }

    /// Ends the text; the engine is told by the events that are dropped.
    fn close(&mut self, reason: &'static str, stop: Option<StopReason>) -> End {
        self.events = None;
        if let Some(mut counted) = self.counted.take() {
            counted.end(reason);
        }
        End { reason, stop }
    }

    fn delta(&mut self, text: String, end: Option<End>) -> Delta {
        Delta { index: self.index, text, tokens: std::mem::take(&mut self.tokens), end }
    }
}
