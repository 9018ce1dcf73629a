//! Read-only stores on any web server that serves static files with `Range`.
//!
//! A response is matched against the request before its first byte is handed on: whatever the
//! server claims, the body covers exactly `ObjectReader::range` or ends in an error.

mod addresses;
mod answer;
mod body;
mod connect;
mod connections;
mod options;
mod proxy;
mod site;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName,
    HeaderValue, LOCATION, RANGE, TRANSFER_ENCODING,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use url::Url;

use super::{
    Expected, ObjectInfo, ObjectPath, ObjectReader, ReadRange, Transport, TransportError,
    TransportErrorKind,
};
use answer::Answer;
use body::HttpBody;
#[cfg(feature = "studio")]
pub(crate) use connect::config as client_tls;
use connections::{Connections, Payload};
pub use options::HttpOptions;
pub use proxy::Proxies;
use site::Site;

/// Headers that say what a request is.
const OWN_HEADERS: [HeaderName; 6] =
    [ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, HOST, RANGE, TRANSFER_ENCODING];
/// Redirects followed for one request.
const MAX_REDIRECTS: usize = 10;
/// The longest body of an error or a redirect that is read so that its connection can serve again.
const MAX_DRAIN: usize = 64 << 10;
/// How long such a body may take.
const DRAIN_TIME: Duration = Duration::from_millis(200);

/// A store below an `http://` or `https://` address.
#[derive(Debug, Clone)]
pub struct HttpBackend {
    base: Url,
    /// The query of the store's address: it opens the store, so that nobody is shown it.
    query: Option<Arc<str>>,
    /// The address for messages.
    location: Arc<str>,
    headers: HeaderMap,
    connections: Arc<Connections>,
    /// Which artifact the requests are for, if that is known.
    artifact: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
}

/// The header that tells an edge which artifact a request is for, as `name@id` or `@id`: one that did
/// not see the artifact opened then knows which manifest to look at.
pub const ARTIFACT_HEADER: HeaderName = HeaderName::from_static("tenpak-artifact");

impl HttpBackend {
    /// A store whose objects lie below `base`. Nothing is asked of the server yet.
    ///
    /// # Errors
    /// If `base` is no address of a folder.
    pub fn new(base: &str, options: HttpOptions) -> Result<Self, TransportError> {
        let shown = hidden(base);
        let invalid =
            |why: &str| TransportError::new(TransportErrorKind::Invalid, &*shown, "store", why);
        let mut url = Url::parse(base).map_err(|e| invalid("not a URL").caused_by(e))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(invalid("not an http:// or https:// address"));
        }
        if url.fragment().is_some() {
            return Err(invalid("a store's address has no fragment"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            let host = url.host_str().unwrap_or_default();
            let what = "a store's address holds no user name and no password";
            return Err(TransportError::new(TransportErrorKind::Invalid, host, "store", what));
        }
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
        }
        let authorization = match &options.token {
            Some(token) => {
                let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                    .map_err(|e| invalid("the token cannot be sent").caused_by(e))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        for name in options.headers.keys() {
            if OWN_HEADERS.contains(name) {
                let why = format!("the header {name} is TenPak's own and cannot be set");
                return Err(invalid(&why));
            }
        }
        let query = url.query().filter(|query| !query.is_empty()).map(Arc::from);
        if query.is_none() {
            url.set_query(None);
        }
        let location = hidden(url.as_str()).into();
        url.set_query(None);
        let headers = options.headers.clone();
        let connections = Arc::new(Connections::new(options));
        let artifact = None;
        Ok(Self { base: url, query, location, headers, connections, artifact, authorization })
    }

    fn site(&self, path: &ObjectPath) -> Site {
        Site { location: self.location.clone(), object: path.as_str().into() }
    }

    fn url_of(&self, path: &ObjectPath) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path.as_str().split('/'));
        }
        url.set_query(self.query.as_deref());
        url
    }

    /// Sends one request and follows its redirects to the answer.
    async fn send(
        &self,
        method: Method,
        path: &ObjectPath,
        range: &ReadRange,
    ) -> Result<Response<Payload>, TransportError> {
        let site = self.site(path);
        let mut url = self.url_of(path);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&method, &url, range, &site).await?;
            let next = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => next_url(&url, &response, &site)?,
                _ => return Ok(response),
            };
            drain(response.into_body()).await;
            url = self.follow(next);
        }
        Err(site.error(
            TransportErrorKind::Protocol,
            format!(
                "the server redirected more than {MAX_REDIRECTS} times, last to {}",
                shown(&url)
            ),
        ))
    }

    /// Where a redirect leads, with the query that opens the store if that is this server, and without it elsewhere.
    fn follow(&self, mut next: Url) -> Url {
        let own = next.origin() == self.base.origin();
        if own && next.query().is_none() {
            next.set_query(self.query.as_deref());
        } else if !own && next.query() == self.query.as_deref() {
            next.set_query(None);
        }
        next
    }

    async fn send_once(
        &self,
        method: &Method,
        url: &Url,
        range: &ReadRange,
        site: &Site,
    ) -> Result<Response<Payload>, TransportError> {
        let uri = Uri::try_from(url.as_str()).map_err(|e| {
            let what = format!("{} cannot be requested", shown(url));
            site.error(TransportErrorKind::Invalid, what).caused_by(e)
        })?;
        let mut request =
            Request::builder().method(method).uri(uri).header(ACCEPT_ENCODING, "identity");
        if let Some(artifact) = &self.artifact {
            request = request.header(ARTIFACT_HEADER, artifact);
        }
        request = match range {
            ReadRange::Full => request,
            ReadRange::Bounded(range) => {
                let last = range.end.saturating_sub(1);
                request.header(RANGE, format!("bytes={}-{last}", range.start))
            }
            ReadRange::Suffix(last) => request.header(RANGE, format!("bytes=-{last}")),
        };
        let request = request.body(()).map_err(|e| {
            site.error(TransportErrorKind::Invalid, "the request is malformed").caused_by(e)
        })?;
        let (mut head, ()) = request.into_parts();
        if url.origin() == self.base.origin() {
            head.headers
                .extend(self.authorization.iter().map(|token| (AUTHORIZATION, token.clone())));
            for (name, value) in &self.headers {
                head.headers.insert(name, value.clone());
            }
        }
        let answer = self.connections.request(url, &head).await;
        answer.map_err(|error| connect::exchange_error(site, error))
    }
}

/// An address as messages may show it, without its query: signatures stand there.
pub(super) fn hidden(address: &str) -> String {
    match address.split_once('?') {
        Some((before, _)) => format!("{before}?..."),
        None => address.to_owned(),
    }
}

fn shown(url: &Url) -> String {
    hidden(&url[..url::Position::AfterQuery])
}

/// Where a redirect leads: never from https to http, nor to anything else.
fn next_url(url: &Url, response: &Response<Payload>, site: &Site) -> Result<Url, TransportError> {
    let next = response
        .headers()
        .get(LOCATION)
        .and_then(|to| to.to_str().ok())
        .and_then(|to| url.join(to).ok());
    let Some(next) = next else {
        return Err(site.error(
            TransportErrorKind::Protocol,
            format!("{} redirects without a usable Location", shown(url)),
        ));
    };
    let fits = match next.scheme() {
        "https" => true,
        "http" => url.scheme() == "http",
        _ => false,
    };
    if !fits {
        return Err(site.error(
            TransportErrorKind::Invalid,
            format!(
                "refused the redirect from {} to {}: it leaves {}",
                shown(url),
                shown(&next),
                url.scheme()
            ),
        ));
    }
    Ok(next)
}

/// Reads a body that nobody wants, if it is short, so that its connection is used again. Whether
/// that works makes no difference to the answer.
async fn drain(body: Payload) {
    let read = async {
        match body {
            Payload::Hyper(body, _) => drop(Limited::new(body, MAX_DRAIN).collect().await),
            Payload::Socket(mut body) if body.remaining() <= MAX_DRAIN as u64 => {
                let mut waste = [0; 4096];
                while body.read(&mut waste).await.is_ok_and(|count| count > 0) {}
            }
            Payload::Socket(_) => {}
        }
    };
    drop(tokio::time::timeout(DRAIN_TIME, read).await);
}

#[async_trait]
impl Transport for HttpBackend {
    fn location(&self) -> &str {
        &self.location
    }

    fn for_artifact(&self, artifact: &str) -> Option<Arc<dyn Transport>> {
        let artifact = Some(HeaderValue::try_from(artifact).ok()?);
        Some(Arc::new(Self { artifact, ..self.clone() }))
    }

    fn expect(&self, requests: usize) {
        self.connections.prepare(&self.base, requests);
    }

    async fn open(
        &self,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<ObjectReader, TransportError> {
        let site = self.site(path);
        if range.is_empty() {
            return Err(site.error(TransportErrorKind::Invalid, "the range is empty"));
        }
        let response = self.send(Method::GET, path, &range).await?;
        let answer = match Answer::to_get(&response, &range, &site) {
            Ok(answer) => answer,
            Err(error) => {
                drain(response.into_body()).await;
                return Err(error);
            }
        };
        Ok(ObjectReader {
            range: answer.range.clone(),
            size: answer.size,
            version: answer.version,
            head: Some(Box::new(response.headers().clone())),
            body: Box::new(HttpBody::new(response.into_body(), answer.range, site)),
        })
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, TransportError> {
        let site = self.site(path);
        let response = self.send(Method::HEAD, path, &ReadRange::Full).await?;
        if matches!(response.status(), StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Ok(None);
        }
        let answer = Answer::to_get(&response, &ReadRange::Full, &site)?;
        let size = answer.size.ok_or_else(|| {
            site.error(TransportErrorKind::Protocol, "the server does not tell its size")
        })?;
        Ok(Some(ObjectInfo {
            path: path.clone(),
            size,
            modified: answer.modified.unwrap_or(SystemTime::UNIX_EPOCH),
        }))
    }

    async fn put(&self, path: &ObjectPath, _: Vec<Bytes>) -> Result<(), TransportError> {
        Err(read_only(&self.site(path)))
    }

    async fn put_if(&self, path: &ObjectPath, _: Expected, _: Bytes) -> Result<(), TransportError> {
        Err(read_only(&self.site(path)))
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), TransportError> {
        Err(read_only(&self.site(path)))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, TransportError> {
        Err(TransportError::new(
            TransportErrorKind::Unlistable,
            &*self.location,
            prefix,
            "a web server cannot be listed; give the bucket or directory behind it",
        ))
    }
}

fn read_only(site: &Site) -> TransportError {
    site.error(
        TransportErrorKind::ReadOnly,
        "a web server takes no writes; give the bucket or directory behind it",
    )
}
