//! What the queue costs with many jobs in it: submissions per second, and how long claims, lists and looks take
//! while eight workers claim. `TENPAK_SOAK=10000` is the size that is promised; the bounds hold on two cores that
//! others use, too.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tenpak::jobs::{Clock, Filter, Jobs, Outcome, Policy};

use super::world::{World, submission};

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn cost(world: &World, least_per_second: f64) {
    let count = std::env::var("TENPAK_SOAK").map_or(600, |n| n.parse().expect("a number"));
    let jobs = Jobs::open(&world.database(), Policy::default(), Clock::Database).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let jobs = &jobs;
            scope.spawn(move || {
                for key in (part..count).step_by(4) {
                    jobs.submit(&submission(&format!("t{}", key % 10), &key.to_string())).unwrap();
                }
            });
        }
    });
    let per_second = count as f64 / start.elapsed().as_secs_f64();
    let (mut claims, mut looks) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let jobs = &jobs;
                scope.spawn(move || {
                    let mut times = Vec::new();
                    for _ in 0..(count / 8).min(60) {
                        let start = Instant::now();
                        let claimed = jobs.claim(&worker.to_string()).unwrap();
                        times.push(start.elapsed());
                        let (_, lease) = claimed.unwrap();
                        jobs.finish(&lease, &Outcome::Succeeded(json!(1))).unwrap();
                        // Jobs take a while; claims do not come one upon the other.
                        std::thread::sleep(Duration::from_millis(50));
                    }
                    times
                })
            })
            .collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            let start = Instant::now();
            let page = jobs
                .list(&Filter { limit: 50, tenant: Some("t1".to_owned()), ..Filter::default() })
                .unwrap();
            jobs.get(&page[0].id).unwrap();
            looks.push(start.elapsed());
            std::thread::sleep(Duration::from_millis(2));
        }
        claims.extend(workers.into_iter().flat_map(|worker| worker.join().unwrap()));
    });
    let (claim, look) = (p99(claims), p99(looks));
    eprintln!(
        "{count} jobs: {per_second:.0} submitted per second, claim p99 {claim:?}, list and status p99 {look:?}"
    );
    assert!(
        per_second > least_per_second
            && claim < Duration::from_millis(500)
            && look < Duration::from_millis(500)
    );
}

#[test]
fn sqlite_is_fast_enough() {
    cost(&World::sqlite(), 20.0);
}

#[test]
fn postgres_is_fast_enough() {
    cost(&World::postgres(), 50.0);
}

/// Passes on what comes for this port, and counts questions: what a client says after an answer. Gives its own port.
fn counting(to: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let questions = count.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let answered = Arc::new(AtomicBool::new(true));
            let pass = |mut from: TcpStream, mut to: TcpStream, each: Box<dyn Fn() + Send>| {
                std::thread::spawn(move || {
                    let mut piece = [0; 4096];
                    while let Ok(len @ 1..) = from.read(&mut piece) {
                        each();
                        if to.write_all(&piece[..len]).is_err() {
                            break;
                        }
                    }
                    drop(to.shutdown(Shutdown::Both));
                });
            };
            let (count, asks, told) = (questions.clone(), answered.clone(), answered);
            let ask = move || {
                if asks.swap(false, Ordering::SeqCst) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            };
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            pass(from, to, Box::new(ask));
            pass(server, client, Box::new(move || told.store(true, Ordering::SeqCst)));
        }
    });
    (port, count)
}

/// Whoever claims holds all others up from one question to the next. Four are for leases that ran out, with no lock; then
/// the lock and the time, the claim, and its commit.
#[test]
fn a_claim_asks_postgres_seven_times() {
    let world = World::postgres();
    let url = world.database();
    let port: u16 = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
    let (own, questions) = counting(port);
    let url = url.replace(&format!(":{port}/"), &format!(":{own}/"));
    let jobs = Jobs::open(&url, Policy::default(), Clock::Database).unwrap();
    for key in 0..3 {
        jobs.submit(&submission("t", &key.to_string())).unwrap();
    }
    // Statements are prepared once.
    jobs.claim("w").unwrap().unwrap();
    for expected in [true, true, false] {
        let before = questions.load(Ordering::SeqCst);
        assert_eq!(jobs.claim("w").unwrap().is_some(), expected);
        assert_eq!(questions.load(Ordering::SeqCst) - before, 7);
    }
}

/// Who joins a job holds its tenant's row and wants the job's; so must who claims it, or each waits for the other.
#[test]
fn joining_and_claiming_a_job_do_not_wait_for_each_other() {
    let world = World::postgres();
    let jobs = Jobs::open(&world.database(), Policy::default(), Clock::Database).unwrap();
    let wanted = submission("t", "one");
    jobs.submit(&wanted).unwrap();
    let joining = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while joining.load(Ordering::SeqCst) {
                let (_, lease) = jobs.claim("w").unwrap().unwrap();
                jobs.finish(&lease, &Outcome::HandedOver).unwrap();
            }
        });
        // A panic ends the other, too.
        let joined = (0..200).all(|_| jobs.submit(&wanted).is_ok_and(|given| given.joined));
        joining.store(false, Ordering::SeqCst);
        assert!(joined);
    });
}
