//! An origin that holds weights back until it is told to give them.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

const LONG: usize = 200_000;

/// A web server over a store.
pub struct Held {
    pub url: String,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Held {
    pub fn start(store: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let (store, own) = (store.to_owned(), gate.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (store, gate) = (store.clone(), own.clone());
                // Whoever hangs up has what it wants.
                std::thread::spawn(move || {
                    talk(&stream.unwrap(), &store, &gate).unwrap_or_default()
                });
            }
        });
        Self { url, gate }
    }

    /// Gives them from now on.
    pub fn open(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

fn talk(stream: &TcpStream, store: &Path, gate: &(Mutex<bool>, Condvar)) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let mut out = stream;
    while let Some(line) = lines.next() {
        let line = line?;
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut range = None;
        for header in lines.by_ref() {
            let header = header?.to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(of) = header.strip_prefix("range: bytes=") {
                let (from, to) = of.split_once('-').unwrap();
                range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().ok()));
            }
        }
        // What is asked for of tensors is long; of files it is short.
        let long = match range {
            Some((from, Some(to))) => to - from >= LONG,
            _ => true,
        };
        if path.starts_with("/packs/") && long {
            let mut open = gate.0.lock().unwrap();
            while !*open {
                open = gate.1.wait(open).unwrap();
            }
        }
        match (std::fs::read(store.join(&path[1..])), range) {
            (Err(_), _) => write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
            (Ok(bytes), None) => {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len())?;
                out.write_all(&bytes)?;
            }
            (Ok(bytes), Some((from, _))) if from >= bytes.len() => {
                write!(
                    out,
                    "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{}\r\nContent-Length: 0\r\n\r\n",
                    bytes.len()
                )?;
            }
            (Ok(bytes), Some((from, to))) => {
                let to = to.unwrap_or(usize::MAX).min(bytes.len() - 1);
                write!(
                    out,
                    "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{to}/{}\r\nContent-Length: {}\r\n\r\n",
                    bytes.len(),
                    to + 1 - from
                )?;
                out.write_all(&bytes[from..=to])?;
            }
        }
    }
    Ok(())
}
