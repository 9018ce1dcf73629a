//! The model of latency beside public measurements: constants are fitted to two thirds of them and checked on
//! the rest. `cargo test -- --ignored fit --nocapture` prints the constants that the table gives.

use std::collections::BTreeMap;

use super::hardware::{Device, devices};
use super::kernels::{find, rows};
use super::roofline::{Kernels, Rate, Roofline};
use super::shape::{ModelShape, Stored};

const TABLE: &str = include_str!("data/measurements.tsv");

#[derive(Debug, Clone, Copy)]
struct Model {
    shape: ModelShape,
    linears: f64,
    tied: bool,
}

#[derive(Debug, Clone)]
struct Row {
    model: Model,
    device: Device,
    engine: String,
    weights: String,
    input: f64,
    output: f64,
    batch: f64,
    what: String,
    value: f64,
    source: String,
    held_out: bool,
    line: String,
}

/// FNV-1a: which rows are held out is nobody's choice.
fn chance(line: &str) -> u64 {
    line.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }) >> 8
}

fn table() -> Vec<Row> {
    let mut models = BTreeMap::new();
    let mut all = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let number =
            |at: usize| fields[at].parse::<f64>().unwrap_or_else(|e| panic!("{line}: {e}"));
        if fields[0] == "model" {
            let (layers, hidden, wide) = (number(2), number(3), number(4));
            let (heads, kv_heads, head, vocabulary) = (number(5), number(6), number(7), number(8));
            let (queries, keys) = (heads * head, kv_heads * head);
            let linears = layers * hidden * (2.0 * queries + 2.0 * keys + 3.0 * wide);
            let shape = ModelShape { layers, hidden, queries, keys, kv_heads, vocabulary };
            models.insert(fields[1], Model { shape, linears, tied: number(9) > 0.0 });
            continue;
        }
        assert_eq!(fields.len(), 11, "{line}");
        all.push(Row {
            model: models[fields[1]],
            device: devices().iter().find(|own| own.name == fields[2]).unwrap().clone(),
            engine: fields[3].to_owned(),
            weights: fields[4].to_owned(),
            input: number(5),
            output: number(6),
            batch: number(7),
            what: fields[8].to_owned(),
            value: number(9),
            source: fields[10].to_owned(),
            held_out: chance(line).is_multiple_of(3),
            line: line.to_owned(),
        });
    }
    all
}

/// Bytes by weight, scales counted.
fn bytes(weights: &str) -> f64 {
    match weights {
        "16" => 2.0,
        "fp8" | "int8-bnb" | "int8-bnb0" => 1.0,
        "int8w" => 1.0 + 2.5 / 128.0,
        "int4" => 0.5 + 2.5 / 128.0,
        "nf4" => 0.5 + 4.0 / 64.0,
        "nf4-double" => 0.5 + 1.0 / 64.0,
        other => panic!("{other}"),
    }
}

impl Row {
    fn predicted(&self, kernels: &Kernels) -> f64 {
        let shape = &self.model.shape;
        let embedding = shape.vocabulary * shape.hidden * 2.0;
        let own = self.model.linears * bytes(&self.weights);
        let stored = Stored {
            weights: self.model.linears,
            bytes: own,
            all_bytes: own + embedding * if self.model.tied { 1.0 } else { 2.0 },
            head_element: 2.0,
        };
        let (device, count) = (&self.device, 1.0);
        let roofline = Roofline { shape, stored: &stored, device, count, kernels };
        let context = self.input + self.output / 2.0;
        match self.what.as_str() {
            "tpot_ms" => roofline.decode(context, self.batch) * 1e3,
            "users_tpot_ms" => roofline.between(self.input, self.output, self.batch) * 1e3,
            "ttft_ms" => roofline.prefill(self.input, self.batch) * 1e3,
            "tokens_per_s" => {
                let prefill = roofline.prefill(self.input, self.batch);
                let all = prefill + (self.output - 1.0) * roofline.decode(context, self.batch);
                self.batch * self.output / all
            }
            other => panic!("{other}"),
        }
    }

    fn error(&self, kernels: &Kernels) -> f64 {
        (self.predicted(kernels) / self.value).ln()
    }
}

/// Fold errors, sorted: how many times more or less than was measured.
fn folds<'r>(rows: impl Iterator<Item = &'r Row>) -> Vec<f64> {
    let fold = |row: &Row| {
        let kernels = find(rows_of_table(), &row.engine, &row.weights, &row.device.name);
        row.error(kernels.unwrap_or_else(|| panic!("no kernels: {}", row.line))).abs().exp()
    };
    let mut all: Vec<f64> = rows.map(fold).collect();
    all.sort_by(f64::total_cmp);
    all
}

fn rows_of_table() -> &'static [Kernels] {
    rows()
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1]
}

#[test]
fn times_are_those_of_held_out_measurements() {
    let all = table();
    let (held, seen): (Vec<_>, Vec<_>) = all.iter().partition(|row| row.held_out);
    let of = |name: &str, rows: &[&Row]| {
        let folds = folds(rows.iter().copied());
        let (middle, most) = (quantile(&folds, 0.5), quantile(&folds, 0.9));
        println!("{name}: {} rows, median {middle:.3}, ninetieth {most:.3}", folds.len());
        (middle, most)
    };
    of("fitted", &seen);
    let (middle, most) = of("held out", &held);
    let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in &held {
        groups.entry(format!("{} {}", row.engine, row.weights)).or_default().push(row);
        groups.entry(format!("on {}", row.device.name)).or_default().push(row);
        groups.entry(format!("by {}", row.source)).or_default().push(row);
    }
    for (name, rows) in &groups {
        of(&format!("  held out, {name}"), rows);
    }
    for row in &all {
        let kernels = find(rows(), &row.engine, &row.weights, &row.device.name).unwrap();
        let fold = row.error(kernels).exp();
        if fold.ln().abs() > 0.25 {
            println!("  {:.2} {} {}", fold, if row.held_out { "held" } else { "" }, row.line);
        }
    }
    assert!(middle <= 1.10 && most <= 1.40, "median {middle}, nine of ten within {most}");
    // What is said of how far times are off is so on rows that nothing was fitted to.
    let inside = held.iter().filter(|row| {
        let kernels = find(rows(), &row.engine, &row.weights, &row.device.name).unwrap();
        row.error(kernels).abs().exp() <= kernels.band
    });
    assert!(inside.count() * 10 >= held.len() * 9, "bands are too narrow");
}

/// Where one way of storing weights is overtaken by another as the batch grows.
#[test]
fn the_order_turns_where_it_was_measured_to() {
    let all = table();
    let find_row = |model: &str, device: &str, engine: &str, weights: &str, batch: f64| {
        let found = all.iter().find(|row| {
            row.line.contains(&format!("\t{model}\t"))
                && (row.device.name.as_str(), row.engine.as_str()) == (device, engine)
                && (row.weights.as_str(), row.batch) == (weights, batch)
        });
        let row = found.unwrap();
        let kernels = find(rows(), &row.engine, &row.weights, &row.device.name).unwrap();
        (row.predicted(kernels), row.value)
    };
    for (model, device, engine, one, other, batches) in [
        ("llama-2-7b", "a10g", "tgi", "16", "int4", [1.0, 20.0]),
        ("llama-3.1-8b", "rtx4090", "transformers", "16", "nf4", [1.0, 8.0]),
    ] {
        for batch in batches {
            let (a, b) = (
                find_row(model, device, engine, one, batch),
                find_row(model, device, engine, other, batch),
            );
            assert_eq!(a.0 < b.0, a.1 < b.1, "{model} {device} {batch}: {a:?} {b:?}");
        }
    }
    // Marlin, against 16 bits: three times as fast alone, no faster at 128.
    let own = |weights: &str, batch: f64| {
        let row = Row { weights: weights.to_owned(), batch, ..all[0].clone() };
        let model = all.iter().find(|row| row.line.contains("llama-2-13b")).unwrap().model;
        let a100 = devices().iter().find(|own| own.name == "a100").unwrap().clone();
        let row = Row { model, device: a100, what: "tpot_ms".to_owned(), ..row };
        let kernels = find(rows(), "vllm", weights, "a100").unwrap();
        row.predicted(&Kernels { block_us: 0.0, call_us: 0.0, ..kernels.clone() })
    };
    assert!(own("16", 1.0) / own("int4", 1.0) > 2.0);
    assert!(own("16", 128.0) / own("int4", 128.0) < 1.3);
}

/// Lowers the mean square of logarithms by one constant after the other.
fn fit(start: Kernels, rows: &[&Row]) -> Kernels {
    type Get = fn(&mut Kernels) -> &mut f64;
    let free: [(Get, f64, f64); 7] = [
        (|own| &mut own.memory, 0.05, 1.0),
        (|own| &mut own.compute, 0.1, 1.0),
        (|own| &mut own.cache, 0.05, 1.0),
        (|own| &mut own.host_us, 1.0, 5000.0),
        (|own| &mut own.host_many_us, 1.0, 8000.0),
        (|own| &mut own.block_us, 1.0, 3000.0),
        (|own| &mut own.call_us, 0.5, 300.0),
    ];
    let loss = |own: &Kernels| {
        let errors: f64 = rows.iter().map(|row| row.error(own).powi(2)).sum();
        let mut kernels = [own.clone(), start.clone()];
        let [own, start] = &mut kernels;
        // Constants that the rows say nothing of stay where they began.
        let away = |(get, _, _): &(Get, f64, f64)| {
            let (own, start) = (*get(own), *get(start));
            if own > 0.0 && start > 0.0 { (own / start).ln().powi(2) } else { 0.0 }
        };
        errors / rows.len() as f64 + 3e-4 * free.iter().map(away).sum::<f64>()
    };
    let mut best = start.clone();
    let mut lowest = loss(&best);
    let mut stride = 0.5_f64;
    while stride > 0.002 {
        let mut moved = false;
        for (get, least, most) in &free {
            for factor in [stride.exp(), (-stride).exp()] {
                let mut tried = best.clone();
                let own = get(&mut tried);
                *own = (*own * factor).clamp(*least, *most);
                if *get(&mut best.clone()) > 0.0 && loss(&tried) < lowest - 1e-9 {
                    (lowest, best, moved) = (loss(&tried), tried, true);
                }
            }
        }
        if !moved {
            stride /= 2.0;
        }
    }
    best
}

#[test]
#[ignore = "prints constants for data/kernels.toml"]
fn fit_constants() {
    let all = table();
    let base = |engine: &str, weights: &str, device: &str| Kernels {
        engine: engine.to_owned(),
        weights: weights.to_owned(),
        device: device.to_owned(),
        p: 2.0,
        memory: 0.8,
        compute: 0.6,
        rate: if weights == "fp8" { Rate::Fp8 } else { Rate::Fp16 },
        call_us: 0.0,
        block_us: if engine == "transformers" { 0.0 } else { 22.0 },
        host_us: if engine == "transformers" { 800.0 } else { 0.0 },
        host_many_us: if engine == "transformers" { 1000.0 } else { 0.0 },
        widened: if weights.starts_with("nf4") { 4.0 } else { 0.0 },
        cache: 0.65,
        band: 1.0,
        source: String::new(),
    };
    let groups = [
        ("transformers", "16", "*"),
        ("transformers", "16", "t4"),
        ("transformers", "nf4", "*"),
        ("transformers", "nf4", "h100"),
        ("transformers", "nf4", "rtx4090"),
        ("transformers", "nf4", "t4"),
        ("transformers", "nf4-double", "*"),
        ("transformers", "nf4-double", "h100"),
        ("transformers", "nf4-double", "rtx4090"),
        ("transformers", "int8-bnb", "*"),
        ("transformers", "int8-bnb0", "*"),
        ("transformers", "int4", "*"),
        ("tgi", "16", "*"),
        ("tgi", "int4", "*"),
        ("autoawq", "int4", "t4"),
        ("autoawq", "int4", "a100"),
        ("lmdeploy", "16", "*"),
        ("trtllm", "16", "*"),
    ];
    for (engine, weights, device) in groups {
        let of = |row: &&Row| {
            (row.engine.as_str(), row.weights.as_str()) == (engine, weights)
                && (row.device.name == device
                    // Others do not reach what it does with its cache; it does not reach its own peak.
                    || device == "*"
                        && !(weights.starts_with("nf4") && row.device.name == "rtx4090")
                        && !(weights == "16" && row.device.name == "t4"))
        };
        let own: Vec<&Row> = all.iter().filter(of).collect();
        let seen: Vec<&Row> = own.iter().copied().filter(|row| !row.held_out).collect();
        let found = fit(base(engine, weights, device), &seen);
        let fold = |rows: &[&Row]| {
            let mut all: Vec<f64> = rows.iter().map(|row| row.error(&found).abs().exp()).collect();
            all.sort_by(f64::total_cmp);
            if all.is_empty() { 0.0 } else { quantile(&all, 0.9) }
        };
        let held: Vec<&Row> = own.iter().copied().filter(|row| row.held_out).collect();
        println!(
            "# {} rows, off by {:.2}; {} held out, off by {:.2}",
            seen.len(),
            fold(&seen),
            held.len(),
            fold(&held)
        );
        println!(
            "[[kernels]]\nengine = {engine:?}\nweights = {weights:?}\ndevice = {device:?}\np = {}\nmemory = {:.3}\n\
             compute = {:.3}\nblock_us = {:.1}\nhost_us = {:.0}\nhost_many_us = {:.0}\nwidened = {}\ncache = {:.3}\n",
            found.p,
            found.memory,
            found.compute,
            found.block_us,
            found.host_us,
            found.host_many_us,
            found.widened,
            found.cache
        );
    }
}
