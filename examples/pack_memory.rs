//! Packs a model into a store in memory and says how long that took: what packing costs when no
//! disk or network takes part. `pack_memory PATH [--no-sha256] [--codec raw|zstd|auto]`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tenpak::chunk::codec::CodecChoice;
use tenpak::pack::{PackOptions, pack};
use tenpak::store::Store;
use tenpak::transport::object::ObjectBackend;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut path = None;
    let mut options = PackOptions::default();
    options.codec = CodecChoice::Raw;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--no-sha256" => options.sha256 = false,
            "--codec" => {
                let name = arguments.next().ok_or("--codec takes a name")?;
                let choice = CodecChoice::ALL.iter().find(|(_, n)| *n == name);
                options.codec = choice.ok_or("no such codec")?.0;
            }
            _ => path = Some(PathBuf::from(argument)),
        }
    }
    let path = path.ok_or("usage: pack_memory PATH [--no-sha256] [--codec NAME]")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let store = Store::new(Arc::new(ObjectBackend::memory()));
    let start = Instant::now();
    let report = pack(
        &path,
        &store,
        (&"bench".parse()?, &"latest".parse()?),
        options,
        runtime.handle(),
        &(),
    )?;
    let object = serde_json::json!({
        "seconds": start.elapsed().as_secs_f64(),
        "raw_bytes": report.totals.raw_bytes,
        "stored_bytes": report.totals.stored_bytes,
        "manifest": report.manifest,
    });
    println!("{object}");
    Ok(())
}
