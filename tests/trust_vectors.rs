//! The vectors in `fixtures/trust/`: read, and rewritten byte for byte from the fixed seeds.
//!
//! `TENPAK_WRITE_FIXTURES=1` writes them anew, which is only right when the format changes.

#![cfg(feature = "cli")]

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use tenpak::format::id::{ManifestId, to_hex};
use tenpak::format::name::Tag;
use tenpak::format::refs::{IndexBody, IndexEntry, RefBody};
use tenpak::trust::{
    Envelope, KeyId, Method, Signer, TrustSet, check_signature_packets, manifest_message,
    signature_path,
};

const NOW: u64 = 1_800_000_000;
const EXPIRES: u64 = NOW + 90 * 24 * 60 * 60;
const MANIFEST: &[u8] = b"{\"format\":\"an example: signatures see bytes\"}";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/trust").join(name)
}

fn read(name: &str) -> Vec<u8> {
    let path = path(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn seed(first: u8) -> [u8; 32] {
    std::array::from_fn(|i| first + i as u8)
}

/// Every vector that follows from the seeds alone.
fn vectors() -> Vec<(&'static str, Vec<u8>)> {
    let (a, b) = (SigningKey::from_bytes(&seed(0)), SigningKey::from_bytes(&seed(100)));
    let line = |kind: &str, hex: &[u8]| format!("tenpak-ed25519-{kind} {}\n", to_hex(hex));
    let hmac = b"a shared secret, 33 bytes long ok";
    let id = ManifestId::of(MANIFEST);
    let signers = [Signer::Ed25519(a.clone()), Signer::Ed25519(b.clone())];
    let hmac_signer = Signer::Hmac(hmac.to_vec());
    let signature = |signer: &Signer| signer.sign_manifest(id, MANIFEST, NOW).unwrap().to_vec();

    let name = || "org/model".parse().unwrap();
    let mut signed_ref =
        Envelope::new(RefBody::new(name(), Tag::default(), id, 7, EXPIRES)).unwrap();
    let entry = |name: &str, tag: &str, version| IndexEntry {
        manifest: id,
        name: name.parse().unwrap(),
        tag: tag.parse().unwrap(),
        version,
    };
    let refs =
        vec![entry("solo", "v1", 3), entry("org/model", "main", 7), entry("org/model", "b", 1)];
    let mut index = Envelope::new(IndexBody::new(refs, 9, EXPIRES)).unwrap();
    for signer in &signers {
        signed_ref.sign(signer).unwrap();
    }
    index.sign(&signers[0]).unwrap();

    let mut message = to_hex(&manifest_message(id));
    message.push('\n');
    let paths = [
        (&signers[0], Method::Ed25519),
        (&signers[1], Method::Ed25519),
        (&hmac_signer, Method::Hmac),
    ]
    .map(|(signer, method)| signature_path(id, &signer.key_id(), method) + "\n")
    .concat();
    vec![
        ("a.secret", line("secret", &seed(0)).into_bytes()),
        ("a.public", line("public", a.verifying_key().as_bytes()).into_bytes()),
        ("b.secret", line("secret", &seed(100)).into_bytes()),
        ("b.public", line("public", b.verifying_key().as_bytes()).into_bytes()),
        ("hmac.secret", [hmac.as_slice(), b"\n"].concat()),
        ("manifest", MANIFEST.to_vec()),
        ("manifest.message.hex", message.into_bytes()),
        ("manifest.a.ed25519", signature(&signers[0])),
        ("manifest.b.ed25519", signature(&signers[1])),
        ("manifest.hmac", signature(&hmac_signer)),
        ("signature-paths", paths.into_bytes()),
        ("ref", signed_ref.to_bytes().unwrap()),
        ("refs-index", index.to_bytes().unwrap()),
    ]
}

#[test]
fn vectors_are_rewritten_byte_for_byte() {
    let write = std::env::var_os("TENPAK_WRITE_FIXTURES").is_some();
    for (name, content) in vectors() {
        if write {
            fs::create_dir_all(path("")).unwrap();
            fs::write(path(name), &content).unwrap();
        }
        assert_eq!(read(name), content, "fixtures/trust/{name}");
    }
    let mut expected: Vec<_> = vectors().iter().map(|(name, _)| (*name).to_owned()).collect();
    expected.extend(["openpgp.public", "manifest.openpgp", "README.md"].map(str::to_owned));
    expected.sort();
    let found = fs::read_dir(path("")).unwrap();
    let mut found: Vec<_> =
        found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, expected, "every vector is read by a test");
}

#[test]
fn vectors_are_read_from_their_files() {
    let argument = |name: &str| path(name).to_str().unwrap().to_owned();
    let set = TrustSet::load(&[
        argument("a.public"),
        argument("b.public"),
        format!("hmac:{}", argument("hmac.secret")),
        argument("openpgp.public"),
    ])
    .unwrap();
    let manifest = read("manifest");
    let id = ManifestId::of(&manifest);

    let paths = String::from_utf8(read("signature-paths")).unwrap();
    let mut signatures = Vec::new();
    for (line, file) in
        paths.lines().zip(["manifest.a.ed25519", "manifest.b.ed25519", "manifest.hmac"])
    {
        let rest = line.strip_prefix(&format!("signatures/{id}/")).unwrap();
        let (key, method) = rest.split_once('.').unwrap();
        let (key, method): (KeyId, Method) = (key.parse().unwrap(), method.parse().unwrap());
        signatures.push((key, method, Bytes::from(read(file))));
    }
    let (openpgp, _) = set.key_ids().find(|(_, method)| *method == Method::OpenPgp).unwrap();
    assert_eq!(openpgp.as_str().len(), 40);
    let file = read("manifest.openpgp");
    assert_eq!(check_signature_packets(&file).unwrap(), file);
    signatures.push((openpgp.clone(), Method::OpenPgp, Bytes::from(file)));
    assert_eq!(signatures.len(), 4);
    let trust = set.verify_manifest(None, id, &manifest, &signatures, NOW).unwrap();
    assert_eq!((trust.keys.len(), trust.rejected.len()), (4, 0));

    for (secret, public) in [("a.secret", 0), ("b.secret", 1)] {
        let signer = Signer::load(&path(secret), None).unwrap();
        assert_eq!(signer.key_id(), signatures[public].0);
    }

    let name = "org/model".parse().unwrap();
    let bytes = read("ref");
    let vouched = set.verify_ref(&name, &Tag::default(), &bytes, NOW).unwrap();
    assert_eq!((vouched.keys.len(), vouched.body.version, vouched.body.manifest), (2, 7, id));
    assert_eq!(Envelope::<RefBody>::parse(&bytes).unwrap().to_bytes().unwrap(), bytes);
    let bytes = read("refs-index");
    let vouched = set.verify_index(&bytes, NOW).unwrap();
    assert_eq!(vouched.body.get(&name, &Tag::default()).map(|entry| entry.version), Some(7));
    assert_eq!(Envelope::<IndexBody>::parse(&bytes).unwrap().to_bytes().unwrap(), bytes);
}

/// Damaged OpenPGP input comes from anybody: it must be refused without a panic.
#[test]
fn damaged_openpgp_files_are_refused_quietly() {
    let (certificate, signature) = (read("openpgp.public"), read("manifest.openpgp"));
    let mut set = TrustSet::default();
    set.add_openpgp(&certificate, None).unwrap();
    let key = set.key_ids().map(|(key, _)| key.clone()).next().unwrap();
    let (other, id) = (b"another manifest", ManifestId::of(b"another manifest"));
    let mut state = 1u64;
    let mut random = |below: usize| {
        // splitmix64: a fixed sequence.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    };
    let mut still_parsed = 0;
    for round in 0..6000 {
        let mut bad = if round % 2 == 0 { signature.clone() } else { certificate.clone() };
        for _ in 0..1 + random(4) {
            let at = random(bad.len());
            match random(4) {
                0 => bad[at] = random(256) as u8,
                1 => bad[at] ^= 1 << random(8),
                2 => bad.truncate(at.max(1)),
                _ => bad.insert(at, [0, 0x7f, 0x80, 0xff][random(4)]),
            }
        }
        still_parsed += u32::from(check_signature_packets(&bad).is_ok());
        let mut damaged = TrustSet::default();
        let trusted = damaged.add_openpgp(&bad, None).is_ok();
        let file = (key.clone(), Method::OpenPgp, Bytes::from(bad));
        assert!(set.verify_manifest(None, id, other, &[file], NOW).is_err());
        if trusted {
            let good = (key.clone(), Method::OpenPgp, Bytes::from(signature.clone()));
            assert!(damaged.verify_manifest(None, id, other, &[good], NOW).is_err());
        }
    }
    assert!(still_parsed > 100, "only {still_parsed}: the damage should often parse");
}
