//! The thread that runs the model: step after step, each with what is wanted by then.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, PoisonError};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::shared::Shared;
use crate::engine::batch::{Batch, Slice, TextId};
use crate::engine::compute::{Cache, States};
use crate::engine::model::{Adapter, Kept, Model, ModelError, Token};
use crate::engine::request::{Event, Finish, Request, Scored};
use crate::engine::sample::{Sampler, score};

/// What the thread is told.
pub(super) enum Command {
    /// A text to go on with.
    Text(Box<Asked>),
    /// Another model.
    Swap(Box<Model>, oneshot::Sender<()>),
    /// What the model keeps.
    Kept(oneshot::Sender<Kept>),
}

/// A request that was checked.
pub(super) struct Asked {
    pub(super) id: TextId,
    pub(super) request: Request,
    pub(super) sampler: Sampler,
    pub(super) adapter: Option<Arc<Adapter>>,
    pub(super) events: UnboundedSender<Event>,
    /// Tokens that it may still get.
    pub(super) left: usize,
}

/// A text on its way.
struct Text {
    asked: Asked,
    /// The prompt's tokens, scored so far, if that was asked.
    scored: Vec<Scored>,
}

/// The thread's own.
pub(super) struct Work {
    model: Model,
    cache: Cache,
    batch: Batch,
    texts: HashMap<TextId, Text>,
    asked: Receiver<Command>,
    shared: Arc<Shared>,
    /// The model that comes when all texts have ended, and what waits for it.
    next: Option<(Box<Model>, oneshot::Sender<()>)>,
    held: Vec<Asked>,
}

impl Work {
    pub(super) fn new(
        model: Model,
        batch: Batch,
        asked: Receiver<Command>,
        shared: Arc<Shared>,
    ) -> Self {
        let cache = model.cache(batch.most_tokens() / crate::engine::compute::BLOCK);
        let (texts, held) = (HashMap::new(), Vec::new());
        Self { model, cache, batch, texts, asked, shared, next: None, held }
    }

    /// Runs until nobody can ask any more.
    pub(super) fn run(mut self) {
        while self.listen() {
            self.forget_who_left();
            self.change_model();
            let slices = self.batch.next();
            if !slices.is_empty()
                && let Err(error) = self.step(&slices)
            {
                return self.fail(&error);
            }
            self.tell();
        }
    }

    /// Takes what was asked; waits for it where nothing is to be done. Whether to go on.
    fn listen(&mut self) -> bool {
        loop {
            let command = if self.texts.is_empty() && self.next.is_none() {
                match self.asked.recv() {
                    Ok(command) => command,
                    Err(_) => return false,
                }
            } else {
                match self.asked.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            };
            match command {
                Command::Text(asked) if self.next.is_some() => self.held.push(*asked),
                Command::Text(asked) => self.begin(*asked),
                Command::Swap(model, told) => self.next = Some((model, told)),
                Command::Kept(told) => drop(told.send(self.model.kept())),
            }
        }
    }

    fn begin(&mut self, asked: Asked) {
        if asked.left == 0 && asked.request.prompt_logprobs.is_none() {
            // Nobody listening is no matter.
            drop(asked.events.send(Event::End(Finish::Length)));
            return;
        }
        let with: Arc<str> = Arc::from(asked.request.adapter.as_deref().unwrap_or(""));
        let whole = asked.request.prompt_logprobs.is_some();
        self.batch.add(asked.id, asked.request.prompt.clone(), with, whole);
        self.texts.insert(asked.id, Text { asked, scored: Vec::new() });
    }

    fn forget_who_left(&mut self) {
        let gone: Vec<TextId> = self
            .texts
            .iter()
            .filter(|(_, text)| text.asked.events.is_closed())
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.end(id);
        }
    }

    fn end(&mut self, id: TextId) {
        self.texts.remove(&id);
        self.batch.remove(id);
    }

    /// Changes the model where one waits and no text runs on the old one.
    fn change_model(&mut self) {
        if !self.texts.is_empty() {
            return;
        }
        let Some((model, told)) = self.next.take() else { return };
        self.model = *model;
        self.batch.restart();
        // Whoever asked may have left.
        told.send(()).unwrap_or_default();
        for asked in std::mem::take(&mut self.held) {
            self.begin(asked);
        }
    }

    fn step(&mut self, slices: &[Slice]) -> Result<(), ModelError> {
        let mut tokens = Vec::new();
        for slice in slices {
            let (Some((own, blocks)), Some(text)) =
                (self.batch.text(slice.id), self.texts.get(&slice.id))
            else {
                continue;
            };
            let scored = text.asked.request.prompt_logprobs.is_some();
            let prompt = text.asked.request.prompt.len();
            for at in slice.from..slice.to {
                tokens.push(Token {
                    token: own.get(at).copied().unwrap_or(0),
                    position: at,
                    blocks,
                    adapter: text.asked.adapter.clone(),
                    wanted: at + 1 == own.len() || scored && at + 1 < prompt,
                });
            }
        }
        let logits = self.model.step(&tokens, &mut self.cache)?;
        let mut row = 0;
        for slice in slices {
            row += self.take(slice, &logits, row);
        }
        Ok(())
    }

    /// What the logits from `row` on say of a text's slice; how many rows were its own.
    fn take(&mut self, slice: &Slice, logits: &States, row: usize) -> usize {
        self.batch.done(slice);
        let Some(text) = self.texts.get_mut(&slice.id) else { return 0 };
        let prompt = &text.asked.request.prompt;
        let mut rows = 0;
        if let Some(count) = text.asked.request.prompt_logprobs {
            for at in slice.from..slice.to.min(prompt.len() - 1) {
                // One that starts over is scored once.
                if at == text.scored.len()
                    && let Some(next) = prompt.get(at + 1)
                {
                    text.scored.push(score(logits.row(row + rows), *next, count));
                }
                rows += 1;
            }
        }
        self.shared.prompt_tokens.fetch_add(
            slice.to.min(prompt.len()).saturating_sub(slice.from) as u64,
            Ordering::Relaxed,
        );
        if !slice.ends {
            return rows;
        }
        if text.asked.request.prompt_logprobs.take().is_some() {
            let scored = std::mem::take(&mut text.scored);
            drop(text.asked.events.send(Event::Prompt(scored)));
        }
        if text.asked.left == 0 {
            drop(text.asked.events.send(Event::End(Finish::Length)));
            self.end(slice.id);
            return rows + 1;
        }
        let chosen = text.asked.sampler.next(logits.row(row + rows));
        rows += 1;
        match chosen {
            Err(error) => {
                drop(text.asked.events.send(Event::Failed(error.to_string())));
                self.end(slice.id);
            }
            Ok((scored, finish)) => {
                self.shared.tokens.fetch_add(1, Ordering::Relaxed);
                text.asked.left -= 1;
                let token = scored.own.token;
                let told = text.asked.events.send(Event::Token(scored));
                let finish = finish.or((text.asked.left == 0).then_some(Finish::Length));
                if let Some(finish) = finish {
                    drop(text.asked.events.send(Event::End(finish)));
                }
                if finish.is_some() || told.is_err() {
                    self.end(slice.id);
                } else {
                    self.batch.push(slice.id, token);
                }
            }
        }
        rows
    }

    /// Counts for whoever looks.
    fn tell(&self) {
        let (running, waiting) = self.batch.counts();
        let (found, again) = self.batch.totals();
        let shared = &self.shared;
        shared.running.store(running as u64, Ordering::Relaxed);
        shared.waiting.store((waiting + self.held.len()) as u64, Ordering::Relaxed);
        shared.found_tokens.store(found, Ordering::Relaxed);
        shared.again.store(again, Ordering::Relaxed);
        shared.used.store((self.batch.used() * 1000.0) as u64, Ordering::Relaxed);
    }

    /// The weights cannot be had, or are not what was signed: nobody gets anything more.
    fn fail(mut self, error: &ModelError) {
        *self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        let told = error.to_string();
        for (_, text) in self.texts.drain() {
            drop(text.asked.events.send(Event::Failed(told.clone())));
        }
        for asked in std::mem::take(&mut self.held) {
            drop(asked.events.send(Event::Failed(told.clone())));
        }
        while let Ok(command) = self.asked.try_recv() {
            if let Command::Text(asked) = command {
                drop(asked.events.send(Event::Failed(told.clone())));
            }
        }
    }
}
