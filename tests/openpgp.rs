//! OpenPGP against the machine's own `gpg`, in both directions.
//!
//! Every test makes its keys in a GNUPGHOME of its own. There is no skipping: without `gpg` these
//! tests fail, because interoperability is what they are about.

#![cfg(feature = "cli")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tenpak::format::id::ManifestId;
use tenpak::trust::{
    KeyId, ManifestTrust, Method, Signer, TrustError, TrustSet, check_signature_packets,
};

const MANIFEST: &[u8] = b"{\"not\":\"really\",\"a\":\"manifest\"}\r\nwith\nevery\rline ending\n ";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

struct Gpg {
    dir: tempfile::TempDir,
}

impl Gpg {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(dir.path().join("manifest"), MANIFEST).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn output(&self, arguments: &[&str]) -> Output {
        Command::new("gpg")
            .env("GNUPGHOME", self.dir.path())
            .env("LC_ALL", "C")
            .current_dir(self.dir.path())
            .args(["--batch", "--yes", "--no-tty", "--pinentry-mode", "loopback"])
            .args(["--passphrase", ""])
            .args(arguments)
            .output()
            .expect("these tests need GnuPG: install the `gpg` and `gpg-agent` packages")
    }

    fn run(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "gpg {arguments:?}: {error}");
        output.stdout
    }

    /// Makes a key and returns its fingerprint.
    fn key(&self, algorithm: &str, usage: &str, expire: &str) -> KeyId {
        self.run(&["--quick-generate-key", "tester <t@example.org>", algorithm, usage, expire]);
        self.fingerprints().remove(0)
    }

    /// Primary key first, then subkeys.
    fn fingerprints(&self) -> Vec<KeyId> {
        let list = String::from_utf8(self.run(&["--list-keys", "--with-colons"])).unwrap();
        let lines = list.lines().filter(|line| line.starts_with("fpr:"));
        lines.map(|line| line.split(':').nth(9).unwrap().to_lowercase().parse().unwrap()).collect()
    }

    fn public(&self) -> Vec<u8> {
        self.run(&["--export"])
    }

    fn trust(&self) -> TrustSet {
        let mut set = TrustSet::default();
        set.add_openpgp(&self.public(), None).unwrap();
        set
    }

    fn sign(&self, extra: &[&str]) -> Vec<u8> {
        let mut arguments = extra.to_vec();
        arguments.extend(["--output", "sig", "--detach-sign", "manifest"]);
        self.run(&arguments);
        fs::read(self.path("sig")).unwrap()
    }

    fn signer(&self) -> Signer {
        fs::write(self.path("secret"), self.run(&["--export-secret-keys"])).unwrap();
        Signer::load(&self.path("secret"), None).unwrap()
    }

    /// Whether `gpg --verify` accepts a signature, and what it says.
    fn verifies(&self, signature: &[u8], data: &[u8]) -> (bool, String) {
        fs::write(self.path("check.sig"), signature).unwrap();
        fs::write(self.path("check"), data).unwrap();
        let output = self.output(&["--status-fd", "1", "--verify", "check.sig", "check"]);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // The agent that gpg started for this home; it would also end by itself.
        let stopped = Command::new("gpgconf")
            .env("GNUPGHOME", self.dir.path())
            .args(["--kill", "all"])
            .status();
        assert!(stopped.is_ok(), "gpgconf is missing");
    }
}

fn verify_at(
    set: &TrustSet,
    key: &KeyId,
    signature: &[u8],
    now: u64,
) -> Result<ManifestTrust, TrustError> {
    let signature = (key.clone(), Method::OpenPgp, Bytes::copy_from_slice(signature));
    set.verify_manifest(None, ManifestId::of(MANIFEST), MANIFEST, &[signature], now)
}

fn verify(set: &TrustSet, key: &KeyId, signature: &[u8]) -> Result<ManifestTrust, TrustError> {
    verify_at(set, key, signature, now())
}

#[track_caller]
fn assert_refused(result: Result<ManifestTrust, TrustError>, expected: &str) {
    match result {
        Ok(trust) => panic!("accepted for {:?}", trust.keys),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(expected), "expected {expected:?} in {text:?}");
            assert!(error.is_refusal());
        }
    }
}

/// Both directions for one kind of key.
fn interoperates(algorithm: &str, usage: &str) {
    let gpg = Gpg::new();
    let key = gpg.key(algorithm, usage, "1y");
    let set = gpg.trust();
    assert_eq!(set.key_ids().collect::<Vec<_>>(), [(&key, Method::OpenPgp)]);

    for extra in [&[][..], &["--armor"], &["--digest-algo", "SHA512"]] {
        let signature = gpg.sign(extra);
        assert_eq!(verify(&set, &key, &signature).unwrap().keys, std::slice::from_ref(&key));
        let binary = check_signature_packets(&signature).unwrap();
        assert_eq!(binary == signature, extra != ["--armor"]);
        assert_eq!(verify(&set, &key, &binary).unwrap().keys, std::slice::from_ref(&key));
    }

    let signer = gpg.signer();
    assert_eq!((signer.method(), signer.key_id()), (Method::OpenPgp, key.clone()));
    let ours = signer.sign_manifest(ManifestId::of(MANIFEST), MANIFEST, now()).unwrap();
    let (good, status) = gpg.verifies(&ours, MANIFEST);
    assert!(good && status.contains("GOODSIG") && status.contains("VALIDSIG"), "{status}");
    assert!(!gpg.verifies(&ours, b"something else").0);
    assert_eq!(verify(&set, &key, &ours).unwrap().keys, std::slice::from_ref(&key));
    // An armored key file, public and secret, is the same key.
    let mut armored = TrustSet::default();
    armored.add_openpgp(&gpg.run(&["--export", "--armor"]), None).unwrap();
    verify(&armored, &key, &ours).unwrap();
    fs::write(gpg.path("secret.asc"), gpg.run(&["--export-secret-keys", "--armor"])).unwrap();
    assert_eq!(Signer::load(&gpg.path("secret.asc"), None).unwrap().key_id(), key);
}

#[test]
fn ed25519_keys_interoperate() {
    interoperates("ed25519", "sign");
}

#[test]
fn rsa_keys_interoperate() {
    interoperates("rsa3072", "sign");
}

#[test]
fn nist_keys_interoperate() {
    interoperates("nistp384", "sign");
}

#[test]
fn a_signing_subkey_signs_for_its_primary_key() {
    let gpg = Gpg::new();
    let primary = gpg.key("ed25519", "cert", "1y");
    let before = gpg.trust();
    gpg.run(&["--quick-add-key", primary.as_str(), "ed25519", "sign", "1y"]);
    gpg.run(&["--quick-add-key", primary.as_str(), "cv25519", "encr", "1y"]);
    let set = gpg.trust();
    let signature = gpg.sign(&[]);
    assert_eq!(verify(&set, &primary, &signature).unwrap().keys, std::slice::from_ref(&primary));
    // A certificate from before does not know the subkey.
    assert_refused(verify(&before, &primary, &signature), "no key of the certificate");

    let ours = gpg.signer().sign_manifest(ManifestId::of(MANIFEST), MANIFEST, now()).unwrap();
    let (good, status) = gpg.verifies(&ours, MANIFEST);
    let subkey = &gpg.fingerprints()[1];
    assert!(good && status.to_lowercase().contains(subkey.as_str()), "{status}");
    verify(&set, &primary, &ours).unwrap();

    // Listed as revoked in a trust file, by the fingerprint of either key.
    for revoked in [&primary, subkey] {
        let mut set = gpg.trust();
        set.revoke(revoked.clone());
        assert_refused(verify(&set, &primary, &signature), "revoked");
    }

    // Revoked by its owner, the subkey no longer counts, though the signature is older.
    let edit = "key 1\nrevkey\ny\n0\n\ny\nsave\n";
    fs::write(gpg.path("edit"), edit).unwrap();
    let mut command = Command::new("gpg");
    command
        .env("GNUPGHOME", gpg.dir.path())
        .args(["--no-tty", "--pinentry-mode", "loopback", "--passphrase", ""])
        .args(["--command-fd", "0", "--status-fd", "1", "--edit-key", primary.as_str()])
        .stdin(fs::File::open(gpg.path("edit")).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_refused(verify(&gpg.trust(), &primary, &signature), "revoked");
    let error = gpg.signer().sign_manifest(ManifestId::of(MANIFEST), MANIFEST, now()).unwrap_err();
    assert!(error.to_string().contains("may sign data"), "{error}");
    // Trusting an older copy beside it does not bring it back.
    let mut both = set;
    both.add_openpgp(&gpg.public(), None).unwrap();
    assert_refused(verify(&both, &primary, &signature), "revoked");
}

#[test]
fn a_subkey_that_does_not_confirm_its_certificate_is_refused() {
    use pgp::composed::{Deserializable as _, SignedPublicKey};
    use pgp::packet::SubpacketData;
    use pgp::ser::Serialize as _;

    let gpg = Gpg::new();
    let primary = gpg.key("ed25519", "cert", "1y");
    gpg.run(&["--quick-add-key", primary.as_str(), "ed25519", "sign", "1y"]);
    let signature = gpg.sign(&[]);
    let mut certificate = SignedPublicKey::from_bytes(gpg.public().as_slice()).unwrap();
    // Whoever binds another's subkey to a certificate of their own lacks its confirmation.
    let binding = &mut certificate.public_subkeys[0].signatures[0];
    let is_confirmation =
        |data: &SubpacketData| matches!(data, SubpacketData::EmbeddedSignature(_));
    let mut unhashed = binding.config().unwrap().unhashed_subpackets();
    let at = unhashed.position(|packet| is_confirmation(&packet.data)).unwrap();
    drop(unhashed);
    binding.unhashed_subpacket_remove(at).unwrap();
    let mut set = TrustSet::default();
    set.add_openpgp(&certificate.to_bytes().unwrap(), None).unwrap();
    assert_refused(verify(&set, &primary, &signature), "does not confirm");
    verify(&gpg.trust(), &primary, &signature).unwrap();
}

#[test]
fn a_revoked_certificate_counts_no_longer() {
    let gpg = Gpg::new();
    let key = gpg.key("ed25519", "sign", "1y");
    let signature = gpg.sign(&[]);
    verify(&gpg.trust(), &key, &signature).unwrap();
    let stored = format!("openpgp-revocs.d/{}.rev", key.as_str().to_uppercase());
    let revocation = fs::read_to_string(gpg.path(&stored)).unwrap();
    // GnuPG writes a colon before the armor so that nobody imports it by mistake.
    fs::write(gpg.path("revocation"), revocation.replace(":-----BEGIN", "-----BEGIN")).unwrap();
    gpg.run(&["--import", "revocation"]);
    assert_refused(verify(&gpg.trust(), &key, &signature), "revoked");
}

#[test]
fn an_expired_key_or_signature_counts_no_longer() {
    let gpg = Gpg::new();
    let key = gpg.key("ed25519", "sign", "2d");
    let lasting = gpg.sign(&[]);
    let brief = gpg.sign(&["--default-sig-expire", "1d"]);
    let set = gpg.trust();
    const DAY: u64 = 24 * 60 * 60;
    verify(&set, &key, &lasting).unwrap();
    verify(&set, &key, &brief).unwrap();
    verify_at(&set, &key, &lasting, now() + DAY + 60).unwrap();
    assert_refused(verify_at(&set, &key, &brief, now() + DAY + 60), "expired");
    assert_refused(verify_at(&set, &key, &lasting, now() + 2 * DAY + 60), "expired");
    // Long before it was made, either clock is wrong.
    assert_refused(verify_at(&set, &key, &lasting, now() - 2 * DAY), "in the future");
    // Renewed by its owner, the old signature counts again.
    gpg.run(&["--quick-set-expire", key.as_str(), "1y"]);
    verify_at(&gpg.trust(), &key, &lasting, now() + 2 * DAY + 60).unwrap();
}

#[test]
fn weak_hashes_and_keys_are_refused() {
    let gpg = Gpg::new();
    let key = gpg.key("rsa2048", "sign", "1y");
    let set = gpg.trust();
    verify(&set, &key, &gpg.sign(&["--digest-algo", "SHA256"])).unwrap();
    let sha1 = gpg.sign(&["--digest-algo", "SHA1"]);
    assert!(gpg.verifies(&sha1, MANIFEST).0, "gpg itself should still take SHA-1");
    assert_refused(verify(&set, &key, &sha1), "SHA1 is too weak");
    assert_refused(verify(&set, &key, &gpg.sign(&["--digest-algo", "RIPEMD160"])), "too weak");

    let small = Gpg::new();
    let key = small.key("rsa1024", "sign", "1y");
    assert_refused(verify(&small.trust(), &key, &small.sign(&[])), "fewer than 2048 bits");
}

#[test]
fn a_certificate_bound_by_sha1_is_refused() {
    let gpg = Gpg::new();
    gpg.run(&[
        "--cert-digest-algo",
        "SHA1",
        "--quick-generate-key",
        "tester <t@example.org>",
        "rsa2048",
        "sign",
        "1y",
    ]);
    let key = gpg.fingerprints().remove(0);
    assert_refused(verify(&gpg.trust(), &key, &gpg.sign(&[])), "no valid self-signature");
}

#[test]
fn text_and_inline_signatures_are_refused() {
    let gpg = Gpg::new();
    let key = gpg.key("ed25519", "sign", "1y");
    let set = gpg.trust();
    assert_refused(verify(&set, &key, &gpg.sign(&["--textmode"])), "binary document");
    gpg.run(&["--output", "inline", "--sign", "manifest"]);
    let inline = fs::read(gpg.path("inline")).unwrap();
    assert!(verify(&set, &key, &inline).is_err());
    assert!(verify(&set, &key, &gpg.public()).is_err());
}

#[test]
fn no_changed_bit_of_a_signature_makes_it_another_keys_or_contents() {
    let gpg = Gpg::new();
    let key = gpg.key("ed25519", "sign", "1y");
    let set = gpg.trust();
    let signature = gpg.sign(&[]);
    let other = (key.clone(), Method::OpenPgp, Bytes::from(signature.clone()));
    let id = ManifestId::of(b"other");
    assert!(set.verify_manifest(None, id, b"other", &[other], now()).is_err());
    let mut accepted = 0;
    for at in 0..signature.len() {
        for bit in 0..8 {
            let mut bad = signature.clone();
            bad[at] ^= 1 << bit;
            // Hints outside of the hashed part may change; what they sign may not.
            accepted += u32::from(verify(&set, &key, &bad).is_ok());
        }
        assert!(verify(&set, &key, &signature[..at]).is_err(), "{at} bytes");
    }
    // The issuer's key id (8 bytes) and its subpacket's header lie outside.
    assert!(accepted <= 8 * 16, "{accepted} changed bits were accepted");
    for junk in [&b""[..], b"\x00", b"\xff", b"-----BEGIN PGP SIGNATURE-----\n", &[0x88; 70_000]] {
        assert!(verify(&set, &key, junk).is_err());
    }
}

#[test]
fn keys_in_the_wrong_place_are_explained() {
    let gpg = Gpg::new();
    gpg.key("ed25519", "sign", "1y");
    let load = |path: &Path| TrustSet::load(&[path.to_str().unwrap().to_owned()]);
    for armor in [&["--export-secret-keys"][..], &["--armor", "--export-secret-keys"]] {
        fs::write(gpg.path("secret"), gpg.run(armor)).unwrap();
        assert!(load(&gpg.path("secret")).is_err());
    }
    for armor in [&["--export"][..], &["--armor", "--export"]] {
        fs::write(gpg.path("public"), gpg.run(armor)).unwrap();
        assert_eq!(load(&gpg.path("public")).unwrap().key_ids().count(), 1);
        assert!(Signer::load(&gpg.path("public"), None).is_err());
    }
    // Protected by a passphrase.
    let locked = Gpg::new();
    locked.run(&["--passphrase", "secret", "--quick-generate-key", "t", "ed25519", "sign", "1y"]);
    let secret = locked.run(&["--passphrase", "secret", "--export-secret-keys"]);
    fs::write(locked.path("secret"), secret).unwrap();
    let signer = Signer::load(&locked.path("secret"), None).unwrap();
    let error = signer.sign_manifest(ManifestId::of(MANIFEST), MANIFEST, now()).unwrap_err();
    assert!(error.to_string().contains("passphrase"), "{error}");
}
