//! An OpenPGP signature file, and a key file: never a panic, and no signature over the wrong bytes.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tenpak::format::id::ManifestId;
use tenpak::trust::{KeyId, Method, TrustSet, check_signature_packets};

const WRONG: &[u8] = b"not what the vector signs";

static TRUST: LazyLock<(TrustSet, Vec<KeyId>)> = LazyLock::new(|| {
    let mut set = TrustSet::default();
    let key = include_bytes!("../../fixtures/trust/openpgp.public");
    set.add_openpgp(key, None).expect("the vector is a certificate");
    let ids = set.key_ids().map(|(id, _)| id.clone()).collect();
    (set, ids)
});

fuzz_target!(|data: &[u8]| {
    if let Ok(binary) = check_signature_packets(data) {
        assert!(check_signature_packets(&binary).is_ok());
    }
    let (set, ids) = &*TRUST;
    let file = Bytes::copy_from_slice(data);
    let signatures: Vec<_> =
        ids.iter().map(|id| (id.clone(), Method::OpenPgp, file.clone())).collect();
    let id = ManifestId::of(WRONG);
    assert!(set.verify_manifest(None, id, WRONG, &signatures, 1_800_000_000).is_err());
    // Whether these bytes are a certificate does not matter here, only that asking is safe.
    drop(TrustSet::default().add_openpgp(data, None));
});
