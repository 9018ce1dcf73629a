//! Studios and workers as processes, and what clients ask them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::run::{command, fresh_folder, pack, text};

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store with a language model, and a database.
pub struct World {
    pub folder: PathBuf,
    pub store: PathBuf,
    pub database: String,
    /// What studios and workers find in their environment.
    pub environment: Vec<(&'static str, String)>,
    /// KiB that any of their files may have: as on a full disk.
    pub limit: Option<u32>,
}

/// A process that ends with this value.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Process {
    pub fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill").success());
    }

    pub fn end(&mut self) -> Option<i32> {
        self.0.wait().expect("its end").code()
    }
}

/// A studio that serves.
pub struct Served {
    pub process: Process,
    pub url: String,
    pub token: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }
}

impl World {
    pub fn new(name: &str) -> Self {
        let folder = fresh_folder(name);
        let (store, database) = (folder.join("store"), text(&folder.join("jobs.db")).to_owned());
        Self { folder, store, database, environment: Vec::new(), limit: None }
    }

    /// The same with the trained model and its fine-tune.
    pub fn with_models(name: &str) -> Self {
        let own = Self::new(name);
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm");
        pack(&own.store, &models.join("base"), "org/base", &[]);
        pack(&own.store, &models.join("tuned"), "org/tuned", &[]);
        own
    }

    fn start(&self, arguments: &[&str], more: &[&str]) -> (Process, Value) {
        let common = ["--store", text(&self.store), "--database", &self.database, "--json"];
        let log = std::fs::File::create(self.folder.join(format!("log{}", fastrand::u32(..))));
        let inner = command(&[arguments, &common, more].concat());
        let mut command = match self.limit {
            Some(kib) => super::run::limit(&inner, kib),
            None => inner,
        };
        let mut child = command
            .env("TENPAK_LOG", "info")
            .env("HOME", self.folder.join("home"))
            .env_remove("HF_TOKEN")
            .env_remove("HF_ENDPOINT")
            .envs(self.environment.clone())
            .stdout(Stdio::piped())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("a process");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        (Process(child), value)
    }

    pub fn serve(&self, more: &[&str]) -> Served {
        let uploads = self.folder.join("uploads");
        let own = ["studio", "--listen", "127.0.0.1:0", "--uploads", text(&uploads)];
        let (process, value) = self.start(&own, more);
        let url = value["listening"].as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
        Served { process, url, token: None }
    }

    /// An edge over another store, which is a Hub, too; gives its address.
    pub fn hub(&self, store: &Path) -> (Process, String) {
        let all = ["edge", "--origin", text(store), "--listen", "127.0.0.1:0", "--json"];
        let mut child = command(&all).stdout(Stdio::piped()).spawn().expect("an edge");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let value: Value = serde_json::from_str(&line).expect("an object");
        (Process(child), value["listening"].as_str().expect("an address").to_owned())
    }

    pub fn worker(&self, more: &[&str]) -> Process {
        self.start(&["studio", "worker"], more).0
    }

    /// A model that takes a while to quantize, below a folder that requests may name.
    pub fn slow_model(&self) -> PathBuf {
        super::model::write(&self.folder.join("slow"), &super::model::llama(6, 512))
    }

    /// The same, of which more than one pack is written.
    pub fn large_model(&self) -> PathBuf {
        super::model::write(&self.folder.join("slow"), &super::model::llama(8, 1024))
    }

    /// Waits until a job that runs has written a pack.
    #[track_caller]
    pub fn wrote(&self, studio: &Served, id: &str) {
        studio.until(id, |job| {
            assert!(
                job["status"] == "queued" || job["status"] == "running",
                "it is too fast: {job}"
            );
            !super::run::names(&self.store, "packs/").is_empty()
        });
    }
}

impl Served {
    /// Asks with curl: its arguments before the path.
    pub fn ask(&self, arguments: &[&str], path: &str) -> Answer {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "--max-time", "100", "--path-as-is"]).args(arguments);
        if let Some(token) = &self.token {
            curl.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        let output = curl.arg(format!("{}{path}", self.url)).output().expect("curl");
        let all = output.stdout;
        let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| {
            let told = String::from_utf8_lossy(&output.stderr);
            panic!("no answer to {path}: {} {told}", output.status)
        });
        let head = String::from_utf8_lossy(&all[..end]).to_lowercase();
        let mut body = all[end + 4..].to_vec();
        // An interim answer comes first.
        if head.starts_with("http/1.1 100") {
            let end = body.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
            let head = String::from_utf8_lossy(&body[..end]).to_lowercase();
            body.drain(..end + 4);
            let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
            return Answer { status, head, body };
        }
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        Answer { status, head, body }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask(&[], path)
    }

    pub fn post(&self, path: &str, body: &Value, headers: &[&str]) -> Answer {
        let body = body.to_string();
        let mut all = vec!["-H", "Content-Type: application/json", "-d", &body];
        headers.iter().for_each(|header| all.extend(["-H", header]));
        self.ask(&all, path)
    }

    /// Submits a job that is accepted; gives its id.
    #[track_caller]
    pub fn submit(&self, path: &str, body: &Value) -> String {
        let answer = self.post(path, body, &[]);
        assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
        let id = answer.json()["id"].as_str().expect("an id").to_owned();
        assert_eq!(answer.header("location"), Some(&*format!("/jobs/{id}")));
        id
    }

    pub fn job(&self, id: &str) -> Value {
        self.get(&format!("/status/{id}")).json()
    }

    /// Waits until the job is so.
    #[track_caller]
    pub fn until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let job = self.job(id);
            if wanted(&job) {
                return job;
            }
            assert!(start.elapsed() < PATIENCE, "{job}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the job's end.
    #[track_caller]
    pub fn end(&self, id: &str) -> Value {
        let over = |job: &Value| {
            ["succeeded", "failed", "cancelled"].iter().any(|state| job["status"] == **state)
        };
        self.until(id, over)
    }

    /// Waits until the job has done some of its work.
    #[track_caller]
    pub fn begun(&self, id: &str) -> Value {
        self.until(id, |job| {
            assert!(
                job["status"] == "queued" || job["status"] == "running",
                "it is too fast: {job}"
            );
            job["progress"]["done"].as_u64().is_some_and(|done| done > 0)
        })
    }
}
