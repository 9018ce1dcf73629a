//! A signed ref or index: what is accepted is written again byte for byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::format::refs::{IndexBody, RefBody, RootBody, SignedBody};
use tenpak::trust::Envelope;

fn round_trip<T: SignedBody>(data: &[u8]) {
    if let Ok(envelope) = Envelope::<T>::parse(data) {
        let written = envelope.to_bytes();
        assert!(written.is_ok_and(|bytes| bytes == data), "another spelling was accepted");
    }
}

fuzz_target!(|data: &[u8]| {
    round_trip::<RefBody>(data);
    round_trip::<IndexBody>(data);
    round_trip::<RootBody>(data);
});
