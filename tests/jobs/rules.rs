//! The rules one by one, each on both databases.

use std::sync::atomic::Ordering;

use serde_json::json;
use tenpak::jobs::{
    Beat, Clock, DatabaseError, Filter, Jobs, JobsError, Outcome, Policy, Quota, State, Submission,
};

use super::world::{World, get, submission, submit};

fn failed(error: &str) -> Outcome {
    Outcome::Failed { error: error.to_owned(), again: true, found: None }
}

fn a_run_is_leased_kept_and_finished(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    let job = submit(&jobs, &time, "a", "k").job;
    assert_eq!((job.state, job.attempts, job.epoch), (State::Queued, 0, 0));
    let (claimed, lease) = jobs.claim("w").unwrap().unwrap();
    assert_eq!((claimed.state, claimed.attempts, claimed.epoch), (State::Running, 1, 1));
    assert!(jobs.claim("w2").unwrap().is_none());
    assert_eq!(jobs.heartbeat(&lease, Some(&json!({"done": 1}))).unwrap(), Beat::Go);
    assert!(jobs.tell(&lease, &[("log", json!("x"))]).unwrap());
    assert!(jobs.may_publish(&lease).unwrap());
    let result = json!({"artifact": "x"});
    let done = jobs.finish(&lease, &Outcome::Succeeded(result.clone())).unwrap();
    assert_eq!(done, Some(State::Succeeded));
    let job = get(&jobs, &job);
    assert_eq!(
        (job.result, job.progress, job.worker),
        (Some(result), Some(json!({"done": 1})), None)
    );
    // It is over: nothing changes it.
    assert_eq!(jobs.finish(&lease, &failed("late")).unwrap(), None);
    assert_eq!(jobs.heartbeat(&lease, None).unwrap(), Beat::Lost);
    assert!(
        !jobs.may_publish(&lease).unwrap() && !jobs.tell(&lease, &[("log", json!(1))]).unwrap()
    );
    assert_eq!(jobs.cancel(&job.id).unwrap().state, State::Succeeded);
    let events = jobs.events(&job.id, 0, 100).unwrap();
    let kinds: Vec<_> = events.iter().map(|event| (event.n, &*event.kind)).collect();
    assert_eq!(kinds, [(1, "state"), (2, "state"), (3, "progress"), (4, "log"), (5, "state")]);
    assert_eq!(jobs.events(&job.id, 3, 1).unwrap()[0].n, 4);
}

fn a_lost_lease_counts_for_nothing(world: &World) {
    let policy = Policy::default();
    let (jobs, time) = world.set(policy);
    let job = submit(&jobs, &time, "a", "k").job;
    let (_, first) = jobs.claim("w").unwrap().unwrap();
    time.fetch_add(policy.lease.as_millis() as i64 + 1, Ordering::SeqCst);
    // Late, but nobody else has it: a heartbeat renews.
    assert_eq!(jobs.heartbeat(&first, None).unwrap(), Beat::Go);
    assert_eq!(jobs.expire().unwrap(), 0);
    time.fetch_add(policy.lease.as_millis() as i64 + 1, Ordering::SeqCst);
    assert_eq!(jobs.expire().unwrap(), 1);
    assert!(jobs.claim("w2").unwrap().is_none(), "it pauses first");
    time.fetch_add(policy.pause(1), Ordering::SeqCst);
    let (again, second) = jobs.claim("w2").unwrap().unwrap();
    assert_eq!((again.id, again.attempts, second.epoch), (job.id.clone(), 2, 2));
    assert_eq!(jobs.heartbeat(&first, None).unwrap(), Beat::Lost);
    assert!(!jobs.may_publish(&first).unwrap());
    assert_eq!(jobs.finish(&first, &Outcome::Succeeded(json!(1))).unwrap(), None);
    assert!(jobs.may_publish(&second).unwrap());
    // The cap: three attempts, and no worker to come back.
    for _ in 0..2 {
        time.fetch_add(policy.lease.as_millis() as i64 + 1, Ordering::SeqCst);
        jobs.expire().unwrap();
        time.fetch_add(policy.longest_pause.as_millis() as i64, Ordering::SeqCst);
        jobs.claim("w").unwrap();
    }
    let job = get(&jobs, &job);
    assert_eq!((job.state, job.attempts), (State::Failed, 3));
    assert!(job.error.unwrap().contains("at the last of 3"));
}

fn cancelling_ends_what_waits_and_asks_what_runs(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    let (waits, runs) = (submit(&jobs, &time, "a", "1").job, submit(&jobs, &time, "a", "0").job);
    assert_eq!(jobs.cancel(&waits.id).unwrap().state, State::Cancelled);
    let (job, lease) = jobs.claim("w").unwrap().unwrap();
    assert_eq!(job.id, runs.id);
    assert_eq!(jobs.cancel(&runs.id).unwrap().state, State::Cancelling);
    assert_eq!(jobs.cancel(&runs.id).unwrap().state, State::Cancelling);
    assert_eq!(jobs.heartbeat(&lease, None).unwrap(), Beat::Cancel);
    assert!(!jobs.may_publish(&lease).unwrap(), "it is to end");
    assert_eq!(jobs.finish(&lease, &failed("terminated")).unwrap(), Some(State::Cancelled));
    // A worker that is lost while it cancels.
    let lost = submit(&jobs, &time, "a", "2").job;
    jobs.claim("w").unwrap().unwrap();
    jobs.cancel(&lost.id).unwrap();
    time.fetch_add(60_000, Ordering::SeqCst);
    jobs.expire().unwrap();
    assert_eq!(get(&jobs, &lost).state, State::Cancelled);
    // What was cancelled is tried again as another job.
    let again = jobs.retry(&lost.id, Quota::default(), None).unwrap().job;
    assert_eq!((again.state, again.retry_of), (State::Queued, Some(lost.id.clone())));
    let error = jobs.retry(&again.id, Quota::default(), None).unwrap_err();
    assert!(matches!(error, JobsError::NotOver(State::Queued)));
}

fn a_worker_that_ends_in_order_hands_over(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    let job = submit(&jobs, &time, "a", "k").job;
    for epoch in 1..5 {
        let (claimed, lease) = jobs.claim("w").unwrap().unwrap();
        assert_eq!((claimed.attempts, lease.epoch), (1, epoch));
        assert_eq!(jobs.finish(&lease, &Outcome::HandedOver).unwrap(), Some(State::Queued));
    }
    assert_eq!(get(&jobs, &job).attempts, 0);
}

fn one_active_job_per_key(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    let first = submit(&jobs, &time, "a", "k");
    let urgent = Submission { priority: 5, ..submission("a", "k") };
    let second = jobs.submit(&urgent).unwrap();
    assert!(!first.joined && second.joined);
    assert_eq!((&second.job.id, second.job.priority), (&first.job.id, 5));
    assert!(!submit(&jobs, &time, "b", "k").joined, "tenants do not see each other");
    // At once from many threads: one job.
    let ids: Vec<_> = std::thread::scope(|scope| {
        let submit = || jobs.submit(&submission("a", "many")).unwrap().job.id;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(submit)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // When it is over, the next is a job of its own; the last that succeeded is found.
    let (job, lease) = jobs.claim("w").unwrap().unwrap();
    assert_eq!(job.id, first.job.id);
    jobs.finish(&lease, &Outcome::Succeeded(json!({"x": 1}))).unwrap();
    assert_eq!(jobs.succeeded("a", "k").unwrap().unwrap().id, first.job.id);
    assert_eq!(jobs.succeeded("b", "k").unwrap(), None);
    assert!(!submit(&jobs, &time, "a", "k").joined);
}

fn the_same_submission_is_one_job(world: &World) {
    let (jobs, _) = world.set(Policy::default());
    let wanted = |key: &str, body: &str| Submission {
        idempotency: Some(("once".to_owned(), body.to_owned())),
        ..submission("a", key)
    };
    let first = jobs.submit(&wanted("k", "body")).unwrap().job;
    jobs.cancel(&first.id).unwrap();
    let second = jobs.submit(&wanted("k", "body")).unwrap();
    assert_eq!((second.joined, &second.job.id), (true, &first.id), "also when it is over");
    let error = jobs.submit(&wanted("other", "other body")).unwrap_err();
    assert!(matches!(error, JobsError::OtherRequest));
}

fn quotas_hold_and_a_flood_delays_itself(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    let few = Quota { running: 1, active: 3, daily: 4 };
    let wanted = |key: usize| Submission { quota: few, ..submission("a", &key.to_string()) };
    for key in 0..3 {
        jobs.submit(&wanted(key)).unwrap();
        time.fetch_add(1, Ordering::SeqCst);
    }
    let error = jobs.submit(&wanted(3)).unwrap_err();
    assert!(matches!(error, JobsError::Active { active: 3, limit: 3 }));
    assert!(jobs.submit(&wanted(2)).unwrap().joined, "joining costs nothing");
    let (job, _) = jobs.claim("w").unwrap().unwrap();
    assert!(jobs.claim("w").unwrap().is_none(), "one at a time");
    jobs.cancel(&jobs.list(&Filter { limit: 1, ..Filter::default() }).unwrap()[0].id).unwrap();
    jobs.submit(&wanted(4)).unwrap();
    jobs.cancel(&job.id).unwrap();
    time.fetch_add(60_000, Ordering::SeqCst);
    jobs.expire().unwrap();
    let error = jobs.submit(&wanted(5)).unwrap_err();
    assert!(matches!(error, JobsError::Daily { limit: 4 }), "{error}");
    time.fetch_add(24 * 60 * 60 * 1000, Ordering::SeqCst);
    jobs.submit(&wanted(5)).unwrap();

    // Tenants take turns, whoever came first with however many, at whatever priority.
    let (jobs, time) = world.set(Policy::default());
    for key in 0..20 {
        let flood = Submission { priority: 9, ..submission("flood", &key.to_string()) };
        jobs.submit(&flood).unwrap();
    }
    for key in 0..3 {
        submit(&jobs, &time, "small", &key.to_string());
    }
    let order: Vec<_> = (0..6).map(|_| jobs.claim("w").unwrap().unwrap().0.tenant).collect();
    let small = order.iter().filter(|tenant| *tenant == "small").count();
    assert_eq!(small, 3, "{order:?}");
}

fn priority_then_age_within_a_tenant(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    for (key, priority) in [("old", 0), ("urgent", 2), ("new", 0), ("low", -1)] {
        time.fetch_add(1, Ordering::SeqCst);
        jobs.submit(&Submission { priority, ..submission("a", key) }).unwrap();
    }
    let order: Vec<_> = (0..4).map(|_| jobs.claim("w").unwrap().unwrap().0.key).collect();
    assert_eq!(order, ["urgent", "old", "new", "low"]);
}

fn a_clock_that_goes_back_keeps_nothing(world: &World) {
    let policy = Policy::default();
    let (jobs, time) = world.set(policy);
    let job = submit(&jobs, &time, "a", "k").job;
    jobs.claim("dead").unwrap().unwrap();
    time.fetch_sub(1_000_000_000, Ordering::SeqCst);
    jobs.expire().unwrap();
    time.fetch_add(policy.lease.as_millis() as i64 + 1, Ordering::SeqCst);
    jobs.expire().unwrap();
    assert_eq!(get(&jobs, &job).state, State::Queued);
    time.fetch_add(policy.longest_pause.as_millis() as i64, Ordering::SeqCst);
    assert!(jobs.claim("w").unwrap().is_some());
}

fn lists_are_filtered_and_paged(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    for key in 0..7 {
        submit(&jobs, &time, if key % 2 == 0 { "a" } else { "b" }, &key.to_string());
    }
    let keys = |filter: &Filter| -> Vec<String> {
        jobs.list(filter).unwrap().into_iter().map(|job| job.key).collect()
    };
    let of_a = Filter { tenant: Some("a".to_owned()), limit: 2, ..Filter::default() };
    assert_eq!(keys(&of_a), ["6", "4"]);
    let last = jobs.list(&of_a).unwrap().pop().unwrap().id;
    assert_eq!(keys(&Filter { before: Some(last), ..of_a.clone() }), ["2", "0"]);
    jobs.claim("w").unwrap();
    let running = Filter { state: Some(State::Running), limit: 9, ..Filter::default() };
    assert_eq!(keys(&running).len(), 1);
    assert!(keys(&Filter { kind: Some("delta".to_owned()), ..running }).is_empty());
    let mut counts = jobs.counts().unwrap();
    counts.sort();
    assert_eq!(counts, [(State::Queued, 6), (State::Running, 1)]);
}

fn what_is_over_is_forgotten_after_a_time(world: &World) {
    let policy = Policy::default();
    let (jobs, time) = world.set(policy);
    let (over, waits) = (submit(&jobs, &time, "a", "0").job, submit(&jobs, &time, "a", "1").job);
    jobs.cancel(&over.id).unwrap();
    time.fetch_add(policy.retention.as_millis() as i64, Ordering::SeqCst);
    assert_eq!(jobs.sweep().unwrap(), 0);
    time.fetch_add(1, Ordering::SeqCst);
    assert_eq!(jobs.sweep().unwrap(), 1);
    assert!(matches!(jobs.get(&over.id), Err(JobsError::NoJob(_))));
    assert!(jobs.events(&over.id, 0, 9).unwrap().is_empty());
    assert_eq!(get(&jobs, &waits).state, State::Queued);
}

fn hostile_texts_are_texts(world: &World) {
    let (jobs, _) = world.set(Policy::default());
    for text in ["'; DROP TABLE jobs; --", "$1", "ä\u{1F600}", "%_\\", "\"}"] {
        let wanted = Submission { request: json!({"x": text}), ..submission(text, text) };
        let job = jobs.submit(&wanted).unwrap().job;
        assert_eq!((&*job.tenant, &*job.key, &job.request["x"]), (text, text, &json!(text)));
    }
    let long = Submission { request: json!("x".repeat(1 << 20)), ..submission("a", "k") };
    assert!(matches!(jobs.submit(&long), Err(JobsError::Invalid(_))));
}

fn workers_are_seen(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    let job = submit(&jobs, &time, "a", "k").job;
    jobs.seen("w", Some(&job.id)).unwrap();
    time.fetch_add(5, Ordering::SeqCst);
    jobs.seen("w", None).unwrap();
    let seen = jobs.workers().unwrap();
    assert_eq!(
        (&*seen[0].name, seen[0].seen_at - seen[0].started_at, &seen[0].job),
        ("w", 5, &None)
    );
    jobs.gone("w").unwrap();
    assert!(jobs.workers().unwrap().is_empty());
}

type Rule = (&'static str, fn(&World));

const RULES: [Rule; 13] = [
    ("run", a_run_is_leased_kept_and_finished),
    ("lost", a_lost_lease_counts_for_nothing),
    ("cancel", cancelling_ends_what_waits_and_asks_what_runs),
    ("hand over", a_worker_that_ends_in_order_hands_over),
    ("one per key", one_active_job_per_key),
    ("idempotency", the_same_submission_is_one_job),
    ("quotas", quotas_hold_and_a_flood_delays_itself),
    ("priority", priority_then_age_within_a_tenant),
    ("clock", a_clock_that_goes_back_keeps_nothing),
    ("lists", lists_are_filtered_and_paged),
    ("retention", what_is_over_is_forgotten_after_a_time),
    ("texts", hostile_texts_are_texts),
    ("workers", workers_are_seen),
];

fn all(world: &World) {
    for (name, rule) in RULES {
        eprintln!("{name}");
        rule(world);
    }
}

#[test]
fn sqlite_keeps_every_rule() {
    all(&World::sqlite());
}

#[test]
fn postgres_keeps_every_rule() {
    all(&World::postgres());
}

#[test]
fn a_newer_schema_is_refused() {
    let world = World::sqlite();
    let url = world.database();
    drop(Jobs::open(&url, Policy::default(), Clock::Database).unwrap());
    drop(Jobs::open(&url, Policy::default(), Clock::Database).unwrap());
    let path = url.strip_prefix("sqlite:").unwrap();
    let database = rusqlite::Connection::open(path).unwrap();
    database.execute("UPDATE schema_version SET version = version + 1", []).unwrap();
    let error = Jobs::open(&url, Policy::default(), Clock::Database).unwrap_err();
    assert!(matches!(error, JobsError::Database(DatabaseError::Newer { .. })), "{error}");
    for url in ["mysql://x", "", "sqlite:"] {
        let error = Jobs::open(url, Policy::default(), Clock::Database).unwrap_err();
        assert!(matches!(error, JobsError::Database(DatabaseError::Url(_))), "{error}");
    }
}
