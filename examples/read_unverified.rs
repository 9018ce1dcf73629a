//! Reads the ranges that a load of a whole artifact would read, over as many connections, into
//! memory of the same size, and checks nothing: what verification is measured against.
//! `read_unverified STORE_URL NAME`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::BytesMut;
use tenpak::format::store as paths;
use tenpak::schedule::plan::{Plan, PlanOptions};
use tenpak::store::artifact::{Artifact, OpenOptions, Selection};
use tenpak::transport::{self, ReadRange, Transport};

/// What a load keeps in flight by default.
const BUDGET: usize = 32 << 20;

type Work = Mutex<VecDeque<(ReadRange, tenpak::format::id::PackId)>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [store, name] = arguments.as_slice() else {
        return Err("usage: read_unverified STORE_URL NAME".into());
    };
    let start = Instant::now();
    let transport = transport::url::open(store)?;
    let artifact = Artifact::open(
        tenpak::store::Store::new(transport.clone()),
        &name.parse()?,
        &OpenOptions::default(),
    )
    .await?;
    let wanted = artifact.select(&Selection::All, None).await?;
    let mut options = PlanOptions::default();
    options.pack_ends = if transport.reads_block() { Default::default() } else { wanted.pack_ends };
    let plan = Plan::new(wanted.tensors, &options);
    let work = plan.fetches.iter().map(|fetch| {
        let range = match fetch.whole {
            true => ReadRange::Full,
            false => ReadRange::Bounded(plan.range_of(&fetch.chunks)),
        };
        (range, fetch.pack)
    });
    let work: Arc<Work> = Arc::new(Mutex::new(work.collect()));
    let connections = if transport.reads_block() { 2 } else { 4 };
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (transport, work) = (transport.clone(), work.clone());
        tasks.push(match transport.reads_block() {
            true => tokio::task::spawn_blocking(move || {
                tokio::runtime::Handle::current().block_on(read(
                    transport,
                    work,
                    BUDGET / connections,
                ))
            }),
            false => tokio::spawn(read(transport, work, BUDGET / connections)),
        });
    }
    let mut bytes = 0;
    for task in tasks {
        bytes += task.await??;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({"raw_bytes": bytes, "seconds": seconds}));
    Ok(())
}

async fn read(
    transport: Arc<dyn Transport>,
    work: Arc<Work>,
    memory: usize,
) -> Result<u64, transport::TransportError> {
    let mut buffer = BytesMut::with_capacity(memory);
    let mut total = 0;
    loop {
        let next = work.lock().map_or(None, |mut work| work.pop_front());
        let Some((range, pack)) = next else { return Ok(total) };
        let mut reader = transport.open(&paths::pack(pack), range).await?;
        loop {
            if buffer.capacity() - buffer.len() < 1 << 20 {
                buffer.clear();
            }
            let read = reader.body.append(&mut buffer, 1 << 20).await?;
            if read == 0 {
                break;
            }
            total += read as u64;
        }
    }
}
