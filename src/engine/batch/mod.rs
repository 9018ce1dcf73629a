//! Which tokens of which texts run next, and where their keys and values lie. Pure.
//!
//! Texts that make tokens go on with each step; prompts share what is left of a step, so that a long one does not
//! hold up short ones. A text that finds no block lets the youngest one start over later: nothing is lost, because
//! what is computed again is the same to the bit.

mod blocks;

use std::collections::VecDeque;
use std::sync::Arc;

use super::compute::BLOCK;
use blocks::{Blocks, Content};

/// A text's number.
pub type TextId = u64;

/// What holds for all texts.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Texts that run at a time.
    pub running: usize,
    /// Tokens of a step.
    pub step: usize,
}

/// A text that runs or waits.
#[derive(Debug)]
struct Text {
    id: TextId,
    tokens: Vec<u32>,
    /// Tokens whose keys and values are there.
    computed: usize,
    blocks: Vec<u32>,
    /// What its full blocks hold, as far as they were computed or found.
    contents: Vec<Content>,
    /// What its tokens are run with beside the model.
    with: Arc<str>,
    /// Whether every token must be run, even if what it leaves is there.
    whole: bool,
}

impl Text {
    /// Gives its blocks back: nothing of it is computed then.
    fn start_over(&mut self, blocks: &mut Blocks) {
        self.blocks.drain(..).for_each(|block| blocks.release(block));
        self.computed = 0;
        self.contents.clear();
    }
}

/// Tokens of one text in a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Whose.
    pub id: TextId,
    /// The place of the first.
    pub from: usize,
    /// Behind the last.
    pub to: usize,
    /// Whether the text has no more: what comes next is to be chosen.
    pub ends: bool,
}

/// All texts.
#[derive(Debug)]
pub struct Batch {
    blocks: Blocks,
    limits: BatchLimits,
    running: Vec<Text>,
    waiting: VecDeque<Text>,
    /// Tokens that were found rather than computed, and texts that had to start over.
    found: u64,
    again: u64,
}

impl Batch {
    /// Of so many blocks.
    pub fn new(blocks: usize, limits: BatchLimits) -> Self {
        let blocks = Blocks::new(blocks);
        Self { blocks, limits, running: Vec::new(), waiting: VecDeque::new(), found: 0, again: 0 }
    }

    /// Tokens of the longest text that there is room for.
    pub fn most_tokens(&self) -> usize {
        self.blocks.count() * BLOCK
    }

    /// Takes a text, which has a token and at most as many as there is room for.
    pub fn add(&mut self, id: TextId, tokens: Vec<u32>, with: Arc<str>, whole: bool) {
        let (computed, blocks, contents) = (0, Vec::new(), Vec::new());
        self.waiting.push_back(Text { id, tokens, computed, blocks, contents, with, whole });
    }

    /// A text ends: its places are free.
    pub fn remove(&mut self, id: TextId) {
        self.waiting.retain(|text| text.id != id);
        if let Some(at) = self.running.iter().position(|text| text.id == id) {
            let text = self.running.remove(at);
            text.blocks.iter().for_each(|block| self.blocks.release(*block));
        }
    }

    /// A text has one more token.
    pub fn push(&mut self, id: TextId, token: u32) {
        if let Some(text) = self.running.iter_mut().find(|text| text.id == id) {
            text.tokens.push(token);
        }
    }

    /// Texts that run, and that wait.
    pub fn counts(&self) -> (usize, usize) {
        (self.running.len(), self.waiting.len())
    }

    /// Tokens that were found rather than computed, and texts that had to start over.
    pub fn totals(&self) -> (u64, u64) {
        (self.found, self.again)
    }

    /// The part of the blocks that texts have.
    pub fn used(&self) -> f64 {
        1.0 - self.blocks.available() as f64 / self.blocks.count().max(1) as f64
    }

    /// The tokens and the blocks of a text.
    pub fn text(&self, id: TextId) -> Option<(&[u32], &[u32])> {
        let text = self.running.iter().find(|text| text.id == id)?;
        Some((&text.tokens, &text.blocks))
    }

    /// What runs next. Every slice has its blocks.
    pub fn next(&mut self) -> Vec<Slice> {
        self.admit();
        let mut left = self.limits.step;
        let mut slices = Vec::new();
        // Texts that make tokens.
        let ids: Vec<TextId> = self.running.iter().map(|text| text.id).collect();
        let mut prompts = Vec::new();
        for id in &ids {
            let Some(text) = self.running.iter().find(|text| text.id == *id) else { continue };
            if text.tokens.len() - text.computed > 1 {
                prompts.push(*id);
            } else if left > 0 && self.room(*id, 1) == 1 {
                left -= 1;
                slices.push(*id);
            }
        }
        let mut planned: Vec<(TextId, usize)> = slices.into_iter().map(|id| (id, 1)).collect();
        // Prompts share the rest: who needs less than its part leaves it to others.
        let mut needs: Vec<(TextId, usize)> = prompts
            .iter()
            .filter_map(|id| {
                let text = self.running.iter().find(|text| text.id == *id)?;
                Some((*id, text.tokens.len() - text.computed))
            })
            .collect();
        needs.sort_by_key(|(_, need)| *need);
        let mut parts = std::collections::HashMap::new();
        let mut others = needs.len();
        for (id, need) in &needs {
            let part = (left / others.max(1)).min(*need);
            parts.insert(*id, part);
            left -= part;
            others -= 1;
        }
        for id in prompts {
            let part = parts.get(&id).copied().unwrap_or(0);
            let room = self.room(id, part);
            if room > 0 {
                planned.push((id, room));
            }
        }
        // Whoever had to give way meanwhile has no part.
        let of = |(id, count): (TextId, usize)| {
            let text = self.running.iter().find(|text| text.id == id)?;
            let (from, to) = (text.computed, text.computed + count);
            let held = text.blocks.len() * BLOCK >= to;
            held.then_some(Slice { id, from, to, ends: to == text.tokens.len() })
        };
        planned.into_iter().filter_map(of).collect()
    }

    /// A slice was run.
    pub fn done(&mut self, slice: &Slice) {
        let Some(text) = self.running.iter_mut().find(|text| text.id == slice.id) else { return };
        text.computed = slice.to;
        let first = text.contents.len();
        for at in first..text.computed / BLOCK {
            let content = content(&text.with, text.contents.last(), &text.tokens, at);
            text.contents.push(content);
            if let Some(block) = text.blocks.get(at) {
                self.blocks.fill(*block, content);
            }
        }
    }

    /// All texts start over, and nothing that was computed is used again.
    pub fn restart(&mut self) {
        for mut text in std::mem::take(&mut self.running).into_iter().rev() {
            text.start_over(&mut self.blocks);
            self.waiting.push_front(text);
        }
        self.blocks.forget();
    }

    /// Lets texts run that wait, in order, as far as there is room for their prompts.
    fn admit(&mut self) {
        while self.running.len() < self.limits.running {
            let Some(mut text) = self.waiting.pop_front() else { return };
            if !text.whole {
                // The last token is always run: what comes after it is to be chosen.
                for at in 0..(text.tokens.len() - 1) / BLOCK {
                    let content = content(&text.with, text.contents.last(), &text.tokens, at);
                    let Some(block) = self.blocks.find(&content) else { break };
                    text.blocks.push(block);
                    text.contents.push(content);
                }
                text.computed = text.blocks.len() * BLOCK;
            }
            let needs = (text.tokens.len() + 1).div_ceil(BLOCK).saturating_sub(text.blocks.len());
            if needs > self.blocks.available() && !self.running.is_empty() {
                text.start_over(&mut self.blocks);
                self.waiting.push_front(text);
                return;
            }
            self.found += text.computed as u64;
            self.running.push(text);
        }
    }

    /// Makes room for up to `count` more tokens of a text; the youngest others give way. Says for how many.
    fn room(&mut self, id: TextId, count: usize) -> usize {
        loop {
            let Some(at) = self.running.iter().position(|text| text.id == id) else { return 0 };
            let Some(text) = self.running.get_mut(at) else { return 0 };
            let most = text.blocks.len() * BLOCK - text.computed;
            if most >= count {
                return count;
            }
            if let Some(block) = self.blocks.take() {
                text.blocks.push(block);
                continue;
            }
            // The youngest gives way, itself last of all.
            let last = self.running.len() - 1;
            if last == at {
                return most.min(count);
            }
            let mut young = self.running.remove(last);
            young.start_over(&mut self.blocks);
            self.again += 1;
            self.waiting.push_front(young);
        }
    }
}

/// What block `at` of a text holds, after the one before it.
fn content(with: &str, before: Option<&Content>, tokens: &[u32], at: usize) -> Content {
    let mut hasher = blake3::Hasher::new();
    match before {
        Some(before) => hasher.update(before),
        None => hasher.update(with.as_bytes()),
    };
    for token in tokens.iter().skip(at * BLOCK).take(BLOCK) {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
