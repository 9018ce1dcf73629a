//! What is tried: recipes by their names. Pure.

use super::error::OptimizeError;
use crate::quantize::produce::{Format, Method, PRESETS, Preset, Recipe};

/// The label of the model as it is.
pub const UNQUANTIZED: &str = "unquantized";
/// The name for the fewest bits that keep limits of quality, whose number is not known before.
const SOLVED: &str = "mixed";
/// What the labels of mixed bits begin with; the bits on average follow.
const MIXED: &str = "mixed_";
/// Budgets of mixed bits that `all` tries, in hundredths.
const BUDGETS: [u32; 3] = [350, 450, 550];

/// A candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What it is called: a preset, a method, `mixed_` with bits on average, or `unquantized`.
    pub label: String,
    /// How it is made; none for the model as it is.
    pub recipe: Option<Recipe>,
}

impl Candidate {
    fn new(label: &str, recipe: Recipe) -> Self {
        Self { label: label.to_owned(), recipe: Some(recipe) }
    }

    /// The model as it is.
    pub fn unquantized() -> Self {
        Self { label: UNQUANTIZED.to_owned(), recipe: None }
    }

    /// The candidate of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(label: &str) -> Result<Self, OptimizeError> {
        if label == UNQUANTIZED {
            return Ok(Self::unquantized());
        }
        if let Some(preset) = Preset::named(label) {
            return Ok(Self::new(label, preset.recipe()));
        }
        if label == "w8a8" {
            return Ok(Self::new(label, bytes()));
        }
        if let Some(bits) = label.strip_prefix(MIXED) {
            let hundredths = bits.parse::<f64>().ok().map(|bits| (bits * 100.0).round());
            let hundredths = hundredths.filter(|bits| (200.0..=800.0).contains(bits));
            let wrong = || OptimizeError::Candidate(label.to_owned(), names());
            let recipe = mixed(hundredths.ok_or_else(wrong)? as u32);
            return Ok(Self::new(label, recipe));
        }
        match label.parse::<Method>() {
            Ok(method) => Ok(Self::new(label, method.recipe())),
            Err(_) => Err(OptimizeError::Candidate(label.to_owned(), names())),
        }
    }

    /// The eight presets.
    pub fn presets() -> Vec<Self> {
        PRESETS.iter().map(|preset| Self::new(preset.name, preset.recipe())).collect()
    }

    /// Everything that has a name here, once.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::unquantized()];
        all.extend(Self::presets());
        for method in [Method::Fp8, Method::Hqq, Method::Q4_0, Method::Q4K, Method::Q8_0] {
            all.push(Self::new(method.name(), method.recipe()));
        }
        all.push(Self::new("w8a8", bytes()));
        all.extend(BUDGETS.map(Self::mixed));
        all
    }

    /// `presets`, `all`, or names with commas between them, each of which counts once.
    ///
    /// # Errors
    /// If a name is not known, or there is none.
    pub fn parse(text: &str) -> Result<Vec<Self>, OptimizeError> {
        let mut found: Vec<Self> = Vec::new();
        for label in text.split(',').map(str::trim).filter(|label| !label.is_empty()) {
            let own = match label {
                SOLVED => Vec::new(),
                "presets" => Self::presets(),
                "all" => Self::all(),
                label => vec![Self::named(label)?],
            };
            for candidate in own {
                if !found.iter().any(|known| known.label == candidate.label) {
                    found.push(candidate);
                }
            }
        }
        match found.is_empty() && !Self::solves(text) {
            true => Err(OptimizeError::Candidate(text.to_owned(), names())),
            false => Ok(found),
        }
    }

    /// Whether the same names ask for the fewest bits that keep limits of quality.
    pub fn solves(text: &str) -> bool {
        text.split(',').any(|label| [SOLVED, "all"].contains(&label.trim()))
    }

    /// Mixed bits of so many hundredths on average.
    pub fn mixed(hundredths: u32) -> Self {
        let bits = format!("{}.{:02}", hundredths / 100, hundredths % 100);
        let bits = bits.trim_end_matches('0').trim_end_matches('.');
        Self::new(&format!("{MIXED}{bits}"), mixed(hundredths))
    }

    /// Whether it is calibrated, or its bits are decided by a calibration run.
    pub fn reads_text(&self) -> bool {
        self.recipe
            .as_ref()
            .is_some_and(|own| own.method.is_calibrated() || own.average_bits.is_some())
    }

    /// How its weights are stored, in the words of the table of kernels.
    pub fn weights(&self) -> &'static str {
        let Some(recipe) = &self.recipe else { return "16" };
        match (recipe.method, recipe.format) {
            (Method::Nf4, _) if recipe.double_quant => "nf4-double",
            (Method::Nf4, _) => "nf4",
            (Method::Int8, _) => "int8-bnb",
            (Method::Fp8, _) => "fp8",
            (_, Format::Gguf) => "gguf",
            _ if recipe.average_bits.is_some() => "mixed",
            _ if recipe.bits == 8 && recipe.group_size.is_none() && recipe.symmetric => "int8",
            _ => match recipe.bits {
                8 => "int8w",
                4 => "int4",
                _ => "int3",
            },
        }
    }
}

/// Bytes for weights and activations, as compressed-tensors has them.
fn bytes() -> Recipe {
    Recipe { bits: 8, group_size: None, symmetric: true, ..Method::Rtn.recipe() }
}

/// Mixed bits, in the layout that most engines take.
fn mixed(hundredths: u32) -> Recipe {
    let mut recipe = Method::Gptq.recipe();
    (recipe.format, recipe.group_size) = (Format::CompressedTensors, Some(64));
    let most = recipe.numbers_of_bits().iter().rev().find(|bits| **bits * 100 <= hundredths);
    Recipe { bits: most.copied().unwrap_or(2), average_bits: Some(hundredths), ..recipe }
}

fn names() -> String {
    let presets = PRESETS.iter().map(|preset| preset.name);
    let methods = Method::ALL.iter().map(|method| method.name());
    let more = [
        "w8a8",
        "mixed_4.5 (2 to 8 bits)",
        "mixed (as few as limits allow)",
        UNQUANTIZED,
        "presets",
        "all",
    ];
    presets.chain(methods).chain(more).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_is_a_recipe_and_is_found_by_its_name() {
        let all = Candidate::all();
        for (at, candidate) in all.iter().enumerate() {
            candidate.recipe.iter().for_each(|own| own.check().unwrap());
            assert_eq!(Candidate::named(&candidate.label).as_ref().unwrap(), candidate);
            for other in &all[..at] {
                assert_ne!(candidate.recipe, other.recipe, "{}", candidate.label);
            }
        }
        assert_eq!(Candidate::parse("presets").unwrap(), Candidate::presets());
        assert_eq!(Candidate::parse("all,bnb_nf4").unwrap(), all);
        let two: Vec<_> = Candidate::parse("unquantized, mixed_3.75").unwrap();
        assert_eq!(two[1].recipe.as_ref().unwrap().average_bits, Some(375));
        assert_eq!(Candidate::mixed(437), Candidate::named("mixed_4.37").unwrap());
        assert_eq!(
            (Candidate::parse("mixed").unwrap(), Candidate::solves("a, mixed")),
            (Vec::new(), true)
        );
        assert_eq!(
            (Candidate::mixed(400).label.as_str(), Candidate::solves("mixed_4.5")),
            ("mixed_4", false)
        );
        for wrong in ["", ",", "none", "mixed_", "mixed_1", "mixed_9", "mixed_nan", "bnb_nf4,x"] {
            let said = Candidate::parse(wrong).unwrap_err().to_string();
            assert!(said.contains("awq_balanced") && said.contains("all"), "{wrong}: {said}");
        }
    }

    #[test]
    fn weights_are_told_apart_as_kernels_see_them() {
        let of = |label: &str| Candidate::named(label).unwrap().weights();
        let found = ["unquantized", "gptq_quality", "gptq_aggressive", "awq_fast", "nf4_double"];
        assert_eq!(found.map(of), ["16", "int4", "int3", "int4", "nf4-double"]);
        let found = ["bnb_int8", "fp8", "w8a8", "mixed_4.5", "q4_k", "hqq"];
        assert_eq!(found.map(of), ["int8-bnb", "fp8", "int8", "mixed", "gguf", "int4"]);
    }
}
