//! Where a model lies elsewhere: what requests write, and how its files are listed.

use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED};
use serde_json::Value;
use url::Url;

use super::client::{Outside, OutsideError};
use super::listing::{Check, Listing, RemoteFile, choose};
use super::sample;
use crate::transport::url::{WebOptions, open_with};

/// Bytes of a listing.
const MAX_LISTING: usize = 32 << 20;
/// Objects of a bucket below the prefix of a model.
const MAX_OBJECTS: usize = 10_000;
/// What may stand beside weights on a web server, which lists nothing.
const ON_THE_WEB: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "quantize_config.json",
    "README.md",
];
const INDEX: &str = "model.safetensors.index.json";
const ALONE: &str = "model.safetensors";

/// A Hub, and who asks it.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: Url,
    token: Option<HeaderValue>,
}

impl Hub {
    /// The Hub at this address; `token` is shown to it, and to no other server.
    ///
    /// # Errors
    /// If it is no address of a web server, or the token cannot be sent.
    pub fn new(endpoint: &str, token: Option<&str>) -> Result<Self, String> {
        let url = Url::parse(&format!("{}/", endpoint.trim_end_matches('/')));
        let endpoint = url.map_err(|error| format!("HF_ENDPOINT {endpoint}: {error}"))?;
        if super::guard::authority(&endpoint).is_none() {
            return Err("HF_ENDPOINT: expected https://HOST".to_owned());
        }
        let header = |token: &str| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| "the Hub's token has characters that no header may have".to_owned())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        Ok(Self { endpoint, token: token.map(header).transpose()? })
    }

    /// Its `host:port`: whoever names a Hub says with it that it may be asked.
    pub fn authority(&self) -> String {
        super::guard::authority(&self.endpoint).unwrap_or_default().to_ascii_lowercase()
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.extend(self.token.clone().map(|token| (AUTHORIZATION, token)));
        headers
    }

    fn at(&self, segments: &[&str]) -> Result<Url, OutsideError> {
        let mut url = self.endpoint.clone();
        let failed = || OutsideError::wrong(&self.endpoint, "it is no base");
        url.path_segments_mut().map_err(|()| failed())?.pop_if_empty().extend(segments);
        Ok(url)
    }
}

/// A model elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::studio) enum Place {
    /// A repository of the Hub, and its revision.
    Hub { id: String, revision: String },
    /// A folder on a web server; the address ends in `/`.
    Web(Url),
    /// A folder in a bucket.
    Bucket(String),
    /// The model that lies in this program.
    Sample,
}

/// Whether it is the address of something elsewhere, which [`Place::parse`] understands or refuses.
pub fn is_elsewhere(text: &str) -> bool {
    text.contains("://") || text.starts_with("file:") || text.starts_with("data:")
}

impl Place {
    /// Reads `hf://org/model[@rev]`, `s3://`, `gs://`, `az://` and `https://` addresses, and that of the sample.
    pub(in crate::studio) fn parse(text: &str) -> Result<Self, OutsideError> {
        let refused = |why: &str| Err(OutsideError::Refused(format!("{text}: {why}")));
        let Some((scheme, rest)) = text.split_once("://") else {
            return refused("expected hf://, s3://, gs://, az:// or https://");
        };
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refused("an address has no spaces");
        }
        match &*scheme.to_ascii_lowercase() {
            "hf" => {
                let (id, revision) = rest.split_once('@').unwrap_or((rest, "main"));
                let segment = |text: &str| {
                    let right = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
                    (1..=96).contains(&text.len())
                        && text.bytes().all(right)
                        && !text.starts_with('.')
                        && !text.contains("..")
                };
                let revision_is_right =
                    (1..=200).contains(&revision.len()) && revision.split('/').all(segment);
                let count = id.split('/').count();
                match (1..=2).contains(&count) && id.split('/').all(segment) && revision_is_right {
                    true => Ok(Self::Hub { id: id.to_owned(), revision: revision.to_owned() }),
                    false => refused("expected hf://ORG/MODEL or hf://ORG/MODEL@REVISION"),
                }
            }
            "s3" | "gs" | "az" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let right = !bucket.is_empty()
                    && !rest.contains(['?', '#', '@', '\\', '%'])
                    && prefix
                        .trim_end_matches('/')
                        .split('/')
                        .all(|own| !matches!(own, "" | "." | ".."));
                match right {
                    true => Ok(Self::Bucket(format!(
                        "{}://{}",
                        scheme.to_ascii_lowercase(),
                        rest.trim_end_matches('/')
                    ))),
                    false => refused("expected BUCKET/FOLDER"),
                }
            }
            "http" | "https" => match Url::parse(&format!("{}/", text.trim_end_matches('/'))) {
                Ok(url) if url.query().is_none() && url.fragment().is_none() => Ok(Self::Web(url)),
                Ok(_) => refused("the address of a folder has no query"),
                Err(error) => refused(&error.to_string()),
            },
            "sample" => match rest == sample::NAME {
                true => Ok(Self::Sample),
                false => refused("there is sample://austen"),
            },
            _ => refused("expected hf://, s3://, gs://, az:// or https://"),
        }
    }

    /// What an artifact made of it may be named after.
    pub(in crate::studio) fn name(&self) -> Option<&str> {
        match self {
            Self::Hub { id, .. } => Some(id),
            Self::Sample => Some("sample/austen"),
            _ => None,
        }
    }

    /// Whether it is nobody's to forbid.
    pub(in crate::studio) const fn is_own(&self) -> bool {
        matches!(self, Self::Sample)
    }
}

fn size_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn version_of(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    text(ETAG).or_else(|| text(LAST_MODIFIED)).unwrap_or_default().to_owned()
}

impl Outside {
    /// Finds out what a model elsewhere is made of.
    pub(super) async fn list(&self, place: &Place, hub: &Hub) -> Result<Listing, OutsideError> {
        match place {
            Place::Hub { id, revision } => self.list_hub(id, revision, hub).await,
            Place::Web(base) => self.list_web(base).await,
            Place::Bucket(location) => list_bucket(location).await,
            Place::Sample => Ok(sample::listing()),
        }
    }

    async fn list_hub(&self, id: &str, revision: &str, hub: &Hub) -> Result<Listing, OutsideError> {
        let mut segments = vec!["api", "models"];
        segments.extend(id.split('/'));
        segments.extend(["revision", revision]);
        let mut url = hub.at(&segments)?;
        url.set_query(Some("blobs=true"));
        let what = format!("hf://{id}@{revision}");
        let wrong = |why: &str| OutsideError::wrong(&what, why);
        let heard = self.get(&url, &hub.headers()).await.map_err(|error| match error {
            OutsideError::Absent(_) => OutsideError::Absent(what.clone()),
            error => error,
        })?;
        let body = heard.whole(MAX_LISTING).await?;
        let about: Value =
            serde_json::from_slice(&body).map_err(|_| wrong("the Hub's answer is no JSON"))?;
        let sha = about["sha"].as_str().filter(|sha| {
            (7..=64).contains(&sha.len()) && sha.bytes().all(|c| c.is_ascii_hexdigit())
        });
        let sha = sha.ok_or_else(|| wrong("the Hub names no commit"))?;
        let siblings =
            about["siblings"].as_array().ok_or_else(|| wrong("the Hub lists no files"))?;
        let hex = |value: &Value, digits: usize| {
            let text = value.as_str().filter(|text| text.len() == digits)?;
            text.bytes().all(|c| c.is_ascii_hexdigit()).then(|| text.to_ascii_lowercase())
        };
        let file = |one: &Value| {
            let path = one["rfilename"]
                .as_str()
                .ok_or_else(|| wrong("the Hub lists a file without a name"))?;
            let check = match (hex(&one["lfs"]["sha256"], 64), hex(&one["blobId"], 40)) {
                (Some(sha256), _) => Check::Sha256(sha256),
                (None, Some(sha1)) => Check::Git(sha1),
                (None, None) => Check::Nothing,
            };
            let size = one["lfs"]["size"].as_u64().or_else(|| one["size"].as_u64());
            Ok(RemoteFile { path: path.to_owned(), size, check, version: sha.to_owned() })
        };
        let all = siblings.iter().map(file).collect::<Result<Vec<_>, OutsideError>>()?;
        Ok(Listing { files: choose(&what, all)?, pinned: format!("hf://{id}@{sha}") })
    }

    /// A web server lists nothing: what a model usually has is asked for by name.
    async fn list_web(&self, base: &Url) -> Result<Listing, OutsideError> {
        self.check(base)?;
        let at = |path: &str| base.join(path).map_err(|error| OutsideError::wrong(base, error));
        let mut names: Vec<String> = ON_THE_WEB.iter().map(ToString::to_string).collect();
        match self.get(&at(INDEX)?, &HeaderMap::new()).await {
            Ok(heard) => {
                let body = heard.whole(MAX_LISTING).await?;
                let index: Value = serde_json::from_slice(&body).unwrap_or_default();
                let map = index["weight_map"].as_object();
                let map =
                    map.ok_or_else(|| OutsideError::wrong(base, format!("{INDEX} is none")))?;
                let mut shards: Vec<String> =
                    map.values().filter_map(Value::as_str).map(str::to_owned).collect();
                shards.sort();
                shards.dedup();
                names.extend(shards);
                names.push(INDEX.to_owned());
            }
            Err(OutsideError::Absent(_)) => names.push(ALONE.to_owned()),
            Err(error) => return Err(error),
        }
        let mut files = Vec::new();
        for path in names {
            if !super::listing::is_plain(&path) || path.contains('/') {
                return Err(OutsideError::wrong(
                    base,
                    format!("{INDEX} names a file elsewhere: {path}"),
                ));
            }
            let Some(headers) = self.head(&at(&path)?).await? else { continue };
            let (size, version) = (size_of(&headers), version_of(&headers));
            files.push(RemoteFile { path, size, check: Check::Nothing, version });
        }
        let files = choose(base.as_str(), files)?;
        Ok(Listing { files, pinned: base.as_str().trim_end_matches('/').to_owned() })
    }

    /// The head of a file, through redirects; none where there is no such file.
    async fn head(&self, url: &Url) -> Result<Option<HeaderMap>, OutsideError> {
        let heard = self.follow(&Method::HEAD, url, &HeaderMap::new()).await;
        match heard {
            Ok(heard) => Ok(Some(heard.headers)),
            Err(OutsideError::Absent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a file of a place lies, and what is sent along.
    pub(super) fn url(
        place: &Place,
        pinned: &str,
        path: &str,
        hub: &Hub,
    ) -> Result<Option<(Url, HeaderMap)>, OutsideError> {
        Ok(match place {
            Place::Hub { id, .. } => {
                let sha = pinned.rsplit_once('@').map_or("main", |(_, sha)| sha);
                let mut segments: Vec<&str> = id.split('/').collect();
                segments.extend(["resolve", sha]);
                segments.extend(path.split('/'));
                Some((hub.at(&segments)?, hub.headers()))
            }
            Place::Web(base) => {
                let url = base.join(path).map_err(|error| OutsideError::wrong(base, error))?;
                Some((url, HeaderMap::new()))
            }
            Place::Bucket(_) | Place::Sample => None,
        })
    }
}

/// A bucket of the operator's, with the operator's credentials: who may name it is the token file's matter.
async fn list_bucket(location: &str) -> Result<Listing, OutsideError> {
    let bucket = open_with(location, &WebOptions::default())
        .map_err(|error| OutsideError::wrong(location, error))?;
    let objects = bucket.list("").await.map_err(|error| {
        // What the bucket says is the operator's matter.
        tracing::warn!(location, %error, "a bucket is not listed");
        match error.is_transient() {
            true => OutsideError::passing(location, "the bucket does not answer"),
            false => OutsideError::wrong(
                location,
                "the bucket cannot be listed; the server's log says why",
            ),
        }
    })?;
    if objects.is_empty() {
        return Err(OutsideError::Absent(location.to_owned()));
    }
    if objects.len() > MAX_OBJECTS {
        return Err(OutsideError::wrong(location, format!("it has over {MAX_OBJECTS} objects")));
    }
    let time = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
    };
    let file = |object: crate::transport::ObjectInfo| RemoteFile {
        path: object.path.to_string(),
        size: Some(object.size),
        check: Check::Nothing,
        version: time(object.modified),
    };
    let files = choose(location, objects.into_iter().map(file).collect())?;
    Ok(Listing { files, pinned: location.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_places_or_are_refused() {
        let hub = |id: &str, revision: &str| Place::Hub {
            id: id.to_owned(),
            revision: revision.to_owned(),
        };
        assert_eq!(Place::parse("hf://org/m").unwrap(), hub("org/m", "main"));
        assert_eq!(Place::parse("hf://m@refs/pr/1").unwrap(), hub("m", "refs/pr/1"));
        assert_eq!(Place::parse("s3://b/a/b/").unwrap(), Place::Bucket("s3://b/a/b".to_owned()));
        assert!(
            matches!(Place::parse("https://host/x"), Ok(Place::Web(url)) if url.as_str() == "https://host/x/")
        );
        assert_eq!(Place::parse("sample://austen").unwrap(), Place::Sample);
        for bad in [
            "file:///etc/passwd",
            "file:x",
            "sample://",
            "sample://austen/",
            "sample://../x",
            "ftp://h/x",
            "memory://",
            "data:x",
            "hf://",
            "hf://a/b/c",
            "hf://../x",
            "hf://a/..",
            "hf://a@",
            "hf://a@../../x",
            "hf://a b",
            "s3://",
            "s3://b/../x",
            "s3://b/a//b",
            "s3://b?x",
            "s3://u@b/x",
            "https://host/x?sig=1",
            "https://host/#x",
            "https://",
            "gopher://h/",
            "HF",
            "s3://b/\nx",
            "s3://b/%2e%2e/x",
        ] {
            assert!(
                matches!(Place::parse(bad), Err(OutsideError::Refused(_))),
                "{bad}: {:?}",
                Place::parse(bad)
            );
        }
        for text in ["hf://a", "file:x", "FILE:///x", "data:x"] {
            assert!(is_elsewhere(text) || text.starts_with("FILE"), "{text}");
        }
    }
}
