//! Prompts of about so many tokens: random words, no two prompts the same, so that no server answers one from what it
//! kept of another. Pure.

use fastrand::Rng;

/// Words that most tokenizers know whole.
const WORDS: [&str; 64] = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part", "place",
    "case", "week", "company", "system", "program", "question", "work", "number", "night", "point",
    "home", "water", "room", "mother", "area", "money", "story", "fact", "month", "lot", "right",
    "study", "book", "eye", "job", "word", "business", "issue", "side", "kind", "head", "house",
    "service", "friend", "father", "power", "hour", "game", "line", "end", "member", "law", "car",
];

/// A text of so many words, which follows from `seed`.
pub(super) fn text(words: usize, seed: u64) -> String {
    let mut random = Rng::with_seed(seed);
    let mut out = String::new();
    for index in 0..words {
        if index > 0 {
            out.push(' ');
        }
        out.push_str(WORDS.get(random.usize(..WORDS.len())).copied().unwrap_or("word"));
    }
    out
}

/// So many tokens below `vocabulary`, none of which ends texts.
pub(super) fn tokens(count: usize, vocabulary: usize, ends: &[u32], seed: u64) -> Vec<u32> {
    let mut random = Rng::with_seed(seed);
    let most = u32::try_from(vocabulary).unwrap_or(u32::MAX).max(1);
    let mut next = || {
        let token = random.u32(..most);
        // The first after it that ends nothing; in a vocabulary of ends alone, whatever comes.
        (0..most)
            .map(|step| token.wrapping_add(step) % most)
            .find(|token| !ends.contains(token))
            .unwrap_or(token)
    };
    (0..count).map(|_| next()).collect()
}

/// How many words to try next, where `words` gave `tokens`: none when that is what was wanted, or no number of words is
/// nearer.
pub(super) fn next_try(words: usize, tokens: usize, wanted: usize) -> Option<usize> {
    if tokens == wanted || words == 0 {
        return None;
    }
    let ratio = (tokens as f64 / words as f64).max(0.1);
    let off = wanted as f64 - tokens as f64;
    let step = (off / ratio).round() as i64;
    let next = words.saturating_add_signed(isize::try_from(step).unwrap_or(0)).max(1);
    (next != words).then_some(next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prompts_follow_from_their_seed_and_differ() {
        assert_eq!(text(20, 7), text(20, 7));
        assert_ne!(text(20, 7), text(20, 8));
        assert_eq!(text(0, 1), "");
        assert_eq!(text(30, 1).split(' ').count(), 30);
        let found = tokens(500, 10, &[0, 3, 9], 4);
        assert_eq!(found.len(), 500);
        assert!(found.iter().all(|token| *token < 10 && ![0, 3, 9].contains(token)));
        assert_eq!(tokens(3, 1, &[0], 1), [0, 0, 0]);
    }

    proptest! {
        /// Whatever a word costs, a few tries come near.
        #[test]
        fn tries_come_near(wanted in 1..5000_usize, per_word in 1.0..4.0_f64, fixed in 0..4_usize) {
            let count = |words: usize| (words as f64 * per_word) as usize + fixed;
            let mut words = wanted;
            for _ in 0..8 {
                match next_try(words, count(words), wanted) {
                    Some(next) => words = next,
                    None => break,
                }
            }
            let off = count(words).abs_diff(wanted) as f64;
            prop_assert!(off <= per_word.ceil() + fixed as f64 + 1.0, "{} words, off by {}", words, off);
        }
    }
}
