//! `tenpak edge`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::Global;
use super::edge_settings::Settings;
use super::error::Failure;
use super::output::Output;
use crate::edge::{self, EdgeError, EdgeOptions};
use crate::store::StoreError;
use crate::transport::small::RetryPolicy;
use crate::trust::SeenRefs;

/// Where an edge listens that is not told.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// How long an origin may take to say that it is a store, before the edge begins without.
const ORIGIN_TIME: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct Edge {
    #[command(flatten)]
    settings: Box<Settings>,
    /// A TOML file of these settings, each under the name of its flag; flags and environment
    /// variables come first
    #[arg(long, value_name = "FILE", env = "TENPAK_EDGE_CONFIG")]
    config: Option<PathBuf>,
    /// Check all settings and the files that they name, then exit
    #[arg(long)]
    check: bool,
}

impl Edge {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let file = self.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        let settings = self.settings.or(file);
        let mut global = global.clone();
        if global.trust.is_empty() {
            global.trust.clone_from(&settings.trust);
        }
        if global.mirror.is_empty() {
            global.mirror.clone_from(&settings.mirror);
        }
        let origin = settings.origin.as_deref().ok_or_else(|| {
            Failure::usage("no store to serve: give --origin, or origin in --config FILE")
        })?;
        global.store = Some(origin.to_owned());
        let source = global.source()?;
        let (origins, location) = (source.transports().to_vec(), source.location().to_owned());
        let seen = Some(SeenRefs::of_user());
        let options = EdgeOptions { trust: global.trust()?, seen, ..settings.options()? };
        let edge = edge::Edge::new(origins, options).map_err(|error| match error {
            EdgeError::Cache { .. } => {
                Failure::failed(format!("{error}; name another --cache-dir"))
            }
            error => Failure::failed(error),
        })?;
        let listen = settings.listen.unwrap_or(LISTEN);
        if self.check {
            let url = format!("{}://{listen}", settings.scheme());
            return output
                .result(json!({"right": true, "listen": url, "origin": location}), || {
                    format!("right: {location} at {url}")
                });
        }
        // An origin that cannot be asked now may be asked later; one that is no store is a mistake.
        let quick = RetryPolicy { retries: 0, stall: ORIGIN_TIME, ..RetryPolicy::default() };
        let asked = source.with_retry(quick);
        if let Ok(Err(error @ StoreError::NoStore { .. })) =
            tokio::time::timeout(ORIGIN_TIME, asked.require()).await
        {
            return Err(error.into());
        }
        let failed = |what: &str, error: std::io::Error| {
            Failure::failed(format!("{what} {listen}: {error}"))
        };
        let listener =
            TcpListener::bind(listen).await.map_err(|error| failed("cannot listen on", error))?;
        let address = listener.local_addr().map_err(|error| failed("no address for", error))?;
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|error| failed("no signals while listening on", error))?;
        let url = format!("{}://{address}", settings.scheme());
        output.result(json!({"listening": url, "origin": location}), || {
            format!("{location} at {url}")
        })?;
        let (fetching, artifacts) = (edge.clone(), settings.prefetch);
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
        // A task of its own: what it accepts is answered by the thread that has accepted it.
        let serving = tokio::spawn(edge::serve(edge, listener, stop));
        serving.await.map_err(Failure::failed)?.map_err(Failure::failed)
    }
}
