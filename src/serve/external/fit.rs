//! Whether an engine loads a checkpoint: what the judge found when it asked, and what its loader reads at all. Pure.

use super::engine::External;
use crate::quantize::produce::Recipe;
use crate::quantize::produce::engines::Fit;

/// What of an artifact an engine looks at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint {
    /// How it is quantized, if that is known.
    pub recipe: Option<Recipe>,
    /// Paths of its files.
    pub files: Vec<String>,
}

/// Why an engine is not given a checkpoint: the reason, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// What to know of a checkpoint that an engine takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fitting {
    /// Worth telling.
    pub notes: Vec<String>,
    /// Python packages beside the engine without which it does not load it, and the versions that were tried.
    pub needs: Vec<(String, String)>,
}

impl Checkpoint {
    /// The GGUF file of the weights: the first one, if it is in parts.
    ///
    /// # Errors
    /// If there is none, or several.
    pub fn gguf(&self) -> Result<&str, Unfit> {
        let is_weights = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
            name.ends_with(".gguf")
                && !name.starts_with("mmproj")
                && part(&name).is_none_or(|n| n == 1)
        };
        let found: Vec<&str> =
            self.files.iter().map(String::as_str).filter(|path| is_weights(path)).collect();
        match found.as_slice() {
            [one] => Ok(one),
            [] => Err(Unfit(
                "llama.cpp loads GGUF files, and the artifact has none; make one with `tenpak quantize --method \
                 q8_0` (or q4_0, q4_k)"
                    .to_owned(),
            )),
            several => Err(Unfit(format!(
                "the artifact has several GGUF files: {}; pack the one that is to be served by itself",
                several.join(", ")
            ))),
        }
    }

    /// Whether `engine` takes it.
    ///
    /// # Errors
    /// If the engine was asked and refused its layout, or reads no such files.
    pub fn check(&self, engine: External) -> Result<Fitting, Unfit> {
        let gguf = self.files.iter().any(|path| path.to_lowercase().ends_with(".gguf"));
        let has = |name: &str| self.files.iter().any(|path| path == name);
        if engine == External::LlamaCpp {
            self.gguf()?;
        } else if gguf && !self.files.iter().any(|path| path.ends_with(".safetensors")) {
            let ways = "serve it with --engine llama.cpp or embedded";
            return Err(Unfit(format!("{} does not load GGUF files; {ways}", engine.title())));
        } else if !has("config.json") {
            return Err(Unfit(format!(
                "the artifact has no config.json, without which {} knows no model; pack the whole folder",
                engine.title()
            )));
        }
        let mut fitting = Fitting::default();
        if engine == External::Sglang && !has("tokenizer_config.json") {
            let missing = "SGLang wants a tokenizer_config.json, and the artifact has none";
            fitting.notes.push(missing.to_owned());
        }
        let (Some(recipe), Some(judged)) = (&self.recipe, engine.judged()) else {
            return Ok(fitting);
        };
        match recipe.check_engine(judged) {
            Err(refused) => return Err(Unfit(refused.to_string())),
            Ok(Fit::NoKernel(trial)) => fitting.notes.push(format!(
                "{} {} has no kernel for {} on processors; nobody tried it on a GPU",
                engine.title(),
                trial.version,
                recipe.layout()
            )),
            Ok(Fit::Untried) => {
                fitting.notes.push(format!(
                    "nobody tried {} with {}",
                    engine.title(),
                    recipe.layout()
                ));
            }
            Ok(Fit::Loads) => {
                let trials = recipe.trials();
                let own = trials.iter().find(|trial| trial.engine == judged && trial.loads);
                let needs = own.into_iter().flat_map(|trial| &trial.needs);
                fitting.needs =
                    needs.map(|(name, version)| (name.clone(), version.clone())).collect();
            }
        }
        Ok(fitting)
    }
}

/// Which part of several a file is: `m-00002-of-00003.gguf` is 2.
fn part(name: &str) -> Option<u32> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (_, number) = rest.rsplit_once('-')?;
    count.parse::<u32>().ok()?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::produce::{ActOrder, Method};

    fn checkpoint(recipe: Option<Recipe>, files: &[&str]) -> Checkpoint {
        Checkpoint { recipe, files: files.iter().map(|path| (*path).to_owned()).collect() }
    }

    const MODEL: &[&str] = &["config.json", "model.safetensors"];

    #[test]
    fn what_the_judge_found_counts() {
        let of = |recipe: Recipe| checkpoint(Some(recipe), MODEL);
        assert_eq!(checkpoint(None, MODEL).check(External::Vllm), Ok(Fitting::default()));
        assert_eq!(of(Method::Gptq.recipe()).check(External::Vllm), Ok(Fitting::default()));
        let group = Recipe { act_order: Some(ActOrder::Group), ..Method::Gptq.recipe() };
        let error = of(group.clone()).check(External::Vllm).unwrap_err().to_string();
        assert!(error.contains("desc_act") && error.contains("take --act-order static"), "{error}");
        // Nobody asked TGI.
        assert_eq!(of(group).check(External::Tgi), Ok(Fitting::default()));
        let nf4 = of(Method::Nf4.recipe()).check(External::Vllm).unwrap();
        assert_eq!(nf4.needs[0].0, "vllm-bnb-plugin");
        let eight = Recipe { bits: 8, ..Method::Gptq.recipe() };
        let notes = of(eight).check(External::Vllm).unwrap().notes;
        assert!(notes[0].contains("no kernel"), "{notes:?}");
    }

    #[test]
    fn files_that_an_engine_does_not_read_are_refused() {
        let gguf = checkpoint(None, &["README.md", "m.gguf"]);
        for engine in [External::Vllm, External::Sglang, External::Tgi] {
            let error = gguf.check(engine).unwrap_err().to_string();
            assert!(error.contains("--engine llama.cpp"), "{error}");
            let error = checkpoint(None, &["model.safetensors"]).check(engine).unwrap_err();
            assert!(error.to_string().contains("config.json"), "{error}");
        }
        assert!(gguf.check(External::LlamaCpp).is_ok());
        let error = checkpoint(None, MODEL).check(External::LlamaCpp).unwrap_err().to_string();
        assert!(error.contains("quantize --method q8_0"), "{error}");
        let quantized = checkpoint(Some(Method::Gptq.recipe()), MODEL).check(External::LlamaCpp);
        assert!(quantized.is_err());
    }

    #[test]
    fn the_first_part_of_a_gguf_file_stands_for_all() {
        let of = |files: &[&str]| checkpoint(None, files).gguf().map(str::to_owned);
        let parts = ["a/m-00001-of-00002.gguf", "a/m-00002-of-00002.gguf", "mmproj-m.gguf"];
        assert_eq!(of(&parts).unwrap(), "a/m-00001-of-00002.gguf");
        assert_eq!(of(&["M.GGUF", "x.txt"]).unwrap(), "M.GGUF");
        assert_eq!(of(&["m-of-all.gguf"]).unwrap(), "m-of-all.gguf");
        assert!(of(&["a.gguf", "b.gguf"]).unwrap_err().to_string().contains("a.gguf, b.gguf"));
    }
}
