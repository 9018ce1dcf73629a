//! A recipe out of what is recorded of it: a manifest's `quantization`, or a checkpoint's `quantization_config`.
//! Pure.

use serde_json::{Map, Value};

use super::recipe::{ActOrder, Format, Method, Recipe};

impl Recipe {
    /// The recipe that a manifest's `quantization` names; none if it names no known one.
    pub fn of_manifest(quantization: &Map<String, Value>) -> Option<Self> {
        let text = |key: &str| quantization.get(key).and_then(Value::as_str);
        let flag = |key: &str| quantization.get(key).and_then(Value::as_bool).unwrap_or(false);
        let method: Method = text("method")?.parse().ok()?;
        let format: Format = text("format")?.parse().ok()?;
        let act_order = (method == Method::Gptq).then(|| match text("column_order") {
            _ if flag("act_order") => ActOrder::Group,
            Some("static") => ActOrder::Static,
            _ => ActOrder::Stored,
        });
        let hundredths = |average: f64| (average * 100.0).round() as u32;
        Some(Self {
            method,
            format,
            bits: u32::try_from(quantization.get("bits")?.as_u64()?).ok()?,
            group_size: group(quantization.get("group_size")),
            symmetric: flag("symmetric"),
            double_quant: flag("double_quant"),
            act_order,
            average_bits: text("average_bits").and_then(|text| text.parse().ok()).map(hundredths),
        })
    }

    /// A recipe that makes the layout which a `quantization_config` describes; none where that is not plain: an engine
    /// then says itself what it thinks of it.
    pub fn of_config(config: &Value) -> Option<Self> {
        let own = config.get("quantization_config")?;
        let number = |key: &str| own.get(key).and_then(Value::as_u64);
        let flag = |key: &str| own.get(key).and_then(Value::as_bool);
        let bits = number("bits").and_then(|bits| u32::try_from(bits).ok());
        let group_size = group(own.get("group_size"));
        match own.get("quant_method").and_then(Value::as_str)? {
            "gptq" => {
                let format = match own.get("checkpoint_format").and_then(Value::as_str) {
                    Some("gptq_v2") => Format::GptqV2,
                    Some("gptq") | None => Format::Gptq,
                    _ => return None,
                };
                let order =
                    if flag("desc_act") == Some(true) { ActOrder::Group } else { ActOrder::Stored };
                let symmetric = flag("sym").unwrap_or(true);
                let gptq = Method::Gptq.recipe();
                Some(Self {
                    format,
                    bits: bits?,
                    group_size,
                    symmetric,
                    act_order: Some(order),
                    ..gptq
                })
            }
            "awq" => Some(Self { bits: bits?, group_size, ..Method::Awq.recipe() }),
            "bitsandbytes" if flag("load_in_8bit") == Some(true) => Some(Method::Int8.recipe()),
            "bitsandbytes" => {
                let double_quant = flag("bnb_4bit_use_double_quant").unwrap_or(false);
                Some(Self { double_quant, ..Method::Nf4.recipe() })
            }
            _ => None,
        }
    }
}

/// Columns per group; none for the whole row.
fn group(size: Option<&Value>) -> Option<u32> {
    size.and_then(Value::as_i64).and_then(|size| u32::try_from(size).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::quantize::produce::PRESETS;

    /// As `quantize` writes it.
    fn recorded(recipe: &Recipe) -> Map<String, Value> {
        let mut object = json!({
            "act_order": recipe.has_index(), "bits": recipe.bits, "double_quant": recipe.double_quant,
            "format": recipe.format, "group_size": recipe.group_size.map_or(-1, i64::from),
            "method": recipe.method, "symmetric": recipe.symmetric,
        });
        if let Some(order) = recipe.act_order.and_then(ActOrder::recorded) {
            object["column_order"] = order.into();
        }
        if let Some(average) = recipe.average_bits {
            object["average_bits"] = format!("{}.{:02}", average / 100, average % 100).into();
        }
        object.as_object().unwrap().clone()
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let mut all: Vec<Recipe> = Method::ALL.iter().map(|method| method.recipe()).collect();
        all.extend(PRESETS.iter().map(|preset| preset.recipe()));
        let gptq = Method::Gptq.recipe();
        for order in [ActOrder::Static, ActOrder::Group, ActOrder::Stored] {
            all.push(Recipe { act_order: Some(order), ..gptq.clone() });
        }
        all.push(Recipe { group_size: None, ..gptq.clone() });
        all.push(Recipe { average_bits: Some(505), ..gptq });
        for recipe in all {
            assert_eq!(Recipe::of_manifest(&recorded(&recipe)), Some(recipe));
        }
        assert_eq!(Recipe::of_manifest(&Map::new()), None);
    }

    #[test]
    fn configs_of_others_have_the_layout_of_ours() {
        let of = |own: Value| {
            Recipe::of_config(&json!({"quantization_config": own})).map(|r| r.layout())
        };
        let cases = [
            (
                json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true}),
                "gptq 4 bits g128, desc_act",
            ),
            (
                json!({"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": false}),
                "gptq 4 bits row, zero points",
            ),
            (
                json!({"quant_method": "gptq", "bits": 8, "group_size": 32, "checkpoint_format": "gptq_v2"}),
                "gptq_v2 8 bits g32",
            ),
            (
                json!({"quant_method": "awq", "bits": 4, "group_size": 64}),
                "awq 4 bits g64, zero points",
            ),
            (json!({"quant_method": "bitsandbytes", "load_in_8bit": true}), "bitsandbytes int8"),
            (
                json!({"quant_method": "bitsandbytes", "bnb_4bit_use_double_quant": true}),
                "bitsandbytes nf4, double",
            ),
        ];
        for (config, layout) in cases {
            assert_eq!(of(config).as_deref(), Some(layout));
        }
        for config in [
            json!({"quant_method": "quip"}),
            json!({}),
            json!("gptq"),
            json!({"quant_method": "gptq"}),
        ] {
            assert_eq!(of(config), None);
        }
        assert_eq!(Recipe::of_config(&json!({})), None);
    }
}
