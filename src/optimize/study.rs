//! Candidates as artifacts.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::candidate::Candidate;
use super::error::OptimizeError;
use super::evidence::{Evidence, product_key};
use crate::dequant::Float;
use crate::format::id::{ContentDigest, ManifestId};
use crate::format::name::{ArtifactName, ArtifactSpec, Tag};
use crate::pack::{PackOptions, pack};
use crate::quantize::calibrate::CalibrationSamples;
use crate::quantize::lm::Model;
use crate::quantize::produce::{
    Bits, Calibrating, Hqq, Method, QuantizeOptions, RoundToNearest, Solver, layers_apart, quantize,
};
use crate::quantize::source::ModelSource;
use crate::store::Store;
use crate::store::artifact::{Artifact, OpenOptions};

/// What the tags of candidates begin with.
pub(super) const PREFIX: &str = "optimize-";

/// How results are packed: signers, trust, lifetime. It is asked for each artifact.
pub type Packing<'a> = dyn Fn() -> Result<PackOptions, OptimizeError> + 'a;

/// Where candidates are made.
pub(super) struct Workshop<'a> {
    pub(super) source: &'a Arc<ModelSource>,
    /// The folder of the model, if it is one.
    pub(super) folder: Option<&'a std::path::Path>,
    /// What the user calls the model.
    pub(super) called: &'a str,
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

    /// What a server may call a candidate.
    pub(super) fn names(
        &self,
        candidate: &Candidate,
        manifest: Option<ManifestId>,
    ) -> Result<Vec<String>, OptimizeError> {
        let mut names =
            vec![format!("{}:{}", self.name, self.tag(candidate)?), candidate.label.clone()];
        names.extend(manifest.map(|id| format!("@{id}")));
        if candidate.recipe.is_none() {
            names.push(self.called.to_owned());
            names.push(format!("{}:latest", self.called));
        }
        Ok(names)
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
