//! Whether a client may have an object of the store. Objects have no names of their own: one belongs to
//! a repository if an artifact does that a ref of the repository names.

use std::collections::HashSet;
use std::sync::Arc;

use crate::edge::cache::packs::PackMap;
use crate::edge::http::access::Who;
use crate::edge::state::Edge;
use crate::format::id::{ManifestId, StoredDigest};
use crate::format::name::ArtifactName;
use crate::store::ArtifactGraph;
use crate::transport::ObjectPath;
use crate::transport::http::ARTIFACT_HEADER;

/// The artifact that the client says its request is for (`name@id` or `@id`).
pub(crate) fn artifact_hint(
    headers: &hyper::HeaderMap,
) -> Option<(Option<ArtifactName>, ManifestId)> {
    let hint = headers.get(ARTIFACT_HEADER)?.to_str().ok()?;
    let (name, id) = hint.split_once('@')?;
    Some((name.parse().ok(), id.parse().ok()?))
}

/// Whether `who` may read an object other than a pack.
pub(crate) async fn object(
    edge: &Arc<Edge>,
    who: &Who,
    path: &ObjectPath,
    headers: &hyper::HeaderMap,
) -> bool {
    if who.may_read_all() {
        return true;
    }
    let (kind, rest) = path.as_str().split_once('/').unwrap_or((path.as_str(), ""));
    match kind {
        // It says no more than that here is a store.
        "tenpak.json" => who.is_known(),
        "refs" => {
            let name = rest.rsplit_once("/@").and_then(|(name, _)| name.parse().ok());
            name.is_some_and(|name| who.may_read(&name))
        }
        "manifests" | "layouts" | "signatures" => {
            let id = rest.split('/').next().unwrap_or(rest);
            let claim = permitted(edge, who, headers).await;
            claim.is_some_and(|(_, claimed)| id.parse() == Ok(claimed))
        }
        "tables" => {
            let whole = whole(edge, who, headers).await;
            whole.is_some_and(|whole| rest.parse() == Ok(whole.manifest.table().table))
        }
        _ => false,
    }
}

/// Whether `who` may read these bytes of a pack.
pub(crate) async fn pack(
    edge: &Arc<Edge>,
    who: &Who,
    map: &PackMap,
    ranges: &[std::ops::Range<u64>],
    headers: &hyper::HeaderMap,
) -> bool {
    if who.may_read_all() {
        return true;
    }
    let Some(whole) = whole(edge, who, headers).await else { return false };
    let own = edge.owned.get_with(whole.id, || {
        let chunks: HashSet<StoredDigest> =
            whole.chunks.iter().map(|chunk| chunk.record.stored).collect();
        Arc::new(chunks)
    });
    let mut wanted = ranges.iter().flat_map(|range| map.chunks(range));
    wanted.all(|chunk| own.contains(&chunk.record.stored))
}

/// The artifact that the request is for, if `who` may read the repository and it is of it.
async fn permitted(
    edge: &Arc<Edge>,
    who: &Who,
    headers: &hyper::HeaderMap,
) -> Option<(ArtifactName, ManifestId)> {
    let (name, id) = artifact_hint(headers)?;
    let name = name.filter(|name| who.may_read(name))?;
    edge.catalog.belongs(&name, id).await.then_some((name, id))
}

async fn whole(
    edge: &Arc<Edge>,
    who: &Who,
    headers: &hyper::HeaderMap,
) -> Option<Arc<ArtifactGraph>> {
    let (name, id) = permitted(edge, who, headers).await?;
    edge.catalog.artifact(id, Some(&name)).await.ok()
}
