//! What only operators may ask: to fetch an artifact ahead, and to forget one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::StatusCode;
use serde_json::json;

use crate::edge::http::answer::{Answer, plain, store_refusal, told};
use crate::edge::state::Edge;
use crate::format::name::ArtifactSpec;

/// What is asked of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Prefetch,
    Purge,
}

/// The artifact that a query names (`artifact=NAME[:TAG]` or `artifact=@ID`).
fn artifact(query: &str) -> Option<ArtifactSpec> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let (_, value) = pairs.find(|(name, _)| name == "artifact")?;
    value.parse().ok()
}

/// Does what is asked of an artifact.
pub(crate) async fn answer(edge: &Arc<Edge>, task: Task, query: &str) -> Answer {
    let Some(spec) = artifact(query) else { return plain(StatusCode::BAD_REQUEST) };
    let name = spec.to_string();
    match task {
        Task::Prefetch => {
            // Whether there is such an artifact is said at once; its chunks come later.
            if let Err(error) = edge.catalog.spec(&spec).await {
                return store_refusal(&error);
            }
            let edge = edge.clone();
            edge.fetching.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let fetched = edge.prefetch(&spec).await;
                let count = if fetched.is_ok() { &edge.fetched } else { &edge.unfetched };
                count.fetch_add(1, Ordering::Relaxed);
                edge.fetching.fetch_sub(1, Ordering::Relaxed);
            });
            told(StatusCode::ACCEPTED, &json!({"artifact": name, "fetching": true}))
        }
        Task::Purge => match edge.purge(&spec).await {
            Ok(chunks) => told(StatusCode::OK, &json!({"artifact": name, "chunks": chunks})),
            Err(error) => store_refusal(&error),
        },
    }
}
