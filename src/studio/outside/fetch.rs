//! A model elsewhere becomes a folder here.
//!
//! A folder is of one content: its name is the listing's digest. A file gets its name when all its bytes are there
//! and are those that were listed; what was there when a fetch ended is not fetched again. Whoever uses a folder holds
//! its lock, and folders that nobody used for a day are removed by whoever fetches next.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use hyper::header::{CONTENT_RANGE, HeaderValue, IF_RANGE, RANGE};

use super::check::is_right;
use super::client::{Heard, Outside, OutsideError};
use super::listing::{Check, Listing, RemoteFile};
use super::place::{Hub, Place};
use super::sample;
use crate::transport::url::{WebOptions, open_with};
use crate::transport::{ObjectPath, ReadRange, Transport};

/// How long a folder is kept that nobody uses.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Tries of one file, each of which goes on where the one before ended.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of all files of a model.
const MAX_BYTES: u64 = 4 << 40;
/// A folder's lock lies beside it and stays: whoever waits for it must not hold another.
const LOCK: &str = "lock";
/// What says that a folder has all its files.
const WHOLE: &str = "whole";

/// Who is told how far it is.
pub trait Watch: Sync {
    /// So many bytes are to be fetched.
    fn begin(&self, bytes: u64);
    /// So many more are there.
    fn advance(&self, bytes: u64);
}

/// A fetched model. Its folder stays as long as this lives.
#[derive(Debug)]
pub struct Fetched {
    /// The folder.
    pub folder: PathBuf,
    _lock: File,
}

/// Opens a lock, says that it was used now, and takes it.
async fn hold(path: &Path, how: fn(&File) -> std::io::Result<()>) -> Result<File, OutsideError> {
    let file =
        File::options().create(true).append(true).open(path).map_err(|error| io(path, &error))?;
    file.set_modified(SystemTime::now()).map_err(|error| io(path, &error))?;
    let held = tokio::task::spawn_blocking(move || how(&file).map(|()| file)).await;
    held.map_err(|error| OutsideError::passing(path.display(), error))?
        .map_err(|error| io(path, &error))
}

fn io(path: &Path, error: &std::io::Error) -> OutsideError {
    OutsideError::passing(path.display(), error)
}

impl Outside {
    /// What a model elsewhere is now: its address with the revision that was found, and a digest of its content.
    pub(in crate::studio) async fn find(
        &self,
        place: &Place,
        hub: &Hub,
    ) -> Result<(String, String, u64), OutsideError> {
        let listing = self.list(place, hub).await?;
        let digest = listing.digest();
        Ok((listing.pinned.clone(), digest, listing.bytes()))
    }

    /// Fetches a model elsewhere into a folder below `folder`.
    ///
    /// # Errors
    /// If it may not be asked for, is not there, or is not what it is said to be.
    pub async fn fetch(
        &self,
        text: &str,
        hub: &Hub,
        folder: &Path,
        watch: &dyn Watch,
    ) -> Result<Fetched, OutsideError> {
        let place = Place::parse(text)?;
        let listing = self.list(&place, hub).await?;
        if listing.bytes() > MAX_BYTES {
            return Err(OutsideError::wrong(text, format!("it has over {MAX_BYTES} bytes")));
        }
        let own = folder.join(&listing.digest()[..32]);
        fs::create_dir_all(folder).map_err(|error| io(folder, &error))?;
        prune(folder, &own);
        let (lock, whole) = (own.with_extension(LOCK), own.with_extension(WHOLE));
        let done = |held| Ok(Fetched { folder: own.clone(), _lock: held });
        if whole.exists() {
            let held = hold(&lock, File::lock_shared).await?;
            // It may have been removed meanwhile.
            if whole.exists() {
                watch.begin(listing.bytes());
                watch.advance(listing.bytes());
                return done(held);
            }
        }
        // Whoever fetches the same waits for the first.
        let held = hold(&lock, File::lock).await?;
        fs::create_dir_all(&own).map_err(|error| io(&own, &error))?;
        watch.begin(listing.bytes());
        let bucket = match &place {
            Place::Bucket(location) => Some(
                open_with(location, &WebOptions::default())
                    .map_err(|error| OutsideError::wrong(location, error))?,
            ),
            _ => None,
        };
        for file in &listing.files {
            if own.join(&file.path).exists() {
                watch.advance(file.size.unwrap_or(0));
                continue;
            }
            let from = From {
                outside: self,
                place: &place,
                listing: &listing,
                hub,
                bucket: bucket.as_deref(),
            };
            from.file(file, &own, watch).await?;
        }
        File::create(&whole).map_err(|error| io(&whole, &error))?;
        // From here on others may read, too; nobody removes what was used right now.
        held.unlock().and_then(|()| held.lock_shared()).map_err(|error| io(&lock, &error))?;
        done(held)
    }
}

/// Where files come from.
struct From<'a> {
    outside: &'a Outside,
    place: &'a Place,
    listing: &'a Listing,
    hub: &'a Hub,
    bucket: Option<&'a dyn Transport>,
}

/// A file that grows.
struct Growing<'a> {
    file: &'a RemoteFile,
    part: File,
    at: u64,
    watch: &'a dyn Watch,
}

impl Growing<'_> {
    fn add(&mut self, piece: &[u8]) -> Result<(), OutsideError> {
        self.at += piece.len() as u64;
        if self.at > self.file.size.unwrap_or(MAX_BYTES) {
            return Err(OutsideError::wrong(
                &self.file.path,
                "it is longer than it was said to be",
            ));
        }
        self.part
            .write_all(piece)
            .map_err(|error| OutsideError::passing(&self.file.path, error))?;
        self.watch.advance(piece.len() as u64);
        Ok(())
    }
}

impl From<'_> {
    async fn file(
        &self,
        file: &RemoteFile,
        folder: &Path,
        watch: &dyn Watch,
    ) -> Result<(), OutsideError> {
        let path = folder.join(format!("{}.part", file.path));
        let mut left = TRIES;
        loop {
            let part = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(|error| io(&path, &error))?;
            let at = part.metadata().map_err(|error| io(&path, &error))?.len();
            let mut growing = Growing { file, part, at, watch };
            let begun = growing.at;
            let got = match (self.place, self.bucket) {
                (Place::Sample, _) => growing.add(sample::rest(&file.path, growing.at)),
                (_, Some(bucket)) => of_bucket(bucket, &mut growing).await,
                (_, None) => self.of_web(&mut growing).await,
            };
            match got {
                Ok(()) => break,
                Err(error @ OutsideError::Passing { .. }) => {
                    // What came is kept, and counts as progress.
                    left = if growing.at > begun { TRIES } else { left - 1 };
                    if left == 0 {
                        return Err(error);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    drop(fs::remove_file(&path));
                    return Err(error);
                }
            }
        }
        let (checked, owned) = (file.clone(), path.clone());
        let right = tokio::task::spawn_blocking(move || is_right(&checked, &owned)).await;
        match right.map_err(|error| OutsideError::passing(&file.path, error))? {
            Ok(true) => {
                fs::rename(&path, folder.join(&file.path)).map_err(|error| io(&path, &error))
            }
            Ok(false) => {
                fs::remove_file(&path).map_err(|error| io(&path, &error))?;
                Err(OutsideError::wrong(&file.path, "its bytes are not those that were listed"))
            }
            Err(error) => Err(io(&path, &error)),
        }
    }

    async fn of_web(&self, growing: &mut Growing<'_>) -> Result<(), OutsideError> {
        let file = growing.file;
        if growing.at > 0 && file.size == Some(growing.at) {
            return Ok(());
        }
        let found = Outside::url(self.place, &self.listing.pinned, &file.path, self.hub)?;
        let Some((url, mut headers)) = found else { return Ok(()) };
        // A part is gone on with only where it is known to be of the same content.
        let known = !matches!(file.check, Check::Nothing) || file.version.starts_with('"');
        if growing.at > 0 && known {
            let range = HeaderValue::try_from(format!("bytes={}-", growing.at));
            headers.extend(range.ok().map(|range| (RANGE, range)));
            let version = HeaderValue::try_from(&*file.version).ok();
            headers.extend(
                version.filter(|_| file.version.starts_with('"')).map(|own| (IF_RANGE, own)),
            );
        }
        let mut heard: Heard = self.outside.get(&url, &headers).await?;
        let goes_on = heard.status == hyper::StatusCode::PARTIAL_CONTENT
            && heard
                .headers
                .get(CONTENT_RANGE)
                .and_then(|range| range.to_str().ok())
                .is_some_and(|range| range.starts_with(&format!("bytes {}-", growing.at)));
        if !goes_on {
            if heard.status != hyper::StatusCode::OK {
                return Err(OutsideError::wrong(
                    &file.path,
                    format!("{} was not asked for", heard.status),
                ));
            }
            growing.part.set_len(0).map_err(|error| OutsideError::passing(&file.path, error))?;
            growing.at = 0;
        }
        while let Some(piece) = heard.piece().await? {
            growing.add(&piece)?;
        }
        match file.size {
            Some(size) if growing.at < size => {
                Err(OutsideError::passing(&file.path, "it ends early"))
            }
            _ => Ok(()),
        }
    }
}

async fn of_bucket(bucket: &dyn Transport, growing: &mut Growing<'_>) -> Result<(), OutsideError> {
    let name = growing.file.path.clone();
    let failed =
        |error: crate::transport::TransportError| match (error.is_absent(), error.is_transient()) {
            (true, _) => OutsideError::Absent(format!("{}/{name}", error.location)),
            (_, true) => OutsideError::passing(&name, error),
            _ => OutsideError::wrong(&name, error),
        };
    let path = ObjectPath::new(&*name).ok_or_else(|| OutsideError::wrong(&name, "no such path"))?;
    growing.part.set_len(0).map_err(|error| OutsideError::passing(&name, error))?;
    growing.at = 0;
    let mut reader = bucket.open(&path, ReadRange::Full).await.map_err(failed)?;
    let mut piece = BytesMut::new();
    while reader.body.append(&mut piece, 1 << 20).await.map_err(failed)? > 0 {
        growing.add(&piece)?;
        piece.clear();
    }
    Ok(())
}

/// Removes folders that nobody used for long.
fn prune(folder: &Path, own: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path == own || !path.is_dir() {
            continue;
        }
        let Ok(lock) = File::options().append(true).open(path.with_extension(LOCK)) else {
            continue;
        };
        let used = lock.metadata().and_then(|about| about.modified()).ok();
        let old = used.and_then(|used| used.elapsed().ok()).is_some_and(|age| age > KEPT);
        if old && !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            // What cannot be removed is tried again the next time.
            drop(fs::remove_file(path.with_extension(WHOLE)));
            drop(fs::remove_dir_all(&path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use sha1::Sha1;
    use sha2::{Digest as _, Sha256};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicU64);

    impl Watch for Counted {
        fn begin(&self, _: u64) {}
        fn advance(&self, bytes: u64) {
            self.0.fetch_add(bytes, Ordering::SeqCst);
        }
    }

    type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

    /// A web server over these files, which cuts the first answer of each path in `cut` short; gives its port and what
    /// it was asked for.
    async fn serve(files: Files, cut: &[&str]) -> (u16, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (told, mut cut) =
            (heard.clone(), cut.iter().map(ToString::to_string).collect::<Vec<_>>());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 8192];
                let read = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let path = head.split(' ').nth(1).unwrap().split('?').next().unwrap().to_owned();
                told.lock().unwrap().push(head.clone());
                let Some(body) = files.lock().unwrap().get(&path).cloned() else {
                    stream
                        .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
                        .await
                        .unwrap();
                    continue;
                };
                let from = head
                    .to_ascii_lowercase()
                    .split("range: bytes=")
                    .nth(1)
                    .and_then(|rest| rest.split('-').next()?.parse::<usize>().ok());
                let mut answer = match from {
                    Some(at) => format!(
                        "HTTP/1.1 206 Partial\r\ncontent-range: bytes {at}-{}/{}\r\n",
                        body.len() - 1,
                        body.len()
                    ),
                    None => "HTTP/1.1 200 OK\r\n".to_owned(),
                };
                let rest = &body[from.unwrap_or(0)..];
                answer += &format!(
                    "etag: \"{}\"\r\ncontent-length: {}\r\n\r\n",
                    blake3::hash(&body).to_hex(),
                    rest.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                if head.starts_with("GET") {
                    let at = cut.iter().position(|own| *own == path);
                    let end = if at.is_some() { rest.len() / 2 } else { rest.len() };
                    at.map(|at| cut.remove(at));
                    drop(stream.write_all(&rest[..end]).await);
                }
            }
        });
        (port, heard)
    }

    fn git(content: &[u8]) -> String {
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {}\0", content.len()));
        hasher.update(content);
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn client(port: u16) -> (Outside, Hub) {
        let outside = Outside::guarded(&[format!("127.0.0.1:{port}")], Vec::new());
        (outside, Hub::new(&format!("http://127.0.0.1:{port}"), Some("secret")).unwrap())
    }

    const SHA: &str = "0123456789012345678901234567890123456789";

    #[tokio::test]
    async fn a_repository_of_a_hub_is_fetched_once_and_checked() {
        let weights = vec![7_u8; 300_000];
        let sha256: String =
            Sha256::digest(&weights).iter().map(|byte| format!("{byte:02x}")).collect();
        let about = json!({"sha": SHA, "siblings": [
            {"rfilename": "config.json", "size": 2, "blobId": git(b"{}")},
            {"rfilename": "model.safetensors", "size": 9, "blobId": "x", "lfs": {"sha256": sha256, "size": weights.len()}},
            {"rfilename": "sub/other.safetensors", "size": 9, "blobId": git(b"")},
        ]});
        let files: Files = Arc::default();
        let resolve = format!("/org/m/resolve/{SHA}");
        files.lock().unwrap().extend([
            ("/api/models/org/m/revision/main".to_owned(), about.to_string().into_bytes()),
            (format!("{resolve}/config.json"), b"{}".to_vec()),
            (format!("{resolve}/model.safetensors"), weights.clone()),
        ]);
        let (port, heard) = serve(files.clone(), &[&format!("{resolve}/model.safetensors")]).await;
        let (outside, hub) = client(port);
        let (pinned, digest, bytes) =
            outside.find(&Place::parse("hf://org/m").unwrap(), &hub).await.unwrap();
        assert_eq!((&*pinned, bytes), (&*format!("hf://org/m@{SHA}"), 300_002));
        let all = tempfile::tempdir().unwrap();
        let counted = Counted::default();
        let got = outside.fetch("hf://org/m", &hub, all.path(), &counted).await.unwrap();
        assert!(got.folder.ends_with(&digest[..32]));
        assert_eq!(fs::read(got.folder.join("model.safetensors")).unwrap(), weights);
        assert_eq!(fs::read_dir(&got.folder).unwrap().count(), 2);
        // The answer that was cut was gone on with, under the same token.
        let asked = heard.lock().unwrap().join("");
        assert!(asked.to_ascii_lowercase().contains("range: bytes=150000-"), "{asked}");
        assert!(asked.split("GET").skip(1).all(|one| one.contains("Bearer secret")), "{asked}");
        assert!(counted.0.load(Ordering::SeqCst) >= bytes);
        // Again: only the listing is asked for.
        let before = heard.lock().unwrap().len();
        outside.fetch("hf://org/m", &hub, all.path(), &counted).await.unwrap();
        assert_eq!(heard.lock().unwrap().len(), before + 1);
        // Bytes that are not those that were listed are refused and not kept.
        let other = tempfile::tempdir().unwrap();
        files.lock().unwrap().insert(format!("{resolve}/config.json"), b"[]".to_vec());
        let error = outside.fetch("hf://org/m", &hub, other.path(), &counted).await.unwrap_err();
        assert!(error.to_string().contains("not those that were listed"), "{error}");
        assert!(!got.folder.join("x").exists());
        assert!(matches!(
            outside.fetch("hf://org/none", &hub, other.path(), &counted).await,
            Err(OutsideError::Absent(_))
        ));
    }

    #[tokio::test]
    async fn a_folder_on_a_web_server_is_fetched_by_the_names_of_its_index() {
        let files: Files = Arc::default();
        let index = json!({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}});
        files.lock().unwrap().extend([
            ("/m/model.safetensors.index.json".to_owned(), index.to_string().into_bytes()),
            ("/m/model-1.safetensors".to_owned(), vec![1; 10]),
            ("/m/model-2.safetensors".to_owned(), vec![2; 10]),
            ("/m/config.json".to_owned(), b"{}".to_vec()),
        ]);
        let (port, _) = serve(files.clone(), &[]).await;
        let (outside, hub) = client(port);
        let all = tempfile::tempdir().unwrap();
        let text = format!("http://127.0.0.1:{port}/m");
        let got = outside.fetch(&text, &hub, all.path(), &Counted::default()).await.unwrap();
        assert_eq!(fs::read_dir(&got.folder).unwrap().count(), 4);
        assert_eq!(fs::read(got.folder.join("model-2.safetensors")).unwrap(), [2; 10]);
        // Another content is another folder.
        files.lock().unwrap().insert("/m/config.json".to_owned(), b"{ }".to_vec());
        let newer = outside.fetch(&text, &hub, all.path(), &Counted::default()).await.unwrap();
        assert_ne!(got.folder, newer.folder);
        // An index that leads elsewhere.
        let index = json!({"weight_map": {"a": "../secret.safetensors"}});
        files
            .lock()
            .unwrap()
            .insert("/m/model.safetensors.index.json".to_owned(), index.to_string().into_bytes());
        let error = outside.fetch(&text, &hub, all.path(), &Counted::default()).await.unwrap_err();
        assert!(error.to_string().contains("elsewhere"), "{error}");
    }
}
