//! What users, refs and paths spell: names, tags, artifacts, ids, shards, patterns, addresses. What
//! is accepted has one spelling, which reads as the same.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use tenpak::store::artifact::Pattern;
use tenpak::format::name::{ArtifactName, ArtifactSpec, Tag};
use tenpak::format::id::ManifestId;
use tenpak::schedule::shard::Shard;
use tenpak::transport::ObjectPath;
use tenpak::transport::http::{HttpBackend, HttpOptions};
use tenpak::trust::{KeyId, Method};

fn round_trip<T: FromStr + Display + Debug + PartialEq>(text: &str) -> Option<T> {
    let value = text.parse::<T>().ok()?;
    assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value));
    Some(value)
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(ArtifactSpec::Named { name, tag }) = round_trip(text) {
        // It becomes a path of the store.
        assert!(ObjectPath::new(tenpak::format::refs::ref_path(&name, &tag)).is_some());
    }
    round_trip::<ArtifactName>(text);
    round_trip::<Tag>(text);
    round_trip::<ManifestId>(text);
    round_trip::<KeyId>(text);
    round_trip::<Shard>(text);
    if let Ok(method) = text.parse::<Method>() {
        assert_eq!(method.as_str(), text);
    }
    if let Ok(pattern) = Pattern::new(text) {
        assert!(pattern.matches(text));
    }
    if let Ok(transport) = HttpBackend::new(text, HttpOptions::default()) {
        drop(transport);
    }
});
