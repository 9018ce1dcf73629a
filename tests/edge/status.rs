//! The page for people, in a browser without a window.

use std::process::Command;

use super::command::Served;
use super::run::{fresh_folder, text};

#[test]
fn a_browser_shows_the_page() {
    let served = Served::new("status");
    let (_, weights) = served.ask("GET /org/m/resolve/main/model.safetensors", "", "");
    let profile = fresh_folder("chromium");
    let picture = profile.join("page.png");
    let url = format!("http://{}/", served.address);
    let browser = |arguments: &[&str]| {
        let output = Command::new("chromium")
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--enable-logging=stderr"])
            .arg(format!("--user-data-dir={}", text(&profile.join("profile"))))
            .args(arguments)
            .arg(&url)
            .output()
            .unwrap_or_else(|error| panic!("chromium: {error}; tests/setup.sh installs it"));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        assert!(!error.contains("CONSOLE"), "the page has errors: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let page = browser(&["--dump-dom"]);
    assert!(page.contains("<title>TenPak edge</title>"), "{page}");
    let cell = |id: &str| {
        let cell = page.split(&format!("id=\"{id}\">")).nth(1).expect(id);
        cell.split('<').next().unwrap_or_default().to_owned()
    };
    assert!(page.contains("<th>org/m</th><td>latest, v1</td>"), "{page}");
    let rate: f64 = cell("hit-rate").trim_end_matches('%').parse().expect("a rate");
    assert!((0.0..=100.0).contains(&rate), "{rate}");
    let sent = format!("{:.1} MiB", weights.len() as f64 / (1 << 20) as f64);
    assert_eq!(cell("sent"), sent);
    assert_ne!(cell("fetched"), "0 B");
    for line in ["sent", "fetched"] {
        let points =
            page.split(&format!("<polyline class=\"{line}\" points=\"")).nth(1).expect(line);
        let points: Vec<&str> = points.split('"').next().unwrap_or_default().split(' ').collect();
        assert!(points.len() >= 2, "{points:?}");
    }
    browser(&[&format!("--screenshot={}", text(&picture)), "--window-size=800,900"]);
    let picture = std::fs::read(picture).expect("a picture");
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 5000, "{} bytes", picture.len());
}

#[test]
fn the_page_is_complete_in_itself() {
    let served = Served::new("status-head");
    let (head, body) = served.ask("GET /", "", "");
    let page = String::from_utf8(body).expect("text");
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/html"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    for outside in ["http://", "https://", "<script", "@import", "url("] {
        let own = page.replace(&format!("http://{}", served.address), "");
        assert!(!own.contains(outside), "{outside}: {page}");
    }
    let (head, body) = served.ask("HEAD /", "", "");
    assert!(head.starts_with("http/1.1 200") && body.is_empty(), "{head}");
}
