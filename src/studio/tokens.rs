//! Who may do what: bearer tokens, the tenants that they are of, and their roles. Pure.
//!
//! ```text
//! # NAME sha256:<64 hex digits of the token's SHA-256> tenant=T role=viewer|submitter|operator
//! #      [names=GLOB,...] [repos=GLOB,...] [sources=PREFIX,...] [running=N] [active=N] [daily=N]
//! alice sha256:... tenant=research role=submitter names=research/* running=2
//! root sha256:... tenant=ops role=operator
//! ```
//!
//! `names` are the artifacts that its jobs may write, `repos` those that it may read, each all of them if left out.
//! `sources` are how addresses of models elsewhere may begin: `hf://` and `https://` if left out, as buckets are read
//! with the server's own credentials.
//! A viewer sees its tenant's jobs, a submitter also makes and ends them, an operator does so for every tenant. No
//! token stands in the file, and a word that is not understood refuses it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use sha2::{Digest as _, Sha256};

use crate::format::glob::Glob;
use crate::format::id::from_hex;
use crate::format::name::ArtifactName;
use crate::jobs::Quota;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Viewer,
    Submitter,
    Operator,
}

impl Role {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Operator => "operator",
        }
    }
}

/// Whoever sends requests.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) name: String,
    pub(super) tenant: String,
    pub(super) role: Role,
    names: Option<Vec<Glob>>,
    repos: Option<Vec<Glob>>,
    sources: Vec<String>,
    pub(super) quota: Quota,
}

/// What addresses of models elsewhere begin with where nothing is said of a token.
const SOURCES: [&str; 2] = ["hf://", "https://"];
/// For whoever works alone on the machine, with credentials that are his own.
const ALL_SOURCES: [&str; 6] = ["hf://", "https://", "http://", "s3://", "gs://", "az://"];

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

impl Caller {
    /// Who works alone, on the machine itself.
    fn local() -> Self {
        Self {
            name: "local".to_owned(),
            tenant: super::outside::LOCAL.to_owned(),
            role: Role::Operator,
            names: None,
            repos: None,
            sources: owned(&ALL_SOURCES),
            quota: Quota::default(),
        }
    }

    /// Whether its jobs may write this artifact.
    pub(super) fn may_write(&self, name: &ArtifactName) -> bool {
        allows(self.names.as_deref(), name)
    }

    /// Whether it may read this artifact.
    pub(super) fn may_read(&self, name: &ArtifactName) -> bool {
        allows(self.repos.as_deref(), name)
    }

    /// Whether its jobs may read a model from there. A folder stands for all below it, and for no other one whose name
    /// begins alike.
    pub(super) fn may_fetch(&self, address: &str) -> bool {
        self.sources.iter().any(|own| {
            let rest = address.strip_prefix(own.trim_end_matches('*'));
            rest.is_some_and(|rest| {
                own.ends_with(['/', '*']) || rest.is_empty() || rest.starts_with(['/', '@'])
            })
        })
    }

    /// Whether every artifact is for it, so that ids need no name.
    pub(super) const fn reads_all(&self) -> bool {
        self.repos.is_none()
    }

    /// Whether it sees the jobs of this tenant.
    pub(super) fn sees(&self, tenant: &str) -> bool {
        self.role == Role::Operator || self.tenant == tenant
    }
}

fn allows(globs: Option<&[Glob]>, name: &ArtifactName) -> bool {
    globs.is_none_or(|globs| globs.iter().any(|glob| glob.matches(name.as_str())))
}

/// The tokens of a file; or none, and whoever reaches the server is its operator.
#[derive(Debug)]
pub struct Tokens {
    kept: Option<RwLock<Kept>>,
    local: Arc<Caller>,
}

/// What a file says.
#[derive(Debug, Default)]
struct Kept {
    by_digest: HashMap<[u8; 32], Arc<Caller>>,
    /// The same tokens as an edge reads them.
    edge: String,
}

/// What is wrong with a token file.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {why}")]
#[non_exhaustive]
pub struct TokensError {
    line: usize,
    why: String,
}

impl Tokens {
    /// Without tokens.
    pub fn none() -> Self {
        Self { kept: None, local: Arc::new(Caller::local()) }
    }

    /// Reads a token file.
    ///
    /// # Errors
    /// If a line is not understood, or gives a token again.
    pub fn parse(content: &str) -> Result<Self, TokensError> {
        Ok(Self { kept: Some(RwLock::new(Kept::parse(content)?)), ..Self::none() })
    }

    /// Reads the file again: what is no longer in it counts no more. Gives the same tokens as an edge's file has them.
    ///
    /// # Errors
    /// If a line is not understood, or gives a token again: then those before still count.
    pub fn renew(&self, content: &str) -> Result<String, TokensError> {
        let renewed = Kept::parse(content)?;
        let edge = renewed.edge.clone();
        if let Some(kept) = &self.kept {
            *kept.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
        Ok(edge)
    }

    fn kept(&self) -> Option<RwLockReadGuard<'_, Kept>> {
        Some(self.kept.as_ref()?.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a token must be shown.
    pub const fn are_needed(&self) -> bool {
        self.kept.is_some()
    }

    /// The same tokens, as an edge's file has them.
    pub fn of_edge(&self) -> Option<String> {
        Some(self.kept()?.edge.clone())
    }

    /// Whose tokens there are, by their digests' order of no meaning.
    pub(super) fn callers(&self) -> Vec<Arc<Caller>> {
        self.kept().map(|kept| kept.by_digest.values().cloned().collect()).unwrap_or_default()
    }

    /// Who shows this `Authorization`.
    pub(super) fn identify(&self, authorization: Option<&str>) -> Option<Arc<Caller>> {
        let Some(kept) = self.kept() else { return Some(self.local.clone()) };
        let (kind, token) = authorization?.split_once(' ')?;
        if !kind.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let digest = <[u8; 32]>::from(Sha256::digest(token.trim()));
        kept.by_digest.get(digest.as_slice()).cloned()
    }
}

impl Kept {
    fn parse(content: &str) -> Result<Self, TokensError> {
        let (mut by_digest, mut edge) = (HashMap::new(), String::new());
        for (line, text) in (1..).zip(content.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let wrong = |why: String| TokensError { line, why };
            let (digest, caller, of_edge) = parse(text).map_err(wrong)?;
            edge.push_str(&of_edge);
            if by_digest.insert(digest, Arc::new(caller)).is_some() {
                return Err(wrong("this token stands in the file before".to_owned()));
            }
        }
        Ok(Self { by_digest, edge })
    }
}

fn parse(line: &str) -> Result<([u8; 32], Caller, String), String> {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or_default().to_owned();
    let (mut digest, mut tenant, mut role) = (None, None, None);
    let (mut names, mut repos, mut quota) = (None, None, Quota::default());
    let mut sources = owned(&SOURCES);
    let mut of_edge = name.clone();
    for word in words {
        if let Some(hex) = word.strip_prefix("sha256:") {
            let parsed = from_hex::<32>(hex);
            digest = Some(parsed.ok_or("sha256: expected 64 hex digits of the token's SHA-256")?);
            of_edge = format!("{of_edge} {word}");
            continue;
        }
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word}: not understood"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{word}: expected a number"));
        match key {
            "tenant" if is_tenant(value) => tenant = Some(value.to_owned()),
            "tenant" => return Err(format!("{word}: 1 to 64 letters, digits, - and _")),
            "role" => {
                let all = [Role::Viewer, Role::Submitter, Role::Operator];
                let found = all.into_iter().find(|role| role.name() == value);
                role =
                    Some(found.ok_or_else(|| {
                        format!("{word}: there are viewer, submitter and operator")
                    })?);
            }
            "names" => names = Some(globs(value)?),
            "repos" => {
                repos = Some(globs(value)?);
                of_edge = format!("{of_edge} {word}");
            }
            "sources" => {
                sources = value.split(',').map(str::to_owned).collect();
                if sources.iter().any(|own| !own.contains("://")) {
                    return Err(format!(
                        "{word}: expected how addresses begin, such as s3://bucket/folder/"
                    ));
                }
            }
            "running" => quota.running = number()?.into(),
            "active" => quota.active = number()?.into(),
            "daily" => quota.daily = number()?.into(),
            _ => return Err(format!("{word}: not understood")),
        }
    }
    let digest = digest.ok_or("no sha256:")?;
    let tenant = tenant.ok_or("no tenant=")?;
    let role = role.ok_or("no role=")?;
    if role == Role::Operator {
        of_edge.push_str(" admin");
    }
    of_edge.push('\n');
    Ok((digest, Caller { name, tenant, role, names, repos, sources, quota }, of_edge))
}

fn is_tenant(text: &str) -> bool {
    let right = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=64).contains(&text.len()) && text.bytes().all(right)
}

fn globs(list: &str) -> Result<Vec<Glob>, String> {
    let glob = |glob: &str| match glob {
        "" => Err("an empty name".to_owned()),
        _ => Glob::of_path(glob).map_err(|error| format!("{glob}: {error}")),
    };
    list.split(',').map(glob).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(token: &str, rest: &str) -> String {
        let hex: String = Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("someone sha256:{hex} {rest}\n")
    }

    #[test]
    fn tokens_are_of_tenants_and_roles() {
        let file = line("a", "tenant=t role=submitter names=t/* running=2")
            + "# a comment\n\n"
            + &line("b", "tenant=u role=operator repos=x/*");
        let tokens = Tokens::parse(&file).unwrap();
        let caller = tokens.identify(Some("Bearer a")).unwrap();
        assert_eq!((&*caller.tenant, caller.role, caller.quota.running), ("t", Role::Submitter, 2));
        assert!(
            caller.may_write(&"t/m".parse().unwrap()) && !caller.may_write(&"u/m".parse().unwrap())
        );
        assert!(caller.sees("t") && !caller.sees("u") && caller.reads_all());
        let caller = tokens.identify(Some("bearer b")).unwrap();
        assert!(caller.sees("t") && !caller.may_read(&"t/m".parse().unwrap()));
        for wrong in [None, Some("a"), Some("Bearer c"), Some("Basic a"), Some("Bearer ")] {
            assert!(tokens.identify(wrong).is_none(), "{wrong:?}");
        }
        assert!(tokens.of_edge().unwrap().lines().nth(1).unwrap().ends_with("repos=x/* admin"));
        let local = Tokens::none().identify(None).unwrap();
        assert!(local.may_fetch("s3://b/x") && !local.may_fetch("file:///x"));
        let file = line("c", "tenant=t role=submitter sources=s3://b/one,hf://org/,s3://c/*");
        let caller = Tokens::parse(&file).unwrap().identify(Some("Bearer c")).unwrap();
        for (address, may) in [
            ("s3://b/one", true),
            ("s3://b/one/x", true),
            ("s3://b/one2", false),
            ("s3://b/two", false),
            ("hf://org/m@v", true),
            ("hf://other/m", false),
            ("https://x", false),
            ("s3://c/x", true),
        ] {
            assert_eq!(caller.may_fetch(address), may, "{address}");
        }
        let caller = Tokens::parse(&line("d", "tenant=t role=submitter"))
            .unwrap()
            .identify(Some("Bearer d"))
            .unwrap();
        assert!(
            caller.may_fetch("hf://a/b")
                && caller.may_fetch("https://x/")
                && !caller.may_fetch("s3://b/x")
        );
    }

    #[test]
    fn a_line_that_is_not_understood_refuses_the_file() {
        for rest in
            ["role=viewer", "tenant=t", "tenant=t role=king", "tenant=../x role=viewer", "x", "x=y"]
        {
            assert!(Tokens::parse(&line("a", rest)).is_err(), "{rest}");
        }
        let twice = line("a", "tenant=t role=viewer").repeat(2);
        assert!(Tokens::parse(&twice).unwrap_err().to_string().starts_with("line 2"));
    }
}
