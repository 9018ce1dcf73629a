//! Who may read what: bearer tokens with their repositories, and signed URLs. Pure.
//!
//! ```text
//! # a token file
//! reader sha256:<64 hex digits of the token's SHA-256> [repos=GLOB,GLOB]
//! operator sha256:<64 hex digits> admin
//! anonymous [repos=GLOB,GLOB]
//! ```
//!
//! No token stands in the file, only its SHA-256. Without `repos=` every repository counts; without an
//! `anonymous` line nobody reads without a token. A word that is not understood refuses the file.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};

use crate::edge::error::{SettingError, TokenError};
use crate::edge::http::signed_url::{self, UrlKey};
use crate::format::glob::Glob;
use crate::format::id::from_hex;
use crate::format::name::ArtifactName;

/// What every edge without tokens allows.
const OPEN: &str = "anyone";

/// What clients must show. By default nothing.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// What is cloned shares them: they are renewed for all.
    tokens: Option<Arc<RwLock<Tokens>>>,
    urls: Option<UrlKey>,
}

#[derive(Debug, Clone, Default)]
struct Tokens {
    by_digest: HashMap<[u8; 32], Arc<Grant>>,
    anonymous: Option<Arc<Grant>>,
}

/// What one token allows.
#[derive(Debug)]
struct Grant {
    name: String,
    /// `None`: every repository.
    repos: Option<Vec<Glob>>,
    admin: bool,
}

/// Whoever sent a request.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Open,
    Granted(Arc<Grant>),
    /// Holds a URL that was signed for this very path.
    Url,
    Nobody,
}

/// Why a request is refused before anything is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The token is none of ours.
    Token,
    /// The URL's signature is wrong.
    Forged,
    /// The URL's time is over.
    Expired,
}

impl Access {
    /// Reads a token file.
    ///
    /// # Errors
    ///
    /// If a line is not understood, or gives a token again.
    pub fn with_tokens(mut self, content: &str) -> Result<Self, SettingError> {
        self.tokens = Some(Arc::new(RwLock::new(Tokens::parse(content)?)));
        Ok(self)
    }

    /// Reads a token file in place of the one before, for every clone: what is no longer in it counts no more.
    ///
    /// # Errors
    ///
    /// If a line is not understood, or gives a token again: then those before still count.
    pub fn renew_tokens(&self, content: &str) -> Result<(), SettingError> {
        let renewed = Tokens::parse(content)?;
        if let Some(tokens) = &self.tokens {
            *tokens.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
        Ok(())
    }

    /// Lets URLs in that this key signed.
    pub fn with_url_key(mut self, key: UrlKey) -> Self {
        self.urls = Some(key);
        self
    }

    /// Who sends a request for `path` with this query and these headers, at `now` (Unix seconds).
    pub(crate) fn identify(
        &self,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        now: u64,
    ) -> Result<Who, Refused> {
        if let Some(key) = &self.urls
            && let Some(signature) = signed_url::of_query(query)
        {
            return match key.check(path, &signature, now) {
                signed_url::Check::Right => Ok(Who { name: "url".to_owned(), kind: Kind::Url }),
                signed_url::Check::Wrong => Err(Refused::Forged),
                signed_url::Check::Late => Err(Refused::Expired),
            };
        }
        let Some(tokens) = &self.tokens else {
            return Ok(Who { name: OPEN.to_owned(), kind: Kind::Open });
        };
        let tokens = tokens.read().unwrap_or_else(PoisonError::into_inner);
        let anonymous = || {
            let kind = tokens.anonymous.clone().map_or(Kind::Nobody, Kind::Granted);
            Who { name: "anonymous".to_owned(), kind }
        };
        let given = headers.get(AUTHORIZATION).and_then(|given| given.to_str().ok());
        let Some(given) = given else { return Ok(anonymous()) };
        let find =
            |token: &str| tokens.by_digest.get(<[u8; 32]>::from(Sha256::digest(token)).as_slice());
        let known = |grant: &Arc<Grant>| Who {
            name: grant.name.clone(),
            kind: Kind::Granted(grant.clone()),
        };
        if let Some(id) = s3_key_id(given) {
            // Clients of S3 send some key even for what anybody may read.
            return Ok(find(id).map_or_else(anonymous, known));
        }
        let token = given.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
        token.and_then(|(_, token)| find(token.trim())).map(known).ok_or(Refused::Token)
    }
}

impl Tokens {
    fn parse(content: &str) -> Result<Self, SettingError> {
        let mut tokens = Self::default();
        for (line, text) in (1..).zip(content.lines().map(str::trim)) {
            if !text.is_empty() && !text.starts_with('#') {
                tokens.line(text).map_err(|source| SettingError::Tokens { line, source })?;
            }
        }
        Ok(tokens)
    }

    fn line(&mut self, line: &str) -> Result<(), TokenError> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or_default().to_owned();
        let mut digest = None;
        let (mut repos, mut admin) = (None, false);
        for word in words {
            if let Some(hex) = word.strip_prefix("sha256:") {
                let hex = from_hex::<32>(hex);
                digest = Some(hex.ok_or(TokenError::Digest)?);
            } else if let Some(globs) = word.strip_prefix("repos=") {
                repos = Some(globs_of(globs)?);
            } else if word == "admin" {
                admin = true;
            } else {
                return Err(TokenError::Word(word.to_owned()));
            }
        }
        let grant = Arc::new(Grant { name: name.clone(), repos, admin });
        let again = match (name.as_str(), digest) {
            ("anonymous", None) if admin => return Err(TokenError::AnonymousAdmin),
            ("anonymous", None) => self.anonymous.replace(grant).is_some(),
            ("anonymous", Some(_)) => return Err(TokenError::AnonymousToken),
            (_, None) => return Err(TokenError::NoDigest(name)),
            (_, Some(digest)) => self.by_digest.insert(digest, grant).is_some(),
        };
        if again { Err(TokenError::Again) } else { Ok(()) }
    }
}

fn globs_of(list: &str) -> Result<Vec<Glob>, TokenError> {
    let glob = |glob: &str| match glob {
        "" => Err(TokenError::NoName),
        _ => {
            Glob::of_path(glob).map_err(|source| TokenError::Glob { glob: glob.to_owned(), source })
        }
    };
    list.split(',').map(glob).collect()
}

/// The key id of a request signed for S3, which here is a token: the signature is not looked at.
fn s3_key_id(authorization: &str) -> Option<&str> {
    if let Some(v2) = authorization.strip_prefix("AWS ") {
        return v2.split(':').next();
    }
    let rest = authorization.strip_prefix("AWS4-")?;
    let (_, credential) = rest.split_once("Credential=")?;
    credential.split(['/', ',', ' ']).next()
}

impl Who {
    /// What it is called in the log.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it showed anything.
    pub(crate) fn is_known(&self) -> bool {
        match &self.kind {
            Kind::Open | Kind::Url => true,
            Kind::Granted(grant) => grant.name != "anonymous",
            Kind::Nobody => false,
        }
    }

    /// Whether what it gets is for anybody, so that a cache between may hand it on.
    pub(crate) fn is_anybody(&self) -> bool {
        match &self.kind {
            Kind::Open | Kind::Nobody => true,
            Kind::Granted(grant) => grant.name == "anonymous",
            Kind::Url => false,
        }
    }

    /// Whether one client cannot be told from another by its name.
    pub(crate) fn is_shared(&self) -> bool {
        !matches!(&self.kind, Kind::Granted(grant) if grant.name != "anonymous")
    }

    /// Whether it may read the repository.
    pub(crate) fn may_read(&self, name: &ArtifactName) -> bool {
        match &self.kind {
            Kind::Open | Kind::Url => true,
            Kind::Granted(grant) => grant
                .repos
                .as_ref()
                .is_none_or(|repos| repos.iter().any(|glob| glob.matches(name.as_str()))),
            Kind::Nobody => false,
        }
    }

    /// Whether it may read whatever the store holds.
    pub(crate) fn may_read_all(&self) -> bool {
        match &self.kind {
            Kind::Open | Kind::Url => true,
            Kind::Granted(grant) => grant.repos.is_none(),
            Kind::Nobody => false,
        }
    }

    /// Whether it may fill and empty the cache.
    pub(crate) fn is_admin(&self) -> bool {
        matches!(&self.kind, Kind::Granted(grant) if grant.admin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::to_hex;
    use hyper::header::HeaderValue;

    fn line(name: &str, token: &str, more: &str) -> String {
        format!("{name} sha256:{} {more}\n", to_hex(&Sha256::digest(token)))
    }

    fn who(access: &Access, authorization: Option<&str>) -> Result<Who, Refused> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, HeaderValue::try_from(value).unwrap());
        }
        access.identify("/x", "", &headers, 0)
    }

    #[test]
    fn tokens_allow_what_their_line_says() {
        let file = format!(
            "# who\n\n{}{}anonymous repos=public/*\n",
            line("reader", "one", "repos=org/*,x"),
            line("operator", "two", "admin")
        );
        let access = Access::default().with_tokens(&file).unwrap();
        let name = |text: &str| text.parse::<ArtifactName>().unwrap();
        let repos = ["org/m", "x", "public/m", "other/m"];
        for (given, reads, all, admin, known) in [
            (None, [false, false, true, false], false, false, false),
            (Some("Bearer one"), [true, true, false, false], false, false, true),
            (Some("bearer  one"), [true, true, false, false], false, false, true),
            (Some("Bearer two"), [true; 4], true, true, true),
            (Some("AWS one:signature"), [true, true, false, false], false, false, true),
            (
                Some("AWS4-HMAC-SHA256 Credential=one/2026/us/s3/aws4_request, Signature=x"),
                [true, true, false, false],
                false,
                false,
                true,
            ),
            (
                Some("AWS4-HMAC-SHA256 Credential=no/x"),
                [false, false, true, false],
                false,
                false,
                false,
            ),
        ] {
            let who = who(&access, given).unwrap();
            assert_eq!(repos.map(|repo| who.may_read(&name(repo))), reads, "{given:?}");
            assert_eq!((who.may_read_all(), who.is_admin()), (all, admin), "{given:?}");
            assert_eq!(who.is_known(), known, "{given:?}");
        }
        for given in ["Bearer three", "Bearer", "Bearer ", "Basic one", "one", ""] {
            assert_eq!(who(&access, Some(given)).unwrap_err(), Refused::Token, "{given}");
        }
        let closed = Access::default().with_tokens(&line("a", "b", "")).unwrap();
        assert!(!who(&closed, None).unwrap().may_read(&name("x")));
        let open = who(&Access::default(), Some("Bearer any")).unwrap();
        assert!(open.may_read(&name("x")) && !open.is_admin());
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused() {
        let right = line("a", "b", "");
        for bad in [
            "a",
            "a sha256:00",
            "a sha256:zz repos=x",
            &line("a", "b", "repos="),
            &line("a", "b", "repos=x,,y"),
            &line("a", "b", "repo=x"),
            &line("a", "b", "Admin"),
            &line("a", "b", "repos=[x"),
            "anonymous admin",
            &line("anonymous", "b", ""),
            "anonymous\nanonymous",
            &format!("{right}{right}"),
        ] {
            let error = Access::default().with_tokens(bad).unwrap_err();
            assert!(error.to_string().starts_with("line "), "{bad}: {error}");
        }
    }
}
