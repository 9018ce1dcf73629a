//! What is seen of `tenpak optimize` while it runs: a table that changes on a terminal, lines elsewhere, events for a
//! worker, and nothing where only the result is wanted.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::bytes::size;
use super::output::Output;
use crate::optimize::Watch;
use crate::optimize::constraints::number;
use crate::optimize::figure::Figure;
use crate::optimize::outcome::Row;

/// Rows that a screen has place for.
const ROWS: usize = 20;

/// Who watches.
pub(super) struct Board<'a> {
    output: &'a Output,
    begun: Instant,
    /// When nothing new is begun any more.
    limit: Option<Duration>,
    state: Mutex<State>,
    live: Option<Live>,
}

/// The lines on the terminal.
struct Live {
    all: MultiProgress,
    foot: ProgressBar,
    bars: Mutex<Vec<ProgressBar>>,
}

/// What is known of each row.
#[derive(Default)]
struct State {
    lines: Vec<Line>,
    /// Candidates that were tried, and what they took.
    tried: Vec<(String, Duration)>,
    /// The candidate that is tried, and since when.
    now: Option<(String, Instant)>,
}

struct Line {
    method: String,
    hardware: String,
    cells: [String; 5],
    state: String,
}

impl Line {
    fn of(row: &Row) -> Self {
        let cell = |figure: Option<Figure>| figure.map_or("-".to_owned(), |own| number(own.value));
        let figures = &row.figures;
        let state = match &row.dropped {
            Some(why) => format!("out: {why}"),
            None => "waits".to_owned(),
        };
        Self {
            method: row.method.clone(),
            hardware: row.hardware.clone(),
            cells: [
                row.bytes.map_or("-".to_owned(), size),
                cell(figures.ppl_delta_percent),
                cell(figures.kl),
                cell(figures.latency_ms),
                cell(figures.cost_per_1m_tokens),
            ],
            state,
        }
    }

    fn text(&self) -> String {
        let [size, ppl, kl, ms, cost] = &self.cells;
        format!(
            "{:<16} {:<9} {size:>10} {ppl:>8} {kl:>9} {ms:>9} {cost:>9}  {}",
            self.method, self.hardware, self.state
        )
    }
}

const HEAD: [&str; 5] = ["size", "ppl %", "KL", "ms", "per 1M"];

fn head() -> String {
    let line = Line {
        method: "method".to_owned(),
        hardware: "hardware".to_owned(),
        cells: HEAD.map(str::to_owned),
        state: "state".to_owned(),
    };
    line.text()
}

impl State {
    /// Takes over what a row has now.
    fn put(&mut self, row: &Row) {
        let new = Line::of(row);
        let same = |own: &&mut Line| (&own.method, &own.hardware) == (&new.method, &new.hardware);
        match self.lines.iter_mut().find(same) {
            Some(line) => {
                let kept =
                    if row.dropped.is_some() { new.state.clone() } else { "kept".to_owned() };
                *line = Line { state: kept, ..new };
            }
            None => self.lines.push(new),
        }
    }

    /// A candidate is at a stage.
    fn stage(&mut self, candidate: &str, stage: &str, now: Instant) {
        if self.now.as_ref().is_none_or(|(own, _)| own != candidate) {
            if let Some((own, since)) = self.now.take() {
                self.tried.push((own, now.duration_since(since)));
            }
            self.now = Some((candidate.to_owned(), now));
        }
        let own = self.lines.iter_mut().filter(|own| own.method == candidate);
        for line in own.filter(|own| !own.state.starts_with("out")) {
            line.state = stage.to_owned();
        }
    }

    /// What is left, if those that wait take as long as those that were tried.
    fn left(&self, now: Instant) -> Option<Duration> {
        let count = u32::try_from(self.tried.len()).ok().filter(|count| *count > 0)?;
        let mean = self.tried.iter().map(|own| own.1).sum::<Duration>() / count;
        let mut waiting: Vec<&str> = Vec::new();
        for line in self.lines.iter().filter(|own| own.state == "waits") {
            if !waiting.contains(&line.method.as_str()) {
                waiting.push(&line.method);
            }
        }
        let running = self
            .now
            .as_ref()
            .map_or(Duration::ZERO, |(_, since)| mean.saturating_sub(now.duration_since(*since)));
        Some(mean * u32::try_from(waiting.len()).unwrap_or(u32::MAX) + running)
    }
}

impl<'a> Board<'a> {
    pub(super) fn new(output: &'a Output, limit: Option<Duration>) -> Self {
        let live = output.shows_board().then(|| {
            let all = MultiProgress::new();
            let style = ProgressStyle::with_template("{elapsed_precise}  {wide_msg}");
            let foot = all.add(ProgressBar::new_spinner());
            foot.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            foot.enable_steady_tick(Duration::from_secs(1));
            Live { all, foot, bars: Mutex::default() }
        });
        Self { output, begun: Instant::now(), limit, state: Mutex::default(), live }
    }

    /// How long it has run.
    pub(super) fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Takes the table away: the result follows.
    pub(super) fn close(&self) {
        if let Some(live) = &self.live {
            live.foot.finish_and_clear();
            drop(live.all.clear());
        }
    }

    fn change(&self, with: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        with(&mut state);
        let Some(live) = &self.live else { return };
        let mut texts = vec![head()];
        texts.extend(state.lines.iter().take(ROWS).map(Line::text));
        if let Some(more) = state.lines.len().checked_sub(ROWS).filter(|more| *more > 0) {
            texts.push(format!("and {more} more"));
        }
        let mut bars = live.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let style = ProgressStyle::with_template("{wide_msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
        while bars.len() < texts.len() {
            let bar = ProgressBar::new_spinner().with_style(style.clone());
            bars.push(live.all.insert_before(&live.foot, bar));
        }
        for (bar, text) in bars.iter().zip(texts) {
            if bar.message() != text {
                bar.set_message(text);
            }
        }
        live.foot.set_message(self.foot(&state));
    }

    /// What is left, in words.
    fn foot(&self, state: &State) -> String {
        let tried = state.tried.len() + usize::from(state.now.is_some());
        let left = state.left(Instant::now());
        let limit = self.limit.map(|limit| limit.saturating_sub(self.begun.elapsed()));
        let left = match (left, limit) {
            (Some(left), Some(limit)) => Some(left.min(limit)),
            (left, limit) => left.or(limit),
        };
        match left {
            Some(left) => format!("{tried} tried, about {} s left", left.as_secs() + 1),
            None => format!("{tried} tried"),
        }
    }
}

impl Watch for Board<'_> {
    fn begin(&self, rows: &[Row]) {
        self.change(|state| rows.iter().for_each(|row| state.put(row)));
    }

    fn at(&self, candidate: &str, stage: &str) {
        self.change(|state| state.stage(candidate, stage, Instant::now()));
        if self.live.is_none() && self.output.tells() {
            self.output.note(format_args!("{:6.1} s  {candidate}: {stage}", self.seconds()));
        }
    }

    fn known(&self, row: &Row) {
        self.change(|state| state.put(row));
        let value = |figure: Option<Figure>| figure.map(|own| own.value);
        let figures = &row.figures;
        self.output.event("candidate", &json!({
            "method": row.method, "hardware": row.hardware, "cost_per_1m_tokens": value(figures.cost_per_1m_tokens),
            "ppl_delta_percent": value(figures.ppl_delta_percent), "compression": value(figures.compression),
            "latency_ms": value(figures.latency_ms), "dropped": row.dropped,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(method: &str, hardware: &str, state: &str) -> Line {
        let cells = ["2 MiB", "0.1", "0.01", "1.5", "0.4"].map(str::to_owned);
        Line {
            method: method.to_owned(),
            hardware: hardware.to_owned(),
            cells,
            state: state.to_owned(),
        }
    }

    #[test]
    fn the_time_left_is_that_of_those_that_wait() {
        let mut state = State::default();
        for (method, hardware, own) in [
            ("a", "t4", "waits"),
            ("b", "t4", "waits"),
            ("b", "l4", "waits"),
            ("c", "t4", "out: no"),
        ] {
            state.lines.push(line(method, hardware, own));
        }
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        state.stage("a", "producing", at(0));
        assert_eq!(state.left(at(3)), None, "nothing is known yet");
        state.stage("a", "reading the text", at(4));
        state.stage("b", "producing", at(10));
        assert_eq!(state.lines[1].state, "producing");
        assert_eq!(state.left(at(13)), Some(Duration::from_secs(7)));
        state.lines[0].state = "waits".to_owned();
        assert_eq!(state.left(at(13)), Some(Duration::from_secs(17)), "b has two rows, and is one");
        // What is out stays out.
        state.stage("c", "producing", at(14));
        assert_eq!(state.lines[3].state, "out: no");
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let text = line("bnb_nf4", "h100x2", "kept").text();
        for (name, value) in HEAD.iter().zip(["2 MiB", "0.1", "0.01", "1.5", "0.4"]) {
            let end = |text: &str, own: &str| text.find(own).unwrap() + own.len();
            assert_eq!(end(&head(), name), end(&text, value), "{name}");
        }
    }
}
