//! Uploads over HTTP: as tus 1.0 has them, each file under a name of its own.

use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::asking::{Asking, Named, Segment, Shared};
use super::submit::idempotency;
use crate::jobs::JobsError;
use crate::studio::problem::Problem;
use crate::studio::uploads::{Offset, UploadId, Uploads};

/// How long a client may be silent while it sends.
const SILENCE: Duration = Duration::from_secs(15);

type File = Named<(String, String)>;

fn number(headers: &HeaderMap, name: &str) -> Result<u64, Problem> {
    let number = headers.get(name).and_then(|number| number.to_str().ok()?.parse().ok());
    number
        .ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, format!("{name}: a number of bytes")))
}

fn id(text: &str) -> Result<UploadId, Problem> {
    text.parse().map_err(|_| Problem::absent("upload of this id and file"))
}

fn told(status: StatusCode, there: Offset) -> Response {
    let headers = [
        ("tus-resumable", "1.0.0".to_owned()),
        ("upload-offset", there.offset.to_string()),
        ("upload-length", there.length.to_string()),
    ];
    (status, headers).into_response()
}

pub(super) async fn begin(
    State(studio): State<Shared>,
    asking: Asking,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let tenant = asking.submits()?.tenant.clone();
    let mut id = UploadId::new()?;
    if let Some(key) = idempotency(&headers, "upload", b"")? {
        let (tenant, wanted) = (tenant.clone(), id.to_string());
        let before = studio.jobs(move |jobs| jobs.keyed(&tenant, &key, &wanted)).await?;
        if let Some(before) = before {
            let wrong = |_| Problem::from(JobsError::OtherRequest);
            id = before.parse().map_err(wrong)?;
        }
    }
    studio.uploads.begin(&tenant, &id)?;
    let body = json!({"id": id.to_string(), "source": format!("upload:{id}")});
    Ok((StatusCode::CREATED, [(LOCATION, format!("/uploads/{id}"))], Json(body)).into_response())
}

pub(super) async fn create(
    State(studio): State<Shared>,
    asking: Asking,
    Named((upload, file)): File,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (tenant, upload) = (&asking.submits()?.tenant, id(&upload)?);
    studio.uploads.create(tenant, &upload, &file, number(&headers, "upload-length")?)?;
    let location = [(LOCATION, format!("/uploads/{upload}/{file}"))];
    let there = studio.uploads.offset(tenant, &upload, &file)?;
    Ok((location, told(StatusCode::CREATED, there)).into_response())
}

pub(super) async fn offset(
    State(studio): State<Shared>,
    asking: Asking,
    Named((upload, file)): File,
) -> Result<Response, Problem> {
    let there = studio.uploads.offset(&asking.submits()?.tenant, &id(&upload)?, &file)?;
    Ok(told(StatusCode::OK, there))
}

pub(super) async fn append(
    State(studio): State<Shared>,
    asking: Asking,
    Named((upload, file)): File,
    request: Request,
) -> Result<Response, Problem> {
    let (tenant, upload) = (&asking.submits()?.tenant, id(&upload)?);
    let offset = number(request.headers(), "upload-offset")?;
    let (open, there) = studio.uploads.append(tenant, &upload, &file, offset)?;
    let mut left = there.length - there.offset;
    let mut body = request.into_body().into_data_stream();
    // What has arrived stays, also where the rest does not come.
    // So does it where a client falls silent: it goes on later from there, and holds nobody up.
    while let Ok(Some(Ok(piece))) = tokio::time::timeout(SILENCE, body.next()).await {
        left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "these are more bytes than the file has")
        })?;
        tokio::task::block_in_place(|| Uploads::write(&open, &piece))?;
    }
    drop(open);
    studio.uploads.settle(tenant, &upload, &file)?;
    let there = studio.uploads.offset(tenant, &upload, &file)?;
    Ok(told(StatusCode::NO_CONTENT, there))
}

pub(super) async fn whole(
    State(studio): State<Shared>,
    asking: Asking,
    Named(upload): Segment,
) -> Result<Json<Value>, Problem> {
    let upload = id(&upload)?;
    studio.uploads.whole(&asking.submits()?.tenant, &upload)?;
    Ok(Json(
        json!({"id": upload.to_string(), "source": format!("upload:{upload}"), "complete": true}),
    ))
}

pub(super) async fn remove(
    State(studio): State<Shared>,
    asking: Asking,
    Named(upload): Segment,
) -> Result<StatusCode, Problem> {
    studio.uploads.remove(&asking.submits()?.tenant, &id(&upload)?)?;
    Ok(StatusCode::NO_CONTENT)
}
