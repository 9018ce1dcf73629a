//! Loads from origins as they are in the field: slow connections, long answers, refusals, addresses that differ.
//! What is checked is what was asked and what came, never how long it took.

#![cfg(feature = "cli")]

mod support;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use support::{TestTensor, build, tensor};
use tenpak::chunk::codec::CodecChoice;
use tenpak::format::id::ManifestId;
use tenpak::format::name::ArtifactSpec;
use tenpak::load::{LoadOptions, LoadStats};
use tenpak::store::Store;
use tenpak::store::artifact::{Artifact, OpenOptions, Selection};
use tenpak::transport::http::{HttpBackend, HttpOptions};
use tenpak::transport::object::ObjectBackend;
use tenpak::transport::small::read_all;
use tenpak::transport::{
    Body, Expected, ObjectInfo, ObjectPath, ObjectReader, ReadRange, Transport, TransportError,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::Instant;

const MIB: usize = 1 << 20;

/// How an origin behaves.
#[derive(Clone)]
struct Manner {
    /// Bytes a second of each connection, and how much later an answer comes.
    rate: f64,
    delay: Duration,
    /// Requests beyond so many at a time are answered 503.
    most: usize,
    retry_after: Option<&'static str>,
    /// Requests beyond so many at a time wait for their turn.
    turns: usize,
    /// A connection is closed after so many answers.
    closes_after: usize,
    /// After so many bytes, all connections are ten times slower.
    drops_after: usize,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            rate: 1e9,
            delay: Duration::ZERO,
            most: usize::MAX,
            retry_after: None,
            turns: Semaphore::MAX_PERMITS,
            closes_after: usize::MAX,
            drops_after: usize::MAX,
        }
    }
}

/// What an origin saw.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    refused: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    connections: AtomicUsize,
    bytes: AtomicUsize,
}

impl Seen {
    fn get(count: &AtomicUsize) -> usize {
        count.load(Ordering::Relaxed)
    }
}

/// One that is served until it is dropped.
struct Place(Arc<Seen>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Origin {
    address: SocketAddr,
    seen: Arc<Seen>,
}

impl Origin {
    async fn start(objects: Arc<dyn Transport>, at: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
        let turns = Arc::new(Semaphore::new(manner.turns));
        let counted = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::Relaxed);
                let (objects, manner) = (objects.clone(), manner.clone());
                let (seen, turns) = (counted.clone(), turns.clone());
                let answered = AtomicUsize::new(0);
                let due = Arc::new(Mutex::new(Instant::now()));
                let service = service_fn(move |request| {
                    let last = answered.fetch_add(1, Ordering::Relaxed) + 1 >= manner.closes_after;
                    let (objects, manner) = (objects.clone(), manner.clone());
                    let (seen, turns, due) = (seen.clone(), turns.clone(), due.clone());
                    async move {
                        let mut answer = serve(objects, manner, seen, turns, due, request).await;
                        if last {
                            answer.headers_mut().insert("connection", "close".parse().unwrap());
                        }
                        Ok::<_, Infallible>(answer)
                    }
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(async move {
                    // A client that goes away is none of its business.
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, seen }
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn serve(
    objects: Arc<dyn Transport>,
    manner: Manner,
    seen: Arc<Seen>,
    turns: Arc<Semaphore>,
    due: Arc<Mutex<Instant>>,
    request: Request<Incoming>,
) -> Answer {
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let now = seen.now.fetch_add(1, Ordering::Relaxed) + 1;
    let place = Place(seen.clone());
    tokio::time::sleep(manner.delay).await;
    let plain = |status| {
        let answer = Response::builder().status(status);
        answer.body(Full::new(Bytes::from("none")).boxed()).unwrap()
    };
    if now > manner.most {
        seen.refused.fetch_add(1, Ordering::Relaxed);
        let mut answer = plain(503);
        if let Some(after) = manner.retry_after {
            answer.headers_mut().insert("retry-after", after.parse().unwrap());
        }
        return answer;
    }
    seen.most.fetch_max(now, Ordering::Relaxed);
    let turn = turns.acquire_owned().await.unwrap();
    let path = ObjectPath::new(request.uri().path().trim_start_matches('/')).unwrap();
    let header = request.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
    let range = header.as_deref().map_or(ReadRange::Full, |range| {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        ReadRange::Bounded(first.parse().unwrap()..last.parse::<u64>().unwrap() + 1)
    });
    let found = read_all(&*objects, &path, range.clone(), u64::MAX, &Default::default()).await;
    let Ok((bytes, _)) = found else { return plain(404) };
    let size = objects.head(&path).await.unwrap().unwrap().size;
    let len = bytes.len();
    let frames =
        futures_util::stream::unfold((bytes, place, turn), move |(mut left, place, turn)| {
            let (due, manner) = (due.clone(), manner.clone());
            async move {
                if left.is_empty() {
                    return None;
                }
                let frame = left.split_to(left.len().min(64 << 10));
                let sent = place.0.bytes.fetch_add(frame.len(), Ordering::Relaxed);
                let rate =
                    if sent >= manner.drops_after { manner.rate / 10.0 } else { manner.rate };
                let at = {
                    let mut due = due.lock().unwrap();
                    let at = (*due).max(Instant::now());
                    *due = at + Duration::from_secs_f64(frame.len() as f64 / rate);
                    at
                };
                tokio::time::sleep_until(at).await;
                Some((Ok(Frame::data(frame)), (left, place, turn)))
            }
        });
    let mut answer = Response::builder().header("content-length", len);
    if let ReadRange::Bounded(range) = range {
        let given = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        answer = answer.status(206).header("content-range", given);
    }
    answer.body(BodyExt::boxed(StreamBody::new(frames))).unwrap()
}

struct Artifacts {
    objects: Arc<dyn Transport>,
    id: ManifestId,
    tensors: Vec<TestTensor>,
}

impl Artifacts {
    /// 24 MiB in packs of 8.
    async fn new() -> Self {
        let tensors: Vec<_> =
            (0..12).map(|n| tensor(&format!("t{n:02}"), &[1024, 1024], n)).collect();
        let objects: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
        let id = build(&objects, &tensors, CodecChoice::Raw, 8 * MIB as u64).await;
        Self { objects, id, tensors }
    }

    async fn origin(&self, manner: Manner) -> Origin {
        Origin::start(self.objects.clone(), "127.0.0.1:0".parse().unwrap(), manner).await
    }

    async fn load(
        &self,
        transport: impl Transport + 'static,
        connections: Option<usize>,
    ) -> LoadStats {
        self.load_within(transport, connections, 64 * MIB as u64).await
    }

    async fn load_within(
        &self,
        transport: impl Transport + 'static,
        connections: Option<usize>,
        budget: u64,
    ) -> LoadStats {
        let spec: ArtifactSpec = format!("@{}", self.id).parse().unwrap();
        let store = Store::new(Arc::new(transport));
        let artifact = Artifact::open(store, &spec, &OpenOptions::default()).await.unwrap();
        let wanted = artifact.select(&Selection::All, None).await.unwrap();
        let mut options = LoadOptions::default();
        options.first_pause = Duration::from_millis(20);
        options.connections = connections;
        (options.budget, options.most_budget) = (budget.min(options.budget), budget);
        let mut loader = artifact.load(wanted, &options);
        for expected in &self.tensors {
            let tensor = loader.next().await.unwrap().unwrap();
            assert!(tensor.name() == expected.name && tensor.data == expected.data);
        }
        assert!(loader.next().await.is_none());
        loader.stats()
    }

    async fn load_from(&self, origin: &Origin) -> LoadStats {
        self.load(backend(&format!("http://{}", origin.address), vec![]), None).await
    }
}

fn backend(url: &str, addresses: Vec<SocketAddr>) -> HttpBackend {
    let mut options = HttpOptions::default();
    options.addresses.insert("many".to_owned(), addresses);
    HttpBackend::new(url, options).unwrap()
}

#[tokio::test]
async fn slow_connections_become_many_and_fast_ones_stay_few() {
    let artifacts = Artifacts::new().await;
    let slow = artifacts.origin(Manner { rate: 4e6, ..Manner::default() }).await;
    let stats = artifacts.load_from(&slow).await;
    assert!(stats.connections >= 16 && Seen::get(&slow.seen.most) >= 12, "{stats:?}");
    let fixed = artifacts.origin(Manner { rate: 4e7, ..Manner::default() }).await;
    let url = format!("http://{}", fixed.address);
    let stats = artifacts.load(backend(&url, vec![]), Some(3)).await;
    assert!(stats.connections == 3 && Seen::get(&fixed.seen.most) <= 3, "{stats:?}");
}

#[tokio::test]
async fn far_servers_are_asked_for_much_at_once() {
    let artifacts = Artifacts::new().await;
    let delay = Duration::from_millis(20);
    let far = artifacts.origin(Manner { delay, ..Manner::default() }).await;
    let stats = artifacts.load_from(&far).await;
    assert!(stats.connections >= 16 && Seen::get(&far.seen.most) >= 12, "{stats:?}");
}

#[tokio::test]
async fn an_origin_that_refuses_some_is_asked_for_as_many_as_it_serves() {
    let artifacts = Artifacts::new().await;
    for retry_after in [None, Some("0"), Some("1")] {
        let (rate, delay) = (4e6, Duration::from_millis(5));
        let manner = Manner { rate, delay, most: 6, retry_after, ..Manner::default() };
        let origin = artifacts.origin(manner).await;
        let stats = artifacts.load_from(&origin).await;
        let (refused, requests) =
            (Seen::get(&origin.seen.refused), Seen::get(&origin.seen.requests));
        assert!(refused > 0 && Seen::get(&origin.seen.most) == 6);
        // Each that was too many once, and then few.
        assert!(refused <= 160 && requests <= 260, "{refused} of {requests}: {stats:?}");
        assert_eq!(stats.limit.as_str(), "origin", "{stats:?}");
    }
}

#[tokio::test]
async fn an_origin_that_serves_one_at_a_time_or_closes_often_is_read() {
    let artifacts = Artifacts::new().await;
    let one = artifacts.origin(Manner { rate: 5e7, turns: 1, ..Manner::default() }).await;
    artifacts.load_from(&one).await;
    let refusing = artifacts.origin(Manner { rate: 5e7, most: 1, ..Manner::default() }).await;
    artifacts.load_from(&refusing).await;
    let closing = artifacts.origin(Manner { closes_after: 3, ..Manner::default() }).await;
    let stats = artifacts.load_from(&closing).await;
    assert_eq!(stats.retries, 0, "a connection that is closed in good order is no failure");
    assert!(Seen::get(&closing.seen.connections) >= Seen::get(&closing.seen.requests) / 3);
}

#[tokio::test]
async fn a_pace_that_drops_is_followed() {
    let artifacts = Artifacts::new().await;
    let manner = Manner { rate: 4e7, drops_after: 10 * MIB, ..Manner::default() };
    let origin = artifacts.origin(manner).await;
    let stats = artifacts.load_from(&origin).await;
    assert!(stats.connections >= 16, "{stats:?}");
}

#[tokio::test]
async fn all_addresses_of_a_name_are_used_and_slow_ones_left() {
    let artifacts = Artifacts::new().await;
    let start = |last: u8, port: u16, rate: f64| {
        let at = SocketAddr::from(([127, 0, 0, last], port));
        Origin::start(artifacts.objects.clone(), at, Manner { rate, ..Manner::default() })
    };
    let first = start(1, 0, 2e7).await;
    let port = first.address.port();
    let (second, slow) = (start(2, port, 2e7).await, start(3, port, 1e6).await);
    // The fourth refuses connections.
    let all = (1..5).map(|last| SocketAddr::from(([127, 0, 0, last], port))).collect();
    // Several requests one after the other on each connection.
    let many = backend(&format!("http://many:{port}"), all);
    artifacts.load_within(many, Some(6), 8 * MIB as u64).await;
    let bytes = [&first, &second, &slow].map(|origin| Seen::get(&origin.seen.bytes));
    assert!(bytes[0] > 4 * MIB && bytes[1] > 4 * MIB, "{bytes:?}");
    assert!(bytes[2] < 4 * MIB, "a slow one is left: {bytes:?}");
}

/// A file system over a network: each read waits for it, and many may wait at the same time.
#[derive(Debug)]
struct NetworkDisk {
    objects: Arc<dyn Transport>,
    wait: Duration,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct WaitingBody {
    body: Box<dyn Body>,
    wait: Duration,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[async_trait]
impl Body for WaitingBody {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, TransportError> {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        std::thread::sleep(self.wait);
        self.now.fetch_sub(1, Ordering::Relaxed);
        self.body.read(out).await
    }
}

#[async_trait]
impl Transport for NetworkDisk {
    fn location(&self) -> &str {
        "disk"
    }

    async fn open(
        &self,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<ObjectReader, TransportError> {
        let reader = self.objects.open(path, range).await?;
        let (now, most) = (self.now.clone(), self.most.clone());
        let body = Box::new(WaitingBody { body: reader.body, wait: self.wait, now, most });
        Ok(ObjectReader { body, ..reader })
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, TransportError> {
        self.objects.head(path).await
    }

    async fn put(&self, path: &ObjectPath, parts: Vec<Bytes>) -> Result<(), TransportError> {
        self.objects.put(path, parts).await
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        expected: Expected,
        content: Bytes,
    ) -> Result<(), TransportError> {
        self.objects.put_if(path, expected, content).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), TransportError> {
        self.objects.delete(path).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, TransportError> {
        self.objects.list(prefix).await
    }

    fn reads_block(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn files_that_are_far_are_read_many_at_a_time() {
    let artifacts = Artifacts::new().await;
    let (now, most) = (Arc::default(), Arc::<AtomicUsize>::default());
    let (objects, wait) = (artifacts.objects.clone(), Duration::from_millis(40));
    let disk = NetworkDisk { objects, wait, now, most: most.clone() };
    let stats = artifacts.load(disk, None).await;
    assert!(Seen::get(&most) >= 12, "{} at a time: {stats:?}", Seen::get(&most));
    assert_eq!(stats.limit.as_str(), "disk", "{stats:?}");
}
