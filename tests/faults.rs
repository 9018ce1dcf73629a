//! The fault wrapper does what its script says, and counts what was asked.

#![cfg(feature = "cli")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tenpak::transport::fault::{Action, Fault, FaultBackend, When};
use tenpak::transport::object::ObjectBackend;
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{ObjectPath, ReadRange, Transport, TransportErrorKind};

const SIZE: usize = 1000;

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).expect("a path")
}

fn content() -> Bytes {
    (0..SIZE).map(|i| (i % 250) as u8 + 1).collect()
}

async fn store(faults: Vec<Fault>) -> FaultBackend {
    let inner = ObjectBackend::memory();
    inner.put(&path("packs/a"), vec![content()]).await.expect("a write");
    inner.put(&path("packs/b"), vec!["other".into()]).await.expect("a write");
    FaultBackend::new(Arc::new(inner), faults)
}

async fn read_of(
    b: &FaultBackend,
    range: ReadRange,
    retries: u32,
) -> Result<Bytes, TransportErrorKind> {
    let mut policy = RetryPolicy::default();
    policy.retries = retries;
    policy.first_pause = Duration::from_millis(1);
    policy.stall = Duration::from_millis(200);
    let read = read_all(b, &path("packs/a"), range, 1 << 20, &policy).await;
    read.map(|(bytes, _)| bytes).map_err(|e| e.kind)
}

#[tokio::test]
async fn each_action_acts() {
    use TransportErrorKind::*;
    let flipped = |at: usize, bit: u8| {
        let mut bytes = content().to_vec();
        bytes[at] ^= 1 << bit;
        Ok(Bytes::from(bytes))
    };
    let (full, part) = (ReadRange::Full, ReadRange::Bounded(100..900));
    let whole = Ok(content());
    #[rustfmt::skip]
    let cases = [
        (Action::Fail(Denied), full.clone(), Err(Denied)),
        (Action::Busy(Duration::from_millis(1)), full.clone(), Err(Transient)),
        (Action::Truncate(400), full.clone(), Ok(content().slice(..400))),
        (Action::Truncate(0), full.clone(), Ok(Bytes::new())),
        (Action::Truncate(400), part.clone(), Err(OutOfRange)),
        (Action::Truncate(400), ReadRange::Suffix(10), Ok(content().slice(390..400))),
        (Action::Reset(10), full.clone(), Err(Transient)),
        (Action::EndEarly(10), full.clone(), Err(Protocol)),
        (Action::FlipBit(0, 0), full.clone(), flipped(0, 0)),
        (Action::FlipBit(999, 7), full.clone(), flipped(999, 7)),
        (Action::FlipBit(99, 1), part.clone(), Ok(content().slice(100..900))),
        (Action::FlipBit(100, 1), part.clone(), flipped(100, 1).map(|b| b.slice(100..900))),
        (Action::Zeros, full.clone(), Ok(Bytes::from(vec![0; SIZE]))),
        (Action::Instead(path("packs/b")), full.clone(), Ok("other".into())),
        (Action::WholeForRange, part.clone(), Ok(content().slice(100..900))),
        (Action::Delay(Duration::from_millis(1)), full.clone(), whole.clone()),
        (Action::Hang, full.clone(), Err(Stalled)),
        (Action::Stall(5), full.clone(), Err(Stalled)),
        (Action::Drip(Duration::from_micros(1)), ReadRange::Suffix(3), Ok(content().slice(997..))),
    ];
    for (action, range, expected) in cases {
        let b = store(vec![Fault::always("packs/a", action.clone())]).await;
        assert_eq!(read_of(&b, range, 0).await, expected, "{action:?}");
    }
    let b = store(vec![Fault::always("packs/", Action::Garbage)]).await;
    let garbage = read_of(&b, full, 0).await.expect("a read");
    assert!(garbage.iter().zip(content().iter()).all(|(a, b)| a != b));
}

#[tokio::test]
async fn whole_objects_for_ranges_carry_their_faults_in_place() {
    let faults = vec![
        Fault::always("packs/", Action::WholeForRange),
        Fault::always("packs/", Action::FlipBit(500, 3)),
    ];
    let b = store(faults).await;
    let read = read_of(&b, ReadRange::Bounded(400..600), 0).await.expect("a read");
    assert_eq!(read[100], content()[500] ^ 8);
    assert_eq!(b.stats().total().bytes_read, 600, "the rest is not read");
}

#[tokio::test]
async fn only_scripted_calls_are_hit() {
    let faults = vec![
        Fault::nth("packs/a", 0, Action::Reset(500)),
        Fault {
            prefix: "packs/".into(),
            when: When::Calls(1..3),
            action: Action::Fail(TransportErrorKind::Transient),
        },
        Fault::always("tables/", Action::Hang),
    ];
    let b = store(faults).await;
    assert_eq!(read_of(&b, ReadRange::Full, 2).await, Err(TransportErrorKind::Transient));
    assert_eq!(read_of(&b, ReadRange::Full, 0).await, Ok(content()));
    let stats = b.stats();
    assert_eq!((stats.total().reads, stats.below("packs/a").bytes_read), (4, 1500));
    assert_eq!(stats.below("packs/b").reads, 0);
}

#[tokio::test]
async fn writes_fail_as_scripted_and_are_counted() {
    let b = store(vec![Fault::nth("refs/", 1, Action::Fail(TransportErrorKind::Io))]).await;
    b.put(&path("refs/x"), vec!["12".into(), "3".into()]).await.expect("a write");
    let failed = b.put(&path("refs/x"), vec!["45".into()]).await;
    assert_eq!(failed.expect_err("an error").kind, TransportErrorKind::Io);
    b.delete(&path("refs/x")).await.expect("a deletion");
    let count = b.stats().below("refs/");
    assert_eq!((count.writes, count.bytes_written), (3, 5));
}
