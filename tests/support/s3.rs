//! A real S3 server: moto's, from the project's Python environment, on a port of its own.
//!
//! The process ends with its [`S3Server`].

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The running server.
pub struct S3Server {
    child: Child,
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
}

impl S3Server {
    /// Starts the server and waits until it answers.
    pub fn start() -> Self {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/.venv/bin/python");
        let server = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/s3_server.py");
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|socket| socket.local_addr())
                .expect("a free port")
                .port();
            let child = Command::new(program)
                .args(["-B", server, "-H", "127.0.0.1", "-p", &port.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|e| panic!("{program}: {e}; `make test` installs it"));
            let mut server = Self { child, endpoint: format!("http://127.0.0.1:{port}") };
            if server.answers(port) {
                return server;
            }
        }
        panic!("moto's server did not start");
    }

    /// Waits until the port takes connections; false if the process ended (the port was taken).
    fn answers(&mut self, port: u16) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if self.child.try_wait().expect("a child process").is_some() {
                return false;
            }
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("moto's server takes no connections");
    }

    /// The environment in which `s3://` addresses mean this server.
    pub fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("AWS_ENDPOINT_URL", &self.endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ]
    }

    /// Makes a bucket with a plain request: moto asks for no signature.
    pub fn create_bucket(&self, name: &str) {
        use std::io::{Read, Write};
        let address = self.endpoint.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address).expect("the S3 server");
        write!(
            stream,
            "PUT /{name} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        )
        .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(e) = ended {
            eprintln!("moto's server may still run: {e}");
        }
    }
}
