//! What a request would take, before it is made: from what similar jobs took.

use axum::Json;
use axum::extract::{Request as HttpRequest, State};
use serde_json::{Value, json};

use super::asking::{Asking, Shared, json as json_of};
use super::submit::priority;
use crate::jobs::{Filter, Job, State as JobState};
use crate::optimize::hardware::{HOST, Hardware, host};
use crate::optimize::prices::Prices;
use crate::studio::problem::Problem;
use crate::studio::request::Request;
use crate::studio::source;
use crate::studio::tokens::Role;

/// Jobs that are looked at.
const JOBS: usize = 200;

/// What a job took, and how much it made.
fn took(job: &Job) -> Option<(f64, f64)> {
    let result = job.result.as_ref()?;
    let seconds = result["seconds"].as_f64().filter(|seconds| *seconds > 0.0)?;
    let bytes = result["source_bytes"].as_f64().or_else(|| result["raw_bytes"].as_f64());
    Some((seconds, bytes.filter(|bytes| *bytes > 0.0).unwrap_or(1.0)))
}

/// Whether two requests are of one recipe.
fn is_similar(one: &Value, other: &Value) -> bool {
    ["preset", "method", "format", "bits"].iter().all(|field| one[*field] == other[*field])
}

/// The value below which a share of all lies.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}

pub(super) async fn estimate(
    State(studio): State<Shared>,
    asking: Asking,
    request: HttpRequest,
) -> Result<Json<Value>, Problem> {
    let caller = &*asking.0;
    let (mut body, _) = json_of(request).await?;
    let kind = body.as_object_mut().and_then(|body| body.remove("kind"));
    let kind = match kind {
        None => "compress".to_owned(),
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(Problem::invalid("kind: compress, optimize or delta")),
    };
    // It changes nothing of what a request would take, but must be one.
    priority(&mut body)?;
    let request = Request::parse(&kind, body).map_err(Problem::invalid)?;
    let model = source::find(&studio, caller, request.model()).await?;
    let tenant = (caller.role != Role::Operator).then(|| caller.tenant.clone());
    let filter = Filter {
        tenant,
        state: Some(JobState::Succeeded),
        kind: Some(kind.clone()),
        before: None,
        limit: JOBS,
    };
    let jobs = studio.jobs(move |jobs| jobs.list(&filter)).await?;
    let own = request.value().map_err(Problem::invalid)?;
    let ratio = request.size_ratio();
    let made = model.bytes as f64 / ratio.unwrap_or(1.0);
    let mut per_byte: Vec<f64> = jobs
        .iter()
        .filter(|job| is_similar(&job.request, &own))
        .filter_map(took)
        .map(|(seconds, bytes)| seconds / bytes)
        .collect();
    per_byte.sort_by(f64::total_cmp);
    let seconds = |share| quantile(&per_byte, share).map(|rate| round(rate * made));
    let cores = std::thread::available_parallelism().map_or(1, |own| own.get() as u32);
    let here = host(cores, 64 << 30);
    let hardware = Hardware::parse(HOST, &here).map_err(Problem::invalid)?;
    let prices = Prices::own();
    let per_hour = prices.of(&hardware, cores).map(|(per_hour, _)| per_hour);
    let cost =
        per_hour.zip(seconds(0.5)).map(|(per_hour, seconds)| round(per_hour * seconds / 3600.0));
    Ok(Json(json!({
        "kind": kind,
        "source_bytes": model.bytes,
        "size": {"raw_bytes": ratio.map(|_| made as u64), "ratio": ratio.map(round)},
        "seconds": {"low": seconds(0.25), "likely": seconds(0.5), "high": seconds(0.9)},
        "cost": {"likely": cost, "currency": prices.currency, "per_hour": per_hour, "hardware": HOST},
        "similar_jobs": per_byte.len(),
    })))
}

fn round(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_there_is() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[3.0], 0.9), Some(3.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 1.0), Some(3.0));
        let of = |preset: &str| json!({"preset": preset, "model": preset});
        assert!(
            is_similar(&of("a"), &json!({"preset": "a", "model": "x"}))
                && !is_similar(&of("a"), &of("b"))
        );
    }
}
