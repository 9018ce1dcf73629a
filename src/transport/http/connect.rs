//! Clients: two pools of hyper's, one for http and one for https, and what their errors mean.
//!
//! The read buffer is the one tuned thing: every socket read may take [`READ_BUFFER`] bytes, which
//! is large enough to amortise the system call and small enough to stay in a core's cache until it
//! is copied out.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::direct::ExchangeError;
use super::{HttpOptions, Site};
use crate::transport::{TransportError, TransportErrorKind};

/// The most that one read takes from a socket.
pub(super) const READ_BUFFER: usize = 512 << 10;
/// Flow-control window of one HTTP/2 stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// Flow-control window of one HTTP/2 connection.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// The longest HTTP/2 data frame taken.
const FRAME: u32 = 256 << 10;
/// How long an unused connection is kept: less than the 60 s and more of common servers.
const IDLE: Duration = Duration::from_secs(50);

pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// The pools of one store. The one for https is made on first use: it reads the system's roots.
pub(super) struct Clients {
    options: HttpOptions,
    plain: OnceLock<HttpClient>,
    secure: OnceLock<HttpClient>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

impl Clients {
    pub(super) fn new(options: HttpOptions) -> Self {
        Self { options, plain: OnceLock::new(), secure: OnceLock::new() }
    }

    /// The client for URLs of `scheme`.
    pub(super) fn of(&self, scheme: &str, site: &Site) -> Result<&HttpClient, TransportError> {
        let secure = scheme == "https";
        let cell = if secure { &self.secure } else { &self.plain };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let roots = match (secure, &self.options.roots_pem) {
            (false, _) => Roots::None,
            (true, None) => Roots::Native,
            (true, Some(pem)) => Roots::Pem(pem),
        };
        let made = make_client(&self.options, roots)
            .map_err(|e| site.error(TransportErrorKind::Io, "TLS cannot be set up").caused_by(e))?;
        Ok(cell.get_or_init(|| made))
    }
}

enum Roots<'a> {
    None,
    Native,
    Pem(&'a [u8]),
}

fn make_client(
    options: &HttpOptions,
    roots: Roots<'_>,
) -> Result<HttpClient, Box<dyn Error + Send + Sync>> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(options.connect_timeout));
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls_config(roots)?)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(tcp);
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .http1_read_buf_exact_size(READ_BUFFER)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_frame_size(FRAME)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(64)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new());
    Ok(builder.build(connector))
}

fn tls_config(roots: Roots<'_>) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder: ConfigBuilder<ClientConfig, WantsVerifier> =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut store = RootCertStore::empty();
    match roots {
        Roots::None => {}
        Roots::Native => {
            use hyper_rustls::ConfigBuilderExt;
            return Ok(builder.with_native_roots()?.with_no_client_auth());
        }
        Roots::Pem(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                store.add(certificate?)?;
            }
        }
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// Why no answer came.
pub(super) fn request_error(site: &Site, error: ClientError) -> TransportError {
    let (kind, message) = match cause_of(&error) {
        Cause::Certificate => {
            (TransportErrorKind::Invalid, "the server's certificate is not trusted")
        }
        Cause::Protocol => (TransportErrorKind::Protocol, "the server's answer is malformed"),
        _ if error.is_connect() => (TransportErrorKind::Transient, "cannot connect"),
        _ => (TransportErrorKind::Transient, "the connection failed before an answer"),
    };
    site.error(kind, message).caused_by(error)
}

/// Why no answer came over a plain connection.
pub(super) fn exchange_error(site: &Site, error: ExchangeError) -> TransportError {
    let error = match error {
        ExchangeError::Connect(error) => {
            return site.error(TransportErrorKind::Transient, "cannot connect").caused_by(error);
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
