//! How much text it takes to tell whether a candidate keeps a limit. Pure.
//!
//! Base and candidate read the same windows, so that what is compared is each window's difference. Windows
//! are taken in a random order, and looked at when there are 8, 16, 32 and so on, and at the end. A look's
//! interval is Student's, and the probability of error that the whole choice may have is shared by all looks
//! at all limits of all candidates: however they depend on each other, the probability that any candidate is
//! dropped or kept against the truth is at most that (Bonferroni), as far as windows' means are normal.

use super::student;

/// Windows at the first look.
const FIRST: usize = 8;

/// A sum over the tokens of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observed {
    /// Which of the text's windows it is.
    pub place: usize,
    /// Tokens that count.
    pub tokens: f64,
    /// What they sum to.
    pub sum: f64,
}

/// The mean by token, with its error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub error: f64,
    /// Degrees of freedom of that.
    pub degrees: f64,
}

impl Estimate {
    /// Of some of a text's `all` windows, drawn at random, which may differ in length (a ratio of sums). None of
    /// no tokens.
    pub fn of(mut windows: Vec<Observed>, all: usize) -> Option<Self> {
        let tokens: f64 = windows.iter().map(|own| own.tokens).sum();
        let sum: f64 = windows.iter().map(|own| own.sum).sum();
        if tokens <= 0.0 {
            return None;
        }
        let mean = sum / tokens;
        if windows.len() < 2 {
            return Some(Self { mean, error: f64::INFINITY, degrees: 0.0 });
        }
        windows.sort_by_key(|own| own.place);
        let off = |own: &Observed| own.sum - mean * own.tokens;
        let squares: f64 = windows.iter().map(|own| off(own).powi(2)).sum();
        let count = windows.len() as f64;
        // Neighbours in the text may be alike. Of a random sample few are neighbours, of the whole text all.
        let share = (count - 1.0) / (all as f64 - 1.0).max(count - 1.0);
        let alike = 1.0 + share * (long_run(&windows, off) - 1.0);
        let error = (squares * count / (count - 1.0) * alike).sqrt() / tokens;
        Some(Self { mean, error, degrees: count - 1.0 })
    }

    /// Where the truth lies; on each side it is beyond with probability `tail`.
    pub fn interval(&self, tail: f64) -> (f64, f64) {
        if self.degrees < 1.0 {
            return (f64::NEG_INFINITY, f64::INFINITY);
        }
        let half = match self.error > 0.0 {
            true => self.error * student::quantile(tail, self.degrees),
            // A candidate that predicts just what the base does.
            false => self.error,
        };
        (self.mean - half, self.mean + half)
    }
}

/// Neighbours there must be before their correlation is looked at.
const NEIGHBOURS: usize = 8;

/// How many times larger correlation makes the variance of a whole text's mean, if it dies off from window to
/// window as it begins.
fn long_run(windows: &[Observed], off: impl Fn(&Observed) -> f64) -> f64 {
    let (mut pairs, mut product, mut square) = (0, 0.0, 0.0);
    for pair in windows.windows(2) {
        let [one, other] = pair else { continue };
        if other.place == one.place + 1 {
            let (a, b) = (off(one), off(other));
            (pairs, product, square) = (pairs + 1, product + a * b, square + (a * a + b * b) / 2.0);
        }
    }
    if pairs < NEIGHBOURS || square <= 0.0 || square.is_nan() {
        return 1.0;
    }
    let correlation = (product / square).clamp(0.0, 0.8);
    (1.0 + correlation) / (1.0 - correlation)
}

/// When windows are looked at, and how sure a look must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Looks {
    counts: Vec<usize>,
    /// The probability of error that one decision may have.
    error: f64,
}

/// The share of that which the last look has: it decides what is close. All before it share the rest.
const LAST: f64 = 2.0 / 3.0;

impl Looks {
    /// At so many windows, for so many decisions (candidates and their limits), with this probability that
    /// any decision is wrong.
    pub fn new(windows: usize, decisions: usize, error: f64) -> Self {
        let mut counts: Vec<usize> = std::iter::successors(Some(FIRST), |n| n.checked_mul(2))
            .take_while(|count| *count < windows)
            .collect();
        counts.push(windows);
        Self { error: error / decisions.max(1) as f64, counts }
    }

    /// How many windows there must be at the look after so many.
    pub fn after(&self, done: usize) -> Option<usize> {
        self.counts.iter().copied().find(|count| *count > done)
    }

    /// The probability that the truth lies beyond one side of the interval at the look at so many windows.
    pub fn tail(&self, done: usize) -> f64 {
        match self.counts.len() - 1 {
            0 => self.error,
            before if self.after(done).is_some() => self.error * (1.0 - LAST) / before as f64,
            _ => self.error * LAST,
        }
    }
}

/// The order in which windows are taken: random, and the same every time.
pub fn order(windows: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..windows).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (1..windows).rev() {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        all.swap(at, ((z ^ (z >> 31)) % (at as u64 + 1)) as usize);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Normal numbers out of uniform ones (SplitMix64, Box and Muller).
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
            radius * (std::f64::consts::TAU * self.uniform()).cos()
        }
    }

    /// What a candidate's windows are: a true mean difference, a noise per window, and a part of that which
    /// goes on from window to window of the text.
    fn windows(random: &mut Random, mean: f64, noise: f64, count: usize) -> Vec<Observed> {
        let mut drift = random.normal();
        let text = (0..count).map(|place| {
            drift = 0.3 * drift + (1.0_f64 - 0.09).sqrt() * random.normal();
            // Now and then a window is much harder: the distribution has a heavy tail.
            let heavy = if random.uniform() < 0.05 { 3.0 } else { 1.0 };
            let own = mean + noise * heavy * drift / 1.18;
            Observed { place, tokens: 256.0, sum: own * 256.0 }
        });
        let text: Vec<_> = text.collect();
        order(count).into_iter().map(|at| text[at]).collect()
    }

    /// Decides about a limit: whether it is kept, if that could be told, and how many windows it took.
    fn decide(all: &[Observed], limit: f64, looks: &Looks) -> (Option<bool>, usize) {
        let mut done = 0;
        while let Some(next) = looks.after(done) {
            done = next;
            let estimate = Estimate::of(all[..done].to_vec(), all.len()).unwrap();
            let (low, high) = estimate.interval(looks.tail(done));
            if high <= limit || low > limit {
                return (Some(high <= limit), done);
            }
        }
        (None, done)
    }

    /// Nine candidates whose cost is their place, with losses as quantizers have them, in each of 1,000
    /// worlds. Noise is in proportion to the loss, as it is where weights are rounded; at 4 bits a window of
    /// 256 tokens is off by about 1.5%.
    #[test]
    fn the_right_winner_is_found_early_in_a_thousand_worlds() {
        let (worlds, count, limit) = (1000, 256, 1.02_f64.ln());
        let mut random = Random(20);
        let (mut wrong, mut undecided, mut spent, mut all) = (0, 0, 0, 0);
        for _ in 0..worlds {
            let looks = Looks::new(count, 9, 0.01);
            let (mut chosen, mut truth, mut hidden) = (None, None, false);
            for place in 0..9 {
                // From a tenth of a percent to a fifth.
                let loss = (random.uniform() * 5.3 - 6.9).exp();
                let noise = 0.006 + 0.35 * loss;
                let own = windows(&mut random, loss, noise, count);
                let (kept, took) = decide(&own, limit, &looks);
                (spent, all) = (spent + took, all + count);
                truth = truth.or((loss <= limit).then_some(place));
                chosen = chosen.or((kept == Some(true)).then_some(place));
                hidden |= kept.is_none() && loss <= limit && truth == Some(place);
            }
            match (chosen == truth, hidden) {
                (true, _) => {}
                // Too close to tell with all of the text: refused, and said.
                (false, true) => undecided += 1,
                (false, false) => wrong += 1,
            }
        }
        let share = f64::from(spent as u32) / f64::from(all as u32);
        println!("{wrong} wrong, {undecided} refused, {:.1}% of the text", share * 100.0);
        assert!(wrong <= worlds / 100, "{wrong} of {worlds} worlds have another winner");
        assert!(share <= 0.5, "{share}");
        assert!(undecided <= worlds * 8 / 100, "{undecided} of {worlds} are refused");
    }

    /// A candidate at the limit itself is decided one way or the other with the stated probability at most.
    #[test]
    fn the_probability_of_error_is_the_stated_one() {
        let (worlds, limit) = (4000, 0.02);
        let mut random = Random(7);
        let looks = Looks::new(128, 1, 0.05);
        let mut decided = [0; 2];
        for _ in 0..worlds {
            let own = windows(&mut random, limit, 0.01, 128);
            if let (Some(kept), _) = decide(&own, limit, &looks) {
                decided[usize::from(kept)] += 1;
            }
        }
        // Both sides together, because a truth at the limit may be missed on either.
        let share = f64::from(decided[0] + decided[1]) / f64::from(worlds);
        println!("{decided:?} of {worlds} at the limit were decided");
        assert!(share <= 0.1, "{decided:?}");
        // With one look after the other at full confidence, peeking would show.
        let careless = Looks { error: 0.05 / LAST * 2.0, ..looks };
        let peeked = (0..worlds).filter(|_| {
            decide(&windows(&mut random, limit, 0.01, 128), limit, &careless).0.is_some()
        });
        assert!(peeked.count() as f64 / f64::from(worlds) > 0.15);
    }

    #[test]
    fn the_error_is_that_of_a_ratio_and_no_error_is_none() {
        let of = |all: &[(f64, f64)]| {
            let one = |(place, (tokens, sum)): (usize, &(f64, f64))| Observed {
                place,
                tokens: *tokens,
                sum: *sum,
            };
            Estimate::of(all.iter().enumerate().map(one).collect(), all.len())
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(0.0, 1.0)]), None);
        let one = of(&[(4.0, 8.0)]).unwrap();
        assert_eq!((one.mean, one.interval(0.01)), (2.0, (f64::NEG_INFINITY, f64::INFINITY)));
        let same = of(&[(4.0, 8.0), (2.0, 4.0)]).unwrap();
        assert_eq!(same.interval(0.01), (2.0, 2.0));
        let two = of(&[(1.0, 1.0), (1.0, 3.0)]).unwrap();
        assert!((two.mean, two.error, two.degrees) == (2.0, 1.0, 1.0));
        let nan = of(&[(1.0, f64::NAN), (1.0, 3.0)]).unwrap();
        assert!(nan.mean.is_nan());
    }

    #[test]
    fn every_window_is_taken_once_and_looks_end_with_all() {
        for count in [0, 1, 7, 8, 9, 47, 100] {
            let mut taken = order(count);
            assert_eq!(taken, order(count));
            taken.sort_unstable();
            assert_eq!(taken, (0..count).collect::<Vec<_>>());
        }
        let looks = Looks::new(47, 3, 0.12);
        let mut at = vec![0];
        while let Some(next) = looks.after(*at.last().unwrap()) {
            at.push(next);
        }
        assert_eq!(at, [0, 8, 16, 32, 47]);
        let shares: f64 = at[1..].iter().map(|done| looks.tail(*done)).sum();
        assert!(
            (shares - 0.04).abs() < 1e-12,
            "all looks together have what one decision may have"
        );
        assert!(looks.tail(47) > 5.0 * looks.tail(32));
        assert_eq!(Looks::new(5, 1, 0.1).tail(5), 0.1);
        assert_eq!(Looks::new(5, 1, 0.1).after(0), Some(5));
    }
}
