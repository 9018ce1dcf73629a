//! Jobs as clients see them.

use serde_json::{Value, json};

use crate::format::time;
use crate::jobs::{Job, State as JobState};
use crate::store::unix_now;

/// A time in milliseconds as text.
pub(super) fn date(ms: i64) -> String {
    time::date(u64::try_from(ms).unwrap_or(0) / 1000)
}

/// A job as clients see it.
pub(super) fn shown(job: &Job) -> Value {
    let url = |rest: &str| format!("/jobs/{}{rest}", job.id);
    let times = [("started_at", job.started_at), ("finished_at", job.finished_at)];
    let artifact = (job.state == JobState::Succeeded).then(|| format!("/artifact/{}", job.id));
    let mut object = json!({
        "id": job.id,
        "kind": job.kind,
        "status": job.state,
        "tenant": job.tenant,
        "request": job.request,
        "priority": job.priority,
        "created_at": date(job.created_at),
        "progress": job.progress,
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "worker": job.worker,
        "result": job.result,
        "error": job.error,
        "retry_of": job.retry_of,
        "events": job.events,
        "estimated_finish": finish(job),
        "urls": {
            "self": url(""), "cancel": url("/cancel"), "retry": url("/retry"), "events": url("/events"),
            "log": url("/log"), "artifact": artifact,
        },
    });
    if let Value::Object(object) = &mut object {
        for (name, time) in times {
            object.insert(name.to_owned(), time.map(date).into());
        }
        // A path of this machine is nobody's matter.
        if let Some(Value::Object(request)) = object.get_mut("request") {
            request.remove("source");
            request.remove("traceparent");
        }
    }
    object
}

/// When a job that runs may be done, if it goes on as it went.
fn finish(job: &Job) -> Option<String> {
    job.lease_until?;
    let (progress, since) = (job.progress.as_ref()?, job.started_at?);
    let (done, total) = (progress["done"].as_f64()?, progress["total"].as_f64()?);
    let now = i64::try_from(unix_now()).ok()?.checked_mul(1000)?;
    if done <= 0.0 || total < done || now <= since {
        return None;
    }
    Some(date(since + ((now - since) as f64 * total / done) as i64))
}
