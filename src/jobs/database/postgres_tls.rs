//! TLS to PostgreSQL. Whoever asks for it gets a server whose certificate was checked, name and all.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use crate::jobs::error::DatabaseError;
use crate::transport::http::{HttpOptions, client_tls};

/// What an address says of TLS.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The address without it, as the client library reads it.
    pub(super) url: String,
    /// Whether there is TLS.
    pub(super) tls: bool,
    /// A file of certificates (PEM) to trust in place of the system's.
    pub(super) roots: Option<String>,
}

/// Reads `sslmode` (`require`, `verify-ca` and `verify-full` are all the last of them) and `sslrootcert`.
pub(super) fn wanted(url: &str) -> Wanted {
    let (before, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut tls, mut roots, mut rest) = (false, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", "require" | "verify-ca" | "verify-full")) => {
                tls = true;
                rest.push("sslmode=require");
            }
            Some(("sslrootcert", path)) => {
                let pair = format!("x={path}");
                let mut decoded = url::form_urlencoded::parse(pair.as_bytes());
                roots = decoded.next().map(|(_, path)| path.into_owned());
            }
            _ => rest.push(pair),
        }
    }
    let question = if rest.is_empty() { "" } else { "?" };
    Wanted { url: format!("{before}{question}{}", rest.join("&")), tls, roots }
}

#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Tls {
    pub(super) fn new(roots: Option<&str>) -> Result<Self, DatabaseError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| DatabaseError::Failed(error);
        let pem = roots.map(|path| {
            std::fs::read(path).map_err(|error| format!("sslrootcert {path}: {error}"))
        });
        let roots_pem = pem.transpose().map_err(|why| failed(why.into()))?;
        let options = HttpOptions { roots_pem, ..HttpOptions::default() };
        Ok(Self(TlsConnector::from(Arc::new(client_tls(&options).map_err(failed)?))))
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Secured;
    type TlsConnect = One;
    type Error = rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<One, Self::Error> {
        Ok(One { connector: self.0.clone(), name: ServerName::try_from(domain.to_owned())? })
    }
}

pub(super) struct One {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for One {
    type Stream = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(
            async move { Ok(Secured(Box::new(self.connector.connect(self.name, stream).await?))) },
        )
    }
}

pub(super) struct Secured(Box<tokio_rustls::client::TlsStream<Socket>>);

impl TlsStream for Secured {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_whether_there_is_tls() {
        let of = |text: &str| {
            let Wanted { url, tls, roots } = wanted(text);
            (url, tls, roots)
        };
        assert_eq!(of("postgres://h/d"), ("postgres://h/d".to_owned(), false, None));
        assert_eq!(
            of("postgres://h/d?sslmode=disable"),
            ("postgres://h/d?sslmode=disable".to_owned(), false, None)
        );
        for mode in ["require", "verify-ca", "verify-full"] {
            let text = format!("postgres://h/d?a=b&sslmode={mode}&sslrootcert=/etc/my%20ca.pem");
            let roots = Some("/etc/my ca.pem".to_owned());
            assert_eq!(of(&text), ("postgres://h/d?a=b&sslmode=require".to_owned(), true, roots));
        }
    }
}
