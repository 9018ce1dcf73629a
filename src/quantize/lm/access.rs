//! What those who calibrate see of a block: its linear layers, which of them share an input, and what gives it.

use super::block::{Block, Stage};
use super::linear::Linear;
use super::norm::Norm;

/// What gives layers their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Giver {
    /// A norm, by [`Block::norm_mut`].
    Norm(usize),
    /// The rows of a linear layer, by its place, through nothing but products and sums of columns of equal
    /// place.
    Rows(usize),
}

impl Block {
    /// Which of its [linear layers](Self::linears) share an input, in the order in which they run.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    /// Which expert a group is of, if it is of one that not all tokens go to.
    pub fn expert(&self, group: usize) -> Option<usize> {
        match self.stages.get(group)? {
            Stage::Up(expert) | Stage::Down(expert) => *expert,
            _ => None,
        }
    }

    /// Which of its [linear layers](Self::linears) engines fuse: those of a group, and those of all experts.
    pub fn ties(&self) -> Vec<Vec<usize>> {
        let mut ties: Vec<Vec<usize>> = Vec::new();
        let mut experts: Option<usize> = None;
        for (number, group) in self.groups.iter().enumerate() {
            match (self.expert(number), experts.and_then(|at| ties.get_mut(at))) {
                (Some(_), Some(tie)) => tie.extend(group),
                (own, _) => {
                    experts = own.map(|_| ties.len()).or(experts);
                    ties.push(group.clone());
                }
            }
        }
        ties
    }

    /// What gives each of the [groups](Self::groups) its input and can give it scaled; `None` for an input
    /// that nothing can give so, and for a block of which that holds for all.
    pub fn givers(&self) -> Option<Vec<Option<Giver>>> {
        let shared = self.parallel && self.norms.mlp.is_none();
        // What a norm gives may be read by nothing else.
        let norm = |norm: &Option<Norm>, at: usize| {
            norm.as_ref().filter(|norm| norm.weight.is_some() && !shared).map(|_| Giver::Norm(at))
        };
        let rows = |group: &[usize], of: usize| group.get(of).copied().map(Giver::Rows);
        let of = |(at, stage): (usize, &Stage)| match stage {
            Stage::Heads | Stage::LatentDown => norm(&self.norms.attention, 0),
            Stage::Out => {
                let [_, _, v] = self.groups.get(at.checked_sub(1)?)?.as_slice() else {
                    return None;
                };
                let o = self.group(at).next()?;
                // With fewer heads of v than of q, several columns of o read one row of v.
                let equal = self.linears.get(*v)?.weight.dims().first() == o.weight.dims().last();
                (equal && self.attention.clip.is_none()).then_some(Giver::Rows(*v))
            }
            Stage::Up(None) if self.experts.is_none() => norm(&self.norms.mlp, 1),
            // Only the gate goes through more than a product.
            Stage::Down(_) | Stage::SharedDown => {
                let before = self.groups.get(at.checked_sub(1)?)?;
                let limited = self.experts.as_ref().is_some_and(|own| own.gating.limit.is_some());
                (before.len() == 2 && !limited).then(|| rows(before, 1)).flatten()
            }
            _ => None,
        };
        let found: Vec<Option<Giver>> = self.stages.iter().enumerate().map(of).collect();
        found.iter().any(|giver| matches!(giver, Some(Giver::Norm(_)))).then_some(found)
    }

    /// The norm before attention (0) or before the MLP (1).
    pub fn norm_mut(&mut self, which: usize) -> Option<&mut Norm> {
        match which {
            0 => self.norms.attention.as_mut(),
            _ => self.norms.mlp.as_mut(),
        }
    }

    /// Whether a linear layer gives q or k, of which scores are made.
    pub fn makes_scores(&self, at: usize) -> bool {
        let of = |(stage, group): (&Stage, &Vec<usize>)| match stage {
            Stage::Heads => group.iter().take(2).any(|own| *own == at),
            Stage::LatentDown | Stage::LatentQ | Stage::LatentKv => group.contains(&at),
            _ => false,
        };
        self.stages.iter().zip(&self.groups).any(of)
    }

    /// The names of some of its linear layers.
    pub fn named(&self, which: &[usize]) -> Vec<String> {
        let linears = which.iter().filter_map(|at| self.linears.get(*at));
        linears.map(|linear| linear.name.clone()).collect()
    }

    /// Its linear layers, in the order in which they run.
    pub fn linears(&self) -> Vec<&Linear> {
        self.linears.iter().collect()
    }

    /// The same, to put other weights in.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        self.linears.iter_mut().collect()
    }
}
