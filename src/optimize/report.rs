//! The outcome as one page that needs nothing else: a plot of cost against quality, a table, reasons, and what to
//! run next. Pure.

use super::constraints::number;
use super::figure::Figure;
use super::outcome::{Outcome, Row};
use crate::format::markup::escape;

/// What the page says beside the outcome.
#[derive(Debug, Clone)]
pub struct About {
    /// The model.
    pub model: String,
    /// The name that the winner has.
    pub name: String,
    /// The limits, as they were given.
    pub limits: Vec<String>,
    /// What was to be the least.
    pub objective: String,
    /// The workload, in words.
    pub workload: String,
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;color:#1b1f24;background:#fff;margin:2rem auto;\
max-width:80rem;padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{padding:.3rem .5rem;\
border-bottom:1px solid #d8dee4;text-align:left;vertical-align:top}td.n,th.n{text-align:right;white-space:nowrap}\
tr.w{background:#e8f5ea}small,.d{color:#59636e}code,pre{background:#f3f5f7;padding:.1rem .3rem}\
pre{padding:.7rem;overflow:auto}svg{width:100%;height:auto}.o{overflow:auto}";

fn cell(figure: Option<Figure>, unit: &str) -> String {
    let Some(figure) = figure else { return "<td class=\"n d\">-</td>".to_owned() };
    let range = match figure.low < figure.high {
        true => format!("<br><small>{} to {}</small>", number(figure.low), number(figure.high)),
        false => String::new(),
    };
    format!("<td class=\"n\">{}{unit}{range}</td>", number(figure.value))
}

/// Bytes for people.
fn size(bytes: f64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let unit = units.iter().find(|(_, unit)| bytes >= *unit);
    unit.map_or(format!("{bytes} B"), |(name, unit)| format!("{:.2} {name}", bytes / unit))
}

/// A scale with logarithms where all is positive and far apart.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(values: &[f64], (from, to): (f64, f64)) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite());
        let (low, high) =
            (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        let log = low > 0.0 && high > 8.0 * low;
        let margin = if log { 1.15 } else { 0.08 * (high - low).max(high.abs() * 0.02).max(1e-9) };
        let (low, high) =
            if log { (low / margin, high * margin) } else { (low - margin, high + margin) };
        Self { low, high, log, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let map = |value: f64| if self.log { value.max(1e-300).ln() } else { value };
        let share = (map(value) - map(self.low)) / (map(self.high) - map(self.low));
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        let step = |at: u32| {
            let share = f64::from(at) / 4.0;
            match self.log {
                true => (self.low.ln() + share * (self.high.ln() - self.low.ln())).exp(),
                false => self.low + share * (self.high - self.low),
            }
        };
        (0..=4).map(step).collect()
    }
}

/// A row that has both a cost and a quality.
fn point(at: usize, row: &Row) -> Option<(usize, &Row, Figure, Figure)> {
    let (cost, loss) = (row.figures.cost_per_1m_tokens?, row.figures.ppl_delta_percent?);
    (cost.value.is_finite() && loss.value.is_finite()).then_some((at, row, cost, loss))
}

/// Cost against quality: hollow where dropped, the front joined, bars for how sure both are, larger where slower.
fn plot(outcome: &Outcome) -> String {
    let points: Vec<(usize, &Row, Figure, Figure)> =
        outcome.rows.iter().enumerate().filter_map(|(at, row)| point(at, row)).collect();
    if points.is_empty() {
        return "<p>No candidate has both a cost and a quality.</p>".to_owned();
    }
    let costs: Vec<f64> = points.iter().map(|own| own.2.value).collect();
    let losses: Vec<f64> = points.iter().map(|own| own.3.value).collect();
    let slowest = points.iter().filter_map(|own| own.1.figures.latency_ms).map(|own| own.value);
    let slowest = slowest.fold(0.0, f64::max);
    let (x, y) = (Axis::new(&costs, (92.0, 860.0)), Axis::new(&losses, (360.0, 20.0)));
    let mut svg = String::from(
        "<svg viewBox=\"0 0 900 420\" role=\"img\" aria-label=\"cost against quality\" \
         font-size=\"12\" fill=\"#1b1f24\">",
    );
    for tick in x.ticks() {
        let at = x.at(tick);
        svg += &format!(
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"20\" y2=\"360\" stroke=\"#e4e8ec\"/>\
             <text x=\"{at:.1}\" y=\"378\" text-anchor=\"middle\">{}</text>",
            number(tick)
        );
    }
    for tick in y.ticks() {
        let at = y.at(tick);
        svg += &format!(
            "<line x1=\"92\" x2=\"860\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e4e8ec\"/>\
             <text x=\"84\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            at + 4.0,
            number(tick)
        );
    }
    svg += &format!(
        "<text x=\"476\" y=\"405\" text-anchor=\"middle\">{} per million tokens{}</text>\
         <text transform=\"translate(14 190) rotate(-90)\" text-anchor=\"middle\">perplexity, % above the \
         model's</text>",
        escape(&outcome.currency),
        if x.log { ", logarithmic" } else { "" }
    );
    let mut on: Vec<_> = points.iter().filter(|own| own.1.front).collect();
    on.sort_by(|one, other| one.2.value.total_cmp(&other.2.value));
    let line: Vec<String> =
        on.iter().map(|own| format!("{:.1},{:.1}", x.at(own.2.value), y.at(own.3.value))).collect();
    svg += &format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#8aa5c0\" stroke-dasharray=\"4 3\"/>",
        line.join(" ")
    );
    let winner = outcome.winner.as_ref().map(|own| own.row);
    for (at, row, cost, loss) in &points {
        let (cx, cy) = (x.at(cost.value), y.at(loss.value));
        let color = if winner == Some(*at) { "#1a7f37" } else { "#3b6ea5" };
        let fill = if row.dropped.is_some() { "#fff" } else { color };
        let slow = row.figures.latency_ms.map_or(0.0, |own| own.value / slowest.max(1e-9));
        for (x1, x2, y1, y2) in [
            (x.at(cost.low.max(x.low)), x.at(cost.high.min(x.high)), cy, cy),
            (cx, cx, y.at(loss.low.max(y.low)), y.at(loss.high.min(y.high))),
        ] {
            svg += &format!(
                "<line x1=\"{x1:.1}\" x2=\"{x2:.1}\" y1=\"{y1:.1}\" y2=\"{y2:.1}\" stroke=\"{color}\" \
                 stroke-opacity=\".35\"/>"
            );
        }
        let label = escape(&format!("{} on {}", row.method, row.hardware));
        // On the right there is no room to the right.
        let (tx, anchor) = if cx > 720.0 { (cx - 10.0, "end") } else { (cx + 10.0, "start") };
        svg += &format!(
            "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{:.1}\" fill=\"{fill}\" stroke=\"{color}\" \
             stroke-width=\"1.5\"><title>{label}</title></circle>\
             <text x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            4.0 + 4.0 * slow.clamp(0.0, 1.0),
            cy - 6.0,
            escape(&row.method)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// The whole page.
pub fn html(outcome: &Outcome, about: &About) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>{0}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"/><style>{STYLE}</style></head><body>\
         <h1>The best of {0}</h1>",
        escape(&about.model)
    );
    let limits = match about.limits.is_empty() {
        true => "none".to_owned(),
        false => about.limits.join(", "),
    };
    page += &format!(
        "<p>Least {}. Limits: <code>{}</code>. {}</p>",
        escape(&about.objective),
        escape(&limits),
        escape(&about.workload)
    );
    let best = outcome.winner.as_ref().and_then(|own| Some((own, outcome.rows.get(own.row)?)));
    match best {
        Some((winner, row)) => {
            let id = winner.manifest.map(|id| format!(" <small>@{id}</small>")).unwrap_or_default();
            page += &format!(
                "<p><strong>{}</strong> on {} is now <code>{}</code>{id}</p>",
                escape(&row.method),
                escape(&row.hardware),
                escape(&about.name)
            );
        }
        None => page.push_str("<p><strong>Nothing fits.</strong></p>"),
    }
    if !outcome.misses.is_empty() {
        page.push_str("<ul>");
        for miss in &outcome.misses {
            page += &format!("<li>{}</li>", escape(miss));
        }
        page.push_str("</ul>");
    }
    page += &format!(
        "<h2>Cost and quality</h2>{}<p class=\"d\">Hollow: dropped. Green: the best. Larger: slower. Bars: how \
         sure both are. Joined: what no other beats.</p>",
        plot(outcome)
    );
    page += &format!(
        "<h2>Candidates</h2><div class=\"o\"><table><tr><th>method</th><th>hardware</th><th>engine</th><th class=\"n\">size</th>\
         <th class=\"n\">smaller</th><th class=\"n\">perplexity</th><th class=\"n\">KL</th>\
         <th class=\"n\">latency</th><th class=\"n\">tokens/s</th><th class=\"n\">{} per million</th></tr>",
        escape(&outcome.currency)
    );
    for (at, row) in outcome.rows.iter().enumerate() {
        let class = if best.is_some_and(|(own, _)| own.row == at) { " class=\"w\"" } else { "" };
        let figures = &row.figures;
        page += &format!(
            "<tr{class}><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td>{}{}{}{}{}{}</tr>",
            escape(&row.method),
            escape(&row.hardware),
            row.engine.map_or("-", |own| own.name()),
            row.bytes.map_or("-".to_owned(), |own| size(own as f64)),
            cell(figures.compression, "x"),
            cell(figures.ppl_delta_percent, "%"),
            cell(figures.kl, ""),
            cell(figures.latency_ms, " ms"),
            cell(figures.tokens_per_second, ""),
            cell(figures.cost_per_1m_tokens, ""),
        );
        let why = row.dropped.iter().chain(&row.notes).map(|own| escape(own));
        let why: Vec<String> = why.collect();
        if !why.is_empty() {
            page += &format!(
                "<tr{class}><td></td><td colspan=\"9\"><small>{}</small></td></tr>",
                why.join("; ")
            );
        }
    }
    page.push_str("</table></div>");
    sources(&mut page, outcome);
    if best.is_some() {
        page += &format!(
            "<h2>Serve it</h2><pre>tenpak serve {0}\ntenpak inspect {0}</pre>",
            escape(&about.name)
        );
    }
    page.push_str("</body></html>\n");
    page
}

/// Where numbers come from.
fn sources(page: &mut String, outcome: &Outcome) {
    page.push_str("<h2>Where the numbers come from</h2><ul>");
    for price in &outcome.prices {
        let per = if price.per.is_some() { "a core" } else { "each" };
        let text = format!(
            "{}: {} {} an hour {per} ({} {}, {}, {}; {})",
            price.hardware,
            price.per_hour,
            outcome.currency,
            price.provider,
            price.instance,
            price.region,
            price.date,
            price.source
        );
        *page += &format!("<li>{}</li>", escape(&text));
    }
    let mut said: Vec<String> = Vec::new();
    for row in &outcome.rows {
        let Some(source) = &row.speed_source else { continue };
        let text = format!("speed of {} on {}: {source}", row.method, row.hardware);
        if !said.contains(&text) {
            said.push(text);
        }
    }
    for text in said.iter().chain(&outcome.notes) {
        *page += &format!("<li>{}</li>", escape(text));
    }
    page.push_str("</ul>");
}
