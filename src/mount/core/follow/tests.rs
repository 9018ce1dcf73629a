//! Readers in an order, and readers without.

use super::*;
use proptest::prelude::*;

const CHUNK: u64 = 512 << 10;
const MOST: u64 = 32 << 20;

fn bounds(_: u32, at: u64) -> Range<u64> {
    let start = at / CHUNK * CHUNK;
    start..start + CHUNK
}

/// Files of runs of so many bytes, each named.
fn follow(files: &[&[(u64, &str)]]) -> Follow {
    let runs = files.iter().map(|runs| runs.iter().map(|(len, name)| (*len, Some(*name))));
    Follow::new(Orders::new(runs))
}

fn ask(follow: &mut Follow, file: u32, page: u64) -> Next {
    let at = page * PAGE;
    follow.asked(file, &(at..at + PAGE), MOST, &Held::default())
}

fn take_all(follow: &mut Follow, id: ReaderId) -> Vec<Ahead> {
    let all = std::iter::from_fn(|| follow.take(id, MOST, &Held::default(), bounds)).collect();
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
    // It goes to l.2 instead, with l.1 behind it.
    let mut held = Held::default();
    let page = |page: u64| page * PAGE..(page + 1) * PAGE;
    held.answered(0, &(start(1) * PAGE..start(2) * PAGE));
    assert_eq!(follow.asked(0, &page(start(3)), MOST, &held), Next::Begin(1));
    let ahead = take_all(&mut follow, 1);
    assert_eq!(ahead[0].bytes.start, start(3) * PAGE + PAGE);
    assert!(ahead.iter().any(|a| a.bytes.start == start(2) * PAGE), "l.10 follows l.2");
    assert!(ahead.iter().all(|a| a.file == 0));
    // Then what comes next, in the next file.
    held.answered(0, &(start(3) * PAGE..start(3) * PAGE + tensor));
    assert!(matches!(follow.asked(0, &page(start(2) + 3), MOST, &held), Next::Begin(1)));
    let ahead = take_all(&mut follow, 1);
    assert!(ahead.iter().any(|a| a.file == 1), "{ahead:?}");
}

#[test]
fn two_who_come_to_the_same_place_are_one() {
    let mut follow = follow(&[&[(1 << 30, "a"), (1 << 30, "b"), (1 << 30, "c")]]);
    ask(&mut follow, 0, 0);
    ask(&mut follow, 0, 1);
    take_all(&mut follow, 1);
    let begun = 5 * CHUNK / PAGE;
    ask(&mut follow, 0, begun);
    ask(&mut follow, 0, begun + 1);
    take_all(&mut follow, 2);
    let bytes = (begun + 2) * PAGE..6 * CHUNK;
    follow.readers[0].ahead += bytes.end - bytes.start;
    follow.readers[0].planned.push_back(Planned { file: 0, bytes });
    ask(&mut follow, 0, begun + 2);
    assert_eq!(follow.readers.len(), 1);
}

/// Sixty tensors of four chunks, which begin within pages.
fn tensors() -> Follow {
    let names: Vec<String> = (0..60).map(|at| format!("t{at:02}")).collect();
    let runs = [(100, None)].into_iter();
    let runs = runs.chain(names.iter().map(|name| (4 * CHUNK, Some(name.as_str()))));
    Follow::new(Orders::new([runs.collect::<Vec<_>>().into_iter()].into_iter()))
}

fn ask_of(follow: &mut Follow, held: &mut Held, page: u64) -> Next {
    let bytes = page * PAGE..(page + 1) * PAGE;
    held.asked(0, &bytes);
    let next = follow.asked(0, &bytes, MOST, held);
    held.answered(0, &bytes);
    next
}

/// Plans and stores what can be planned; what was.
fn work(follow: &mut Follow, held: &mut Held, id: ReaderId) -> Vec<Ahead> {
    let mut all = Vec::new();
    while let Some(ahead) = follow.take(id, MOST, held, bounds) {
        let from = if ahead.probe {
            ahead.bytes.start / PAGE + 1
        } else {
            ahead.bytes.start.div_ceil(PAGE)
        };
        let whole = from * PAGE..ahead.bytes.end / PAGE * PAGE;
        held.answered(0, &(whole.start..whole.end.max(whole.start)));
        all.push(ahead);
    }
    assert!(follow.rest(id, MOST));
    all
}

#[test]
fn who_looks_at_each_beginning_has_beginnings_read_ahead_and_reads_on_later() {
    let (mut follow, mut held) = (tensors(), Held::default());
    let page = |tensor: u64| (100 + tensor * 4 * CHUNK) / PAGE;
    let mut planned = Vec::new();
    ask_of(&mut follow, &mut held, 0);
    ask_of(&mut follow, &mut held, 1);
    for tensor in 1..60 {
        // What the kernel has it does not ask for.
        if held.gap(0, &(page(tensor) * PAGE..(page(tensor) + 1) * PAGE)).is_none() {
            continue;
        }
        if let Next::Begin(id) | Next::Goes(id) = ask_of(&mut follow, &mut held, page(tensor)) {
            planned.extend(work(&mut follow, &mut held, id));
        }
    }
    let all = 60 * 4 * CHUNK;
    assert!((all / 8..all / 2).contains(&bytes(&planned)), "{} of {all}", bytes(&planned));
    // Then everything, once.
    let mut asked = 0;
    for page in 0..(100 + all) / PAGE {
        if held.gap(0, &(page * PAGE..(page + 1) * PAGE)).is_none() {
            continue;
        }
        asked += 1;
        if let Next::Begin(id) | Next::Goes(id) = ask_of(&mut follow, &mut held, page) {
            planned.extend(work(&mut follow, &mut held, id));
        }
    }
    assert!(asked < 200, "{asked} pages are asked for");
    // But for what is left of pages, and pages that are left out.
    let twice = bytes(&planned).saturating_sub(all);
    assert!(twice < all / 50, "{twice} of {all} are planned twice");
}

#[test]
fn what_the_kernel_let_go_is_read_ahead_again() {
    let (mut follow, mut held) = (tensors(), Held::default());
    held.answered(0, &(0..60 * 4 * CHUNK));
    // Right behind what it has.
    assert_eq!(ask_of(&mut follow, &mut held, 1000), Next::Begin(1));
    let planned = work(&mut follow, &mut held, 1);
    assert_eq!(planned[0].bytes.start, 1001 * PAGE);
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
    assert!(follow.take(1, MOST, &Held::default(), bounds).is_none(), "it was forgotten");
    assert!(follow.take(many, MOST, &Held::default(), bounds).is_some());
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
