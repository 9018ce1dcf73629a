//! Evidence as an artifact beside the candidates: what was found is signed as they are, and whoever trusts the signer
//! need not find it again. It is used only where keys are trusted and one of them signed it.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::error::OptimizeError;
use super::study::PREFIX;
use crate::format::id::ContentDigest;
use crate::format::name::{ArtifactName, ArtifactSpec, Tag};
use crate::pack::model::{Part, PartKind};
use crate::pack::{
    GeneratedFile, Held, Input, Lineage, PackError, PackOptions, PartSource, pack_inputs,
};
use crate::store::artifact::{Artifact, OpenOptions};
use crate::store::{Store, StoreError};
use crate::trust::{SeenRefs, TrustSet};

/// The largest evidence that is read.
const MAX: u64 = 1 << 30;

fn tag() -> Result<Tag, OptimizeError> {
    let text = format!("{PREFIX}evidence");
    text.parse().map_err(|_| OptimizeError::Defect(format!("no tag {text}")))
}

/// The file of a model's evidence.
fn file(model: ContentDigest) -> String {
    format!("evidence-{model}.jsonl")
}

/// What is published of a model under a name; none where there is nothing, or nobody is trusted. What is there and
/// is not to be used is told, in words.
pub(super) fn read(
    store: &Store,
    name: &ArtifactName,
    model: ContentDigest,
    trust: TrustSet,
    runtime: &Handle,
) -> Result<(Option<Vec<u8>>, Option<String>), OptimizeError> {
    let spec = ArtifactSpec::Named { name: name.clone(), tag: tag()? };
    if trust.is_empty() {
        return Ok((None, None));
    }
    let options = OpenOptions { trust, seen: Some(SeenRefs::of_user()) };
    let opened = runtime.block_on(Artifact::open(store.clone(), &spec, &options));
    let artifact = match opened {
        Ok(artifact) => artifact,
        Err(StoreError::NoStore { .. } | StoreError::NoArtifact { .. }) => return Ok((None, None)),
        Err(error) => return Ok((None, Some(format!("evidence in {spec} is not used: {error}")))),
    };
    let bytes = runtime.block_on(artifact.file(&file(model), MAX));
    match bytes {
        Ok(bytes) => Ok((bytes.map(|own| own.to_vec()), None)),
        Err(error) => Ok((None, Some(format!("evidence in {spec} is not used: {error}")))),
    }
}

/// Publishes what is known of a model.
pub(super) fn write(
    bytes: Vec<u8>,
    store: &Store,
    name: &ArtifactName,
    model: ContentDigest,
    mut options: PackOptions,
    runtime: &Handle,
) -> Result<(), OptimizeError> {
    let len = bytes.len() as u64;
    let parts = vec![Part { offset: 0, len, kind: PartKind::Content }];
    let made = GeneratedFile { path: file(model), executable: false, parts };
    (options.lineage, options.base) = (Lineage::default(), None);
    let mut maker = Ready(bytes);
    let names = (name, &tag()?);
    let inputs = [Input::Made(made)];
    pack_inputs(&inputs, &mut maker, store, names, &Arc::new(options), runtime, &())?;
    Ok(())
}

/// The one part, in memory.
struct Ready(Vec<u8>);

impl PartSource for Ready {
    fn make(&mut self, _: usize, _: usize) -> Result<Held, PackError> {
        Ok(Held::Memory(std::mem::take(&mut self.0).into()))
    }
}
