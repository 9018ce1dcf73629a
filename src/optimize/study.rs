//! Candidates as artifacts, and what they lose on a text.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::candidate::Candidate;
use super::constraints::{Limit, OptimizationConstraints};
use super::error::OptimizeError;
use super::evidence::{Evidence, product_key, text_key};
use super::figure::Verdict;
use super::quality::{Quality, Window, billionths};
use super::sequential::{Looks, order};
use crate::dequant::Float;
use crate::format::id::{ContentDigest, ManifestId};
use crate::format::name::{ArtifactName, ArtifactSpec, Tag};
use crate::pack::{PackOptions, pack};
use crate::quantize::calibrate::CalibrationSamples;
use crate::quantize::eval::Reference;
use crate::quantize::lm::{Compared, Model};
use crate::quantize::produce::{
    Bits, Calibrating, Hqq, Method, QuantizeOptions, RoundToNearest, Solver, layers_apart, quantize,
};
use crate::quantize::source::ModelSource;
use crate::store::Store;
use crate::store::artifact::{Artifact, OpenOptions};

/// What the tags of candidates begin with.
pub(super) const PREFIX: &str = "optimize-";
/// Windows there should be at least, so that their spread is known.
const WINDOWS: usize = 32;
/// The shortest context that windows are cut to for that.
const SHORTEST: usize = 128;
/// Windows that are read where no limit needs them.
const ENOUGH: usize = 64;

/// How results are packed: signers, trust, lifetime. It is asked for each artifact.
pub type Packing<'a> = dyn Fn() -> Result<PackOptions, OptimizeError> + 'a;

/// Where candidates are made.
pub(super) struct Workshop<'a> {
    pub(super) source: &'a Arc<ModelSource>,
    /// The folder of the model, if it is one.
    pub(super) folder: Option<&'a std::path::Path>,
    pub(super) store: &'a Store,
    pub(super) name: &'a ArtifactName,
    pub(super) packing: &'a Packing<'a>,
    pub(super) runtime: &'a Handle,
    pub(super) digest: ContentDigest,
    pub(super) float: Float,
    pub(super) samples: Option<CalibrationSamples>,
}

impl Workshop<'_> {
    /// The tag of a candidate.
    pub(super) fn tag(&self, candidate: &Candidate) -> Result<Tag, OptimizeError> {
        let text = format!("{PREFIX}{}", candidate.label);
        text.parse().map_err(|_| OptimizeError::Defect(format!("no tag {text}")))
    }

    /// What tells the candidate from all others.
    pub(super) fn key(
        &self,
        candidate: &Candidate,
        bits: &Bits,
    ) -> Result<ContentDigest, OptimizeError> {
        let mut more = Vec::new();
        if candidate.reads_text()
            && let Some(samples) = &self.samples
        {
            more.push(samples.digest().to_string());
        }
        more.extend(bits.iter().map(|(layer, bits)| format!("{layer} {bits}")));
        product_key(self.digest, candidate.recipe.as_ref(), &more)
    }

    /// The artifact of a candidate that an earlier run produced, if it is still there under its tag.
    pub(super) fn known(
        &self,
        candidate: &Candidate,
        key: ContentDigest,
        evidence: &Evidence,
    ) -> Result<Option<ManifestId>, OptimizeError> {
        if let (None, Some(artifact)) = (&candidate.recipe, self.source.as_artifact())
            && self.runtime.block_on(self.store.has_graph(artifact.id()))
        {
            return Ok(Some(artifact.id()));
        }
        let Some(manifest) = evidence.produced(key) else { return Ok(None) };
        let spec = ArtifactSpec::Named { name: self.name.clone(), tag: self.tag(candidate)? };
        let found = self.runtime.block_on(self.store.resolve(&spec));
        Ok(found.ok().map(|found| found.manifest).filter(|id| *id == manifest))
    }

    /// Makes a candidate, or finds its parts; tells whether anything was computed.
    pub(super) fn make(
        &self,
        candidate: &Candidate,
        bits: &Bits,
    ) -> Result<(ManifestId, bool), OptimizeError> {
        let (tag, options) = (self.tag(candidate)?, (self.packing)()?);
        let names = (self.name, &tag);
        let Some(recipe) = candidate.recipe.clone() else {
            let folder = self.folder.ok_or(OptimizeError::Elsewhere)?;
            let report = pack(folder, self.store, names, options, self.runtime, &())?;
            return Ok((report.manifest, report.new_bytes > 0));
        };
        let source = layers_apart(self.source.clone(), recipe.format, &[])?;
        let mut calibrating = match (recipe.method.is_calibrated(), &self.samples) {
            (true, Some(samples)) => {
                let model = Model::open(source.clone())?;
                let samples = samples.clone();
                Some(Calibrating::new(model, samples, &recipe, self.float, bits.clone()))
            }
            _ => None,
        };
        let (mut nearest, mut hqq) = (RoundToNearest, Hqq);
        let solver: &mut dyn Solver = match &mut calibrating {
            Some(calibrating) => calibrating,
            None if recipe.method == Method::Hqq => &mut hqq,
            None => &mut nearest,
        };
        let mut own = QuantizeOptions::new(recipe, options);
        own.bits = bits.clone();
        let done = quantize(&source, self.store, names, own, solver, self.runtime, &())?;
        Ok((done.packed.manifest, done.computed > 0))
    }

    /// Opens an artifact of the store that this user made.
    pub(super) fn open(&self, manifest: ManifestId) -> Result<Artifact, OptimizeError> {
        let spec: ArtifactSpec = format!("@{manifest}")
            .parse()
            .map_err(|_| OptimizeError::Defect(format!("no artifact {manifest}")))?;
        let options = OpenOptions::default();
        Ok(self.runtime.block_on(Artifact::open(self.store.clone(), &spec, &options))?)
    }
}

/// A text, cut into windows, and the unquantized model beside it.
pub(super) struct Exam<'m> {
    model: &'m Model,
    reference: Option<Reference<'m>>,
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
        model: &'m Model,
        tokens: Vec<u32>,
        context: Option<usize>,
        (decisions, error): (usize, f64),
    ) -> Self {
        let most = model.config().positions;
        let mut own = 2048.min(most);
        while tokens.len() / own < WINDOWS && own / 2 >= SHORTEST {
            own /= 2;
        }
        let context = context.unwrap_or(own).clamp(2, most.max(2));
        let windows = tokens.chunks(context).filter(|window| window.len() > 1).count();
        let looks = Looks::new(windows, decisions, error);
        Self { model, reference: None, tokens, context, order: order(windows), looks, read: 0 }
    }

    /// Windows of the text.
    pub(super) fn windows(&self) -> usize {
        self.order.len()
    }

    fn window(&self, place: usize) -> &[u32] {
        let first = place * self.context;
        self.tokens.get(first..(first + self.context).min(self.tokens.len())).unwrap_or_default()
    }

    /// The quality by what was read so far; none of nothing.
    fn quality(&self, windows: &[Window]) -> Option<Quality> {
        Quality::of(windows, self.windows(), self.looks.tail(windows.len()))
    }

    /// Reads the windows that come next, until limits of quality are decided or there are no more; `whole` reads
    /// all in any case. `on` is asked before each look whether to go on.
    ///
    /// # Errors
    /// If the candidate cannot be run.
    pub(super) fn sit(
        &mut self,
        candidate: &Model,
        key: ContentDigest,
        evidence: &mut Evidence,
        (constraints, whole): (&OptimizationConstraints, bool),
        on: &dyn Fn() -> bool,
    ) -> Result<(Option<Quality>, bool), OptimizeError> {
        let key = text_key(key, &self.tokens, self.context)?;
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
                let read = self.read(candidate, &missing)?;
                computed = true;
                evidence.note_windows(key, read);
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

    fn read(&mut self, candidate: &Model, places: &[usize]) -> Result<Vec<Window>, OptimizeError> {
        let mut reference = match self.reference.take() {
            Some(reference) => reference,
            None => Reference::new(self.model)?,
        };
        let windows: Vec<(usize, &[u32])> =
            places.iter().map(|place| (*place, self.window(*place))).collect();
        let all = reference.compare(candidate, &windows);
        let tokens: usize = windows.iter().map(|(_, window)| window.len()).sum();
        self.reference = Some(reference);
        let all = all?;
        self.read += tokens as u64;
        let sum = |own: &[Compared], of: fn(&Compared) -> f64| own.iter().map(of).sum();
        let window = |(place, own): (&usize, &Vec<Compared>)| Window {
            place: *place,
            base: sum(own, |one| one.loss),
            own: sum(own, |one| one.other_loss),
            same_top: own.iter().filter(|one| one.same_top).count() as u32,
            kl: own.iter().map(|one| billionths(one.divergence)).collect(),
        };
        Ok(places.iter().zip(&all).map(window).collect())
    }
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
