//! The stages, cheap before dear: what is known without work, what is modelled, what must be produced, read and
//! measured; then the choice.

use std::time::Instant;

use tokio::runtime::Handle;

use super::choice::{Entry, choose};
use super::constraints::OptimizationConstraints;
use super::error::OptimizeError;
use super::hardware::Hardware;
use super::kernel_data::KernelData;
use super::latency::Asked;
use super::options::{OptimizeOptions, Subject, Watch};
use super::outcome::{Ask, Outcome, Row, Setting, Winner};
use super::prices::Price;
use super::section::section;
use super::shape::ModelShape;
use super::stages::{Run, drop_all, objective_of};
use super::study::{PREFIX, Packing};
use crate::format::name::{ArtifactName, Tag};
use crate::maintain::annotate;
use crate::quantize::produce::{Bits, check_source};
use crate::store::Store;

/// Finds the best candidate that keeps all limits, and publishes it as `name:tag`; every candidate that was made
/// stays as `name:optimize-` and its label. Blocks; call it from outside the runtime that `runtime` drives.
///
/// # Errors
/// If a limit makes no sense, the model cannot be quantized or read at all, or the store fails. That nothing fits
/// is no error: there is no winner then.
pub fn optimize_model(
    subject: Subject<'_>,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    constraints: &OptimizationConstraints,
    options: &OptimizeOptions,
    packing: &Packing<'_>,
    (runtime, watch): (&Handle, &dyn Watch),
) -> Result<Outcome, OptimizeError> {
    let begun = Instant::now();
    let source = subject.model;
    constraints.check()?;
    if tag.as_str().starts_with(PREFIX) {
        return Err(OptimizeError::Tag(tag.to_string(), PREFIX));
    }
    if constraints.max_kl.is_some() && !options.quality_at.is_empty() {
        return Err(OptimizeError::OnlyFromBelow);
    }
    check_source(source)?;
    let config = source.config()?;
    let shape = ModelShape::of(config);
    let positions = config.get("max_position_embeddings").and_then(serde_json::Value::as_u64);
    if let Some(most) = positions.filter(|most| options.workload.longest() > *most) {
        return Err(OptimizeError::TooLong { tokens: options.workload.longest(), most });
    }
    let mut run = Run::begin(subject, store, name, constraints, options, packing, runtime)?;
    let lm = run.model()?;
    let mut bits = vec![Bits::new(); options.candidates.len()];
    let float = run.workshop.float;
    let measures = |method: &str, hardware: &Hardware| options.measures(method, hardware);
    let data = match &options.kernel_data {
        Some(python) => Some(KernelData::open(python, config).map_err(OptimizeError::KernelData)?),
        None => None,
    };
    let none = || Err("there are no data".to_owned());
    let steps = |asked: &Asked<'_>| data.as_ref().map_or_else(none, |data| data.steps(asked));
    let setting = Setting {
        constraints,
        workload: &options.workload,
        prices: &options.prices,
        cores: options.cores,
        engine: options.engine,
        shape: shape.as_ref(),
        float,
        tensor_bytes: source.tensors().iter().map(|tensor| tensor.len).sum(),
        steps: data.as_ref().map(|_| &steps as &Ask<'_>),
        measures: &measures,
    };
    let (mut rows, mut prices) = (Vec::new(), Vec::<Price>::new());
    for (at, (candidate, bits)) in options.candidates.iter().zip(&mut bits).enumerate() {
        let size = &run.size(candidate, lm.as_ref(), bits).map_err(|error| error.to_string());
        for hardware in &options.hardware {
            let (row, price) = Row::new((at, candidate), size, hardware, &setting);
            prices.extend(price.filter(|price| !prices.contains(price)));
            rows.push(row);
        }
    }
    let time_left = || options.time_limit.is_none_or(|limit| begun.elapsed() < limit);
    let mut exam = run.exam(lm.as_ref())?;
    run.known(&bits, &mut rows, exam.as_mut())?;
    if options.dry_run {
        return Ok(run.outcome(None, rows, prices, 0));
    }
    watch.begin(&rows);
    let mut computed = vec![false; options.candidates.len()];
    for at in run.order(&rows) {
        let own = bits.get(at).cloned().unwrap_or_default();
        computed[at] |= run.try_at((at, &own), &mut rows, exam.as_mut(), &time_left, watch);
    }
    if let (true, Some(lm), Some(exam)) = (options.solve_bits, &lm, exam.as_mut()) {
        let found = (&mut rows, &mut bits, &mut prices);
        computed.extend(run.rounds((lm, exam), found, &setting, &time_left, watch));
    } else if options.solve_bits {
        run.notes.push(
            "mixed: the model is not run here, and bits are solved for where it is".to_owned(),
        );
    }
    for row in rows.iter_mut().filter(|row| row.dropped.is_none()) {
        let measured = run.measure(row, &setting, watch)?;
        computed[row.candidate] |= measured;
        row.dropped = row.dropped.take().or_else(|| row.last_refusal(constraints));
        if row.dropped.is_none() && objective_of(options.objective, &row.figures).is_none() {
            row.dropped = Some(format!("its {} is not known", options.objective.name()));
        }
        watch.known(row);
    }
    // Whoever would win is read whole: what is said of it is as sure as the text allows.
    let best = loop {
        let entries: Vec<Entry<'_>> = rows
            .iter()
            .map(|row| Entry { figures: &row.figures, fits: row.dropped.is_none() })
            .collect();
        let Some(best) = choose(options.objective, &entries) else { break None };
        let Some(row) = rows.get(best) else { break None };
        let seen = |row: &Row| row.quality.as_ref().map(|own| own.windows);
        let (at, before) = (row.candidate, seen(row));
        let own = bits.get(at).cloned().unwrap_or_default();
        if let (Some(exam), Some(candidate)) = (exam.as_mut(), run.candidates.get(at).cloned()) {
            match run.read_whole((at, &candidate, &own), &mut rows, exam, &time_left) {
                Ok(new) => computed[at] |= new,
                Err(error) => drop_all(&mut rows, at, &format!("failed: {error}")),
            }
        }
        if rows.get(best).is_some_and(|row| seen(row) == before && row.dropped.is_none()) {
            break Some(best);
        }
    };
    if let Err(error) = run.publish() {
        run.notes.push(format!("what was found is not published: {error}"));
    }
    let read = exam.as_ref().map_or(0, |exam| exam.read);
    let computed = computed.iter().filter(|own| **own).count() as u64;
    let mut outcome = run.outcome(best, rows, prices, read);
    outcome.computed = computed;
    if let Some(Winner { row, manifest }) = &mut outcome.winner {
        let row = outcome.rows.get(*row);
        let (own, id) = row
            .and_then(|row| Some((row, row.manifest?)))
            .ok_or_else(|| OptimizeError::Defect("a winner without an artifact".to_owned()))?;
        let text = exam.as_ref().map(|exam| (exam.tokens.as_slice(), exam.context));
        let said = section(own, &outcome.rows, &outcome.prices, options, constraints, text)?;
        let PackParts { signers, lifetime } = PackParts::of(packing)?;
        let made = annotate(store, id, said, (name, tag), &signers, lifetime);
        *manifest = Some(runtime.block_on(made)?.0);
    }
    Ok(outcome)
}

/// What publishing takes of how results are packed.
struct PackParts {
    signers: Vec<crate::trust::Signer>,
    lifetime: crate::store::Lifetime,
}

impl PackParts {
    fn of(packing: &Packing<'_>) -> Result<Self, OptimizeError> {
        let options = packing()?;
        Ok(Self { signers: options.signers, lifetime: options.lifetime })
    }
}
