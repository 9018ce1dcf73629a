//! Artifacts as objects of S3: which bucket and key mean which file, and listings. Pure.
//!
//! Below `/s3`, `org/model` is `model/` in bucket `org`, and a name without an organization lies in
//! bucket `_`. The key `model/PATH` is a file of tag `latest`, `model:TAG/PATH` of that tag, and
//! `model@COMMIT/PATH` of the manifest whose identifier begins with those 40 digits.

use std::time::SystemTime;

use crate::edge::cache::revision::{COMMIT, Revision};
use crate::edge::http::request::decode;
use crate::format::name::ArtifactName;

/// Where the interface begins.
pub(crate) const PREFIX: &str = "/s3";
/// The bucket of names without an organization.
const LONE: &str = "_";
/// Keys of one listing.
const MAX_KEYS: usize = 1000;
/// What S3 says of buckets and objects beside what they hold.
const SUBRESOURCES: [&str; 30] = [
    "accelerate",
    "acl",
    "analytics",
    "attributes",
    "cors",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "retention",
    "session",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versioning",
    "versions",
    "website",
];

/// What a path below [`PREFIX`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// All buckets.
    Service,
    Bucket(String),
    Object {
        bucket: String,
        key: String,
    },
}

impl Target {
    /// Reads the path of a request, still encoded.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(PREFIX)?;
        let rest = match rest.strip_prefix('/') {
            None if rest.is_empty() => return Some(Self::Service),
            rest => rest?,
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let (bucket, key) = (decode(bucket)?, decode(key)?);
        Some(match (bucket.is_empty(), key.is_empty()) {
            (true, true) => Self::Service,
            (true, false) => return None,
            (false, true) => Self::Bucket(bucket),
            (false, false) => Self::Object { bucket, key },
        })
    }
}

/// The bucket of a name, and what its keys begin with.
pub(crate) fn place(name: &ArtifactName) -> (&str, &str) {
    name.as_str().split_once('/').unwrap_or((LONE, name.as_str()))
}

/// What the names of a bucket begin with, and others may.
pub(crate) fn names(bucket: &str) -> String {
    match bucket {
        LONE => String::new(),
        org => format!("{org}/"),
    }
}

/// Where the file of a key lies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: ArtifactName,
    pub(crate) revision: Revision,
    pub(crate) path: String,
}

impl Key {
    pub(crate) fn parse(bucket: &str, key: &str) -> Option<Self> {
        let (model, path) = key.split_once('/')?;
        let (model, revision) = split(model)?;
        let name = match bucket {
            LONE => model.to_owned(),
            org => format!("{org}/{model}"),
        };
        Some(Self { name: name.parse().ok()?, revision, path: path.to_owned() })
    }
}

/// Takes `model`, `model:TAG` or `model@COMMIT` apart.
fn split(text: &str) -> Option<(&str, Revision)> {
    if let Some((model, commit)) = text.split_once('@') {
        let revision = Revision::parse(Some(commit))?;
        return (commit.len() == COMMIT && matches!(revision, Revision::Commit(_)))
            .then_some((model, revision));
    }
    let (model, tag) = text.split_once(':').unwrap_or((text, "latest"));
    Some((model, Revision::Tag(tag.parse().ok()?)))
}

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) etag: String,
    /// When its artifact was published.
    pub(crate) modified: SystemTime,
}

/// What of a bucket or an object a query asks for, if not for itself: `?acl`, `?location`...
pub(crate) fn subresource(query: &str) -> Option<String> {
    let mut names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name);
    names.find(|name| SUBRESOURCES.contains(&&**name)).map(|name| name.into_owned())
}

/// What a listing asks for, of either version: the first one goes on behind a key, the second by a token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) is_v2: bool,
    pub(crate) prefix: String,
    pub(crate) delimiter: Option<String>,
    /// Keys and common prefixes up to here were listed.
    after: String,
    pub(crate) token: Option<String>,
    /// Of the second version.
    pub(crate) start_after: Option<String>,
    /// Of the first version.
    pub(crate) marker: Option<String>,
    pub(crate) max: usize,
    pub(crate) is_url: bool,
}

impl Query {
    /// Reads a query string; the error names a parameter that makes no sense.
    pub(crate) fn parse(query: &str) -> Result<Self, &'static str> {
        let mut asked = Self { max: MAX_KEYS, ..Self::default() };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "list-type" if value == "2" => asked.is_v2 = true,
                "list-type" => return Err("list-type"),
                "marker" => asked.marker = Some(value.into_owned()),
                "prefix" => asked.prefix = value.into_owned(),
                "delimiter" if !value.is_empty() => asked.delimiter = Some(value.into_owned()),
                "max-keys" => {
                    let max: usize = value.parse().map_err(|_| "max-keys")?;
                    asked.max = max.min(MAX_KEYS);
                }
                "continuation-token" => {
                    asked.after = unhex(&value).ok_or("continuation-token")?;
                    asked.token = Some(value.into_owned());
                }
                "start-after" => asked.start_after = Some(value.into_owned()),
                "encoding-type" if value == "url" => asked.is_url = true,
                "encoding-type" => return Err("encoding-type"),
                _ => {}
            }
        }
        if !asked.is_v2 {
            asked.after = asked.marker.clone().unwrap_or_default();
        } else if asked.token.is_none() {
            asked.after = asked.start_after.clone().unwrap_or_default();
        }
        Ok(asked)
    }
}

fn unhex(text: &str) -> Option<String> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let byte = |pair: &[u32]| pair.iter().fold(0, |byte, digit| byte * 16 + digit);
    let bytes = digits.chunks(2).map(|pair| u8::try_from(byte(pair)));
    String::from_utf8(bytes.collect::<Result<_, _>>().ok()?).ok()
}

/// What a listing makes of all keys that begin so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Below {
    /// None of them is listed.
    Nothing,
    /// They are one common prefix, wherever they end.
    Common,
    /// Each has to be looked at.
    Each,
    /// The page was full before.
    Full,
}

/// One page of a listing, filled in the order of keys.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) query: Query,
    pub(crate) entries: Vec<Entry>,
    pub(crate) prefixes: Vec<String>,
    /// What was listed last.
    pub(crate) last: String,
    pub(crate) truncated: bool,
}

impl Page {
    pub(crate) fn new(query: Query) -> Self {
        let (entries, prefixes, last) = (Vec::new(), Vec::new(), String::new());
        Self { query, entries, prefixes, last, truncated: false }
    }

    /// What is to be done about the keys that begin with `root`.
    pub(crate) fn below(&self, root: &str) -> Below {
        let prefix = &self.query.prefix;
        if self.truncated {
            return Below::Full;
        }
        if prefix.starts_with(root) {
            return Below::Each;
        }
        let Some(rest) = root.strip_prefix(prefix.as_str()) else { return Below::Nothing };
        match &self.query.delimiter {
            Some(delimiter) if rest.contains(delimiter.as_str()) => Below::Common,
            _ if self.query.after.as_str() > root && !self.query.after.starts_with(root) => {
                Below::Nothing
            }
            _ => Below::Each,
        }
    }

    /// Looks at the next key; false once the page is full.
    pub(crate) fn push(&mut self, entry: Entry) -> bool {
        let Some(rest) = entry.key.strip_prefix(self.query.prefix.as_str()) else { return true };
        let common = self.query.delimiter.as_ref().and_then(|delimiter| {
            let end = rest.find(delimiter.as_str())? + delimiter.len();
            entry.key.get(..self.query.prefix.len() + end).map(str::to_owned)
        });
        let listed = common.as_ref().unwrap_or(&entry.key);
        let again = common.is_some() && common.as_ref() == self.prefixes.last();
        if again || *listed <= self.query.after {
            return true;
        }
        if self.entries.len() + self.prefixes.len() >= self.query.max {
            // A page of no keys has no next one.
            self.truncated = self.query.max > 0;
            return false;
        }
        self.last.clone_from(listed);
        match common {
            Some(common) => self.prefixes.push(common),
            None => self.entries.push(entry),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn keys_mean_files() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let of = |bucket: &str, key: &str| {
            let key = Key::parse(bucket, key)?;
            Some(format!("{} {:?} {}", key.name, key.revision, key.path))
        };
        for (bucket, key, expected) in [
            ("org", "m/a/b.json", Some("org/m Tag(\"latest\") a/b.json".to_owned())),
            ("_", "m/x", Some("m Tag(\"latest\") x".to_owned())),
            ("org", "m:v1/x", Some("org/m Tag(\"v1\") x".to_owned())),
            ("org", &format!("m@{sha}/x"), Some(format!("org/m Commit({sha:?}) x"))),
            ("org", "m@main/x", None),
            ("org", "m:/x", None),
            ("org", "m", None),
            ("o:g", "m/x", None),
            ("..", "m/x", None),
        ] {
            assert_eq!(of(bucket, key), expected, "{bucket} {key}");
        }
        for (path, expected) in [
            ("/s3", Some(Target::Service)),
            ("/s3/", Some(Target::Service)),
            ("/s3/b", Some(Target::Bucket("b".into()))),
            ("/s3/b/", Some(Target::Bucket("b".into()))),
            ("/s3/b/k%20%2Fx", Some(Target::Object { bucket: "b".into(), key: "k /x".into() })),
            ("/s3//k", None),
            ("/s3x", None),
            ("/s3/b/%zz", None),
        ] {
            assert_eq!(Target::parse(path), expected, "{path}");
        }
    }

    /// All pages of a listing of `keys`.
    fn pages(keys: &[&str], query: &str) -> Vec<(Vec<String>, Vec<String>)> {
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let mut page = Page::new(Query::parse(&format!("list-type=2&{query}{token}")).unwrap());
            for key in keys {
                let entry = Entry {
                    key: (*key).to_owned(),
                    size: 1,
                    etag: "e".into(),
                    modified: UNIX_EPOCH,
                };
                if !page.push(entry) {
                    break;
                }
            }
            let listed = page.entries.iter().map(|entry| entry.key.clone()).collect();
            all.push((listed, page.prefixes.clone()));
            if !page.truncated {
                return all;
            }
            token =
                format!("&continuation-token={}", crate::format::id::to_hex(page.last.as_bytes()));
        }
    }

    #[test]
    fn listings_are_cut_and_go_on() {
        let keys = ["m/a", "m/b/1", "m/b/2", "m/c/1", "m/d", "n/a"];
        let of = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        assert_eq!(pages(&keys, "prefix=m/"), [(of(&keys[..5]), of(&[]))]);
        assert_eq!(
            pages(&keys, "prefix=m/&delimiter=/"),
            [(of(&["m/a", "m/d"]), of(&["m/b/", "m/c/"]))]
        );
        assert_eq!(
            pages(&keys, "prefix=m/&delimiter=/&max-keys=2"),
            [(of(&["m/a"]), of(&["m/b/"])), (of(&["m/d"]), of(&["m/c/"]))]
        );
        assert_eq!(pages(&keys, "delimiter=/"), [(of(&[]), of(&["m/", "n/"]))]);
        assert_eq!(pages(&keys, "start-after=m/c"), [(of(&["m/c/1", "m/d", "n/a"]), of(&[]))]);
        assert_eq!(pages(&keys, "max-keys=0"), [(of(&[]), of(&[]))]);
        assert_eq!(pages(&keys, "max-keys=1&prefix=m/b").len(), 2);
        let page = Page::new(Query::parse("marker=m/c&start-after=z").unwrap());
        assert_eq!((page.query.after.as_str(), page.query.is_v2), ("m/c", false));
        assert_eq!(subresource("prefix=acl&location"), Some("location".to_owned()));
        assert_eq!(subresource("prefix=acl&list-type=2"), None);
        for bad in
            ["list-type=3", "max-keys=x", "max-keys=-1", "continuation-token=zz", "encoding-type=x"]
        {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_asked_is_read(path in "(/s3)?[ -~]{0,40}", query in "[ -~]{0,60}") {
            if let Some(Target::Object { bucket, key }) = Target::parse(&path)
                && let Some(key) = Key::parse(&bucket, &key)
            {
                // What names a file names a repository.
                proptest::prop_assert!(!place(&key.name).0.is_empty());
            }
            if let Ok(query) = Query::parse(&query) {
                proptest::prop_assert!(query.max <= MAX_KEYS);
            }
        }
    }
}
