//! Webhooks: who is told of a tenant's jobs, and what became of it.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::asking::{Asking, Named, Segment, Shared, json as json_of};
use super::shown::date;
use super::submit::idempotency;
use crate::jobs::{Delivery, Hook, State as JobState};
use crate::studio::notify::new_secret;
use crate::studio::problem::Problem;
use crate::studio::tokens::Caller;

/// Characters of an address.
const MAX_URL: usize = 2048;
/// Messages of a log.
const LOG: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    url: String,
    #[serde(default)]
    events: Option<Vec<String>>,
}

const ENDS: [JobState; 3] = [JobState::Succeeded, JobState::Failed, JobState::Cancelled];

fn shown(hook: &Hook) -> Value {
    let events: Vec<String> = hook.states.iter().map(|state| format!("job.{state}")).collect();
    json!({
        "id": hook.id, "url": hook.url, "events": events, "created_at": date(hook.created_at),
        "disabled_at": hook.disabled_at.map(date),
        "urls": {"self": format!("/webhooks/{}", hook.id), "deliveries": format!("/webhooks/{}/deliveries", hook.id)},
    })
}

fn told(message: &Delivery) -> Value {
    let status = match (message.delivered_at, message.due_at) {
        (Some(_), _) => "delivered",
        (None, Some(_)) => "waiting",
        (None, None) => "failed",
    };
    json!({
        "id": message.id, "type": message.kind, "data": message.data, "status": status, "attempts": message.attempts,
        "created_at": date(message.created_at), "delivered_at": message.delivered_at.map(date),
        "next_attempt_at": message.due_at.map(date), "response_status": message.status, "error": message.error,
    })
}

pub(super) async fn create(
    State(studio): State<Shared>,
    asking: Asking,
    request: Request,
) -> Result<Response, Problem> {
    let caller = asking.submits()?;
    let headers = request.headers().clone();
    let (body, bytes) = json_of(request).await?;
    let key = idempotency(&headers, "webhook", &bytes)?;
    let wanted: Wanted = serde_json::from_value(body).map_err(Problem::invalid)?;
    let url = Url::parse(&wanted.url).ok().filter(|_| wanted.url.len() <= MAX_URL);
    let url = url.ok_or_else(|| Problem::invalid("url: expected https://HOST/..."))?;
    studio.outside.check(&url).map_err(|error| Problem::invalid(format!("url: {error}")))?;
    let states = match wanted.events {
        None => ENDS.to_vec(),
        Some(events) => {
            let of =
                |event: &String| ENDS.into_iter().find(|state| format!("job.{state}") == *event);
            let states: Option<Vec<JobState>> = events.iter().map(of).collect();
            states.filter(|states| (1..=ENDS.len()).contains(&states.len())).ok_or_else(|| {
                Problem::invalid("events: of job.succeeded, job.failed and job.cancelled")
            })?
        }
    };
    let secret =
        new_secret().map_err(|why| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, why))?;
    let (tenant, address) = (caller.tenant.clone(), String::from(url));
    let adding =
        studio.jobs(move |jobs| jobs.add_hook(&tenant, &address, &secret, &states, key.as_ref()));
    let hook = adding.await?;
    studio.note(caller, "add webhook", &hook.id).await;
    let mut body = shown(&hook);
    // It is shown this once, and to who sends the same request again.
    body["secret"] = hook.secret.clone().into();
    Ok((StatusCode::CREATED, [(LOCATION, format!("/webhooks/{}", hook.id))], Json(body))
        .into_response())
}

async fn of_tenant(studio: &Shared, caller: &Caller) -> Result<Vec<Hook>, Problem> {
    let tenant = caller.tenant.clone();
    studio.jobs(move |jobs| jobs.hooks(&tenant)).await
}

async fn find(studio: &Shared, caller: &Caller, id: &str) -> Result<Hook, Problem> {
    let found = of_tenant(studio, caller).await?.into_iter().find(|hook| hook.id == id);
    found.ok_or_else(|| Problem::absent("webhook of this id"))
}

pub(super) async fn list(
    State(studio): State<Shared>,
    asking: Asking,
) -> Result<Json<Value>, Problem> {
    let hooks = of_tenant(&studio, asking.submits()?).await?;
    Ok(Json(json!({"webhooks": hooks.iter().map(shown).collect::<Vec<_>>()})))
}

pub(super) async fn one(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
) -> Result<Json<Value>, Problem> {
    Ok(Json(shown(&find(&studio, asking.submits()?, &id).await?)))
}

pub(super) async fn remove(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
) -> Result<StatusCode, Problem> {
    let caller = asking.submits()?;
    let (tenant, hook) = (caller.tenant.clone(), id.clone());
    match studio.jobs(move |jobs| jobs.remove_hook(&tenant, &hook)).await? {
        true => {
            studio.note(caller, "remove webhook", &id).await;
            Ok(StatusCode::NO_CONTENT)
        }
        false => Err(Problem::absent("webhook of this id")),
    }
}

pub(super) async fn deliveries(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
) -> Result<Json<Value>, Problem> {
    let hook = find(&studio, asking.submits()?, &id).await?;
    let all = studio.jobs(move |jobs| jobs.deliveries(&hook.id, LOG)).await?;
    Ok(Json(json!({"deliveries": all.iter().map(told).collect::<Vec<_>>()})))
}

/// Sends a message that is about no job, to see whether it arrives.
pub(super) async fn test(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
) -> Result<Response, Problem> {
    let hook = find(&studio, asking.submits()?, &id).await?;
    let location = format!("/webhooks/{}/deliveries", hook.id);
    studio.jobs(move |jobs| jobs.ping(&hook.id)).await?;
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(json!({"sent": true}))).into_response())
}
