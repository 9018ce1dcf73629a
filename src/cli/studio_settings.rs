//! What a studio and its workers are told: flags before environment variables before the configuration file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::edge_settings::Size;
use super::error::Failure;
use super::global::Global;

/// Where a studio listens that is not told.
const LISTEN: &str = "127.0.0.1:8090";
/// From which size on a model is split.
const SPLIT: u64 = 2 << 30;

/// What holds for the server and for workers.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Common {
    /// The database: postgres://... (?sslmode=require for TLS), or the path of a file [default: in the user's data
    /// directory]
    #[arg(long, value_name = "URL", env = "TENPAK_DATABASE")]
    pub(super) database: Option<String>,
    /// Jobs that this process runs at a time [default: 1]
    #[arg(long, value_name = "N", env = "TENPAK_STUDIO_WORKERS", value_parser = clap::value_parser!(u16).range(0..=256))]
    pub(super) workers: Option<u16>,
    /// Sign what jobs make with this secret key (repeatable)
    #[arg(long, value_name = "KEY")]
    pub(super) sign: Vec<PathBuf>,
    /// Seconds that a worker may be silent before its job is another's; the same for all of a database [default: 30]
    #[arg(long, value_name = "SECONDS", env = "TENPAK_STUDIO_LEASE", value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub(super) lease: Option<u64>,
    /// The Hub's tokens: a tenant and its token on each line. HF_ENDPOINT names another Hub; HF_TOKEN is for who works
    /// without --tokens
    #[arg(long, value_name = "FILE", env = "TENPAK_STUDIO_HUB_TOKENS")]
    pub(super) hub_tokens: Option<PathBuf>,
    /// Let requests lead to this server (HOST:PORT) although its address is private or it speaks http (repeatable)
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) allow_private: Vec<String>,
    /// Send a span for each request and each job to the OpenTelemetry collector at this address (OTLP/HTTP)
    #[arg(long, value_name = "URL", env = "TENPAK_STUDIO_TRACES")]
    pub(super) traces: Option<String>,
    /// A TOML file of these settings, each under the name of its flag; flags and environment variables come first
    #[arg(long, value_name = "FILE", env = "TENPAK_STUDIO_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Check the settings and the files that they name, then exit
    #[arg(long)]
    pub(super) check: bool,
}

/// What holds for the server.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Serving {
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:8090]
    #[arg(long, value_name = "ADDR", env = "TENPAK_STUDIO_LISTEN")]
    listen: Option<SocketAddr>,
    /// Who may do what; without it, whoever reaches this machine's own address may do everything
    #[arg(long, value_name = "FILE", env = "TENPAK_STUDIO_TOKENS")]
    pub(super) tokens: Option<PathBuf>,
    /// Let requests name models below this folder by their paths (repeatable)
    #[arg(long, value_name = "DIR")]
    pub(super) allow_path: Vec<PathBuf>,
    /// Where uploads lie until a job packs them [default: in the user's data directory]
    #[arg(long, value_name = "DIR", env = "TENPAK_STUDIO_UPLOADS")]
    pub(super) uploads: Option<PathBuf>,
    /// How often a job is tried whose worker is lost [default: 3]
    #[arg(long, value_name = "N", env = "TENPAK_STUDIO_ATTEMPTS", value_parser = clap::value_parser!(i64).range(1..=100))]
    attempts: Option<i64>,
    /// Bytes of a model from which on the workers share a job whose method needs no calibration (1G, 500M); each makes a
    /// part of the weights [default: 2G]
    #[arg(long, value_name = "SIZE", env = "TENPAK_STUDIO_SPLIT")]
    split: Option<Size>,
    /// Log each request to this file as a line of JSON; `-` is standard error
    #[arg(long, value_name = "FILE", env = "TENPAK_STUDIO_ACCESS_LOG")]
    pub(super) access_log: Option<PathBuf>,
}

/// The file, for the server and for workers alike.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    store: Option<String>,
    trust: Vec<String>,
    mirror: Vec<String>,
    database: Option<String>,
    workers: Option<u16>,
    sign: Vec<PathBuf>,
    lease: Option<u64>,
    hub_tokens: Option<PathBuf>,
    allow_private: Vec<String>,
    listen: Option<SocketAddr>,
    tokens: Option<PathBuf>,
    allow_path: Vec<PathBuf>,
    uploads: Option<PathBuf>,
    attempts: Option<i64>,
    split: Option<Size>,
    traces: Option<String>,
    access_log: Option<PathBuf>,
}

fn or<T>(own: Vec<T>, file: &[T]) -> Vec<T>
where
    T: Clone,
{
    if own.is_empty() { file.to_vec() } else { own }
}

impl File {
    fn read(path: &Path) -> Result<Self, Failure> {
        let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let file: Self = toml::from_str(&text)
            .map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
        let ranges = [
            ("workers", file.workers.map(i64::from), 0..=256),
            ("lease", file.lease.map(|own| i64::try_from(own).unwrap_or(i64::MAX)), 2..=3600),
            ("attempts", file.attempts, 1..=100),
        ];
        for (name, given, range) in ranges {
            if given.is_some_and(|given| !range.contains(&given)) {
                return Err(wrong(format!("{name}: {} to {}", range.start(), range.end())));
            }
        }
        Ok(file)
    }
}

impl Common {
    /// These settings with those of the file, and the command's with them.
    pub(super) fn settled(self, global: &Global) -> Result<(Self, File, Global), Failure> {
        let file = self.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let mut global = global.clone();
        global.store = global.store.or_else(|| file.store.clone());
        global.trust = or(global.trust, &file.trust);
        global.mirror = or(global.mirror, &file.mirror);
        let own = Self {
            database: self.database.or_else(|| file.database.clone()),
            workers: self.workers.or(file.workers),
            sign: or(self.sign, &file.sign),
            lease: self.lease.or(file.lease),
            hub_tokens: self.hub_tokens.or_else(|| file.hub_tokens.clone()),
            allow_private: or(self.allow_private, &file.allow_private),
            traces: self.traces.or_else(|| file.traces.clone()),
            config: None,
            check: self.check,
        };
        Ok((own, file, global))
    }
}

impl Serving {
    pub(super) fn settled(self, file: &File) -> Self {
        Self {
            listen: self.listen.or(file.listen),
            tokens: self.tokens.or_else(|| file.tokens.clone()),
            allow_path: or(self.allow_path, &file.allow_path),
            uploads: self.uploads.or_else(|| file.uploads.clone()),
            attempts: self.attempts.or(file.attempts),
            split: self.split.or(file.split),
            access_log: self.access_log.or_else(|| file.access_log.clone()),
        }
    }

    pub(super) fn listen(&self) -> Result<SocketAddr, Failure> {
        self.listen.map_or_else(|| LISTEN.parse().map_err(Failure::failed), Ok)
    }

    pub(super) fn split(&self) -> u64 {
        self.split.map_or(SPLIT, |own| own.0)
    }

    pub(super) fn attempts(&self) -> i64 {
        self.attempts.unwrap_or(3)
    }
}

/// The user's data directory for the studio.
pub(super) fn folder() -> Result<PathBuf, Failure> {
    let data = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    let data =
        data.ok_or_else(|| Failure::usage("no database: give --database URL, or set HOME"))?;
    Ok(data.join("tenpak/studio"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_flags_leave_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("studio.toml");
        let common = |workers| Common {
            database: None,
            workers,
            sign: Vec::new(),
            lease: None,
            hub_tokens: None,
            allow_private: Vec::new(),
            traces: None,
            config: Some(path.clone()),
            check: false,
        };
        std::fs::write(&path, "workers = 3\ndatabase = 'x'\nlisten = '127.0.0.1:1'\nstore = 's'\n")
            .unwrap();
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            global: Global,
        }
        let global = <Command as clap::Parser>::parse_from(["x"]).global;
        let (own, file, settled) = common(None).settled(&global).unwrap();
        assert_eq!((own.workers, own.database.as_deref()), (Some(3), Some("x")));
        assert!(global.store.is_some() || settled.store.as_deref() == Some("s"));
        assert_eq!(file.listen.unwrap().port(), 1);
        assert_eq!(common(Some(1)).settled(&global).unwrap().0.workers, Some(1));
        for wrong in ["workers = 1000", "lease = 0", "unknown = 1", "workers = 'x'", "attempts = 0"]
        {
            std::fs::write(&path, wrong).unwrap();
            assert!(common(None).settled(&global).is_err(), "{wrong}");
        }
    }
}
