//! From a request to the face that answers it.
//!
//! A request that two readers could take apart in two ways is refused, and its connection closed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, Request, StatusCode, Version};

use super::answer::{Answer, empty, plain};
use super::hub::{Ask, What};
use super::{Edge, ORIGIN_STALL, hub_face, metrics, pack_face, request, s3, s3_face};
use crate::source::ObjectPath;

/// Bytes of a request's headers.
const MAX_HEADERS: usize = 32 << 10;
/// Bytes of a request's path and query.
const MAX_PATH: usize = 8 << 10;

/// What a path leads to.
enum Face {
    /// An object of the store.
    Pack(ObjectPath),
    /// Something of the Hub.
    Hub(Ask),
    /// Something of S3.
    S3(s3::Target),
    Health,
    Ready,
    Metrics,
    None,
}

impl Face {
    fn of(path: &str) -> Self {
        if let Some(object) = request::object_path(path) {
            return Self::Pack(object);
        }
        // `s3` is no organization: its repositories are not reached through the Hub's face.
        if let Some(target) = s3::Target::parse(path) {
            return Self::S3(target);
        }
        if let Some(ask) = Ask::parse(path) {
            return Self::Hub(ask);
        }
        match path {
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            _ => Self::None,
        }
    }

    /// The methods that it takes, beside OPTIONS.
    fn methods(&self) -> &'static [Method] {
        match self {
            Self::Hub(Ask { what: What::PathsInfo, .. }) => &[Method::POST],
            _ => &[Method::GET, Method::HEAD],
        }
    }
}

/// Answers a request.
pub(super) async fn answer(edge: &Arc<Edge>, request: Request<Incoming>) -> Answer {
    if let Some(refused) = malformed(&request) {
        return refused;
    }
    let face = Face::of(request.uri().path());
    if !face.methods().contains(request.method()) {
        return other_method(&face, request.method());
    }
    let answered = async {
        match face {
            Face::Pack(path) => pack_face::answer(edge, &path, &request).await,
            Face::Hub(ask) => hub_face::answer(edge, ask, request).await,
            Face::S3(target) => s3_face::answer(edge, target, &request).await,
            Face::Ready if !edge.ready.load(Ordering::Acquire) => {
                plain(StatusCode::SERVICE_UNAVAILABLE)
            }
            Face::Health | Face::Ready => metrics::health(),
            Face::Metrics => metrics::answer(edge),
            Face::None => plain(StatusCode::NOT_FOUND),
        }
    };
    match tokio::time::timeout(ORIGIN_STALL, answered).await {
        Ok(answer) => answer,
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT),
    }
}

/// Refuses what is too long, or whose end is said in a way that others may read otherwise.
fn malformed(request: &Request<Incoming>) -> Option<Answer> {
    let length = |headers: &HeaderMap| -> usize {
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
    };
    let status = if request.headers().contains_key(TRANSFER_ENCODING) {
        StatusCode::LENGTH_REQUIRED
    } else if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > MAX_PATH) {
        StatusCode::URI_TOO_LONG
    } else if length(request.headers()) > MAX_HEADERS {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else if request.version() == Version::HTTP_11
        && request.headers().get_all(HOST).iter().count() != 1
    {
        StatusCode::BAD_REQUEST
    } else {
        return None;
    };
    let mut refused = plain(status);
    if request.version() < Version::HTTP_2 {
        refused.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Some(refused)
}

/// The answer to OPTIONS, and to a method that the face does not take.
fn other_method(face: &Face, method: &Method) -> Answer {
    let mut answer = match (face, method) {
        (Face::None, _) => return plain(StatusCode::NOT_FOUND),
        (_, &Method::OPTIONS) => {
            let mut answer = plain(StatusCode::NO_CONTENT);
            *answer.body_mut() = empty();
            answer
        }
        _ => plain(StatusCode::METHOD_NOT_ALLOWED),
    };
    let methods: Vec<&str> = face.methods().iter().map(Method::as_str).collect();
    super::answer::set(&mut answer, ALLOW, format!("{}, OPTIONS", methods.join(", ")));
    answer
}
