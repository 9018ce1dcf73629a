//! Trust decisions: who counts for which name, until when, after which rotation or revocation; and
//! the memory of ref versions, under concurrent writers.
//!
//! One file: every case is a few keys, and who counts afterwards.

#![cfg(feature = "cli")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use tenpak::format::id::{ManifestId, to_hex};
use tenpak::format::name::{ArtifactName, Tag};
use tenpak::format::refs::{IndexBody, IndexEntry, RefBody};
use tenpak::trust::{
    Envelope, KeyId, ManifestTrust, Method, SeenRefs, SeenState, Signer, TrustError, TrustSet,
    Verified, keygen,
};

const MANIFEST: &[u8] = b"manifest";
const NOW: u64 = 1_000_000;

fn secret(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn signer(seed: u8) -> Signer {
    Signer::Ed25519(secret(seed))
}

fn id() -> ManifestId {
    ManifestId::of(MANIFEST)
}

fn name(text: &str) -> ArtifactName {
    text.parse().unwrap()
}

fn trust(keys: &[(u8, Option<&[&str]>)]) -> TrustSet {
    let mut set = TrustSet::default();
    for (seed, names) in keys {
        let names = names.map(|names| names.iter().map(|&name| name.to_owned()).collect());
        set.add_ed25519(secret(*seed).verifying_key(), names).unwrap();
    }
    set
}

fn signature(signer: &Signer) -> (KeyId, Method, Bytes) {
    (signer.key_id(), signer.method(), signer.sign_manifest(id(), MANIFEST, NOW).unwrap())
}

fn verify(
    set: &TrustSet,
    name: Option<&str>,
    signatures: &[(KeyId, Method, Bytes)],
) -> Result<ManifestTrust, TrustError> {
    set.verify_manifest(name.map(self::name).as_ref(), id(), MANIFEST, signatures, NOW)
}

fn ref_bytes(seeds: &[u8], name: &str, version: u64, expires: u64) -> Vec<u8> {
    let body = RefBody::new(self::name(name), Tag::default(), id(), version, expires);
    let mut envelope = Envelope::new(body).unwrap();
    for seed in seeds {
        envelope.sign(&signer(*seed)).unwrap();
    }
    envelope.to_bytes().unwrap()
}

macro_rules! assert_error {
    ($result:expr, $variant:ident $($rest:tt)*) => {
        match $result {
            Err(error @ TrustError::$variant $($rest)*) => assert!(error.is_refusal()),
            other => panic!("expected {}, got {other:?}", stringify!($variant)),
        }
    };
}

#[test]
fn one_valid_signature_by_a_trusted_key_is_needed() {
    let set = trust(&[(1, None), (2, None)]);
    let (one, two, stranger) =
        (signature(&signer(1)), signature(&signer(2)), signature(&signer(9)));
    assert_eq!(
        verify(&set, None, std::slice::from_ref(&one)).unwrap().keys,
        std::slice::from_ref(&one.0)
    );
    let both = verify(&set, None, &[two.clone(), one.clone(), stranger.clone()]).unwrap();
    assert_eq!(both.keys.len(), 2);
    assert!(matches!(&both.rejected[..], [TrustError::UntrustedKey { .. }]));

    assert_error!(verify(&set, None, &[]), Unsigned { .. });
    assert_error!(verify(&set, None, std::slice::from_ref(&stranger)), UntrustedKey { .. });
    let wrong = (one.0.clone(), Method::Ed25519, two.2.clone());
    assert_error!(verify(&set, None, std::slice::from_ref(&wrong)), WrongSignature { .. });
    assert_error!(verify(&set, None, &[stranger, wrong.clone()]), WrongSignature { .. });
    // A wrong one beside a valid one is reported, not fatal.
    let mixed = verify(&set, None, &[wrong, two.clone()]).unwrap();
    assert_eq!(mixed.keys, std::slice::from_ref(&two.0));
    assert!(
        matches!(&mixed.rejected[..], [TrustError::WrongSignature { key, .. }] if *key == one.0)
    );
    // The right bytes under another method's name count for nothing.
    for method in [Method::Hmac, Method::OpenPgp] {
        let relabelled = (one.0.clone(), method, one.2.clone());
        assert_error!(verify(&set, None, &[relabelled]), UntrustedKey { .. });
    }
    // The bytes must be the manifest's.
    let other = set.verify_manifest(None, id(), b"other", &[one], NOW);
    assert_error!(other, Mismatch { .. });
}

#[test]
fn no_changed_bit_of_a_signature_verifies() {
    let set = trust(&[(1, None)]);
    let good = signature(&signer(1));
    let mut hmac_set = TrustSet::default();
    let hmac = Signer::Hmac(b"a secret of some bytes".to_vec());
    hmac_set.add_hmac(b"a secret of some bytes", None).unwrap();
    let mac = signature(&hmac);
    verify(&set, None, std::slice::from_ref(&good)).unwrap();
    verify(&hmac_set, None, std::slice::from_ref(&mac)).unwrap();
    for (set, (key, method, bytes)) in [(&set, good), (&hmac_set, mac)] {
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.to_vec();
                bad[at] ^= 1 << bit;
                let bad = (key.clone(), method, Bytes::from(bad));
                assert_error!(verify(set, None, &[bad]), WrongSignature { .. });
            }
            let short = (key.clone(), method, bytes.slice(..at));
            assert_error!(verify(set, None, &[short]), WrongSignature { .. });
        }
        let long = [bytes.as_ref(), b"\0"].concat();
        let long = (key.clone(), method, Bytes::from(long));
        assert_error!(verify(set, None, &[long]), WrongSignature { .. });
    }
}

#[test]
fn a_ref_signature_is_none_for_a_manifest_nor_the_other_way() {
    let set = trust(&[(1, None)]);
    let signer = signer(1);
    let as_ref = signer.sign_document(b"tenpak/v1/ref\0", id().as_bytes()).unwrap();
    let confused = (signer.key_id(), Method::Ed25519, Bytes::copy_from_slice(&as_ref));
    assert_error!(verify(&set, None, &[confused]), WrongSignature { .. });

    // A ref with the signature that the same key made over the index's domain.
    let body = RefBody::new(name("m"), Tag::default(), id(), 1, NOW + 1);
    let envelope = Envelope::new(body).unwrap();
    let good = String::from_utf8(ref_bytes(&[1], "m", 1, NOW + 1)).unwrap();
    let right = signer.sign_document(b"tenpak/v1/ref\0", envelope.signed_bytes()).unwrap();
    set.verify_ref(&name("m"), &Tag::default(), good.as_bytes(), NOW).unwrap();
    for domain in [&b"tenpak/v1/refs-index\0"[..], b"tenpak/v1/manifest\0", b""] {
        let wrong = signer.sign_document(domain, envelope.signed_bytes()).unwrap();
        let bad = good.replace(&to_hex(&right), &to_hex(&wrong));
        assert_ne!(bad, good);
        let result = set.verify_ref(&name("m"), &Tag::default(), bad.as_bytes(), NOW);
        assert_error!(result, WrongSignature { .. });
    }
}

#[test]
fn names_limit_a_key() {
    let set = trust(&[(1, Some(&["org/*", "solo"])), (2, None)]);
    let limited = [signature(&signer(1))];
    for good in ["org/model", "org/other", "solo"] {
        verify(&set, Some(good), &limited).unwrap();
        let bytes = ref_bytes(&[1], good, 1, NOW + 1);
        set.verify_ref(&name(good), &Tag::default(), &bytes, NOW).unwrap();
    }
    for bad in ["org", "other/model", "solo2", "solo/model", "xorg/model"] {
        assert_error!(verify(&set, Some(bad), &limited), NameNotAllowed { .. });
        let bytes = ref_bytes(&[1], bad, 1, NOW + 1);
        let result = set.verify_ref(&name(bad), &Tag::default(), &bytes, NOW);
        assert_error!(result, NameNotAllowed { .. });
        verify(&set, Some(bad), &[signature(&signer(2))]).unwrap();
    }
    // No name binds an artifact that is addressed by id.
    assert_error!(verify(&set, None, &limited), NameNotAllowed { .. });
    verify(&set, None, &[signature(&signer(2))]).unwrap();
    // `*` stays within a segment.
    let star = trust(&[(1, Some(&["*"]))]);
    verify(&star, Some("model"), &limited).unwrap();
    assert_error!(verify(&star, Some("org/model"), &limited), NameNotAllowed { .. });
    // Listed twice, either line suffices.
    let twice = trust(&[(1, Some(&["a"])), (1, Some(&["b"]))]);
    verify(&twice, Some("a"), &limited).unwrap();
    verify(&twice, Some("b"), &limited).unwrap();
    assert_error!(verify(&twice, Some("c"), &limited), NameNotAllowed { .. });
}

#[test]
fn keys_rotate_and_revoked_ones_never_count() {
    let (old, new) = (signer(1), signer(2));
    let mut set = trust(&[(1, None), (2, None)]);
    for signer in [&old, &new] {
        verify(&set, None, &[signature(signer)]).unwrap();
    }
    set.revoke(old.key_id());
    assert_error!(verify(&set, None, &[signature(&old)]), Revoked { .. });
    assert_eq!(verify(&set, None, &[signature(&old), signature(&new)]).unwrap().keys.len(), 1);
    assert_eq!(set.key_ids().collect::<Vec<_>>(), [(&new.key_id(), Method::Ed25519)]);
    let bytes = ref_bytes(&[1], "m", 1, NOW + 1);
    assert_error!(set.verify_ref(&name("m"), &Tag::default(), &bytes, NOW), Revoked { .. });
    // Trusted again later in the list: revoked all the same.
    set.add_ed25519(secret(1).verifying_key(), None).unwrap();
    assert_error!(verify(&set, None, &[signature(&old)]), Revoked { .. });
    // With the only key revoked the set is not empty: nothing passes, rather than everything.
    let mut alone = trust(&[(1, None)]);
    alone.revoke(old.key_id());
    assert!(!alone.is_empty());
    assert_error!(verify(&alone, None, &[signature(&old)]), Revoked { .. });
}

#[test]
fn a_ref_is_what_was_asked_for_and_not_expired() {
    let set = trust(&[(1, None)]);
    let bytes = ref_bytes(&[1, 9], "org/model", 7, NOW + 1);
    let verify = |name: &str, tag: &str, now| {
        set.verify_ref(&self::name(name), &tag.parse().unwrap(), &bytes, now)
    };
    let vouched = verify("org/model", "main", NOW).unwrap();
    assert_eq!((vouched.body.version, vouched.body.manifest), (7, id()));
    assert_eq!(vouched.keys, [signer(1).key_id()]);
    assert_error!(verify("org/other", "latest", NOW), Mismatch { field: "name", .. });
    assert_error!(verify("org/model", "v2", NOW), Mismatch { field: "tag", .. });
    assert_error!(verify("org/model", "latest", NOW + 1), Expired { when: 1_000_001, .. });
    assert_error!(verify("org/model", "latest", u64::MAX), Expired { .. });
    let tag = Tag::default();
    for bad in [&b""[..], b"{}", &bytes[1..], &[b' '; 70_000]] {
        assert_error!(set.verify_ref(&name("org/model"), &tag, bad, NOW), Malformed { .. });
    }
    let unsigned = ref_bytes(&[], "org/model", 7, NOW + 1);
    assert_error!(set.verify_ref(&name("org/model"), &tag, &unsigned, NOW), Unsigned { .. });
    let stranger = ref_bytes(&[9], "org/model", 7, NOW + 1);
    assert_error!(set.verify_ref(&name("org/model"), &tag, &stranger, NOW), UntrustedKey { .. });
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            if let Ok(vouched) = set.verify_ref(&name("org/model"), &tag, &bad, NOW) {
                // Only the stranger's signature changed, which nobody reads.
                assert_eq!(vouched.body.manifest, id(), "bit {bit} of byte {at}");
                assert!(bad.ends_with(&bytes[bytes.len() - 150..]));
            }
        }
    }
}

#[test]
fn hmac_counts_for_manifests_only() {
    let mut set = TrustSet::default();
    set.add_hmac(b"a secret of some bytes", None).unwrap();
    let hmac = Signer::Hmac(b"a secret of some bytes".to_vec());
    verify(&set, None, &[signature(&hmac)]).unwrap();
    let bytes = ref_bytes(&[1], "m", 1, NOW + 1);
    let mine = signer(1).key_id();
    let renamed = String::from_utf8(bytes).unwrap().replace(mine.as_str(), hmac.key_id().as_str());
    let result = set.verify_ref(&name("m"), &Tag::default(), renamed.as_bytes(), NOW);
    assert_error!(result, UntrustedKey { .. });
    let body = RefBody::new(name("m"), Tag::default(), id(), 1, 2);
    assert!(matches!(
        Envelope::new(body).unwrap().sign(&hmac),
        Err(TrustError::CannotSign { method: Method::Hmac, .. })
    ));
}

#[test]
fn an_index_shows_what_its_signers_may_sign() {
    let entry = |name: &str| IndexEntry {
        manifest: id(),
        name: self::name(name),
        tag: Tag::default(),
        version: 1,
    };
    let body = IndexBody::new(vec![entry("a/x"), entry("b/x"), entry("c")], 1, NOW + 1);
    let mut envelope = Envelope::new(body).unwrap();
    envelope.sign(&signer(1)).unwrap();
    let bytes = envelope.to_bytes().unwrap();
    let names = |set: &TrustSet| {
        let vouched = set.verify_index(&bytes, NOW).unwrap();
        vouched.body.refs.iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&trust(&[(1, None)])), ["a/x", "b/x", "c"]);
    assert_eq!(names(&trust(&[(1, Some(&["a/*", "c"]))])), ["a/x", "c"]);
    assert_error!(trust(&[(2, None)]).verify_index(&bytes, NOW), UntrustedKey { .. });
    assert_error!(trust(&[(1, None)]).verify_index(&bytes, NOW + 1), Expired { .. });
    let as_ref = trust(&[(1, None)]).verify_ref(&name("c"), &Tag::default(), &bytes, NOW);
    assert_error!(as_ref, WrongSignature { .. });
}

#[test]
fn trust_arguments_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file);
    let argument = |file: &str| path(file).to_str().unwrap().to_owned();
    let made = keygen(&path("key")).unwrap();
    fs::write(path("hmac"), "a secret of some bytes\n").unwrap();
    let hex = to_hex(secret(1).verifying_key().as_bytes());
    let file = format!("ed25519 {hex} names=org/*\nhmac hmac\n");
    fs::write(path("file"), &file).unwrap();

    let ids = |arguments: &[String]| {
        let set = TrustSet::load(arguments).unwrap();
        set.key_ids().map(|(id, _)| id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[argument("key.pub")]), std::slice::from_ref(&made.key_id));
    let hmac = KeyId::of_hmac(b"a secret of some bytes");
    assert_eq!(ids(&[format!("hmac:{}", argument("hmac"))]), std::slice::from_ref(&hmac));
    let all = ids(&[argument("key.pub"), argument("file")]);
    assert!(all.contains(&hmac) && all.len() == 3);
    fs::write(path("revocations"), format!("revoked {}\n", made.key_id)).unwrap();
    for order in [["revocations", "key.pub"], ["key.pub", "revocations"]] {
        assert!(ids(&order.map(argument)).is_empty());
        assert!(!TrustSet::load(&order.map(argument)).unwrap().is_empty());
    }

    let fails = |arguments: &[String], expected: &str| {
        let error = TrustSet::load(arguments).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_refusal());
    };
    fails(&[argument("key")], "secret key");
    fails(&[argument("missing")], "missing");
    fails(&[argument("hmac")], "line 1");
    fs::write(path("bad"), format!("ed25519 {hex} names=[\n")).unwrap();
    fails(&[argument("bad")], "bad");
    fs::write(path("short"), "short\n").unwrap();
    fails(&[format!("hmac:{}", argument("short"))], "too short");
    fs::write(path("long"), vec![b'#'; (1 << 20) + 1]).unwrap();
    fails(&[argument("long")], "longer");
}

/// That a process of the tests ran the one that it was started for.
fn has_run(child: &std::process::Output) {
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}\n{child:?}");
}

#[test]
#[ignore = "what the processes of another test run"]
fn defaults_child() {
    let expected = std::env::var_os("TENPAK_TEST_DEFAULTS").expect("what is expected");
    let answer = match TrustSet::load(&[]) {
        Ok(set) => set.key_ids().count().to_string(),
        Err(error) => error.to_string(),
    };
    let expected = expected.into_string().unwrap();
    assert!(answer.starts_with(&expected), "{answer:?} instead of {expected:?}");
    let state = SeenRefs::of_user().check(&vouched(&[1], "m", 7, b"x")).unwrap();
    assert_eq!(state, SeenState::Remembered);
}

#[test]
fn the_users_own_files_are_found_as_xdg_says() {
    let dir = tempfile::tempdir().unwrap();
    let hex = to_hex(secret(1).verifying_key().as_bytes());
    let run = |variables: &[(&str, &Path)], expected: &str| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args(["--ignored", "--exact", "defaults_child"])
            .env("TENPAK_TEST_DEFAULTS", expected);
        child.env_remove("XDG_CONFIG_HOME").env_remove("XDG_STATE_HOME");
        has_run(&child.envs(variables.iter().copied()).output().unwrap());
    };
    let (home, config, state) =
        (dir.path().join("home"), dir.path().join("config"), dir.path().join("state"));
    run(&[("HOME", &home)], "0");
    assert!(home.join(".local/state/tenpak/seen/lock").exists());
    let file = home.join(".config/tenpak/trust");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, format!("ed25519 {hex}\n")).unwrap();
    run(&[("HOME", &home)], "1");
    // A relative directory is ignored.
    run(&[("HOME", &home), ("XDG_CONFIG_HOME", Path::new("config"))], "1");
    run(&[("HOME", &home), ("XDG_CONFIG_HOME", &config), ("XDG_STATE_HOME", &state)], "0");
    assert!(state.join("tenpak/seen/lock").exists());
    // A default file that is there but no file must not turn verification off.
    fs::create_dir_all(config.join("tenpak/trust")).unwrap();
    let said = config.join("tenpak/trust");
    run(&[("HOME", &home), ("XDG_CONFIG_HOME", &config)], said.to_str().unwrap());
}

// ---- versions seen ----

fn vouched(seeds: &[u8], name: &str, version: u64, content: &[u8]) -> Verified<RefBody> {
    let manifest = ManifestId::of(content);
    let body = RefBody::new(self::name(name), Tag::default(), manifest, version, NOW + 1);
    Verified { body, keys: seeds.iter().map(|seed| signer(*seed).key_id()).collect() }
}

/// Checks a ref that must be accepted and remembered.
#[track_caller]
fn remember(seen: &SeenRefs, seeds: &[u8], name: &str, version: u64) {
    let state = seen.check(&vouched(seeds, name, version, b"x")).unwrap();
    assert_eq!(state, SeenState::Remembered);
}

fn records(dir: &Path) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap() != "lock").collect()
}

#[test]
fn a_client_that_has_seen_seven_refuses_six() {
    let dir = tempfile::tempdir().unwrap();
    let seen = SeenRefs::at(dir.path().join("a/b"));
    let check =
        |seeds: &[u8], name: &str, version| seen.check(&vouched(seeds, name, version, b"x"));
    assert_eq!(check(&[1], "m", 5).unwrap(), SeenState::Remembered);
    assert_eq!(check(&[1], "m", 7).unwrap(), SeenState::Remembered);
    assert_eq!(check(&[1], "m", 7).unwrap(), SeenState::Remembered);
    assert_error!(check(&[1], "m", 6), RolledBack { seen: 7, got: 6, .. });
    // It survives the process: another handle on the same directory knows it too.
    let again = SeenRefs::at(dir.path().join("a/b"));
    assert_error!(again.check(&vouched(&[1], "m", 6, b"x")), RolledBack { seen: 7, .. });
    assert_error!(seen.check(&vouched(&[1], "m", 7, b"y")), Replaced { version: 7, .. });
    // Other names and keys have versions of their own.
    remember(&seen, &[1], "n", 1);
    remember(&seen, &[2], "m", 1);
    // Signed by two keys, either memory suffices to refuse; a refusal leaves no trace.
    assert_error!(check(&[2, 1], "m", 6), RolledBack { seen: 7, .. });
    remember(&seen, &[2], "m", 1);
    remember(&seen, &[1, 2], "m", 8);
    assert_error!(check(&[2], "m", 7), RolledBack { seen: 8, got: 7, .. });
    assert_eq!(records(&dir.path().join("a/b")).len(), 3);
}

#[test]
fn a_damaged_record_is_reported_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let seen = SeenRefs::at(dir.path());
    remember(&seen, &[1], "m", 7);
    let record = records(dir.path()).remove(0);
    let good = fs::read(&record).unwrap();
    remember(&seen, &[1], "n", 3);
    let other = records(dir.path()).into_iter().find(|path| *path != record).unwrap();
    let other = fs::read(other).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    for bad in [
        Vec::new(),
        b"garbage".to_vec(),
        good[..good.len() - 1].to_vec(),
        text.replace("\"version\":7", "\"version\":-7").into_bytes(),
        vec![b' '; 5000],
        other,
    ] {
        fs::write(&record, &bad).unwrap();
        let error = seen.check(&vouched(&[1], "m", 9, b"x")).unwrap_err();
        assert!(matches!(error, TrustError::DamagedRecord { .. }), "{error}");
        assert_eq!(fs::read(&record).unwrap(), bad, "a damaged record was overwritten");
    }
}

#[test]
fn a_place_that_cannot_be_written_is_stated_and_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // Below a file nothing can be made: neither read-only nor usable, so an error.
    let error = SeenRefs::at(file.join("seen")).check(&vouched(&[1], "m", 1, b"x")).unwrap_err();
    assert!(matches!(error, TrustError::Io { .. }), "{error}");
    // A directory without write permission: the memory in it still refuses, and a version that is
    // newer passes with the statement that it was not remembered. Root may write everywhere, so
    // the look is taken by an unprivileged child.
    let kept = dir.path().join("kept");
    remember(&SeenRefs::at(&kept), &[1], "m", 7);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(kept.join("lock"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o555)).unwrap();
    let exe = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let mut child = Command::new(&exe);
    child.args(["--ignored", "--exact", "read_only_child"]).current_dir("/").env(CHILD_DIR, &kept);
    if rustix::process::getuid().is_root() {
        child.uid(65534).gid(65534);
    }
    has_run(&child.output().unwrap());
    // Nothing changed.
    remember(&SeenRefs::at(&kept), &[1], "m", 7);
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
#[ignore = "what the processes of another test run"]
fn read_only_child() {
    let dir = std::env::var_os(CHILD_DIR).expect("a folder");
    let seen = SeenRefs::at(Path::new(&dir));
    for version in [7, 8] {
        let state = seen.check(&vouched(&[1], "m", version, b"x")).unwrap();
        assert!(matches!(state, SeenState::NotWritable { .. }), "{state:?}");
    }
    assert_error!(seen.check(&vouched(&[1], "m", 6, b"x")), RolledBack { seen: 7, got: 6, .. });
}

const CHILD_DIR: &str = "TENPAK_TEST_SEEN_DIR";
const CHILD_SEED: &str = "TENPAK_TEST_SEEN_SEED";
const ROUNDS: u64 = 60;

#[test]
#[ignore = "what the processes of another test run"]
fn seen_child() {
    let dir = std::env::var_os(CHILD_DIR).expect("a folder");
    let seed: u64 = std::env::var(CHILD_SEED).unwrap().parse().unwrap();
    hammer(Path::new(&dir), seed);
}

/// Offers versions in an order of its own. Whatever was accepted must never be undercut later.
fn hammer(dir: &Path, seed: u64) {
    let seen = SeenRefs::at(dir);
    let mut highest = 0;
    for round in 0..ROUNDS {
        let version = 1 + (round * 37 + seed * 11) % ROUNDS;
        match seen.check(&vouched(&[1, 2], "m", version, b"x")) {
            Ok(_) => {
                assert!(version >= highest, "{version} was accepted after {highest}");
                highest = version;
            }
            Err(TrustError::RolledBack { seen, got, .. }) => {
                assert!(got == version && seen > version && seen >= highest);
                highest = seen;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn concurrent_processes_and_threads_never_lose_the_highest_version() {
    let dir = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let children: Vec<_> = (0..3)
        .map(|seed| {
            Command::new(&exe)
                .args(["--ignored", "--exact", "seen_child"])
                .env(CHILD_DIR, dir.path())
                .env(CHILD_SEED, seed.to_string())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for seed in 3..6 {
            let dir = dir.path();
            scope.spawn(move || hammer(dir, seed));
        }
    });
    for child in children {
        has_run(&child.wait_with_output().unwrap());
    }
    // Every writer offered the highest version once, so it is what is remembered.
    let error = SeenRefs::at(dir.path()).check(&vouched(&[2], "m", 1, b"x")).unwrap_err();
    assert!(matches!(error, TrustError::RolledBack { seen: ROUNDS, .. }), "{error}");
    assert_eq!(records(dir.path()).len(), 2, "a temporary file stayed behind");
}
