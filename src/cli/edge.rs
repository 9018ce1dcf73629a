//! `tenpak edge`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Global;
use super::error::Failure;
use super::output::Output;
use crate::edge::{self, EdgeOptions};
use crate::format::name::ArtifactSpec;
use crate::store::Store;
use crate::trust::SeenRefs;

#[derive(Debug, clap::Args)]
pub(super) struct Edge {
    /// The store to serve
    #[arg(long, value_name = "STORE")]
    origin: String,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Bytes of chunks kept in memory, such as 512M or 4G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = super::bytes::parse)]
    cache_memory: u64,
    /// A folder in which chunks are kept too
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Bytes of chunks kept in that folder
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = super::bytes::parse)]
    cache_disk: u64,
    /// Fetch this artifact at the start; /readyz answers 200 when all of them are there (repeatable)
    #[arg(long, value_name = "ARTIFACT", value_parser = super::artifact)]
    prefetch: Vec<ArtifactSpec>,
}

impl Edge {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::failed(format!("{what} {}: {error}", self.listen))
        };
        let origins = global.sources(&Store::new(crate::source::url::open(&self.origin)?))?;
        let location = origins.first().map_or_else(String::new, |o| o.location().to_owned());
        let seen = Some(SeenRefs::of_user());
        let disk = self.cache_dir.clone().map(|folder| (folder, self.cache_disk));
        let options = EdgeOptions { trust: global.trust()?, seen, memory: self.cache_memory, disk };
        let edge = edge::Edge::new(origins, options).map_err(Failure::failed)?;
        let listener = TcpListener::bind(self.listen)
            .await
            .map_err(|error| failed("cannot listen on", error))?;
        let address = listener.local_addr().map_err(|error| failed("no address for", error))?;
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|error| failed("no signals while listening on", error))?;
        let url = format!("http://{address}");
        output.result(json!({"listening": url, "origin": location}), || {
            format!("{location} at {url}")
        })?;
        let (fetching, artifacts) = (edge.clone(), self.prefetch);
        tokio::spawn(async move {
            for artifact in &artifacts {
                if let Err(error) = fetching.prefetch(artifact).await {
                    // It is served all the same: what is missing is fetched when it is asked for.
                    eprintln!("tenpak: {artifact} was not fetched ahead: {error}");
                }
            }
            fetching.set_ready();
        });
        let stop = async move {
            terminate.recv().await;
        };
        edge::serve(edge, listener, stop).await.map_err(Failure::failed)
    }
}
