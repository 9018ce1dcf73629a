//! What those who calibrate see of a block: its linear layers, which of them share an input, and what gives it.

use super::activation::Activation;
use super::block::{Block, Gating, Stage};
use super::family::Order;
use super::linear::Linear;
use super::norm::Norm;

/// What gives layers their input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Giver {
    /// A norm, by [`Block::norm_mut`].
    Norm(usize),
    /// Rows of a linear layer, by its place: for each column of the input the row that gives it, through nothing but
    /// products with what does not depend on it, sums, and a ReLU.
    Rows(usize, Vec<usize>),
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

    /// The group before one that reads the very same input: an MLP beside attention that has no norm of its own reads
    /// what q, k and v do.
    pub fn shares(&self, group: usize) -> Option<usize> {
        let has_own = self.norms.mlp.is_some() || self.experts.is_some();
        let is_beside = self.stages.get(group) == Some(&Stage::Up(None));
        match self.parallel && !has_own && is_beside {
            true => self.stages.iter().position(|stage| *stage == Stage::Heads),
            false => None,
        }
    }

    /// What gives each of the [groups](Self::groups) its input and can give it scaled; `None` for an input
    /// that nothing can give so, and for a block of which that holds for all.
    pub fn givers(&self) -> Option<Vec<Option<Giver>>> {
        let found: Vec<Option<Giver>> = (0..self.stages.len()).map(|at| self.giver(at)).collect();
        found.iter().any(Option::is_some).then_some(found)
    }

    fn giver(&self, at: usize) -> Option<Giver> {
        let norm = |norm: Option<&Norm>, at: usize| {
            norm.filter(|norm| norm.weight.is_some()).map(|_| Giver::Norm(at))
        };
        let latent = self.latent.as_ref();
        let before = || self.groups.get(at.checked_sub(1)?).map(Vec::as_slice);
        match self.stages.get(at)? {
            // A norm gives experts' router its input, too, which is not scaled.
            Stage::Heads | Stage::LatentDown
                if self.parallel && self.norms.mlp.is_none() && self.experts.is_some() =>
            {
                None
            }
            Stage::Heads | Stage::LatentDown => norm(self.norms.attention.as_ref(), 0),
            Stage::LatentQ => norm(latent.and_then(|own| own.q_norm.as_ref()), 2),
            Stage::LatentKv => norm(latent.map(|own| &own.kv_norm), 3),
            Stage::Out => self.rows_of_v(before()?, self.columns(at).ok()?),
            Stage::Up(None) if self.shares(at).is_none() => norm(self.norms.mlp.as_ref(), 1),
            Stage::Down(expert) => {
                let gating = self.experts.as_ref().filter(|_| expert.is_some());
                rows_of_up(
                    before()?,
                    gating.map_or(self.gating, |own| own.gating),
                    self.columns(at).ok()?,
                )
            }
            Stage::SharedDown => {
                rows_of_up(before()?, self.experts.as_ref()?.shared, self.columns(at).ok()?)
            }
            Stage::Up(_) | Stage::SharedUp => None,
        }
    }

    /// The rows of v that give the columns of o. With fewer heads of v than of q, several columns read one row.
    fn rows_of_v(&self, before: &[usize], columns: usize) -> Option<Giver> {
        let own = &self.attention;
        if own.clip.is_some() {
            return None;
        }
        let (heads, wide) = (own.heads, own.value_dim);
        // Of each head, where its rows begin; k and v are made together of few dimensions, for each head.
        let begin = |head: usize| match (before, &self.latent) {
            ([_], Some(latent)) => Some(head * (latent.plain + wide) + latent.plain),
            _ if own.kv_heads != heads => None,
            ([_, _, _], None) => Some(head * wide),
            ([_], None) if self.order == Order::Concat => {
                Some(2 * heads * own.head_dim + head * wide)
            }
            ([_], None) => Some((3 * head + 2) * wide),
            _ => None,
        };
        let mut rows = Vec::with_capacity(columns);
        for head in 0..heads {
            let first = begin(head)?;
            rows.extend(first..first + wide);
        }
        (rows.len() == columns).then_some(Giver::Rows(*before.last()?, rows))
    }

    /// The norm before attention (0) or before the MLP (1), or of the few dimensions that q (2) or k and v (3) are made
    /// of.
    pub fn norm_mut(&mut self, which: usize) -> Option<&mut Norm> {
        match which {
            0 => self.norms.attention.as_mut(),
            1 => self.norms.mlp.as_mut(),
            2 => self.latent.as_mut().and_then(|own| own.q_norm.as_mut()),
            _ => self.latent.as_mut().map(|own| &mut own.kv_norm),
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

/// The rows of up that give the columns of down: only the gate goes through more than a product, and a ReLU keeps
/// what it is multiplied by.
fn rows_of_up(before: &[usize], gating: Gating, columns: usize) -> Option<Giver> {
    match before {
        _ if gating.limit.is_some() => None,
        [_, up] => Some(Giver::Rows(*up, (0..columns).collect())),
        [both] if gating.fused => Some(Giver::Rows(*both, (columns..2 * columns).collect())),
        [up] if gating.activation == Activation::Relu => {
            Some(Giver::Rows(*up, (0..columns).collect()))
        }
        _ => None,
    }
}
