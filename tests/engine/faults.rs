//! Damage, and origins that end: errors, and no text from what was not verified.

use std::path::Path;

use tenpak::engine::{Engine, EngineOptions, Event, ModelOptions, Refused};

use super::world::*;

/// Flips a bit of the largest pack, some way in.
pub fn damage(store: &Path, part: f64) {
    let packs = std::fs::read_dir(store.join("packs")).unwrap();
    let largest =
        packs.map(|pack| pack.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len());
    let path = largest.unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = (bytes.len() as f64 * part) as usize;
    bytes[at] ^= 1;
    let mut permissions = path.metadata().unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    permissions.set_readonly(false);
    std::fs::set_permissions(&path, permissions).unwrap();
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn of_a_damaged_artifact_comes_an_error_and_no_text() {
    for part in [0.1, 0.5, 0.9] {
        let store = packed("engine-damaged", &fixture("base"));
        damage(&store, part);
        let model = model(&store, "m", &ModelOptions::default()).unwrap();
        let engine = engine_of(model, EngineOptions::default());
        match engine.submit(request(vec![5; 4], 8)) {
            Ok(events) => {
                let events = all(events);
                let why = match events.as_slice() {
                    [Event::Failed(why)] => why.clone(),
                    other => panic!("{part}: {other:?}"),
                };
                assert!(why.contains("chunk"), "{why}");
            }
            Err(Refused::Stopped(why)) => assert!(why.contains("chunk"), "{why}"),
            Err(other) => panic!("{other:?}"),
        }
        // And nothing later.
        assert!(matches!(engine.submit(request(vec![5; 4], 8)), Err(Refused::Stopped(_))));
        assert!(engine.failed().is_some());
    }
}

#[test]
fn layers_that_pass_are_verified_each_time() {
    let store = packed("engine-passing", &fixture("base"));
    let options = within(4 << 20);
    let model = model(&store, "m", &options).unwrap();
    assert!(model.is_streamed());
    let engine = engine_of(model, EngineOptions::default());
    let mut events = engine.submit(request(vec![5; 4], 400)).unwrap();
    assert!(matches!(events.blocking_recv(), Some(Event::Token(_))));
    damage(&store, 0.85);
    let last = all(events).pop();
    assert!(matches!(last, Some(Event::Failed(_))), "{last:?}");
}
