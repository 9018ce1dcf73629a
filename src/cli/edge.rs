//! `tenpak edge`.

use std::net::SocketAddr;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::error::Failure;
use super::output::Output;

#[derive(Debug, clap::Args)]
pub(super) struct Edge {
    /// The store to serve
    #[arg(long, value_name = "STORE")]
    origin: String,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

impl Edge {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::failed(format!("{what} {}: {error}", self.listen))
        };
        let origin = crate::source::url::open(&self.origin)?;
        let listener = TcpListener::bind(self.listen)
            .await
            .map_err(|error| failed("cannot listen on", error))?;
        let address = listener.local_addr().map_err(|error| failed("no address for", error))?;
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|error| failed("no signals while listening on", error))?;
        let url = format!("http://{address}");
        output.result(json!({"listening": url, "origin": origin.location()}), || {
            format!("{} at {url}", origin.location())
        })?;
        let stop = async move {
            terminate.recv().await;
        };
        crate::edge::serve(origin, listener, stop).await.map_err(Failure::failed)
    }
}
