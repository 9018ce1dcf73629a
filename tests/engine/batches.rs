//! What a request gets does not depend on which others share its batch.

use tenpak::engine::{Engine, EngineOptions, Event, Finish, ModelOptions, Refused, Request};

use super::world::*;

/// Requests of every kind, with seeds.
fn requests() -> Vec<Request> {
    (0..24_usize)
        .map(|at| {
            let prompt = (0..1 + at * 2).map(|i| ((i * i + i / 17 * at) % 48) as u32).collect();
            let mut asked = request(prompt, 3 + at % 20);
            asked.sampling.ignore_eos = true;
            asked.sampling.temperature = if at % 3 == 0 { 0.0 } else { 0.9 };
            asked.sampling.seed = Some(at as u64);
            asked.sampling.logprobs = at % 4;
            asked
        })
        .collect()
}

#[test]
fn a_text_is_the_same_alone_and_among_others() {
    let store = packed("engine-batches", &fixture("tiny/llama"));
    let alone = engine(&store, "m");
    let expected: Vec<_> =
        requests().into_iter().map(|asked| tokens(alone.submit(asked).unwrap())).collect();
    // Little room, so that texts give way, and odd steps.
    for (blocks, concurrent, step) in [(1000, 32, 256), (1000, 5, 7), (5, 16, 64)] {
        let model = model(&store, "m", &ModelOptions::default()).unwrap();
        let cache = model.block_bytes() as u64 * blocks;
        let mut options = EngineOptions::default();
        (options.cache, options.max_concurrent, options.step) = (cache, concurrent, step);
        let engine = engine_of(model, options);
        let asked: Vec<_> =
            requests().into_iter().map(|asked| engine.submit(asked).unwrap()).collect();
        for (at, (events, expected)) in asked.into_iter().zip(&expected).enumerate() {
            assert_eq!(&tokens(events), expected, "request {at} of {concurrent} at a time");
        }
        let load = engine.load();
        assert_eq!(load.preemptions > 0, blocks == 5, "{load:?}");
        assert!(load.tokens as usize >= expected.iter().map(Vec::len).sum::<usize>());
    }
}

#[test]
fn whoever_leaves_frees_the_place_and_what_cannot_be_is_refused_at_once() {
    let store = packed("engine-leave", &fixture("base"));
    let model = model(&store, "m", &ModelOptions::default()).unwrap();
    let mut options = EngineOptions::default();
    options.max_concurrent = 2;
    let engine = engine_of(model, options);
    let most = engine.info().max_context;
    assert_eq!(most, 512);
    // Two that would run for long keep others out until they leave.
    let long = || engine.submit(request(vec![5; 4], most)).unwrap();
    let mut running = [long(), long()];
    for events in &mut running {
        assert!(matches!(events.blocking_recv(), Some(Event::Token(_))));
    }
    let next = engine.submit(request(vec![5; 4], 3)).unwrap();
    drop(running);
    assert_eq!(tokens(next).len(), 3);

    assert_eq!(engine.submit(request(Vec::new(), 3)).unwrap_err(), Refused::Empty);
    let refused = engine.submit(request(vec![5; most], 3)).unwrap_err();
    assert_eq!(refused, Refused::TooLong { tokens: most, most: most - 1 });
    assert!(matches!(engine.submit(request(vec![2048], 3)), Err(Refused::Token { .. })));
    let mut odd = request(vec![5], 3);
    odd.adapter = Some("nobody".to_owned());
    assert!(matches!(engine.submit(odd), Err(Refused::Adapter(_))));
    let mut odd = request(vec![5], 3);
    odd.sampling.top_p = -1.0;
    assert!(matches!(engine.submit(odd), Err(Refused::Parameter(_))));
    assert!(engine.embed(&[vec![1]]).is_err());
    // As long as the model takes.
    let end = all(engine.submit(request(vec![5; most - 2], 100)).unwrap()).pop();
    assert_eq!(end, Some(Event::End(Finish::Length)));
}
