//! The events of a job as they happen: server-sent, each under its number, so that who comes back goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use futures_util::stream;

use super::asking::{Asking, Named, Segment, Shared};
use crate::jobs::{Event, Job};
use crate::studio::problem::Problem;
use crate::studio::state::Studio;

/// The time between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// How long a stream may be silent.
const SILENCE: Duration = Duration::from_secs(15);
/// Events at a time.
const AT_ONCE: usize = 100;

struct Following {
    studio: Arc<Studio>,
    /// What was shown: it is looked at as long as the stream lasts.
    shown: Option<String>,
    job: Job,
    after: i64,
    said: Instant,
    over: bool,
}

pub(super) async fn stream(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = asking.job(&studio, &id).await?;
    let after = match headers.get("last-event-id") {
        None => 0,
        Some(number) => {
            let number = number.to_str().ok().and_then(|number| number.parse().ok());
            number
                .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "Last-Event-ID: a number"))?
        }
    };
    let shown = headers.get(AUTHORIZATION).and_then(|shown| shown.to_str().ok()).map(str::to_owned);
    let following = Following { studio, shown, job, after, said: Instant::now(), over: false };
    let body = Body::from_stream(stream::unfold(following, next));
    let mut answer = Response::new(body);
    let kind = axum::http::HeaderValue::from_static("text/event-stream");
    answer.headers_mut().insert(axum::http::header::CONTENT_TYPE, kind);
    Ok(answer)
}

/// The next piece of a stream, which ends with the job.
async fn next(mut own: Following) -> Option<(Result<String, std::convert::Infallible>, Following)> {
    while !own.over {
        // A token that counts no more ends the stream: who comes back is told.
        let caller = own.studio.tokens.identify(own.shown.as_deref());
        if !caller.is_some_and(|caller| caller.sees(&own.job.tenant)) {
            return None;
        }
        let (id, after) = (own.job.id.clone(), own.after);
        let look = own.studio.jobs(move |jobs| {
            // The job first: the events that led to its end are then there.
            let over = jobs.get(&id)?.state.is_final();
            Ok((over, jobs.events(&id, after, AT_ONCE)?))
        });
        // A database that is away comes back, or the client does: it says where it was.
        let (over, events) = look.await.unwrap_or_default();
        own.over = over && events.len() < AT_ONCE;
        let mut text: String = events.iter().map(told).collect();
        own.after = events.last().map_or(own.after, |event| event.n);
        if own.over {
            text.push_str("event: end\ndata: {}\n\n");
        } else if text.is_empty() && own.said.elapsed() >= SILENCE {
            text.push_str(":\n\n");
        }
        if !text.is_empty() {
            own.said = Instant::now();
            return Some((Ok(text), own));
        }
        tokio::time::sleep(LOOK).await;
    }
    None
}

fn told(event: &Event) -> String {
    // Kinds come from jobs: one line each. JSON has no line breaks outside of texts, where they are escaped.
    let kind: String = event.kind.chars().filter(|c| !c.is_control()).collect();
    format!("id: {}\nevent: {kind}\ndata: {}\n\n", event.n, event.data)
}
