//! The page for people: what is served, how much of it came from the cache, and the traffic of the last
//! hour as a plot. Plain HTML, complete in itself. Pure.

use std::fmt::Write as _;

use crate::edge::ops::traffic::Rate;
use crate::format::markup::escape;

/// What the page shows.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) origin: String,
    pub(crate) seconds: u64,
    /// Names with their tags, in order.
    pub(crate) artifacts: Vec<(String, Vec<String>)>,
    /// Chunks found in memory or on disk, and all that were asked for.
    pub(crate) hits: u64,
    pub(crate) asked: u64,
    pub(crate) sent: u64,
    pub(crate) fetched: u64,
    pub(crate) in_flight: u64,
    pub(crate) verify_failures: u64,
    pub(crate) disk: Option<u64>,
    pub(crate) rates: Vec<Rate>,
}

/// The plot, in its own units.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 160.0;
/// The time that it shows, in seconds.
const SPAN: f64 = 3600.0;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:760px;margin:2em auto;\
padding:0 1em;color:#222;background:#fff}h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}\
table{border-collapse:collapse}td,th{text-align:left;padding:.15em 1.5em .15em 0}\
td.n{text-align:right;font-variant-numeric:tabular-nums}svg{width:100%;height:auto;background:#f6f6f6}\
code{background:#f2f2f2;padding:0 .3em}.sent{stroke:#1a5fb4}.fetched{stroke:#c64600}\
.key .sent,.key .fetched{display:inline-block;width:1.5em;border-top:3px solid;margin:0 .4em .25em 0}\
.key .sent{border-color:#1a5fb4}.key .fetched{border-color:#c64600;margin-left:1.5em}";

/// The page.
pub(crate) fn page(status: &Status) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"10\"><link rel=\"icon\" href=\"data:,\">\
         <title>TenPak edge</title><style>{STYLE}</style></head><body>\n<h1>TenPak edge</h1>\n\
         <p>Serves <code>{}</code>, for {}.</p>\n",
        escape(&status.origin),
        duration(status.seconds)
    );
    let hit_rate = match status.asked {
        0 => "no chunk was asked for yet".to_owned(),
        asked => format!("{:.1}%", status.hits as f64 * 100.0 / asked as f64),
    };
    let mut rows = vec![
        ("Hit rate", "hit-rate", hit_rate),
        ("Chunks asked for", "asked", status.asked.to_string()),
        ("Sent to clients", "sent", size(status.sent as f64)),
        ("Fetched from the origin", "fetched", size(status.fetched as f64)),
        ("Answers under way", "in-flight", status.in_flight.to_string()),
        ("Damaged chunks refused", "verify-failures", status.verify_failures.to_string()),
    ];
    if let Some(disk) = status.disk {
        rows.push(("Chunks on disk", "disk", size(disk as f64)));
    }
    // Writing to a string does not fail.
    let _ = writeln!(out, "<table>");
    for (name, id, value) in rows {
        let _ = writeln!(out, "<tr><th>{name}</th><td class=\"n\" id=\"{id}\">{value}</td></tr>");
    }
    let _ = writeln!(out, "</table>\n<h2>Traffic of the last hour</h2>");
    out += &plot(&status.rates);
    let count = status.artifacts.len();
    let _ = writeln!(out, "<h2>Artifacts ({count})</h2>\n<table id=\"artifacts\">");
    for (name, tags) in &status.artifacts {
        let tags = escape(&tags.join(", "));
        let _ = writeln!(out, "<tr><th>{}</th><td>{tags}</td></tr>", escape(name));
    }
    out += "</table>\n<p><a href=\"/metrics\">Metrics</a></p>\n</body></html>\n";
    out
}

/// Both rates over time, the newest at the right.
fn plot(rates: &[Rate]) -> String {
    let top = rates.iter().map(|rate| rate.sent.max(rate.fetched)).fold(1.0, f64::max);
    let line = |value: fn(&Rate) -> f64| {
        let mut points = String::new();
        for rate in rates.iter().filter(|rate| rate.ago <= SPAN) {
            let x = WIDTH * (1.0 - rate.ago / SPAN);
            let y = HEIGHT * (1.0 - value(rate) / top);
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        // A single point is drawn as a short line up to it.
        match points.split_once(',') {
            Some((x, rest)) if rates.len() == 1 => {
                let x: f64 = x.parse().unwrap_or(WIDTH);
                format!("{:.1},{} {x:.1},{}", (x - 4.0).max(0.0), rest.trim(), rest.trim())
            }
            _ => points.trim_end().to_owned(),
        }
    };
    format!(
        "<p class=\"key\"><span class=\"sent\"></span>sent to clients\
         <span class=\"fetched\"></span>fetched from the origin; top {}/s</p>\n\
         <svg id=\"traffic\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\
         <title>Bytes per second sent to clients and fetched from the origin</title>\
         <g fill=\"none\" stroke-width=\"2\"><polyline class=\"sent\" points=\"{}\"/>\
         <polyline class=\"fetched\" points=\"{}\"/></g></svg>\n",
        size(top),
        line(|rate| rate.sent),
        line(|rate| rate.fetched),
    )
}

fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plot_lies_in_its_frame() {
        let rates: Vec<Rate> = (0..361)
            .map(|i| Rate { ago: f64::from(360 - i) * 10.0, sent: f64::from(i), fetched: 7.0 })
            .collect();
        let plot = plot(&rates);
        let points = plot.split("points=\"").nth(1).and_then(|p| p.split('"').next()).unwrap();
        let points: Vec<(f64, f64)> = points
            .split(' ')
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(points.len(), 361);
        assert_eq!((points[0], points[360]), ((0.0, HEIGHT), (WIDTH, 0.0)));
        assert!(
            points.iter().all(|(x, y)| (0.0..=WIDTH).contains(x) && (0.0..=HEIGHT).contains(y))
        );
        assert!(plot.contains("top 360 B/s"), "{plot}");
    }

    #[test]
    fn what_is_shown_is_text() {
        let status = Status { origin: "<script>&\"".into(), seconds: 90_061, ..Status::default() };
        let page = page(&status);
        assert!(page.contains("&lt;script&gt;&amp;&quot;") && !page.contains("<script"));
        assert!(page.contains("for 1 d 1 h.") && page.contains("no chunk was asked for yet"));
        assert_eq!(size(1536.0 * 1024.0), "1.5 MiB");
    }
}
