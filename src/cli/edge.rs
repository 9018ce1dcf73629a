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
use crate::format::store::descriptor;
use crate::store::{Store, StoreError};
use crate::transport::small::RetryPolicy;
use crate::transport::{TransportError, TransportErrorKind};
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
    /// Check all settings, the files that they name, and that the origins answer, then exit
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
            let mut silent = Vec::new();
            for origin in std::iter::once(origin).chain(global.mirror.iter().map(String::as_str)) {
                let own = Global { store: Some(origin.to_owned()), ..global.clone() };
                match ask(own.store()?).await {
                    Ok(()) => {}
                    Err(error @ StoreError::NoStore { .. }) => return Err(error.into()),
                    // It may answer when the edge begins, or later.
                    Err(error) => silent.push(error.to_string()),
                }
            }
            for error in &silent {
                output.note(format_args!("{error}; the settings are right"));
            }
            let url = format!("{}://{listen}", settings.scheme());
            let answers = silent.is_empty();
            let told =
                json!({"right": true, "listen": url, "origin": location, "answers": answers});
            return output.result(told, || {
                let silent = if answers { "" } else { " (not every origin answers)" };
                format!("right: {location} at {url}{silent}")
            });
        }
        // An origin that cannot be asked now may be asked later; one that is no store is a mistake.
        // By connections of its own: those of the edge begin with its first request.
        if let Err(error @ StoreError::NoStore { .. }) = ask(global.source()?).await {
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

/// Whether the store answers, and is one; it is not asked a second time.
async fn ask(store: Store) -> Result<(), StoreError> {
    let quick = RetryPolicy { retries: 0, stall: ORIGIN_TIME, ..RetryPolicy::default() };
    let store = store.with_retry(quick);
    let silent = || {
        let (kind, seconds) = (TransportErrorKind::Transient, ORIGIN_TIME.as_secs());
        let what = format!("no answer within {seconds} seconds");
        TransportError::new(kind, store.location(), descriptor(), what)
    };
    let answer = tokio::time::timeout(ORIGIN_TIME, store.require()).await;
    answer.unwrap_or_else(|_| Err(silent().into()))
}
