//! Candidates that servers read and run.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use super::standin::{Manners, StandIn};
use super::{
    command, done, dropped, number, optimize_on, row, tenpak, text, unknown, with_model, words,
};

/// `tenpak serve` of an artifact, until it is dropped.
struct Served(Child, String);

impl Served {
    fn start(store: &Path, artifact: &str) -> Self {
        let all = ["--json", "serve", artifact, "--store", text(store), "--listen", "127.0.0.1:0"];
        let mut child = command(&all).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        let url = ready["url"].as_str().unwrap().to_owned();
        Self(child, url)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Our own server tells what our own reference does.
#[test]
fn a_server_tells_what_is_read_here() {
    let store = with_model("told");
    let file = words(9000, "told");
    let more = ["--candidates", "bnb_int8,bnb_nf4", "--context", "128"];
    let here = optimize_on(&file, &store, &more);
    assert_eq!(here.status, Some(0), "{}", here.error);
    let servers = ["base", "best:optimize-bnb_int8", "best:optimize-bnb_nf4"]
        .map(|own| Served::start(&store, own));
    let at = |own: &Served| format!("--quality-at={}", own.1);
    let at = [at(&servers[0]), at(&servers[1]), at(&servers[2])];
    let at: Vec<&str> = at.iter().map(String::as_str).collect();
    let there = optimize_on(&file, &store, &[&more[..], &at].concat());
    assert_eq!(there.status, Some(0), "{}", there.error);
    for method in ["bnb_int8", "bnb_nf4"] {
        let of = |run, field: &str| number(&row(run, method)["quality"][field]);
        for (field, off) in [("perplexity", 2e-3), ("base_perplexity", 2e-3), ("same_top", 5e-3)] {
            let (own, other) = (of(&here, field), of(&there, field));
            assert!((own / other - 1.0).abs() < off, "{method} {field}: {own} {other}");
        }
        // Of the likeliest tokens only: from below, and not far.
        let kl = |run| number(&row(run, method)["kl"]);
        assert!(kl(&there) <= kl(&here) * 1.01 && kl(&there) > kl(&here) * 0.5, "{method}");
        assert!(row(&there, method)["ranges"]["kl"]["high"].is_null());
    }
    let again = optimize_on(&file, &store, &[&more[..], &at].concat());
    assert_eq!((again.number("computed"), again.number("tokens_read")), (0, 0), "{}", again.error);

    // Speed by the same servers, and a server that is not the candidate's.
    let all = ["--candidates", "bnb_int8", "--hardware", "l4", "--objective", "latency"];
    let measure = format!("--measure-at=bnb_int8={}", servers[1].1);
    let run = optimize_on(&file, &store, &[&all[..], &[&measure]].concat());
    assert_eq!(run.status, Some(0), "{}", run.error);
    let winner = &run.json["winner"];
    assert!(winner["measured"] == true && number(&winner["latency_p50_ms"]) > 0.0, "{winner}");
    assert!(winner["speed_source"].as_str().unwrap().contains(&servers[1].1), "{winner}");
    let wrong = format!("--measure-at=bnb_int8={}", servers[2].1);
    let run = optimize_on(&file, &store, &[&all[..], &[&wrong]].concat());
    assert_eq!(run.status, Some(1), "{}", run.error);
    let said = dropped(&run, "bnb_int8");
    assert!(
        said.contains("serves best:optimize-bnb_nf4") && said.contains("--measure-at"),
        "{said}"
    );
}

fn models(all: &[(&str, f64)]) -> Vec<(String, f64)> {
    all.iter().map(|(name, more)| ((*name).to_owned(), *more)).collect()
}

const PATIENT: usize = usize::MAX;

#[test]
fn an_architecture_that_is_not_run_here_is_judged_by_its_servers() {
    let (model, store) = unknown("architecture");
    let file = words(12000, "architecture");
    let all = ["optimize", text(&model), "--name", "best", "--store", text(&store)];
    let more = ["--text", text(&file), "--candidates", "bnb_int8,bnb_nf4", "--objective", "memory"];
    let serving =
        |all, tells, dies_after| StandIn::start(Manners { models: models(all), tells, dies_after });
    let limits = ["--max-ppl-delta", "5"];
    let run = |at: &[&str]| tenpak(&[&all[..], &more, &limits, at].concat());
    let three = [("unquantized", 0.0), ("bnb_int8", 0.001), ("best:optimize-bnb_nf4", 0.1)];

    let server = serving(&three, true, PATIENT);
    let found = run(&["--quality-at", &server.url]);
    assert_eq!(found.status, Some(0), "{}", found.error);
    assert_eq!(found.json["winner"]["method"], "bnb_int8");
    // 0.001 nats more for each token.
    let delta = number(&found.json["winner"]["ppl_delta_percent"]);
    assert!((delta - 0.10005).abs() < 1e-4, "{delta}");
    assert!(dropped(&found, "bnb_nf4").contains("--max-ppl-delta"), "{}", found.json);
    let first = &server.asked()[0];
    assert_eq!((&first["prompt_logprobs"], &first["max_tokens"]), (&20.into(), &1.into()));
    assert!(first["prompt"].as_array().is_some_and(|own| own.len() > 64), "{first}");
    let asked = server.completions();
    let again = run(&["--quality-at", &server.url]);
    assert_eq!((again.number("computed"), server.completions()), (0, asked));

    // What it does not give, and what it does not serve, in words.
    let silent = serving(&three, false, PATIENT);
    // What it was read for before is known.
    let found = run(&["--quality-at", &silent.url, "--context", "160"]);
    assert_eq!(found.status, Some(1), "{}", found.error);
    let said = dropped(&found, "bnb_int8");
    assert!(said.contains("does not tell the probabilities of a prompt's tokens"), "{said}");
    let other = serving(&[("gpt", 0.0)], true, PATIENT);
    let found = run(&["--quality-at", &other.url]);
    assert_eq!(found.status, Some(1), "{}", found.error);
    assert!(
        found.error.contains("serves gpt") && found.error.contains("unquantized"),
        "{}",
        found.error
    );
    let own = format!("bnb_nf4={}", other.url);
    let found = run(&["--quality-at", &server.url, "--quality-at", &own]);
    assert!(
        found.status == Some(0) && found.json["winner"]["method"] == "bnb_int8",
        "{}",
        found.error
    );
    let found = run(&["--quality-at", "http://127.0.0.1:1"]);
    assert!(found.status == Some(1) && found.error.contains("127.0.0.1:1"), "{}", found.error);
    let found = run(&["--quality-at", &server.url, "--max-kl", "0.1"]);
    assert!(found.status == Some(2) && found.error.contains("from below"), "{}", found.error);
    let found = run(&["--quality-at", "localhost"]);
    assert_eq!(found.status, Some(2), "{}", found.error);
}

#[test]
fn a_candidate_of_nan_is_out() {
    let (model, store) = unknown("nan");
    let file = words(9000, "nan");
    let all = ["optimize", text(&model), "--name", "best", "--store", text(&store)];
    let more = ["--text", text(&file), "--candidates", "bnb_int8,bnb_nf4", "--objective", "memory"];
    let three = models(&[("unquantized", 0.0), ("bnb_int8", 0.001), ("bnb_nf4", f64::NAN)]);
    let server = StandIn::start(Manners { models: three, tells: true, dies_after: PATIENT });
    for limits in [&[][..], &["--max-ppl-delta", "50"]] {
        let found = tenpak(&[&all[..], &more, &["--quality-at", &server.url], limits].concat());
        assert_eq!(found.status, Some(0), "{}", found.error);
        assert_eq!(found.json["winner"]["method"], "bnb_int8", "{}", found.json);
        let said = dropped(&found, "bnb_nf4");
        assert!(said.contains("NaN"), "{limits:?}: {said}");
    }
}

#[test]
fn a_server_that_dies_is_gone_on_with() {
    let (model, store) = unknown("dies");
    let file = words(16000, "dies");
    let all = ["optimize", text(&model), "--name", "best", "--store", text(&store)];
    let more = ["--text", text(&file), "--candidates", "bnb_int8", "--max-ppl-delta", "5"];
    let two = [("unquantized", 0.0), ("bnb_int8", 0.001)];
    let run =
        |server: &StandIn| tenpak(&[&all[..], &more, &["--quality-at", &server.url]].concat());
    let whole = StandIn::start(Manners { models: models(&two), tells: true, dies_after: PATIENT });
    let dying = StandIn::start(Manners { models: models(&two), tells: true, dies_after: 40 });
    let found = run(&dying);
    assert_eq!(found.status, Some(1), "{}", found.error);
    let said = dropped(&found, "bnb_int8");
    assert!(said.contains("failed") && said.contains(&dying.url), "{said}");
    // What it told is kept.
    let found = run(&whole);
    assert_eq!(found.status, Some(0), "{}", found.error);
    let windows = number(&found.json["winner"]["quality"]["windows"]) as usize;
    assert!(whole.completions() < 2 * windows, "{} for {windows}", whole.completions());
    assert!(number(&found.json["tokens_read"]) > 0.0);

    // And in the middle of a measurement of speed.
    let dying = StandIn::start(Manners { models: models(&two), tells: true, dies_after: 6 });
    let measure = format!("--measure-at={}", dying.url);
    let more = ["--text", text(&file), "--candidates", "bnb_int8", "--hardware", "l4", &measure];
    let found = tenpak(&[&all[..], &more].concat());
    assert_eq!(found.status, Some(1), "{}", found.error);
    let said = dropped(&found, "bnb_int8");
    assert!(said.contains("its speed is not known") && said.contains("--measure-at"), "{said}");
    // Nor is the model of the hardware asked in its place.
    assert!(found.json["winner"].is_null());
    drop(done(&["ls", "--store", text(&store)]));
}
