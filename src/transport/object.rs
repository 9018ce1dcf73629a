//! Buckets (S3, GCS, Azure) and memory, through the `object_store` crate.
//!
//! Conditional writes are the store's own: `If-None-Match` and `If-Match` or their like, so two
//! writers on two machines never both succeed.
//!
//! One file: every kind of read and write turns the crate's errors and conditions into ours alike.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Certificate, ClientConfigKey, ClientOptions, Error, GetOptions, GetRange, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig, UpdateVersion,
};

use super::host_date::HostDate;
use super::{
    Body, Expected, ObjectInfo, ObjectPath, ObjectReader, ReadRange, Transport, TransportError,
    TransportErrorKind, Version,
};

/// A read lasts as long as its reader takes: stalls are noticed by whoever reads. What nobody watches ends when nothing
/// comes for minutes, as behind a proxy that has lost the connection; a part of an upload takes less. The rest of
/// the client's options come from the environment.
const CLIENT: [(ClientConfigKey, &str); 3] = [
    (ClientConfigKey::Timeout, "24h"),
    (ClientConfigKey::ReadTimeout, "5min"),
    (ClientConfigKey::ConnectTimeout, "10s"),
];

/// Objects of two parts or more are written part by part, all at the same time: stores give each connection its pace.
/// What S3 and GCS take at least.
const PART: usize = 5 << 20;
/// Packs of 16 MiB, three parts each, that are written at the same time.
const WRITES: usize = 6;

/// A bucket, or a part of one below a prefix.
pub struct ObjectBackend {
    location: Arc<str>,
    store: Arc<dyn ObjectStore>,
    /// Empty, or ends in `/`.
    prefix: String,
    date: HostDate,
}

impl fmt::Debug for ObjectBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectBackend").field(&self.location).finish()
    }
}

impl ObjectBackend {
    /// An empty store in memory.
    pub fn memory() -> Self {
        Self::from_store("memory://", Arc::new(InMemory::new()))
    }

    /// Any object store, without a prefix.
    pub fn from_store(location: &str, store: Arc<dyn ObjectStore>) -> Self {
        let (prefix, date) = (String::new(), HostDate::default());
        Self { location: location.into(), store, prefix, date }
    }

    /// A bucket of `scheme` (`s3`, `gs` or `az`), with credentials from the environment; `certificates` (PEM) are
    /// trusted beside the system's.
    ///
    /// # Errors
    /// If the address or the credentials cannot be understood.
    pub fn bucket(
        location: &str,
        scheme: &str,
        bucket: &str,
        prefix: &str,
        certificates: &[Vec<u8>],
    ) -> Result<Self, TransportError> {
        let invalid =
            |why: &str| TransportError::new(TransportErrorKind::Invalid, location, "store", why);
        if bucket.is_empty() {
            return Err(invalid("the bucket's name is missing"));
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = match prefix {
            "" => String::new(),
            prefix => match ObjectPath::new(prefix) {
                Some(prefix) => format!("{prefix}/"),
                None => return Err(invalid("the prefix has an empty, `.` or `..` segment")),
            },
        };
        let date = HostDate::default();
        let store = make_bucket(scheme, bucket, certificates, &date)
            .map_err(|e| invalid("the bucket cannot be used").caused_by(e))?;
        Ok(Self { location: location.into(), store, prefix, date })
    }

    fn error(&self, object: impl fmt::Display, error: Error) -> TransportError {
        map_error(&self.location, object, error)
    }

    fn key(&self, path: &ObjectPath) -> Result<Path, TransportError> {
        // `parse` takes the text as it is, where `from` would escape it.
        Path::parse(format!("{}{path}", self.prefix)).map_err(|e| {
            TransportError::new(
                TransportErrorKind::Invalid,
                &*self.location,
                path,
                "a bucket cannot hold this path",
            )
            .caused_by(e)
        })
    }

    /// The object's path in the store, or `None` for a foreign object that no path can name.
    fn info(&self, meta: &object_store::ObjectMeta) -> Option<ObjectInfo> {
        let path = meta.location.as_ref().strip_prefix(&self.prefix)?;
        Some(ObjectInfo {
            path: ObjectPath::new(path)?,
            size: meta.size,
            modified: SystemTime::from(meta.last_modified),
        })
    }
}

/// The client's options in variables of this prefix, and more certificates; `None`: the builder reads them itself.
fn client(prefix: &str, certificates: &[Vec<u8>]) -> Result<Option<ClientOptions>, Error> {
    if certificates.is_empty() {
        return Ok(None);
    }
    let mut options = ClientOptions::default();
    for (name, value) in std::env::vars_os() {
        let name = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let key = name.and_then(|name| name.to_ascii_lowercase().parse::<ClientConfigKey>().ok());
        if let (Some(key), Some(value)) = (key, value.to_str()) {
            options = options.with_config(key, value);
        }
    }
    for pem in certificates {
        for certificate in Certificate::from_pem_bundle(pem)? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(Some(options))
}

fn make_bucket(
    scheme: &str,
    bucket: &str,
    certificates: &[Vec<u8>],
    date: &HostDate,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let retry = RetryConfig {
        max_retries: 4,
        retry_timeout: Duration::from_secs(60),
        ..RetryConfig::default()
    };
    Ok(match scheme {
        "s3" => {
            let mut builder = AmazonS3Builder::from_env()
                .with_http_connector(date.clone())
                .with_bucket_name(bucket)
                .with_retry(retry)
                .with_conditional_put(S3ConditionalPut::ETagMatch);
            let plain = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
                .iter()
                .find_map(|name| std::env::var(name).ok())
                .is_some_and(|endpoint| endpoint.starts_with("http://"));
            if let Some(options) = client("AWS_", certificates)? {
                builder = builder.with_client_options(options);
            }
            if plain {
                builder = builder.with_allow_http(true);
            }
            for (key, value) in CLIENT {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env()
                .with_http_connector(date.clone())
                .with_bucket_name(bucket)
                .with_retry(retry);
            if let Some(options) = client("GOOGLE_", certificates)? {
                builder = builder.with_client_options(options);
            }
            for (key, value) in CLIENT {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
        _ => {
            let mut builder = MicrosoftAzureBuilder::from_env()
                .with_http_connector(date.clone())
                .with_container_name(bucket)
                .with_retry(retry);
            if let Some(options) = client("AZURE_", certificates)? {
                builder = builder.with_client_options(options);
            }
            for (key, value) in CLIENT {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            Arc::new(builder.build()?)
        }
    })
}

fn map_error(location: &str, object: impl fmt::Display, error: Error) -> TransportError {
    use TransportErrorKind::*;
    let text = error.to_string();
    let (kind, what) = match &error {
        Error::NotFound { .. } => (NotFound, "no such object"),
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => {
            (Conflict, "the object changed meanwhile")
        }
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => (Denied, "access denied"),
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => (Invalid, "the store cannot do this"),
        _ if text.contains("status code: 416")
            || text.contains("nvalidRange")
            || text.contains("InvalidGetRange") =>
        {
            (OutOfRange, "the object is shorter than the range")
        }
        // A listing is of nothing, unless there is no bucket.
        _ if text.contains("status code: 404") => (NotFound, "no such bucket"),
        _ => (Transient, "the store failed"),
    };
    TransportError::new(kind, location, object, what).caused_by(error)
}

#[async_trait]
impl Transport for ObjectBackend {
    fn location(&self) -> &str {
        &self.location
    }

    async fn open(
        &self,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<ObjectReader, TransportError> {
        if range.is_empty() {
            return Err(TransportError::new(
                TransportErrorKind::Invalid,
                &*self.location,
                path,
                "the range is empty",
            ));
        }
        let options = GetOptions {
            range: match &range {
                ReadRange::Full => None,
                ReadRange::Bounded(range) => Some(GetRange::Bounded(range.clone())),
                ReadRange::Suffix(last) => Some(GetRange::Suffix(*last)),
            },
            ..GetOptions::default()
        };
        let key = self.key(path)?;
        let result = match self.store.get_opts(&key, options).await {
            Ok(result) => result,
            // Stores differ in how they refuse the end of an empty object, or a range that starts
            // beyond the end: the size decides.
            Err(error) if range != ReadRange::Full && !matches!(error, Error::NotFound { .. }) => {
                let failed = self.error(path, error);
                return self.open_refused(path, range, failed).await;
            }
            Err(error) => return Err(self.error(path, error)),
        };
        let size = result.meta.size;
        let given = result.range.clone();
        let generation = result.meta.version.clone();
        let version = result.meta.e_tag.clone().map(|tag| Version { tag, generation });
        let error = |kind, what: String| TransportError::new(kind, &*self.location, path, what);
        match range.within(size) {
            Some(wanted) if wanted == given => {}
            Some(wanted) => {
                return Err(error(
                    TransportErrorKind::Protocol,
                    format!("the store sends {given:?} where {wanted:?} was asked for"),
                ));
            }
            None => {
                return Err(error(
                    TransportErrorKind::OutOfRange,
                    format!("the object ends at byte {size}"),
                ));
            }
        }
        Ok(ObjectReader {
            range: given.clone(),
            size: Some(size),
            version,
            head: None,
            body: Box::new(StreamBody {
                stream: result.into_stream(),
                held: Bytes::new(),
                left: given.end - given.start,
                location: self.location.clone(),
                object: path.clone(),
            }),
        })
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, TransportError> {
        match self.store.head(&self.key(path)?).await {
            Ok(meta) => Ok(self.info(&meta)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(path, error)),
        }
    }

    async fn put(&self, path: &ObjectPath, parts: Vec<Bytes>) -> Result<(), TransportError> {
        let key = self.key(path)?;
        let len: usize = parts.iter().map(Bytes::len).sum();
        let put = match len / PART {
            0 | 1 => self.store.put(&key, PutPayload::from_iter(parts)).await.map(drop),
            count => self.put_parts(&key, cut(parts, len.div_ceil(count))).await,
        };
        put.map_err(|e| self.error(path, e))
    }

    fn writes_at_once(&self) -> usize {
        WRITES
    }

    fn date(&self) -> Option<SystemTime> {
        self.date.now()
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        expected: Expected,
        content: Bytes,
    ) -> Result<(), TransportError> {
        let update = matches!(expected, Expected::Version(_));
        let mode = match expected {
            Expected::Absent => PutMode::Create,
            Expected::Version(Version { tag, generation }) => {
                PutMode::Update(UpdateVersion { e_tag: Some(tag), version: generation })
            }
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let key = self.key(path)?;
        match self.store.put_opts(&key, content.into(), options).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let mut error = self.error(path, error);
                // What was to be replaced is gone: that is a conflict too.
                if update && error.kind == TransportErrorKind::NotFound {
                    error.kind = TransportErrorKind::Conflict;
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), TransportError> {
        match self.store.delete(&self.key(path)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(path, error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, TransportError> {
        let full = format!("{}{prefix}", self.prefix);
        let start = match full.trim_end_matches('/') {
            "" => None,
            full => Some(Path::parse(full).map_err(|e| {
                TransportError::new(
                    TransportErrorKind::Invalid,
                    &*self.location,
                    prefix,
                    "a bucket cannot hold this path",
                )
                .caused_by(e)
            })?),
        };
        let mut found: Vec<ObjectInfo> = self
            .store
            .list(start.as_ref())
            .try_filter_map(|meta| std::future::ready(Ok(self.info(&meta))))
            .try_collect()
            .await
            .map_err(|e| self.error(prefix, e))?;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

/// The same bytes in parts of `size`, of which the last may be shorter.
fn cut(bytes: Vec<Bytes>, size: usize) -> Vec<PutPayload> {
    let (mut parts, mut part, mut room) = (Vec::new(), Vec::new(), size);
    for mut bytes in bytes {
        while bytes.len() >= room {
            part.push(bytes.split_to(room));
            parts.push(PutPayload::from_iter(std::mem::take(&mut part)));
            room = size;
        }
        if !bytes.is_empty() {
            room -= bytes.len();
            part.push(bytes);
        }
    }
    parts.extend((!part.is_empty()).then(|| PutPayload::from_iter(part)));
    parts
}

impl ObjectBackend {
    /// Writes an object part by part: it appears when all are there.
    async fn put_parts(&self, key: &Path, parts: Vec<PutPayload>) -> Result<(), Error> {
        let mut upload = self.store.put_multipart(key).await?;
        let sent: Vec<_> = parts.into_iter().map(|part| upload.put_part(part)).collect();
        let ended = match try_join_all(sent).await {
            Ok(_) => upload.complete().await.map(drop),
            Err(error) => Err(error),
        };
        if ended.is_err() {
            // The store keeps parts that nobody takes back; that this fails too changes nothing.
            drop(upload.abort().await);
        }
        ended
    }

    async fn open_refused(
        &self,
        path: &ObjectPath,
        range: ReadRange,
        failed: TransportError,
    ) -> Result<ObjectReader, TransportError> {
        let Some(info) = self.head(path).await? else {
            let (kind, what) = (TransportErrorKind::NotFound, "no such object");
            return Err(TransportError::new(kind, &*self.location, path, what));
        };
        match range.within(info.size) {
            None => Err(TransportError { kind: TransportErrorKind::OutOfRange, ..failed }),
            Some(wanted) if wanted.is_empty() => Ok(ObjectReader {
                range: wanted,
                size: Some(info.size),
                version: None,
                head: None,
                body: Box::new(StreamBody {
                    stream: futures_util::stream::empty().boxed(),
                    held: Bytes::new(),
                    left: 0,
                    location: self.location.clone(),
                    object: path.clone(),
                }),
            }),
            // Azure knows no ranges from the end.
            Some(wanted)
                if matches!(range, ReadRange::Suffix(_))
                    && failed.kind == TransportErrorKind::Invalid =>
            {
                self.open(path, ReadRange::Bounded(wanted)).await
            }
            Some(_) => Err(failed),
        }
    }
}

/// The bytes of one read; exactly as many as promised, or an error.
struct StreamBody {
    stream: BoxStream<'static, Result<Bytes, Error>>,
    held: Bytes,
    left: u64,
    location: Arc<str>,
    object: ObjectPath,
}

impl StreamBody {
    fn wrong_length(&self, what: &str) -> TransportError {
        TransportError::new(
            TransportErrorKind::Protocol,
            &*self.location,
            &self.object,
            format!("the body {what}, with {} bytes to come", self.left),
        )
    }
}

#[async_trait]
impl Body for StreamBody {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, TransportError> {
        if out.is_empty() {
            return Ok(0);
        }
        while self.held.is_empty() {
            match self.stream.next().await {
                None if self.left == 0 => return Ok(0),
                None => return Err(self.wrong_length("ends early")),
                Some(Err(error)) => return Err(map_error(&self.location, &self.object, error)),
                Some(Ok(bytes)) => {
                    let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
                        return Err(self.wrong_length("is longer than promised"));
                    };
                    self.left = left;
                    self.held = bytes;
                }
            }
        }
        Ok(super::move_bytes(&mut self.held, out))
    }
}
