//! TLS of the edge's own: HTTP/2 where the client speaks it, else HTTP/1.1.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::edge::error::SettingError;

/// The certificate that an edge shows.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ServerConfig>);

impl Tls {
    /// Reads a chain of certificates and its key, both in PEM.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or is no PEM, or the key is not the certificate's.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, SettingError> {
        let unread = |path: &Path, source| SettingError::Pem { path: path.to_owned(), source };
        let refused = |source| SettingError::Key { path: key.to_owned(), source };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect)
            .map_err(|error| unread(chain, error))?;
        if certificates.is_empty() {
            return Err(SettingError::NoCertificate(chain.to_owned()));
        }
        let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unread(key, error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_no_client_auth()
            .with_single_cert(certificates, secret)
            .map_err(refused)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.0.clone().into()
    }
}
