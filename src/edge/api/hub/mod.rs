//! Answers of the Hub's read API: what [`schema`] says of an artifact, and its files.

pub(crate) mod schema;

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt;
use http_body_util::{BodyExt, Limited};
use hyper::header::{HOST, HeaderName, HeaderValue, LINK};
use hyper::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::edge::api::hub::schema::{Ask, Listing, Refusal, What, Wide};
use crate::edge::cache::revision::{Revision, commit};
use crate::edge::http::access::Who;
use crate::edge::http::answer::{
    Answer, IMMUTABLE, NO_CACHE, denied, plain, set, store_refusal, told,
};
use crate::edge::http::client_stream::RequestBody;
use crate::edge::http::object;
use crate::edge::state::Edge;
use crate::format::name::Tag;
use crate::store::{ArtifactGraph, StoreError};

const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
/// The longest form of paths.
const MAX_FORM: usize = 1 << 20;

/// Answers what is asked.
pub(crate) async fn answer(
    edge: &Arc<Edge>,
    ask: Ask,
    who: &Who,
    request: Request<RequestBody>,
) -> Answer {
    let (whole, published) = match find(edge, &ask, who).await {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    let flag = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes())
            .any(|(key, value)| key == name && matches!(&*value, "true" | "True" | "1"))
    };
    let value = match &ask.what {
        What::Resolve(path) => {
            // A commit stays what it is; a tag may move.
            let revision = Revision::parse(ask.revision.as_deref());
            let fixed = matches!(revision, Some(Revision::Commit(_)));
            let caching = if fixed { IMMUTABLE } else { NO_CACHE };
            return file(edge, &whole, path, caching, &parts.method, &parts.headers);
        }
        What::Info => Some(schema::info(&ask.repo, &whole, flag("blobs"))),
        What::Tree(below) => schema::tree(&whole, below, flag("recursive")),
        What::Refs => Some(schema::refs(whole.id)),
        What::Discussions => Some(json!({"discussions": [], "count": 0, "start": 0})),
        What::Commits => Some(schema::commits(whole.id, published)),
        What::AuthCheck => Some(json!({})),
        What::PathsInfo => {
            let Ok(form) = Limited::new(body, MAX_FORM).collect().await else {
                return plain(StatusCode::PAYLOAD_TOO_LARGE);
            };
            let form = String::from_utf8_lossy(&form.to_bytes()).into_owned();
            Some(schema::paths_info(&whole, &schema::form_paths(&form)))
        }
    };
    let commit = commit(whole.id);
    match value {
        Some(value) => {
            let mut answer = told(StatusCode::OK, &value);
            set(&mut answer, COMMIT, commit);
            answer
        }
        None => refuse(Refusal::Entry, "no such folder in this revision", Some(&commit)),
    }
}

/// An artifact, and when it was published under the name and tag that were asked for.
type Found = (Arc<ArtifactGraph>, Option<SystemTime>);

/// Answers what is asked of no one repository.
pub(crate) async fn answer_wide(
    edge: &Arc<Edge>,
    wide: Wide,
    who: &Who,
    request: &Request<RequestBody>,
) -> Answer {
    match wide {
        Wide::Models => match models(edge, who, request).await {
            Ok(answer) => answer,
            Err(error) => store_refusal(&error),
        },
        Wide::Others => told(StatusCode::OK, &json!([])),
        Wide::WhoAmI if who.is_anybody() => {
            said(StatusCode::UNAUTHORIZED, "no token was sent, so that nobody is known")
        }
        Wide::WhoAmI => told(StatusCode::OK, &schema::who(who.name())),
        Wide::Write => said(
            StatusCode::FORBIDDEN,
            "this is a TenPak edge, which serves a store to read: artifacts are written into the store with `tenpak pack`",
        ),
    }
}

/// The repositories that the client may read, page by page.
async fn models(
    edge: &Arc<Edge>,
    who: &Who,
    request: &Request<RequestBody>,
) -> Result<Answer, Arc<StoreError>> {
    let query = request.uri().query().unwrap_or_default();
    let listing = Listing::parse(query);
    let prefix = listing.author.as_ref().map_or(String::new(), |author| format!("{author}/"));
    let names = edge.catalog.names(&prefix).await?;
    let main = Tag::default();
    let own = names.iter().filter(|(name, tag)| *tag == main && who.may_read(name));
    let (page, more) = listing.page(own.map(|(name, _)| name));
    let value = page.iter().map(|name| schema::model(name.as_str())).collect();
    let mut answer = told(StatusCode::OK, &Value::Array(value));
    if let Some(last) = page.last().filter(|_| more) {
        // Clients want the whole address; a proxy before the edge may speak TLS for it.
        let headers = request.headers();
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(HOST).or(request.uri().authority().map(|host| host.as_str()));
        let secure = edge.tls.is_some() || text(FORWARDED_PROTO) == Some("https");
        let scheme = if secure { "https" } else { "http" };
        let next = Listing::after(query, last.as_str());
        let host = host.unwrap_or_default();
        set(&mut answer, LINK, format!("<{scheme}://{host}/api/models?{next}>; rel=\"next\""));
    }
    Ok(answer)
}

/// A refusal in words, which clients show.
fn said(status: StatusCode, message: &'static str) -> Answer {
    let mut answer = told(status, &json!({"error": message}));
    answer.headers_mut().insert(ERROR_MESSAGE, HeaderValue::from_static(message));
    answer
}

/// The artifact that is asked about.
async fn find(edge: &Arc<Edge>, ask: &Ask, who: &Who) -> Result<Found, Box<Answer>> {
    let unknown = || Box::new(refuse(Refusal::Repo, "no such artifact here", None));
    let failed = |error: &StoreError, refusal: Refusal| match error {
        StoreError::NoArtifact { .. } | StoreError::Ambiguous { .. } => {
            Box::new(refuse(refusal, "no such artifact or tag here", None))
        }
        error if error.is_not_found() => {
            Box::new(refuse(refusal, "no such artifact or tag here", None))
        }
        error => Box::new(store_refusal(error)),
    };
    let name = ask.name().ok_or_else(unknown)?;
    if !who.may_read(&name) {
        return Err(Box::new(worded(denied(who))));
    }
    let revision = Revision::parse(ask.revision.as_deref()).ok_or_else(|| {
        Box::new(refuse(Refusal::Revision, "not a tag, nor a commit of 40 digits", None))
    })?;
    let (id, published) = match &revision {
        Revision::Tag(tag) => match edge.catalog.resolve_dated(&name, tag).await {
            Ok(found) => found,
            // Another tag of the repository may be there.
            Err(error) => {
                let refusal = match edge.catalog.resolve(&name, &Default::default()).await {
                    Ok(_) => Refusal::Revision,
                    Err(_) => Refusal::Repo,
                };
                return Err(failed(&error, refusal));
            }
        },
        Revision::Commit(digits) => {
            let found = edge.catalog.find(digits).await;
            (found.map_err(|error| failed(&error, Refusal::Revision))?, None)
        }
    };
    // Under a name that it may read, a client gets that repository's commits only.
    if !who.may_read_all() && !edge.catalog.belongs(&name, id).await {
        return Err(Box::new(refuse(Refusal::Revision, "no such commit of this repository", None)));
    }
    let found = edge.catalog.artifact(id, Some(&name)).await;
    found.map(|whole| (whole, published)).map_err(|error| failed(&error, Refusal::Revision))
}

/// A refusal as the Hub words it: clients read the code, and keep what is missing of a commit.
fn refuse(refusal: Refusal, message: &'static str, commit: Option<&str>) -> Answer {
    let mut answer = said(StatusCode::NOT_FOUND, message);
    answer.headers_mut().insert(ERROR_CODE, refusal.code());
    if let Some(commit) = commit {
        set(&mut answer, COMMIT, commit);
    }
    answer
}

/// A refusal of who asks, as the Hub words it: clients want a code beside the status.
pub(crate) fn worded(mut refused: Answer) -> Answer {
    let code = match refused.status() {
        StatusCode::UNAUTHORIZED => "RepoNotFound",
        _ => "GatedRepo",
    };
    refused.headers_mut().insert(ERROR_CODE, HeaderValue::from_static(code));
    let message = "this token may not read this repository";
    refused.headers_mut().insert(ERROR_MESSAGE, HeaderValue::from_static(message));
    refused
}

fn file(
    edge: &Arc<Edge>,
    whole: &Arc<ArtifactGraph>,
    path: &str,
    caching: HeaderValue,
    method: &Method,
    headers: &hyper::HeaderMap,
) -> Answer {
    let commit = commit(whole.id);
    let place = whole.files.binary_search_by(|(file, _)| file.path.as_str().cmp(path));
    let Some((index, (file, _))) = place.ok().and_then(|at| Some((at, whole.files.get(at)?)))
    else {
        return refuse(Refusal::Entry, "no such file in this revision", Some(&commit));
    };
    let facts = schema::facts(whole, file, caching);
    let mut answer = match object::plan(&facts, method, headers) {
        Ok(plan) => {
            let (whole, files) = (whole.clone(), edge.files.clone());
            let read = move |range| files.read(&whole, index, range).boxed();
            object::answer(&facts, plan, method, read)
        }
        Err(answer) => *answer,
    };
    set(&mut answer, COMMIT, &commit);
    if let Some(tag) = facts.tag.filter(|_| schema::is_lfs(file)) {
        answer.headers_mut().insert(LINKED_ETAG, tag);
        answer.headers_mut().insert(LINKED_SIZE, facts.size.into());
    }
    answer
}
