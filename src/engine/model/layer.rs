//! A layer of a model: its weights, and what they do to states.

use std::sync::Arc;

use super::adapter::Adapter;
use super::place::{Part, Place};
use crate::engine::compute::{
    Cache, Manner, Matrix, Sight, States, Turns, add, add_bias, attend, gated, product, rms_norm,
};

/// A linear layer.
#[derive(Debug)]
pub(super) struct Linear {
    pub(super) weight: Arc<Matrix>,
    pub(super) bias: Option<Vec<f32>>,
}

/// Norm, attention, residual; norm, gated MLP, residual.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) input_norm: Vec<f32>,
    pub(super) post_norm: Vec<f32>,
    /// Norms on the heads of q and k.
    pub(super) head_norms: Option<[Vec<f32>; 2]>,
    /// In the order of [`Part::ALL`].
    pub(super) linears: [Linear; 7],
}

impl Layer {
    /// Bytes of its weights.
    pub(super) fn bytes(&self) -> usize {
        self.linears.iter().map(|linear| linear.weight.bytes()).sum()
    }
}

/// What one step runs over: its states, where each stands, what it sees.
pub(super) struct Step<'a> {
    pub(super) turns: Turns,
    pub(super) sights: Vec<Sight<'a>>,
    /// Where each state's keys and values go.
    pub(super) places: Vec<(u32, usize)>,
    /// The adapter of each state.
    pub(super) adapters: Vec<Option<Arc<Adapter>>>,
    pub(super) epsilon: f64,
}

/// Room that layers use one after the other.
#[derive(Debug, Default)]
pub(super) struct Room {
    normed: States,
    q: States,
    k: States,
    v: States,
    attended: States,
    out: States,
    gate: States,
    up: States,
}

impl Linear {
    /// What comes of `x`, with the adapters of the states.
    fn apply(&self, x: &States, step: &Step<'_>, place: Place, out: &mut States) {
        out.reshape(x.len(), self.weight.rows());
        product(&self.weight, x, out);
        if let Some(bias) = &self.bias {
            add_bias(out, bias);
        }
        Adapter::apply(&step.adapters, place, x, out);
    }
}

impl Layer {
    /// Runs layer `index` on `states`.
    pub(super) fn run(
        &self,
        index: usize,
        manner: Manner,
        step: &Step<'_>,
        cache: &mut Cache,
        states: &mut States,
        room: &mut Room,
    ) {
        let [q, k, v, o, gate, up, down] = &self.linears;
        let at = |part| Place { layer: index, part };
        copy(states, &mut room.normed);
        rms_norm(&mut room.normed, &self.input_norm, step.epsilon);
        q.apply(&room.normed, step, at(Part::Q), &mut room.q);
        k.apply(&room.normed, step, at(Part::K), &mut room.k);
        v.apply(&room.normed, step, at(Part::V), &mut room.v);
        if let Some([of_q, of_k]) = &self.head_norms {
            rms_norm(&mut room.q, of_q, step.epsilon);
            rms_norm(&mut room.k, of_k, step.epsilon);
        }
        step.turns.apply(&mut room.q);
        step.turns.apply(&mut room.k);
        for (row, place) in step.places.iter().enumerate() {
            cache.put(index, *place, row, [&room.k, &room.v]);
        }
        room.attended.reshape(states.len(), room.q.width());
        attend(cache, manner, &room.q, &step.sights, &mut room.attended);
        o.apply(&room.attended, step, at(Part::O), &mut room.out);
        add(states, &room.out);
        copy(states, &mut room.normed);
        rms_norm(&mut room.normed, &self.post_norm, step.epsilon);
        gate.apply(&room.normed, step, at(Part::Gate), &mut room.gate);
        up.apply(&room.normed, step, at(Part::Up), &mut room.up);
        gated(&mut room.gate, &room.up);
        down.apply(&room.gate, step, at(Part::Down), &mut room.out);
        add(states, &room.out);
    }
}

fn copy(from: &States, to: &mut States) {
    to.reshape(from.len(), from.width());
    for (to, from) in to.rows_mut().zip(from.rows()) {
        to.copy_from_slice(from);
    }
}
