//! The read API of S3 over the files of artifacts: GET, HEAD and ListObjectsV2, for clients that speak
//! nothing else. Signatures of requests are not looked at.

pub(crate) mod keys;
pub(crate) mod xml;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LAST_MODIFIED};
use hyper::{Method, Request, Response, StatusCode};

use crate::edge::api::hub::schema;
use crate::edge::api::s3::keys::{Below, Entry, Key, Page, Query, Target};
use crate::edge::cache::catalog::Name;
use crate::edge::cache::revision::Revision;
use crate::edge::http::access::Who;
use crate::edge::http::answer::{Answer, IMMUTABLE, NO_CACHE, empty, full, set, store_status};
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
    request: &Request<Incoming>,
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
    request: &Request<Incoming>,
) -> Result<Answer, Refused> {
    let names = names(edge, who, &keys::names(bucket)).await?;
    let query = request.uri().query().unwrap_or_default();
    if !names.iter().any(|(name, _)| keys::place(name).0 == bucket) {
        return Err(refused(StatusCode::NOT_FOUND, "NoSuchBucket", "no artifact has that name"));
    }
    if *request.method() == Method::HEAD {
        return Ok(xml(StatusCode::OK, String::new()));
    }
    let is_v2 = url::form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "list-type" && value == "2");
    if !is_v2 {
        let message = "of a bucket only ListObjectsV2 is answered (list-type=2)";
        return Err(refused(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message));
    }
    let query = Query::parse(query).map_err(|name| {
        let message = format!("the parameter {name} makes no sense");
        Refused { status: StatusCode::BAD_REQUEST, code: "InvalidArgument", message }
    })?;
    let page = list(edge, bucket, query, who, &names).await?;
    Ok(xml(StatusCode::OK, xml::listing(&page, bucket)))
}

/// The keys of a bucket. A tag or a commit is listed where the prefix names it.
async fn list(
    edge: &Arc<Edge>,
    bucket: &str,
    query: Query,
    who: &Who,
    names: &[Name],
) -> Result<Page, Refused> {
    let named = Key::parse(bucket, &query.prefix).filter(|key| key.revision != Revision::default());
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
        if !page.push(Entry { key, size: file.size, etag: schema::etag(file), modified }) {
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
    request: &Request<Incoming>,
) -> Result<Answer, Refused> {
    let missing = || refused(StatusCode::NOT_FOUND, "NoSuchKey", "no such artifact, tag or file");
    let key = Key::parse(bucket, key).ok_or_else(missing)?;
    let caching = match &key.revision {
        Revision::Tag(_) => NO_CACHE,
        Revision::Commit(_) => IMMUTABLE,
    };
    let (whole, published) = open(edge, who, &key).await?;
    let place = whole.files.binary_search_by(|(file, _)| file.path.cmp(&key.path));
    let index = place.map_err(|_| missing())?;
    let (file, _) = whole.files.get(index).ok_or_else(missing)?;
    let facts = Facts { modified: published, ..schema::facts(file, caching) };
    let mut answer = match object::plan(&facts, request.method(), request.headers()) {
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
