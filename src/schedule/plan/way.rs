//! What a round trip to a store costs in bytes, from what reads of it took. Pure.

use std::time::Duration;

/// Reads of fewer bytes tell how long an answer takes to come, and not how quickly it comes.
const TELLING: u64 = 64 << 10;
/// The most that is read over, whatever was measured.
const MOST: u64 = 4 << 20;

/// Requests at first to a server whose answers take at least this: one more for each `FAR_STEP`, since finding that
/// there should be more takes as long, up to `MOST_AT_FIRST`.
const FAR: Duration = Duration::from_millis(3);
const FAR_REQUESTS: usize = 16;
const FAR_STEP: Duration = Duration::from_millis(3);
const MOST_AT_FIRST: usize = 64;
/// Bytes per second of one connection before that was measured: what object stores give at least, 20 to 90 MB/s.
const PACE: u64 = 20_000_000;

/// The way to a store, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// How long it takes at least until an answer comes.
    answer: Option<Duration>,
    /// The longest way of bytes and time that reads of one size took behind that.
    slope: Option<(u64, Duration)>,
}

impl Way {
    /// Takes note of a read of so many bytes, which took so long from its request to its last byte.
    pub fn took(&mut self, bytes: u64, time: Duration) {
        if bytes >= TELLING {
            let faster = |(b, t): (u64, Duration)| {
                u128::from(bytes) * t.as_nanos() > u128::from(b) * time.as_nanos()
            };
            if self.slope.is_none_or(faster) {
                self.slope = Some((bytes, time));
            }
        }
        self.answer = Some(self.answer.map_or(time, |answer| answer.min(time)));
    }

    /// How long it takes at least until an answer comes; `None` before any.
    pub fn answer(&self) -> Option<Duration> {
        self.answer
    }

    /// Requests at a time before it is known how quickly bytes come, if the store is far.
    pub fn requests(&self) -> Option<usize> {
        let answer = self.answer.filter(|&answer| answer >= FAR)?;
        let more = usize::try_from(answer.as_micros() / FAR_STEP.as_micros());
        Some(more.unwrap_or(MOST_AT_FIRST).saturating_add(FAR_REQUESTS).min(MOST_AT_FIRST))
    }

    /// Bytes of a request that come in the time to an answer, before it is known how quickly they come.
    pub fn on_the_way(&self) -> u64 {
        let micros = u64::try_from(self.answer.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
        micros.saturating_mul(PACE / 1_000_000)
    }

    /// Bytes that one request brings while another would be waited for: reading over fewer of them is
    /// cheaper than to ask again. `None` until enough was read.
    pub fn round_trip(&self) -> Option<u64> {
        let (answer, (bytes, time)) = (self.answer?, self.slope?);
        // What came behind the first byte; the quickest read may be this one itself.
        let behind = time.saturating_sub(answer).max(time / 8).as_nanos().max(1);
        let cost = u128::from(bytes) * answer.as_nanos() / behind;
        Some(u64::try_from(cost).unwrap_or(MOST).min(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn nothing_is_known_before_an_answer_and_many_bytes_came() {
        let mut way = Way::default();
        assert_eq!(way.round_trip(), None);
        way.took(200, ms(30));
        assert_eq!(way.round_trip(), None);
        way.took(1 << 20, ms(80));
        assert_eq!(way.round_trip(), Some((1 << 20) * 30 / 50));
    }

    #[test]
    fn the_first_connection_does_not_count() {
        let mut way = Way::default();
        // A handshake, then reads on the connection that is there.
        way.took(200, ms(90));
        way.took(1000, ms(30));
        way.took(1 << 20, ms(80));
        assert_eq!(way.round_trip(), Some((1 << 20) * 30 / 50));
    }

    #[test]
    fn the_farther_the_more_requests_at_first() {
        let requests = |answer: Option<u64>| {
            let mut way = Way::default();
            answer.iter().for_each(|&answer| way.took(200, ms(answer)));
            (way.requests(), way.on_the_way())
        };
        assert_eq!(requests(None), (None, 0));
        assert_eq!(requests(Some(2)), (None, 40_000));
        assert_eq!(requests(Some(10)), (Some(19), 200_000));
        assert_eq!(requests(Some(50)), (Some(32), 1_000_000));
        assert_eq!(requests(Some(150)), (Some(64), 3_000_000));
        assert_eq!(requests(Some(u64::MAX / 1_000)), (Some(64), u64::MAX));
    }

    proptest! {
        /// Oracle: the way that made the times.
        #[test]
        fn it_is_the_answer_times_the_rate(
            answer in 1_u64..300,
            rate in 20_000_u64..200_000_000,
            reads in prop::collection::vec(64_u64 << 10..4 << 20, 1..6),
        ) {
            let mut way = Way::default();
            let time = |bytes: u64| ms(answer) + Duration::from_nanos(bytes * 1_000_000_000 / rate);
            way.took(0, ms(answer));
            reads.iter().for_each(|&bytes| way.took(bytes, time(bytes)));
            let truth = rate * answer / 1000;
            let found = way.round_trip().unwrap();
            // A read that is nearly all waiting tells no rate: it is taken for slower than it is.
            let clear = reads.iter().any(|&b| time(b) > ms(answer) * 8 / 7);
            prop_assert!(found <= truth.min(MOST) + truth / 50 + 1, "{} of {}", found, truth);
            if clear {
                prop_assert!(found + truth / 50 + 1 >= truth.min(MOST), "{} of {}", found, truth);
            }
        }
    }
}
