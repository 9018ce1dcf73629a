//! The command's edge over a store with one model, as a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::model::{self, Tensor};
use super::run::{command, done, fresh_folder, pack, text};

/// Above 10 MiB a file is one of LFS.
const TENSORS: &[Tensor<'_>] = &[
    ("model.embed_tokens.weight", &[3000, 2048], 1),
    ("model.layers.0.mlp.down_proj.weight", &[512, 2048], 2),
    ("model.none.weight", &[0, 4], 3),
    ("model.norm.weight", &[512], 4),
];

/// An edge of the command, over a store with one model.
pub struct Served {
    pub process: Child,
    pub address: String,
    pub model: PathBuf,
    pub commit: String,
    pub folder: PathBuf,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.process.kill().expect("the edge to end");
        self.process.wait().expect("the edge to end");
    }
}

impl Served {
    pub fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// The same with further arguments to the edge.
    pub fn with(name: &str, more: &[&str]) -> Self {
        Self::signed(name, &[], more)
    }

    /// The same, with arguments to `pack` too.
    pub fn signed(name: &str, packing: &[&str], more: &[&str]) -> Self {
        Self::of(name, TENSORS, packing, more)
    }

    /// The same, of a model of these tensors.
    pub fn of(name: &str, tensors: &[model::Tensor<'_>], packing: &[&str], more: &[&str]) -> Self {
        let folder = fresh_folder(name);
        let (store, model) = (folder.join("store"), model::write(&folder.join("m"), tensors));
        std::fs::create_dir_all(model.join("1_Pooling")).expect("a folder");
        std::fs::write(model.join("1_Pooling/config.json"), "{}").expect("a file");
        std::fs::write(model.join("empty.txt"), "").expect("a file");
        let packed = pack(&store, &model, "org/m", packing);
        done(&["tag", "org/m", "org/m:v1", "--store", text(&store)]);
        let (process, address) = start(&store, more);
        let commit = packed.text("manifest")[..40].to_owned();
        Self { process, address, model, commit, folder }
    }

    /// A further edge over the same store.
    pub fn beside(&self, more: &[&str]) -> Self {
        let (process, address) = start(&self.folder.join("store"), more);
        let (model, folder) = (self.model.clone(), self.folder.clone());
        Self { process, address, model, folder, commit: self.commit.clone() }
    }

    /// A further edge that has fetched nothing.
    pub fn cold(&self, more: &[&str]) -> Self {
        let (process, address) = run(&self.folder.join("store"), more);
        let (model, folder) = (self.model.clone(), self.folder.clone());
        Self { process, address, model, folder, commit: self.commit.clone() }
    }

    /// Starts another edge in the place of one that has ended.
    pub fn restart(&mut self, more: &[&str]) {
        (self.process, self.address) = start(&self.folder.join("store"), more);
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, metrics) = self.ask("GET /metrics", "", "");
        let text = String::from_utf8(metrics).expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.expect(name).parse().expect("a number")
    }

    /// One request; the answer's head in lower case, and its body.
    pub fn ask(&self, line: &str, headers: &str, body: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).expect("the edge");
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\
             {headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let body = answer.split_off(end);
        (String::from_utf8_lossy(&answer).to_lowercase(), body)
    }
}

fn start(store: &Path, more: &[&str]) -> (Child, String) {
    run(store, &[&["--prefetch", "org/m:v1"], more].concat())
}

fn run(store: &Path, more: &[&str]) -> (Child, String) {
    let edge = ["--json", "edge", "--origin", text(store), "--listen", "127.0.0.1:0"];
    let arguments = [&edge[..], more].concat();
    let mut process =
        command(&arguments).stdout(Stdio::piped()).spawn().expect("the edge to start");
    let mut line = String::new();
    let mut out = BufReader::new(process.stdout.take().expect("its output"));
    out.read_line(&mut line).expect("its address");
    let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    let address = told["listening"].as_str().and_then(|url| url.split("://").nth(1));
    (process, address.expect("a URL").to_owned())
}
