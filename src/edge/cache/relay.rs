//! Objects that the edge hands on as the origin has them: refs and their index, layouts, manifests,
//! signatures.
//!
//! Small ones are kept in memory, as long as HTTP's rules let the edge, and are asked for once however
//! many want them. While no origin answers, the last one that came is served within a bound. A manifest
//! or a node of the index is held against its own identifier; what else is wrong with these objects,
//! their readers notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hyper::HeaderMap;
use hyper::header::{CACHE_CONTROL, DATE, HeaderValue};
use moka::sync::Cache;
use tokio::sync::Mutex;

use crate::edge::cache::origins::{Opened, Origins, copy, worse};
use crate::edge::http::answer::{IMMUTABLE, NO_CACHE};
use crate::edge::http::body;
use crate::edge::http::freshness::{Demands, Freshness};
use crate::edge::http::object::{Bodies, Facts};
use crate::edge::http::request;
use crate::edge::options::{ABSENT, Clock, Validity};
use crate::format::id::{ManifestId, NodeId};
use crate::transport::{
    ObjectPath, ObjectReader, ReadRange, Transport, TransportError, TransportErrorKind,
};

/// The largest object that is kept.
const MAX_KEPT: u64 = 4 << 20;
/// Bytes of objects kept.
const KEPT: u64 = 64 << 20;
/// Paths of which something is remembered.
const PATHS: u64 = 65_536;
/// How long one origin may take for an object that is kept, and for a first answer about others.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long an origin that could not be asked for an object is not asked again, at least.
const AWAY: Duration = Duration::from_secs(1);
/// How long the lock of a path outlives its use.
const IDLE: Duration = Duration::from_secs(60);

/// The relayed objects of a store.
#[derive(Debug)]
pub(crate) struct Relay {
    origins: Arc<Origins>,
    names: Validity,
    clock: Clock,
    unsaid: HeaderValue,
    kept: Cache<ObjectPath, Arc<Kept>>,
    absent: Cache<ObjectPath, Arc<TransportError>>,
    /// What is known of objects that are too large to be kept, and do not change.
    large: Cache<ObjectPath, Facts>,
    asking: Cache<ObjectPath, Arc<Mutex<()>>>,
    /// Objects that the origin could not be asked for a moment ago.
    away: Cache<ObjectPath, ()>,
}

/// An object in memory.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) bytes: Bytes,
    pub(crate) facts: Facts,
    /// When the origin made the answer, if the object may change.
    pub(crate) date: Option<HeaderValue>,
    freshness: Freshness,
    /// When the origin was asked.
    asked: Instant,
}

/// An object that somebody asked for.
#[derive(Debug)]
pub(crate) enum Relayed {
    /// Its bytes.
    Kept(Arc<Kept>),
    /// One that is read from the origin while it is sent.
    Large(Facts),
}

impl Kept {
    fn is_immutable(&self) -> bool {
        self.date.is_none()
    }

    /// Whether it answers a request that came at `arrived`, without asking the origin.
    fn answers(&self, relay: &Relay, demands: &Demands, arrived: Instant) -> bool {
        let fresh = || self.freshness.serves(relay.clock.date(), relay.names.fresh, demands);
        // The origin was asked since: this is what asking gives.
        let new = || self.asked >= arrived && self.freshness.storable;
        self.is_immutable() || new() || fresh()
    }
}

impl Relay {
    pub(crate) fn new(origins: Arc<Origins>, names: Validity, clock: Clock) -> Arc<Self> {
        let weigh = |_: &ObjectPath, kept: &Arc<Kept>| {
            u32::try_from(kept.bytes.len() + 1024).unwrap_or(u32::MAX)
        };
        // Where the origin says nothing of refs and layouts.
        let (fresh, stale) = (names.fresh.as_secs(), names.stale.as_secs());
        let unsaid = format!("public, max-age={fresh}, stale-if-error={stale}");
        Arc::new(Self {
            origins,
            names,
            clock,
            unsaid: HeaderValue::try_from(unsaid).unwrap_or(NO_CACHE),
            kept: Cache::builder().weigher(weigh).max_capacity(KEPT).build(),
            absent: Cache::builder().max_capacity(PATHS).time_to_live(ABSENT).build(),
            large: Cache::new(PATHS),
            away: Cache::builder().max_capacity(PATHS).time_to_live(names.fresh.max(AWAY)).build(),
            asking: Cache::builder().max_capacity(PATHS).time_to_idle(IDLE).build(),
        })
    }

    /// The object, for a request with these headers.
    pub(crate) async fn get(
        &self,
        path: &ObjectPath,
        headers: &HeaderMap,
    ) -> Result<Relayed, TransportError> {
        let (demands, arrived) = (Demands::of(headers), Instant::now());
        if let Some(known) = self.known(path, &demands, arrived) {
            return known;
        }
        if demands.only_if_cached {
            let what = "nothing fresh is kept, and the client wants nothing else";
            return Err(self.error(TransportErrorKind::Stalled, path, what));
        }
        let asking = self.asking.get_with(path.clone(), Arc::default);
        let _turn = asking.lock().await;
        if let Some(known) = self.known(path, &demands, arrived) {
            return known;
        }
        match self.ask(path).await {
            Ok(relayed) => Ok(relayed),
            Err(error) if error.kind == TransportErrorKind::NotFound => {
                self.kept.invalidate(path);
                self.absent.insert(path.clone(), Arc::new(copy(&error)));
                Err(error)
            }
            Err(error) if error.is_transient() => {
                self.away.insert(path.clone(), ());
                self.stale(path).map(Relayed::Kept).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    fn known(
        &self,
        path: &ObjectPath,
        demands: &Demands,
        arrived: Instant,
    ) -> Option<Result<Relayed, TransportError>> {
        if let Some(kept) = self.kept.get(path).filter(|kept| kept.answers(self, demands, arrived))
        {
            return Some(Ok(Relayed::Kept(kept)));
        }
        if self.away.contains_key(path)
            && let Some(kept) = self.stale(path)
        {
            return Some(Ok(Relayed::Kept(kept)));
        }
        if let Some(facts) = self.large.get(path) {
            return Some(Ok(Relayed::Large(facts)));
        }
        self.absent.get(path).map(|error| Err(copy(&error)))
    }

    /// The last answer, if it may be used although the origin cannot be asked.
    fn stale(&self, path: &ObjectPath) -> Option<Arc<Kept>> {
        let kept = self.kept.get(path)?;
        kept.freshness
            .serves_stale(self.clock.date(), self.names.fresh, self.names.stale)
            .then_some(kept)
    }

    /// How old the answer is, if the object may change.
    pub(crate) fn age(&self, kept: &Kept) -> Option<Duration> {
        kept.date.is_some().then(|| kept.freshness.age(self.clock.date()))
    }

    /// Forgets everything below a prefix.
    pub(crate) fn forget(&self, prefix: &str) {
        fn drop_below<V: Clone + Send + Sync + 'static>(
            cache: &Cache<ObjectPath, V>,
            prefix: &str,
        ) {
            for (path, _) in cache.iter().filter(|(path, _)| path.as_str().starts_with(prefix)) {
                cache.invalidate(&*path);
            }
        }
        drop_below(&self.kept, prefix);
        drop_below(&self.absent, prefix);
        drop_below(&self.large, prefix);
    }

    /// Asks the origins, the preferred first.
    async fn ask(&self, path: &ObjectPath) -> Result<Relayed, TransportError> {
        let mut last = None;
        for origin in self.origins.in_order() {
            let asking = async {
                match path.as_str().starts_with("tables/") {
                    true => self.describe(origin, path).await,
                    false => self.fetch(origin, path).await,
                }
            };
            let asked = tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| {
                Err(self.error(TransportErrorKind::Stalled, path, "the origin does not answer"))
            });
            self.origins.tell(origin, asked.as_ref().err());
            match asked {
                Ok(relayed) => return Ok(relayed),
                Err(error) => last = Some(worse(last, error)),
            }
        }
        let none = || self.error(TransportErrorKind::NotFound, path, "no origin");
        Err(last.unwrap_or_else(none))
    }

    /// What is known of a table, whose bytes stay where they are.
    async fn describe(&self, origin: usize, path: &ObjectPath) -> Result<Relayed, TransportError> {
        let origin = self.origins.transport(origin);
        let missing = || {
            TransportError::new(
                TransportErrorKind::NotFound,
                origin.location(),
                path,
                "no such object",
            )
        };
        let info = origin.head(path).await?.ok_or_else(missing)?;
        let tag = path.as_str().rsplit('/').next().unwrap_or_default();
        let tag = HeaderValue::try_from(format!("\"{tag}\"")).ok();
        let facts = Facts { size: info.size, tag, modified: None, caching: IMMUTABLE };
        self.large.insert(path.clone(), facts.clone());
        Ok(Relayed::Large(facts))
    }

    async fn fetch(&self, origin: usize, path: &ObjectPath) -> Result<Relayed, TransportError> {
        let (asked, asked_at) = (Instant::now(), self.clock.date());
        let opened = self.origins.open(origin, path, &ReadRange::Full).await?;
        let (reader, origin) = (opened.reader, self.origins.transport(opened.origin));
        let now = self.clock.date();
        let head = reader.head.as_deref().cloned();
        let freshness = match &head {
            Some(head) => Freshness::of(head, asked_at, now),
            None => Freshness::unsaid(now),
        };
        let mutable = request::is_mutable(path);
        let said = head.as_ref().and_then(said);
        let caching = match (mutable, freshness.is_explicit()) {
            (false, _) => IMMUTABLE,
            // An `Expires` alone is handed on as no promise.
            (true, true) => said.unwrap_or_else(|| HeaderValue::from_static("no-cache")),
            (true, false) => self.unsaid.clone(),
        };
        let (tag, size) = (reader.version.as_ref().and_then(request::entity_tag), reader.size);
        let mut facts = Facts { size: 0, tag, modified: None, caching };
        if let Some(size) = size.filter(|size| *size > MAX_KEPT) {
            facts.size = size;
            return Ok(Relayed::Large(facts));
        }
        let bytes = collect(origin, path, reader).await?;
        facts.size = bytes.len() as u64;
        check(origin, path, &bytes)?;
        let date = head.and_then(|head| head.get(DATE).cloned());
        let date = date.or_else(|| HeaderValue::try_from(httpdate::fmt_http_date(now)).ok());
        let date = date.filter(|_| mutable);
        let storable = freshness.storable || !mutable;
        let kept = Arc::new(Kept { bytes, facts, date, freshness, asked });
        match storable {
            true => self.kept.insert(path.clone(), kept.clone()),
            false => self.kept.invalidate(path),
        }
        Ok(Relayed::Kept(kept))
    }

    /// Opens a part of an object that is not kept, which must still be the one that was asked about.
    pub(crate) async fn open(
        &self,
        path: &ObjectPath,
        facts: &Facts,
        range: std::ops::Range<u64>,
    ) -> Result<Bodies, TransportError> {
        let asked = match range == (0..facts.size) {
            true => ReadRange::Full,
            false => ReadRange::Bounded(range.clone()),
        };
        let mut last = None;
        for origin in self.origins.in_order() {
            match self.origins.open(origin, path, &asked).await {
                Ok(Opened { reader, origin }) => {
                    let origin = self.origins.transport(origin);
                    let tag = reader.version.as_ref().and_then(request::entity_tag);
                    if facts.caching != IMMUTABLE && tag != facts.tag {
                        let what = "the object changed while it was read";
                        return Err(self.error(TransportErrorKind::Transient, path, what));
                    }
                    let body = body::stream(reader, range, true, origin.clone(), path.clone());
                    return Ok(body.boxed());
                }
                Err(error) => last = Some(worse(last, error)),
            }
        }
        let none = || self.error(TransportErrorKind::NotFound, path, "no origin");
        Err(last.unwrap_or_else(none))
    }

    fn error(&self, kind: TransportErrorKind, path: &ObjectPath, what: &str) -> TransportError {
        TransportError::new(kind, self.origins.location(), path, what)
    }
}

/// All that an origin says of caching, in one line.
fn said(head: &HeaderMap) -> Option<HeaderValue> {
    let lines: Vec<&[u8]> = head.get_all(CACHE_CONTROL).iter().map(HeaderValue::as_bytes).collect();
    (!lines.is_empty()).then(|| HeaderValue::from_bytes(&lines.join(&b", "[..])).ok())?
}

/// Reads an object of at most [`MAX_KEPT`] bytes.
async fn collect(
    origin: &Arc<dyn Transport>,
    path: &ObjectPath,
    reader: ObjectReader,
) -> Result<Bytes, TransportError> {
    let (range, known) = (reader.range.clone(), reader.size.is_some());
    let mut body = std::pin::pin!(body::stream(reader, range, known, origin.clone(), path.clone()));
    let mut bytes = BytesMut::new();
    while let Some(more) = body.next().await {
        bytes.extend_from_slice(&more?);
        if bytes.len() as u64 > MAX_KEPT {
            let what = format!("more than {MAX_KEPT} bytes without a length");
            let kind = TransportErrorKind::Protocol;
            return Err(TransportError::new(kind, origin.location(), path, what));
        }
    }
    Ok(bytes.freeze())
}

/// Whether an object that its path names by a digest is the one.
fn check(
    origin: &Arc<dyn Transport>,
    path: &ObjectPath,
    bytes: &Bytes,
) -> Result<(), TransportError> {
    let what = match path.as_str().split_once('/') {
        Some(("manifests", id)) if id.parse().is_ok_and(|id| ManifestId::of(bytes) != id) => {
            "the manifest is damaged: its BLAKE3 is not its name"
        }
        Some(("names", id)) if id.parse().is_ok_and(|id| NodeId::of(bytes) != id) => {
            "the node of the index is damaged: its BLAKE3 is not its name"
        }
        _ => return Ok(()),
    };
    Err(TransportError::new(TransportErrorKind::Protocol, origin.location(), path, what))
}
