//! A PostgreSQL server of the test program, from Debian's package, on a free port of the loopback.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A running server; it ends with this value.
pub struct Postgres {
    folder: tempfile::TempDir,
    server: Child,
    port: u16,
    made: AtomicUsize,
}

/// Where the programs of the newest version lie.
fn programs() -> PathBuf {
    let all = std::fs::read_dir("/usr/lib/postgresql").expect("postgresql: run tests/setup.sh");
    let newest = all.map(|entry| entry.expect("an entry").path()).max();
    newest.expect("a version of postgresql").join("bin")
}

/// Whom the server runs as: it refuses to run as root.
fn user() -> Option<(u32, u32)> {
    let own = Command::new("id").arg("-u").output().expect("id");
    if own.stdout != b"0\n" {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("the users");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2).map(|field| field.parse().expect("a number"));
        Some((fields.next()?, fields.next()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

fn command(program: &str) -> Command {
    let mut command = Command::new(programs().join(program));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    // Not this user's, whose files the server's may not read.
    command.env("HOME", "/");
    if let Some((user, group)) = user() {
        command.uid(user).gid(group);
    }
    command
}

impl Postgres {
    /// Starts a server.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        if let Some((user, group)) = user() {
            chown(folder.path(), Some(user), Some(group)).expect("another owner");
        }
        let data = folder.path().join("data");
        let made = command("initdb")
            .args(["--auth=trust", "--username=tenpak", "--no-sync", "--pgdata"])
            .arg(&data)
            .status()
            .expect("initdb");
        assert!(made.success(), "initdb failed");
        let port = free_port();
        let server = Self::run(&data, port);
        let own = Self { folder, server, port, made: AtomicUsize::new(0) };
        own.wait();
        own
    }

    /// Starts a server that waits for no disk: what it wrote outlives its own end, and no loss of power.
    #[allow(dead_code, reason = "one program of tests ends it")]
    pub fn start_unsynced() -> Self {
        let mut own = Self::start();
        own.set("fsync = off");
        own
    }

    /// Starts it again with this setting.
    fn set(&mut self, setting: &str) {
        let path = self.folder.path().join("data/postgresql.conf");
        let mut settings = std::fs::read_to_string(&path).expect("a file");
        settings.push_str(&format!("\n{setting}\n"));
        std::fs::write(path, settings).expect("a file");
        self.crash();
    }

    /// Starts a server that answers over TLS alone, with this certificate and key (PEM).
    pub fn start_with_tls(certificate: &Path, key: &Path) -> Self {
        let mut own = Self::start();
        let data = own.folder.path().join("data");
        for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
            let to = data.join(name);
            std::fs::copy(from, &to).expect("a file");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&to, private).expect("its mode");
            if let Some((user, group)) = user() {
                chown(&to, Some(user), Some(group)).expect("another owner");
            }
        }
        std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\n")
            .expect("a file");
        own.set("ssl = on");
        own
    }

    fn run(data: &Path, port: u16) -> Child {
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=200".to_owned(),
        ];
        let settings = settings.iter().flat_map(|setting| ["-c", setting]);
        command("postgres").arg("-D").arg(data).args(settings).spawn().expect("postgres")
    }

    /// Waits until it answers.
    fn wait(&self) {
        let start = Instant::now();
        while self.query("postgres", "SELECT 1").is_none() {
            assert!(start.elapsed() < Duration::from_secs(60), "PostgreSQL does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn query(&self, database: &str, sql: &str) -> Option<()> {
        let status = command("psql")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "tenpak", "-d", database])
            .args(["-q", "-c", sql])
            .env("PGCONNECT_TIMEOUT", "2")
            .status()
            .expect("psql");
        status.success().then_some(())
    }

    /// A fresh database.
    pub fn database(&self) -> String {
        let name = format!("test{}", self.made.fetch_add(1, Ordering::Relaxed));
        self.query("postgres", &format!("CREATE DATABASE {name}")).expect("a database");
        format!("postgres://tenpak@127.0.0.1:{}/{name}", self.port)
    }

    /// Stops it at once, as a loss of power would, and starts it again.
    pub fn crash(&mut self) {
        self.without(|| {});
    }

    /// Stops it at once, does something meanwhile, and starts it again.
    pub fn without(&mut self, meanwhile: impl FnOnce()) {
        // The postmaster's end ends its children before it is waited for: they hold the data's lock.
        let data = self.folder.path().join("data");
        let stopped =
            command("pg_ctl").args(["stop", "-m", "immediate", "-w", "-D"]).arg(&data).status();
        assert!(stopped.expect("pg_ctl").success());
        self.server.wait().expect("its end");
        meanwhile();
        self.server = Self::run(&data, self.port);
        self.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.folder.path().join("data");
        let stop =
            command("pg_ctl").args(["stop", "-m", "immediate", "-w", "-D"]).arg(&data).status();
        drop(stop);
        drop(self.server.wait());
    }
}
