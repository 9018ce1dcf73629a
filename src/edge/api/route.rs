//! From a request to the interface that answers it: what is malformed, too much, or of nobody who may ask is
//! refused on the way.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, HOST, HeaderMap, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use tracing::Instrument;

use crate::edge::api::admin;
use crate::edge::api::admin::Task;
use crate::edge::api::hub;
use crate::edge::api::hub::schema::{Ask, What, Wide};
use crate::edge::api::native;
use crate::edge::api::s3;
use crate::edge::api::s3::keys;
use crate::edge::api::status;
use crate::edge::front::Front;
use crate::edge::http::access::{Refused, Who};
use crate::edge::http::answer::{Answer, IMMUTABLE, denied, empty, plain, set, unauthorized};
use crate::edge::http::client_stream::RequestBody;
use crate::edge::http::connections::Busy;
use crate::edge::http::request;
use crate::edge::ops::metrics;
use crate::edge::ops::watch::{Api, Asked, Watched};
use crate::edge::options::ORIGIN_STALL;
use crate::edge::state::Edge;
use crate::store::unix_now;
use crate::transport::{ObjectPath, TransportError, TransportErrorKind};

/// Bytes of a request's headers.
const MAX_HEADERS: usize = 32 << 10;
/// Bytes of a request's path and query.
const MAX_PATH: usize = 8 << 10;
/// How long a client waits that found no place.
const BUSY: Duration = Duration::from_secs(1);

/// The methods of reading.
const READS: [Method; 2] = [Method::GET, Method::HEAD];

/// What a path leads to.
enum Route {
    /// An object of the store.
    Native(ObjectPath),
    /// Something of the Hub.
    Hub(Ask),
    /// Something of the Hub that is of no one repository.
    HubWide(Wide),
    /// Something of S3.
    S3(keys::Target),
    Health,
    Ready,
    Metrics,
    /// The page for people.
    Status,
    /// Something that only operators may ask.
    Admin(Task),
    None,
}

impl Route {
    fn of(path: &str, method: &Method) -> Self {
        if let Some(object) = request::object_path(path) {
            return Self::Native(object);
        }
        // `s3` is no organization: its repositories are not reached through the Hub's route.
        if let Some(target) = keys::Target::parse(path) {
            return Self::S3(target);
        }
        if let Some(wide) = Wide::parse(path, !READS.contains(method)) {
            return Self::HubWide(wide);
        }
        if let Some(ask) = Ask::parse(path) {
            return Self::Hub(ask);
        }
        match path {
            "/" => Self::Status,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/prefetch" => Self::Admin(Task::Prefetch),
            "/purge" => Self::Admin(Task::Purge),
            _ => Self::None,
        }
    }

    /// The methods that it takes, beside OPTIONS.
    fn methods(&self) -> &'static [Method] {
        match self {
            Self::Hub(Ask { what: What::PathsInfo, .. }) | Self::Admin(_) => &[Method::POST],
            Self::HubWide(Wide::Write) => {
                &[Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
            }
            _ => &READS,
        }
    }

    fn api(&self) -> Api {
        match self {
            Self::Native(_) => Api::Native,
            Self::Hub(_) | Self::HubWide(_) => Api::Hub,
            Self::S3(_) => Api::S3,
            _ => Api::Own,
        }
    }

    /// Whether it is answered at any time, so that whoever looks after the edge sees it saturated.
    fn is_vital(&self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Metrics)
    }
}

/// Answers a request of a connection, which is `busy` until the answer has gone out.
pub(crate) async fn answer(
    edge: &Arc<Edge>,
    request: Request<RequestBody>,
    busy: Busy,
) -> Response<Watched> {
    let asked = Asked::of(&request, busy, edge.traces.is_some());
    let route = Route::of(request.uri().path(), request.method());
    let (api, version) = (route.api(), request.version());
    let front = edge.front.as_ref().filter(|front| front.takes(request.uri().path()));
    let mut place = None;
    let mut name = String::new();
    let mut answer = match malformed(&request) {
        Some(refused) => refused,
        None if front.is_some() => {
            let vital = front.is_some_and(|front| front.is_vital(request.uri().path()));
            place = edge.limits.enter();
            match front.filter(|_| vital || place.is_some()) {
                Some(front) => fronted(&**front, request, asked.client()).await,
                None => {
                    edge.watch.saturated.fetch_add(1, Ordering::Relaxed);
                    wait(StatusCode::SERVICE_UNAVAILABLE, BUSY)
                }
            }
        }
        None if route.is_vital() => {
            let more = match (&edge.front, &route) {
                (Some(front), Route::Metrics) => front.figures().await,
                _ => String::new(),
            };
            own(edge, &route, &request, &more)
        }
        None => match identify(edge, &request) {
            Err(refused) if api == Api::Hub => hub::worded(*refused),
            Err(refused) => *refused,
            Ok(who) => {
                who.name().clone_into(&mut name);
                place = edge.limits.enter().filter(|_| !edge.cache.is_saturated());
                match (&place, too_many(edge, &who, &asked)) {
                    (None, _) => {
                        edge.watch.saturated.fetch_add(1, Ordering::Relaxed);
                        wait(StatusCode::SERVICE_UNAVAILABLE, BUSY)
                    }
                    (_, Some(refused)) => refused,
                    _ => {
                        let (method, path) = (request.method(), request.uri().path());
                        // The query is left out: signatures stand there.
                        let span = tracing::debug_span!("request", %method, path, who = who.name());
                        let answer = routed(edge, route, &who, request).instrument(span).await;
                        if who.is_anybody() { answer } else { private(answer) }
                    }
                }
            }
        },
    };
    if edge.draining.load(Ordering::Acquire) && version < Version::HTTP_2 {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    edge.watch.over(answer, asked, api, &name, place)
}

/// The answer of the service in front. A body that fails ends its connection.
async fn fronted(front: &dyn Front, request: Request<RequestBody>, client: IpAddr) -> Answer {
    let answer = front.answer(request, client).await;
    answer.map(|body| {
        let failed = |error| {
            TransportError::new(
                TransportErrorKind::Io,
                "this server",
                "the answer",
                "it cannot be finished",
            )
            .caused_by(error)
        };
        body.map_err(failed).boxed_unsync()
    })
}

/// Who asks, or the refusal of a token or URL that is none of ours.
fn identify(edge: &Edge, request: &Request<RequestBody>) -> Result<Who, Box<Answer>> {
    let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
    let who = edge.access.identify(path, query, request.headers(), unix_now());
    who.map_err(|refused| match refused {
        Refused::Token => Box::new(unauthorized()),
        Refused::Forged | Refused::Expired => Box::new(plain(StatusCode::FORBIDDEN)),
    })
}

/// The refusal of a client that sends more than its rate.
fn too_many(edge: &Edge, who: &Who, asked: &Asked) -> Option<Answer> {
    let counted = match who.is_shared() {
        true => edge.limits.count(&asked.client().to_string()),
        false => edge.limits.count(who.name()),
    };
    let pause = counted.err()?;
    edge.watch.limited.fetch_add(1, Ordering::Relaxed);
    Some(wait(StatusCode::TOO_MANY_REQUESTS, pause))
}

/// The same answer for this client alone: no cache between may hand it to others.
fn private(mut answer: Answer) -> Answer {
    let caching = match answer.headers().get(CACHE_CONTROL) == Some(&IMMUTABLE) {
        true => HeaderValue::from_static("private, max-age=31536000, immutable"),
        false => HeaderValue::from_static("private, no-cache"),
    };
    answer.headers_mut().insert(CACHE_CONTROL, caching);
    answer
}

fn wait(status: StatusCode, pause: Duration) -> Answer {
    let mut answer = plain(status);
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    answer.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
    answer
}

/// The answer of a route.
async fn routed(
    edge: &Arc<Edge>,
    route: Route,
    who: &Who,
    request: Request<RequestBody>,
) -> Answer {
    if !route.methods().contains(request.method()) {
        return other_method(&route, request.method());
    }
    let answered = async {
        match route {
            Route::Native(path) => native::answer(edge, &path, who, &request).await,
            Route::Hub(ask) => hub::answer(edge, ask, who, request).await,
            Route::HubWide(wide) => hub::answer_wide(edge, wide, who, &request).await,
            Route::S3(target) => s3::answer(edge, target, who, &request).await,
            Route::Status => status::answer(edge, who, request.method()).await,
            Route::Admin(_) if !who.is_admin() => denied(who),
            Route::Admin(task) => {
                admin::answer(edge, task, request.uri().query().unwrap_or_default()).await
            }
            route => own(edge, &route, &request, ""),
        }
    };
    match tokio::time::timeout(ORIGIN_STALL, answered).await {
        Ok(answer) => answer,
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT),
    }
}

/// The answer about the edge itself.
fn own(edge: &Edge, route: &Route, request: &Request<RequestBody>, more: &str) -> Answer {
    if !route.methods().contains(request.method()) {
        return other_method(route, request.method());
    }
    let is_ready = edge.ready.load(Ordering::Acquire) && !edge.draining.load(Ordering::Acquire);
    let mut answer = match route {
        Route::Ready if !is_ready => plain(StatusCode::SERVICE_UNAVAILABLE),
        Route::Health | Route::Ready => metrics::health(),
        Route::Metrics => metrics::answer(edge, more),
        _ => plain(StatusCode::NOT_FOUND),
    };
    if *request.method() == Method::HEAD {
        *answer.body_mut() = empty();
    }
    answer
}

/// Refuses what is too long, or whose end is said in a way that others may read otherwise.
fn malformed(request: &Request<RequestBody>) -> Option<Answer> {
    let length = |headers: &HeaderMap| -> usize {
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
    };
    let headers = request.headers();
    let status = if headers.contains_key(TRANSFER_ENCODING) {
        StatusCode::LENGTH_REQUIRED
    } else if request.uri().path_and_query().is_some_and(|path| path.as_str().len() > MAX_PATH) {
        StatusCode::URI_TOO_LONG
    } else if length(headers) > MAX_HEADERS {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else if request.version() == Version::HTTP_11 && headers.get_all(HOST).iter().count() != 1 {
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

/// The answer to OPTIONS, and to a method that it does not take.
fn other_method(route: &Route, method: &Method) -> Answer {
    let mut answer = match (route, method) {
        (Route::None, _) => return plain(StatusCode::NOT_FOUND),
        (_, &Method::OPTIONS) => {
            let mut answer = plain(StatusCode::NO_CONTENT);
            *answer.body_mut() = empty();
            answer
        }
        _ => plain(StatusCode::METHOD_NOT_ALLOWED),
    };
    let methods: Vec<&str> = route.methods().iter().map(Method::as_str).collect();
    set(&mut answer, ALLOW, format!("{}, OPTIONS", methods.join(", ")));
    answer
}
