//! Names as folders: `org/model/tag`. Pure.
//!
//! A folder may be the first segment of names and a name itself. Where a tag is called as a model is, the model has
//! the name and the tag is `@tag`, as which every tag is found.

use std::collections::BTreeSet;

use crate::format::name::{ArtifactName, Tag};

/// What a name in a folder may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A folder of names, if any lies in it.
    Folder(String),
    /// A tag of the name that the folder is.
    Tag(ArtifactName, Tag),
}

/// What lies in a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// Whether it is an artifact, not a folder of names.
    pub(crate) is_artifact: bool,
}

/// What `name` in the folder `folder` may mean, what comes first first.
pub(crate) fn meanings(folder: &str, name: &str) -> Vec<Meaning> {
    let own: Option<ArtifactName> = folder.parse().ok();
    let tag = |text: &str| {
        let (own, tag) = (own.clone()?, text.parse().ok()?);
        Some(Meaning::Tag(own, tag))
    };
    if let Some(text) = name.strip_prefix('@') {
        return tag(text).into_iter().collect();
    }
    let below = below(folder, name);
    let below = below.parse::<ArtifactName>().is_ok().then_some(Meaning::Folder(below));
    below.into_iter().chain(tag(name)).collect()
}

/// The folder `name` in `folder`.
fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Whether any of these names makes the folder.
pub(crate) fn has_folder<'a>(
    folder: &str,
    names: impl IntoIterator<Item = &'a (ArtifactName, Tag)>,
) -> bool {
    names.into_iter().any(|(name, _)| {
        let rest = name.as_str().strip_prefix(folder);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || folder.is_empty())
    })
}

/// What lies in `folder`, of these names.
pub(crate) fn entries<'a>(
    folder: &str,
    names: impl IntoIterator<Item = &'a (ArtifactName, Tag)>,
) -> Vec<Entry> {
    let (mut folders, mut tags) = (BTreeSet::new(), BTreeSet::new());
    for (name, tag) in names {
        let rest = match folder {
            "" => Some(name.as_str()),
            folder => name.as_str().strip_prefix(folder).and_then(|rest| match rest {
                "" => Some(rest),
                rest => rest.strip_prefix('/'),
            }),
        };
        match rest {
            None => {}
            Some("") => {
                tags.insert(tag.as_str().to_owned());
            }
            Some(rest) => {
                folders.insert(rest.split('/').next().unwrap_or(rest).to_owned());
            }
        }
    }
    let tags: Vec<_> = tags
        .into_iter()
        .map(|tag| if folders.contains(&tag) { format!("@{tag}") } else { tag })
        .map(|name| Entry { name, is_artifact: true })
        .collect();
    let folders = folders.into_iter().map(|name| Entry { name, is_artifact: false });
    folders.chain(tags).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<(ArtifactName, Tag)> {
        let split = |text: &&str| {
            let (name, tag) = text.split_once(':').unwrap();
            (name.parse().unwrap(), tag.parse().unwrap())
        };
        texts.iter().map(split).collect()
    }

    fn list(folder: &str, texts: &[&str]) -> Vec<String> {
        let show = |entry: Entry| match entry.is_artifact {
            true => entry.name,
            false => entry.name + "/",
        };
        entries(folder, &names(texts)).into_iter().map(show).collect()
    }

    #[test]
    fn names_are_folders() {
        let all = ["a:latest", "a:b", "a/b:v1", "a/bc:v1", "ab:x"];
        assert_eq!(list("", &all), ["a/", "ab/"]);
        assert_eq!(list("a", &all), ["b/", "bc/", "@b", "latest"]);
        assert_eq!(list("a/b", &all), ["v1"]);
        assert!(list("a/b/v1", &all).is_empty() && list("c", &all).is_empty());
        let there = |folder| has_folder(folder, &names(&all));
        assert!(
            there("") && there("a") && there("a/b") && there("ab") && !there("a/") && !there("b")
        );
        assert!(!has_folder("", &[]));
    }

    #[test]
    fn what_a_name_may_mean() {
        let tag = |name: &str, tag: &str| Meaning::Tag(name.parse().unwrap(), tag.parse().unwrap());
        assert_eq!(meanings("", "a"), [Meaning::Folder("a".into())]);
        assert_eq!(meanings("a", "b"), [Meaning::Folder("a/b".into()), tag("a", "b")]);
        assert_eq!(meanings("a/b", "main"), [tag("a/b", "latest")]);
        assert_eq!(meanings("a", "@b"), [tag("a", "b")]);
        for (folder, name) in [("", "@b"), ("", ".git"), ("a", ".x"), ("", "index"), ("a/b", "a b")]
        {
            assert!(meanings(folder, name).is_empty(), "{folder} {name}");
        }
    }

    #[test]
    fn whatever_is_listed_is_found() {
        let all = ["a:latest", "a:b", "a/b:v1", "c/d:e", "c:d"];
        for folder in ["", "a", "a/b", "c", "c/d"] {
            for entry in entries(folder, &names(&all)) {
                let is_there = |meaning: &Meaning| match meaning {
                    Meaning::Folder(folder) => has_folder(folder, &names(&all)),
                    Meaning::Tag(name, tag) => names(&all).contains(&(name.clone(), tag.clone())),
                };
                let found = meanings(folder, &entry.name).into_iter().find(is_there).unwrap();
                assert_eq!(
                    matches!(found, Meaning::Tag(..)),
                    entry.is_artifact,
                    "{folder} {entry:?}"
                );
            }
        }
    }
}
