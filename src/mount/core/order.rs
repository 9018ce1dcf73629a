//! The orders in which readers go through an artifact's tensors: as they lie in their files, or by name. Pure.
//!
//! A reader that went from one tensor to another one is taken to go on in whichever order has the second behind
//! the first.

use std::cmp::Ordering;
use std::ops::Range;

use crate::format::page::Extent;
use crate::store::ArtifactGraph;

/// How many orders are known.
pub(crate) const ORDERS: usize = 4;

/// A tensor, or a run of whatever else a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot {
    /// The place of its file.
    pub(crate) file: u32,
    /// Its bytes there; never none.
    pub(crate) bytes: Range<u64>,
}

/// All tensors and other runs of an artifact.
#[derive(Debug)]
pub(crate) struct Orders {
    /// As they lie in the files, file by file.
    spots: Vec<Spot>,
    /// The place of each file's first one, and the end.
    files: Vec<usize>,
    /// What follows each, by order.
    next: [Vec<Option<u32>>; ORDERS],
}

/// A run of a file, and its name if it is a tensor.
pub(crate) type Named<'a> = (u64, Option<&'a str>);

impl Orders {
    /// Those of an artifact.
    pub(crate) fn of(whole: &ArtifactGraph) -> Self {
        let files = whole.files.iter().map(|(file, _)| {
            file.extents.iter().map(|extent| match *extent {
                Extent::Content { len, .. } => (len, None),
                Extent::Tensor { ordinal } => match whole.tensors.get(ordinal as usize) {
                    Some((tensor, _)) => (tensor.byte_len(), Some(tensor.name.as_str())),
                    None => (0, None),
                },
            })
        });
        Self::new(files)
    }

    /// Those of files, each of which is runs of so many bytes.
    pub(crate) fn new<'a, F: Iterator<Item = Named<'a>>>(files: impl Iterator<Item = F>) -> Self {
        let (mut spots, mut names, mut firsts) = (Vec::new(), Vec::new(), vec![0]);
        for (file, runs) in (0..).zip(files) {
            let mut start = 0;
            for (len, name) in runs {
                if len > 0 {
                    spots.push(Spot { file, bytes: start..start + len });
                    names.push(name.unwrap_or_default());
                }
                start += len;
            }
            firsts.push(spots.len());
        }
        let file = |at: u32| spots.get(at as usize).map_or(0, |spot: &Spot| spot.file);
        let name = |at: u32| names.get(at as usize).copied().unwrap_or_default();
        let by_name = |a: u32, b: u32| name(a).cmp(name(b)).then(a.cmp(&b));
        let natural = |a: u32, b: u32| natural(name(a), name(b)).then(a.cmp(&b));
        let all = || (0..u32::try_from(spots.len()).unwrap_or(u32::MAX)).collect::<Vec<_>>();
        let sorted = |compare: &dyn Fn(u32, u32) -> Ordering| {
            let mut all = all();
            all.sort_by(|a, b| compare(*a, *b));
            follows(&all)
        };
        let next = [
            follows(&all()),
            sorted(&|a, b| file(a).cmp(&file(b)).then(by_name(a, b))),
            sorted(&|a, b| file(a).cmp(&file(b)).then(natural(a, b))),
            sorted(&natural),
        ];
        Self { spots, files: firsts, next }
    }

    /// The run at a place.
    pub(crate) fn spot(&self, at: u32) -> Option<&Spot> {
        self.spots.get(at as usize)
    }

    /// Which run holds the byte.
    pub(crate) fn at(&self, file: u32, byte: u64) -> Option<u32> {
        let first = *self.files.get(file as usize)?;
        let own = self.spots.get(first..*self.files.get(file as usize + 1)?)?;
        let place = own.partition_point(|spot| spot.bytes.end <= byte);
        own.get(place).and_then(|_| u32::try_from(first + place).ok())
    }

    /// What follows a run in an order.
    pub(crate) fn next(&self, order: usize, at: u32) -> Option<u32> {
        self.next.get(order)?.get(at as usize).copied()?
    }

    /// The first order, beginning with `preferred`, in which `to` follows `from`.
    pub(crate) fn that_leads(&self, preferred: usize, from: u32, to: u32) -> Option<usize> {
        let mut orders = std::iter::once(preferred).chain(0..ORDERS);
        orders.find(|order| self.next(*order, from) == Some(to))
    }
}

/// For each, what follows it in this sequence.
fn follows(sequence: &[u32]) -> Vec<Option<u32>> {
    let mut next = vec![None; sequence.len()];
    for pair in sequence.windows(2) {
        if let [a, b] = *pair
            && let Some(slot) = next.get_mut(a as usize)
        {
            *slot = Some(b);
        }
    }
    next
}

/// Compares names with the numbers in them as numbers: `layers.9` comes before `layers.10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let (x, y) = (digits(a), digits(b));
        if x > 0 && y > 0 {
            let ((own, rest), (other, more)) = (a.split_at(x), b.split_at(y));
            let (own, other) = (number(own), number(other));
            match own.len().cmp(&other.len()).then_with(|| own.cmp(other)) {
                Ordering::Equal => (a, b) = (rest, more),
                unequal => return unequal,
            }
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, rest)), Some((y, more))) if x == y => (a, b) = (rest, more),
            (first, second) => return first.map(|f| f.0).cmp(&second.map(|s| s.0)),
        }
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Without leading zeros.
fn number(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_in_names_are_numbers() {
        let mut names = ["l.10.w", "l.9.w", "l.1.w", "l.1", "l.01.w", "a", "", "l.1a"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names[..3], ["", "a", "l.1"]);
        assert!(natural("l.9.w", "l.10.w").is_lt() && natural("l.10.w", "l.9.w").is_gt());
        assert!(natural("l.2", "l.2").is_eq() && natural("9", "18446744073709551616").is_lt());
    }

    #[test]
    fn the_order_of_a_reader_is_found() {
        let names = ["l.0", "l.1", "l.10", "l.2", "l.9"];
        let header = std::iter::once((100, None));
        let file = header.chain(names.iter().map(|name| (1000, Some(*name))));
        let orders = Orders::new([file].into_iter());
        assert_eq!(orders.at(0, 99), Some(0));
        assert_eq!(orders.at(0, 100), Some(1));
        assert_eq!((orders.at(0, 5100), orders.at(1, 0)), (None, None));
        // As they lie: l.1, l.10; by number: l.1, l.2.
        assert_eq!(orders.that_leads(0, 2, 3), Some(0));
        assert_eq!(orders.that_leads(1, 2, 3), Some(1));
        assert_eq!(orders.that_leads(0, 2, 4), Some(2));
        assert_eq!(orders.that_leads(0, 2, 1), None);
        assert_eq!(orders.that_leads(0, 5, 3), Some(2), "l.9, l.10");
    }

    proptest! {
        /// Every order leads through every run once.
        #[test]
        fn an_order_is_a_walk(files in prop::collection::vec(prop::collection::vec((0..3_u64, "[a-c0-9]{0,3}"), 0..6), 0..4)) {
            let runs = files.iter().map(|runs| runs.iter().map(|(len, name)| (*len, Some(name.as_str()))));
            let orders = Orders::new(runs);
            let count = files.iter().flatten().filter(|(len, _)| *len > 0).count();
            for order in 0..ORDERS {
                let targets: std::collections::BTreeSet<u32> =
                    (0..count as u32).filter_map(|at| orders.next(order, at)).collect();
                prop_assert_eq!(targets.len(), count.saturating_sub(1));
                let mut at = (0..count as u32).find(|at| !targets.contains(at));
                let mut seen = 0;
                while let Some(here) = at {
                    seen += 1;
                    at = orders.next(order, here);
                }
                prop_assert_eq!(seen, count);
            }
        }

        #[test]
        fn names_are_ordered(a in "[a-b0-2.]{0,6}", b in "[a-b0-2.]{0,6}", c in "[a-b0-2.]{0,6}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le());
            }
        }
    }
}
