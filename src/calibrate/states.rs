//! The hidden states of every run, in memory up to a budget, in a file beyond it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use candle_core::{Device, Tensor};

use super::CalibrateError;

/// Hidden states by run.
pub(super) struct States {
    held: Vec<Held>,
    file: Option<File>,
}

enum Held {
    Here(Tensor),
    /// Offset and shape in the file.
    There(u64, (usize, usize)),
}

impl States {
    /// Puts away what `states` gives, f32 `[tokens, hidden]` each, keeping `budget` bytes of it in memory.
    pub(super) fn new(
        states: impl Iterator<Item = Result<Tensor, CalibrateError>>,
        budget: usize,
    ) -> Result<Self, CalibrateError> {
        let mut this = Self { held: Vec::new(), file: None };
        let (mut room, mut end) = (budget, 0);
        for state in states {
            let state = state?;
            let (tokens, hidden) = state.dims2()?;
            let bytes = tokens * hidden * 4;
            if bytes <= room {
                room -= bytes;
                this.held.push(Held::Here(state));
                continue;
            }
            if this.file.is_none() {
                this.file = Some(unnamed().map_err(|source| CalibrateError::Spool { source })?);
            }
            this.held.push(Held::There(end, (tokens, hidden)));
            end += bytes as u64;
            this.put(this.held.len() - 1, state)?;
        }
        Ok(this)
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The states of run `index`.
    pub(super) fn get(&self, index: usize) -> Result<Tensor, CalibrateError> {
        match (self.held.get(index), &self.file) {
            (Some(Held::Here(state)), _) => Ok(state.clone()),
            (Some(Held::There(offset, (tokens, hidden))), Some(file)) => {
                let mut bytes = vec![0; tokens * hidden * 4];
                let read = file.read_exact_at(&mut bytes, *offset);
                read.map_err(|source| CalibrateError::Spool { source })?;
                let words = bytes.as_chunks::<4>().0.iter();
                let values: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
                Ok(Tensor::from_vec(values, (*tokens, *hidden), &Device::Cpu)?)
            }
            _ => Err(CalibrateError::Method(format!("there is no run {index}"))),
        }
    }

    /// Replaces the states of run `index` by others of the same shape.
    pub(super) fn put(&mut self, index: usize, state: Tensor) -> Result<(), CalibrateError> {
        match (self.held.get_mut(index), &self.file) {
            (Some(Held::Here(held)), _) => *held = state,
            (Some(Held::There(offset, _)), Some(file)) => {
                let values: Vec<f32> = state.flatten_all()?.to_vec1()?;
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let written = file.write_all_at(&bytes, *offset);
                written.map_err(|source| CalibrateError::Spool { source })?;
            }
            _ => return Err(CalibrateError::Method(format!("there is no run {index}"))),
        }
        Ok(())
    }
}

/// A file that no name leads to: it goes when it is closed, however the process ends.
pub(crate) fn unnamed() -> io::Result<File> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let name = format!("tenpak-states-{:016x}", u64::from_le_bytes(random));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_away_comes_back() {
        let one = |at: usize| Tensor::full(at as f32 + 0.5, (3, 4), &Device::Cpu).unwrap();
        for budget in [0, 100, 1000] {
            let mut states = States::new((0..5).map(|at| Ok(one(at))), budget).unwrap();
            assert_eq!((states.len(), states.file.is_some()), (5, budget < 240));
            let values = |states: &States, at| states.get(at).unwrap().to_vec2::<f32>().unwrap();
            for at in 0..5 {
                assert_eq!(values(&states, at), one(at).to_vec2::<f32>().unwrap());
            }
            states.put(4, one(9)).unwrap();
            assert_eq!(values(&states, 4), one(9).to_vec2::<f32>().unwrap());
            assert_eq!(values(&states, 3), one(3).to_vec2::<f32>().unwrap());
            assert!(states.get(5).is_err());
        }
    }
}
