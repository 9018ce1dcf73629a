//! What the edge knows of its store: which manifest a name means, and the graphs of artifacts, each
//! checked against the trusted keys before it counts.
//!
//! With anybody trusted, a chunk is admitted only if a manifest that was found trusted names it.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moka::future::Cache;

use crate::edge::cache::revision::Revision;
use crate::edge::options::{ABSENT, Clock, EdgeOptions, Validity};
use crate::format::id::{ManifestId, StoredDigest, TableId};
use crate::format::name::{ArtifactName, ArtifactSpec, NamePattern, Tag};
use crate::format::time;
use crate::store::{ArtifactGraph, Store, StoreError};
use crate::transport::Transport;
use crate::trust::{SeenRefs, TrustSet};

/// Records of the artifacts kept in memory, at some 250 bytes each.
const RECORDS: u64 = 4 << 20;
/// Names kept.
const NAMES: u64 = 65_536;
/// Names of listings kept, at some 100 bytes each.
const LISTED: u64 = 2 << 20;

/// A name of an artifact.
pub(crate) type Name = (ArtifactName, Tag);

/// The origin is not asked more often what a name means.
const MOMENT: Duration = Duration::from_secs(1);

/// What a name was found to mean.
#[derive(Debug, Clone, Copy)]
struct Meaning {
    id: ManifestId,
    /// When it was published, as its ref says, which is the same at every edge.
    published: Option<SystemTime>,
    /// When the origin said so.
    said: Instant,
    /// From when on the origin was not to be asked for a while.
    asked: Instant,
}

/// The artifacts of a store.
#[derive(Debug)]
pub(crate) struct Catalog {
    stores: Vec<Store>,
    trust: TrustSet,
    seen: Option<SeenRefs>,
    validity: Validity,
    clock: Clock,
    fresh: Cache<Name, Meaning>,
    /// Names that no origin had a moment ago.
    absent: Cache<Name, Arc<StoreError>>,
    stale: Cache<Name, Meaning>,
    /// By what the names begin with.
    names: Cache<String, Arc<Vec<Name>>>,
    /// Which manifests the refs of a repository named.
    named: Cache<(ManifestId, ArtifactName), ()>,
    /// By the name that they count for too: a key may count for one and not for another.
    artifacts: Cache<(ManifestId, Option<ArtifactName>), Arc<ArtifactGraph>>,
    admitted: RwLock<Admitted>,
}

/// What trusted manifests name.
#[derive(Debug, Default)]
struct Admitted {
    manifests: HashSet<ManifestId>,
    tables: HashSet<TableId>,
    chunks: HashSet<StoredDigest>,
}

impl Catalog {
    /// Takes the keys and the refs seen out of the options.
    pub(crate) fn new(origins: &[Arc<dyn Transport>], options: &mut EdgeOptions) -> Arc<Self> {
        let weigh = |_: &(ManifestId, Option<ArtifactName>), whole: &Arc<ArtifactGraph>| {
            u32::try_from(whole.chunks.len()).unwrap_or(u32::MAX).max(1024)
        };
        let count = |_: &String, names: &Arc<Vec<Name>>| {
            u32::try_from(names.len()).unwrap_or(u32::MAX).max(64)
        };
        let store = |origin: &Arc<dyn Transport>| {
            Store::new(origin.clone()).with_retry(options.retry.clone())
        };
        Arc::new(Self {
            stores: origins.iter().map(store).collect(),
            trust: std::mem::take(&mut options.trust),
            seen: options.seen.take(),
            absent: Cache::builder().max_capacity(NAMES).time_to_live(ABSENT).build(),
            validity: options.names,
            clock: options.clock.clone(),
            fresh: Cache::new(NAMES),
            stale: Cache::new(NAMES),
            named: Cache::new(NAMES),
            names: Cache::builder()
                .weigher(count)
                .max_capacity(LISTED)
                .time_to_live(options.names.fresh)
                .build(),
            artifacts: Cache::builder().weigher(weigh).max_capacity(RECORDS).build(),
            admitted: RwLock::default(),
        })
    }

    /// Whether anybody is trusted: then only what they signed is served.
    pub(crate) fn is_closed(&self) -> bool {
        !self.trust.is_empty()
    }

    /// Whether a manifest that counts names the chunk.
    pub(crate) fn admits(&self, chunk: &StoredDigest) -> bool {
        !self.is_closed() || self.admitted().chunks.contains(chunk)
    }

    /// Whether the manifest was found trusted.
    pub(crate) fn knows(&self, manifest: ManifestId) -> bool {
        self.admitted().manifests.contains(&manifest)
    }

    /// Whether a manifest that was found trusted names the table.
    pub(crate) fn knows_table(&self, table: TableId) -> bool {
        self.admitted().tables.contains(&table)
    }

    fn admitted(&self) -> RwLockReadGuard<'_, Admitted> {
        self.admitted.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest that a name means now or, while no origin can be asked, meant last.
    pub(crate) async fn resolve(
        &self,
        name: &ArtifactName,
        tag: &Tag,
    ) -> Result<ManifestId, Arc<StoreError>> {
        Ok(self.resolve_dated(name, tag).await?.0)
    }

    /// The same, and when it was published.
    pub(crate) async fn resolve_dated(
        &self,
        name: &ArtifactName,
        tag: &Tag,
    ) -> Result<(ManifestId, Option<SystemTime>), Arc<StoreError>> {
        let meaning = self.meaning(name, tag).await?;
        Ok((meaning.id, meaning.published))
    }

    async fn meaning(&self, name: &ArtifactName, tag: &Tag) -> Result<Meaning, Arc<StoreError>> {
        let key = (name.clone(), tag.clone());
        if let Some(error) = self.absent.get(&key).await {
            return Err(error);
        }
        let (Validity { fresh, stale }, now) = (self.validity, self.clock.now());
        let age = |since: Instant| now.saturating_duration_since(since);
        if self.fresh.get(&key).await.is_some_and(|meaning| age(meaning.asked) >= fresh) {
            self.fresh.invalidate(&key).await;
        }
        let ask = async {
            let (id, published) = self.ask(name, tag).await?;
            Ok::<_, StoreError>(Meaning { id, published, said: now, asked: now })
        };
        match self.fresh.try_get_with(key.clone(), ask).await {
            Ok(meaning) => {
                self.named.insert((meaning.id, name.clone()), ()).await;
                self.stale.insert(key, meaning).await;
                Ok(meaning)
            }
            Err(error) if is_missing(&error) => {
                self.absent.insert(key, error.clone()).await;
                Err(error)
            }
            Err(error) if error.may_pass() => {
                let known = self.stale.get(&key).await;
                let known = known.filter(|meaning| age(meaning.said) < fresh + stale);
                let meaning = known.ok_or(error)?;
                // The next who ask do not wait for the origin, too.
                self.fresh.insert(key, Meaning { asked: now, ..meaning }).await;
                Ok(meaning)
            }
            Err(error) => Err(error),
        }
    }

    /// What a name means is asked for anew by whoever is next, unless that was done a moment ago or failed: clients that
    /// list a model decide by it what they have.
    pub(crate) async fn doubt(&self, name: &ArtifactName, tag: &Tag) {
        let (key, now) = ((name.clone(), tag.clone()), self.clock.now());
        let is_old = |meaning: Meaning| {
            meaning.said == meaning.asked && now.saturating_duration_since(meaning.asked) >= MOMENT
        };
        if self.fresh.get(&key).await.is_some_and(is_old) {
            self.fresh.invalidate(&key).await;
        }
    }

    /// How long a name may be said to mean what it meant.
    pub(crate) fn freshness(&self) -> Duration {
        self.validity.fresh
    }

    async fn ask(
        &self,
        name: &ArtifactName,
        tag: &Tag,
    ) -> Result<(ManifestId, Option<SystemTime>), StoreError> {
        let spec = ArtifactSpec::Named { name: name.clone(), tag: tag.clone() };
        let mut last = None;
        for store in &self.stores {
            match store.resolve_trusted(&spec, &self.trust, self.seen.as_ref()).await {
                Ok(found) => {
                    let version = found.by.map_or(0, |envelope| envelope.body().version);
                    let since = time::published(version).map(Duration::from_millis);
                    let published = since.and_then(|since| UNIX_EPOCH.checked_add(since));
                    return Ok((found.manifest, published));
                }
                Err(error) => drop(last.get_or_insert(error)),
            }
        }
        Err(last.unwrap_or_else(|| self.no_store()))
    }

    /// The names that begin so, with their tags, in order. With anybody trusted, only those that count.
    pub(crate) async fn names(&self, prefix: &str) -> Result<Arc<Vec<Name>>, Arc<StoreError>> {
        // What begins no name is not asked for.
        let Ok(wanted) = format!("{prefix}*").parse() else { return Ok(Arc::default()) };
        self.names.try_get_with(prefix.to_owned(), self.list(&wanted)).await
    }

    async fn list(&self, wanted: &NamePattern) -> Result<Arc<Vec<Name>>, StoreError> {
        let mut last = None;
        for store in &self.stores {
            match list(store, wanted).await {
                Ok(mut names) => {
                    names.sort_unstable();
                    if self.is_closed() {
                        let mut counted = Vec::new();
                        for (name, tag) in names {
                            if self.resolve(&name, &tag).await.is_ok() {
                                counted.push((name, tag));
                            }
                        }
                        names = counted;
                    }
                    return Ok(Arc::new(names));
                }
                Err(error) => drop(last.get_or_insert(error)),
            }
        }
        Err(last.unwrap_or_else(|| self.no_store()))
    }

    /// The manifest whose identifier begins so.
    pub(crate) async fn find(&self, prefix: &str) -> Result<ManifestId, StoreError> {
        let known = self.artifacts.iter().map(|(key, _)| key.0);
        if let Some(id) = known.into_iter().find(|id| id.to_hex().starts_with(prefix)) {
            return Ok(id);
        }
        let Ok(spec) = format!("@{prefix}").parse::<ArtifactSpec>() else {
            let location = self.location();
            return Err(StoreError::NoArtifact { location, artifact: prefix.to_owned() });
        };
        let mut last = None;
        for store in &self.stores {
            match store.resolve(&spec).await {
                Ok(found) => return Ok(found.manifest),
                Err(error) => drop(last.get_or_insert(error)),
            }
        }
        Err(last.unwrap_or_else(|| self.no_store()))
    }

    /// The manifest of an artifact, and the name that it was addressed by.
    pub(crate) async fn spec<'a>(
        &self,
        artifact: &'a ArtifactSpec,
    ) -> Result<(ManifestId, Option<&'a ArtifactName>), Arc<StoreError>> {
        Ok(match artifact {
            ArtifactSpec::Named { name, tag } => (self.resolve(name, tag).await?, Some(name)),
            ArtifactSpec::Id(prefix) => (self.find(prefix.as_str()).await?, None),
        })
    }

    /// Whether a ref of the repository names or, since the start, named the manifest.
    pub(crate) async fn belongs(&self, name: &ArtifactName, id: ManifestId) -> bool {
        let key = (id, name.clone());
        if !self.named.contains_key(&key) {
            // Another edge may have resolved it; what it finds is remembered.
            drop(self.resolve(name, &Tag::default()).await);
        }
        self.named.contains_key(&key)
    }

    /// Forgets an artifact and all names.
    pub(crate) async fn forget(&self, id: ManifestId) {
        self.fresh.invalidate_all();
        self.stale.invalidate_all();
        self.names.invalidate_all();
        let keys: Vec<_> =
            self.artifacts.iter().map(|(key, _)| key).filter(|k| k.0 == id).collect();
        for key in keys {
            self.artifacts.invalidate(&*key).await;
        }
        let mut admitted = self.admitted.write().unwrap_or_else(PoisonError::into_inner);
        // What others share with it is learnt again from them.
        *admitted = Admitted::default();
    }

    /// The graph of a revision of an artifact, and when that was published under the name and tag.
    pub(crate) async fn open(
        &self,
        name: &ArtifactName,
        revision: &Revision,
    ) -> Result<(Arc<ArtifactGraph>, Option<SystemTime>), Arc<StoreError>> {
        let (id, published) = match revision {
            Revision::Tag(tag) => self.resolve_dated(name, tag).await?,
            Revision::Commit(digits) => (self.find(digits).await?, None),
        };
        Ok((self.artifact(id, Some(name)).await?, published))
    }

    /// The graph of an artifact that counts for `name`.
    pub(crate) async fn artifact(
        &self,
        id: ManifestId,
        name: Option<&ArtifactName>,
    ) -> Result<Arc<ArtifactGraph>, Arc<StoreError>> {
        let read = self.read(id, name);
        let whole = self.artifacts.try_get_with((id, name.cloned()), read).await?;
        if self.is_closed() && !self.knows(id) {
            let mut admitted = self.admitted.write().unwrap_or_else(PoisonError::into_inner);
            admitted.manifests.insert(id);
            admitted.tables.insert(whole.manifest.table().table);
            admitted.chunks.extend(whole.chunks.iter().map(|chunk| chunk.record.stored));
        }
        Ok(whole)
    }

    /// Reads an artifact from the first store that has it whole and trusted.
    async fn read(
        &self,
        id: ManifestId,
        name: Option<&ArtifactName>,
    ) -> Result<Arc<ArtifactGraph>, StoreError> {
        let mut last = None;
        for store in &self.stores {
            let read = async {
                let whole = ArtifactGraph::read(store, id).await?;
                store.check_manifest(&self.trust, name, id, &whole.manifest_bytes).await?;
                Ok(whole)
            };
            match read.await {
                Ok(whole) => return Ok(Arc::new(whole)),
                Err(error) => drop(last.get_or_insert(error)),
            }
        }
        Err(last.unwrap_or_else(|| self.no_store()))
    }

    fn location(&self) -> String {
        self.stores.first().map_or_else(String::new, |store| store.location().to_owned())
    }

    fn no_store(&self) -> StoreError {
        StoreError::NoArtifact { location: self.location(), artifact: "of no store".to_owned() }
    }
}

/// What a store's index lists or, if it has none, its refs one by one. Nothing of it is verified.
async fn list(store: &Store, wanted: &NamePattern) -> Result<Vec<Name>, StoreError> {
    if let Some(listed) = store.listed(wanted, &TrustSet::default(), None).await? {
        return Ok(listed.entries.into_iter().map(|entry| (entry.name, entry.tag)).collect());
    }
    let refs = store.refs(wanted).await?;
    Ok(refs.iter().map(|r| (r.body().name.clone(), r.body().tag.clone())).collect())
}

/// Whether the origin says that there is no such name.
fn is_missing(error: &StoreError) -> bool {
    error.is_not_found() || matches!(error, StoreError::NoArtifact { .. })
}
