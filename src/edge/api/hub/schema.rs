//! The read API of the Hugging Face Hub over the artifacts of a store, so that `HF_ENDPOINT` may name
//! an edge. Routes and headers are those that the clients' sources ask for.
//!
//! An artifact is a model repository: tag `latest` is revision `main`, and the commit is the first 40
//! digits of the manifest's identifier. Files of which the packer computed a git-blob SHA-1 are
//! ordinary ones, the others LFS files.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::header::HeaderValue;
use serde_json::{Value, json};
use sha1::Digest as _;

use crate::edge::cache::revision::commit;
use crate::edge::http::object::Facts;
use crate::edge::http::request::decode;
use crate::format::id::{ManifestId, to_hex};
use crate::format::name::ArtifactName;
use crate::format::page::FileEntry;
use crate::format::time;
use crate::store::ArtifactGraph;

/// What a request asks of the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The repository as the client calls it.
    pub(crate) repo: String,
    /// The revision; none is `main`.
    pub(crate) revision: Option<String>,
    /// What of it.
    pub(crate) what: What,
}

/// What is asked of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// What it is and which files it has.
    Info,
    /// The entries below a folder, which is empty for the root.
    Tree(String),
    /// The entries of the paths that the body lists.
    PathsInfo,
    /// Its branches.
    Refs,
    /// Its commits up to the revision.
    Commits,
    /// What is talked about it.
    Discussions,
    /// Whether the client may read it.
    AuthCheck,
    /// A file.
    Resolve(String),
}

/// What a request asks of the Hub that is of no one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wide {
    /// The repositories.
    Models,
    /// Repositories of a kind that is not served.
    Others,
    /// Whose token the client shows.
    WhoAmI,
    /// To change something, which nobody may here.
    Write,
}

impl Wide {
    /// Reads the path of a request; `writes` says that its method is none of reading.
    pub(crate) fn parse(path: &str, writes: bool) -> Option<Self> {
        match path {
            "/api/models" => Some(Self::Models),
            "/api/datasets" | "/api/spaces" if !writes => Some(Self::Others),
            "/api/whoami-v2" => Some(Self::WhoAmI),
            _ if !writes || path.contains("/paths-info/") => None,
            _ if path.starts_with("/api/") || path.contains(".git/info/lfs/") => Some(Self::Write),
            _ => None,
        }
    }
}

/// What a listing of repositories asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    pub(crate) author: Option<String>,
    /// A text that stands in each name, in lower case.
    search: String,
    pub(crate) limit: usize,
    /// The last name of the page before.
    cursor: String,
    /// Whether it asks for what no artifact here says of itself: a task, a library, an app.
    filtered: bool,
}

/// The longest page of a listing.
const PAGE: usize = 1000;

impl Listing {
    pub(crate) fn parse(query: &str) -> Self {
        let mut listing = Self { limit: PAGE, ..Self::default() };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "author" if !value.is_empty() => listing.author = Some(value.into_owned()),
                "search" => listing.search = value.to_lowercase(),
                "limit" => listing.limit = value.parse().unwrap_or(PAGE).min(PAGE),
                "cursor" => listing.cursor = value.into_owned(),
                "filter" if value == "tenpak" => {}
                "filter" | "pipeline_tag" | "apps" | "inference" | "inference_provider"
                | "num_parameters" => listing.filtered = true,
                "gated" => listing.filtered |= matches!(&*value, "true" | "True" | "1"),
                _ => {}
            }
        }
        listing
    }

    /// A page of the names, which are in order and have these tags, and whether there are more.
    pub(crate) fn page<'a>(
        &self,
        names: impl Iterator<Item = &'a ArtifactName>,
    ) -> (Vec<&'a ArtifactName>, bool) {
        let own = |name: &&ArtifactName| {
            let text = name.as_str();
            let author = text.split_once('/').map(|(author, _)| author);
            text > self.cursor.as_str()
                && (self.author.is_none() || self.author.as_deref() == author)
                && text.to_lowercase().contains(&self.search)
        };
        if self.filtered {
            return (Vec::new(), false);
        }
        let mut own = names.filter(own);
        let page: Vec<_> = own.by_ref().take(self.limit).collect();
        let more = !page.is_empty() && own.next().is_some();
        (page, more)
    }

    /// The query of the page after the one that ends with this name.
    pub(crate) fn after(query: &str, last: &str) -> String {
        let own =
            url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "cursor");
        let mut next = url::form_urlencoded::Serializer::new(String::new());
        next.extend_pairs(own).append_pair("cursor", last);
        next.finish()
    }
}

/// What a listing says of a repository.
pub(crate) fn model(repo: &str) -> Value {
    json!({
        "id": repo,
        "modelId": repo,
        "private": false,
        "gated": false,
        "disabled": false,
        "downloads": 0,
        "likes": 0,
        "tags": ["tenpak"],
    })
}

/// The answer to [`Wide::WhoAmI`].
pub(crate) fn who(name: &str) -> Value {
    let token = json!({"displayName": name, "role": "read"});
    json!({
        "type": "user",
        "id": name,
        "name": name,
        "fullname": name,
        "isPro": false,
        "canPay": false,
        "orgs": [],
        "auth": {"type": "access_token", "accessToken": token},
    })
}

/// The answer to [`What::Commits`]: a store keeps no history, so that a revision has one commit.
pub(crate) fn commits(id: ManifestId, published: Option<SystemTime>) -> Value {
    let seconds = published.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let date = time::date_with_fraction(seconds.map_or(0, |since| since.as_secs()));
    json!([{
        "id": commit(id),
        "title": format!("manifest {id}"),
        "message": "",
        "authors": [],
        "date": date,
    }])
}

/// What of a request is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Repo,
    Revision,
    Entry,
}

impl Refusal {
    /// The value of `X-Error-Code`.
    pub(crate) fn code(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Repo => "RepoNotFound",
            Self::Revision => "RevisionNotFound",
            Self::Entry => "EntryNotFound",
        })
    }
}

impl Ask {
    /// Reads the path of a request, still encoded: revisions arrive with their slashes encoded.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let api = path.strip_prefix("/api/models/");
        let (repo, revision, what) = match api {
            Some(rest) => {
                if let Some((repo, rest)) = rest.split_once("/tree/") {
                    let (revision, folder) = rest.split_once('/').unwrap_or((rest, ""));
                    (repo, Some(revision), What::Tree(decode(folder.trim_end_matches('/'))?))
                } else if let Some((repo, revision)) = rest.split_once("/paths-info/") {
                    (repo, Some(revision), What::PathsInfo)
                } else if let Some((repo, revision)) = rest.split_once("/revision/") {
                    (repo, Some(revision), What::Info)
                } else if let Some((repo, revision)) = rest.split_once("/commits/") {
                    (repo, Some(revision), What::Commits)
                } else if let Some(repo) = rest.strip_suffix("/refs") {
                    (repo, None, What::Refs)
                } else if let Some(repo) = rest.strip_suffix("/discussions") {
                    (repo, None, What::Discussions)
                } else if let Some(repo) = rest.strip_suffix("/auth-check") {
                    (repo, None, What::AuthCheck)
                } else {
                    (rest, None, What::Info)
                }
            }
            None => {
                let (repo, rest) = path.strip_prefix('/')?.split_once("/resolve/")?;
                let (revision, file) = rest.split_once('/')?;
                (repo, Some(revision), What::Resolve(decode(file)?))
            }
        };
        if repo.is_empty() || revision.is_some_and(|r| r.is_empty() || r.contains('/')) {
            return None;
        }
        let revision = match revision {
            Some(revision) => Some(decode(revision)?),
            None => None,
        };
        Some(Self { repo: decode(repo)?, revision, what })
    }

    /// The artifact's name, if it can be one.
    pub(crate) fn name(&self) -> Option<ArtifactName> {
        self.repo.parse().ok()
    }
}

/// The paths of a form (`paths=a&paths=b&expand=false`).
pub(crate) fn form_paths(body: &str) -> Vec<String> {
    url::form_urlencoded::parse(body.as_bytes())
        .filter(|(key, _)| key == "paths")
        .map(|(_, path)| path.into_owned())
        .collect()
}

/// The identifier of an LFS file: its SHA-256. One that was packed without has one of its own in each artifact, so that
/// nobody takes the file of another version for it.
fn lfs_oid(whole: &ArtifactGraph, file: &FileEntry) -> String {
    match file.sha256 == [0; 32] {
        false => to_hex(&file.sha256),
        true => {
            let path = [&whole.id.as_bytes()[..], file.path.as_bytes()].concat();
            to_hex(blake3::hash(&path).as_bytes())
        }
    }
}

/// The text that git keeps in place of an LFS file.
fn pointer(whole: &ArtifactGraph, file: &FileEntry) -> String {
    let oid = lfs_oid(whole, file);
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {}\n", file.size)
}

fn git_blob(content: &[u8]) -> String {
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("blob {}\0", content.len()));
    hasher.update(content);
    to_hex(&hasher.finalize())
}

/// What `hf cache verify` compares a file with: SHA-256 of LFS files, git-blob SHA-1 of others.
pub(crate) fn etag(whole: &ArtifactGraph, file: &FileEntry) -> String {
    match &file.git_sha1 {
        Some(sha1) => to_hex(sha1),
        None => lfs_oid(whole, file),
    }
}

/// What is known of a file before it is read. Its tag is what Hub clients check it with.
pub(crate) fn facts(whole: &ArtifactGraph, file: &FileEntry, caching: HeaderValue) -> Facts {
    let tag = HeaderValue::try_from(format!("\"{}\"", etag(whole, file))).ok();
    Facts { size: file.size, tag, modified: None, caching }
}

/// Whether the file counts as one of LFS.
pub(crate) fn is_lfs(file: &FileEntry) -> bool {
    file.git_sha1.is_none()
}

/// An entry of a tree.
fn entry(whole: &ArtifactGraph, file: &FileEntry) -> Value {
    let mut entry = json!({"type": "file", "path": file.path, "size": file.size});
    let pointer = is_lfs(file).then(|| pointer(whole, file));
    entry["oid"] = match &pointer {
        Some(pointer) => git_blob(pointer.as_bytes()).into(),
        None => etag(whole, file).into(),
    };
    if let Some(pointer) = pointer {
        let oid = lfs_oid(whole, file);
        entry["lfs"] = json!({"oid": oid, "size": file.size, "pointerSize": pointer.len()});
    }
    entry
}

/// A folder as an entry of a tree. Its identifier only has to differ where what it holds does.
fn folder(whole: &ArtifactGraph, path: &str, files: &[&FileEntry]) -> Value {
    let mut hasher = sha1::Sha1::new();
    for file in files {
        hasher.update(format!("{} {}\n", etag(whole, file), file.path));
    }
    json!({"type": "directory", "path": path, "size": 0, "oid": to_hex(&hasher.finalize())})
}

/// The answer to [`What::Info`].
pub(crate) fn info(repo: &str, whole: &ArtifactGraph, blobs: bool) -> Value {
    let sibling = |file: &FileEntry| {
        let mut sibling = json!({"rfilename": file.path});
        if blobs {
            let entry = entry(whole, file);
            sibling["size"] = file.size.into();
            sibling["blobId"] = entry["oid"].clone();
            if is_lfs(file) {
                let lfs = &entry["lfs"];
                let (oid, size) = (&lfs["oid"], &lfs["pointerSize"]);
                sibling["lfs"] = json!({"sha256": oid, "size": file.size, "pointerSize": size});
            }
        }
        sibling
    };
    let siblings: Vec<Value> = whole.files.iter().map(|(file, _)| sibling(file)).collect();
    let mut info = model(repo);
    info["_id"] = commit(whole.id)[..24].into();
    info["sha"] = commit(whole.id).into();
    info["usedStorage"] = whole.manifest.totals.raw_bytes.into();
    info["siblings"] = siblings.into();
    info
}

/// The answer to [`What::Tree`]; `None` if there is no such folder.
pub(crate) fn tree(whole: &ArtifactGraph, below: &str, recursive: bool) -> Option<Value> {
    let prefix = if below.is_empty() { String::new() } else { format!("{below}/") };
    let files = whole.files.iter().map(|(file, _)| file);
    let inside: Vec<&FileEntry> = files.filter(|file| file.path.starts_with(&prefix)).collect();
    if inside.is_empty() && !below.is_empty() {
        return None;
    }
    let mut entries = Vec::new();
    let mut last = String::new();
    for file in &inside {
        let rest = file.path.get(prefix.len()..).unwrap_or_default();
        for (at, _) in rest.match_indices('/') {
            let path = format!("{prefix}{}", &rest[..at]);
            let known = last == path || last.starts_with(&format!("{path}/"));
            if !known {
                let of = format!("{path}/");
                let own: Vec<&FileEntry> =
                    inside.iter().copied().filter(|file| file.path.starts_with(&of)).collect();
                entries.push(folder(whole, &path, &own));
                last = path;
            }
            if !recursive {
                break;
            }
        }
        if recursive || !rest.contains('/') {
            entries.push(entry(whole, file));
        }
    }
    Some(entries.into())
}

/// The answer to [`What::PathsInfo`]: what is not there is left out.
pub(crate) fn paths_info(whole: &ArtifactGraph, paths: &[String]) -> Value {
    let mut entries = Vec::new();
    for path in paths {
        let path = path.trim_matches('/');
        if let Some((file, _)) = whole.files.iter().find(|(file, _)| file.path == path) {
            entries.push(entry(whole, file));
            continue;
        }
        let prefix = format!("{path}/");
        let files = whole.files.iter().map(|(file, _)| file);
        let own: Vec<&FileEntry> = files.filter(|file| file.path.starts_with(&prefix)).collect();
        if !own.is_empty() {
            entries.push(folder(whole, path, &own));
        }
    }
    entries.into()
}

/// The answer to [`What::Refs`].
pub(crate) fn refs(id: ManifestId) -> Value {
    let branch = json!({"name": "main", "ref": "refs/heads/main", "targetCommit": commit(id)});
    json!({"branches": [branch], "converts": [], "tags": []})
}

#[cfg(test)]
mod tests;
