//! Blocks of keys and values: who has them, and what is in those that nobody has at the moment. Pure.

use std::collections::{BTreeMap, HashMap};

/// What a block holds: its tokens, all those before, and what they were run with.
pub(super) type Content = [u8; 32];

/// Whose blocks are whose.
#[derive(Debug)]
pub(super) struct Blocks {
    free: Vec<u32>,
    blocks: Vec<Held>,
    /// Blocks that hold something, by what.
    known: HashMap<Content, u32>,
    /// Those of them that nobody has, the longest unused first.
    idle: BTreeMap<u64, u32>,
    clock: u64,
}

#[derive(Debug, Clone, Default)]
struct Held {
    owners: u32,
    content: Option<Content>,
    /// Its key among the idle.
    since: u64,
}

impl Blocks {
    pub(super) fn new(count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            free: (0..count).rev().collect(),
            blocks: vec![Held::default(); count as usize],
            known: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that can be had.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// A block, whatever it held.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.idle.pop_first()?;
                let held = self.blocks.get_mut(block as usize)?;
                if let Some(content) = held.content.take() {
                    self.known.remove(&content);
                }
                block
            }
        };
        self.blocks.get_mut(block as usize)?.owners = 1;
        Some(block)
    }

    /// The block that holds this, for one more owner.
    pub(super) fn find(&mut self, content: &Content) -> Option<u32> {
        let block = *self.known.get(content)?;
        let held = self.blocks.get_mut(block as usize)?;
        if held.owners == 0 {
            self.idle.remove(&held.since);
        }
        held.owners += 1;
        Some(block)
    }

    /// A block is full, and holds this from now on. Another may hold the same: that one is found.
    pub(super) fn fill(&mut self, block: u32, content: Content) {
        let Some(held) = self.blocks.get_mut(block as usize) else { return };
        if held.content.is_none() && !self.known.contains_key(&content) {
            held.content = Some(content);
            self.known.insert(content, block);
        }
    }

    /// An owner gives a block back.
    pub(super) fn release(&mut self, block: u32) {
        let Some(held) = self.blocks.get_mut(block as usize) else { return };
        held.owners = held.owners.saturating_sub(1);
        if held.owners > 0 {
            return;
        }
        if held.content.is_some() {
            self.clock += 1;
            held.since = self.clock;
            self.idle.insert(self.clock, block);
        } else {
            self.free.push(block);
        }
    }

    /// Nothing that blocks hold counts any more: other weights made it.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        for held in &mut self.blocks {
            held.content = None;
        }
        self.free.extend(std::mem::take(&mut self.idle).into_values());
    }

    #[cfg(test)]
    pub(super) fn owners(&self, block: u32) -> u32 {
        self.blocks[block as usize].owners
    }
}
