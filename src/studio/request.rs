//! What clients ask for, and the command that does it. Pure.
//!
//! Every value reaches the command as `--flag=value` or behind `--`, so that none is taken for a flag.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outside::Place;
use crate::format::name::ArtifactSpec;
use crate::quantize::produce::delta::DeltaMethod;
use crate::quantize::produce::{Format, Method, PRESETS, Preset, Recipe};

/// Characters of any text of a request.
const MAX_TEXT: usize = 512;

/// A model to quantize.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Compress {
    /// An artifact, `upload:ID`, a path below an allowed folder, or the address of a model elsewhere.
    #[serde(alias = "model_id")]
    pub(super) model: String,
    /// The artifact to make; by default named after the model and the recipe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) preset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bits: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) group_size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) skip: Vec<String>,
}

/// A model to find the cheapest form of that meets limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Optimize {
    #[serde(alias = "model_id")]
    pub(super) model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_ppl_delta: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_latency_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_compression: Option<f64>,
    #[serde(default, alias = "hardware_type", skip_serializing_if = "Option::is_none")]
    pub(super) hardware: Option<String>,
}

/// A fine-tune to write as its difference from a base.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delta {
    #[serde(alias = "finetuned_model", alias = "finetuned", alias = "model_id")]
    pub(super) model: String,
    #[serde(alias = "base_model")]
    pub(super) base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<String>,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Request {
    Compress(Compress),
    Optimize(Optimize),
    Delta(Delta),
}

/// The kinds of jobs.
pub(super) const KINDS: [&str; 3] = ["compress", "optimize", "delta"];

impl Request {
    /// Reads a request of a kind, and refuses what no job could do.
    pub(super) fn parse(kind: &str, body: Value) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| error.to_string();
        let request = match kind {
            "compress" => Self::Compress(serde_json::from_value(body).map_err(wrong)?),
            "optimize" => Self::Optimize(serde_json::from_value(body).map_err(wrong)?),
            "delta" => Self::Delta(serde_json::from_value(body).map_err(wrong)?),
            _ => return Err(format!("{kind}: there are compress, optimize and delta")),
        };
        request.check()?;
        Ok(request)
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Compress(_) => "compress",
            Self::Optimize(_) => "optimize",
            Self::Delta(_) => "delta",
        }
    }

    pub(super) fn value(&self) -> Result<Value, String> {
        let value = match self {
            Self::Compress(own) => serde_json::to_value(own),
            Self::Optimize(own) => serde_json::to_value(own),
            Self::Delta(own) => serde_json::to_value(own),
        };
        value.map_err(|error| error.to_string())
    }

    pub(super) fn model(&self) -> &str {
        match self {
            Self::Compress(own) => &own.model,
            Self::Optimize(own) => &own.model,
            Self::Delta(own) => &own.model,
        }
    }

    pub(super) fn base(&self) -> Option<&str> {
        match self {
            Self::Delta(own) => Some(&own.base),
            _ => None,
        }
    }

    /// Whether several workers can share it: each weight is made by itself.
    pub(super) fn has_parts(&self) -> bool {
        match self {
            Self::Compress(own) => own.recipe().is_ok_and(|recipe| !recipe.method.is_calibrated()),
            _ => false,
        }
    }

    /// How many times smaller the result is likely to be.
    pub(super) fn size_ratio(&self) -> Option<f64> {
        match self {
            Self::Compress(own) => own.recipe().ok().map(|recipe| recipe.size_ratio()),
            _ => None,
        }
    }

    fn name_mut(&mut self) -> &mut Option<String> {
        match self {
            Self::Compress(own) => &mut own.name,
            Self::Optimize(own) => &mut own.name,
            Self::Delta(own) => &mut own.name,
        }
    }

    /// The artifact that it makes, which is given a name if it has none.
    pub(super) fn target(&mut self) -> Result<ArtifactSpec, String> {
        let suffix = match self {
            Self::Compress(own) => own.preset.clone().or_else(|| own.method.clone()),
            Self::Optimize(_) => Some("optimized".to_owned()),
            Self::Delta(_) => Some("delta".to_owned()),
        };
        let model = self.model().to_owned();
        let name = self.name_mut();
        let text = match name {
            Some(name) => name.clone(),
            None => {
                let place = Place::parse(&model).ok();
                let model = place.as_ref().and_then(Place::name).unwrap_or(&model);
                let spec: ArtifactSpec =
                    model.parse().map_err(|_| "name: give the result a name".to_owned())?;
                let ArtifactSpec::Named { name, .. } = spec else {
                    return Err("name: give the result a name".to_owned());
                };
                format!("{name}-{}", suffix.unwrap_or_default())
            }
        };
        let spec: ArtifactSpec = text.parse().map_err(|error| format!("name: {error}"))?;
        if !matches!(spec, ArtifactSpec::Named { .. }) {
            return Err("name: give a name, not an id".to_owned());
        }
        *name = Some(text);
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let texts = self.value()?;
        for (field, value) in texts.as_object().into_iter().flatten() {
            let mut all = value
                .as_str()
                .into_iter()
                .chain(value.as_array().into_iter().flatten().filter_map(Value::as_str));
            if all.any(|text| {
                text.is_empty()
                    || text.chars().count() > MAX_TEXT
                    || text.contains(char::is_control)
            }) {
                return Err(format!("{field}: 1 to {MAX_TEXT} printable characters"));
            }
        }
        match self {
            Self::Compress(own) => own.check(),
            Self::Optimize(own) => {
                let numbers = [own.max_ppl_delta, own.max_latency_ms, own.min_compression];
                match numbers.into_iter().flatten().any(|number| !(0.0..1e9).contains(&number)) {
                    true => Err("a limit is a number from 0".to_owned()),
                    false => Ok(()),
                }
            }
            Self::Delta(own) => match own.method.as_deref().map(DeltaMethod::named) {
                Some(None) => Err("method: there are lossless, sparse_int8 and uniform".to_owned()),
                _ => Ok(()),
            },
        }
    }

    /// The arguments of `tenpak` that do it, with `source` for the model.
    fn arguments(&self, source: &str) -> Vec<String> {
        let mut all = Vec::new();
        let mut flag = |name: &str, value: Option<String>| {
            all.extend(value.map(|value| format!("--{name}={value}")));
        };
        let number = |value: Option<f64>| value.map(|value| value.to_string());
        let command = match self {
            Self::Compress(own) => {
                flag("name", own.name.clone());
                flag("preset", own.preset.clone());
                flag("method", own.method.clone());
                flag("bits", own.bits.map(|bits| bits.to_string()));
                flag("group-size", own.group_size.map(|size| size.to_string()));
                flag("format", own.format.clone());
                own.skip.iter().for_each(|glob| flag("skip", Some(glob.clone())));
                "quantize"
            }
            Self::Optimize(own) => {
                flag("name", own.name.clone());
                flag("max-ppl-delta", number(own.max_ppl_delta));
                flag("max-latency-ms", number(own.max_latency_ms));
                flag("min-compression", number(own.min_compression));
                flag("hardware", own.hardware.clone());
                "optimize"
            }
            Self::Delta(own) => {
                flag("name", own.name.clone());
                flag("base", Some(own.base.clone()));
                flag("method", own.method.clone());
                "delta"
            }
        };
        all.insert(0, command.to_owned());
        all.extend(["--".to_owned(), source.to_owned()]);
        all
    }
}

impl Compress {
    fn check(&self) -> Result<(), String> {
        let recipe = self.recipe()?;
        match &self.format {
            Some(_) => Ok(()),
            None => recipe.check().map_err(|error| error.to_string()),
        }
    }

    fn recipe(&self) -> Result<Recipe, String> {
        let mut recipe = match (&self.preset, &self.method) {
            (Some(_), Some(_)) => return Err("give preset or method, not both".to_owned()),
            (None, None) => return Err("give preset or method".to_owned()),
            (Some(name), None) => Preset::named(name).map(Preset::recipe).ok_or_else(|| {
                let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
                format!("preset: there are {}", names.join(", "))
            })?,
            (None, Some(name)) => {
                let method: Method = name.parse().map_err(|error| format!("method: {error}"))?;
                method.recipe()
            }
        };
        if let Some(format) = &self.format {
            format.parse::<Format>().map_err(|error| format!("format: {error}"))?;
        }
        recipe.bits = self.bits.unwrap_or(recipe.bits);
        recipe.group_size = match self.group_size {
            None => recipe.group_size,
            Some(-1) => None,
            Some(size) => {
                Some(u32::try_from(size).map_err(|_| "group_size: -1 or more".to_owned())?)
            }
        };
        Ok(recipe)
    }
}

/// The arguments of `tenpak job` for a job's request, with these for every command (store, keys, trust), servers
/// (`HOST:PORT`) that may have any address, and the manifests of what its parts made.
///
/// # Errors
/// If the request is none of this version's.
pub fn arguments(
    kind: &str,
    request: &Value,
    common: &[String],
    allowed: &[String],
    made: &[String],
) -> Result<Vec<String>, String> {
    let mut request = request.clone();
    let source = request.as_object_mut().and_then(|request| request.remove("source"));
    request.as_object_mut().map(|request| request.remove("traceparent"));
    let part = request.as_object_mut().and_then(|request| request.remove("part"));
    let parsed = Request::parse(kind, request)?;
    let source = source.as_ref().and_then(Value::as_str).unwrap_or_else(|| parsed.model());
    let mut all = vec!["job".to_owned()];
    all.extend(allowed.iter().map(|server| format!("--allow-private={server}")));
    all.push("--".to_owned());
    let mut own = parsed.arguments(source).into_iter();
    all.extend(own.next());
    all.extend_from_slice(common);
    if let Some(part) = part {
        let number = |field: &str| part[field].as_u64().ok_or("a part without a number");
        all.push(format!("--share={}/{}", number("number")?, number("of")?));
    }
    all.extend(made.iter().map(|manifest| format!("--join={manifest}")));
    all.extend(own);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_become_commands() {
        let body =
            json!({"model_id": "org/m", "preset": "bnb_nf4", "name": "org/q", "skip": ["lm_head"]});
        let request = Request::parse("compress", body).unwrap().value().unwrap();
        let all = arguments("compress", &request, &["--store=s".to_owned()], &[], &[]).unwrap();
        let expected = [
            "job",
            "--",
            "quantize",
            "--store=s",
            "--name=org/q",
            "--preset=bnb_nf4",
            "--skip=lm_head",
            "--",
            "org/m",
        ];
        assert_eq!(all, expected);
        let body = json!({"finetuned_model": "--json", "base_model": "b", "source": "/x", "traceparent": "00-x"});
        let all = arguments("delta", &body, &[], &["h:1".to_owned()], &[]).unwrap();
        assert_eq!(all, ["job", "--allow-private=h:1", "--", "delta", "--base=b", "--", "/x"]);
        // A part makes its share, and the whole joins what the parts made.
        let body = json!({"model": "m", "method": "nf4", "part": {"number": 1, "of": 2}});
        let all = arguments("compress", &body, &[], &[], &[]).unwrap();
        assert_eq!(all, ["job", "--", "quantize", "--share=1/2", "--method=nf4", "--", "m"]);
        let body = json!({"model": "m", "method": "nf4"});
        let all = arguments("compress", &body, &[], &[], &["ab".to_owned()]).unwrap();
        assert_eq!(all, ["job", "--", "quantize", "--join=ab", "--method=nf4", "--", "m"]);
        let mut request =
            Request::parse("compress", json!({"model": "org/m:v1", "preset": "bnb_nf4"})).unwrap();
        assert_eq!(request.target().unwrap().to_string(), "org/m-bnb_nf4:latest");
        let body = json!({"model": "hf://org/m@v1", "preset": "bnb_nf4"});
        let mut request = Request::parse("compress", body).unwrap();
        assert_eq!(request.target().unwrap().to_string(), "org/m-bnb_nf4:latest");
        assert!(request.size_ratio().unwrap() > 2.0);
    }

    #[test]
    fn what_no_job_can_do_is_refused() {
        for (kind, body) in [
            ("compress", json!({"model": "m"})),
            ("compress", json!({"model": "m", "preset": "none"})),
            ("compress", json!({"model": "m", "preset": "bnb_nf4", "method": "nf4"})),
            ("compress", json!({"model": "m", "method": "gptq", "bits": 99})),
            ("compress", json!({"model": "m", "preset": "bnb_nf4", "x": 1})),
            ("compress", json!({"model": "", "preset": "bnb_nf4"})),
            ("compress", json!({"model": "a\nb", "preset": "bnb_nf4"})),
            ("compress", json!([])),
            ("delta", json!({"model": "m"})),
            ("delta", json!({"model": "m", "base": "b", "method": "x"})),
            ("optimize", json!({"model": "m", "max_ppl_delta": -1})),
            ("other", json!({"model": "m"})),
        ] {
            assert!(Request::parse(kind, body.clone()).is_err(), "{kind} {body}");
        }
    }
}
