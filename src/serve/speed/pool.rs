//! Connections to a server, encrypted or not.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Connections that send whole bodies.
pub(super) type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Connections that are kept while they are used.
///
/// # Errors
/// If the system's certificates cannot be used.
pub(super) fn connections() -> Result<Pool, String> {
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls =
        tls.map_err(|error| wrong(&error))?.with_native_roots().map_err(|error| wrong(&error))?;
    let mut http = HttpConnector::new();
    http.set_nodelay(true);
    http.enforce_http(false);
    let https = HttpsConnectorBuilder::new().with_tls_config(tls.with_no_client_auth());
    let https = https.https_or_http().enable_http1().wrap_connector(http);
    let mut builder = Client::builder(TokioExecutor::new());
    // Servers close what is idle at any time; every request tries again on a new one.
    Ok(builder.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(4)).build(https))
}
