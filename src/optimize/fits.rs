//! Which engine runs a candidate on which hardware, as far as is known without trying. Pure.

use serde::Serialize;

use super::candidate::Candidate;
use super::hardware::{Device, Hardware};
use crate::dequant::Float;
use crate::quantize::produce::engines::{Engine, Fit};
use crate::quantize::produce::{Format, Recipe};

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Runner {
    /// This command's own engine.
    Embedded,
    /// One of others.
    #[serde(untagged)]
    Other(Engine),
}

impl Runner {
    /// What `--engine` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Other(engine) => engine.name(),
        }
    }

    /// What the table of kernels calls it on this device.
    pub const fn kernels(self, device: &Device) -> &'static str {
        if device.processor { "processor" } else { self.name() }
    }
}

impl std::str::FromStr for Runner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == Self::Embedded.name() {
            return Ok(Self::Embedded);
        }
        text.parse().map(Self::Other).map_err(|_| {
            let names = Engine::ALL.iter().map(|engine| engine.name());
            let all: Vec<_> = std::iter::once("embedded").chain(names).collect();
            format!("there are {}", all.join(", "))
        })
    }
}

/// In which order engines are thought of where none is asked for: the fastest first.
const ENGINES: [Engine; 4] = [Engine::Vllm, Engine::Sglang, Engine::Transformers, Engine::LlamaCpp];

/// Why a device cannot compute with a recipe's weights; `float` is the type of the model's own.
fn device_refuses(
    device: &Device,
    recipe: Option<&Recipe>,
    weights: &str,
    float: Float,
) -> Option<String> {
    let title = &device.title;
    if device.processor {
        return None;
    }
    let compute = device.compute.map_or(String::new(), |own| {
        format!(" (compute capability {own}; 8.9 is the first that has it)")
    });
    match recipe {
        None if float == Float::BF16 && !device.bf16 => {
            Some(format!("{title} does not compute in bf16, as the model is stored"))
        }
        Some(_) if weights == "fp8" && device.fp8.is_none() => {
            Some(format!("{title} does not compute in FP8{compute}"))
        }
        Some(recipe)
            if recipe.format == Format::CompressedTensors
                && weights != "fp8"
                && weights != "int8"
                && device.compute.is_some_and(|own| own < 8.0) =>
        {
            Some(format!("{title} has no kernel for few bits of compressed-tensors (Marlin)"))
        }
        _ => None,
    }
}

/// What runs a candidate on hardware: the engine that was asked for, or the first that is known to load it; with
/// what is to be said of that.
///
/// # Errors
/// If nothing does, with the reason.
pub fn runner(
    candidate: &Candidate,
    hardware: &Hardware,
    asked: Option<Runner>,
    float: Float,
) -> Result<(Runner, Option<String>), String> {
    let device = &hardware.device;
    let recipe = candidate.recipe.as_ref();
    if let Some(reason) = device_refuses(device, recipe, candidate.weights(), float) {
        return Err(reason);
    }
    let of = |engine: Engine| -> Result<Fit, String> {
        // Every engine loads what every model is published as.
        recipe.map_or(Ok(Fit::Loads), |recipe| {
            recipe.check_engine(engine).map_err(|refused| refused.to_string())
        })
    };
    match asked {
        Some(Runner::Embedded) if !device.processor => {
            Err(format!("the embedded engine runs on processors, and {} is none", device.title))
        }
        Some(Runner::Other(engine)) => {
            let title = engine.title();
            let said = match of(engine)? {
                Fit::Loads => None,
                Fit::NoKernel(_) if device.processor => {
                    return Err(format!("{title} has no kernel for it on processors"));
                }
                Fit::NoKernel(_) => Some(format!("nobody tried it with {title} on a GPU")),
                Fit::Untried => Some(format!("nobody tried whether {title} loads it")),
            };
            Ok((Runner::Other(engine), said))
        }
        Some(Runner::Embedded) => Ok((Runner::Embedded, None)),
        None if device.processor => Ok((Runner::Embedded, None)),
        None => {
            // Others widen GGUF's blocks when they read them.
            let gguf = recipe.is_some_and(|own| own.format == Format::Gguf);
            let first = gguf.then_some(Engine::LlamaCpp);
            let rest = ENGINES.into_iter().filter(|engine| Some(*engine) != first);
            let fit = |engine: Engine| Some((engine, of(engine).ok()?));
            let found: Vec<(Engine, Fit)> = first.into_iter().chain(rest).filter_map(fit).collect();
            let loads = found.iter().find(|(_, fit)| *fit == Fit::Loads);
            let maybe = found.iter().find(|(_, fit)| matches!(fit, Fit::NoKernel(_)));
            match (loads, maybe, found.first()) {
                (Some((engine, _)), _, _) => Ok((Runner::Other(*engine), None)),
                (None, Some((engine, _)), _) => {
                    let said = format!("nobody tried it with {} on a GPU", engine.title());
                    Ok((Runner::Other(*engine), Some(said)))
                }
                (None, None, Some((engine, _))) => {
                    let said = format!("nobody tried whether {} loads it", engine.title());
                    Ok((Runner::Other(*engine), Some(said)))
                }
                (None, None, None) => Err("no engine that was tried loads it".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimize::hardware::host;

    fn of(
        label: &str,
        hardware: &str,
        asked: Option<&str>,
        float: Float,
    ) -> Result<String, String> {
        let candidate = Candidate::named(label).unwrap();
        let hardware = Hardware::parse(hardware, &host(2, 8 << 30)).unwrap();
        let asked = asked.map(|name| name.parse().unwrap());
        runner(&candidate, &hardware, asked, float).map(|(runner, _)| runner.name().to_owned())
    }

    #[test]
    fn what_hardware_lacks_is_said() {
        for old in ["a10g", "t4", "a100", "a100-40x2"] {
            let said = of("fp8", old, None, Float::BF16).unwrap_err();
            assert!(said.contains("FP8") && said.contains("compute capability"), "{said}");
        }
        assert_eq!(of("fp8", "l4", None, Float::BF16).unwrap(), "vllm");
        assert!(of("unquantized", "t4", None, Float::BF16).unwrap_err().contains("bf16"));
        assert_eq!(of("unquantized", "t4", None, Float::F16).unwrap(), "vllm");
        assert_eq!(of("unquantized", "a10g", None, Float::BF16).unwrap(), "vllm");
        assert!(of("hqq", "t4", None, Float::F16).unwrap_err().contains("Marlin"));
        assert_eq!(of("fp8", "host", None, Float::BF16).unwrap(), "embedded");
    }

    #[test]
    fn what_engines_refused_is_dropped_and_another_is_found() {
        let said = of("gptq_aggressive", "a10g", Some("vllm"), Float::BF16).unwrap_err();
        assert!(said.contains("does not load gptq 3 bits g128"), "{said}");
        assert_eq!(of("gptq_aggressive", "a10g", None, Float::BF16).unwrap(), "transformers");
        // Its plugin for GGUF has a kernel for GPUs alone.
        let said = of("q4_k", "host", Some("vllm"), Float::BF16).unwrap_err();
        assert!(said.contains("no kernel for it on processors"), "{said}");
        assert_eq!(of("q4_k", "a10g", None, Float::BF16).unwrap(), "llama.cpp");
        assert!(
            of("bnb_nf4", "a10g", Some("embedded"), Float::BF16)
                .unwrap_err()
                .contains("processors")
        );
        assert_eq!(of("bnb_nf4", "host", Some("embedded"), Float::BF16).unwrap(), "embedded");
        let said = of("mixed_4.5", "host", Some("vllm"), Float::BF16).unwrap_err();
        assert!(said.contains("processors"), "{said}");
        assert!("tgi".parse::<Runner>().unwrap_err().contains("embedded, vllm"));
    }
}
