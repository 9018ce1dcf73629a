//! What an edge is told: flags before environment variables before the configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::error::Failure;
use crate::edge::{
    Access, AccessLog, ConnectionLimits, EdgeOptions, Tls, TraceTarget, UrlKey, Validity,
};
use crate::format::name::ArtifactSpec;
use crate::transport::small::RetryPolicy;

/// Files that are not for clients: connections to origins, and chunks on disk.
const FILES: usize = 512;

/// A number of bytes, written such as `512M` or `4G`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        super::bytes::parse(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The settings of an edge. In the file each has the name of its flag; `trust` and `mirror` are lists.
#[derive(Debug, Default, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Settings {
    /// The store to serve
    #[arg(long, value_name = "STORE", env = "TENPAK_EDGE_ORIGIN")]
    pub(super) origin: Option<String>,
    #[arg(skip)]
    pub(super) trust: Vec<String>,
    #[arg(skip)]
    pub(super) mirror: Vec<String>,
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "TENPAK_EDGE_LISTEN")]
    pub(super) listen: Option<SocketAddr>,
    /// Size of the memory cache, such as 512M or 4G [default: 512M]
    #[arg(long, value_name = "SIZE", env = "TENPAK_EDGE_CACHE_MEMORY")]
    cache_memory: Option<Size>,
    /// Memory for answers in progress, beside the cache; a request beyond it is answered with 503 [default: 512M]
    #[arg(long, value_name = "SIZE", env = "TENPAK_EDGE_ANSWER_MEMORY")]
    answer_memory: Option<Size>,
    /// The folder of the disk cache; without it there is none
    #[arg(long, value_name = "DIR", env = "TENPAK_EDGE_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Size of the disk cache [default: 64G]
    #[arg(long, value_name = "SIZE", env = "TENPAK_EDGE_CACHE_DISK")]
    cache_disk: Option<Size>,
    /// Fetch this artifact at the start; /readyz answers 200 once all of them are cached (repeatable)
    #[arg(long, value_name = "ARTIFACT", value_parser = super::artifact)]
    #[serde(deserialize_with = "artifacts")]
    pub(super) prefetch: Vec<ArtifactSpec>,
    /// A file of bearer tokens and what each may read
    #[arg(long, value_name = "FILE", env = "TENPAK_EDGE_TOKENS")]
    tokens: Option<PathBuf>,
    /// The secret of URLs that `sign-url` signs
    #[arg(long, value_name = "FILE", env = "TENPAK_EDGE_URL_KEY")]
    url_key: Option<PathBuf>,
    /// Certificate chain (PEM); serves HTTPS
    #[arg(long, value_name = "FILE", env = "TENPAK_EDGE_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", env = "TENPAK_EDGE_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Seconds for which a ref is cached without asking the origin again [default: 5]
    #[arg(long, value_name = "SECONDS", env = "TENPAK_EDGE_FRESH")]
    fresh: Option<u32>,
    /// Seconds for which a ref is served beyond that while no origin answers [default: 3600]
    #[arg(long, value_name = "SECONDS", env = "TENPAK_EDGE_STALE")]
    stale: Option<u32>,
    /// Retries of a request that an origin failed to answer [default: 2]
    #[arg(long, value_name = "COUNT", env = "TENPAK_EDGE_RETRIES")]
    retries: Option<u32>,
    /// Milliseconds before the first retry; they double with each one [default: 200]
    #[arg(long, value_name = "MILLISECONDS", env = "TENPAK_EDGE_RETRY_PAUSE")]
    retry_pause: Option<u64>,
    /// Concurrent requests; one more is answered with 503 [default: 4096]
    #[arg(long, value_name = "COUNT", env = "TENPAK_EDGE_MAX_REQUESTS")]
    max_requests: Option<usize>,
    /// Open connections; one more closes the one that was idle for longest [default: 16384, or as many as the
    /// system lets the process have files]
    #[arg(long, value_name = "COUNT", env = "TENPAK_EDGE_MAX_CONNECTIONS")]
    max_connections: Option<usize>,
    /// Open connections from one address [default: as many as in all]
    #[arg(long, value_name = "COUNT", env = "TENPAK_EDGE_MAX_CONNECTIONS_PER_CLIENT")]
    max_connections_per_client: Option<usize>,
    /// Requests per second of one client; one more is answered with 429 [default: no limit]
    #[arg(long, value_name = "COUNT", env = "TENPAK_EDGE_RATE")]
    rate: Option<f64>,
    /// Log each request to this file as a line of JSON; `-` is standard error
    #[arg(long, value_name = "FILE", env = "TENPAK_EDGE_ACCESS_LOG")]
    access_log: Option<PathBuf>,
    /// Send a span for each request to the OpenTelemetry collector at this address (OTLP/HTTP)
    #[arg(long, value_name = "URL", env = "TENPAK_EDGE_TRACES")]
    traces: Option<String>,
    /// Seconds after SIGTERM for which new connections are accepted [default: 2]
    #[arg(long, value_name = "SECONDS", env = "TENPAK_EDGE_DRAIN")]
    drain: Option<u64>,
}

fn artifacts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ArtifactSpec>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
}

impl Settings {
    /// Reads a configuration file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))
    }

    /// These settings, and those of `file` where they say nothing.
    pub(super) fn or(self, file: Self) -> Self {
        let list = |own: Vec<String>, file| if own.is_empty() { file } else { own };
        let prefetch = if self.prefetch.is_empty() { file.prefetch } else { self.prefetch };
        Self {
            origin: self.origin.or(file.origin),
            trust: list(self.trust, file.trust),
            mirror: list(self.mirror, file.mirror),
            listen: self.listen.or(file.listen),
            cache_memory: self.cache_memory.or(file.cache_memory),
            answer_memory: self.answer_memory.or(file.answer_memory),
            cache_dir: self.cache_dir.or(file.cache_dir),
            cache_disk: self.cache_disk.or(file.cache_disk),
            prefetch,
            tokens: self.tokens.or(file.tokens),
            url_key: self.url_key.or(file.url_key),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            fresh: self.fresh.or(file.fresh),
            stale: self.stale.or(file.stale),
            retries: self.retries.or(file.retries),
            retry_pause: self.retry_pause.or(file.retry_pause),
            max_requests: self.max_requests.or(file.max_requests),
            max_connections: self.max_connections.or(file.max_connections),
            max_connections_per_client: self
                .max_connections_per_client
                .or(file.max_connections_per_client),
            rate: self.rate.or(file.rate),
            access_log: self.access_log.or(file.access_log),
            traces: self.traces.or(file.traces),
            drain: self.drain.or(file.drain),
        }
    }

    /// How the edge is to serve; reads every file that is named.
    pub(super) fn options(&self) -> Result<EdgeOptions, Failure> {
        let mut access = Access::default();
        if let Some(path) = &self.tokens {
            let content = text(path)?;
            access = access.with_tokens(&content).map_err(|why| wrong(path, &why))?;
        }
        if let Some(path) = &self.url_key {
            access = access.with_url_key(url_key(path)?);
        }
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => Some(Tls::load(chain, key).map_err(Failure::usage)?),
            (None, None) => None,
            _ => return Err(Failure::usage("tls-cert and tls-key are given together")),
        };
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err(Failure::usage("rate: expected requests per second above 0"));
        }
        let log = match &self.access_log {
            Some(path) => Some(AccessLog::open(path).map_err(|error| wrong(path, &error))?),
            None => None,
        };
        let traces = match &self.traces {
            Some(url) => Some(TraceTarget::new(url).map_err(Failure::usage)?),
            None => None,
        };
        let defaults = EdgeOptions::default();
        let first_pause = self.retry_pause.map(Duration::from_millis);
        let retry = RetryPolicy {
            retries: self.retries.unwrap_or(defaults.retry.retries),
            first_pause: first_pause.unwrap_or(defaults.retry.first_pause),
            ..defaults.retry
        };
        let disk_size = self.cache_disk.map_or(64 << 30, |size| size.0);
        let seconds = |given: Option<u32>| given.map(|s| Duration::from_secs(u64::from(s)));
        let names = Validity {
            fresh: seconds(self.fresh).unwrap_or(defaults.names.fresh),
            stale: seconds(self.stale).unwrap_or(defaults.names.stale),
        };
        Ok(EdgeOptions {
            retry,
            names,
            memory: self.cache_memory.map_or(defaults.memory, |size| size.0),
            answer_memory: self.answer_memory.map_or(defaults.answer_memory, |size| size.0),
            disk: self.cache_dir.clone().map(|folder| (folder, disk_size)),
            access,
            tls,
            max_requests: self.max_requests.unwrap_or(defaults.max_requests),
            connections: self.connections(defaults.connections),
            rate: self.rate,
            log,
            traces,
            drain: Duration::from_secs(self.drain.unwrap_or(2)),
            ..defaults
        })
    }

    /// As many as the system lets the process have, which is asked for all that it may.
    fn connections(&self, defaults: ConnectionLimits) -> ConnectionLimits {
        let most = files().map_or(defaults.all, |files| (files - (files / 2).min(FILES)).max(1));
        let all = self.max_connections.unwrap_or(defaults.all).clamp(1, most);
        let of_address = self.max_connections_per_client.unwrap_or(all).clamp(1, all);
        ConnectionLimits { all, of_address, ..defaults }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls_cert.is_some() { "https" } else { "http" }
    }
}

/// How many files the process may have open, after that was raised as far as it may be; `None`: any number.
fn files() -> Option<usize> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let asked = limit.current;
    limit.current = limit.maximum;
    let current = if setrlimit(Resource::Nofile, limit).is_ok() { limit.current } else { asked };
    current.map(|files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// Reads the secret of signed URLs.
pub(super) fn url_key(path: &Path) -> Result<UrlKey, Failure> {
    UrlKey::new(text(path)?.as_bytes()).map_err(|why| wrong(path, &why))
}

fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| wrong(path, &error))
}

fn wrong(path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{}: {why}", path.display()))
}
