//! How a client connects.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::HeaderMap;

use super::proxy::Proxies;

/// How a client connects.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HttpOptions {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// Certificates (PEM) to trust in place of the system's.
    pub roots_pem: Option<Vec<u8>>,
    /// Certificates (PEM) to trust beside those.
    pub more_roots_pem: Vec<Vec<u8>>,
    /// Which requests go through a proxy; none by default.
    pub proxies: Option<Proxies>,
    /// Headers of every request to the server, which no other one is shown on a redirect.
    pub headers: HeaderMap,
    /// A bearer token for the server, which no other one is shown on a redirect.
    pub token: Option<String>,
    /// The addresses of names that the name service is not to be asked about.
    pub addresses: HashMap<String, Vec<SocketAddr>>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            roots_pem: None,
            more_roots_pem: Vec::new(),
            proxies: None,
            headers: HeaderMap::new(),
            token: None,
            addresses: HashMap::new(),
        }
    }
}
