//! Origins and links of many kinds, and the level that is found for each.

use super::*;

/// Every request is being answered.
fn going(level: &Level) -> Requests {
    let (all, memory) = (level.get(), u64::MAX);
    Requests { sent: all, answered: all, answering: all, more: false, memory }
}

const STEP: Duration = Duration::from_millis(5);

fn level(enough: u64) -> Level {
    let mut level = Level::new(4, 64, enough, 1);
    level.answered(Duration::ZERO, Duration::from_millis(1));
    level
}

/// An origin that gives each request `each` bytes a second, and all of them `all`; the level after `seconds`.
fn found(each: f64, all: f64, seconds: u64) -> usize {
    let mut level = level(1_500_000_000);
    let (mut now, mut carry) = (Duration::ZERO, 0.0);
    while now < Duration::from_secs(seconds) {
        now += STEP;
        carry += (each * level.get() as f64).min(all) * STEP.as_secs_f64();
        level.received(carry as u64);
        carry = carry.fract();
        level.pass(now, true, going(&level));
    }
    level.get()
}

#[test]
fn it_rises_while_the_whole_gets_faster() {
    assert_eq!(found(20e6, 1e12, 1), 64, "each request is slow, and the origin is not");
    assert_eq!(found(80e6, 1e12, 1), 19, "so many bring enough");
    assert_eq!(found(1e9, 1e9, 1), 4, "one takes all there is");
    let some = found(20e6, 300e6, 1);
    assert!((15..=20).contains(&some), "fifteen take all there is: {some}");
}

/// Bytes come in turns of both ends on a busy machine, however many requests there are.
#[test]
fn a_busy_machine_is_no_slow_network() {
    let mut levels = Vec::new();
    for seed in 0..200 {
        let mut level = Level::new(4, 128, 1_500_000_000, seed);
        let mut random = SplitMix::new(seed + 1);
        level.answered(Duration::ZERO, Duration::from_millis(1));
        for at in 1..400 {
            let share = if random.unit() < 0.5 { 0.3 } else { 1.7 };
            level.received((800e6 * share * STEP.as_secs_f64()) as u64);
            level.pass(STEP * at, true, going(&level));
        }
        levels.push(level.highest());
    }
    levels.sort_unstable();
    assert!(levels[100] <= 10 && levels[180] <= 20, "{levels:?}");
}

/// Whoever waits for the deadline must not be woken again and again.
#[test]
fn a_slow_consumer_is_not_watched_all_the_time() {
    let mut level = level(u64::MAX);
    let (mut now, mut passes) = (Duration::ZERO, 0);
    let end = Duration::from_secs(60);
    while now < end {
        level.received(100_000);
        level.pass(now, now < end / 2, going(&level));
        let next = level.deadline().unwrap();
        assert!(next > now, "{now:?}: {next:?}");
        (now, passes) = (next, passes + 1);
    }
    assert!(passes < 2000, "{passes}");
}

#[test]
fn it_is_quick() {
    let mut level = level(u64::MAX);
    let mut now = Duration::ZERO;
    while level.get() < 64 {
        now += STEP;
        level.received(100_000 * level.get() as u64);
        level.pass(now, true, going(&level));
    }
    assert!(now <= Duration::from_millis(50), "{now:?}");
}

/// An origin that serves so many at a time and refuses the others.
#[test]
fn it_finds_how_many_are_served() {
    for served in [1, 6, 13, 40] {
        let mut level = level(u64::MAX);
        let (mut now, mut refusals, mut below) = (Duration::ZERO, 0, 0);
        for _ in 0..6000 {
            now += STEP;
            level.received(100_000 * level.get().min(served) as u64);
            let (sent, mut others) = (level.get(), level.get());
            for _ in served..sent {
                refusals += 1;
                others -= 1;
                level.refused(now, others);
            }
            for _ in 0..sent.min(served) {
                level.answered(now, Duration::from_millis(1));
            }
            below += usize::from(level.get() < served);
            level.pass(now, true, going(&level));
        }
        assert!(level.get() <= served + 1, "{served}: {}", level.get());
        assert!(refusals < 200 && below < 100, "{served}: {refusals} {below}");
    }
}

#[test]
fn few_refusals_say_nothing() {
    let mut level = level(u64::MAX);
    for at in 1..4000 {
        let now = Duration::from_millis(at * 5);
        level.received(100_000 * level.get() as u64);
        level.answered(now, Duration::from_millis(1));
        if at % 30 == 0 {
            level.refused(now, level.get() - 1);
        }
        level.pass(now, true, going(&level));
    }
    assert_eq!(level.get(), 64);
}

/// A thousand loads that begin at once at an origin that serves 8,000 requests: neither does it have little to do,
/// nor do they all come back together.
#[test]
fn a_thousand_loads_share_an_origin() {
    const SERVED: usize = 8000;
    let mut random = SplitMix::new(7);
    let mut loads: Vec<_> = (0..1000).map(|seed| Level::new(4, 128, u64::MAX, seed)).collect();
    let (mut now, mut refused, mut served, mut used) = (Duration::ZERO, 0, 0, Vec::new());
    for _ in 0..2000 {
        now += STEP;
        let all: usize = loads.iter().map(Level::get).sum();
        let excess = all.saturating_sub(SERVED) as f64 / all as f64;
        let late = now > Duration::from_secs(4);
        if late {
            used.push(all.min(SERVED));
        }
        for load in &mut loads {
            let sent = load.get();
            let mut others = sent;
            for _ in 0..sent {
                if random.unit() < excess {
                    others -= 1;
                    refused += usize::from(late);
                    load.refused(now, others);
                } else if random.unit() < 0.1 {
                    served += usize::from(late);
                    load.answered(now, Duration::from_millis(10));
                }
            }
            load.received(100_000 * others as u64);
            load.pass(now, true, going(load));
        }
    }
    let mean = used.iter().sum::<usize>() / used.len();
    let least = used.iter().min().copied().unwrap_or(0);
    assert!(mean > SERVED * 85 / 100 && least > SERVED * 70 / 100, "{mean} {least}");
    assert!(refused * 10 < served, "{refused} {served}");
}

/// What came at once from what a server had ready says little of what follows.
#[test]
fn it_looks_again_when_less_comes() {
    let mut level = level(1_500_000_000);
    let mut now = Duration::ZERO;
    for at in 1..100 {
        now += STEP;
        level.received(if at < 20 { 10_000_000 } else { 100_000 * level.get() as u64 });
        level.pass(now, true, going(&level));
    }
    assert_eq!(level.get(), 64);
}

#[test]
fn nothing_is_tried_where_it_is_fast_enough() {
    let mut level = level(1_000_000_000);
    for at in 1..1000 {
        level.received(5_000_000);
        assert!(!level.pass(Duration::from_millis(at * 5), true, going(&level)));
    }
}

#[test]
fn it_stays_where_it_was_fixed_or_nobody_waits_for_the_network() {
    let mut fixed = Level::new(8, 8, 0, 1);
    fixed.refused(Duration::ZERO, 0);
    let mut fed = level(u64::MAX);
    for at in 1..1000 {
        let now = Duration::from_millis(at * 5);
        assert!(!fixed.pass(now, true, going(&fixed)) && !fed.pass(now, false, going(&fed)));
    }
    assert_eq!((fixed.get(), fixed.deadline(), fed.get()), (8, None, 4));
}
