//! What descriptions say of a configuration: numbers, words, conditions, and rules by layer. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ConfigError;

/// A key of `config.json`, with dots for what lies deeper; of several the first that is there and not null.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Key {
    One(String),
    Any(Vec<String>),
}

impl Key {
    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Any(names) => names,
        }
    }

    /// Its name, for messages.
    fn name(&self) -> String {
        self.names().first().cloned().unwrap_or_default()
    }

    pub(crate) fn find<'c>(&self, config: &'c Value) -> Option<&'c Value> {
        self.names().iter().find_map(|name| at(config, name).filter(|value| !value.is_null()))
    }
}

fn at<'c>(config: &'c Value, path: &str) -> Option<&'c Value> {
    path.split('.').try_fold(config, |value, key| value.get(key))
}

/// A number: itself, or a key of the configuration, with what it is if that is missing, or calculated. Truth is 1
/// and 0.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Flag(bool),
    Itself(f64),
    Key(String),
    Of(Box<Of>),
}

/// A number that is calculated: `max(value, at_least) ^ power * times / over + plus`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Of {
    key: Key,
    #[serde(default)]
    default: Option<Number>,
    #[serde(default)]
    power: Option<f64>,
    #[serde(default)]
    times: Option<Number>,
    #[serde(default)]
    over: Option<Number>,
    #[serde(default)]
    plus: Option<Number>,
    /// The whole part of it.
    #[serde(default)]
    whole: bool,
}

impl Number {
    /// What it is; `None` if a key without a default is missing.
    pub(crate) fn find(&self, config: &Value) -> Result<Option<f64>, ConfigError> {
        let of_value = |name: &str, value: &Value| match value {
            Value::Bool(flag) => Ok(f64::from(u8::from(*flag))),
            value => value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| {
                ConfigError::Dimension { key: name.to_owned(), value: value.clone() }
            }),
        };
        Ok(match self {
            Self::Flag(flag) => Some(f64::from(u8::from(*flag))),
            Self::Itself(number) => Some(*number),
            Self::Key(name) => match at(config, name).filter(|value| !value.is_null()) {
                Some(value) => Some(of_value(name, value)?),
                None => None,
            },
            Self::Of(of) => {
                let found = match of.key.find(config) {
                    Some(value) => Some(of_value(&of.key.name(), value)?),
                    None => of.default.as_ref().map_or(Ok(None), |own| own.find(config))?,
                };
                let Some(mut number) = found else { return Ok(None) };
                if let Some(power) = of.power {
                    number = number.powf(power);
                }
                for (other, divides) in [(&of.times, false), (&of.over, true)] {
                    if let Some(other) = other {
                        let Some(other) = other.find(config)? else { return Ok(None) };
                        number = if divides { number / other } else { number * other };
                    }
                }
                if let Some(plus) = &of.plus {
                    let Some(plus) = plus.find(config)? else { return Ok(None) };
                    number += plus;
                }
                Some(if of.whole { number.floor() } else { number })
            }
        })
    }

    /// What it is, which must be there and finite.
    pub(crate) fn number(&self, config: &Value) -> Result<f64, ConfigError> {
        let found = self.find(config)?;
        let found = found.ok_or_else(|| ConfigError::Missing(self.key()))?;
        match found.is_finite() {
            true => Ok(found),
            false => {
                Err(ConfigError::Dimension { key: self.key(), value: found.to_string().into() })
            }
        }
    }

    /// The same, as a dimension: a whole number from 1 on that is believed.
    pub(crate) fn size(&self, config: &Value) -> Result<usize, ConfigError> {
        match self.count(config)? {
            0 => Err(ConfigError::Dimension { key: self.key(), value: 0.into() }),
            size => Ok(size),
        }
    }

    /// The same, or 0.
    pub(crate) fn count(&self, config: &Value) -> Result<usize, ConfigError> {
        let found = self.number(config)?;
        match found.fract() == 0.0 && (0.0..=MAX_DIMENSION).contains(&found) {
            true => Ok(found as usize),
            false => {
                let value = serde_json::Number::from_f64(found).map_or(Value::Null, Value::Number);
                Err(ConfigError::Dimension { key: self.key(), value })
            }
        }
    }

    /// Whether it is there and not 0.
    pub(crate) fn flag(&self, config: &Value) -> Result<bool, ConfigError> {
        Ok(self.find(config)?.is_some_and(|number| number != 0.0))
    }

    /// The key that it is read of.
    fn key(&self) -> String {
        match self {
            Self::Key(name) => name.clone(),
            Self::Of(of) => of.key.name(),
            Self::Flag(_) | Self::Itself(_) => "a number of the description".to_owned(),
        }
    }
}

/// The largest dimension that is believed.
const MAX_DIMENSION: f64 = (1_u64 << 24) as f64;

/// A word: itself, or that of a key of the configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Word {
    Itself(String),
    Of { key: Key, default: String },
}

impl Word {
    pub(crate) fn find<'a>(&'a self, config: &'a Value) -> &'a str {
        match self {
            Self::Itself(word) => word,
            Self::Of { key, default } => {
                key.find(config).and_then(Value::as_str).unwrap_or(default)
            }
        }
    }
}

/// What keys must be: a value, or one of an array of them. null is a key that is missing.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Condition(Map<String, Value>);

impl Condition {
    pub(crate) fn holds(&self, config: &Value) -> bool {
        self.0.iter().all(|(key, wanted)| {
            let found = at(config, key).unwrap_or(&Value::Null);
            let same = |wanted: &Value| match (wanted.as_f64(), found.as_f64()) {
                (Some(wanted), Some(found)) => wanted == found,
                _ => wanted == found,
            };
            match wanted {
                Value::Array(any) => any.iter().any(same),
                wanted => same(wanted),
            }
        })
    }
}

/// Which layers something holds for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Rule {
    /// All or none.
    Always(bool),
    /// Those with rotary positions, or without.
    Named(Named),
    /// Those that all of these hold for.
    All(Vec<Rule>),
    /// Those that it holds for.
    Of(Box<RuleOf>),
}

/// Layers by what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Named {
    /// With rotary positions.
    Turned,
    /// Without.
    Still,
}

/// A layer, for rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) layer: usize,
    pub(crate) layers: usize,
    /// Whether it has rotary positions.
    pub(crate) turned: bool,
}

/// Which layers something holds for, by the configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleOf {
    /// A key with an array, in which the layer's entry is as `is`, or else true or not 0.
    #[serde(default)]
    list: Option<Key>,
    #[serde(default)]
    is: Option<Value>,
    /// If there is no such array.
    #[serde(default)]
    otherwise: Option<Rule>,
    /// A key with an array of numbers, in which the layer's is.
    #[serde(default)]
    within: Option<Key>,
    /// Every so many: those whose number from 1 on is a multiple.
    #[serde(default)]
    every: Option<Number>,
    /// With this added to that number.
    #[serde(default)]
    shift: usize,
    /// From this one on.
    #[serde(default)]
    from: Option<Number>,
    /// Up to this one, itself included; a negative one counts from the end.
    #[serde(default)]
    to: Option<Number>,
    /// The others.
    #[serde(default)]
    not: bool,
}

impl Rule {
    pub(crate) fn holds(&self, config: &Value, at: Place) -> Result<bool, ConfigError> {
        Ok(match self {
            Self::Always(all) => *all,
            Self::Named(named) => at.turned == (*named == Named::Turned),
            Self::All(rules) => {
                let mut all = true;
                for rule in rules {
                    all &= rule.holds(config, at)?;
                }
                all
            }
            Self::Of(of) => of.holds(config, at)? != of.not,
        })
    }
}

impl RuleOf {
    fn holds(&self, config: &Value, at: Place) -> Result<bool, ConfigError> {
        let Place { layer, layers, .. } = at;
        if let Some(key) = &self.list {
            let entry = key.find(config).and_then(Value::as_array);
            return match (entry.map(|list| list.get(layer)), &self.otherwise) {
                (Some(Some(entry)), _) => Ok(match &self.is {
                    Some(Value::Array(any)) => any.contains(entry),
                    Some(is) => is == entry,
                    None => {
                        entry.as_bool().or(entry.as_f64().map(|number| number != 0.0)) == Some(true)
                    }
                }),
                (Some(None), _) => Err(ConfigError::Short(key.name(), layers)),
                (None, Some(otherwise)) => otherwise.holds(config, at),
                (None, None) => Ok(false),
            };
        }
        let mut all = true;
        if let Some(key) = &self.within {
            let list = key.find(config).and_then(Value::as_array);
            all &=
                list.is_some_and(|list| list.iter().any(|one| one.as_u64() == Some(layer as u64)));
        }
        if let Some(every) = &self.every {
            all &= (layer + 1 + self.shift).is_multiple_of(every.size(config)?);
        }
        if let Some(from) = &self.from {
            all &= from.find(config)?.is_some_and(|from| layer as f64 >= from);
        }
        if let Some(to) = &self.to {
            let to = to.number(config)?;
            all &= layer as f64 <= if to < 0.0 { to + layers as f64 } else { to };
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_are_calculated() {
        let config = json!({"a": 16, "b": null, "deep": {"c": 3}, "yes": true, "bad": "x"});
        let of = |number: Value| {
            let number: Number = serde_json::from_value(number).unwrap();
            number.find(&config).map_err(|error| error.to_string())
        };
        for (number, expected) in [
            (json!(2.5), Some(2.5)),
            (json!("a"), Some(16.0)),
            (json!("b"), None),
            (json!("deep.c"), Some(3.0)),
            (json!("yes"), Some(1.0)),
            (json!({"key": "b", "default": "a", "power": -0.5}), Some(0.25)),
            (json!({"key": ["b", "deep.c"], "times": 2, "plus": "yes"}), Some(7.0)),
            (json!({"key": "a", "over": "deep.c", "whole": true}), Some(5.0)),
            (json!({"key": "a", "over": "b"}), None),
        ] {
            assert_eq!(of(number.clone()), Ok(expected), "{number}");
        }
        assert!(of(json!("bad")).unwrap_err().contains("bad is \"x\""));
    }

    #[test]
    fn rules_choose_layers() {
        let config = json!({"kinds": ["x", "y", "x"], "flags": [1, 0, 1], "some": [2], "n": 2});
        let of = |rule: Value| -> Vec<usize> {
            let rule: Rule = serde_json::from_value(rule).unwrap();
            let at = |layer| Place { layer, layers: 3, turned: layer == 2 };
            (0..3).filter(|layer| rule.holds(&config, at(*layer)).unwrap()).collect()
        };
        for (rule, expected) in [
            (json!(true), &[0, 1, 2][..]),
            (json!({"list": "kinds", "is": "x"}), &[0, 2]),
            (json!({"list": "kinds", "is": ["y"], "not": true}), &[0, 2]),
            (json!({"list": "flags"}), &[0, 2]),
            (json!({"list": "none", "otherwise": {"every": "n"}}), &[1]),
            (json!({"within": "some"}), &[2]),
            (json!("turned"), &[2]),
            (json!("still"), &[0, 1]),
            (json!({"from": 1, "to": -2}), &[1]),
            (json!([{"every": 1}, {"within": "some", "not": true}]), &[0, 1]),
        ] {
            assert_eq!(of(rule.clone()), expected, "{rule}");
        }
        let rule: Rule = serde_json::from_value(json!({"list": "some"})).unwrap();
        let at = Place { layer: 1, layers: 3, turned: false };
        assert!(rule.holds(&config, at).unwrap_err().to_string().contains("some"));
    }
}
