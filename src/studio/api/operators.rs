//! What only operators see: workers, tenants, who did what.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::asking::{Asking, Shared};
use super::shown::date;
use crate::studio::problem::Problem;
use crate::studio::tokens::Role;

/// Entries on a page of the ledger.
const PAGE: usize = 100;

fn operator(asking: &Asking) -> Result<(), Problem> {
    match asking.0.role {
        Role::Operator => Ok(()),
        _ => Err(Problem::new(StatusCode::FORBIDDEN, "this is an operator's matter")),
    }
}

pub(super) async fn workers(
    State(studio): State<Shared>,
    asking: Asking,
) -> Result<Json<Value>, Problem> {
    operator(&asking)?;
    let seen = studio.jobs(|jobs| jobs.workers()).await?;
    let shown = seen.iter().map(|worker| {
        json!({
            "name": worker.name, "started_at": date(worker.started_at),
            "seen_at": date(worker.seen_at), "job": worker.job,
        })
    });
    Ok(Json(json!({"workers": shown.collect::<Vec<_>>()})))
}

/// The tenants that tokens or jobs are of, their jobs and what they may.
pub(super) async fn tenants(
    State(studio): State<Shared>,
    asking: Asking,
) -> Result<Json<Value>, Problem> {
    operator(&asking)?;
    let of_jobs = studio.jobs(|jobs| jobs.tenants()).await?;
    let mut names: Vec<String> = of_jobs.iter().map(|tenant| tenant.tenant.clone()).collect();
    let mut callers = studio.tokens.callers();
    callers.sort_by(|one, other| one.name.cmp(&other.name));
    names.extend(callers.iter().map(|caller| caller.tenant.clone()));
    names.sort();
    names.dedup();
    let shown = names.iter().map(|name| {
        let jobs = of_jobs.iter().find(|tenant| tenant.tenant == *name);
        let jobs = jobs.into_iter().flat_map(|tenant| &tenant.jobs);
        let jobs: Map<String, Value> =
            jobs.map(|(state, count)| (state.to_string(), (*count).into())).collect();
        let tokens: Vec<Value> = callers.iter().filter(|caller| caller.tenant == *name).map(|caller| json!({
            "name": caller.name, "role": caller.role.name(), "running": caller.quota.running,
            "active": caller.quota.active, "daily": caller.quota.daily,
        })).collect();
        json!({"tenant": name, "jobs": jobs, "tokens": tokens})
    });
    Ok(Json(json!({"tenants": shown.collect::<Vec<_>>()})))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    cursor: Option<String>,
}

pub(super) async fn audit(
    State(studio): State<Shared>,
    asking: Asking,
    listing: Result<Query<Listing>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    operator(&asking)?;
    let wrong = |why: String| Problem::new(StatusCode::BAD_REQUEST, why);
    let Query(listing) = listing.map_err(|error| wrong(error.body_text()))?;
    let is_cursor = |cursor: &String| {
        cursor.len() == 32
            && cursor.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
    };
    if listing.cursor.as_ref().is_some_and(|cursor| !is_cursor(cursor)) {
        return Err(wrong("cursor: none of a list".to_owned()));
    }
    let mut deeds =
        studio.jobs(move |jobs| jobs.deeds(listing.cursor.as_deref(), PAGE + 1)).await?;
    let more = deeds.len() > PAGE;
    deeds.truncate(PAGE);
    let next = deeds.last().filter(|_| more).map(|deed| deed.n.clone());
    let shown = deeds.iter().map(|deed| json!({
        "at": date(deed.at), "tenant": deed.tenant, "who": deed.who, "did": deed.did, "what": deed.what,
    }));
    Ok(Json(json!({"entries": shown.collect::<Vec<_>>(), "next_cursor": next})))
}
