//! Requests to the world outside on behalf of others.
//!
//! A name is resolved once per connection, every address of it is checked, and the connection goes to one that was:
//! a name service that changes its answer changes nothing. Redirects are checked as if they had been asked for, and
//! lose what was secret. Only servers that the operator named may have other addresses.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, LOCATION, USER_AGENT,
};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::guard::{authority, is_public, literal};
use crate::transport::http::{HttpOptions, client_tls};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may take until its answer begins, and between two pieces of it.
const SILENCE: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutsideError {
    /// It may not be asked.
    #[error("{0}")]
    Refused(String),
    /// It is not there.
    #[error("{0}: there is no such thing, or it is not shown to this token")]
    Absent(String),
    /// Another try may fare better.
    #[error("{what}: {why}")]
    Passing {
        /// What was asked for.
        what: String,
        /// What happened.
        why: String,
    },
    /// The answer is none that can be used.
    #[error("{what}: {why}")]
    Wrong {
        /// What was asked for.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl OutsideError {
    pub(super) fn passing(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Passing { what: what.to_string(), why: why.to_string() }
    }

    pub(super) fn wrong(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::Wrong { what: what.to_string(), why: why.to_string() }
    }
}

/// Gives the addresses of a host and port.
pub type Resolve = Arc<
    dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>>
        + Send
        + Sync,
>;

/// A client for requests that others have a say in.
#[derive(Clone)]
pub struct Outside {
    /// `host:port` of servers that may have any address and speak http.
    allowed: Arc<HashSet<String>>,
    /// Whether nothing is checked: who asks could connect by themselves.
    open: bool,
    resolve: Resolve,
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
    certificates: Arc<Vec<Vec<u8>>>,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An answer whose head is there.
pub(in crate::studio) struct Heard {
    pub(in crate::studio) status: StatusCode,
    pub(in crate::studio) headers: HeaderMap,
    body: Incoming,
    what: String,
}

impl Outside {
    /// A client that reaches public addresses, and the servers `allowed` (`host:port`) wherever they are.
    pub fn guarded(allowed: &[String], certificates: Vec<Vec<u8>>) -> Self {
        let allowed = allowed.iter().map(|one| one.to_ascii_lowercase()).collect();
        Self {
            allowed: Arc::new(allowed),
            open: false,
            resolve: Arc::new(|host, port| {
                Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
            }),
            tls: Arc::default(),
            certificates: Arc::new(certificates),
        }
    }

    /// A client for whoever runs this program by hand.
    pub fn open(certificates: Vec<Vec<u8>>) -> Self {
        Self { open: true, ..Self::guarded(&[], certificates) }
    }

    #[cfg(test)]
    pub(super) fn resolving(mut self, resolve: Resolve) -> Self {
        self.resolve = resolve;
        self
    }

    /// Refuses an address that is not asked, as far as it says so itself.
    pub(in crate::studio) fn check(&self, url: &Url) -> Result<(), OutsideError> {
        self.checked(url).map(drop)
    }

    /// Gives whether the operator named the server.
    fn checked(&self, url: &Url) -> Result<bool, OutsideError> {
        let refused = |why: &str| Err(OutsideError::Refused(format!("{}: {why}", shown(url))));
        let Some(authority) = authority(url) else {
            return refused("expected https://HOST/..., without a user");
        };
        let named = self.open || self.allowed.contains(&authority.to_ascii_lowercase());
        if named {
            return Ok(true);
        }
        if url.scheme() != "https" {
            return refused("only https is asked");
        }
        match literal(url) {
            Some(address) if !is_public(address) => refused(INSIDE),
            _ => Ok(false),
        }
    }

    async fn connect(&self, url: &Url) -> Result<Box<dyn Io>, OutsideError> {
        let named = self.checked(url)?;
        let failed = |why: String| OutsideError::passing(shown(url), why);
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let connecting = async {
            let found = match literal(url) {
                Some(address) => vec![SocketAddr::new(address, port)],
                None => (self.resolve)(host.clone(), port)
                    .await
                    .map_err(|error| failed(format!("no address: {error}")))?,
            };
            // A name that leads inside with one of its addresses means harm with all of them.
            if !named && found.iter().any(|address| !is_public(address.ip())) {
                return Err(OutsideError::Refused(format!("{}: {INSIDE}", shown(url))));
            }
            let mut last = "it has no address".to_owned();
            for address in found {
                match TcpStream::connect(address).await {
                    Ok(tcp) => {
                        tcp.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
                        return self.secured(url, host, tcp).await;
                    }
                    Err(error) => last = format!("cannot connect: {error}"),
                }
            }
            Err(failed(last))
        };
        let late = |_| Err(failed("cannot connect: it takes too long".to_owned()));
        tokio::time::timeout(CONNECT, connecting).await.unwrap_or_else(late)
    }

    async fn secured(
        &self,
        url: &Url,
        host: String,
        tcp: TcpStream,
    ) -> Result<Box<dyn Io>, OutsideError> {
        if url.scheme() == "http" {
            return Ok(Box::new(tcp));
        }
        let wrong = |why: String| OutsideError::wrong(shown(url), why);
        let tls = match self.tls.get() {
            Some(tls) => tls.clone(),
            None => {
                let options = HttpOptions {
                    more_roots_pem: (*self.certificates).clone(),
                    ..HttpOptions::default()
                };
                let made = client_tls(&options).map_err(|error| wrong(error.to_string()))?;
                self.tls.get_or_init(|| Arc::new(made)).clone()
            }
        };
        let name = ServerName::try_from(host).map_err(|error| wrong(error.to_string()))?;
        let connected = TlsConnector::from(tls).connect(name, tcp).await;
        let failed = |error: std::io::Error| OutsideError::passing(shown(url), error);
        Ok(Box::new(connected.map_err(failed)?))
    }

    /// Asks once; redirects are answers.
    pub(in crate::studio) async fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Heard, OutsideError> {
        let io = self.connect(url).await?;
        let failed = |error: &dyn fmt::Display| OutsideError::passing(shown(url), error);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
            .await
            .map_err(|e| failed(&e))?;
        // It ends with the answer's body.
        tokio::spawn(async move { drop(connection.await) });
        let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let mut request = Request::builder()
            .method(method.clone())
            .uri(target)
            .body(Full::new(body.clone()))
            .map_err(|error| failed(&error))?;
        let own = request.headers_mut();
        own.extend(headers.clone());
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        own.insert(HOST, HeaderValue::try_from(host).map_err(|error| failed(&error))?);
        own.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("tenpak/", env!("CARGO_PKG_VERSION"))),
        );
        own.insert(CONNECTION, HeaderValue::from_static("close"));
        if !body.is_empty() {
            own.insert(CONTENT_LENGTH, body.len().into());
        }
        let answer = tokio::time::timeout(SILENCE, sender.send_request(request)).await;
        let answer = answer.map_err(|_| failed(&"no answer comes"))?.map_err(|e| failed(&e))?;
        let (head, body) = answer.into_parts();
        Ok(Heard { status: head.status, headers: head.headers, body, what: shown(url) })
    }

    /// Gets what is at an address, through redirects; an answer that is none is an error.
    pub(in crate::studio) async fn get(
        &self,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Heard, OutsideError> {
        self.follow(&Method::GET, url, headers).await
    }

    /// The same with another method that changes nothing.
    pub(super) async fn follow(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Heard, OutsideError> {
        let (mut at, mut headers) = (url.clone(), headers.clone());
        for _ in 0..=REDIRECTS {
            let heard = self.ask(method, &at, &headers, Bytes::new()).await?;
            if !heard.status.is_redirection() {
                return heard.right();
            }
            let next =
                heard.headers.get(LOCATION).and_then(|next| at.join(next.to_str().ok()?).ok());
            let Some(next) = next else {
                return Err(OutsideError::wrong(shown(&at), "a redirect to nowhere"));
            };
            if next.origin() != at.origin() {
                headers.remove(AUTHORIZATION);
            }
            at = next;
        }
        Err(OutsideError::wrong(shown(url), format!("more than {REDIRECTS} redirects")))
    }
}

const INSIDE: &str = "its address is this machine's or a private network's; the operator may name it with \
    --allow-private HOST:PORT";

impl Heard {
    fn right(self) -> Result<Self, OutsideError> {
        match self.status {
            status if status.is_success() => Ok(self),
            StatusCode::NOT_FOUND
            | StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::GONE => Err(OutsideError::Absent(self.what)),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(OutsideError::passing(self.what, status))
            }
            status => Err(OutsideError::wrong(self.what, status)),
        }
    }

    /// The next piece of the body; none at its end.
    pub(in crate::studio) async fn piece(&mut self) -> Result<Option<Bytes>, OutsideError> {
        loop {
            let next = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let next = next.map_err(|_| OutsideError::passing(&self.what, "nothing more comes"))?;
            let Some(frame) = next else { return Ok(None) };
            let frame = frame.map_err(|error| OutsideError::passing(&self.what, error))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, of at most so many bytes.
    pub(in crate::studio) async fn whole(mut self, most: usize) -> Result<Bytes, OutsideError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            if all.len() + piece.len() > most {
                return Err(OutsideError::wrong(&self.what, format!("over {most} bytes")));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

/// An address without what may be secret in it.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // What has no user takes none.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers each connection with these heads in turn; gives its port.
    async fn server(answers: Vec<String>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut heard = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                heard.push(String::from_utf8_lossy(&head[..read]).into_owned());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            heard
        });
        (port, task)
    }

    fn to(port: u16) -> Resolve {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        Arc::new(move |_, _| Box::pin(async move { Ok(vec![address]) }))
    }

    fn refused<T>(result: Result<T, OutsideError>) -> bool {
        matches!(result, Err(OutsideError::Refused(_)))
    }

    #[tokio::test]
    async fn what_leads_inside_is_not_asked() {
        let client = Outside::guarded(&[], Vec::new());
        for inside in [
            "https://127.0.0.1/",
            "https://10.1.2.3/",
            "https://169.254.169.254/latest/meta-data/",
            "https://[::1]/",
            "https://0x7f000001/",
            "https://localhost/",
            "http://example.com/",
            "file:///etc/passwd",
            "ftp://host/x",
            "https://user:secret@example.com/",
        ] {
            let url = Url::parse(inside).unwrap();
            let error = client.get(&url, &HeaderMap::new()).await.err().unwrap();
            assert!(matches!(error, OutsideError::Refused(_)), "{inside}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        // A name of elsewhere with an address of here.
        let client = client.resolving(to(1));
        assert!(refused(
            client.get(&Url::parse("https://weights.example/x").unwrap(), &HeaderMap::new()).await
        ));
    }

    /// The first answer of the name service is public, the second is not: each connection is checked.
    #[tokio::test]
    async fn a_name_that_changes_its_answer_is_checked_each_time() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let client = Outside::guarded(&[], Vec::new()).resolving(Arc::new(move |_, _| {
            let inside = counted.fetch_add(1, Ordering::SeqCst) > 0;
            let address = if inside { [127, 0, 0, 1] } else { [192, 0, 1, 1] };
            Box::pin(async move { Ok(vec![SocketAddr::from((address, 9))]) })
        }));
        let url = Url::parse("https://rebinds.example/").unwrap();
        // Public, and so asked (nobody answers there), within the time of a test.
        let first =
            tokio::time::timeout(Duration::from_millis(50), client.get(&url, &HeaderMap::new()))
                .await;
        assert!(!first.is_ok_and(refused));
        assert!(refused(client.get(&url, &HeaderMap::new()).await));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn redirects_are_checked_and_lose_secrets() {
        let mut secret = HeaderMap::new();
        secret.insert(AUTHORIZATION, HeaderValue::from_static("Bearer secret"));
        let head =
            |to: &str| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned();
        // To another server that is allowed: without the token.
        let (second, heard_second) = server(vec![whole.clone()]).await;
        let (first, heard) = server(vec![head(&format!("http://127.0.0.1:{second}/y"))]).await;
        let allowed = [format!("127.0.0.1:{first}"), format!("127.0.0.1:{second}")];
        let url = Url::parse(&format!("http://127.0.0.1:{first}/x?sig=1")).unwrap();
        let got = Outside::guarded(&allowed, Vec::new()).get(&url, &secret).await.unwrap();
        assert_eq!(&got.whole(10).await.unwrap()[..], b"ok");
        assert!(heard.await.unwrap()[0].contains("Bearer secret"));
        let heard = &heard_second.await.unwrap()[0];
        assert!(heard.starts_with("GET /y HTTP/1.1") && !heard.contains("secret"), "{heard}");
        // To whatever is inside: refused.
        for inside in [
            "http://127.0.0.1:1/",
            "https://10.0.0.1/",
            "file:///etc/passwd",
            "http://localhost:1/",
        ] {
            let (first, _) = server(vec![head(inside)]).await;
            let url = Url::parse(&format!("http://127.0.0.1:{first}/")).unwrap();
            let client = Outside::guarded(&[format!("127.0.0.1:{first}")], Vec::new());
            assert!(refused(client.get(&url, &secret).await), "{inside}");
        }
        // A circle ends; a body that is too long does, too.
        let (port, _) = server(vec![head("/"); 7]).await;
        let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let client = Outside::guarded(&[format!("127.0.0.1:{port}")], Vec::new());
        assert!(matches!(client.get(&url, &secret).await, Err(OutsideError::Wrong { .. })));
        let (port, _) = server(vec![whole]).await;
        let url = Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let client = Outside::guarded(&[format!("127.0.0.1:{port}")], Vec::new());
        let got = client.get(&url, &secret).await.unwrap();
        assert!(matches!(got.whole(1).await, Err(OutsideError::Wrong { .. })));
    }
}
