//! What an engine tells of a prompt's tokens, and what two engines' words say of a candidate. Pure.
//!
//! Engines tell the probability of each token of a prompt and of the likeliest in its place, in one of two forms:
//! vLLM's `prompt_logprobs`, by token numbers, or the older `echo` with `logprobs`, by tokens' texts. Of a
//! distribution of which only the likeliest tokens are known, the divergence is known from below: tokens that
//! are not told of count as one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::quality::{Window, billionths};

/// What is left of a distribution is at least this: probabilities are told rounded.
const REST: f64 = 1e-9;

/// In which form a server tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `prompt_logprobs`.
    Numbers,
    /// `echo` and `logprobs`.
    Echo,
    /// The same, of a server that makes a token at least.
    EchoAndOne,
}

/// How a server is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    form: Form,
    /// How many of the likeliest tokens are asked for.
    likeliest: u32,
}

impl Dialect {
    /// All that servers are known to take, the best first: vLLM tells of 20 by default, the oldest of 5.
    pub const ALL: [Self; 5] = [
        Self { form: Form::Numbers, likeliest: 20 },
        Self { form: Form::Echo, likeliest: 20 },
        Self { form: Form::EchoAndOne, likeliest: 20 },
        Self { form: Form::Echo, likeliest: 5 },
        Self { form: Form::EchoAndOne, likeliest: 5 },
    ];

    /// What is sent.
    pub fn body(self, model: &str, tokens: &[u32]) -> Value {
        let (most, count) = (u32::from(self.form != Form::Echo), self.likeliest);
        let mut body =
            json!({"model": model, "prompt": tokens, "temperature": 0, "max_tokens": most});
        let more = match self.form {
            Form::Numbers => json!({"prompt_logprobs": count}),
            Form::Echo | Form::EchoAndOne => json!({"echo": true, "logprobs": count}),
        };
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        body
    }

    /// What it is called.
    pub fn name(self) -> String {
        let form =
            if self.form == Form::Numbers { "prompt_logprobs" } else { "echo with logprobs" };
        format!("{form} {}", self.likeliest)
    }
}

/// What is told of one token, given those before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Nats that it costs.
    pub loss: f64,
    /// The likeliest in its place, by number or by text, each with the logarithm of its probability.
    top: BTreeMap<String, f64>,
}

impl Told {
    fn first(&self) -> Option<&str> {
        // Of equals the first by name, in both.
        let most = self.top.values().copied().fold(f64::NEG_INFINITY, f64::max);
        self.top.iter().find(|(_, own)| **own >= most).map(|(name, _)| name.as_str())
    }
}

/// What an answer tells of all of a prompt's `tokens` but the first.
///
/// # Errors
/// If it does not tell that: in words.
pub fn parse(dialect: Dialect, tokens: &[u32], answer: &Value) -> Result<Vec<Told>, String> {
    let choice = answer.pointer("/choices/0").ok_or("the answer has no choice")?;
    let told = match dialect.form {
        Form::Numbers => {
            // Where vLLM puts it, and where it did before.
            let all = choice.get("prompt_logprobs").or_else(|| answer.get("prompt_logprobs"));
            let all = all.and_then(Value::as_array).ok_or("the answer has no prompt_logprobs")?;
            count(all.len(), tokens.len(), false)?;
            all.iter().zip(tokens).skip(1).map(numbered).collect::<Result<Vec<_>, _>>()?
        }
        Form::Echo | Form::EchoAndOne => {
            let own = choice.get("logprobs").filter(|own| own.is_object());
            let own = own.ok_or("the answer has no logprobs")?;
            let list = |field: &str| {
                let all = own.get(field).and_then(Value::as_array);
                all.ok_or_else(|| format!("the answer has no logprobs.{field}"))
            };
            let (losses, top) = (list("token_logprobs")?, list("top_logprobs")?);
            count(losses.len(), tokens.len(), dialect.form == Form::EchoAndOne)?;
            count(top.len(), tokens.len(), dialect.form == Form::EchoAndOne)?;
            let named = |(loss, top): (&Value, &Value)| Some((number(loss)?, names(top)?));
            let one = |(at, own)| {
                let wrong = || format!("nothing is told of token {at} of the prompt");
                named(own).map(|(loss, top)| Told { loss: -loss, top }).ok_or_else(wrong)
            };
            let all = losses.iter().zip(top).take(tokens.len()).enumerate().skip(1);
            all.map(one).collect::<Result<Vec<_>, _>>()?
        }
    };
    Ok(told)
}

/// Whether all tokens that were sent were read, and no others.
fn count(found: usize, sent: usize, more: bool) -> Result<(), String> {
    // An answer's own token follows the prompt's.
    match found == sent || (more && found == sent + 1) {
        true => Ok(()),
        false => Err(format!("it tells of {found} tokens, where {sent} were sent")),
    }
}

/// Probabilities by token numbers.
fn numbered((told, token): (&Value, &u32)) -> Result<Told, String> {
    let wrong = || format!("nothing is told of token {token}");
    let all = told.as_object().ok_or_else(wrong)?;
    let logprob = |own: &Value| number(own.get("logprob").unwrap_or(own));
    let top = all.iter().map(|(name, own)| Some((name.clone(), logprob(own)?)));
    let top: BTreeMap<String, f64> = top.collect::<Option<_>>().ok_or_else(wrong)?;
    let loss = -top.get(&token.to_string()).copied().ok_or_else(wrong)?;
    Ok(Told { loss, top })
}

fn names(top: &Value) -> Option<BTreeMap<String, f64>> {
    let top = top.as_object().filter(|own| !own.is_empty())?;
    top.iter().map(|(name, own)| Some((name.clone(), number(own)?))).collect()
}

/// A number; what is no number to JSON is none to the candidate either.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(own) => own.as_f64(),
        Value::String(own) => own.parse().ok(),
        _ => None,
    }
}

/// What the tokens of a window cost the model and the candidate.
///
/// # Errors
/// If they tell of different numbers of tokens.
pub fn window(place: usize, base: &[Told], own: &[Told]) -> Result<Window, String> {
    if base.len() != own.len() {
        return Err(format!("the servers tell of {} and {} tokens", base.len(), own.len()));
    }
    let pairs = || base.iter().zip(own);
    Ok(Window {
        place,
        base: base.iter().map(|one| one.loss).sum(),
        own: own.iter().map(|one| one.loss).sum(),
        same_top: pairs().filter(|(base, own)| base.first() == own.first()).count() as u32,
        kl: pairs().map(|(base, own)| billionths(divergence(&base.top, &own.top))).collect(),
    })
}

/// The divergence of the distributions in which all tokens but those that both tell of are one.
fn divergence(base: &BTreeMap<String, f64>, own: &BTreeMap<String, f64>) -> f64 {
    let (mut sum, mut base_rest, mut own_rest) = (0.0, 1.0, 1.0);
    for (name, p) in base {
        let Some(q) = own.get(name) else { continue };
        sum += p.exp() * (p - q);
        (base_rest, own_rest) = (base_rest - p.exp(), own_rest - q.exp());
    }
    let (base_rest, own_rest) = (base_rest.max(REST), own_rest.max(REST));
    sum + base_rest * (base_rest / own_rest).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NUMBERS: Dialect = Dialect::ALL[0];
    const ECHO: Dialect = Dialect::ALL[1];
    const ECHO_AND_ONE: Dialect = Dialect::ALL[2];

    fn top(all: &[(&str, f64)]) -> BTreeMap<String, f64> {
        all.iter().map(|(name, p)| ((*name).to_owned(), p.ln())).collect()
    }

    #[test]
    fn both_forms_tell_the_same() {
        let numbers = json!({"choices": [{"prompt_logprobs": [
            null,
            {"7": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}, "8": {"logprob": -1.5, "rank": 2}},
            {"9": {"logprob": -0.25, "rank": 1}, "7": {"logprob": -3.0, "rank": 9}},
        ]}]});
        let found = parse(NUMBERS, &[1, 8, 9], &numbers).unwrap();
        assert_eq!(found.iter().map(|own| own.loss).collect::<Vec<_>>(), [1.5, 0.25]);
        assert_eq!(found.iter().map(Told::first).collect::<Vec<_>>(), [Some("7"), Some("9")]);
        let names = json!({"choices": [{"logprobs": {
            "tokens": ["x", "b", "c"], "token_logprobs": [null, -1.5, -0.25],
            "top_logprobs": [null, {"a": -0.5, "b": -1.5}, {"c": -0.25, "a": -3.0}],
        }}]});
        let echoed = parse(ECHO, &[1, 8, 9], &names).unwrap();
        let losses = |all: &[Told]| all.iter().map(|own| own.loss).collect::<Vec<_>>();
        assert_eq!(losses(&echoed), losses(&found));
        let (one, other) =
            (window(3, &found, &found).unwrap(), window(3, &echoed, &echoed).unwrap());
        assert_eq!(one, other);
        assert_eq!((one.same_top, one.kl, one.base), (2, vec![0, 0], 1.75));
    }

    #[test]
    fn what_is_not_told_is_refused_in_words() {
        let of = |answer: Value, dialect| parse(dialect, &[1, 2], &answer).unwrap_err();
        let choice = |own: Value| json!({"choices": [own]});
        for (answer, dialect, said) in [
            (json!({}), NUMBERS, "no choice"),
            (choice(json!({"text": ""})), NUMBERS, "no prompt_logprobs"),
            (choice(json!({"prompt_logprobs": null})), NUMBERS, "no prompt_logprobs"),
            (choice(json!({"prompt_logprobs": [null]})), NUMBERS, "1 tokens, where 2"),
            (choice(json!({"prompt_logprobs": [null, {"3": -1.0}]})), NUMBERS, "of token 2"),
            (choice(json!({"prompt_logprobs": [null, {"2": "x"}]})), NUMBERS, "of token 2"),
            (choice(json!({"logprobs": null})), ECHO, "no logprobs"),
            (choice(json!({"logprobs": {"token_logprobs": [null, -1.0]}})), ECHO, "top_logprobs"),
            (
                choice(
                    json!({"logprobs": {"token_logprobs": [null, null], "top_logprobs": [null, null]}}),
                ),
                ECHO,
                "token 1",
            ),
            (
                choice(
                    json!({"logprobs": {"token_logprobs": [null, -1, -1], "top_logprobs": [null, {"a": -1}, {}]}}),
                ),
                ECHO,
                "3 tokens, where 2",
            ),
        ] {
            let found = of(answer.clone(), dialect);
            assert!(found.contains(said), "{answer}: {found}");
        }
        let one = Told { loss: 1.0, top: top(&[("a", 0.5)]) };
        assert!(window(0, std::slice::from_ref(&one), &[]).is_err());
        // A server that makes a token after the prompt tells of that too.
        let more = json!({"choices": [{"logprobs": {
            "token_logprobs": [null, -1, -2], "top_logprobs": [null, {"a": -1}, {"b": -2}],
        }}]});
        assert_eq!(parse(ECHO_AND_ONE, &[1, 2], &more).unwrap().len(), 1);
    }

    proptest! {
        /// Against the divergence of whole distributions, which it never exceeds, and which it is where all is told.
        #[test]
        fn the_divergence_is_one_from_below(
            weights in prop::collection::vec((0.01..1.0_f64, 0.01..1.0_f64), 3..30), told in 1..30_usize,
        ) {
            let sums = weights.iter().fold((0.0, 0.0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
            let all: Vec<(f64, f64)> = weights.iter().map(|own| (own.0 / sums.0, own.1 / sums.1)).collect();
            let whole: f64 = all.iter().map(|(p, q)| p * (p / q).ln()).sum();
            let likeliest = |of: fn(&(f64, f64)) -> f64, count: usize| {
                let mut sorted: Vec<(String, f64)> =
                    all.iter().enumerate().map(|(at, own)| (at.to_string(), of(own).ln())).collect();
                sorted.sort_by(|one, other| other.1.total_cmp(&one.1));
                sorted.into_iter().take(count).collect::<BTreeMap<_, _>>()
            };
            let of = |count| divergence(&likeliest(|own| own.0, count), &likeliest(|own| own.1, count));
            prop_assert!(of(told) <= whole + 1e-7, "{} of {whole}", of(told));
            prop_assert!(of(told) >= -1e-7);
            prop_assert!((of(30) - whole).abs() < 1e-6);
        }
    }
}
