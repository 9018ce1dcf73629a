//! What the edge relays obeys HTTP's caching rules. The cases are those of the public suite
//! `http-tests/cache-tests`, under its names, as far as they can concern refs and layouts read from an
//! origin by GET; `make cache-tests` runs the suite's own engine, where 68 of its 160 required checks apply.
//!
//! Left out, and why:
//! - `headers-*`, `304-*`, `update304`, `other-set-cookie`, `cc-resp-no-cache-*` of single fields: the
//!   edge hands on bytes, entity tag, `Cache-Control`, `Date` and `Age` of its own making, no other
//!   field of the origin, so that there is none to keep or to update. It asks for a stale object
//!   again whole, as they are small, so no 304 comes from an origin.
//! - `vary-*` but `vary-star`, `auth-*`, `query-*`: the edge sends every origin the same request
//!   whoever asks, without credentials and without a query; there is one variant.
//! - `status-*`, `method-*`, `invalidation-*`, `updateHEAD-*`, `interim-*`: a status other than 200 is
//!   an error of the store, and nothing but GET reaches an origin.
//! - `partial-*`: only whole objects are kept; ranges of them are cut at the edge (`parts.rs`).
//! - `cdn-*`: `CDN-Cache-Control` is for those who run the CDN; the edge leaves it alone.
//! - `heuristic-*` and the checks that nothing is used again without being told: an origin that says
//!   nothing is a bucket or a folder, whose refs are taken for fresh for 5 seconds (here:
//!   `nothing_said`), never by `Last-Modified`.
//! - `stale-while-revalidate`: optional; a stale ref is never handed out while the origin answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::serving::{Edge, path};
use super::web::{Step, WebServer, answer};
use tenpak::transport::http::{HttpBackend, HttpOptions};

/// One case: its name, what the origin's first answer says, what the second request asks, and
/// whether the first answer is to be used again.
type Case = (&'static str, Vec<String>, &'static str, bool);

fn date(offset: i64) -> String {
    let now = SystemTime::now();
    let by = Duration::from_secs(offset.unsigned_abs());
    httpdate::fmt_http_date(if offset < 0 { now - by } else { now + by })
}

fn case(name: &'static str, lines: &[&str], again: bool) -> Case {
    (name, lines.iter().map(|line| (*line).to_owned()).collect(), "", again)
}

fn asked(name: &'static str, lines: &[&str], request: &'static str, again: bool) -> Case {
    (name, lines.iter().map(|line| (*line).to_owned()).collect(), request, again)
}

fn dated(name: &'static str, lines: &[(&str, String)], again: bool) -> Case {
    let lines = lines.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    (name, lines, "", again)
}

fn cases() -> Vec<Case> {
    const HOUR: &str = "Cache-Control: max-age=3600";
    let hour = ("Cache-Control", "max-age=3600".to_owned());
    let age = |value: &str| format!("Age: {value}");
    let expires = |value: String| vec![("Expires", value), ("Date", date(0))];
    let mut all = vec![
        case("nothing_said", &[], true),
        case("freshness-max-age", &[HOUR], true),
        case("freshness-max-age-stale", &["Cache-Control: max-age=3", "Age: 3"], false),
        case("freshness-max-age-0", &["Cache-Control: max-age=0"], false),
        case("freshness-max-age-max-minus-1", &["Cache-Control: max-age=2147483647"], true),
        case("freshness-max-age-max", &["Cache-Control: max-age=2147483648"], true),
        case("freshness-max-age-max-plus", &["Cache-Control: max-age=99999999999"], true),
        case("freshness-max-age-age", &[HOUR, "Age: 7200"], false),
        case("freshness-max-age-extension", &["Cache-Control: foobar, max-age=3600"], true),
        case("freshness-max-age-case-insenstive", &["Cache-Control: MaX-AgE=3600"], true),
        case("freshness-max-age-negative", &["Cache-Control: max-age=-3600"], false),
        case("freshness-s-maxage-shared", &["Cache-Control: s-maxage=3600"], true),
        case(
            "freshness-max-age-s-maxage-shared-longer",
            &["Cache-Control: max-age=3600, s-maxage=1", "Age: 1"],
            false,
        ),
        case(
            "freshness-max-age-s-maxage-shared-longer-reversed",
            &["Cache-Control: s-maxage=1, max-age=3600", "Age: 1"],
            false,
        ),
        case(
            "freshness-max-age-s-maxage-shared-longer-multiple",
            &[HOUR, "Cache-Control: s-maxage=1", "Age: 1"],
            false,
        ),
        case(
            "freshness-max-age-s-maxage-shared-shorter",
            &["Cache-Control: max-age=1, s-maxage=3600", "Age: 1"],
            true,
        ),
        case(
            "freshness-max-age-two-fresh-stale-sameline",
            &["Cache-Control: max-age=3600, max-age=1", "Age: 1"],
            false,
        ),
        case(
            "freshness-max-age-two-stale-fresh-sepline",
            &["Cache-Control: max-age=1", HOUR, "Age: 1"],
            false,
        ),
        case("freshness-max-age-quoted", &["Cache-Control: max-age=\"3600\""], true),
        case(
            "freshness-max-age-ignore-quoted",
            &["Cache-Control: extension=\"max-age=3600\", max-age=1", "Age: 1"],
            false,
        ),
        case(
            "freshness-max-age-ignore-quoted-rev",
            &["Cache-Control: max-age=1, extension=\"max-age=3600, x\"", "Age: 1"],
            false,
        ),
        case("freshness-max-age-space-before-equals", &["Cache-Control: max-age =3600"], false),
        case("freshness-max-age-space-after-equals", &["Cache-Control: max-age= 3600"], false),
        case("freshness-max-age-leading-zero", &["Cache-Control: max-age=003600"], true),
        case("freshness-max-age-single-quoted", &["Cache-Control: max-age='3600'"], false),
        case("freshness-max-age-decimal-five", &["Cache-Control: max-age=3600.5"], false),
        case("freshness-max-age-a100", &["Cache-Control: max-age=a3600"], false),
        case("freshness-max-age-100a", &["Cache-Control: max-age=3600a"], false),
        case("cc-resp-private-shared", &["Cache-Control: private, max-age=3600"], false),
        case("cc-resp-no-store", &["Cache-Control: no-store"], false),
        case("cc-resp-no-store-case-insensitive", &["Cache-Control: No-StOrE"], false),
        case("cc-resp-no-store-fresh", &["Cache-Control: max-age=3600, no-store"], false),
        case("cc-resp-no-cache", &["Cache-Control: max-age=3600, no-cache"], false),
        case(
            "cc-resp-no-cache-case-insensitive",
            &["Cache-Control: max-age=3600, No-CaChE"],
            false,
        ),
        case(
            "cc-resp-must-revalidate-fresh",
            &["Cache-Control: max-age=3600, must-revalidate"],
            true,
        ),
        case(
            "cc-resp-must-revalidate-stale",
            &["Cache-Control: max-age=3, must-revalidate", "Age: 3"],
            false,
        ),
        case("cc-resp-immutable-fresh", &["Cache-Control: max-age=3600, immutable"], true),
        case("cc-resp-immutable-stale", &["Cache-Control: max-age=3, immutable", "Age: 3"], false),
        case("vary-star", &[HOUR, "Vary: *"], false),
        case("age-parse-nonnumeric", &[HOUR, &age("abc")], true),
        case("age-parse-negative", &[HOUR, &age("-7200")], true),
        case("age-parse-float", &[HOUR, &age("7200.0")], true),
        case("age-parse-large-minus-one", &[HOUR, &age("2147483647")], false),
        case("age-parse-large", &[HOUR, &age("2147483648")], false),
        case("age-parse-larger", &[HOUR, &age("2147483649")], false),
        case("age-parse-suffix", &[HOUR, &age("7200, 0")], false),
        case("age-parse-prefix", &[HOUR, &age("0, 7200")], true),
        case("age-parse-suffix-twoline", &[HOUR, &age("7200"), &age("0")], false),
        case("age-parse-prefix-twoline", &[HOUR, &age("0"), &age("7200")], true),
        case("age-parse-dup-0", &[HOUR, &age("0, 0")], true),
        case("age-parse-dup-0-twoline", &[HOUR, &age("0"), &age("0")], true),
        case("age-parse-dup-old", &[HOUR, &age("7200"), &age("7200")], false),
        asked("ccreq-ma0", &[HOUR], "Cache-Control: max-age=0\r\n", false),
        asked("ccreq-ma1", &[HOUR, "Age: 1"], "Cache-Control: max-age=1\r\n", false),
        asked("ccreq-magreaterage", &[HOUR, "Age: 1800"], "Cache-Control: max-age=600\r\n", false),
        asked(
            "ccreq-max-stale",
            &["Cache-Control: max-age=1", "Age: 1"],
            "Cache-Control: max-stale=1000\r\n",
            true,
        ),
        asked(
            "ccreq-max-stale-age",
            &["Cache-Control: max-age=1500", "Age: 2000"],
            "Cache-Control: max-stale=1000\r\n",
            true,
        ),
        asked(
            "a stale answer beyond max-stale",
            &["Cache-Control: max-age=1500", "Age: 4000"],
            "Cache-Control: max-stale=1000\r\n",
            false,
        ),
        asked(
            "a stale answer that must be revalidated",
            &["Cache-Control: max-age=1500, must-revalidate", "Age: 2000"],
            "Cache-Control: max-stale=1000\r\n",
            false,
        ),
        asked(
            "ccreq-min-fresh",
            &["Cache-Control: max-age=1500"],
            "Cache-Control: min-fresh=2000\r\n",
            false,
        ),
        asked(
            "ccreq-min-fresh-age",
            &["Cache-Control: max-age=1500", "Age: 1000"],
            "Cache-Control: min-fresh=1000\r\n",
            false,
        ),
        asked("ccreq-no-cache", &[HOUR], "Cache-Control: no-cache\r\n", false),
        asked("pragma-request-no-cache", &[HOUR], "Pragma: no-cache\r\n", false),
        asked("pragma-request-extension", &[HOUR], "Pragma: unknown\r\n", true),
        dated("freshness-max-age-expires", &[hour.clone(), ("Expires", date(-7200))], true),
        dated("freshness-max-age-expires-invalid", &[hour.clone(), ("Expires", "0".into())], true),
        dated(
            "freshness-max-age-0-expires",
            &[("Cache-Control", "max-age=0".into()), ("Expires", date(3600))],
            false,
        ),
        dated(
            "freshness-max-age-s-maxage-shared-shorter-expires",
            &[("Cache-Control", "max-age=0, s-maxage=3600".into()), ("Expires", date(-10))],
            true,
        ),
        dated("freshness-expires-future", &expires(date(30 * 86400)), true),
        dated("freshness-expires-past", &expires(date(-30 * 86400)), false),
        dated("freshness-expires-present", &expires(date(0)), false),
        dated("freshness-expires-old-date", &[("Expires", date(300)), ("Date", date(400))], false),
        dated("freshness-expires-invalid", &[("Expires", "0".into())], false),
        dated(
            "freshness-expires-invalid-date",
            &[("Expires", date(10)), ("Date", "foo".into())],
            true,
        ),
        dated(
            "freshness-expires-age-slow-date",
            &[("Expires", date(10)), ("Date", date(-10)), ("Age", "25".into())],
            false,
        ),
        dated(
            "freshness-expires-age-fast-date",
            &[("Expires", date(10)), ("Date", date(10)), ("Age", "20".into())],
            false,
        ),
        dated("two Expires", &[("Expires", date(3600)), ("Expires", date(-3600))], false),
        dated(
            "freshness-max-age-date: an old answer is old",
            &[hour.clone(), ("Date", date(-7200))],
            false,
        ),
    ];
    for (name, value, again) in [
        ("freshness-expires-32bit", "Tue, 19 Jan 2038 14:14:08 GMT", true),
        ("freshness-expires-far-future", "Sun, 21 Nov 2286 04:46:39 GMT", true),
        ("freshness-expires-rfc850", "Thursday, 18-Aug-50 02:01:18 GMT", true),
        ("freshness-expires-ansi-c", "Thu Aug 18 02:01:18 2050", true),
        ("freshness-expires-invalid-utc", "Thu, 18 Aug 2050 02:01:18 UTC", false),
        ("freshness-expires-invalid-aest", "Thu, 18 Aug 2050 02:01:18 AEST", false),
        ("freshness-expires-invalid-2-digit-year", "Thu, 18 Aug 50 02:01:18 GMT", false),
        ("freshness-expires-invalid-no-comma", "Thu 18 Aug 2050 02:01:18 GMT", false),
        ("freshness-expires-invalid-date-dashes", "Thu, 18-Aug-2050 02:01:18 GMT", false),
        ("freshness-expires-invalid-time-periods", "Thu, 18 Aug 2050 02.01.18 GMT", false),
        ("freshness-expires-invalid-1-digit-hour", "Thu, 18 Aug 2050 2:01:18 GMT", false),
    ] {
        all.push(dated(name, &expires(value.to_owned()), again));
    }
    all
}

/// An origin that answers each path with the lines set for it, and counts.
struct Origin {
    server: WebServer,
    lines: Arc<Mutex<HashMap<String, Vec<String>>>>,
    down: Arc<Mutex<Option<Vec<Step>>>>,
}

impl Origin {
    async fn start() -> Self {
        let lines: Arc<Mutex<HashMap<String, Vec<String>>>> = Arc::default();
        let down: Arc<Mutex<Option<Vec<Step>>>> = Arc::default();
        let (given, broken) = (lines.clone(), down.clone());
        let server = WebServer::start(move |number, head| {
            if let Some(steps) = broken.lock().expect("a lock").clone() {
                return steps;
            }
            let target = head.split(' ').nth(1).expect("a target").to_owned();
            let body = format!("answer {number}");
            let length = format!("Content-Length: {}", body.len());
            let lines = given.lock().expect("a lock").get(&target).cloned().unwrap_or_default();
            let mut all: Vec<&str> = vec![&length];
            all.extend(lines.iter().map(String::as_str));
            let whole = answer("200 OK", &all, body.as_bytes());
            match target.starts_with("/layouts/") {
                // Slow enough for others to come meanwhile.
                true => vec![Step::Drip(whole, Duration::from_millis(3))],
                false => vec![Step::Send(whole)],
            }
        })
        .await;
        Self { server, lines, down }
    }

    async fn edge(&self) -> Edge {
        let transport = HttpBackend::new(&self.server.url, HttpOptions::default()).expect("a URL");
        Edge::over(Arc::new(transport)).await
    }

    fn say(&self, target: &str, lines: Vec<String>) {
        self.lines.lock().expect("a lock").insert(target.to_owned(), lines);
    }

    fn fail(&self, steps: Option<Vec<Step>>) {
        *self.down.lock().expect("a lock") = steps;
    }

    fn count(&self, target: &str) -> usize {
        let line = format!("GET {target} ");
        self.server.requests().iter().filter(|head| head.starts_with(&line)).count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_used_again_exactly_when_http_lets_them() {
    let origin = Origin::start().await;
    let edge = origin.edge().await;
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() > 80);
    for (number, (name, lines, request, again)) in cases.into_iter().enumerate() {
        let target = format!("/refs/case/@{number}");
        origin.say(&target, lines);
        let (head, first) = edge.ask(&format!("GET {target}"), "").await;
        assert!(head.starts_with("http/1.1 200"), "{name}: {head}");
        let (head, second) = edge.ask(&format!("GET {target}"), request).await;
        assert!(head.starts_with("http/1.1 200"), "{name}: {head}");
        let count = origin.count(&target);
        assert_eq!(first == second, count == 1, "{name}");
        if (count == 1) != again {
            wrong.push(format!("{name}: asked {count} times"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    edge.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_answers_help_out_only_where_the_origin_lets_them() {
    let failures: [(&str, Vec<Step>); 2] = [
        ("close", vec![Step::Close]),
        ("503", vec![Step::Send(answer("503 Busy", &["Content-Length: 0"], b""))]),
    ];
    for (how, steps) in failures {
        let origin = Origin::start().await;
        let edge = origin.edge().await;
        let cases = [
            ("stale", "max-age=2", 3, true),
            ("stale beyond an hour", "max-age=2", 3700, false),
            ("stale-sie", "max-age=2, stale-if-error=60", 50, true),
            ("beyond stale-if-error", "max-age=2, stale-if-error=60", 70, false),
            ("stale-must-revalidate", "max-age=2, must-revalidate", 3, false),
            ("stale-proxy-revalidate", "max-age=2, proxy-revalidate", 3, false),
            ("stale-s-maxage", "max-age=2, s-maxage=2", 3, false),
            ("stale-no-cache", "max-age=2, no-cache", 3, false),
            ("no-store", "max-age=2, no-store", 3, false),
            ("fresh", "max-age=60", 3, true),
        ];
        for (number, (name, control, age, served)) in cases.into_iter().enumerate() {
            let target = format!("/refs/case/@{number}");
            origin.say(&target, vec![format!("Cache-Control: {control}"), format!("Age: {age}")]);
            origin.fail(None);
            let (_, first) = edge.ask(&format!("GET {target}"), "").await;
            origin.fail(Some(steps.clone()));
            let (head, second) = edge.ask(&format!("GET {target}"), "").await;
            match served {
                true => {
                    assert!(head.starts_with("http/1.1 200"), "{how}, {name}: {head}");
                    assert_eq!(first, second, "{how}, {name}");
                    assert!(!head.contains("age: 0"), "{how}, {name}: {head}");
                }
                false => assert!(head.starts_with("http/1.1 50"), "{how}, {name}: {head}"),
            }
        }
        edge.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_on_says_how_old_it_is() {
    let origin = Origin::start().await;
    let edge = origin.edge().await;
    let made = date(-100);
    let lines = ["Cache-Control: max-age=3600, ext=1".to_owned(), format!("Date: {made}")];
    origin.say("/refs/m/@a", [&lines[..], &["ETag: \"abc\"".to_owned()]].concat());
    for (request, status) in [
        ("", "200"),
        ("", "200"),
        ("If-None-Match: \"x\", \"abc\"\r\n", "304"),
        ("If-None-Match: W/\"abc\"\r\n", "304"),
        ("If-None-Match: \"x\"\r\nIf-Modified-Since: Sun, 06 Nov 2050 08:49:37 GMT\r\n", "200"),
        ("Range: bytes=0-3\r\nIf-Range: \"abc\"\r\n", "206"),
        ("Range: bytes=0-3\r\nIf-Range: W/\"abc\"\r\n", "200"),
        ("Cache-Control: only-if-cached\r\n", "200"),
    ] {
        let (head, _) = edge.ask("GET /refs/m/@a", request).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{request}: {head}");
        let age = head.lines().find_map(|line| line.strip_prefix("age: ")).expect("an age");
        let age: u64 = age.parse().expect("a number");
        assert!((100..160).contains(&age), "{head}");
        assert!(head.contains(&format!("date: {}", made.to_lowercase())), "{head}");
        assert_eq!(head.matches("date: ").count(), 1, "{head}");
        assert!(head.contains("cache-control: max-age=3600, ext=1"), "{head}");
        assert!(head.contains("etag: \"abc\""), "{head}");
    }
    assert_eq!(origin.count("/refs/m/@a"), 1);
    let lines = ["Cache-Control: max-age=3600", "Cache-Control: s-maxage=1"].map(str::to_owned);
    origin.say("/refs/m/@c", lines.to_vec());
    let (head, _) = edge.ask("GET /refs/m/@c", "").await;
    assert!(head.contains("cache-control: max-age=3600, s-maxage=1\r\n"), "{head}");
    let (head, _) = edge.ask("GET /refs/m/@b", "Cache-Control: only-if-cached\r\n").await;
    assert!(head.starts_with("http/1.1 504"), "{head}");
    assert_eq!(origin.count("/refs/m/@b"), 0);
    edge.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_ask_the_origin_is_asked_once() {
    let origin = Origin::start().await;
    let edge = Arc::new(origin.edge().await);
    for (name, lines, most) in [
        ("fresh", vec![], 1),
        ("not to be used without asking", vec!["Cache-Control: no-cache".to_owned()], 40),
    ] {
        let target = format!("/layouts/{}", name.len());
        origin.say(&target, lines);
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..80 {
            let (edge, target) = (edge.clone(), target.clone());
            asking.spawn(async move { edge.ask(&format!("GET {target}"), "").await });
        }
        while let Some(asked) = asking.join_next().await {
            let (head, _) = asked.expect("no panic");
            assert!(head.starts_with("http/1.1 200"), "{head}");
        }
        assert!(origin.count(&target) <= most, "{name}: {}", origin.count(&target));
    }
    Arc::into_inner(edge).expect("nobody else").end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_the_one_it_is_called_is_not_handed_on() {
    use tenpak::transport::Transport;
    let memory = tenpak::transport::object::ObjectBackend::memory();
    let right = "a manifest";
    let id = tenpak::format::id::ManifestId::of(right.as_bytes());
    let place = path(&format!("manifests/{id}"));
    memory.put(&place, vec!["a mAnifest".into()]).await.expect("a write");
    let edge = Edge::over(Arc::new(memory)).await;
    let (head, body) = edge.ask(&format!("GET /{place}"), "").await;
    assert!(head.starts_with("http/1.1 502") && !body.starts_with(b"a m"), "{head}");
    edge.end().await;
}
