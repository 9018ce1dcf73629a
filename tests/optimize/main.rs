//! `tenpak optimize`, by what it says and by what it leaves in a store.

#![cfg(feature = "cli")]

#[path = "../support/run.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod run;

mod kernel_data;
mod mixed;
mod servers;
mod standin;
mod together;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use run::{Run, command, done, fresh_folder, pack, tenpak, text};

/// Little text to calibrate with.
const LITTLE: [&str; 4] = ["--samples", "8", "--sample-length", "128"];
/// Requests that an engine which is built for tests is measured with in no time.
const SHORT: [&str; 4] = ["--input-tokens", "8", "--output-tokens", "4"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm").join(name)
}

/// A store with the fixture's model.
fn with_model(name: &str) -> PathBuf {
    let store = fresh_folder(name).join("store");
    pack(&store, &fixture("base"), "base", &[]);
    store
}

/// A model of no architecture that is run here.
fn unknown(name: &str) -> (PathBuf, PathBuf) {
    let folder = fresh_folder(name);
    let (model, store) = (folder.join("model"), folder.join("store"));
    std::fs::create_dir_all(&model).unwrap();
    for file in ["tokenizer.json", "model.safetensors"] {
        std::fs::copy(fixture("base").join(file), model.join(file)).unwrap();
    }
    let config = std::fs::read_to_string(fixture("base").join("config.json")).unwrap();
    std::fs::write(model.join("config.json"), config.replace("\"llama\"", "\"mamba9\"")).unwrap();
    (model, store)
}

/// The text that neither training nor calibration saw; a part of it where that is enough.
fn words(bytes: usize, name: &str) -> PathBuf {
    let whole = std::fs::read_to_string(fixture("test.txt")).unwrap();
    let path = fresh_folder(&format!("words-{name}")).join("words.txt");
    std::fs::write(&path, whole.get(..bytes.min(whole.len())).unwrap()).unwrap();
    path
}

/// `tenpak optimize base --name best` on that text.
fn arguments_on(file: &Path, store: &Path, more: &[&str]) -> Vec<String> {
    let all = ["optimize", "base", "--name", "best", "--store", text(store), "--text", text(file)];
    let own = more.contains(&"--input-tokens") || more.contains(&"--requests");
    let workload = if own { &[][..] } else { &SHORT };
    // What is cheapest on this machine is another one each time it is measured.
    let told = more.contains(&"--objective");
    let objective = if told { &[][..] } else { &["--objective", "memory"] };
    let all = [&all[..], &LITTLE, workload, objective, more].concat();
    all.into_iter().map(str::to_owned).collect()
}

fn optimize(store: &Path, more: &[&str]) -> Run {
    optimize_on(&fixture("test.txt"), store, more)
}

fn optimize_on(file: &Path, store: &Path, more: &[&str]) -> Run {
    let all = arguments_on(file, store, more);
    tenpak(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

fn perplexity(store: &Path, name: &str) -> f64 {
    let file = fixture("test.txt");
    let all =
        ["eval", "ppl", name, "--store", text(store), "--text", text(&file), "--context", "256"];
    number(&done(&all).json["perplexity"])
}

/// The row of a method.
fn row<'r>(run: &'r Run, method: &str) -> &'r Value {
    let rows = run.json["candidates"].as_array().unwrap_or_else(|| panic!("{}", run.json));
    let found = rows.iter().find(|row| row["method"] == method);
    found.unwrap_or_else(|| panic!("no {method}: {}", run.json))
}

fn dropped<'r>(run: &'r Run, method: &str) -> &'r str {
    row(run, method)["dropped"].as_str().unwrap_or_default()
}

#[test]
fn the_winner_keeps_limits_says_why_and_is_known_the_next_time() {
    let store = with_model("winner");
    let limits = ["--max-ppl-delta", "4", "--min-compression", "1.5", "--context", "256"];
    let tried = ["--candidates", "unquantized,bnb_int8,bnb_nf4,gptq_aggressive"];
    let more = [&limits[..], &tried].concat();
    let first = optimize(&store, &more);
    assert_eq!(first.status, Some(0), "{}", first.error);
    let winner = &first.json["winner"];
    assert_eq!(winner["method"], "bnb_nf4", "{}", first.json);
    assert_eq!((first.number("computed"), &winner["artifact"]), (3, &"best:latest".into()));
    for field in ["cost_per_1m_tokens", "latency_p50_ms", "latency_p95_ms", "tokens_per_second"] {
        assert!(number(&winner[field]) > 0.0, "{field}: {winner}");
    }
    assert!(number(&winner["compression"]) >= 1.5 && winner["measured"] == true);
    // What is said of the winner is what `eval ppl` says.
    let (base, best) = (perplexity(&store, "base"), perplexity(&store, "best"));
    let delta = (best / base - 1.0) * 100.0;
    assert!((number(&winner["ppl_delta_percent"]) - delta).abs() < 0.02, "{delta}: {winner}");
    assert!((number(&winner["quality"]["perplexity"]) / best - 1.0).abs() < 1e-4);
    assert!(dropped(&first, "unquantized").contains("--min-compression"));
    let said = dropped(&first, "gptq_aggressive");
    assert!(said.contains("perplexity changes by") && said.contains("--max-ppl-delta"), "{said}");
    // A clear loser is read on a part of the text only.
    let windows = |method| number(&row(&first, method)["quality"]["windows"]);
    assert!(windows("gptq_aggressive") < windows("bnb_nf4"), "{}", first.json);

    let about = done(&["inspect", "best", "--store", text(&store)]);
    let section = &about.json["optimization"];
    assert_eq!(section["selected_method"], "bnb_nf4");
    for field in ["cost_per_1m_tokens", "latency_p50_ms", "latency_p95_ms"] {
        let own: f64 = section[field].as_str().expect(field).parse().expect(field);
        assert!((own / number(&winner[field]) - 1.0).abs() < 1e-5, "{field}: {section}");
    }
    assert_eq!(section["constraints"]["max_ppl_delta"], "4");
    assert_eq!(section["candidates"].as_array().map(Vec::len), Some(4));
    assert_eq!(about.json["quantization"]["method"], "nf4");
    let verified = tenpak(&["verify", "best", "--store", text(&store)]);
    assert_eq!(verified.status, Some(0), "{}", verified.error);

    let again = optimize(&store, &more);
    assert_eq!((again.status, again.number("computed")), (Some(0), 0), "{}", again.error);
    assert_eq!(again.json["winner"]["manifest"], winner["manifest"]);
    assert_eq!(again.number("tokens_read"), 0);
    // Other limits are decided by what is known.
    let other =
        optimize(&store, &[&["--max-ppl-delta", "1"][..], &tried, &["--context", "256"]].concat());
    assert_eq!(other.json["winner"]["method"], "bnb_int8", "{}", other.json);
}

#[test]
fn where_nothing_fits_the_nearest_misses_are_named() {
    let store = with_model("misses");
    let candidates = ["--candidates", "bnb_int8,bnb_nf4"];
    let run = optimize(&store, &[&["--min-compression", "20"][..], &candidates].concat());
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.json["winner"].is_null() && run.number("computed") == 0, "{}", run.json);
    assert!(
        run.error.contains("nothing fits: bnb_nf4 on host would do with --min-compression"),
        "{}",
        run.error
    );
    for method in ["bnb_int8", "bnb_nf4"] {
        assert!(dropped(&run, method).contains("--min-compression is 20"), "{}", run.json);
    }
    let refs = tenpak(&["ls", "--store", text(&store)]);
    assert!(!refs.json.to_string().contains("best"), "nothing is published: {}", refs.json);
}

#[test]
fn nonsense_is_wrong_use() {
    let store = with_model("nonsense");
    for (more, said) in [
        (&["--max-ppl-delta", "nan"][..], "--max-ppl-delta"),
        (&["--min-compression", "0"], "--min-compression"),
        (&["--candidates", "best"], "no such candidate"),
        (&["--hardware", "b900"], "no such hardware"),
        (&["--input-tokens", "1000"], "the model takes 512"),
        (&["--engine", "tgi"], "embedded"),
        (&["--prices", "/nowhere"], "--prices"),
        (&["--requests", "/nowhere"], "--requests"),
        (&["--error", "1"], "--error"),
    ] {
        let run = optimize(&store, more);
        assert_eq!(run.status, Some(2), "{more:?}: {}", run.error);
        assert!(run.error.contains(said), "{more:?}: {}", run.error);
    }
    let all = ["optimize", "base", "--name", "b:optimize-x", "--store", text(&store)];
    assert_eq!(tenpak(&all).status, Some(2));
    let all = ["optimize", "nothing", "--name", "b", "--store", text(&store)];
    assert_eq!(tenpak(&all).status, Some(3));
}

#[test]
fn a_dry_run_does_nothing_and_knows_hardware_engines_and_sizes() {
    let folder = fresh_folder("dry");
    let store = folder.join("store");
    let base = fixture("base");
    let all = ["optimize", text(&base), "--name", "best", "--store", text(&store), "--dry-run"];
    let more = ["--candidates", "all", "--hardware", "t4", "--hardware", "a10g"];
    let run = done(&[&all[..], &more, &["--hardware", "h100x2"]].concat());
    assert!(!store.exists(), "a dry run makes no store");
    assert_eq!((run.number("computed"), &run.json["winner"]), (0, &Value::Null));
    let of = |method: &str, hardware: &str| {
        let rows = run.json["candidates"].as_array().unwrap();
        rows.iter()
            .find(|row| row["method"] == method && row["hardware"] == hardware)
            .unwrap_or_else(|| panic!("no {method} on {hardware}"))
            .clone()
    };
    for old in ["t4", "a10g"] {
        let said = of("fp8", old)["dropped"].to_string();
        assert!(said.contains("does not compute in FP8"), "{said}");
    }
    assert!(of("unquantized", "t4")["dropped"].to_string().contains("bf16"));
    assert_eq!(of("unquantized", "a10g")["dropped"], Value::Null);
    assert_eq!(of("fp8", "h100x2")["engine"], "vllm");
    assert_eq!(of("gptq_aggressive", "a10g")["engine"], "transformers");
    let row = of("gptq_quality", "a10g");
    assert!(row["speed_source"].as_str().unwrap().contains("modelled"), "{row}");
    let range = &row["ranges"]["cost_per_1m_tokens"];
    assert!(number(&range["low"]) < number(&range["value"]), "{range}");
    let price = |hardware: &str| number(&of("bnb_nf4", hardware)["per_hour"]);
    assert_eq!((price("t4"), price("h100x2")), (0.526, 13.76));
}

/// Sizes are known before anything is made, to the byte.
#[test]
fn sizes_are_those_of_what_is_written() {
    let folder = fresh_folder("sizes");
    let store = folder.join("store");
    let base = fixture("base");
    let all = ["optimize", text(&base), "--name", "best", "--store", text(&store), "--dry-run"];
    let methods = ["fp8", "hqq", "q4_0", "q8_0", "q4_k"];
    let presets = [
        "gptq_quality",
        "gptq_fast",
        "gptq_aggressive",
        "awq_balanced",
        "awq_fast",
        "bnb_nf4",
        "nf4_double",
        "bnb_int8",
    ];
    let list = [&presets[..], &methods].concat().join(",");
    let planned = done(&[&all[..], &["--candidates", &list]].concat());
    for (flag, name) in presets
        .map(|name| ("--preset", name))
        .into_iter()
        .chain(methods.map(|name| ("--method", name)))
    {
        let made = ["quantize", text(&base), "--store", text(&store), "--name", name, flag, name];
        let made = done(&[&made[..], &LITTLE].concat());
        let (planned, made) = (&row(&planned, name)["raw_bytes"], &made.json["raw_bytes"]);
        assert_eq!(planned, made, "{name}");
    }
    let packed = pack(&store, &base, "base", &[]);
    let run = done(&[&all[..], &["--candidates", "unquantized"]].concat());
    assert_eq!(row(&run, "unquantized")["raw_bytes"], packed.json["raw_bytes"]);
}

/// Killed at whatever moment, the next run goes on, and finds what an undisturbed one finds.
#[test]
fn a_killed_run_is_gone_on_with() {
    let folder = fresh_folder("killed");
    let more = ["--max-kl", "0.5", "--candidates", "bnb_int8,bnb_nf4"];
    let file = words(8000, "killed");
    let start = |store: &Path, home: &Path| -> Command {
        let all = arguments_on(&file, store, &more);
        let mut command = command(&["--json"]);
        command.args(all).env("HOME", home).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let (store, home) = (folder.join("store"), folder.join("home"));
    pack(&store, &fixture("base"), "base", &[]);
    let whole = Run::of(start(&store, &home).output().unwrap());
    assert_eq!(whole.status, Some(0), "{}", whole.error);
    // After each of its marks in turn: the candidate that is being made, and the text that is being read.
    for (number, mark) in
        ["bnb_int8: producing", "bnb_int8: reading", "bnb_nf4: producing"].iter().enumerate()
    {
        let (store, home) =
            (folder.join(format!("store{number}")), folder.join(format!("home{number}")));
        pack(&store, &fixture("base"), "base", &[]);
        // Its marks are for people.
        let all = arguments_on(&file, &store, &more);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let mut child = command(&all);
        child.env("HOME", &home).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
        for line in lines.map_while(Result::ok) {
            if line.contains(mark) {
                break;
            }
        }
        child.kill().unwrap();
        let killed = child.wait().unwrap().signal().is_some();
        let run = Run::of(start(&store, &home).output().unwrap());
        assert_eq!(run.status, Some(0), "{mark}: {}", run.error);
        assert!(killed, "{mark}: it was over before");
        // Its manifest says how fast it was, which is another number each time.
        for field in ["method", "raw_bytes", "kl"] {
            let of = |run: &Run| run.json["winner"][field].clone();
            assert_eq!(of(&run), of(&whole), "{mark}: {field}");
        }
        let again = Run::of(start(&store, &home).output().unwrap());
        assert_eq!(again.number("computed"), 0, "{mark}");
    }
}

#[test]
fn a_candidate_that_fails_is_out_and_the_others_go_on() {
    let folder = fresh_folder("fails");
    let (model, store) = (folder.join("model"), folder.join("store"));
    std::fs::create_dir_all(&model).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(fixture("base").join(file), model.join(file)).unwrap();
    }
    // A text that is too short to calibrate with.
    let short = folder.join("short.txt");
    std::fs::write(&short, "Too short.").unwrap();
    let file = words(8000, "fails");
    let all = [
        "optimize",
        text(&model),
        "--name",
        "best",
        "--store",
        text(&store),
        "--text",
        text(&file),
        "--calibration",
        text(&short),
        "--candidates",
        "gptq_quality,bnb_int8",
    ];
    let run = done(&all);
    assert_eq!(run.json["winner"]["method"], "bnb_int8");
    assert!(dropped(&run, "gptq_quality").contains("calibrated"), "{}", run.json);
    // The text that quality is measured on is as short: nothing can be said of a limit.
    let run = tenpak(&[
        "optimize",
        text(&model),
        "--name",
        "best",
        "--store",
        text(&store),
        "--text",
        text(&short),
        "--max-ppl-delta",
        "50",
        "--candidates",
        "bnb_int8",
    ]);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(dropped(&run, "bnb_int8").contains("undecided"), "{}", run.json);
    // No time at all: nothing is begun.
    let run = tenpak(&[
        "optimize",
        text(&model),
        "--name",
        "best",
        "--store",
        text(&store),
        "--time-limit",
        "0",
        "--candidates",
        "bnb_nf4",
    ]);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(dropped(&run, "bnb_nf4").contains("--time-limit"), "{}", run.json);
}

#[test]
fn a_model_that_cannot_be_run_is_judged_by_size_and_speed() {
    let (model, store) = unknown("unknown");
    let all = ["optimize", text(&model), "--name", "best", "--store", text(&store)];
    let more = ["--candidates", "unquantized,bnb_nf4,awq_fast"];
    let run = tenpak(&[&all[..], &more, &["--max-ppl-delta", "2"]].concat());
    assert_eq!(run.status, Some(2), "{}", run.error);
    assert!(run.error.contains("--max-ppl-delta") && run.error.contains("mamba9"), "{}", run.error);
    let run = done(&[&all[..], &more].concat());
    assert_eq!(run.json["winner"]["method"], "bnb_nf4", "{}", run.json);
    assert!(dropped(&run, "awq_fast").contains("calibrated"), "{}", run.json);
    assert!(run.json["notes"].to_string().contains("quality is not measured"), "{}", run.json);
    // The model as it is, out of a folder, is an artifact as well.
    let packed = done(&["inspect", "best:optimize-unquantized", "--store", text(&store)]);
    assert_eq!(packed.json["optimization"], Value::Null);
    let again = done(&[&all[..], &more].concat());
    assert_eq!(again.number("computed"), 0);
}

/// Whether every tag that opens is closed, in order, and nothing outside is referred to.
fn parse(page: &str) {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag that ends");
        if tag.starts_with('!') || tag.ends_with('/') || tag.starts_with("br") {
            continue;
        }
        let name = tag.split_whitespace().next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "<{tag}>"),
            None => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    for outside in ["http://", "https://", "src=", "href=", "<script", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn a_signed_winner_verifies_and_the_report_stands_alone() {
    let store = with_model("signed");
    let folder = store.parent().unwrap();
    let (key, other) = (folder.join("key"), folder.join("other"));
    done(&["keygen", text(&key)]);
    done(&["keygen", text(&other)]);
    let report = folder.join("report.html");
    let more =
        ["--candidates", "bnb_int8,nf4_double,fp8", "--hardware", "host", "--hardware", "a10g"];
    let signed = ["--sign", text(&key), "--report", text(&report), "--max-kl", "0.5"];
    let file = words(12000, "signed");
    let run = optimize_on(&file, &store, &[&more[..], &signed].concat());
    assert_eq!(run.status, Some(0), "{}", run.error);
    let public = |key: &Path| format!("{}.pub", text(key));
    let verify = |key: &Path| {
        tenpak(&["verify", "best", "--store", text(&store), "--trust", &public(key)]).status
    };
    assert_eq!((verify(&key), verify(&other)), (Some(0), Some(4)));
    let page = std::fs::read_to_string(&report).unwrap();
    parse(&page);
    for said in ["<svg", "nf4_double", "FP8", "--max-kl 0.5", "tenpak serve best:latest", "AWS"] {
        assert!(page.contains(said), "{said}");
    }
}

#[test]
fn the_users_prices_and_requests_decide() {
    let store = with_model("prices");
    let folder = store.parent().unwrap();
    let (prices, requests) = (folder.join("prices.toml"), folder.join("requests.txt"));
    std::fs::write(&prices, "currency = 'EUR'\n[[price]]\nhardware = 'l4'\nper_hour = 2\n")
        .unwrap();
    std::fs::write(&requests, "100 20\n100 20\n200 40\n").unwrap();
    let more = ["--hardware", "l4", "--hardware", "a10g", "--candidates", "bnb_int8,awq_balanced"];
    let own = ["--prices", text(&prices), "--requests", text(&requests), "--dry-run"];
    let run = optimize(&store, &[&more[..], &own].concat());
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert_eq!(run.json["currency"], "EUR");
    let rows = run.json["candidates"].as_array().unwrap();
    for row in rows {
        let priced = row["hardware"] == "l4";
        assert_eq!(row["cost_per_1m_tokens"].is_number(), priced, "{row}");
        let times = &row["speed"]["request_ms"];
        assert!(number(&times["p95"]["value"]) > number(&times["p50"]["value"]), "{row}");
    }
    // What has no price cannot be the cheapest.
    let own = ["--prices", text(&prices), "--hardware", "a10g", "--candidates", "bnb_int8"];
    let own = [&own[..], &["--objective", "cost"]].concat();
    let run = optimize_on(&words(4000, "prices"), &store, &own);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(dropped(&run, "bnb_int8").contains("cost is not known"), "{}", run.json);
}
