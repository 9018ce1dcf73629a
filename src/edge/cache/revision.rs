//! Which version of an artifact a client means: a tag, or a commit, which is the beginning of its
//! manifest's identifier. Pure.

use crate::format::id::ManifestId;
use crate::format::name::Tag;

/// A commit of 40 digits, which is the beginning of a manifest's identifier.
pub(crate) const COMMIT: usize = 40;

/// The commit that an artifact is.
pub(crate) fn commit(id: ManifestId) -> String {
    id.to_hex().chars().take(COMMIT).collect()
}

/// What a revision means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Revision {
    Tag(Tag),
    Commit(String),
}

impl Default for Revision {
    fn default() -> Self {
        Self::Tag(Tag::default())
    }
}

impl Revision {
    /// Reads a revision; `refs/...` of the Hub's own names nothing here.
    pub(crate) fn parse(text: Option<&str>) -> Option<Self> {
        let text = text.unwrap_or("main");
        let is_commit = text.len() == COMMIT
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match is_commit {
            true => Some(Self::Commit(text.to_owned())),
            false => text.parse().ok().map(Self::Tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_tags_or_commits() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Revision::parse(None), Some(Revision::Tag(Tag::default())));
        assert_eq!(Revision::parse(Some("main")), Some(Revision::Tag(Tag::default())));
        assert_eq!(Revision::parse(Some(sha)), Some(Revision::Commit(sha.to_owned())));
        assert_eq!(Revision::parse(Some("refs/pr/1")), None);
    }
}
