//! A proxy that gives each connection so many bytes a second in each direction: what object stores do to uploads.
//!
//! `slow_proxy PORT TARGET_PORT BYTES_PER_SECOND`

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

const FRAME: usize = 64 << 10;

async fn pace(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    rate: f64,
) -> io::Result<()> {
    let mut frame = vec![0; FRAME];
    let mut due = Instant::now();
    loop {
        let count = from.read(&mut frame).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        due = due.max(Instant::now()) + Duration::from_secs_f64(count as f64 / rate);
        to.write_all(&frame[..count]).await?;
        // The runtime's timers tick each millisecond: what is nearer goes on now, and what follows is as much later.
        if due > Instant::now() + Duration::from_millis(2) {
            tokio::time::sleep_until(due).await;
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [port, target, rate] = &arguments[..] else {
        return Err("slow_proxy PORT TARGET_PORT BYTES_PER_SECOND".into());
    };
    let (target, rate) = (format!("127.0.0.1:{target}"), rate.parse()?);
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        let (client, _) = listener.accept().await?;
        let target = target.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let (client, server) = (client.into_split(), server.into_split());
            // Either end may go away.
            drop(tokio::join!(pace(client.0, server.1, rate), pace(server.0, client.1, rate)));
        });
    }
}
