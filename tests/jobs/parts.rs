//! Jobs in parts, on both databases.

use std::sync::atomic::Ordering;

use serde_json::json;
use tenpak::jobs::{Beat, Filter, Job, Jobs, Lease, Outcome, Policy, Quota, State, Submission};

use super::world::{START, World, get, submission};

fn whole(jobs: &Jobs, parts: u32) -> Job {
    jobs.submit(&Submission { parts, ..submission("a", "k") }).unwrap().job
}

fn claim(jobs: &Jobs) -> (Job, Lease) {
    jobs.claim("w").unwrap().expect("a job is due")
}

fn number(part: &Job) -> u64 {
    part.request["part"]["number"].as_u64().expect("a number")
}

fn made(jobs: &Jobs, lease: &Lease, manifest: &str) -> Option<State> {
    jobs.finish(lease, &Outcome::Succeeded(json!({"manifest": manifest}))).unwrap()
}

fn failed(error: &str) -> Outcome {
    Outcome::Failed { error: error.to_owned(), again: false, found: None }
}

fn states(jobs: &Jobs, whole: &Job) -> Vec<State> {
    jobs.parts(&whole.id).unwrap().iter().map(|part| part.state).collect()
}

fn the_whole_is_due_when_all_parts_are_made(world: &World) {
    let (jobs, _) = world.set(Policy::default());
    let whole = whole(&jobs, 3);
    let (first, one) = claim(&jobs);
    let (second, two) = claim(&jobs);
    let (third, three) = claim(&jobs);
    assert!(jobs.claim("w").unwrap().is_none(), "the whole waits");
    let name = |part: &Job| format!("m{}", number(part));
    let mut numbers = [&first, &second, &third].map(number);
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(
        (first.request["part"]["of"].clone(), &first.parent),
        (json!(3), &Some(whole.id.clone()))
    );
    assert_eq!(made(&jobs, &two, &name(&second)), Some(State::Succeeded));
    assert_eq!(made(&jobs, &two, "m"), None, "once");
    assert_eq!(made(&jobs, &one, &name(&first)), Some(State::Succeeded));
    assert_eq!(get(&jobs, &whole).progress.unwrap()["done"], 2);
    assert!(jobs.claim("w").unwrap().is_none());
    assert_eq!(made(&jobs, &three, &name(&third)), Some(State::Succeeded));
    let (claimed, lease) = claim(&jobs);
    assert_eq!((&claimed.id, claimed.attempts, claimed.parts), (&whole.id, 1, Some(3)));
    let parts = jobs.parts(&whole.id).unwrap();
    let manifests: Vec<_> =
        parts.iter().map(|part| part.result.clone().unwrap()["manifest"].clone()).collect();
    assert_eq!(manifests, ["m0", "m1", "m2"]);
    assert_eq!(made(&jobs, &lease, "m"), Some(State::Succeeded));
    assert!(jobs.claim("w").unwrap().is_none());
    // Parts are nobody's but their whole's: not listed, and no matter of quotas.
    let filter = Filter { limit: 10, ..Filter::default() };
    assert_eq!(jobs.list(&filter).unwrap().len(), 1);
}

fn a_lost_part_is_made_again_and_counts_once(world: &World) {
    let policy = Policy::default();
    let (jobs, time) = world.set(policy);
    let whole = whole(&jobs, 2);
    let (lost, old) = claim(&jobs);
    let (_, other) = claim(&jobs);
    made(&jobs, &other, "m1");
    time.fetch_add(policy.lease.as_millis() as i64 + 1, Ordering::SeqCst);
    assert!(jobs.claim("w2").unwrap().is_none(), "it pauses first");
    time.fetch_add(policy.pause(1), Ordering::SeqCst);
    let (again, new) = claim(&jobs);
    assert_eq!((&again.id, again.attempts), (&lost.id, 2));
    // Who lost it says nothing that counts: the whole still waits.
    assert_eq!(made(&jobs, &old, "stale"), None);
    assert!(jobs.claim("w").unwrap().is_none());
    assert_eq!(made(&jobs, &new, "m0"), Some(State::Succeeded));
    let (claimed, _) = claim(&jobs);
    assert_eq!(claimed.id, whole.id);
    let part = &jobs.parts(&whole.id).unwrap()[number(&lost) as usize];
    assert_eq!((&part.id, &part.result), (&lost.id, &Some(json!({"manifest": "m0"}))));
}

fn a_part_that_fails_fails_the_whole(world: &World) {
    let (jobs, _) = world.set(Policy::default());
    let all = [State::Failed, State::Succeeded, State::Cancelled];
    jobs.add_hook("a", "https://x/", "whsec_x", &all, None).unwrap();
    let whole = whole(&jobs, 3);
    let (_, one) = claim(&jobs);
    let (_, two) = claim(&jobs);
    assert_eq!(jobs.finish(&one, &failed("no such layer")).unwrap(), Some(State::Failed));
    let job = get(&jobs, &whole);
    assert_eq!((job.state, job.error.as_deref()), (State::Failed, Some("no such layer")));
    let mut seen = states(&jobs, &whole);
    seen.sort_unstable();
    assert_eq!(seen, [State::Cancelling, State::Failed, State::Cancelled]);
    assert_eq!(jobs.heartbeat(&two, None).unwrap(), Beat::Cancel);
    assert_eq!(jobs.finish(&two, &failed("killed")).unwrap(), Some(State::Cancelled));
    assert!(jobs.claim("w").unwrap().is_none());
    // Who is told hears of the whole, once.
    let (message, _) = jobs.take_delivery().unwrap().unwrap();
    assert_eq!(
        (message.data["id"].as_str(), &*message.kind),
        (Some(whole.id.as_str()), "job.failed")
    );
    assert!(jobs.take_delivery().unwrap().is_none());
    // Tried again it has as many parts, none of which is joined to an old one.
    let again = jobs.retry(&whole.id, Quota::default(), None).unwrap().job;
    assert_eq!(states(&jobs, &again), [State::Queued; 3]);
    let events = jobs.events(&whole.id, 0, 100).unwrap();
    assert_eq!(events.iter().map(|event| event.n).collect::<Vec<_>>(), [1, 2]);
}

fn cancelling_the_whole_ends_its_parts(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    let first = whole(&jobs, 2);
    let (_, lease) = claim(&jobs);
    assert_eq!(jobs.cancel(&first.id).unwrap().state, State::Cancelled);
    let mut seen = states(&jobs, &first);
    seen.sort_unstable();
    assert_eq!(seen, [State::Cancelling, State::Cancelled]);
    assert_eq!(jobs.heartbeat(&lease, None).unwrap(), Beat::Cancel);
    assert!(!jobs.may_publish(&lease).unwrap());
    // The same again begins at once, while the old part still ends.
    let second = whole(&jobs, 2);
    assert_ne!(first.id, second.id);
    let (part, _) = claim(&jobs);
    assert_eq!(part.parent, Some(second.id.clone()));
    jobs.finish(&lease, &Outcome::HandedOver).unwrap();
    assert_eq!(states(&jobs, &first), [State::Cancelled; 2]);
    // A part that is cancelled ends its whole, and one whose worker is lost for good fails it.
    let parts = jobs.parts(&second.id).unwrap();
    let waiting = parts.iter().find(|part| part.state == State::Queued).unwrap();
    jobs.cancel(&waiting.id).unwrap();
    assert_eq!(get(&jobs, &second).state, State::Cancelled);
    let third =
        jobs.submit(&Submission { parts: 2, max_attempts: 1, ..submission("a", "k") }).unwrap().job;
    let (_, _) = claim(&jobs);
    time.store(START + 3_600_000, Ordering::SeqCst);
    jobs.expire().unwrap();
    assert_eq!(get(&jobs, &third).state, State::Failed);
    assert!(get(&jobs, &third).error.unwrap().contains("lost"));
}

fn parts_are_no_matter_of_quotas(world: &World) {
    let (jobs, _) = world.set(Policy::default());
    let quota = Quota { active: 2, daily: 2, ..Quota::default() };
    let wanted = |key: &str| Submission { parts: 8, quota, ..submission("a", key) };
    assert!(jobs.submit(&wanted("k1")).is_ok() && jobs.submit(&wanted("k2")).is_ok());
    assert!(jobs.submit(&wanted("k3")).is_err());
    for parts in [1, 65] {
        let wrong = Submission { parts, ..submission("b", "k") };
        assert!(jobs.submit(&wrong).is_err(), "{parts}");
    }
}

/// Two who end parts of one whole at the same time, and one who cancels it, do not wait for each other.
fn ends_at_the_same_time_come_to_one_end(world: &World) {
    let jobs =
        Jobs::open(&world.database(), Policy::default(), tenpak::jobs::Clock::Database).unwrap();
    for round in 0..8 {
        let key = format!("k{round}");
        let wanted = Submission { parts: 6, ..submission("a", &key) };
        let whole = jobs.submit(&wanted).unwrap().job;
        let leases: Vec<Lease> = (0..6).map(|_| claim(&jobs).1).collect();
        std::thread::scope(|scope| {
            for (at, lease) in leases.iter().enumerate() {
                let jobs = &jobs;
                scope.spawn(move || match (at, round % 2) {
                    (3, 1) => drop(jobs.finish(lease, &failed("x")).unwrap()),
                    _ => drop(made(jobs, lease, "m")),
                });
            }
            if round % 4 == 3 {
                scope.spawn(|| jobs.cancel(&whole.id).unwrap());
            }
        });
        let state = get(&jobs, &whole).state;
        match round % 2 {
            0 => {
                let (claimed, lease) = claim(&jobs);
                assert_eq!(claimed.id, whole.id);
                made(&jobs, &lease, "m");
            }
            _ => assert!(matches!(state, State::Failed | State::Cancelled), "{state}"),
        }
        assert!(jobs.parts(&whole.id).unwrap().iter().all(|part| part.state.is_final()));
        assert!(jobs.claim("w").unwrap().is_none());
    }
}

const RULES: [fn(&World); 6] = [
    the_whole_is_due_when_all_parts_are_made,
    a_lost_part_is_made_again_and_counts_once,
    a_part_that_fails_fails_the_whole,
    cancelling_the_whole_ends_its_parts,
    parts_are_no_matter_of_quotas,
    ends_at_the_same_time_come_to_one_end,
];

#[test]
fn parts_hold_on_sqlite() {
    RULES.iter().for_each(|rule| rule(&World::sqlite()));
}

#[test]
fn parts_hold_on_postgres() {
    let world = World::postgres();
    RULES.iter().for_each(|rule| rule(&world));
}
