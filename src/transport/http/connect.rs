//! Connections: TCP, with TLS for https, and what their errors mean.

use std::collections::HashSet;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

use super::addresses::Addresses;
use super::options::HttpOptions;
use super::proxy::{Proxy, Refusal};
use super::site::Site;
use crate::transport::{TransportError, TransportErrorKind};

/// Weights flow best over several connections of HTTP/1.1: limits are per connection, and bodies come
/// straight from the socket. HTTP/2 is spoken where a server speaks nothing else.
const HTTP_1: &[u8] = b"http/1.1";
const HTTP_2: &[u8] = b"h2";

/// Opens connections.
#[derive(Debug)]
pub(super) struct Connector {
    options: HttpOptions,
    addresses: Addresses,
    /// Made on first use: it reads the system's roots.
    tls: OnceLock<Tls>,
    /// Servers that take HTTP/2 alone.
    http2: Mutex<HashSet<Arc<str>>>,
}

struct Tls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// Why no answer came.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// TLS cannot be set up on this machine.
    Setup(Box<dyn Error + Send + Sync>),
    /// No connection.
    Connect(io::Error),
    /// A proxy refuses.
    Proxy(Refusal),
    /// The connection broke, or the answer is malformed.
    Http(hyper::Error),
}

/// A connection.
pub(super) enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Secure(tls) => tls.get_ref().0,
        }
    }
}

impl Connector {
    pub(super) fn new(options: HttpOptions) -> Self {
        let addresses = Addresses::new(options.addresses.clone());
        Self { options, addresses, tls: OnceLock::new(), http2: Mutex::default() }
    }

    /// Connects to the server of `url`, an http or https address. Gives whether HTTP/2 is spoken.
    pub(super) async fn connect(
        &self,
        url: &Url,
        authority: &Arc<str>,
    ) -> Result<(Stream, bool), ExchangeError> {
        if url.scheme() != "https" {
            let tcp = match self.proxy(url) {
                Some(proxy) => self.tcp(proxy.authority().map_err(ExchangeError::Proxy)?).await?,
                None => self.tcp(authority).await?,
            };
            return Ok((Stream::Plain(tcp), false));
        }
        let known = || self.http2.lock().unwrap_or_else(PoisonError::into_inner);
        let mut http2 = known().contains(authority);
        loop {
            match self.secure(url, authority, http2).await {
                Err(ExchangeError::Connect(error)) if !http2 && wants_http2(&error) => {
                    known().insert(authority.clone());
                    http2 = true;
                }
                connected => return Ok((Stream::Secure(Box::new(connected?)), http2)),
            }
        }
    }

    /// The proxy that a request goes through.
    pub(super) fn proxy(&self, url: &Url) -> Option<Proxy> {
        self.options.proxies.as_ref()?.of(url)
    }

    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    async fn tcp(&self, authority: &Arc<str>) -> Result<TcpStream, ExchangeError> {
        let stream = self.timely(self.addresses.connect(authority)).await?;
        stream.set_nodelay(true).map_err(ExchangeError::Connect)?;
        Ok(stream)
    }

    async fn secure(
        &self,
        url: &Url,
        authority: &Arc<str>,
        http2: bool,
    ) -> Result<TlsStream<TcpStream>, ExchangeError> {
        let tls = self.tls()?;
        let config = if http2 { &tls.http2 } else { &tls.http1 };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| ExchangeError::Connect(io::Error::other(error)))?;
        let tcp = match self.proxy(url) {
            None => self.tcp(authority).await?,
            Some(proxy) => {
                let tcp = self.tcp(proxy.authority().map_err(ExchangeError::Proxy)?).await?;
                let tunnel = proxy.tunnel(tcp, authority);
                let opened = tokio::time::timeout(self.options.connect_timeout, tunnel).await;
                let late = |_| Err(proxy.refusal("it opens no tunnel".to_owned(), true));
                opened.unwrap_or_else(late).map_err(ExchangeError::Proxy)?
            }
        };
        self.timely(TlsConnector::from(config.clone()).connect(name, tcp)).await
    }

    async fn timely<T>(
        &self,
        connect: impl Future<Output = io::Result<T>>,
    ) -> Result<T, ExchangeError> {
        match tokio::time::timeout(self.options.connect_timeout, connect).await {
            Ok(connected) => connected.map_err(ExchangeError::Connect),
            Err(_) => Err(ExchangeError::Connect(io::ErrorKind::TimedOut.into())),
        }
    }

    fn tls(&self) -> Result<&Tls, ExchangeError> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls);
        }
        let config = config(&self.options).map_err(ExchangeError::Setup)?;
        let speaking = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Ok(self.tls.get_or_init(|| Tls { http1: speaking(HTTP_1), http2: speaking(HTTP_2) }))
    }
}

/// The roots are those given, or else the system's and more that were given.
pub(crate) fn config(options: &HttpOptions) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    if options.roots_pem.is_none() {
        // SSL_CERT_FILE and SSL_CERT_DIR count.
        let native = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(native.certs);
    }
    for pem in options.roots_pem.iter().chain(&options.more_roots_pem) {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate?)?;
        }
    }
    if roots.is_empty() {
        return Err("the system has no certificates to trust".into());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Whether the server refused HTTP/1.1.
fn wants_http2(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Secure(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Secure(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Why no answer came.
pub(super) fn exchange_error(site: &Site, error: ExchangeError) -> TransportError {
    let error = match error {
        ExchangeError::Setup(error) => {
            return site.error(TransportErrorKind::Io, "TLS cannot be set up").caused_by(error);
        }
        ExchangeError::Connect(error) => {
            let (kind, message) = match cause_of(&error) {
                Cause::Certificate => {
                    (TransportErrorKind::Invalid, "the server's certificate is not trusted")
                }
                _ => (TransportErrorKind::Transient, "cannot connect"),
            };
            return site.error(kind, message).caused_by(error);
        }
        ExchangeError::Proxy(Refusal { proxy, why, may_pass }) => {
            let kind = match may_pass {
                true => TransportErrorKind::Transient,
                false => TransportErrorKind::Denied,
            };
            return site.error(kind, format!("the proxy {proxy} refuses: {why}"));
        }
        ExchangeError::Http(error) => error,
    };
    let (kind, message) = match cause_of(&error) {
        Cause::Protocol => (TransportErrorKind::Protocol, "the server's answer is malformed"),
        _ => (TransportErrorKind::Transient, "the connection failed before an answer"),
    };
    site.error(kind, message).caused_by(error)
}

/// Why the socket of a body failed.
pub(super) fn socket_error(site: &Site, error: io::Error, at: u64) -> TransportError {
    let what = format!("the connection broke at byte {at} of the object");
    site.error(TransportErrorKind::Transient, what).caused_by(error)
}

/// Why a body stopped.
pub(super) fn body_error(site: &Site, error: hyper::Error, at: u64) -> TransportError {
    let (kind, what) = match cause_of(&error) {
        Cause::Short => (TransportErrorKind::Protocol, "the body ends early"),
        Cause::Protocol => (TransportErrorKind::Protocol, "the body is malformed"),
        _ => (TransportErrorKind::Transient, "the connection broke"),
    };
    site.error(kind, format!("{what} at byte {at} of the object")).caused_by(error)
}

enum Cause {
    Certificate,
    Short,
    Protocol,
    Other,
}

fn cause_of(error: &(dyn Error + 'static)) -> Cause {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) => Cause::Certificate,
                _ => Cause::Other,
            };
        }
        if let Some(http) = error.downcast_ref::<hyper::Error>()
            && http.is_parse()
        {
            return Cause::Protocol;
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            // What an io::Error wraps is not its source.
            match io.get_ref().map(|inner| cause_of(inner)) {
                None | Some(Cause::Other) => {}
                Some(cause) => return cause,
            }
            match io.kind() {
                io::ErrorKind::UnexpectedEof => return Cause::Short,
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => return Cause::Protocol,
                _ => {}
            }
        }
        next = error.source();
    }
    Cause::Other
}
