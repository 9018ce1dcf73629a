//! The read API of S3 over the files of artifacts: GET, HEAD and listings of both versions, for clients that speak
//! nothing else. Signatures of requests are not looked at.

pub(crate) mod keys;
pub(crate) mod xml;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, IF_MODIFIED_SINCE, LAST_MODIFIED};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};

use crate::edge::api::hub::schema;
use crate::edge::api::s3::keys::{Below, Entry, Key, Page, Query, Target};
use crate::edge::cache::catalog::Name;
use crate::edge::cache::revision::Revision;
use crate::edge::http::access::Who;
use crate::edge::http::answer::{Answer, IMMUTABLE, NO_CACHE, empty, full, set, store_status};
use crate::edge::http::client_stream::RequestBody;
use crate::edge::http::object::{self, Facts};
use crate::edge::state::Edge;
use crate::format::name::{ArtifactName, Tag};
use crate::store::{ArtifactGraph, StoreError};

const XML: HeaderValue = HeaderValue::from_static("application/xml");

/// Answers what is asked.
pub(crate) async fn answer(
    edge: &Arc<Edge>,
    target: Target,
    who: &Who,
    request: &Request<RequestBody>,
) -> Answer {
    let mut answered = match &target {
        Target::Service => buckets(edge, who).await,
        Target::Bucket(bucket) => self::bucket(edge, bucket, who, request).await,
        Target::Object { bucket, key } => object(edge, bucket, key, who, request).await,
    }
    .unwrap_or_else(|refused| refusal(&refused, request.uri().path()));
    if *request.method() == Method::HEAD {
        *answered.body_mut() = empty();
    }
    answered
}

/// What S3 calls an error.
struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
}

fn refused(status: StatusCode, code: &'static str, message: &str) -> Refused {
    Refused { status, code, message: message.to_owned() }
}

impl From<Arc<StoreError>> for Refused {
    fn from(error: Arc<StoreError>) -> Self {
        let status =
            if error.is_not_found() { StatusCode::NOT_FOUND } else { store_status(&error) };
        let (code, message) = match status {
            StatusCode::NOT_FOUND => ("NoSuchKey", "no such artifact, tag or file"),
            StatusCode::FORBIDDEN => ("AccessDenied", "nobody who is trusted signed it"),
            StatusCode::SERVICE_UNAVAILABLE => ("SlowDown", "the origin cannot be asked now"),
            _ => ("InternalError", "the origin has it damaged or incomplete"),
        };
        refused(status, code, message)
    }
}

fn refusal(refused: &Refused, resource: &str) -> Answer {
    xml(refused.status, xml::error(refused.code, &refused.message, resource))
}

fn xml(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, XML);
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer
}

/// The names that begin so and that the client may read, in order.
async fn names(edge: &Arc<Edge>, who: &Who, prefix: &str) -> Result<Vec<Name>, Refused> {
    let names = edge.catalog.names(prefix).await?;
    Ok(names.iter().filter(|(name, _)| who.may_read(name)).cloned().collect())
}

async fn buckets(edge: &Arc<Edge>, who: &Who) -> Result<Answer, Refused> {
    let names = names(edge, who, "").await?;
    let buckets: BTreeSet<String> =
        names.iter().map(|(name, _)| keys::place(name).0.to_owned()).collect();
    let buckets: Vec<String> = buckets.into_iter().collect();
    Ok(xml(StatusCode::OK, xml::buckets(&buckets)))
}

async fn bucket(
    edge: &Arc<Edge>,
    bucket: &str,
    who: &Who,
    request: &Request<RequestBody>,
) -> Result<Answer, Refused> {
    let names = names(edge, who, &keys::names(bucket)).await?;
    let query = request.uri().query().unwrap_or_default();
    if !names.iter().any(|(name, _)| keys::place(name).0 == bucket) {
        return Err(refused(StatusCode::NOT_FOUND, "NoSuchBucket", "no artifact has that name"));
    }
    if *request.method() == Method::HEAD {
        return Ok(xml(StatusCode::OK, String::new()));
    }
    match keys::subresource(query).as_deref() {
        None => {}
        Some("location") => return Ok(xml(StatusCode::OK, xml::location())),
        Some(other) => return Err(unanswered(other)),
    }
    let query = Query::parse(query).map_err(|name| {
        let message = format!("the parameter {name} makes no sense");
        Refused { status: StatusCode::BAD_REQUEST, code: "InvalidArgument", message }
    })?;
    let page = list(edge, bucket, query, who, &names).await?;
    Ok(xml(StatusCode::OK, xml::listing(&page, bucket)))
}

fn unanswered(what: &str) -> Refused {
    let message = format!("{what} is not answered here: what is served can be listed and read");
    refused(StatusCode::NOT_IMPLEMENTED, "NotImplemented", &message)
}

/// The keys of a bucket. A tag or a commit is listed where the prefix names it.
async fn list(
    edge: &Arc<Edge>,
    bucket: &str,
    query: Query,
    who: &Who,
    names: &[Name],
) -> Result<Page, Refused> {
    let named = Key::parse(bucket, &query.prefix);
    if let Some(Key { name, revision: Revision::Tag(tag), .. }) = &named
        && who.may_read(name)
    {
        edge.catalog.doubt(name, tag).await;
    }
    let named = named.filter(|key| key.revision != Revision::default());
    let mut page = Page::new(query.clone());
    if let Some(key) = named {
        let root = query.prefix.split('/').next().unwrap_or_default();
        let (whole, published) = open(edge, who, &key).await?;
        push(&mut page, root, &whole, published.unwrap_or(UNIX_EPOCH));
        return Ok(page);
    }
    let mut models: Vec<(String, &ArtifactName)> = names
        .iter()
        .filter(|(name, tag)| keys::place(name).0 == bucket && *tag == Tag::default())
        .map(|(name, _)| (format!("{}/", keys::place(name).1), name))
        .collect();
    // In the order of keys, which is not that of names: `a-b/` comes before `a/`.
    models.sort_unstable();
    for (root, name) in models {
        match page.below(&root) {
            Below::Nothing => {}
            Below::Full => break,
            Below::Common => {
                let (etag, modified) = (String::new(), UNIX_EPOCH);
                let more = Entry { key: root, size: 0, etag, modified };
                if !page.push(more) {
                    break;
                }
            }
            Below::Each => {
                let (whole, published) = edge.catalog.open(name, &Revision::default()).await?;
                let modified = published.unwrap_or(UNIX_EPOCH);
                push(&mut page, root.trim_end_matches('/'), &whole, modified);
            }
        }
    }
    Ok(page)
}

fn push(page: &mut Page, root: &str, whole: &ArtifactGraph, modified: SystemTime) {
    for (file, _) in &whole.files {
        let key = format!("{root}/{}", file.path);
        if !page.push(Entry { key, size: file.size, etag: schema::etag(whole, file), modified }) {
            return;
        }
    }
}

/// The artifact of a key, if the client may read it, and when it was published under that name: clients decide by that
/// time whether they have it. A commit never changes, and has none.
async fn open(
    edge: &Arc<Edge>,
    who: &Who,
    key: &Key,
) -> Result<(Arc<ArtifactGraph>, Option<SystemTime>), Refused> {
    let denied = || {
        let message = "this key may not read this repository";
        refused(StatusCode::FORBIDDEN, "AccessDenied", message)
    };
    if !who.may_read(&key.name) {
        return Err(denied());
    }
    let (whole, published) = edge.catalog.open(&key.name, &key.revision).await?;
    if !who.may_read_all() && !edge.catalog.belongs(&key.name, whole.id).await {
        return Err(denied());
    }
    Ok((whole, published))
}

async fn object(
    edge: &Arc<Edge>,
    bucket: &str,
    key: &str,
    who: &Who,
    request: &Request<RequestBody>,
) -> Result<Answer, Refused> {
    let missing = || refused(StatusCode::NOT_FOUND, "NoSuchKey", "no such artifact, tag or file");
    let key = Key::parse(bucket, key).ok_or_else(missing)?;
    if let Some(what) = keys::subresource(request.uri().query().unwrap_or_default()) {
        return Err(unanswered(&what));
    }
    let caching = match &key.revision {
        Revision::Tag(_) => NO_CACHE,
        Revision::Commit(_) => IMMUTABLE,
    };
    let (whole, published) = open(edge, who, &key).await?;
    let place = whole.files.binary_search_by(|(file, _)| file.path.cmp(&key.path));
    let index = place.map_err(|_| missing())?;
    let (file, _) = whole.files.get(index).ok_or_else(missing)?;
    let facts = Facts { modified: published, ..schema::facts(&whole, file, caching) };
    let headers = trusted_times(request.headers(), published, edge.catalog.freshness());
    let mut answer = match object::plan(&facts, request.method(), &headers) {
        Ok(plan) => {
            let (whole, files) = (whole.clone(), edge.files.clone());
            let read = move |range| files.read(&whole, index, range).boxed();
            object::answer(&facts, plan, request.method(), read)
        }
        Err(mut answer) => {
            let code = match answer.status() {
                StatusCode::RANGE_NOT_SATISFIABLE => "InvalidRange",
                StatusCode::PRECONDITION_FAILED => "PreconditionFailed",
                _ => return Ok(*answer),
            };
            let text = xml::error(code, "not of this object", request.uri().path());
            *answer.body_mut() = full(text);
            answer.headers_mut().insert(CONTENT_TYPE, XML);
            *answer
        }
    };
    // Clients want one, of a commit too.
    let modified = published.unwrap_or(UNIX_EPOCH);
    set(&mut answer, LAST_MODIFIED, httpdate::fmt_http_date(modified));
    Ok(answer)
}

/// The headers of a request, without `If-Modified-Since` where it says a time shortly after the name was published: a
/// copy of that time may be what an edge, or a cache before it, still had of before.
fn trusted_times(
    headers: &HeaderMap,
    published: Option<SystemTime>,
    fresh: Duration,
) -> Cow<'_, HeaderMap> {
    let since = headers.get(IF_MODIFIED_SINCE).and_then(|since| since.to_str().ok());
    let since = since.and_then(|since| httpdate::parse_http_date(since).ok());
    // Times are told in whole seconds; a file that has the very time is of this version.
    let whole = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let age = since.zip(published).and_then(|(since, at)| whole(since).checked_sub(whole(at)));
    let is_doubtful = |age: u64| (1..=fresh.as_secs() + 1).contains(&age);
    match age.is_some_and(is_doubtful) {
        false => Cow::Borrowed(headers),
        true => {
            let mut headers = headers.clone();
            headers.remove(IF_MODIFIED_SINCE);
            Cow::Owned(headers)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn a_copy_of_the_moment_of_publishing_is_doubted() {
        let published = UNIX_EPOCH + Duration::from_millis(784_111_777_500);
        for (since, fresh, kept) in [
            // The time that was told is that of this version.
            ("Sun, 06 Nov 1994 08:49:37 GMT", 5, true),
            ("Sun, 06 Nov 1994 08:49:38 GMT", 5, false),
            ("Sun, 06 Nov 1994 08:49:43 GMT", 5, false),
            ("Sun, 06 Nov 1994 08:49:44 GMT", 5, true),
            ("Sun, 06 Nov 1994 08:49:40 GMT", 0, true),
            ("Sun, 06 Nov 1994 08:49:30 GMT", 5, true),
            ("yesterday", 5, true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(IF_MODIFIED_SINCE, HeaderValue::from_static(since));
            let got = trusted_times(&headers, Some(published), Duration::from_secs(fresh));
            assert_eq!(got.contains_key(IF_MODIFIED_SINCE), kept, "{since} {fresh}");
            let got = trusted_times(&headers, None, Duration::from_secs(fresh));
            assert!(got.contains_key(IF_MODIFIED_SINCE));
        }
    }
}
