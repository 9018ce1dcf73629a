//! Any bytes as a web server's answer: what a reader gets is the range that was asked for or the
//! whole object, never more bytes than announced, and a full end only after all of them.
#![no_main]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tenpak::transport::http::{HttpBackend, HttpOptions};
use tenpak::transport::{Transport, ObjectPath, ReadRange};
use tokio::runtime::{Builder, Runtime};

const MOST: usize = 1 << 20;

struct Server {
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    runtime: Runtime,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("its address");
    let answer = Arc::new(Mutex::new(Vec::new()));
    let shared = answer.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let bytes = shared.lock().expect("nobody panics with it").clone();
            // A client that hangs up is served no further.
            drop(serve(&mut stream, &bytes));
        }
    });
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    Server { address, answer, runtime }
});

fn serve(stream: &mut TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    stream.write_all(answer)
}

async fn read(transport: &HttpBackend, path: &ObjectPath, asked: ReadRange) -> Option<()> {
    let mut reader = transport.open(path, asked.clone()).await.ok()?;
    let (range, size) = (reader.range.clone(), reader.size);
    assert!(range.start <= range.end && size.is_none_or(|size| range.end <= size));
    let whole = range.start == 0 && (size == Some(range.end) || range.end == u64::MAX);
    match &asked {
        ReadRange::Full => assert!(whole),
        ReadRange::Bounded(wanted) => assert!(whole || range == *wanted),
        ReadRange::Suffix(_) => {
            assert!(whole || size.is_some_and(|size| asked.within(size) == Some(range.clone())));
        }
    }
    let announced = range.end - range.start;
    let mut out = BytesMut::new();
    while out.len() < MOST {
        let before = out.len();
        out.reserve(1000);
        let count = reader.body.append(&mut out, 1000).await.ok()?;
        assert!(count <= 1000 && out.len() == before + count);
        assert!(out.len() as u64 <= announced, "more bytes than announced");
        if count == 0 {
            assert!(range.end == u64::MAX || out.len() as u64 == announced, "cut short unnoticed");
            break;
        }
    }
    Some(())
}

fuzz_target!(|data: &[u8]| {
    let Some((&asked, answer)) = data.split_first() else { return };
    // A redirect could lead off this machine.
    if answer.to_ascii_lowercase().windows(8).any(|word| word == b"location") {
        return;
    }
    let asked = match asked % 3 {
        0 => ReadRange::Full,
        1 => ReadRange::Bounded(10..20),
        _ => ReadRange::Suffix(10),
    };
    *SERVER.answer.lock().expect("nobody panics with it") = answer.to_vec();
    let base = format!("http://{}/store/", SERVER.address);
    let transport = HttpBackend::new(&base, HttpOptions::default()).expect("an address");
    let path = ObjectPath::new("packs/x").expect("a path");
    SERVER.runtime.block_on(async {
        let limit = Duration::from_secs(10);
        let read = tokio::time::timeout(limit, read(&transport, &path, asked)).await;
        assert!(read.is_ok(), "a closed connection was waited for");
    });
});
