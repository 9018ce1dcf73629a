//! From what each signature of an object is worth to one answer about the object.
//!
//! One valid signature suffices, and what was wrong with the others is still told. Without one,
//! the gravest reason speaks: an altered signature before a revoked key, before a stranger's.

use super::error::TrustError;
use super::key::KeyId;
use crate::format::name::ArtifactName;

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    Wrong(String),
    Revoked,
    Expired { when: u64 },
}

/// What one signature is worth.
pub(super) enum Verdict {
    Valid,
    Wrong(String),
    Revoked,
    KeyExpired { when: u64 },
    NotForName,
    Untrusted,
}

/// What is known of the signatures over one object.
pub(super) struct Verdicts {
    what: String,
    valid: Vec<KeyId>,
    rejected: Vec<(KeyId, Verdict)>,
}

impl Verdicts {
    pub(super) fn new(what: String) -> Self {
        Self { what, valid: Vec::new(), rejected: Vec::new() }
    }

    pub(super) fn add(&mut self, key: &KeyId, verdict: Verdict) {
        match verdict {
            Verdict::Valid => self.valid.push(key.clone()),
            verdict => self.rejected.push((key.clone(), verdict)),
        }
    }

    /// The keys that vouch for the object, with what was wrong with the rest; without any, the
    /// gravest reason why.
    pub(super) fn finish(
        self,
        name: Option<&ArtifactName>,
    ) -> Result<(Vec<KeyId>, Vec<TrustError>), TrustError> {
        let Self { what, mut valid, mut rejected } = self;
        valid.sort();
        valid.dedup();
        rejected.sort_by_key(|(_, verdict)| match verdict {
            Verdict::Wrong(_) => 0,
            Verdict::Revoked => 1,
            Verdict::KeyExpired { .. } => 2,
            Verdict::NotForName => 3,
            Verdict::Valid | Verdict::Untrusted => 4,
        });
        let untrusted: Vec<&str> = rejected
            .iter()
            .filter(|(_, verdict)| matches!(verdict, Verdict::Untrusted))
            .map(|(key, _)| key.as_str())
            .collect();
        let untrusted = untrusted.join(", ");
        let mut errors: Vec<TrustError> = Vec::new();
        for (key, verdict) in rejected {
            let what = what.clone();
            errors.push(match verdict {
                Verdict::Wrong(reason) => TrustError::WrongSignature { what, key, reason },
                Verdict::Revoked => TrustError::Revoked { what, key },
                Verdict::KeyExpired { when } => TrustError::KeyExpired { what, key, when },
                Verdict::NotForName => {
                    let name = match name {
                        Some(name) => format!("the name {name}"),
                        None => "artifacts addressed by `@` and an id".to_owned(),
                    };
                    TrustError::NameNotAllowed { what, key, name }
                }
                // One error for all of them, after the others.
                Verdict::Valid | Verdict::Untrusted => continue,
            });
        }
        if !untrusted.is_empty() {
            errors.push(TrustError::UntrustedKey { what: what.clone(), keys: untrusted });
        }
        if !valid.is_empty() {
            return Ok((valid, errors));
        }
        Err(match errors.into_iter().next() {
            Some(gravest) => gravest,
            None => TrustError::Unsigned { what },
        })
    }
}
