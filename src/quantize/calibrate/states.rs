//! How far every run of tokens has come through a block: in memory up to a budget, in a file beyond it.

use std::cell::Cell;

use candle_core::{Tensor, TensorId};

use super::CalibrateError;
use crate::quantize::lm::{LmError, Passage, Spool};

const MISSING: LmError = LmError::Defect("there is no such batch");

/// Tokens of runs that go through a block together: enough for products to be worth their packing.
const TOGETHER: usize = 1024;

/// What goes through a block, by batches of runs of equal length.
pub(super) struct States {
    batches: Vec<Batch>,
    /// Bytes of memory that are left.
    room: usize,
    file: Option<Spool>,
    /// Where the file ends.
    end: u64,
}

struct Batch {
    /// Of each run.
    tokens: usize,
    /// The group of the block that comes next.
    group: usize,
    /// What goes on beside the group, and what is held for it.
    parts: [Part; 1 + Passage::HELD],
}

/// A tensor, here or in the file.
#[derive(Default)]
struct Part {
    here: Option<Tensor>,
    /// Its shape, where it lies in the file.
    there: Option<(usize, usize)>,
    /// Offset and bytes of the file that it may use.
    slot: Option<(u64, usize)>,
    /// What was read last: if it comes back, nothing is written. Most of what waits beside experts does.
    given: Cell<Option<TensorId>>,
}

impl States {
    /// Puts away what enters the first block, f32 `[tokens, hidden]` each, keeping `budget` bytes in memory.
    pub(super) fn new(
        runs: impl Iterator<Item = Result<Tensor, CalibrateError>>,
        budget: usize,
    ) -> Result<Self, CalibrateError> {
        let mut this = Self { batches: Vec::new(), room: budget, file: None, end: 0 };
        let mut waiting: Vec<Tensor> = Vec::new();
        for run in runs {
            let run = run?;
            let tokens = run.dim(0)?;
            let other = waiting.first().map_or(Ok(tokens), |first| first.dim(0))? != tokens;
            if other || (waiting.len() + 1) * tokens > TOGETHER {
                this.enter(&mut waiting)?;
            }
            waiting.push(run);
        }
        this.enter(&mut waiting)?;
        Ok(this)
    }

    fn enter(&mut self, waiting: &mut Vec<Tensor>) -> Result<(), CalibrateError> {
        let Some(first) = waiting.first() else { return Ok(()) };
        let (tokens, all) = (first.dim(0)?, Tensor::cat(waiting, 0)?);
        waiting.clear();
        self.batches.push(Batch { tokens, group: 0, parts: Default::default() });
        self.put(self.batches.len() - 1, Passage::enter(all))
    }

    /// How many batches there are.
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Tokens of each run of a batch.
    pub(super) fn tokens(&self, batch: usize) -> usize {
        self.batches.get(batch).map_or(0, |batch| batch.tokens)
    }

    /// How far a batch has come.
    pub(super) fn get(&self, batch: usize) -> Result<Passage, CalibrateError> {
        let Batch { group, parts: [rest, held @ ..], .. } =
            self.batches.get(batch).ok_or(MISSING)?;
        let rest = rest.read(self.file.as_ref())?.ok_or(MISSING)?;
        let held = held.iter().map_while(|part| part.read(self.file.as_ref()).transpose());
        Ok(Passage { group: *group, rest, held: held.collect::<Result<_, _>>()? })
    }

    /// Says how far a batch has come.
    pub(super) fn put(&mut self, batch: usize, passage: Passage) -> Result<(), CalibrateError> {
        let Batch { group, parts, .. } = self.batches.get_mut(batch).ok_or(MISSING)?;
        *group = passage.group;
        let mut tensors = std::iter::once(passage.rest).chain(passage.held);
        for part in parts.iter_mut() {
            let tensor = tensors.next();
            let given = part.given.take();
            if tensor.as_ref().is_some_and(|tensor| Some(tensor.id()) == given) {
                continue;
            }
            self.room += part.here.take().map_or(0, |tensor| bytes_of(&tensor));
            part.there = None;
            let Some(tensor) = tensor else { continue };
            let bytes = bytes_of(&tensor);
            if bytes <= self.room {
                self.room -= bytes;
                part.here = Some(tensor);
                continue;
            }
            let file = match self.file.take() {
                Some(file) => file,
                None => Spool::new()?,
            };
            let offset = match part.slot {
                Some((offset, room)) if bytes <= room => offset,
                _ => {
                    part.slot = Some((self.end, bytes));
                    self.end += bytes as u64;
                    self.end - bytes as u64
                }
            };
            let written = file.write(offset, &tensor);
            self.file = Some(file);
            written?;
            part.there = Some(tensor.dims2()?);
        }
        Ok(())
    }
}

impl Part {
    fn read(&self, file: Option<&Spool>) -> Result<Option<Tensor>, CalibrateError> {
        if let Some(here) = &self.here {
            return Ok(Some(here.clone()));
        }
        let (Some(shape), Some((offset, _)), Some(file)) = (self.there, self.slot, file) else {
            return Ok(None);
        };
        let read = file.read(offset, shape)?;
        self.given.set(Some(read.id()));
        Ok(Some(read))
    }
}

fn bytes_of(tensor: &Tensor) -> usize {
    tensor.elem_count() * 4
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn what_is_put_away_comes_back() {
        let one = |at: usize, rows: usize| {
            Tensor::full(at as f32 + 0.5, (rows, 4), &Device::Cpu).unwrap()
        };
        let values = |tensor: &Tensor| tensor.to_vec2::<f32>().unwrap();
        for budget in [0, 20_000, 100_000] {
            // Two of 512 together, two of 300, one of 512.
            let runs = [512, 512, 300, 300, 512].into_iter().enumerate();
            let runs = runs.map(|(at, tokens)| Ok(one(at, tokens)));
            let mut states = States::new(runs, budget).unwrap();
            assert_eq!((states.len(), states.file.is_some()), (3, budget < 40_000));
            assert_eq!([0, 1, 2].map(|batch| states.tokens(batch)), [512, 300, 512]);
            let whole = states.get(1).unwrap();
            assert_eq!((whole.group, whole.held.is_empty()), (0, true));
            let both = Tensor::cat(&[one(2, 300), one(3, 300)], 0).unwrap();
            assert_eq!(values(&whole.rest), values(&both));
            // Something is held beside it, then something larger, then nothing, then much.
            let much = vec![one(1, 600), one(2, 0), one(3, 1), one(4, 900)];
            for (group, held) in
                [(1, vec![one(7, 600)]), (2, vec![one(8, 900)]), (3, vec![]), (4, much)]
            {
                let passage = Passage { group, rest: one(9, 600), held: held.clone() };
                states.put(1, passage).unwrap();
                let back = states.get(1).unwrap();
                assert_eq!((back.group, values(&back.rest)), (group, values(&one(9, 600))));
                let all = |held: &[Tensor]| held.iter().map(values).collect::<Vec<_>>();
                assert_eq!(all(&back.held), all(&held));
                let other = states.get(2).unwrap();
                assert_eq!(values(&other.rest), values(&one(4, 512)));
                // What comes back as it was given stays.
                states.put(1, states.get(1).unwrap()).unwrap();
                assert_eq!(all(&states.get(1).unwrap().held), all(&held));
                // What grows leaves alone what lies behind it.
                let own: Vec<_> = (group > 1).then(|| values(&one(6, 512))).into_iter().collect();
                assert_eq!(all(&other.held), own);
                let held = vec![one(6, 512)];
                states.put(2, Passage { group: 1, rest: one(4, 512), held }).unwrap();
            }
            assert!(states.get(3).is_err());
        }
    }
}
