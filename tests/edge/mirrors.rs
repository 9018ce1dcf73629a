//! An origin that lacks any one object, or holds it wrong, costs nobody anything while another origin is right.

use std::sync::Arc;

use tenpak::edge::EdgeOptions;
use tenpak::pack::{PackOptions, pack};
use tenpak::store::Store;
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::{ObjectPath, ReadRange, TransportErrorKind};
use tenpak::trust::{Signer, TrustSet};

use super::model::write;
use super::world::World;

#[test]
fn what_the_first_origin_lacks_or_holds_wrong_comes_from_the_second() {
    let world = World::of(&[("model.norm.weight", &[512], 1)]);
    let model = write(
        &world.dir.path().join("signed"),
        &[("model.embed_tokens.weight", &[500, 1024], 11), ("model.norm.weight", &[512], 12)],
    );
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = key.verifying_key();
    let (name, tag) = ("org/signed".parse().expect("a name"), "latest".parse().expect("a tag"));
    let mut options = PackOptions::default();
    options.signers.push(Signer::Ed25519(key));
    let store = Store::new(world.memory.clone());
    let packed = pack(&model, &store, (&name, &tag), options, world.runtime.handle(), &());
    let id = packed.expect("packed").manifest;
    let path = |text: String| ObjectPath::new(text).expect("a path");
    let weights = std::fs::read(model.join("model.safetensors")).expect("the weights");

    let objects = ["refs/org/signed", "manifests/", "signatures/", "tables/", "layouts/", "packs/"];
    let damage = [
        Action::Fail(TransportErrorKind::NotFound),
        Action::Fail(TransportErrorKind::Transient),
        Action::FlipBit(40, 3),
        Action::Truncate(30),
        Action::Garbage,
    ];
    for object in objects {
        for action in &damage {
            let what = format!("{object} {action:?}");
            let faults = vec![Fault::always(object, action.clone())];
            let first = Arc::new(FaultBackend::new(world.memory.clone(), faults));
            let mut trust = TrustSet::default();
            trust.add_ed25519(public, None).expect("a key");
            let mut options = EdgeOptions::default();
            options.trust = trust;
            options.retry.first_pause = std::time::Duration::from_millis(1);
            let served = world.serve(vec![first.clone(), world.memory.clone()], options);
            let ask = |text: String| world.try_read(&*served.client, &path(text), ReadRange::Full);
            let file = ask("org/signed/resolve/main/model.safetensors".to_owned());
            assert!(file.unwrap_or_else(|error| panic!("{what}: {error}")) == weights, "{what}");
            for object in ["refs/org/signed/@latest".to_owned(), format!("manifests/{id}")] {
                ask(object).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            // It was the first that was asked for it.
            assert!(first.stats().below(object).reads > 0, "{what}");
        }
    }
}
