//! What candidates lose on a text: they are run here beside the model, or servers tell.

use std::collections::HashMap;

use tokio::runtime::Handle;

use super::constraints::{Limit, OptimizationConstraints};
use super::error::OptimizeError;
use super::evidence::{Evidence, text_key};
use super::figure::Verdict;
use super::quality::{Quality, Window, billionths};
use super::sequential::{Looks, order};
use super::served::Server;
use super::told::{self, Told};
use crate::format::id::ContentDigest;
use crate::quantize::eval::Reference;
use crate::quantize::lm::{Compared, Model};

/// Windows there should be at least, so that their spread is known.
const WINDOWS: usize = 32;
/// The shortest context that windows are cut to for that.
const SHORTEST: usize = 128;
/// Windows that are read where no limit needs them.
const ENOUGH: usize = 64;
/// Windows that servers are asked for before they are written down.
const NOTED: usize = 8;

/// What candidates are held against.
pub(super) enum Base<'m> {
    /// A model that is run here.
    Run(&'m Model, Option<Reference<'m>>),
    /// A server of it, and what it told.
    Served(Box<Server>, HashMap<usize, Vec<Told>>),
}

/// A candidate that is read with, as the model is.
pub(super) enum Sitter {
    /// It is run here.
    Run(Box<Model>),
    /// A server runs it.
    Served(Box<Server>),
}

/// A text, cut into windows, and the unquantized model beside it.
pub(super) struct Exam<'m> {
    base: Base<'m>,
    runtime: Handle,
    pub(super) tokens: Vec<u32>,
    pub(super) context: usize,
    order: Vec<usize>,
    looks: Looks,
    /// Tokens that were read in this run.
    pub(super) read: u64,
}

impl<'m> Exam<'m> {
    /// Cuts a text: windows are as long as those of `eval ppl`, or shorter where there would be few. `decisions`
    /// are all that the text is to decide, with this probability that any of them is wrong.
    pub(super) fn new(
        (base, most): (Base<'m>, usize),
        tokens: Vec<u32>,
        context: Option<usize>,
        (decisions, error): (usize, f64),
        runtime: &Handle,
    ) -> Self {
        let mut own = 2048.min(most);
        while tokens.len() / own < WINDOWS && own / 2 >= SHORTEST {
            own /= 2;
        }
        let context = context.unwrap_or(own).clamp(2, most.max(2));
        let windows = tokens.chunks(context).filter(|window| window.len() > 1).count();
        let looks = Looks::new(windows, decisions, error);
        let runtime = runtime.clone();
        Self { base, runtime, tokens, context, order: order(windows), looks, read: 0 }
    }

    /// Windows of the text.
    pub(super) fn windows(&self) -> usize {
        self.order.len()
    }

    /// Whether servers tell.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.base, Base::Served(..))
    }

    /// The quality by what was read so far; none of nothing.
    fn quality(&self, windows: &[Window]) -> Option<Quality> {
        let quality = Quality::of(windows, self.windows(), self.looks.tail(windows.len()))?;
        // Servers tell of the likeliest tokens only.
        Some(if self.is_served() { quality.from_below() } else { quality })
    }

    /// Reads the windows that come next, until limits of quality are decided or there are no more; `whole` reads
    /// all in any case. `on` is asked before each look whether to go on.
    ///
    /// # Errors
    /// If the candidate cannot be run.
    pub(super) fn sit(
        &mut self,
        candidate: &mut Sitter,
        key: ContentDigest,
        evidence: &mut Evidence,
        (constraints, whole): (&OptimizationConstraints, bool),
        on: &dyn Fn() -> bool,
    ) -> Result<(Option<Quality>, bool), OptimizeError> {
        let by: Vec<String> = match (&self.base, &*candidate) {
            (Base::Served(base, _), Sitter::Served(own)) => vec![base.about(), own.about()],
            _ => Vec::new(),
        };
        let key = text_key(key, &self.tokens, self.context, &by)?;
        let limited = constraints.max_ppl_delta.is_some() || constraints.max_kl.is_some();
        let (mut done, mut computed) = (0, false);
        let mut seen: Vec<Window> = Vec::new();
        while let Some(next) = self.looks.after(done) {
            let places: Vec<usize> = self.order.get(done..next).unwrap_or_default().to_vec();
            let known = evidence.windows(key);
            let missing: Vec<usize> = places
                .iter()
                .copied()
                .filter(|place| !known.iter().any(|own| own.place == *place))
                .collect();
            if !missing.is_empty() {
                if !on() {
                    break;
                }
                // What a server told before it died is not asked for again.
                let at_once = if self.is_served() { NOTED } else { missing.len() };
                for some in missing.chunks(at_once) {
                    let read = self.read(candidate, some)?;
                    computed = true;
                    evidence.note_windows(key, read);
                }
            }
            let known = evidence.windows(key);
            seen.extend(known.iter().filter(|own| places.contains(&own.place)).cloned());
            done = next;
            if whole {
                continue;
            }
            let decided = match limited {
                false => done >= ENOUGH,
                true => self.quality(&seen).is_some_and(|quality| decided(constraints, &quality)),
            };
            if decided {
                break;
            }
        }
        Ok((self.quality(&seen), computed))
    }

    fn read(
        &mut self,
        candidate: &mut Sitter,
        places: &[usize],
    ) -> Result<Vec<Window>, OptimizeError> {
        let first = |place: usize| place * self.context;
        let cut = |place: usize| {
            let end = (first(place) + self.context).min(self.tokens.len());
            self.tokens.get(first(place)..end).unwrap_or_default()
        };
        let windows: Vec<(usize, &[u32])> =
            places.iter().map(|place| (*place, cut(*place))).collect();
        let found = match (&mut self.base, candidate) {
            (Base::Run(model, reference), Sitter::Run(candidate)) => {
                run(model, reference, candidate, &windows)?
            }
            (Base::Served(base, told), Sitter::Served(candidate)) => {
                self.runtime.block_on(ask(base, told, candidate, &windows))?
            }
            _ => return Err(OptimizeError::Defect("a server beside a model".to_owned())),
        };
        self.read += windows.iter().map(|(_, window)| window.len() as u64).sum::<u64>();
        Ok(found)
    }
}

/// What a model and a candidate say of windows, each with its number.
fn run<'m>(
    model: &'m Model,
    kept: &mut Option<Reference<'m>>,
    candidate: &Model,
    windows: &[(usize, &[u32])],
) -> Result<Vec<Window>, OptimizeError> {
    let mut reference = match kept.take() {
        Some(reference) => reference,
        None => Reference::new(model)?,
    };
    let all = reference.compare(candidate, windows);
    *kept = Some(reference);
    let sum = |own: &[Compared], of: fn(&Compared) -> f64| own.iter().map(of).sum();
    let window = |((place, _), own): (&(usize, &[u32]), &Vec<Compared>)| Window {
        place: *place,
        base: sum(own, |one| one.loss),
        own: sum(own, |one| one.other_loss),
        same_top: own.iter().filter(|one| one.same_top).count() as u32,
        kl: own.iter().map(|one| billionths(one.divergence)).collect(),
    };
    Ok(windows.iter().zip(&all?).map(window).collect())
}

/// What two servers say of them.
async fn ask(
    base: &mut Server,
    told: &mut HashMap<usize, Vec<Told>>,
    candidate: &mut Server,
    windows: &[(usize, &[u32])],
) -> Result<Vec<Window>, OptimizeError> {
    let new: Vec<(usize, &[u32])> =
        windows.iter().filter(|(place, _)| !told.contains_key(place)).copied().collect();
    let of_base = base.read(&windows_of(&new)).await.map_err(OptimizeError::Served)?;
    told.extend(new.iter().map(|own| own.0).zip(of_base));
    let own = candidate.read(&windows_of(windows)).await.map_err(OptimizeError::Served)?;
    let window = |((place, _), own): (&(usize, &[u32]), &Vec<Told>)| {
        let base = told.get(place).map(Vec::as_slice).unwrap_or_default();
        told::window(*place, base, own).map_err(OptimizeError::Served)
    };
    windows.iter().zip(&own).map(window).collect()
}

/// The tokens of windows.
fn windows_of<'t>(all: &[(usize, &'t [u32])]) -> Vec<&'t [u32]> {
    all.iter().map(|own| own.1).collect()
}

/// Whether limits of quality are all kept, or one surely is not.
fn decided(constraints: &OptimizationConstraints, quality: &Quality) -> bool {
    let figures = super::constraints::Figures {
        ppl_delta_percent: Some(quality.ppl_delta_percent),
        kl: Some(quality.kl),
        ..Default::default()
    };
    let found = constraints.judge(&figures);
    let mut of_quality =
        found.iter().filter(|own| matches!(own.limit, Limit::MaxPplDelta | Limit::MaxKl));
    of_quality.clone().any(|own| own.verdict == Verdict::Missed)
        || of_quality.all(|own| own.verdict == Verdict::Met)
}
