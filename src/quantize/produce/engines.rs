//! Which engines load what is written: what `tests/judges/engines.py` found when it asked them, and nothing else.
//!
//! What an engine looks at is a recipe's *layout*: the format and its numbers, not what computed the codes. A
//! layout that no engine was asked about has no trials, and nothing is said of it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::method::is_bytes;
use super::recipe::{ActOrder, Method, Recipe, UnknownName, names};

/// What the judge found; it writes this file.
const TABLE: &str = include_str!("../../../tests/judges/engines.json");

names! {
    /// An engine that runs language models.
    Engine {
        /// vLLM.
        Vllm = "vllm",
        /// SGLang.
        Sglang = "sglang",
        /// transformers.
        Transformers = "transformers",
        /// llama.cpp.
        LlamaCpp = "llama.cpp",
    }
}

impl Engine {
    /// How its own people write it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::Transformers => "transformers",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

/// One engine, given one layout.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Which engine.
    pub engine: Engine,
    /// Its version.
    pub version: String,
    /// The [layout](Recipe::layout).
    pub layout: String,
    /// What of `quantize` made it.
    pub made_by: String,
    /// Whether it loaded, and said what the weights say.
    pub loads: bool,
    /// Packages without which it does not load, and their versions.
    pub needs: BTreeMap<String, String>,
    /// If it loaded: of its first 32 greedy tokens, those that are the likeliest by the weights.
    pub greedy: Option<u32>,
    /// If it loaded: by how many nats the mean log-probability of a text is off what the weights say.
    pub off: Option<f64>,
    /// If it did not load: the reason that it gave.
    pub said: Option<String>,
    /// Whether that reason is that it has no kernel for processors, on which it was asked: on a GPU it may load.
    pub no_kernel: bool,
}

/// What is known of an engine and a recipe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// It loads the result.
    Loads,
    /// It takes the layout, and has no kernel for it on processors; nobody asked it on a GPU.
    NoKernel(&'static Trial),
    /// Nobody asked it.
    Untried,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    trials: Vec<Trial>,
}

/// A file that is no table says nothing; a test holds that it is one.
static PARSED: LazyLock<Table> = LazyLock::new(|| serde_json::from_str(TABLE).unwrap_or_default());

/// Everything that was tried, the newest version of an engine first.
pub fn trials() -> &'static [Trial] {
    &PARSED.trials
}

/// Why an engine is not given a result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{} {} does not load {layout}: {said}; {out}", engine.title(), version)]
pub struct Refused {
    /// Which engine.
    pub engine: Engine,
    /// The version that was asked.
    pub version: String,
    /// What it was given.
    pub layout: String,
    /// What it said.
    pub said: String,
    /// What to do.
    pub out: String,
}

impl Recipe {
    /// What of the recipe an engine sees: the format and its numbers.
    pub fn layout(&self) -> String {
        let format = self.format.name();
        match self.method {
            Method::Nf4 if self.double_quant => return format!("{format} nf4, double"),
            Method::Rtn | Method::Gptq | Method::Awq | Method::Hqq => {}
            own => return format!("{format} {}", own.name()),
        }
        if is_bytes(self) {
            return format!("{format} int8");
        }
        let bits = match self.average_bits {
            Some(_) => "mixed bits".to_owned(),
            None => format!("{} bits", self.bits),
        };
        let group = self.group_size.map_or("row".to_owned(), |group| format!("g{group}"));
        let zeros = if self.symmetric { "" } else { ", zero points" };
        let order = if self.has_index() { ", desc_act" } else { "" };
        format!("{format} {bits} {group}{zeros}{order}")
    }

    /// What engines made of its layout.
    pub fn trials(&self) -> Vec<&'static Trial> {
        let layout = self.layout();
        trials().iter().filter(|trial| trial.layout == layout).collect()
    }

    /// Which engines load a result of it, on one line.
    pub fn loads_in_words(&self) -> String {
        let trials = self.trials();
        match (trials.is_empty(), in_words(&trials)) {
            (true, _) => format!("nobody tried which engines load {}", self.layout()),
            (false, words) if words.is_empty() => {
                format!("no engine that was tried loads {}", self.layout())
            }
            (false, words) => format!("loads in {words}"),
        }
    }

    /// Whether this engine takes the layout.
    ///
    /// # Errors
    /// If it was asked and refused it, or if it refused every layout of this format.
    pub fn check_engine(&self, engine: Engine) -> Result<Fit, Refused> {
        let layout = self.layout();
        let format = format!("{} ", self.format.name());
        let of = |trial: &&Trial| trial.engine == engine;
        let own = || trials().iter().filter(of).filter(|trial| trial.layout == layout);
        let alike = || trials().iter().filter(of).filter(|trial| trial.layout.starts_with(&format));
        if own().any(|trial| trial.loads) {
            return Ok(Fit::Loads);
        }
        if let Some(trial) = own().find(|trial| trial.no_kernel) {
            return Ok(Fit::NoKernel(trial));
        }
        let all_refused = !alike().any(|trial| trial.loads || trial.no_kernel);
        let refusal = own().next().or_else(|| alike().next().filter(|_| all_refused));
        let Some(refusal) = refusal else { return Ok(Fit::Untried) };
        let differs = || "its output is not what the weights say".to_owned();
        Err(Refused {
            engine,
            version: refusal.version.clone(),
            layout,
            said: refusal.said.clone().unwrap_or_else(differs),
            out: self.way_out(engine),
        })
    }

    /// What to take instead.
    fn way_out(&self, engine: Engine) -> String {
        let loads = |layout: &str| {
            trials().iter().any(|t| t.engine == engine && t.loads && t.layout == layout)
        };
        let stored = Self { act_order: self.act_order.map(|_| ActOrder::Static), ..self.clone() };
        if self.has_index() && loads(&stored.layout()) {
            return "take --act-order static".to_owned();
        }
        let mut made: Vec<&str> = Vec::new();
        for trial in trials().iter().filter(|t| t.engine == engine && t.loads) {
            if !made.contains(&trial.made_by.as_str()) {
                made.push(&trial.made_by);
            }
        }
        match made.is_empty() {
            true => "it loads nothing that quantize writes".to_owned(),
            false => format!("it loads {}", made.join("; ")),
        }
    }
}

/// Of trials of one layout, in words: who loads it, and what that needs. Empty if no engine does.
pub fn in_words(trials: &[&Trial]) -> String {
    let words = trials.iter().filter(|trial| trial.loads).map(|trial| {
        let own = format!("{} {}", trial.engine.title(), trial.version);
        match trial.needs.is_empty() {
            true => own,
            false => {
                let named = |(package, version): (&String, &String)| format!("{package} {version}");
                let needs: Vec<String> = trial.needs.iter().map(named).collect();
                format!("{own} (needs {})", needs.join(", "))
            }
        }
    });
    words.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::PRESETS;
    use super::*;

    #[test]
    fn the_table_is_one_and_has_every_preset() {
        let table: Table = serde_json::from_str(TABLE).unwrap();
        assert!(!table.trials.is_empty());
        for trial in &table.trials {
            assert_eq!(trial.loads, trial.said.is_none(), "{trial:?}");
            assert_eq!(trial.loads, trial.off.is_some() && trial.greedy.is_some(), "{trial:?}");
            assert!(trial.loads || trial.needs.is_empty(), "{trial:?}");
            assert!(!(trial.loads && trial.no_kernel), "{trial:?}");
        }
        for preset in PRESETS {
            let trials = preset.recipe().trials();
            assert!(trials.iter().any(|trial| trial.loads), "no engine loads {}", preset.name);
        }
    }
}
