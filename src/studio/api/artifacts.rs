//! Artifacts: what a job made, and what the store holds.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::asking::{Asking, Named, Segment, Shared};
use crate::format::name::{ArtifactSpec, NamePattern};
use crate::jobs::State as JobState;
use crate::maintain::{Change, diff, inspect};
use crate::store::artifact::Artifact;
use crate::studio::problem::Problem;
use crate::studio::source;

/// Changes of each kind that are listed.
const MAX_CHANGES: usize = 1000;
/// Groups of tensors that are listed.
const MAX_GROUPS: usize = 500;

/// The artifact that a job made: its files with where they are, tensors, lineage, signatures.
pub(super) async fn of_job(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
) -> Result<Json<Value>, Problem> {
    let job = asking.job(&studio, &id).await?;
    let result = job.result.as_ref();
    let result = result.filter(|_| job.state == JobState::Succeeded);
    let named = result.and_then(|result| Some((result["name"].as_str()?, result["tag"].as_str()?)));
    let winner = result.and_then(|result| result["winner"]["artifact"].as_str());
    let spec =
        named.map(|(name, tag)| format!("{name}:{tag}")).or_else(|| winner.map(str::to_owned));
    let Some(spec) = spec else {
        let why = job.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        let detail =
            format!("the job is {}{why}: there is an artifact when it has succeeded", job.state);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let spec: ArtifactSpec = spec.parse().map_err(Problem::invalid)?;
    let artifact = source::open(&studio, &asking.0, &spec).await?;
    let mut shown = describe(&artifact, &spec).await?;
    let made = result.and_then(|result| result["manifest"].as_str());
    if let Value::Object(shown) = &mut shown {
        shown.insert("job".to_owned(), job.id.as_str().into());
        // The name may have moved on since.
        shown.insert(
            "current".to_owned(),
            made.is_none_or(|made| made == artifact.id().to_string()).into(),
        );
    }
    Ok(Json(shown))
}

pub(super) async fn one(
    State(studio): State<Shared>,
    asking: Asking,
    Named(name): Segment,
) -> Result<Json<Value>, Problem> {
    let of = |name: &str| {
        name.parse::<ArtifactSpec>().map_err(|_| Problem::absent("artifact of this name"))
    };
    if let Some((first, second)) = name.split_once("/diff/") {
        let (first, second) = (of(first)?, of(second)?);
        return compare(&studio, &asking, (&first, &second)).await.map(Json);
    }
    let spec = of(&name)?;
    let artifact = source::open(&studio, &asking.0, &spec).await?;
    describe(&artifact, &spec).await.map(Json)
}

/// What the second artifact has other than the first.
async fn compare(
    studio: &Shared,
    asking: &Asking,
    (first, second): (&ArtifactSpec, &ArtifactSpec),
) -> Result<Value, Problem> {
    let one = source::open(studio, &asking.0, first).await?;
    let other = source::open(studio, &asking.0, second).await?;
    let (one, other) = (one.graph().await.map_err(failed)?, other.graph().await.map_err(failed)?);
    let found = diff(&one, &other);
    let changes = |changes: &BTreeMap<String, Change>| -> Vec<Value> {
        changes
            .iter()
            .take(MAX_CHANGES)
            .map(|(name, change)| json!({"name": name, "change": change}))
            .collect()
    };
    Ok(json!({
        "first": first.to_string(), "second": second.to_string(), "same": one.id == other.id,
        "files": changes(&found.files), "tensors": changes(&found.tensors),
        "changed_files": found.files.len(), "changed_tensors": found.tensors.len(),
        "same_files": found.same_files, "same_tensors": found.same_tensors,
        "shared_bytes": found.shared_bytes, "only_first_bytes": found.only_first_bytes,
        "only_second_bytes": found.only_second_bytes,
    }))
}

/// The artifacts that the caller may read.
pub(super) async fn list(
    State(studio): State<Shared>,
    asking: Asking,
    _: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let refs = studio.store.refs(&NamePattern::ALL).await.map_err(failed)?;
    let bodies = refs.iter().map(crate::trust::Envelope::body);
    let listed: Vec<Value> = bodies
        .filter(|body| asking.0.may_read(&body.name))
        .map(|body| json!({"name": body.name, "tag": body.tag, "manifest": body.manifest}))
        .collect();
    Ok(Json(json!({"artifacts": listed})))
}

/// The store did not give what it should have.
fn failed(error: crate::store::StoreError) -> Problem {
    Problem::new(StatusCode::BAD_GATEWAY, error)
}

async fn describe(artifact: &Artifact, spec: &ArtifactSpec) -> Result<Value, Problem> {
    let whole = artifact.graph().await.map_err(failed)?;
    let seen = inspect(&whole);
    let manifest = artifact.manifest();
    let place = artifact.name().map(|(name, tag)| format!("/{name}/resolve/{tag}/"));
    let files: Vec<Value> = whole
        .files
        .iter()
        .map(|(file, _)| {
            let url = place.as_ref().map(|place| format!("{place}{}", file.path));
            json!({"path": file.path, "bytes": file.size, "url": url})
        })
        .collect();
    let groups: Vec<Value> = seen.groups.iter().take(MAX_GROUPS).map(|group| json!({
        "name": group.name, "count": group.count, "dtype": group.dtype.to_string(), "shape": group.shape.dims(),
        "bytes": group.bytes, "encoding": group.encoding,
    })).collect();
    let signed: Vec<String> = artifact.signed_by().iter().map(ToString::to_string).collect();
    Ok(json!({
        "artifact": spec.to_string(),
        "manifest": artifact.id(),
        "model_id": manifest.model_id,
        "totals": {
            "files": manifest.totals.files, "tensors": manifest.totals.tensors,
            "raw_bytes": manifest.totals.raw_bytes, "stored_bytes": manifest.totals.stored_bytes,
        },
        "lineage": {"source": manifest.source, "quantization": manifest.quantization, "delta": manifest.delta},
        "signed_by": signed,
        "files": files,
        "tensors": groups,
        "repeated_bytes": seen.repeated_bytes,
    }))
}
