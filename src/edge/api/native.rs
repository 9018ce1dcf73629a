//! The store's own layout over HTTP.
//!
//! Packs come through the cache, verified; other objects are relayed. With anybody trusted, only what a trusted manifest names is answered.

use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hyper::header::{AGE, DATE, HeaderValue};
use hyper::{Method, Request, StatusCode};

use crate::edge::api::authorize;
use crate::edge::cache::relay::Relayed;
use crate::edge::http::access::Who;
use crate::edge::http::answer::{Answer, IMMUTABLE, denied, plain, refusal, store_refusal};
use crate::edge::http::body::FRAME;
use crate::edge::http::client_stream::RequestBody;
use crate::edge::http::object::{self, Facts};
use crate::edge::state::Edge;
use crate::format::id::{ManifestId, PackId};
use crate::format::name::{ArtifactName, Tag};
use crate::format::store as paths;
use crate::store::StoreError;
use crate::transport::{ObjectPath, TransportError};

/// Answers a request for an object of the store.
pub(crate) async fn answer(
    edge: &Arc<Edge>,
    path: &ObjectPath,
    who: &Who,
    request: &Request<RequestBody>,
) -> Answer {
    if path.as_str().starts_with("packs/") {
        return pack(edge, path, who, request).await;
    }
    if !authorize::object(edge, who, path, request.headers()).await {
        return denied(who);
    }
    if let Err(error) = admit(edge, path).await {
        return store_refusal(&error);
    }
    relayed(edge, path, request).await.unwrap_or_else(|error| refusal(&error))
}

/// With anybody trusted: whether the object belongs to an artifact that counts.
async fn admit(edge: &Arc<Edge>, path: &ObjectPath) -> Result<(), Arc<StoreError>> {
    let catalog = &edge.catalog;
    if !catalog.is_closed() {
        return Ok(());
    }
    let refused = || {
        let (location, artifact) = (String::new(), path.to_string());
        Err(Arc::new(StoreError::NoArtifact { location, artifact }))
    };
    let (kind, rest) = path.as_str().split_once('/').unwrap_or((path.as_str(), ""));
    let of = |id: &str| id.parse::<ManifestId>();
    match kind {
        "refs" => {
            let Some((name, tag)) = rest.rsplit_once("/@") else { return Ok(()) };
            let (Ok(name), Ok(tag)) = (name.parse::<ArtifactName>(), tag.parse::<Tag>()) else {
                return refused();
            };
            let id = catalog.resolve(&name, &tag).await?;
            catalog.artifact(id, Some(&name)).await.map(drop)
        }
        "manifests" | "layouts" | "signatures" => {
            let Ok(id) = of(rest.split('/').next().unwrap_or(rest)) else { return refused() };
            if catalog.knows(id) {
                return Ok(());
            }
            catalog.artifact(id, None).await.map(drop)
        }
        "tables" if !rest.parse().is_ok_and(|table| catalog.knows_table(table)) => refused(),
        _ => Ok(()),
    }
}

/// Looks at the artifact that the client says its request is for.
async fn learn(edge: &Arc<Edge>, request: &Request<RequestBody>) {
    let Some((name, id)) = authorize::artifact_hint(request.headers()) else { return };
    // One that does not count admits nothing.
    drop(edge.catalog.artifact(id, name.as_ref()).await);
}

async fn pack(
    edge: &Arc<Edge>,
    path: &ObjectPath,
    who: &Who,
    request: &Request<RequestBody>,
) -> Answer {
    let Some(pack) = pack_of(path) else { return plain(StatusCode::NOT_FOUND) };
    let map = match edge.packs.map(pack).await {
        Ok(map) => map,
        Err(error) => return refusal(&error),
    };
    let tag = HeaderValue::try_from(format!("\"{pack}\"")).ok();
    let facts = Facts { size: map.size(), tag, modified: None, caching: IMMUTABLE };
    let plan = match object::plan(&facts, request.method(), request.headers()) {
        Ok(plan) => plan,
        Err(answer) => return *answer,
    };
    let ranges = plan.ranges(facts.size);
    if !authorize::pack(edge, who, &map, &ranges, request.headers()).await {
        return denied(who);
    }
    let admitted = || {
        let mut chunks = ranges.iter().flat_map(|range| map.chunks(range));
        chunks.all(|chunk| edge.catalog.admits(&chunk.record.stored))
    };
    if !admitted() {
        // Another edge may have seen the artifact opened: the client says which one it is.
        learn(edge, request).await;
        if !admitted() {
            return plain(StatusCode::FORBIDDEN);
        }
    }
    let packs = edge.packs.clone();
    let read = move |range| packs.read(&map, range).boxed();
    object::answer(&facts, plan, request.method(), read)
}

/// An object that the edge hands on as the origin has it.
async fn relayed(
    edge: &Arc<Edge>,
    path: &ObjectPath,
    request: &Request<RequestBody>,
) -> Result<Answer, TransportError> {
    let (method, headers) = (request.method(), request.headers());
    match edge.relay.get(path, headers).await? {
        Relayed::Kept(kept) => {
            let mut answer = match object::plan(&kept.facts, method, headers) {
                Ok(plan) => {
                    let bytes = kept.bytes.clone();
                    // The plan's ranges lie in the object, which is in memory.
                    let part = move |range: Range<u64>| {
                        bytes.slice(range.start as usize..range.end as usize)
                    };
                    let read = move |range| stream::iter([Ok(part(range))]).boxed();
                    object::answer(&kept.facts, plan, method, read)
                }
                Err(answer) => *answer,
            };
            if let (Some(age), Some(date)) = (edge.relay.age(&kept), &kept.date) {
                answer.headers_mut().insert(AGE, age.as_secs().into());
                answer.headers_mut().insert(DATE, date.clone());
            }
            Ok(answer)
        }
        Relayed::Large(facts) => {
            let plan = match object::plan(&facts, method, headers) {
                Ok(plan) => plan,
                Err(answer) => return Ok(*answer),
            };
            // What cannot be opened is refused before anything is promised.
            let first = plan.ranges(facts.size).first().cloned();
            let mut opened = match first.filter(|r| !r.is_empty() && *method == Method::GET) {
                Some(range) => Some(edge.relay.open(path, &facts, range).await?),
                None => None,
            };
            let (relay, path, known) = (edge.relay.clone(), path.clone(), facts.clone());
            // One frame goes out while the next one comes.
            let share = Arc::new(edge.cache.budget().promise(2 * FRAME as u64));
            let read = move |range| {
                let share = share.clone();
                let held = move |frame| {
                    let _held = &share;
                    frame
                };
                if let Some(opened) = opened.take() {
                    return opened.map(held).boxed();
                }
                let (relay, path, known) = (relay.clone(), path.clone(), known.clone());
                let open = async move { relay.open(&path, &known, range).await };
                stream::once(open).try_flatten().map(held).boxed()
            };
            Ok(object::answer(&facts, plan, method, read))
        }
    }
}

/// The pack that a path of a store names.
fn pack_of(path: &ObjectPath) -> Option<PackId> {
    let pack: PackId = path.as_str().strip_prefix("packs/")?.parse().ok()?;
    // One spelling only.
    (paths::pack(pack) == *path).then_some(pack)
}
