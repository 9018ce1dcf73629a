//! What an artifact was made from, and what that was made from, as a drawing for the page.

use std::collections::{BTreeMap, VecDeque};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::asking::{Asking, Named, Segment, Shared};
use crate::format::name::{ArtifactSpec, NamePattern};
use crate::store::artifact::Artifact;
use crate::studio::lineage::{Edge, Node, svg};
use crate::studio::problem::Problem;
use crate::studio::source;
use crate::studio::tokens::Caller;

/// Artifacts of a drawing.
const MAX_NODES: usize = 32;
/// Characters of an id that stand for it.
const SHORT: usize = 14;

pub(super) async fn draw(
    State(studio): State<Shared>,
    asking: Asking,
    Named(name): Segment,
) -> Result<Response, Problem> {
    let spec: ArtifactSpec = name.parse().map_err(|_| Problem::absent("artifact of this name"))?;
    let first = source::open(&studio, &asking.0, &spec).await?;
    let names = names(&studio, &asking.0).await;
    let mut nodes = vec![Node { name: spec.to_string(), link: None }];
    let mut edges = Vec::new();
    let mut seen = BTreeMap::from([(first.id().to_string(), 0)]);
    let mut waiting = VecDeque::from([(0, first)]);
    while let Some((to, artifact)) = waiting.pop_front() {
        for (id, how) in made_from(&artifact) {
            let from = match seen.get(&id) {
                Some(from) => *from,
                None if nodes.len() >= MAX_NODES => continue,
                None => {
                    let from = nodes.len();
                    seen.insert(id.clone(), from);
                    let own = format!("@{id}");
                    let named = names.get(&id).cloned();
                    // By its id alone only who may read everything sees it.
                    let shown = named.clone().or_else(|| asking.0.reads_all().then(|| own.clone()));
                    let short = own.chars().take(SHORT).collect();
                    let opened = match shown.as_ref().and_then(|shown| shown.parse().ok()) {
                        Some(spec) => source::open(&studio, &asking.0, &spec).await.ok(),
                        None => None,
                    };
                    let link = shown.filter(|_| opened.is_some()).map(|shown| {
                        let all = url::form_urlencoded::byte_serialize(shown.as_bytes());
                        format!("#/artifact/{}", all.collect::<String>())
                    });
                    nodes.push(Node { name: named.unwrap_or(short), link });
                    waiting.extend(opened.map(|opened| (from, opened)));
                    from
                }
            };
            edges.push(Edge { from, to, how });
        }
    }
    Ok(([(CONTENT_TYPE, "image/svg+xml")], svg(&nodes, &edges)).into_response())
}

/// What the caller may read, by what it is.
async fn names(studio: &Shared, caller: &Caller) -> BTreeMap<String, String> {
    let refs = studio.store.refs(&NamePattern::ALL).await.unwrap_or_default();
    let bodies = refs.iter().map(crate::trust::Envelope::body);
    bodies
        .filter(|body| caller.may_read(&body.name))
        .map(|body| (body.manifest.to_string(), format!("{}:{}", body.name, body.tag)))
        .collect()
}

/// The manifests that an artifact says it was made from, and how.
fn made_from(artifact: &Artifact) -> Vec<(String, String)> {
    let manifest = artifact.manifest();
    let text = |of: &Option<Map<String, Value>>, field: &str| {
        Some(of.as_ref()?.get(field)?.as_str()?.to_owned())
    };
    let how = match (&manifest.quantization, &manifest.delta) {
        (Some(own), _) => {
            let method = own.get("method").and_then(Value::as_str).unwrap_or("quantized");
            let bits = own.get("bits").and_then(Value::as_u64);
            bits.map_or_else(|| method.to_owned(), |bits| format!("{method}, {bits} bits"))
        }
        (None, Some(_)) => {
            let method = text(&manifest.delta, "delta_method").unwrap_or_default();
            format!("{method} delta")
        }
        (None, None) => "made from".to_owned(),
    };
    let source = text(&manifest.source, "manifest").map(|id| (id, how));
    let base = text(&manifest.delta, "base").map(|id| (id, "base".to_owned()));
    source.into_iter().chain(base).collect()
}
