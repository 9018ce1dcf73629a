//! Files of the result that an artifact of the same recipe holds just so: nothing of them is read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::ProduceError;
use super::memo::{Hit, Memo};
use super::outline::{Content, From, Plan};
use super::survey::{Digests, Survey, Surveyed};
use crate::format::id::ContentDigest;
use crate::pack::model::{Part, PartKind};
use crate::pack::{KnownFile, PackOptions, Piece};
use crate::store::ArtifactGraph;

/// Takes over the files of tensors that an artifact which the memo trusts holds just so.
pub(super) fn take_over(
    plan: &mut Plan,
    surveyed: &Survey,
    digests: &Digests<'_>,
    memo: &Memo,
    options: &PackOptions,
) -> Result<(), ProduceError> {
    let mut artifacts: BTreeMap<usize, Option<Arc<ArtifactGraph>>> = BTreeMap::new();
    let hits = surveyed.weights.iter().chain(&surveyed.vectors);
    for hit in hits.filter_map(|surveyed| surveyed.hit.as_ref()) {
        if let Hit::Artifact { known, .. } = hit {
            artifacts.entry(*known).or_insert_with(|| memo.whole(*known).map(Arc::new));
        }
    }
    for (path, content) in &mut plan.files {
        let Content::Tensors { header, parts, from } = content else { continue };
        let Some(produced) = produced(from, surveyed) else { continue };
        let same = from.iter().filter_map(|from| match from {
            From::Model(tensor) => Some(*tensor),
            _ => None,
        });
        let same: Vec<usize> = same.collect();
        let same: HashMap<usize, _> = same.iter().copied().zip(digests.of(&same)?).collect();
        let longest = from.iter().map(|from| if let From::Zeros(len) = from { *len } else { 0 });
        let zeros = vec![0; usize::try_from(longest.max().unwrap_or(0)).unwrap_or(0)];
        let piece = |((from, digest), part): ((&From, &Option<ContentDigest>), _)| match *from {
            From::Zeros(len) => zeros.get(..usize::try_from(len).ok()?).map(Piece::Content),
            From::Model(tensor) => tensor_piece(part, *same.get(&tensor)?),
            From::Product(..) | From::Remade(_) => tensor_piece(part, (*digest)?),
            From::Stack(_) | From::Factors => None,
        };
        let tensors = from.iter().zip(&produced).zip(parts.iter().skip(1)).map(piece);
        let pieces = std::iter::once(Some(Piece::Content(header))).chain(tensors);
        let Some(pieces) = pieces.collect::<Option<Vec<_>>>() else { continue };
        let mut whole = artifacts.values().flatten();
        if let Some(file) = whole.find_map(|own| KnownFile::find(own, path, &pieces, options)) {
            *content = Content::Known(file);
        }
    }
    Ok(())
}

/// The digests of what is produced; `None` if an artifact does not have all of it.
fn produced(from: &[From], surveyed: &Survey) -> Option<Vec<Option<ContentDigest>>> {
    let of = |surveyed: Option<&Surveyed>, own: usize| match surveyed?.hit.as_ref()? {
        Hit::Artifact { requests, .. } => requests.get(own).map(|want| Some(want.entry.digest)),
        Hit::Left(_) => None,
    };
    let one = |from: &From| match *from {
        From::Product(product, own) => of(surveyed.weights.get(product), own),
        From::Remade(vector) => of(surveyed.vectors.get(vector), 0),
        From::Model(_) | From::Stack(_) | From::Zeros(_) | From::Factors => Some(None),
    };
    from.iter().map(one).collect()
}

fn tensor_piece(part: &Part, digest: ContentDigest) -> Option<Piece<'_>> {
    let PartKind::Tensor { name, dtype, shape } = &part.kind else { return None };
    Some(Piece::Tensor { name, dtype: *dtype, shape, digest })
}
