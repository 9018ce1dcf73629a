//! nginx in front of edges: as a cache, as a CDN would stand there, which does not ask again for what it
//! has, and as a balancer between edges of which none knows what the others were asked for. Loads come
//! out right.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::command::Served;
use super::run::{done, fresh_folder, text};

struct Nginx {
    process: Child,
    address: String,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.kill().expect("nginx to end");
        self.process.wait().expect("nginx to end");
    }
}

/// nginx with these servers; they may cache in `all`.
pub fn nginx(servers: &str, folder: &Path) -> Child {
    let root = text(folder);
    let configuration = format!(
        "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {root}/body;\n  \
         proxy_temp_path {root}/proxy;\n  fastcgi_temp_path {root}/f;\n  \
         uwsgi_temp_path {root}/u;\n  scgi_temp_path {root}/s;\n  \
         proxy_cache_path {root}/cache keys_zone=all:1m max_size=1g;\n  {servers}\n}}\n"
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration).expect("a file");
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    Command::new(program)
        .args(["-p", root, "-c", text(&file), "-e", &format!("{root}/error.log")])
        .spawn()
        .expect("nginx, which tests/setup.sh installs")
}

impl Nginx {
    /// Asks the first of `edges` for all but packs, and the last one for these; told so, it caches what
    /// they let it cache.
    fn before(edges: &[&str], caches: bool, folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a free port")
            .port();
        let (first, last) = (edges.first().expect("an edge"), edges.last().expect("an edge"));
        let cache = if caches { "all" } else { "off" };
        let process = nginx(
            &format!(
                "server {{\n    listen 127.0.0.1:{port};\n    proxy_http_version 1.1;\n    \
                 proxy_cache {cache};\n    add_header X-Cache $upstream_cache_status;\n    \
                 location / {{ proxy_pass http://{first}; }}\n    \
                 location /packs/ {{ proxy_pass http://{last}; }}\n  }}"
            ),
            folder,
        );
        let address = format!("127.0.0.1:{port}");
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "nginx takes no connections");
        }
        Self { process, address }
    }

    /// What nginx says of its cache for a path.
    fn status(&self, target: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("nginx");
        let request = format!("HEAD {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        let found =
            lines.filter_map(|line| line.strip_prefix("X-Cache: ").map(str::to_owned)).next();
        found.unwrap_or_default()
    }
}

#[test]
fn a_caching_proxy_keeps_what_never_changes() {
    let served = Served::new("between");
    let folder = fresh_folder("nginx");
    let nginx = Nginx::before(&[&served.address], true, &folder);
    let url = format!("http://{}", nginx.address);
    let right = done(&["load", "org/m", "--digest", "--store", text(&served.folder.join("store"))]);
    let sent = || served.metric("tenpak_edge_sent_bytes_total");
    let first = done(&["load", "org/m", "--digest", "--store", &url]);
    assert_eq!(first.json["digests"], right.json["digests"]);
    let before = sent();
    let second = done(&["load", "org/m", "--digest", "--store", &url]);
    assert_eq!(second.json["digests"], right.json["digests"]);
    assert!(right.number("tensors") > 0 && !right.json["digests"].is_null(), "{}", right.json);
    let again = sent() - before;
    assert!(again < 200_000, "{again} bytes were asked of the edge again");
    let manifest = right_manifest(&served);
    assert_eq!(nginx.status(&format!("/manifests/{manifest}")), "HIT");
    let file = format!("/org/m/resolve/{}/config.json", served.commit);
    assert_eq!(nginx.status(&file), "MISS");
    // It answers before it has it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while nginx.status(&file) != "HIT" {
        assert!(Instant::now() < deadline, "a commit's file is not kept");
    }
    // A tag may move: it is asked for each time.
    for _ in 0..2 {
        assert_ne!(nginx.status("/org/m/resolve/main/config.json"), "HIT");
    }
}

#[test]
fn a_balancers_edges_learn_from_the_loader_what_they_are_asked_for() {
    let folder = fresh_folder("balanced");
    let key = folder.join("key");
    done(&["keygen", text(&key)]);
    let public = folder.join("key.pub");
    let trust = ["--trust", text(&public)];
    let signed = ["--sign", text(&key)];
    let asked = Served::signed("balanced-edge", &signed, &trust);
    // It is asked for packs alone, never for what names their chunks.
    let unasked = asked.beside(&trust);
    let nginx =
        Nginx::before(&[&asked.address, &unasked.address], false, &fresh_folder("balancer"));
    let url = format!("http://{}", nginx.address);
    let store = asked.folder.join("store");
    let right = done(&["load", "org/m", "--digest", "--store", text(&store)]);
    let load = ["load", "org/m", "--digest", "--store", &url];
    let loaded = done(&[&load[..], &trust].concat());
    assert_eq!(loaded.json["digests"], right.json["digests"]);
    let misses = [&asked, &unasked].map(|edge| edge.metric("tenpak_edge_cache_misses_total"));
    assert!(misses[0] == 0 && misses[1] > 0, "{misses:?}");
}

fn right_manifest(served: &Served) -> String {
    done(&["inspect", "org/m", "--store", text(&served.folder.join("store"))]).text("manifest")
}
