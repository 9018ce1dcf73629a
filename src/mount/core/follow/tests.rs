//! Readers in an order, and readers without.

use super::*;
use proptest::prelude::*;

const PAGE: u64 = 4096;
const CHUNK: u64 = 512 << 10;
const MOST: u64 = 32 << 20;

fn run_end(_: u32, at: u64) -> u64 {
    at / CHUNK * CHUNK + CHUNK
}

/// Files of runs of so many bytes, each named.
fn follow(files: &[&[(u64, &str)]]) -> Follow {
    let runs = files.iter().map(|runs| runs.iter().map(|(len, name)| (*len, Some(*name))));
    Follow::new(Orders::new(runs))
}

fn ask(follow: &mut Follow, file: u32, page: u64) -> Next {
    let at = page * PAGE;
    follow.asked(file, &(at..at + PAGE), at / CHUNK * CHUNK, MOST)
}

fn take_all(follow: &mut Follow, id: ReaderId) -> Vec<Ahead> {
    let all = std::iter::from_fn(|| follow.take(id, MOST, run_end)).collect();
    assert!(follow.rest(id, MOST));
    all
}

fn bytes(ahead: &[Ahead]) -> u64 {
    ahead.iter().map(|ahead| ahead.bytes.end - ahead.bytes.start).sum()
}

#[test]
fn whoever_reads_on_is_read_ahead_of_and_further_each_time() {
    let mut follow = follow(&[&[(1 << 30, "w")]]);
    assert_eq!(ask(&mut follow, 0, 0), Next::Nothing);
    assert_eq!(ask(&mut follow, 0, 1), Next::Begin(1));
    let first = take_all(&mut follow, 1);
    assert_eq!((first[0].bytes.start, first.last().unwrap().bytes.end), (2 * PAGE, FIRST + CHUNK));
    // It comes to a page that was left out; nobody worked for it any more.
    let probe = first.iter().find(|ahead| ahead.probe).unwrap().bytes.start;
    assert_eq!(ask(&mut follow, 0, probe / PAGE), Next::Begin(1));
    let second = take_all(&mut follow, 1);
    assert_eq!(second[0].bytes.start, FIRST + CHUNK, "it goes on where it was");
    assert!(bytes(&second) > FIRST / 2);
    let mut at = second.last().unwrap().bytes.end;
    for _ in 0..10 {
        assert!(matches!(ask(&mut follow, 0, at / PAGE - 1), Next::Begin(1)));
        at = take_all(&mut follow, 1).last().unwrap().bytes.end;
    }
    let window = bytes(&{
        ask(&mut follow, 0, at / PAGE - 1);
        take_all(&mut follow, 1)
    });
    assert!((MOST..MOST + CHUNK).contains(&window), "{window}");
}

#[test]
fn whoever_reads_here_and_there_is_not_followed() {
    let mut follow = follow(&[&[(1 << 30, "w")]]);
    for page in (0..200_000).step_by(257) {
        assert_eq!(ask(&mut follow, 0, page), Next::Nothing);
    }
    // A second page of a chunk brings the rest of the chunk, and no more.
    assert_eq!(ask(&mut follow, 0, 257 * 777 + 2), Next::Chunk);
    assert!(follow.readers.is_empty());
}

#[test]
fn the_order_of_tensors_is_followed() {
    // By number: 0, 1, 2, 10; as they lie: 0, 1, 10, 2.
    let tensor = 2 * CHUNK;
    let mut follow = follow(&[
        &[(4 * CHUNK, ""), (tensor, "l.0"), (tensor, "l.1"), (tensor, "l.10"), (tensor, "l.2")],
        &[(tensor, "l.11")],
    ]);
    let start = |number: u64| (4 * CHUNK + number * tensor) / PAGE;
    ask(&mut follow, 0, start(1));
    assert_eq!(ask(&mut follow, 0, start(1) + 1), Next::Begin(1));
    let ahead = take_all(&mut follow, 1);
    assert!(ahead.iter().any(|a| a.bytes.start == start(2) * PAGE), "as they lie");
    // It goes to l.2 instead.
    assert_eq!(ask(&mut follow, 0, start(3)), Next::Begin(1));
    let ahead = take_all(&mut follow, 1);
    assert_eq!(ahead[0].bytes.start, start(3) * PAGE + PAGE);
    assert!(ahead.iter().any(|a| a.bytes.start == start(2) * PAGE), "l.10 follows l.2");
    assert!(ahead.iter().all(|a| a.file == 0));
    // Then what comes next, in the next file.
    assert!(matches!(ask(&mut follow, 0, start(2) + 3), Next::Begin(1)));
    let ahead = take_all(&mut follow, 1);
    assert!(ahead.iter().any(|a| a.file == 1), "{ahead:?}");
}

#[test]
fn what_the_reader_went_past_is_not_ahead_of_it() {
    let mut follow = follow(&[&[(1 << 30, "a"), (1 << 30, "b"), (1 << 30, "c")]]);
    ask(&mut follow, 0, 0);
    ask(&mut follow, 0, 1);
    let ahead = take_all(&mut follow, 1);
    assert_eq!(follow.still_ahead(1, &ahead[0]), Some(2 * PAGE..CHUNK));
    ask(&mut follow, 0, 9);
    assert_eq!(follow.still_ahead(1, &ahead[0]), Some(10 * PAGE..CHUNK));
    ask(&mut follow, 0, CHUNK / PAGE);
    assert_eq!(follow.still_ahead(1, &ahead[0]), None);
    assert_eq!(follow.still_ahead(1, &ahead[1]), Some(CHUNK + PAGE..2 * CHUNK));
    // What is there is not put there again.
    assert!(follow.stored(1, 0, &(CHUNK + PAGE..CHUNK + 9 * PAGE)));
    assert!(!follow.stored(1, 0, &(CHUNK + PAGE..CHUNK + 9 * PAGE)));
    assert_eq!(follow.still_ahead(1, &ahead[1]), Some(CHUNK + 9 * PAGE..2 * CHUNK));
    // It goes on with the next tensor: what was planned in this one is of no use.
    ask(&mut follow, 0, (1 << 30) / PAGE);
    assert_eq!(follow.still_ahead(1, &ahead[1]), None);
    // Two who come to the same place are one.
    let begun = 5 * CHUNK / PAGE;
    ask(&mut follow, 0, begun);
    ask(&mut follow, 0, begun + 1);
    take_all(&mut follow, 2);
    let bytes = (begun + 2) * PAGE..6 * CHUNK;
    follow.readers[0].ahead += bytes.end - bytes.start;
    follow.readers[0].planned.push_back(Planned { file: 0, stored: bytes.start, bytes });
    ask(&mut follow, 0, begun + 2);
    assert_eq!(follow.readers.len(), 1);
}

#[test]
fn each_of_many_readers_is_followed_and_their_number_is_bounded() {
    let mut follow = follow(&[&[(1 << 40, "w")]]);
    let (gap, many) = ((1 << 32) / PAGE, 100);
    for reader in 0..many {
        ask(&mut follow, 0, reader * gap);
    }
    for reader in 0..many {
        assert_eq!(ask(&mut follow, 0, reader * gap + 1), Next::Begin(reader + 1));
    }
    assert_eq!(follow.readers.len(), READERS);
    assert!(follow.take(1, MOST, run_end).is_none(), "it was forgotten");
    assert!(follow.take(many, MOST, run_end).is_some());
}

proptest! {
    /// Whatever is asked, what lies ahead of a reader is counted right, bounded, and planned once.
    #[test]
    fn counts_hold(
        files in prop::collection::vec(prop::collection::vec((1..4_000_000_u64, "[a-c][0-9]{1,2}"), 1..6), 1..3),
        steps in prop::collection::vec((0..3_u32, 0..3000_u64, 0..3_u8), 1..200),
    ) {
        let runs = files.iter().map(|runs| runs.iter().map(|(len, name)| (*len, Some(name.as_str()))));
        let mut follow = Follow::new(Orders::new(runs));
        let (mut file, mut page) = (0, 0);
        for (other, jump, kind) in steps {
            match kind {
                0 => (file, page) = (other, jump),
                _ => page += 1,
            }
            if let Next::Begin(id) | Next::Goes(id) = ask(&mut follow, file, page) {
                let ahead = take_all(&mut follow, id);
                for one in ahead {
                    prop_assert!(one.bytes.start < one.bytes.end);
                    prop_assert!(follow.orders.at(one.file, one.bytes.end - 1).is_some());
                }
            }
            for reader in &follow.readers {
                let sum: u64 = reader.planned.iter().map(|p| p.bytes.end - p.bytes.start).sum();
                prop_assert_eq!(sum, reader.ahead);
                prop_assert!(reader.ahead <= reader.window.max(FIRST) + CHUNK);
            }
        }
    }
}
