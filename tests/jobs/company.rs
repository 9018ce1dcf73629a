//! Many workers as processes that are killed and stopped while they work: each job comes to one end, no lease is
//! given twice, no job runs past its cap, and what a fenced worker made is not published.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tenpak::jobs::{Beat, Clock, Filter, Jobs, Lease, Outcome, Policy, State, Submission};

use super::world::{World, submission};

const URL: &str = "TENPAK_TEST_JOBS";
const NOTES: &str = "TENPAK_TEST_NOTES";

/// Short times, so that kills matter.
fn policy() -> Policy {
    Policy {
        lease: Duration::from_millis(600),
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(100),
        ..Policy::default()
    }
}

/// Where a test says how many milliseconds the clock of workers and its own has been moved.
const CLOCK: &str = "TENPAK_TEST_CLOCK";

/// The database's clock, or one that a test moves while processes work.
fn clock(path: Option<&Path>) -> Clock {
    let Some(path) = path.map(Path::to_owned) else { return Clock::Database };
    let time = Arc::new(AtomicI64::new(0));
    let set = {
        let time = time.clone();
        move || {
            let now =
                SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_millis() as i64;
            let moved = std::fs::read_to_string(&path)
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok());
            time.store(now + moved.unwrap_or(0), Ordering::SeqCst);
        }
    };
    set();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_millis(5));
            set();
        }
    });
    Clock::Set(time)
}

/// What a long run sets: so many jobs.
fn soak(few: usize) -> usize {
    std::env::var("TENPAK_SOAK").map_or(few, |n| n.parse().expect("TENPAK_SOAK is a number"))
}

/// One line that is written whole or not at all.
fn note(path: &Path, line: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("a file");
    file.write_all(format!("{line}\n").as_bytes()).expect("a line");
}

/// The life of a worker process, until it is killed.
#[test]
fn a_worker_process() {
    let Ok(url) = std::env::var(URL) else { return };
    let notes = std::env::var(NOTES).expect("where to note");
    let notes = Path::new(&notes);
    let name = std::process::id().to_string();
    let jobs = loop {
        let moved = std::env::var_os(CLOCK).map(PathBuf::from);
        if let Ok(jobs) = Jobs::open(&url, policy(), clock(moved.as_deref())) {
            break jobs;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    loop {
        match jobs.claim(&name) {
            Ok(Some((job, lease))) => {
                note(notes, &format!("claimed {} {}", job.id, lease.epoch));
                work(&jobs, &lease, notes);
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            // It was stopped by the test.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn work(jobs: &Jobs, lease: &Lease, notes: &Path) {
    for step in 0..fastrand::u8(1..4) {
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..15)));
        match jobs.heartbeat(lease, Some(&json!({"done": step}))) {
            Ok(Beat::Go) | Err(_) => {}
            Ok(Beat::Cancel) => {
                let error = "terminated".to_owned();
                drop(jobs.finish(lease, &Outcome::Failed { error, again: true, found: None }));
                return;
            }
            Ok(Beat::Lost) => return,
        }
    }
    if fastrand::u8(..) < 20 {
        let error = "by chance".to_owned();
        drop(jobs.finish(lease, &Outcome::Failed { error, again: true, found: None }));
        return;
    }
    let asked = Instant::now();
    if !jobs.may_publish(lease).unwrap_or(false) {
        return;
    }
    // Whoever was stopped in between finds the leave stale.
    if asked.elapsed() < policy().lease / 2 {
        note(notes, &format!("published {} {}", lease.job, lease.epoch));
    }
    drop(jobs.finish(lease, &Outcome::Succeeded(json!({"epoch": lease.epoch}))));
}

fn worker(url: &str, notes: &Path, moved: Option<&Path>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    if let Some(moved) = moved {
        command.env(CLOCK, moved);
    }
    command
        .args(["--exact", "company::a_worker_process", "--nocapture"])
        .env(URL, url)
        .env(NOTES, notes)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process")
}

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().expect("kill").success());
}

/// Workers at a time.
const WORKERS: usize = 8;
/// The time between two looks at the company, each of which may mean trouble.
const STEP: Duration = Duration::from_millis(60);
/// The same of a long run, which has hundreds of them. A worker that is stopped while it claims holds all others up, and
/// on PostgreSQL so does one that a busy machine does not let go on.
const LONG_STEP: Duration = Duration::from_millis(240);
/// How often the database is ended while jobs run.
const CRASHES: usize = 4;

/// Submits so many jobs, and cancels some of them at once. Gives how many there are.
fn submit_all(jobs: &Jobs, count: usize) -> usize {
    let mut ids = BTreeSet::new();
    for number in 0..count {
        // Where the answer was lost, the job is there.
        let idempotency = Some((number.to_string(), String::new()));
        let wanted = Submission {
            max_attempts: 4,
            idempotency,
            ..submission(&format!("t{}", number % 3), &number.to_string())
        };
        let given = loop {
            match jobs.submit(&wanted) {
                Ok(given) => break given.job.id,
                // The database was ended by the test.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        if number % 17 == 0 {
            drop(jobs.cancel(&given));
        }
        ids.insert(given);
        // A few jobs take long enough for trouble, too.
        if (number + 1).is_multiple_of(count.div_ceil(20)) {
            std::thread::sleep(STEP);
        }
    }
    ids.len()
}

/// What happens to the world meanwhile: the database is ended, the clock is moved.
struct Trouble<'a> {
    crash: Option<&'a mut dyn FnMut()>,
    clock: bool,
}

fn company(world: &World, count: usize, mut trouble: Trouble<'_>) {
    let url = world.database();
    let folder = tempfile::tempdir().unwrap();
    let (notes, moved) = (folder.path().join("notes"), folder.path().join("clock"));
    let moved = trouble.clock.then_some(&*moved);
    let jobs = Jobs::open(&url, policy(), clock(moved)).unwrap();
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| worker(&url, &notes, moved)).collect();
    let mut jumps = Instant::now();
    let mut stopped = BTreeMap::<usize, Instant>::new();
    let start = Instant::now();
    // Jobs come while there is trouble; who submits them tries again until each is there.
    let submitting = std::thread::spawn({
        let jobs = jobs.clone();
        move || submit_all(&jobs, count)
    });
    let mut crashed = 0;
    loop {
        let ended = || {
            let counts = jobs.counts().unwrap_or_default();
            counts.iter().filter(|(state, _)| state.is_final()).map(|(_, n)| *n).sum::<i64>()
                as usize
        };
        // At even steps through the work.
        if let Some(crash) = &mut trouble.crash
            && crashed < CRASHES
            && ended() >= count * (crashed + 1) / (CRASHES + 2)
        {
            crashed += 1;
            crash();
        }
        // The clock goes on by an hour, back by two, and so on, as a machine's does that is set.
        if let Some(moved) = moved
            && jumps.elapsed() > policy().lease
        {
            jumps = Instant::now();
            let hours = [1_i64, -1, 24, -24, 0][fastrand::usize(..5)];
            let next = folder.path().join("next");
            std::fs::write(&next, (hours * 3_600_000).to_string()).unwrap();
            std::fs::rename(&next, moved).unwrap();
        }
        let at = fastrand::usize(..workers.len());
        match fastrand::u8(..4) {
            0 if !stopped.contains_key(&at) => {
                drop(workers[at].kill());
                drop(workers[at].wait());
                workers[at] = worker(&url, &notes, moved);
            }
            1 if !stopped.contains_key(&at) => {
                signal(&workers[at], "-STOP");
                stopped.insert(at, Instant::now());
            }
            _ => {}
        }
        // Stopped for longer than a lease, then let go.
        let over = |since: &Instant| since.elapsed() > policy().lease * 2;
        stopped.retain(|at, since| {
            let over = over(since);
            if over {
                signal(&workers[*at], "-CONT");
            }
            !over
        });
        if submitting.is_finished() && ended() == count {
            break;
        }
        let patience = Duration::from_secs(if count > 1000 { 1800 } else { 600 });
        assert!(start.elapsed() < patience, "{:?}", jobs.counts());
        std::thread::sleep(if count > 1000 { LONG_STEP } else { STEP });
    }
    for worker in &mut workers {
        drop(worker.kill());
        drop(worker.wait());
    }
    assert_eq!(submitting.join().unwrap(), count);
    let noted = std::fs::read_to_string(&notes).unwrap();
    let all = |kind: &str| -> Vec<(&str, i64)> {
        let of = noted
            .lines()
            .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once(' '));
        of.map(|(job, epoch)| (job, epoch.parse().unwrap())).collect()
    };
    let claimed = all("claimed");
    let distinct: BTreeSet<_> = claimed.iter().collect();
    assert_eq!(distinct.len(), claimed.len(), "a lease was given twice");
    let published: BTreeSet<_> = all("published").into_iter().collect();
    let mut states = BTreeMap::new();
    for job in jobs.list(&Filter { limit: count * 2, ..Filter::default() }).unwrap() {
        *states.entry(job.state).or_insert(0) += 1;
        assert!(job.state.is_final() && job.attempts <= job.max_attempts, "{job:?}");
        let id = job.id.as_str();
        assert!(claimed.iter().filter(|(own, _)| *own == id).count() <= job.max_attempts as usize);
        let events = jobs.events(&job.id, 0, 10_000).unwrap();
        assert!(events.iter().zip(1..).all(|(event, n)| event.n == n));
        let ends = events.iter().filter(|event| {
            let state = event.data["state"].as_str().and_then(|state| state.parse().ok());
            event.kind == "state" && state.is_some_and(State::is_final)
        });
        assert_eq!(ends.count(), 1, "{events:?}");
        // The lease under which it succeeded is the last; nothing was published under a later one, and what was
        // published under an earlier one was published while that lease was the last.
        if job.state == State::Succeeded {
            assert_eq!(job.result.unwrap()["epoch"], job.epoch);
        }
        assert!(
            published.iter().filter(|(own, _)| *own == id).all(|(_, epoch)| *epoch <= job.epoch)
        );
    }
    assert_eq!(states.values().sum::<usize>(), count, "{states:?}");
    assert!(states[&State::Succeeded] > count / 2, "{states:?}");
    eprintln!("{states:?}, {} leases, {:.1} s", claimed.len(), start.elapsed().as_secs_f64());
}

// Nobody loses power here, and a job takes three commits: the databases wait for no disk, so that the time that this
// takes is not that of whoever else writes there.

#[test]
fn sqlite_survives_kills_and_pauses() {
    company(&World::sqlite_in_memory(), soak(40), Trouble { crash: None, clock: false });
}

#[test]
fn sqlite_survives_a_clock_that_jumps() {
    company(&World::sqlite_in_memory(), soak(40), Trouble { crash: None, clock: true });
}

#[test]
fn postgres_survives_kills_pauses_and_restarts() {
    let mut server = super::postgres::Postgres::start_unsynced();
    let url = server.database();
    company(
        &World::At(url),
        soak(120),
        Trouble { crash: Some(&mut || server.crash()), clock: false },
    );
}
