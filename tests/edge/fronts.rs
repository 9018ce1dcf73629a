//! nginx and Varnish as caches in front of an edge: after a tag moves, they give the new bytes, and never a mixture of
//! both, though they keep what they may.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::between::nginx;
use super::command::Served;
use super::model;
use super::run::{done, fresh_folder, pack, text};
use super::sync::{FIRST, SECOND};

/// A cache in front of an edge.
struct Front {
    process: Child,
    address: String,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.process.kill().expect("the cache to end");
        self.process.wait().expect("the cache to end");
    }
}

impl Front {
    fn started(process: Child, port: u16) -> Self {
        let front = Self { process, address: format!("127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&front.address).is_err() {
            assert!(Instant::now() < deadline, "the cache takes no connections");
            std::thread::sleep(Duration::from_millis(10));
        }
        front
    }

    /// nginx, which asks again for what is no longer fresh and, told so, fetches files in slices.
    fn nginx(edge: &str, slices: bool, folder: &Path) -> Self {
        let port = free_port();
        let slice = if slices {
            "slice 128k; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range; \
             proxy_cache_valid 200 206 1h;"
        } else {
            ""
        };
        let servers = format!(
            "server {{ listen 127.0.0.1:{port}; proxy_http_version 1.1; proxy_cache all; \
             proxy_cache_revalidate on; add_header X-Cache $upstream_cache_status; \
             location / {{ {slice} proxy_pass http://{edge}; }} }}"
        );
        Self::started(nginx(&servers, folder), port)
    }

    /// Varnish with the rules that it comes with.
    fn varnish(edge: &str, folder: &Path) -> Self {
        let port = free_port();
        let (host, to) = edge.rsplit_once(':').expect("a port");
        let rules = folder.join("rules.vcl");
        let text_of = format!(
            "vcl 4.1;\nbackend edge {{ .host = \"{host}\"; .port = \"{to}\"; }}\nsub vcl_deliver {{\n  \
             if (obj.hits > 0) {{ set resp.http.X-Cache = \"HIT\"; }}\n}}\n"
        );
        fs::write(&rules, text_of).expect("a file");
        let program = if Path::new("/usr/sbin/varnishd").exists() {
            "/usr/sbin/varnishd"
        } else {
            "varnishd"
        };
        let process = Command::new(program)
            .args(["-F", "-a", &format!("127.0.0.1:{port}"), "-f", text(&rules), "-j", "none"])
            .args(["-n", text(&folder.join("work")), "-s", "malloc,64m"])
            .stdout(Stdio::null())
            .spawn()
            .expect("varnishd, which tests/setup.sh installs");
        Self::started(process, port)
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    socket.expect("a free port").port()
}

/// The bytes that curl gets, and whether the cache had them.
fn get(url: &str, more: &[&str]) -> (Vec<u8>, bool) {
    let output = Command::new("curl")
        .args(["-sSfL", "-D", "/dev/stderr"])
        .args(more)
        .arg(url)
        .output()
        .expect("curl, which tests/setup.sh installs");
    let head = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(output.status.success(), "{url}: {head}");
    (output.stdout, head.contains("x-cache: hit"))
}

const FILES: [&str; 2] = ["s3/org/m/model.safetensors", "org/m/resolve/main/model.safetensors"];

/// Fetches the weights at both faces, whole and in part, moves the tag, and fetches them again at once.
fn follows_the_tag(name: &str, start: impl Fn(&str, &Path) -> Front) {
    let served = Served::of(name, FIRST, &[], &["--fresh", "0"]);
    let folder = fresh_folder(&format!("{name}-cache"));
    let front = start(&served.address, &folder);
    let url = format!("http://{}", front.address);
    let weights = |folder: &Path| fs::read(folder.join("model.safetensors")).expect("the weights");
    let right = |right: &[u8]| {
        for file in FILES {
            let url = format!("{url}/{file}");
            let (got, _) = get(&url, &["-r", "300000-500000"]);
            // nginx gives all of what it may not keep.
            assert!(got == right[300_000..=500_000] || got == right, "a part of {file}");
            for _ in 0..2 {
                assert!(get(&url, &[]).0 == right, "{file}");
            }
        }
        let load = done(&["load", "org/m", "--digest", "--store", &url]);
        let store = served.folder.join("store");
        let own = done(&["load", "org/m", "--digest", "--store", text(&store)]);
        assert_eq!(load.json["digests"], own.json["digests"]);
    };
    let old = weights(&served.model);
    right(&old);
    let second = model::write(&served.folder.join("second"), SECOND);
    let new = weights(&second);
    assert!(new.len() == old.len() && new != old);
    pack(&served.folder.join("store"), &second, "org/m", &[]);
    right(&new);
    // It is a cache: a commit's files never change.
    let file = format!("{url}/org/m/resolve/{}/model.safetensors", served.commit);
    assert!(get(&file, &[]).0 == old);
    let deadline = Instant::now() + Duration::from_secs(10);
    while get(&file, &[]) != (old.clone(), true) {
        assert!(Instant::now() < deadline, "a commit's file is not kept");
    }
}

#[test]
fn nginx_follows_a_tag() {
    follows_the_tag("front-nginx", |edge, folder| Front::nginx(edge, false, folder));
}

#[test]
fn varnish_follows_a_tag() {
    follows_the_tag("front-varnish", Front::varnish);
}

/// `proxy_cache_valid` counts only where the edge says nothing; slices of two versions are told apart by their entity tags.
#[test]
fn nginx_that_fetches_slices_follows_a_tag() {
    follows_the_tag("front-slices", |edge, folder| Front::nginx(edge, true, folder));
}
