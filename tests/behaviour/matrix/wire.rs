//! Damage on the wire: a web server that answers the wrong thing, once or always.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::runtime::Runtime;

use super::world::{Reader, World};
use super::{each, random_cases};
use crate::web::{Step, WebServer, answer, correct};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The body ends early, and so does the connection.
    Short,
    Reset,
    Stall,
    /// No answer at all.
    Silence,
    /// The answer comes byte by byte for a while, and then all of it.
    SlowHead,
    /// The body comes so slowly that it never ends.
    SlowBody,
    /// A part is sent that was not asked for, and says so.
    WrongRange,
    /// A part is sent that was not asked for, and does not say so.
    LyingRange,
    /// All is sent where a part was asked for: slow, but right.
    ArtifactGraph,
    Status(u16),
    /// The length says more than there is.
    LongLength,
    /// The length says less than there is.
    ShortLength,
    NoHttp,
    FlipBit,
    NoBody,
    /// Leads to itself.
    Redirect,
    /// A head that does not end.
    EndlessHead,
    /// A body that does not end.
    EndlessBody,
}

const FAULTS: [Fault; 25] = [
    Fault::Short,
    Fault::Reset,
    Fault::Stall,
    Fault::Silence,
    Fault::SlowHead,
    Fault::SlowBody,
    Fault::WrongRange,
    Fault::LyingRange,
    Fault::ArtifactGraph,
    Fault::Status(400),
    Fault::Status(401),
    Fault::Status(403),
    Fault::Status(404),
    Fault::Status(416),
    Fault::Status(429),
    Fault::Status(500),
    Fault::Status(503),
    Fault::LongLength,
    Fault::ShortLength,
    Fault::NoHttp,
    Fault::FlipBit,
    Fault::NoBody,
    Fault::Redirect,
    Fault::EndlessHead,
    Fault::EndlessBody,
];

const PREFIXES: [&str; 6] =
    ["refs/org", "manifests/", "signatures/", "tables/", "layouts/", "packs/"];

#[derive(Debug, Clone, Copy)]
struct Case {
    prefix: &'static str,
    fault: Fault,
    /// Which of the matching requests it hits; all, if there is none.
    nth: Option<usize>,
    seed: u64,
}

/// The answer to a request for `object`, with the fault in it.
fn faulty(fault: Fault, seed: u64, head: &str, object: &[u8]) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let good = correct(head, object);
    let body_at = good.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let (good_head, body) = good.split_at(body_at);
    let cut = body_at + rng.gen_range(0..body.len().max(1));
    let lines = || {
        let text = std::str::from_utf8(good_head).expect("ASCII");
        text.trim_end().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let with_length = |length: usize| {
        let line = |line: String| match line.starts_with("Content-Length") {
            true => format!("Content-Length: {length}"),
            false => line,
        };
        let head: Vec<_> = lines().into_iter().map(line).collect();
        [format!("{}\r\n\r\n", head.join("\r\n")).as_bytes(), body].concat()
    };
    // The bytes beside those that were asked for.
    let beside = |honest: bool| {
        let Some((from, to)) = lines().iter().find_map(|line| {
            let range = line.strip_prefix("Content-Range: bytes ")?.split('/').next()?;
            let (from, to) = range.split_once('-')?;
            Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?))
        }) else {
            // The whole was asked for: a part of it comes instead.
            let range = format!("Content-Range: bytes 0-{}/{}", object.len() / 2, object.len());
            let part = &object[..object.len() / 2 + 1];
            let length = format!("Content-Length: {}", part.len());
            return answer("206 Partial Content", &[&range, &length], part);
        };
        let by = if from > 0 { from - 1..to } else { from + 1..(to + 2).min(object.len()) };
        let said = if honest { by.clone() } else { from..from + by.len() };
        let range =
            format!("Content-Range: bytes {}-{}/{}", said.start, said.end - 1, object.len());
        let length = format!("Content-Length: {}", by.len());
        answer("206 Partial Content", &[&range, &length], &object[by])
    };
    let send = |bytes: Vec<u8>| vec![Step::Send(bytes)];
    match fault {
        Fault::Short => vec![Step::Send(good[..cut].to_vec()), Step::Close],
        Fault::Reset => vec![Step::Send(good[..cut].to_vec()), Step::Reset],
        Fault::Stall => vec![Step::Send(good[..cut].to_vec()), Step::Stall],
        Fault::Silence => vec![Step::Stall],
        Fault::SlowHead => {
            let (first, rest) = good.split_at(20);
            vec![Step::Drip(first.to_vec(), Duration::from_millis(4)), Step::Send(rest.to_vec())]
        }
        Fault::SlowBody => vec![
            Step::Send(good_head.to_vec()),
            Step::Drip(body.to_vec(), Duration::from_millis(100)),
        ],
        Fault::WrongRange => send(beside(true)),
        Fault::LyingRange => send(beside(false)),
        Fault::ArtifactGraph => send(correct("", object)),
        Fault::Status(code) => send(answer(&format!("{code} No"), &["Content-Length: 3"], b"no\n")),
        Fault::LongLength => vec![Step::Send(with_length(body.len() + 77)), Step::Close],
        Fault::ShortLength => send(with_length(rng.gen_range(0..body.len().max(1)))),
        Fault::NoHttp => vec![Step::Send(b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec()), Step::Close],
        Fault::FlipBit => {
            let mut bad = good.clone();
            if let Some(byte) = bad.get_mut(cut) {
                *byte ^= 1 << rng.gen_range(0..8);
            }
            send(bad)
        }
        Fault::NoBody => {
            send(with_length(0)[..].split_at(with_length(0).len() - body.len()).0.to_vec())
        }
        Fault::Redirect => {
            let target = head.split(' ').nth(1).expect("a target");
            let location = format!("Location: {target}");
            send(answer("302 Found", &[&location, "Content-Length: 0"], b""))
        }
        Fault::EndlessHead => {
            let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
            for i in 0..200_000 {
                endless.extend_from_slice(format!("X-{i}: {i}\r\n").as_bytes());
            }
            vec![Step::Send(endless), Step::Close]
        }
        Fault::EndlessBody => {
            // Longer than any object may be that is read whole.
            let more = vec![b' '; 20 << 20];
            vec![Step::Send(answer("200 OK", &[], object)), Step::Send(more), Step::Close]
        }
    }
}

impl Case {
    fn run(self, runtime: &Runtime, reader: Reader) {
        let world = World::get();
        let met = Arc::new(AtomicUsize::new(0));
        let counter = met.clone();
        let script = move |_: usize, head: &str| {
            let path = head.split(' ').nth(1).expect("a target").trim_start_matches('/');
            let path = path.replace("%40", "@");
            let Ok(object) = std::fs::read(world.store.join(&path)) else {
                return vec![Step::Send(answer("404 Not Found", &["Content-Length: 0"], b""))];
            };
            if !path.starts_with(self.prefix) {
                return vec![Step::Send(correct(head, &object))];
            }
            let number = counter.fetch_add(1, Ordering::Relaxed);
            match self.nth {
                Some(nth) if nth != number => vec![Step::Send(correct(head, &object))],
                _ => faulty(self.fault, self.seed, head, &object),
            }
        };
        let server = runtime.block_on(WebServer::start(script));
        let more: &[&str] = if reader == Reader::Load { &["--stall", "0.4"] } else { &[] };
        let start = std::time::Instant::now();
        let run = world.read(reader, &server.url, more);
        if std::env::var_os("TENPAK_TIMES").is_some() {
            eprintln!("{:6.2} s {self:?}", start.elapsed().as_secs_f32());
        }
        let happened = match self.nth {
            Some(nth) => met.load(Ordering::Relaxed) > nth,
            None => true,
        };
        let told = || {
            let (requests, connections) = (server.requests(), server.connections());
            format!(
                "{self:?} {reader:?}: {:?}: {} (over {connections} connections: {requests:#?})",
                run.status, run.error
            )
        };
        let allowed: &[i32] = if happened { self.allowed() } else { &[0] };
        let status = run.status.unwrap_or(-1);
        assert!(allowed.contains(&status), "one of {allowed:?} is right; {}", told());
        if status != 0 {
            let names = run.error.contains(self.prefix)
                || run.error.contains(&world.id)
                || run.error.contains("org/model");
            assert!(names, "it does not say what is damaged: {}", told());
        }
    }

    /// The exit statuses that are right.
    fn allowed(&self) -> &'static [i32] {
        let small = self.prefix != "packs/";
        match (self.fault, self.nth.is_some()) {
            (Fault::ArtifactGraph | Fault::SlowHead, _) => &[0],
            // What says nothing about time may pass: tried again.
            (
                Fault::Short
                | Fault::Reset
                | Fault::Stall
                | Fault::Silence
                | Fault::SlowBody
                | Fault::WrongRange
                | Fault::NoHttp
                | Fault::Status(429 | 500 | 503)
                | Fault::EndlessHead,
                true,
            ) => &[0],
            (
                Fault::Short
                | Fault::Reset
                | Fault::Stall
                | Fault::Silence
                | Fault::SlowBody
                | Fault::WrongRange
                | Fault::NoHttp
                | Fault::Status(429 | 500 | 503)
                | Fault::EndlessHead
                | Fault::Redirect,
                false,
            ) => &[5],
            // Or the object is longer than it may be.
            (Fault::LongLength, true) => &[0, 5],
            (Fault::LongLength, false) => &[4, 5],
            // Only the chunk is asked for again.
            (Fault::FlipBit | Fault::LyingRange, true) if !small => &[0],
            (Fault::FlipBit, true) => &[0, 4],
            // A part that a load of the tensors alone does not need.
            (Fault::FlipBit, false) if ["layouts/", "tables/"].contains(&self.prefix) => &[0, 4],
            (Fault::FlipBit, false) => &[4],
            // A whole object was asked for, and a part came; or a shorter one, which it may be.
            (Fault::LyingRange | Fault::ShortLength | Fault::NoBody, true) => &[0, 4, 5],
            // What is cut off may be what nobody needs.
            (Fault::ShortLength, false) if small => &[0, 4, 5],
            (Fault::LyingRange | Fault::ShortLength | Fault::NoBody, false) => &[4, 5],
            (Fault::Redirect, true) => &[0, 5],
            (Fault::Status(404), true) => &[0, 3, 4],
            (Fault::Status(404), false) => match self.prefix {
                "refs/org" => &[3],
                "manifests/" => &[3, 4],
                _ => &[4],
            },
            // Longer than it may be, or with more after it than was asked for.
            (Fault::EndlessBody, _) => &[0, 4, 5],
            (Fault::Status(_), true) => &[0, 1, 4, 5],
            (Fault::Status(_), false) => &[1, 4, 5],
        }
    }
}

fn runtime() -> Runtime {
    Runtime::new().unwrap()
}

#[test]
fn every_fault_of_every_object() {
    let cases: Vec<_> = PREFIXES
        .into_iter()
        .flat_map(|prefix| {
            FAULTS.into_iter().flat_map(move |fault| {
                [Some(0), None].map(|nth| Case { prefix, fault, nth, seed: 1 })
            })
        })
        .collect();
    World::get();
    each(16, cases.len(), |_| runtime(), |runtime, i| cases[i].run(runtime, Reader::Load));
}

#[test]
fn random_faults() {
    let cases = random_cases() - random_cases() * 2 / 3;
    World::get();
    each(
        16,
        cases,
        |_| runtime(),
        |runtime, i| {
            let seed = 2_000_000 + i as u64;
            let mut rng = StdRng::seed_from_u64(seed);
            let prefix = *PREFIXES.choose(&mut rng).unwrap();
            let fault = *FAULTS.choose(&mut rng).unwrap();
            let nth = [Some(rng.gen_range(0..3)), None][rng.gen_range(0..2)];
            // Only loading can be told how long a stall is.
            let slow = matches!(fault, Fault::Stall | Fault::Silence | Fault::SlowBody);
            let reader = if slow || rng.r#gen() { Reader::Load } else { Reader::Unpack };
            Case { prefix, fault, nth, seed }.run(runtime, reader);
        },
    );
}
