//! Several runs: beside each other, of several users, and on a terminal.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::run::python_command;
use super::{
    Run, arguments_on, command, done, dropped, fixture, fresh_folder, number, optimize_on, tenpak,
    text, with_model, words,
};

/// `tenpak optimize` of a user who has this home.
fn of_user(home: &Path, file: &Path, store: &Path, more: &[&str]) -> std::process::Command {
    std::fs::create_dir_all(home).unwrap();
    let mut command = command(&["--json"]);
    command.args(arguments_on(file, store, more)).env("HOME", home);
    command
}

#[test]
fn two_at_once_find_the_same() {
    let store = with_model("at-once");
    let file = words(8000, "at-once");
    let home = store.parent().unwrap().join("home");
    let more = ["--max-kl", "0.5", "--candidates", "bnb_int8,bnb_nf4"];
    let start = || {
        let mut own = of_user(&home, &file, &store, &more);
        own.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()];
    let both = both.map(|own| Run::of(own.wait_with_output().unwrap()));
    for run in &both {
        assert_eq!(run.status, Some(0), "{}", run.error);
        assert_eq!(run.json["winner"]["method"], "bnb_nf4");
        assert_eq!(run.json["winner"]["kl"], both[0].json["winner"]["kl"]);
    }
    let verified = tenpak(&["verify", "best", "--store", text(&store)]);
    assert_eq!(verified.status, Some(0), "{}", verified.error);
    let again = Run::of(of_user(&home, &file, &store, &more).output().unwrap());
    assert_eq!((again.status, again.number("computed")), (Some(0), 0), "{}", again.error);
}

#[test]
fn limits_that_contradict_each_other_are_both_named() {
    let store = with_model("contradict");
    let file = words(12000, "contradict");
    // Each is kept by one of them, and neither keeps both.
    let more = ["--candidates", "bnb_int8,bnb_nf4", "--max-kl", "0.005", "--min-compression", "2"];
    let run = optimize_on(&file, &store, &more);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(dropped(&run, "bnb_int8").contains("--min-compression"), "{}", run.json);
    assert!(dropped(&run, "bnb_nf4").contains("--max-kl"), "{}", run.json);
    let misses = run.json["misses"].to_string();
    assert!(misses.contains("bnb_nf4 on host would do with --max-kl"), "{misses}");
}

/// What one user found and signed, another who trusts it need not find again; and nobody else uses it.
#[test]
fn evidence_is_signed_and_used_by_whoever_trusts_it() {
    let store = with_model("evidence");
    let folder = store.parent().unwrap();
    let file = words(8000, "evidence");
    let (key, other) = (folder.join("key"), folder.join("other"));
    done(&["keygen", text(&key)]);
    done(&["keygen", text(&other)]);
    let more = ["--candidates", "bnb_int8,bnb_nf4", "--max-kl", "0.5"];
    let run = |home: &str, own: &[&str]| {
        // Out of a folder: nobody signed that.
        let mut all = arguments_on(&file, &store, &[&more[..], own].concat());
        all[1] = text(&fixture("base")).to_owned();
        let home = folder.join(home);
        std::fs::create_dir_all(&home).unwrap();
        Run::of(command(&["--json"]).args(all).env("HOME", &home).output().unwrap())
    };
    let sign = ["--sign", text(&key)];
    let first = run("one", &sign);
    assert_eq!((first.status, first.number("computed")), (Some(0), 2), "{}", first.error);
    let public = |key: &Path| format!("{}.pub", text(key));
    let verify =
        ["verify", "best:optimize-evidence", "--store", text(&store), "--trust", &public(&key)];
    assert_eq!(tenpak(&verify).status, Some(0));
    // Another user, on the same machine.
    let second = run("two", &["--trust", &public(&key)]);
    assert_eq!(second.status, Some(0), "{}", second.error);
    assert_eq!(
        (second.number("computed"), second.number("tokens_read")),
        (0, 0),
        "{}",
        second.json
    );
    assert_eq!(second.json["winner"]["kl"], first.json["winner"]["kl"]);
    // One who trusts somebody else, or nobody, reads for himself.
    for (home, own) in [("three", &["--trust", &*public(&other)][..]), ("four", &[])] {
        let run = run(home, &[own, &["--dry-run"]].concat());
        assert_eq!(run.status, Some(0), "{}", run.error);
        let known: Vec<&Value> = run.json["candidates"].as_array().unwrap().iter().collect();
        assert!(known.iter().all(|row| row["quality"].is_null()), "{home}: {}", run.json);
        assert_eq!(run.error.contains("is not used"), home == "three", "{home}: {}", run.error);
    }
    let known = run("five", &["--trust", &public(&key), "--dry-run"]);
    let rows = known.json["candidates"].as_array().unwrap();
    assert!(rows.iter().all(|row| number(&row["quality"]["tokens"]) > 0.0), "{}", known.json);
}

/// Runs a command on a terminal that is so wide and high; gives all that appeared.
fn on_terminal(arguments: &[String]) -> String {
    let script = "import fcntl, os, pty, struct, sys, termios\n\
        pid, terminal = pty.fork()\n\
        if pid == 0:\n    os.execv(sys.argv[1], sys.argv[1:])\n\
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 140, 0, 0))\n\
        try:\n    while data := os.read(terminal, 65536): sys.stdout.buffer.write(data)\n\
        except OSError: pass\n\
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n";
    let own = command(&[]);
    let mut python = python_command();
    python.args(["-c", script]).arg(own.get_program()).args(arguments);
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => python.env(name, value),
            None => python.env_remove(name),
        };
    }
    let output = python.env("TERM", "xterm").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_table_changes_on_a_terminal_and_lines_follow_elsewhere() {
    let store = with_model("terminal");
    let file = words(8000, "terminal");
    let more = ["--candidates", "bnb_int8,bnb_nf4,fp8", "--hardware", "a10g", "--max-kl", "0.5"];
    let all = arguments_on(&file, &store, &more);
    let seen = on_terminal(&all);
    for said in [
        "method",
        "state",
        "waits",
        "producing",
        "reading the text",
        "kept",
        "out: ",
        "tried",
        "s left",
    ] {
        assert!(seen.contains(said), "{said}: {seen}");
    }
    assert!(seen.contains('\u{1b}') && seen.contains("<- the best"), "{seen}");
    for quiet in ["--json", "-q"] {
        let seen = on_terminal(&[&all[..], &[quiet.to_owned()]].concat());
        assert!(!seen.contains("waits") && !seen.contains('\u{1b}'), "{quiet}: {seen}");
    }
    // Not a terminal: lines, unless only the result is wanted.
    let fresh = fresh_folder("lines").join("store");
    super::pack(&fresh, &fixture("base"), "base", &[]);
    let plain = arguments_on(&file, &fresh, &more);
    let plain = command(&plain.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
    let error = String::from_utf8_lossy(&plain.stderr);
    assert!(error.contains("bnb_int8: producing") && !error.contains('\u{1b}'), "{error}");
    let quiet = optimize_on(&file, &fresh, &more);
    assert!(!quiet.error.contains("producing"), "{}", quiet.error);
}
