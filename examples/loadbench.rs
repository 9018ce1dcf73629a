//! Times a verified load: `loadbench build DIR MIB` makes a raw artifact, `loadbench load LOCATION
//! ID` loads it and prints seconds, requests and peak memory.

#[path = "../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use tenpak::chunk::codec::CodecChoice;
use tenpak::load::LoadOptions;
use tenpak::store::artifact::{Artifact, OpenOptions, Selection};
use tenpak::transport::{self, Transport};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["build", location, mib] => {
            let store: Arc<dyn Transport> = transport::url::open(location)?;
            let mut left: u64 = mib.parse()?;
            let mut tensors = Vec::new();
            while left > 0 {
                let n = tensors.len() as u64;
                let rows = [2048, 8192, 4096, 512][(n % 4) as usize];
                let name = ["q_proj", "o_proj", "up_proj", "k_proj"][(n % 4) as usize];
                tensors.push(support::tensor(
                    &format!("layers.{n:03}.{name}.weight"),
                    &[rows, 2048],
                    n,
                ));
                left = left.saturating_sub(rows / 256);
            }
            println!("{}", support::build(&store, &tensors, CodecChoice::Raw, 63 << 20).await);
        }
        ["load", location, id, rest @ ..] => {
            let store: Arc<dyn Transport> = transport::url::open(location)?;
            let started = Instant::now();
            let spec = format!("@{id}").parse()?;
            let artifact =
                Artifact::open(tenpak::store::Store::new(store), &spec, &OpenOptions::default())
                    .await?;
            let wanted = artifact.select(&Selection::All, None).await?;
            let mut options = LoadOptions::default();
            if let [connections, ..] = rest {
                options.connections = Some(connections.parse()?);
            }
            if let [_, piece, ..] = rest {
                options.piece = Some(piece.parse::<u64>()? << 20);
            }
            let mut loader = artifact.load(wanted, &options);
            let mut bytes = 0;
            while let Some(tensor) = loader.next().await {
                bytes += tensor?.data.len();
            }
            let seconds = started.elapsed().as_secs_f64();
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("");
            let speed = bytes as f64 / seconds / 1e6;
            println!("{seconds:.3} s, {speed:.0} MB/s, {peak}, {:?}", loader.stats());
        }
        _ => return Err("usage: loadbench build DIR MIB | load LOCATION ID [CONNECTIONS]".into()),
    }
    Ok(())
}
