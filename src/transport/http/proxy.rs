//! Proxies: which requests go through one, as `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say, and the
//! way through it.
//!
//! A request for http goes to the proxy with its whole address. For https the proxy is asked for a tunnel to the
//! server, and sees nothing of what passes.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use url::Url;

/// Which requests go through which proxy.
#[derive(Clone)]
pub struct Proxies(Arc<Matcher>);

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Passwords stand in it.
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

impl Proxies {
    /// As the environment says: `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY`, apart from the hosts, domains and
    /// networks in `NO_PROXY`; in upper or lower case.
    pub fn from_env() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }

    /// The proxy for a request.
    pub(super) fn of(&self, url: &Url) -> Option<Proxy> {
        let uri: Uri = url[..url::Position::AfterPath].parse().ok()?;
        let intercept = self.0.intercept(&uri)?;
        let proxy = intercept.uri();
        let host = proxy.host().unwrap_or_default();
        let port = proxy.port_u16().unwrap_or(match proxy.scheme_str() {
            Some("https") => 443,
            _ => 80,
        });
        Some(Proxy {
            scheme: proxy.scheme_str().unwrap_or("http").to_owned(),
            authority: format!("{host}:{port}").into(),
            authorization: intercept.basic_auth().cloned(),
        })
    }
}

/// Why a proxy is of no help.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) proxy: Arc<str>,
    pub(super) why: String,
    pub(super) may_pass: bool,
}

/// A proxy.
pub(super) struct Proxy {
    scheme: String,
    authority: Arc<str>,
    /// What it is shown.
    pub(super) authorization: Option<HeaderValue>,
}

impl Proxy {
    /// Its host and port.
    pub(super) fn authority(&self) -> Result<&Arc<str>, Refusal> {
        match self.scheme.as_str() {
            "http" => Ok(&self.authority),
            other => {
                Err(self
                    .refusal(format!("{other}:// is not supported, use an http:// proxy"), false))
            }
        }
    }

    pub(super) fn refusal(&self, why: String, may_pass: bool) -> Refusal {
        Refusal { proxy: self.authority.clone(), why, may_pass }
    }

    /// Asks for a tunnel to `server`, a host and port, on a connection to the proxy.
    pub(super) async fn tunnel(&self, tcp: TcpStream, server: &str) -> Result<TcpStream, Refusal> {
        let broken = |error: hyper::Error| self.refusal(error.to_string(), true);
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(broken)?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() =
            server.parse().map_err(|error| self.refusal(format!("{server}: {error}"), false))?;
        if let Ok(host) = HeaderValue::from_str(server) {
            request.headers_mut().insert(HOST, host);
        }
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        if !status.is_success() {
            let why = match status {
                StatusCode::PROXY_AUTHENTICATION_REQUIRED | StatusCode::UNAUTHORIZED => {
                    "it wants a user name and a password, or others (http://USER:PASSWORD@HOST)"
                        .to_owned()
                }
                status => format!("it answered {status} to CONNECT {server}"),
            };
            return Err(self.refusal(why, status.is_server_error()));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(broken)?;
        match upgraded.downcast::<TokioIo<TcpStream>>() {
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
            _ => Err(self.refusal("it sent something into the tunnel".to_owned(), true)),
        }
    }
}
