//! Who is told of jobs, what is noted of who did what, and copies of a database: each on both databases.

use std::io::Cursor;
use std::sync::atomic::Ordering;

use serde_json::json;
use tenpak::jobs::{Clock, Jobs, JobsError, Outcome, Policy, Sent, State};

use super::world::{World, get, submit};

fn ends_are_told_once_each(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    let all = [State::Succeeded, State::Failed, State::Cancelled];
    let every = jobs.add_hook("a", "https://x/", "whsec_x", &all, None).unwrap();
    // Those of one millisecond have no order.
    time.fetch_add(1, Ordering::SeqCst);
    let failures = jobs.add_hook("a", "https://y/", "whsec_x", &[State::Failed], None).unwrap();
    jobs.add_hook("b", "https://z/", "whsec_x", &all, None).unwrap();
    assert_eq!(jobs.hooks("a").unwrap(), [every.clone(), failures.clone()]);
    // One succeeds, one fails, one is cancelled while it waits.
    submit(&jobs, &time, "a", "1");
    let (_, lease) = jobs.claim("w").unwrap().unwrap();
    jobs.finish(&lease, &Outcome::Succeeded(json!(1))).unwrap();
    submit(&jobs, &time, "a", "2");
    let (_, lease) = jobs.claim("w").unwrap().unwrap();
    let found = Some(json!({"candidates": []}));
    let outcome =
        Outcome::Failed { error: "nothing fits".to_owned(), again: false, found: found.clone() };
    assert_eq!(jobs.finish(&lease, &outcome).unwrap(), Some(State::Failed));
    let failed = jobs.get(&lease.job).unwrap();
    assert_eq!(
        (failed.attempts, failed.result, failed.error.as_deref()),
        (1, found, Some("nothing fits"))
    );
    let cancelled = submit(&jobs, &time, "a", "3").job;
    jobs.cancel(&cancelled.id).unwrap();
    let kinds = |hook: &str| -> Vec<String> {
        jobs.deliveries(hook, 10).unwrap().into_iter().rev().map(|message| message.kind).collect()
    };
    assert_eq!(kinds(&failures.id), ["job.failed"]);
    let mut told = kinds(&every.id);
    told.sort();
    assert_eq!(told, ["job.cancelled", "job.failed", "job.succeeded"]);

    // What is taken is not taken again for a while; what failed is sent again, later and later, and then no more.
    let mut taken = Vec::new();
    while let Some((message, hook)) = jobs.take_delivery().unwrap() {
        assert_eq!(message.hook, hook.id);
        taken.push(message);
    }
    assert_eq!(taken.len(), 4);
    let (arrived, lost) = (taken.remove(0), taken.remove(0));
    jobs.sent(&arrived, &Sent::Arrived(200)).unwrap();
    let mut message = lost;
    let mut attempts = 1;
    loop {
        jobs.sent(&message, &Sent::Failed(Some(500), "it answers 500".to_owned())).unwrap();
        let log = jobs.deliveries(&message.hook, 10).unwrap();
        let now = log.iter().find(|own| own.id == message.id).unwrap();
        assert_eq!((now.status, now.error.as_deref()), (Some(500), Some("it answers 500")));
        let Some(due) = now.due_at else { break };
        time.store(due, Ordering::SeqCst);
        // Others are due again, too: nobody said what became of them.
        loop {
            let (again, _) = jobs.take_delivery().unwrap().unwrap();
            if again.id == message.id {
                message = again;
                break;
            }
            assert_ne!(again.id, arrived.id, "it arrived");
        }
        attempts += 1;
    }
    assert!(attempts == 9 && message.attempts == 9, "{attempts}");
    // A target that is gone is told nothing more.
    jobs.ping(&failures.id).unwrap();
    let (message, _) = loop {
        let taken = jobs.take_delivery().unwrap().unwrap();
        if taken.0.hook == failures.id {
            break taken;
        }
    };
    jobs.sent(&message, &Sent::Gone(410)).unwrap();
    assert!(jobs.hooks("a").unwrap()[1].disabled_at.is_some());
    assert!(!jobs.remove_hook("b", &every.id).unwrap(), "another tenant's");
    assert!(jobs.remove_hook("a", &every.id).unwrap());
    assert!(jobs.deliveries(&every.id, 9).unwrap().is_empty());
}

fn deeds_are_noted(world: &World) {
    let (jobs, time) = world.set(Policy::default());
    for what in ["1", "2", "3"] {
        time.fetch_add(1, Ordering::SeqCst);
        jobs.note("a", "alice", "submit", what).unwrap();
    }
    let last = jobs.deeds(None, 2).unwrap();
    assert_eq!(last.iter().map(|deed| &*deed.what).collect::<Vec<_>>(), ["3", "2"]);
    assert_eq!(jobs.deeds(Some(&last[1].n), 9).unwrap()[0].what, "1");
    submit(&jobs, &time, "a", "k");
    let tenants = jobs.tenants().unwrap();
    assert_eq!((&*tenants[0].tenant, &tenants[0].jobs), ("a", &vec![(State::Queued, 1)]));
}

/// A copy of one database is read into another of either kind; leases of the first count for nothing there.
fn a_copy_is_the_same_database(from: &World, into: &World) {
    let (jobs, time) = from.set(Policy::default());
    let (done, waits) =
        (submit(&jobs, &time, "a", "1").job, submit(&jobs, &time, "b", "it's \u{1F600}").job);
    let (_, lease) = jobs.claim("w").unwrap().unwrap();
    jobs.finish(&lease, &Outcome::Succeeded(json!({"x": null}))).unwrap();
    submit(&jobs, &time, "c", "runs");
    jobs.add_hook("a", "https://x/", "whsec_x", &[State::Failed], None).unwrap();
    let (running, held) = jobs.claim("w").unwrap().unwrap();
    let mut copy = Vec::new();
    let rows = jobs.write_copy(&mut copy).unwrap();
    let other = Jobs::open(&into.database(), Policy::default(), Clock::Set(time.clone())).unwrap();
    assert_eq!(other.read_copy(&mut Cursor::new(&copy)).unwrap(), rows);
    for job in [&done, &waits] {
        let (was, is) = (get(&jobs, job), get(&other, job));
        assert_eq!(
            (is.state, is.key, is.result, is.events),
            (was.state, was.key, was.result, was.events)
        );
        assert_eq!(jobs.events(&job.id, 0, 99).unwrap(), other.events(&job.id, 0, 99).unwrap());
    }
    assert_eq!(jobs.hooks("a").unwrap(), other.hooks("a").unwrap());
    assert!(!other.may_publish(&held).unwrap(), "a lease of before");
    time.fetch_add(1_000_000, Ordering::SeqCst);
    other.expire().unwrap();
    assert_eq!(get(&other, &running).state, State::Queued);
    // Not over jobs, not from what is no copy, and then nothing is changed.
    assert!(matches!(other.read_copy(&mut Cursor::new(&copy)), Err(JobsError::Invalid(_))));
    let half = &copy[..copy.len() / 2];
    for wrong in [&b""[..], b"{}\n", b"x", b"{\"tenpak_jobs\":999}\n", half] {
        let empty = Jobs::open(&into.database(), Policy::default(), Clock::Database).unwrap();
        assert!(empty.read_copy(&mut Cursor::new(wrong)).is_err());
        assert!(empty.counts().unwrap().is_empty());
    }
}

#[test]
fn sqlite_tells_and_notes() {
    ends_are_told_once_each(&World::sqlite());
    deeds_are_noted(&World::sqlite());
}

#[test]
fn postgres_tells_and_notes() {
    let world = World::postgres();
    ends_are_told_once_each(&world);
    deeds_are_noted(&world);
}

#[test]
fn copies_go_between_the_databases() {
    let (sqlite, postgres) = (World::sqlite(), World::postgres());
    a_copy_is_the_same_database(&sqlite, &postgres);
    a_copy_is_the_same_database(&postgres, &sqlite);
}
