//! Recipes with names.

use super::{Format, Method, Recipe};

/// A recipe that has a name.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    method: Method,
    bits: u32,
    group_size: Option<u32>,
    double_quant: bool,
}

const fn preset(name: &'static str, method: Method, bits: u32, group_size: Option<u32>) -> Preset {
    Preset { name, method, bits, group_size, double_quant: false }
}

/// Every preset.
pub const PRESETS: &[Preset] = &[
    preset("gptq_quality", Method::Gptq, 4, Some(128)),
    preset("gptq_fast", Method::Gptq, 4, Some(64)),
    preset("gptq_aggressive", Method::Gptq, 3, Some(128)),
    preset("awq_balanced", Method::Awq, 4, Some(128)),
    preset("awq_fast", Method::Awq, 4, Some(64)),
    preset("bnb_nf4", Method::Nf4, 4, Some(64)),
    Preset { double_quant: true, ..preset("nf4_double", Method::Nf4, 4, Some(64)) },
    preset("bnb_int8", Method::Int8, 8, None),
];

impl Preset {
    /// The preset of that name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// Its recipe.
    pub fn recipe(&self) -> Recipe {
        Recipe {
            bits: self.bits,
            group_size: self.group_size,
            double_quant: self.double_quant,
            ..self.method.recipe()
        }
    }

    /// The layout of its result.
    pub fn format(&self) -> Format {
        self.method.recipe().format
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_a_recipe_of_its_own() {
        for (at, preset) in PRESETS.iter().enumerate() {
            preset.recipe().check().unwrap();
            assert!(preset.recipe().size_ratio() > 1.9, "{}", preset.name);
            for other in &PRESETS[..at] {
                assert_ne!(preset.recipe(), other.recipe(), "{} {}", preset.name, other.name);
            }
        }
        let nf4 = Preset::named("nf4_double").unwrap().recipe();
        assert!((nf4.size_ratio() - 16.0 / 4.127).abs() < 0.01);
        assert!(Preset::named("none").is_none());
    }
}
