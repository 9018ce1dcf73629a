//! Routes of the Hub, and what is none.

use super::*;

#[test]
fn requests_are_read_before_they_are_decoded() {
    let parse = |path: &str| Ask::parse(path).map(|a| (a.repo, a.revision, a.what));
    let (m, r) = ("org/m".to_owned(), |r: &str| Some(r.to_owned()));
    for (path, expected) in [
        ("/api/models/org/m", Some((m.clone(), None, What::Info))),
        ("/api/models/m", Some(("m".into(), None, What::Info))),
        ("/api/models/org/m/revision/main", Some((m.clone(), r("main"), What::Info))),
        ("/api/models/org/m/revision/a%2Fb", Some((m.clone(), r("a/b"), What::Info))),
        ("/api/models/org/m/tree/main", Some((m.clone(), r("main"), What::Tree("".into())))),
        (
            "/api/models/org/m/tree/main/a/b%20c",
            Some((m.clone(), r("main"), What::Tree("a/b c".into()))),
        ),
        ("/api/models/org/m/paths-info/v1", Some((m.clone(), r("v1"), What::PathsInfo))),
        ("/api/models/org/m/refs", Some((m.clone(), None, What::Refs))),
        ("/api/models/org/m/auth-check", Some((m.clone(), None, What::AuthCheck))),
        ("/api/models/org/m/commits/main", Some((m.clone(), r("main"), What::Commits))),
        (
            "/org/m/resolve/main/a/b.json",
            Some((m.clone(), r("main"), What::Resolve("a/b.json".into()))),
        ),
        ("/m/resolve/main/x", Some(("m".into(), r("main"), What::Resolve("x".into())))),
        ("/org/m/resolve/main", None),
        ("/org/m/resolve//x", None),
        ("/org/m/resolve/main/%zz", None),
        ("/org/m/resolve/main/%00", Some((m, r("main"), What::Resolve("\0".into())))),
        ("/api/models/", None),
        ("/packs/00", None),
        ("/refs/org/resolve/@latest", None),
    ] {
        assert_eq!(parse(path), expected, "{path}");
    }
}

#[test]
fn listings_are_pages_in_order() {
    let names: Vec<ArtifactName> =
        ["a", "b/Chat-1", "b/base", "b/chat-2", "c/chat"].map(|n| n.parse().unwrap()).into();
    let page = |query: &str| {
        let (page, more) = Listing::parse(query).page(names.iter());
        (page.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" "), more)
    };
    for (query, expected, more) in [
        ("", "a b/Chat-1 b/base b/chat-2 c/chat", false),
        ("limit=2", "a b/Chat-1", true),
        ("limit=2&cursor=b%2FChat-1", "b/base b/chat-2", true),
        ("limit=5", "a b/Chat-1 b/base b/chat-2 c/chat", false),
        ("limit=0", "", false),
        ("limit=x&search=CHAT", "b/Chat-1 b/chat-2 c/chat", false),
        ("author=b", "b/Chat-1 b/base b/chat-2", false),
        ("author=b&search=chat&limit=1&sort=downloads", "b/Chat-1", true),
        ("author=nobody", "", false),
        ("filter=text-generation", "", false),
        ("filter=tenpak&limit=1&cursor=c", "c/chat", false),
    ] {
        assert_eq!(page(query), (expected.to_owned(), more), "{query}");
    }
    assert_eq!(
        Listing::after("limit=2&cursor=a&search=x+y", "b/c"),
        "limit=2&search=x+y&cursor=b%2Fc"
    );
}

#[test]
fn what_is_of_no_one_repository_is_told_apart() {
    for (path, writes, expected) in [
        ("/api/models", false, Some(Wide::Models)),
        ("/api/whoami-v2", false, Some(Wide::WhoAmI)),
        ("/api/repos/create", true, Some(Wide::Write)),
        ("/api/models/org/m/commit/main", true, Some(Wide::Write)),
        ("/org/m.git/info/lfs/objects/batch", true, Some(Wide::Write)),
        ("/api/models/org/m/paths-info/main", true, None),
        ("/api/models/org/m", false, None),
        ("/packs/00", true, None),
    ] {
        assert_eq!(Wide::parse(path, writes), expected, "{path}");
    }
}

#[test]
fn pointers_and_blobs_are_gits() {
    // git hash-object of these contents.
    assert_eq!(git_blob(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
    assert_eq!(git_blob(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
    assert_eq!(
        form_paths("paths=a&paths=b%2Fc+d&expand=false"),
        ["a".to_owned(), "b/c d".to_owned()]
    );
}
