//! Times of somebody else's model, through a package that stands in for AIConfigurator.

use std::path::{Path, PathBuf};

use super::run::python_command;
use super::{Run, arguments_on, command, fresh_folder, number, row, text, with_model, words};

const PACKAGE: &str = "
import json, os, pathlib

class Found:
    pass

def cli_estimate(model_path, system_name, *, mode, backend_name, isl, osl, batch_size, tp_size, gemm_quant_mode):
    print('a library that prints')
    config = json.loads(pathlib.Path(model_path, 'config.json').read_text())
    assert config['model_type'] == 'llama' and mode == 'static' and (isl, osl) == (8, 4), (isl, osl)
    if gemm_quant_mode not in ('bfloat16', 'fp8'):
        raise SystemExit('no ' + gemm_quant_mode)
    if os.environ.get('DIES') and system_name == 'h200_sxm':
        os._exit(3)
    found = Found()
    found.ttft, found.tpot = 40.0 * tp_size, 10.0 if gemm_quant_mode == 'fp8' else 20.0 + batch_size
    return found
";

/// A Python that has a package of this text.
fn python(name: &str, package: &str) -> (PathBuf, PathBuf) {
    let folder = fresh_folder(name);
    let cli = folder.join("aiconfigurator/cli");
    std::fs::create_dir_all(&cli).unwrap();
    std::fs::write(folder.join("aiconfigurator/__init__.py"), "").unwrap();
    std::fs::write(cli.join("__init__.py"), "").unwrap();
    std::fs::write(cli.join("api.py"), package).unwrap();
    (PathBuf::from(python_command().get_program()), folder)
}

fn run(store: &Path, file: &Path, (python, path): &(PathBuf, PathBuf), dies: bool) -> Run {
    let more =
        ["--candidates", "unquantized,fp8,awq_fast,bnb_nf4", "--dry-run", "--concurrency", "4"];
    let hardware = ["--hardware", "h100", "--hardware", "a10g", "--hardware", "h200"];
    let own = ["--latency-model", "aiconfigurator", "--python", text(python)];
    let mut command = command(&["--json"]);
    command.args(arguments_on(file, store, &[&more[..], &hardware, &own].concat()));
    command.env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
    if dies {
        command.env("DIES", "1");
    }
    Run::of(command.output().unwrap())
}

#[test]
fn another_models_times_count_where_it_has_them() {
    let store = with_model("kernels");
    let file = words(4000, "kernels");
    let own = python("package", PACKAGE);
    let found = run(&store, &file, &own, false);
    assert_eq!(found.status, Some(0), "{}", found.error);
    let of = |method: &str, hardware: &str| {
        let rows = found.json["candidates"].as_array().unwrap();
        let own = |row: &&serde_json::Value| row["method"] == method && row["hardware"] == hardware;
        rows.iter().find(own).unwrap().clone()
    };
    for (method, step) in [("unquantized", 24.0), ("fp8", 10.0)] {
        let row = of(method, "h100");
        assert!(row["speed_source"].as_str().unwrap().contains("AIConfigurator"), "{row}");
        // Four at a time: a step, and the others' prompts between four tokens.
        let between = step + 3.0 * 40.0 / 4.0;
        assert!((number(&row["latency_p50_ms"]) - between).abs() < 1e-6, "{row}");
        let speed = 4.0 * 4.0 / (40.0 + 3.0 * between) * 1e3;
        assert!((number(&row["tokens_per_second"]) - speed).abs() < 1e-6, "{row}");
    }
    for (method, hardware, said) in [
        ("unquantized", "a10g", "no a10g"),
        ("awq_fast", "h100", "no int4_wo"),
        ("bnb_nf4", "h100", "no kernels"),
    ] {
        let row = of(method, hardware);
        assert!(row["notes"].to_string().contains(said), "{row}");
        assert!(!row["speed_source"].to_string().contains("AIConfigurator"), "{row}");
    }
    // It may die: what it has said counts, the rest is modelled here.
    let dead = run(&store, &file, &own, true);
    assert_eq!(dead.status, Some(0), "{}", dead.error);
    assert!(row(&dead, "unquantized")["speed_source"].to_string().contains("AIConfigurator"));
    let last = dead.json["candidates"].as_array().unwrap().last().unwrap();
    assert!(last["latency_p50_ms"].is_number(), "{last}");

    let none = python("nothing", "raise ImportError('no such wheel')");
    let found = run(&store, &file, &none, false);
    assert_eq!(found.status, Some(2), "{}", found.error);
    assert!(
        found.error.contains("no such wheel") && found.error.contains("pip install"),
        "{}",
        found.error
    );
    let found = run(&store, &file, &(PathBuf::from("/nowhere/python"), none.1), false);
    assert!(found.status == Some(2) && found.error.contains("/nowhere/python"), "{}", found.error);
}
