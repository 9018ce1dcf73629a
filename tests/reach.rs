//! How stores are reached in companies: through a real proxy, with certificates of their own, by addresses that hold a
//! secret, and with headers.

#![cfg(feature = "cli")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/run.rs"]
mod run;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/s3.rs"]
mod s3;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/safetensors.rs"]
mod safetensors;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "support/web.rs"]
mod web;

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use run::{Run, command, fresh_folder, pack, text};
use web::{Step, WebServer, answer, correct};

const TENSORS: &[safetensors::Tensor<'_>] =
    &[("a.weight", &[512, 512], 1), ("b.weight", &[256, 256], 2), ("c.bias", &[64], 3)];

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().expect("an end");
        self.0.wait().expect("an end");
    }
}

fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").port()
}

/// Starts a program, which then listens there.
fn start(program: &str, arguments: &[&str], port: u16) -> Running {
    let mut process = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}, which tests/setup.sh installs: {e}"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = process.try_wait().expect("a process");
        assert!(Instant::now() < deadline && ended.is_none(), "{program}: {ended:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Running(process)
}

/// A store behind nginx, by http and by https.
struct Site {
    folder: PathBuf,
    http: String,
    https: String,
    certificate: PathBuf,
    _nginx: Running,
}

impl Site {
    fn new(name: &str) -> Self {
        let folder = fresh_folder(name);
        let model = safetensors::write(&folder.join("m"), TENSORS);
        pack(&folder.join("store"), &model, "org/m", &[]);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate");
        let (certificate, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("a file");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
        let (plain, secure, root) = (free_port(), free_port(), text(&folder).to_owned());
        let configuration = format!(
            "daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n  access_log {root}/access.log;\n  client_body_temp_path {root}/body;\n  \
             proxy_temp_path {root}/p;\n  fastcgi_temp_path {root}/f;\n  \
             uwsgi_temp_path {root}/u;\n  scgi_temp_path {root}/s;\n  \
             ssl_certificate {root}/chain.pem;\n  ssl_certificate_key {root}/key.pem;\n  \
             server {{ listen 127.0.0.1:{plain}; listen 127.0.0.1:{secure} ssl; root {root}; }}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration).expect("a file");
        let nginx = ["/usr/sbin/nginx", "nginx"];
        let nginx = nginx.into_iter().find(|at| Path::new(at).exists()).unwrap_or("nginx");
        let log = format!("{root}/error.log");
        let arguments = ["-p", &root, "-c", text(&file), "-e", &log];
        let nginx = start(nginx, &arguments, plain);
        let http = format!("http://localhost:{plain}/store");
        let https = format!("https://localhost:{secure}/store");
        Self { folder, http, https, certificate, _nginx: nginx }
    }
}

/// A real proxy that wants a user name and a password.
struct Proxy {
    address: String,
    log: PathBuf,
    _process: Running,
    _folder: tempfile::TempDir,
}

impl Proxy {
    fn new() -> Self {
        // squid gives up its rights, and then writes there: whoever it becomes must reach it.
        let made = tempfile::tempdir().expect("a folder");
        let folder = made.path();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(folder, all).expect("a folder");
        let hash = Command::new("openssl").args(["passwd", "-apr1", "pass-word"]).output();
        let hash = String::from_utf8(hash.expect("openssl").stdout).expect("a hash");
        std::fs::write(folder.join("users"), format!("user:{hash}")).expect("a file");
        let (port, root, log) = (free_port(), text(folder), folder.join("access.log"));
        let configuration = format!(
            "http_port 127.0.0.1:{port}\ncache deny all\naccess_log stdio:{root}/access.log squid\n\
             cache_log {root}/cache.log\npid_filename none\ncoredump_dir {root}\n\
             auth_param basic program /usr/lib/squid/basic_ncsa_auth {root}/users\n\
             acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n\
             shutdown_lifetime 0 seconds\nvisible_hostname proxy\n"
        );
        let file = folder.join("squid.conf");
        std::fs::write(&file, configuration).expect("a file");
        let squid = ["/usr/sbin/squid", "squid"];
        let squid = squid.into_iter().find(|at| Path::new(at).exists()).unwrap_or("squid");
        let process = start(squid, &["-N", "-f", text(&file)], port);
        Self {
            address: format!("http://user:pass-word@127.0.0.1:{port}"),
            log,
            _process: process,
            _folder: made,
        }
    }

    /// How often the proxy did so for who asked.
    fn asked(&self, method: &str) -> usize {
        let Ok(log) = std::fs::File::open(&self.log) else { return 0 };
        let lines = BufReader::new(log).lines().map_while(Result::ok);
        let own = |line: &String| !line.contains("DENIED") && line.contains(&format!(" {method} "));
        lines.filter(own).count()
    }

    /// Waits until it did so as often: squid writes its log when a connection ends.
    #[track_caller]
    fn has_asked(&self, method: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.asked(method) < times {
            assert!(Instant::now() < deadline, "{method} {} times of {times}", self.asked(method));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Variables that would count in whatever surrounds the tests.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];

/// The command without them.
fn alone(arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    for name in PROXIES {
        command.env_remove(name);
    }
    command
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Run {
    let mut command = alone(&[&["--json"], arguments].concat());
    Run::of(command.envs(environment.iter().copied()).output().expect("a run"))
}

#[track_caller]
fn load(store: &str, more: &[&str], environment: &[(&str, &str)]) -> Run {
    let run = run(&[&["load", "org/m", "--store", store], more].concat(), environment);
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert_eq!(run.number("tensors"), 3);
    run
}

#[test]
fn a_proxy_is_used_for_http_and_https_and_shown_who_asks() {
    let site = Site::new("proxied");
    let proxy = Proxy::new();
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        let before = proxy.asked("GET");
        load(&site.http, &[], &[(name, &proxy.address)]);
        proxy.has_asked("GET", before + 4);
    }
    let ca = text(&site.certificate);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        let before = proxy.asked("CONNECT");
        load(&site.https, &["--ca", ca], &[(name, &proxy.address)]);
        proxy.has_asked("CONNECT", before + 1);
    }
    // People leave the scheme out.
    let bare = proxy.address.trim_start_matches("http://");
    let before = proxy.asked("GET");
    load(&site.http, &[], &[("HTTP_PROXY", bare)]);
    proxy.has_asked("GET", before + 4);
    // Variables of the other scheme say nothing.
    let before = (proxy.asked("GET"), proxy.asked("CONNECT"));
    load(&site.http, &[], &[("HTTPS_PROXY", &proxy.address)]);
    load(&site.https, &["--ca", ca], &[("HTTP_PROXY", &proxy.address)]);
    assert_eq!((proxy.asked("GET"), proxy.asked("CONNECT")), before);
}

#[test]
fn what_is_excepted_goes_straight() {
    let site = Site::new("excepted");
    let dead = format!("http://127.0.0.1:{}", free_port());
    let by_number = site.http.replace("localhost", "127.0.0.1");
    for (url, no) in [
        (&site.http, "localhost"),
        (&site.http, "example.com, LOCALHOST"),
        (&site.http, "*"),
        (&by_number, "127.0.0.0/8"),
        (&by_number, "10.0.0.0/8,127.0.0.1"),
    ] {
        load(url, &[], &[("HTTP_PROXY", &dead), ("NO_PROXY", no)]);
        load(url, &[], &[("http_proxy", &dead), ("no_proxy", no)]);
    }
    let refused = run(
        &["load", "org/m", "--store", &by_number],
        &[("HTTP_PROXY", &dead), ("NO_PROXY", "10.0.0.0/8,.example.com")],
    );
    assert_eq!(refused.status, Some(5), "{}", refused.error);
}

#[test]
fn what_a_proxy_refuses_is_said() {
    let site = Site::new("refused");
    let proxy = Proxy::new();
    let ca = text(&site.certificate);
    let wrong = proxy.address.replace("pass-word", "secret");
    let told =
        run(&["load", "org/m", "--store", &site.https, "--ca", ca], &[("HTTPS_PROXY", &wrong)]);
    assert!(
        told.error.contains("the proxy 127.0.0.1:")
            && told.error.contains("user name and a password"),
        "{}",
        told.error
    );
    let plain = run(&["load", "org/m", "--store", &site.http], &[("HTTP_PROXY", &wrong)]);
    assert!(plain.error.contains("407"), "{}", plain.error);
    let socks = run(
        &["load", "org/m", "--store", &site.http],
        &[("ALL_PROXY", "socks5://user:secret@127.0.0.1:1")],
    );
    assert!(socks.error.contains("socks5:// is not supported"), "{}", socks.error);
    // A proxy that forbids a server will not allow it a second later.
    let refuses = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", refuses.local_addr().expect("an address"));
    let asked = std::thread::spawn(move || {
        refuses.set_nonblocking(false).expect("a socket");
        let (mut stream, _) = refuses.accept().expect("a connection");
        let mut head = [0; 1024];
        let count = std::io::Read::read(&mut stream, &mut head).expect("a request");
        let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        std::io::Write::write_all(&mut stream, answer).expect("an answer");
        refuses.set_nonblocking(true).expect("a socket");
        (String::from_utf8_lossy(&head[..count]).into_owned(), refuses)
    });
    let forbidden =
        run(&["load", "org/m", "--store", &site.https, "--ca", ca], &[("HTTPS_PROXY", &address)]);
    let (head, refuses) = asked.join().expect("a proxy");
    assert!(head.starts_with("CONNECT localhost:"), "{head}");
    assert!(forbidden.error.contains("403 Forbidden"), "{}", forbidden.error);
    assert!(refuses.accept().is_err(), "it is not asked again");
    for run in [told, plain, socks, forbidden] {
        assert_ne!(run.status, Some(0));
        assert!(!run.error.contains("secret"), "{}", run.error);
    }
}

#[test]
fn buckets_and_the_origins_of_an_edge_are_reached_through_the_proxy() {
    let site = Site::new("origins");
    let proxy = Proxy::new();
    let s3 = s3::S3Server::start();
    s3.create_bucket("weights");
    let mut environment = s3.environment().to_vec();
    environment.push(("HTTP_PROXY", &proxy.address));
    let model = site.folder.join("m");
    let packed =
        run(&["pack", text(&model), "--name", "org/m", "--store", "s3://weights/a"], &environment);
    assert_eq!(packed.status, Some(0), "{}", packed.error);
    proxy.has_asked("PUT", 4);
    let before = proxy.asked("GET");
    load("s3://weights/a", &[], &environment);
    proxy.has_asked("GET", before + 1);
    // What is excepted goes straight: a proxy that is not there is not asked.
    let dead = format!("http://127.0.0.1:{}", free_port());
    let own = s3.environment();
    let endpoint = own.iter().find(|(_, value)| value.starts_with("http://"));
    let server = endpoint.expect("an endpoint").1.trim_start_matches("http://");
    let (host, _) = server.split_once(':').expect("a port");
    let proxied = [("HTTP_PROXY", dead.as_str())];
    let with = |no: &str| {
        let more = [("NO_PROXY", no)];
        let environment = [&own[..], &proxied[..], &more[..]].concat();
        run(&["load", "org/m", "--store", "s3://weights/a"], &environment)
    };
    for no in [server, host, "*", &format!("example.com:80, {server}")] {
        let straight = with(no);
        assert_eq!(straight.status, Some(0), "{no}: {}", straight.error);
    }
    let asked = with(&format!("{host}:1, example.com"));
    assert_eq!(asked.status, Some(5), "{}", asked.error);

    let before = proxy.asked("GET");
    let mut edge = alone(&["edge", "--origin", &site.http, "--listen", "127.0.0.1:0"]);
    let mut edge =
        edge.env("HTTP_PROXY", &proxy.address).stdout(Stdio::piped()).spawn().expect("an edge");
    let mut line = String::new();
    BufReader::new(edge.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let edge = Running(edge);
    // The address of the origin stands before that of the edge.
    let at = line.rfind("http://").expect("an address");
    let url: String = line[at..].chars().take_while(|c| !c.is_whitespace()).collect();
    load(&url, &[], &[]);
    drop(edge);
    proxy.has_asked("GET", before + 4);
}

#[test]
fn a_companys_certificates_count() {
    let site = Site::new("certificates");
    let ca = text(&site.certificate);
    let untrusted = run(&["load", "org/m", "--store", &site.https], &[]);
    assert!(
        untrusted.status != Some(0) && untrusted.error.contains("certificate"),
        "{}",
        untrusted.error
    );
    load(&site.https, &["--ca", ca], &[]);
    load(&site.https, &[], &[("SSL_CERT_FILE", ca)]);
    let none = run(&["load", "org/m", "--store", &site.https, "--ca", "/nowhere.pem"], &[]);
    assert!(none.status == Some(2) && none.error.contains("/nowhere.pem"), "{}", none.error);
    let empty = site.folder.join("empty.pem");
    std::fs::write(&empty, "no certificate").expect("a file");
    let wrong = run(&["load", "org/m", "--store", &site.https, "--ca", text(&empty)], &[]);
    assert!(wrong.status == Some(2) && wrong.error.contains("no certificate"), "{}", wrong.error);
}

/// Files of a folder to whoever shows the secret in the query of each request.
async fn guarded(root: PathBuf) -> WebServer {
    WebServer::start(move |_, head| {
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = head.lines().any(|line| line.eq_ignore_ascii_case("x-api-key: secret"));
        if query != "sv=1&sig=secret%2F" && !key {
            return vec![Step::Send(answer("403 Forbidden", &["Content-Length: 0"], b""))];
        }
        let path = path.trim_start_matches('/');
        if let Some(moved) = path.strip_prefix("moved/") {
            let to = format!("Location: /{moved}");
            return vec![Step::Send(answer("307 Moved", &[&to, "Content-Length: 0"], b""))];
        }
        match std::fs::read(root.join(path)) {
            Ok(bytes) => vec![Step::Send(correct(head, &bytes))],
            Err(_) => vec![Step::Send(answer("404 Not Found", &["Content-Length: 0"], b""))],
        }
    })
    .await
}

#[test]
fn an_addresss_query_goes_with_every_request_and_is_never_shown() {
    let folder = fresh_folder("signed");
    let model = safetensors::write(&folder.join("m"), TENSORS);
    pack(&folder.join("store"), &model, "org/m", &[]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = runtime.block_on(guarded(folder.join("store")));
    let signed = format!("{}/?sv=1&sig=secret%2F", server.url);
    load(&signed, &[], &[]);
    let moved = format!("{}/moved?sv=1&sig=secret%2F", server.url);
    load(&moved, &[], &[]);
    let out = folder.join("out");
    for arguments in [
        vec!["verify", "org/m", "--store", &signed],
        vec!["inspect", "org/m", "--store", &signed],
        vec!["ls", "--store", &signed],
        vec!["unpack", "org/m", "--out", text(&out), "--store", &signed],
        vec!["cp", "org/m", "--store", &signed, "--to", text(&folder)],
        vec!["load", "org/none", "--store", &signed],
        vec!["load", "org/m", "--store", &format!("{}/?sv=1&sig=secret", server.url)],
        vec!["pack", text(&model), "--name", "org/n", "--store", &signed],
        vec!["gc", "--store", &signed],
        vec!["load", "org/m", "--store", text(&folder.join("none")), "--mirror", &signed],
    ] {
        let mut told = command(&arguments);
        told.env("RUST_LOG", "trace").env("TENPAK_LOG", "trace");
        let told = told.output().expect("a run");
        for text in [told.stdout, told.stderr] {
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(!text.contains("secret"), "{arguments:?}: {text}");
        }
    }
    // Headers do the same.
    let asked = server.requests().len();
    load(&server.url, &["--header", "X-Api-Key: secret"], &[]);
    load(&server.url, &[], &[("TENPAK_HEADERS", "X-Other: 1\nx-api-key: secret\n")]);
    let heads = server.requests().split_off(asked);
    let with = |head: &String| head.to_lowercase().contains("x-api-key: secret");
    assert!(heads.len() >= 8 && heads.iter().all(with), "{heads:?}");
    let wrong = run(&["ls", "--store", &server.url, "--header", "X-Api-Key secret"], &[]);
    assert!(wrong.status == Some(2) && !wrong.error.contains("secret"), "{}", wrong.error);
}

#[test]
fn another_host_sees_neither_query_nor_headers() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let other = WebServer::start(|_, _| {
            vec![Step::Send(answer("404 Not Found", &["Content-Length: 0"], b""))]
        })
        .await;
        let away = other.url.clone();
        let server = WebServer::start(move |_, head| {
            let target = head.split(' ').nth(1).unwrap_or_default();
            let (path, query) = target.split_once('?').unwrap_or((target, ""));
            // Servers that rewrite addresses hand queries on.
            let to = format!("Location: {away}{path}?{query}");
            vec![Step::Send(answer("302 Found", &[&to, "Content-Length: 0"], b""))]
        })
        .await;
        let store = format!("{}/s?sig=secret", server.url);
        let header = ["--header", "X-Api-Key: secret"];
        let told = tokio::task::spawn_blocking(move || {
            run(&[&["load", "org/m", "--store", &store], &header[..]].concat(), &[])
        });
        let told = told.await.expect("a run");
        assert!(told.status != Some(0) && !told.error.contains("secret"), "{}", told.error);
        let (own, seen) = (server.requests(), other.requests());
        assert!(!own.is_empty() && own.iter().all(|head| head.contains("sig=secret")));
        assert!(!seen.is_empty() && seen.iter().all(|head| !head.contains("secret")), "{seen:?}");
    });
}
