//! `tenpak mount`, and `mount.tenpak`, as which `mount` calls this program.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::AbortHandle;

use super::error::{FAILED, Failure, INTERRUPTED};
use super::output::Output;
use super::{Global, artifact};
use crate::edge::Validity;
use crate::format::name::ArtifactSpec;
use crate::mount::{Mount as Mounted, MountLog, MountOptions, Shown};
use crate::store::StoreError;
use crate::transport::small::RetryPolicy;
use crate::trust::SeenRefs;

/// How this program is called by `mount -t tenpak`.
const HELPER: &str = "mount.tenpak";
/// How long an origin may take to say that it is a store, before the mount begins without.
const ORIGIN_TIME: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody else has unmounted.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(super) struct Mount {
    /// What to mount, and the folder to mount on: an artifact, whose files stand in the folder; or a store's
    /// address, or several artifacts, which stand there as org/model/tag; the folder alone mounts --store
    #[arg(required = true, value_name = "ARTIFACT|STORE... DIR")]
    what: Vec<String>,
    /// Memory for chunks, such as 512M or 4G
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = super::bytes::parse)]
    memory: u64,
    /// A folder to keep chunks in, also for the next mount; without it nothing is kept on disk
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Size of that folder
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = super::bytes::parse)]
    cache_size: u64,
    /// Trust the disk of --cache: files that were read whole are kept there decoded, in half of it, and the kernel reads
    /// them itself (as root, from Linux 6.9 on); what the disk changes in them is noticed at the next mount only
    #[arg(long, requires = "cache")]
    trust_disk: bool,
    /// Let other users read (without root, /etc/fuse.conf must have user_allow_other)
    #[arg(long)]
    allow_other: bool,
    /// Seconds for which a name keeps its meaning
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    fresh: u32,
    /// Retries of a request that the store failed to answer, before a reader gets an error
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    retries: u32,
    /// Return once the files can be read, and stay in the background
    #[arg(long)]
    daemon: bool,
    /// Where a mount in the background tells of errors [default: nowhere]
    #[arg(long, value_name = "FILE", requires = "daemon")]
    log: Option<PathBuf>,
}

impl Mount {
    /// `interrupt` ends the process at Ctrl-C, which unmounts here.
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
        interrupt: AbortHandle,
    ) -> Result<(), Failure> {
        if self.daemon {
            return self.start_daemon(global, output);
        }
        let (store, shown, folder) = self.parse(global)?;
        interrupt.abort();
        runtime.block_on(self.serve(&Global { store, ..global.clone() }, shown, &folder, output))
    }

    /// The store, what is shown of it, and where.
    fn parse(&self, global: &Global) -> Result<(Option<String>, Shown, PathBuf), Failure> {
        let Some((folder, what)) = self.what.split_last() else {
            return Err(Failure::usage("no folder to mount on"));
        };
        let folder = PathBuf::from(folder);
        match what {
            [] => Ok((global.store.clone(), Shown::Store, folder)),
            [store] if is_store(store) => {
                if global.store.as_ref().is_some_and(|own| own != store) {
                    return Err(Failure::usage(format!("{store} or --store: which one?")));
                }
                Ok((Some(store.clone()), Shown::Store, folder))
            }
            what => {
                let specs = what.iter().map(|text| {
                    artifact(text).map_err(|error| {
                        Failure::usage(format!(
                            "{text}: no store's address, and no artifact: {error}"
                        ))
                    })
                });
                let mut specs = specs.collect::<Result<Vec<ArtifactSpec>, _>>()?;
                let shown = match specs.len() {
                    1 => Shown::Artifact(specs.remove(0)),
                    _ if specs.iter().any(|spec| matches!(spec, ArtifactSpec::Id(_))) => {
                        return Err(Failure::usage(
                            "an artifact without a name is mounted alone: among others it has no folder",
                        ));
                    }
                    _ => Shown::Names(specs),
                };
                Ok((global.store.clone(), shown, folder))
            }
        }
    }

    async fn serve(
        self,
        global: &Global,
        shown: Shown,
        folder: &Path,
        output: &Output,
    ) -> Result<(), Failure> {
        let source = global.source()?;
        let (origins, location) = (source.transports().to_vec(), source.location().to_owned());
        // A store that cannot be asked now may be asked later; an address without one is a mistake.
        let quick = RetryPolicy { retries: 0, stall: ORIGIN_TIME, ..RetryPolicy::default() };
        let asked = global.source()?.with_retry(quick);
        if let Ok(Err(error @ StoreError::NoStore { .. })) =
            tokio::time::timeout(ORIGIN_TIME, asked.require()).await
        {
            return Err(error.into());
        }
        let defaults = MountOptions::default();
        let options = MountOptions {
            trust: global.trust()?,
            seen: Some(SeenRefs::of_user()),
            memory: self.memory,
            disk: self.cache.map(|folder| (folder, self.cache_size)),
            trust_disk: self.trust_disk,
            allow_other: self.allow_other,
            names: Validity { fresh: Duration::from_secs(self.fresh.into()), ..defaults.names },
            retry: RetryPolicy { retries: self.retries, ..defaults.retry.clone() },
            log: MountLog::new(|line| eprintln!("tenpak: {line}")),
            ..defaults
        };
        let no_signals = |error| Failure::failed(format!("no signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupted = signal(SignalKind::interrupt()).map_err(no_signals)?;
        // The terminal that it was started from may go.
        let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
        let mounted = Mounted::start(origins, options, shown, folder).await?;
        let at = mounted.folder().display().to_string();
        output
            .result(json!({"mounted": at, "origin": location}), || format!("{location} on {at}"))?;
        let status = loop {
            tokio::select! {
                _ = terminate.recv() => break 0,
                _ = interrupted.recv() => break INTERRUPTED,
                _ = hangup.recv() => {}
                () = tokio::time::sleep(LOOK) => {
                    if mounted.is_over() {
                        break 0;
                    }
                }
            }
        };
        mounted.unmount()?;
        // Whatever still reads gets an error now; nothing that is under way is waited for.
        std::process::exit(i32::from(status));
    }

    /// Starts the same in the background, and waits until the files can be read.
    fn start_daemon(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let failed =
            |what: &str, error: std::io::Error| Failure::failed(format!("{what}: {error}"));
        let own = std::env::current_exe().map_err(|error| failed("this program", error))?;
        let log = match &self.log {
            None => Stdio::null(),
            Some(path) => {
                let log = OpenOptions::new().create(true).append(true).open(path);
                log.map_err(|error| failed(&path.display().to_string(), error))?.into()
            }
        };
        let mut command = Command::new(own);
        command.arg("mount").arg("--json").args(self.words(global)).arg("--").args(&self.what);
        // A group of its own: Ctrl-C in the terminal is not for it.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let mut child = command.spawn().map_err(|error| failed("a process", error))?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let read = BufReader::new(stdout).read_line(&mut line);
            read.map_err(|error| failed("the process in the background", error))?;
        }
        let told: Value = serde_json::from_str(&line).unwrap_or_default();
        if let (Some(folder), Some(origin)) = (told["mounted"].as_str(), told["origin"].as_str()) {
            let (folder, origin) = (folder.to_owned(), origin.to_owned());
            let object = json!({"mounted": folder, "origin": origin, "process": child.id()});
            return output
                .result(object, || format!("{origin} on {folder}, process {}", child.id()));
        }
        let status = told["status"].as_u64().and_then(|status| u8::try_from(status).ok());
        let message = told["error"].as_str().unwrap_or("it ended without a word");
        Err(Failure::new(status.unwrap_or(FAILED), message))
    }

    /// The flags that say the same.
    fn words(&self, global: &Global) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut give = |name: &str, value: OsString| words.extend([name.into(), value]);
        if let Some(store) = &global.store {
            give("--store", store.into());
        }
        global.trust.iter().for_each(|key| give("--trust", key.into()));
        global.mirror.iter().for_each(|mirror| give("--mirror", mirror.into()));
        global.header.iter().for_each(|header| give("--header", header.into()));
        if let Some(ca) = &global.ca {
            give("--ca", ca.into());
        }
        if let Some(cache) = &self.cache {
            give("--cache", cache.into());
        }
        give("--memory", self.memory.to_string().into());
        give("--cache-size", self.cache_size.to_string().into());
        give("--fresh", self.fresh.to_string().into());
        give("--retries", self.retries.to_string().into());
        for (flag, is_set) in
            [("--allow-other", self.allow_other), ("--trust-disk", self.trust_disk)]
        {
            words.extend(is_set.then(|| flag.into()));
        }
        words
    }
}

/// Whether the text is an address, not an artifact: it has a scheme, is a path, or a store lies there.
fn is_store(text: &str) -> bool {
    text.contains("://")
        || text.starts_with(['/', '.', '~'])
        || Path::new(text).join("tenpak.json").exists()
}

/// The words of the command line: as `mount.tenpak STORE DIR -o OPTIONS` it means `tenpak mount`.
pub(super) fn words(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let words: Vec<OsString> = words.into_iter().collect();
    let is_helper =
        words.first().and_then(|own| Path::new(own).file_name()).is_some_and(|n| n == HELPER);
    if is_helper { helper_words(words.get(1..).unwrap_or_default()) } else { words }
}

/// What `mount` asks of its helper, in this program's words.
fn helper_words(given: &[OsString]) -> Vec<OsString> {
    let (mut places, mut flags, mut artifacts) = (Vec::new(), Vec::<OsString>::new(), Vec::new());
    let mut given = given.iter();
    while let Some(word) = given.next() {
        match word.to_str() {
            Some("-o") => {
                let options = given.next().and_then(|options| options.to_str()).unwrap_or_default();
                for option in options.split(',') {
                    match option.split_once('=') {
                        Some(("artifact", name)) => artifacts.push(OsString::from(name)),
                        Some((name, value)) if !is_system(name) => {
                            flags.push(format!("--{}={value}", name.replace('_', "-")).into());
                        }
                        None if !is_system(option) => {
                            flags.push(format!("--{}", option.replace('_', "-")).into());
                        }
                        _ => {}
                    }
                }
            }
            // The type and the namespace, whose names follow.
            Some("-t" | "-N") => drop(given.next()),
            Some("-s" | "-f" | "-n" | "-v") => {}
            _ => places.push(word.clone()),
        }
    }
    let mut words: Vec<OsString> = vec!["tenpak".into(), "mount".into(), "--daemon".into()];
    words.append(&mut flags);
    // Whatever else is given is no place, and refused.
    if !places.is_empty() {
        words.extend(["--store".into(), places.remove(0)]);
    }
    words.push("--".into());
    words.append(&mut artifacts);
    words.append(&mut places);
    words
}

/// Whether an option is of `mount` itself, or of whoever reads /etc/fstab.
fn is_system(option: &str) -> bool {
    const OWN: [&str; 34] = [
        "",
        "ro",
        "rw",
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "dev",
        "nodev",
        "suid",
        "nosuid",
        "exec",
        "noexec",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "lazytime",
        "nolazytime",
        "async",
        "sync",
        "dirsync",
        "silent",
        "loud",
        "comment",
    ];
    OWN.contains(&option) || option.starts_with("x-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_helper(line: &str) -> String {
        let all = words(line.split(' ').map(OsString::from));
        all.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn mount_calls_its_helper() {
        let line = "/sbin/mount.tenpak https://w.example/s/ /models -n -v -t tenpak \
                    -o ro,_netdev,x-systemd.automount,allow_other,trust=/k.pub,cache=/c,cache_size=9G";
        assert_eq!(
            as_helper(line),
            "tenpak mount --daemon --allow-other --trust=/k.pub --cache=/c --cache-size=9G \
             --store https://w.example/s/ -- /models"
        );
        assert_eq!(
            as_helper("mount.tenpak /store /m -o artifact=org/a:v1,artifact=org/b"),
            "tenpak mount --daemon --store /store -- org/a:v1 org/b /m"
        );
        assert_eq!(as_helper("tenpak mount -o x"), "tenpak mount -o x", "nobody else");
    }

    #[test]
    fn a_store_is_told_from_an_artifact() {
        assert!(is_store("https://x/") && is_store("s3://x") && is_store("./a") && is_store("/a"));
        assert!(!is_store("org/model:v1") && !is_store("@0123456789ab"));
    }
}
