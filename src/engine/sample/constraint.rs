//! Texts that keep to a grammar: JSON, a JSON schema, a regular expression, or a grammar in Lark's form.
//!
//! A grammar is compiled once for a request, within bounds of size and work; each step then masks the logits of
//! tokens that would break it. What exceeds a bound is an error, never a long wait.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use super::error::SampleError;

/// Bytes of a grammar as it is written.
const MAX_GRAMMAR: usize = 64 << 10;
/// Nodes of a JSON schema: objects, lists and what they hold.
const MAX_NODES: usize = 8192;
/// Bounds on what compiling makes and each step does; llguidance's own defaults allow hundreds of MiB.
const MAX_SYMBOLS: usize = 100_000;
const LEXER_STATES: usize = 20_000;
const LEXER_WORK: u64 = 300_000;
const STEP_WORK: u64 = 100_000;
const STEP_ITEMS: usize = 25_000;
const ROW_ITEMS: usize = 1000;
/// Lists, objects or brackets within one another.
const MAX_DEPTH: usize = 64;
/// The stack of a thread that compiles; only what is used of it takes memory.
const STACK: usize = 256 << 20;
/// The least and the most that a JSON schema may ask of a count or a length.
const MAX_COUNT: u64 = 10_000;
/// The most of `multipleOf`, whose automaton is as large.
const MAX_STEP: f64 = 10_000.0;

/// What a text must be.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Grammar {
    /// An object in JSON.
    Json,
    /// JSON that keeps to a schema.
    JsonSchema(Value),
    /// What an expression matches from its first to its last character.
    Regex(String),
    /// One of these.
    Choice(Vec<String>),
    /// What a grammar in Lark's form describes.
    Lark(String),
}

/// Compiles grammars for one tokenizer.
pub struct Grammars(ParserFactory);

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grammars")
    }
}

impl Grammars {
    /// For tokens that stand for these bytes, in the order of their ids; a token that stands for no text is
    /// empty. `ends` are those that end texts.
    ///
    /// # Errors
    /// If there are no tokens, or none ends a text.
    pub fn new(tokens: &[Vec<u8>], ends: &[u32]) -> Result<Self, SampleError> {
        let wrong = |told: String| SampleError::Grammar(told);
        let count = u32::try_from(tokens.len()).map_err(|_| wrong("too many tokens".to_owned()))?;
        let ends: Vec<u32> = ends.iter().copied().filter(|end| *end < count).collect();
        let Some(first) = ends.first() else {
            return Err(wrong(
                "no token ends a text of this model, so no grammar can end one".to_owned(),
            ));
        };
        let trie = TokTrie::from(&TokRxInfo::new(count, *first), tokens).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
                .map_err(|error| wrong(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_items_in_row: ROW_ITEMS,
            initial_lexer_fuel: LEXER_WORK,
            step_lexer_fuel: STEP_WORK,
            step_max_items: STEP_ITEMS,
            max_lexer_states: LEXER_STATES,
            max_grammar_size: MAX_SYMBOLS,
            precompute_large_lexemes: false,
            verbose_errors: false,
        };
        Ok(Self(factory))
    }

    /// The constraint of one text. It may take a second: call it where blocking is allowed.
    ///
    /// # Errors
    /// If the grammar is not understood, or exceeds a bound.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, SampleError> {
        let top = top_level(grammar)?;
        // Compiling recurses: a stack of its own keeps a long chain of rules from ending the process.
        let compiled = std::thread::scope(|scope| {
            let builder = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK);
            let thread = builder.spawn_scoped(scope, || {
                let mut matcher = Matcher::new(self.0.create_parser(top));
                match matcher.get_error() {
                    Some(told) => Err(told),
                    // What is too complex shows at the first step already, where it can still be refused.
                    None => {
                        matcher.compute_mask().map(|_| matcher).map_err(|error| error.to_string())
                    }
                }
            });
            let joined = thread.map_err(|error| error.to_string())?.join();
            joined.unwrap_or_else(|_| Err("it cannot be compiled".to_owned()))
        });
        compiled.map(|matcher| Constraint(Box::new(matcher))).map_err(wrong)
    }
}

fn top_level(grammar: &Grammar) -> Result<TopLevelGrammar, SampleError> {
    let bound = |length: usize| {
        if length <= MAX_GRAMMAR {
            return Ok(());
        }
        Err(SampleError::Grammar(format!("{length} bytes: at most {MAX_GRAMMAR} are taken")))
    };
    Ok(match grammar {
        Grammar::Json => TopLevelGrammar::from_json_schema(json!({"type": "object"})),
        Grammar::JsonSchema(schema) => {
            check_schema(schema)?;
            bound(schema.to_string().len())?;
            TopLevelGrammar::from_json_schema(schema.clone())
        }
        Grammar::Regex(regex) => {
            bound(regex.len())?;
            check_brackets(regex)?;
            TopLevelGrammar::from_regex(regex)
        }
        Grammar::Choice(choices) => {
            bound(choices.iter().map(String::len).sum())?;
            if choices.is_empty() {
                return Err(SampleError::Grammar(
                    "a choice of nothing: name at least one text".to_owned(),
                ));
            }
            let quoted: Vec<String> =
                choices.iter().map(|choice| Value::from(choice.as_str()).to_string()).collect();
            TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | ")))
        }
        Grammar::Lark(lark) => {
            bound(lark.len())?;
            check_brackets(lark)?;
            TopLevelGrammar::from_lark(lark.clone())
        }
    })
}

/// Bounds what a schema asks for before it is compiled.
fn check_schema(schema: &Value) -> Result<(), SampleError> {
    let mut open = vec![(schema, 0)];
    let mut seen = 0;
    while let Some((value, depth)) = open.pop() {
        seen += 1;
        if depth > MAX_DEPTH {
            return Err(SampleError::Grammar(format!("a schema nested deeper than {MAX_DEPTH}")));
        }
        if seen > MAX_NODES {
            return Err(SampleError::Grammar(format!("a schema of more than {MAX_NODES} parts")));
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => {
                for (name, field) in fields {
                    let counts = [
                        "minItems",
                        "maxItems",
                        "minLength",
                        "maxLength",
                        "minProperties",
                        "maxProperties",
                    ];
                    let count = field.as_u64().filter(|_| counts.contains(&name.as_str()));
                    if let Some(count) = count.filter(|count| *count > MAX_COUNT) {
                        return Err(SampleError::Grammar(format!(
                            "{name} is {count}: at most {MAX_COUNT} is taken"
                        )));
                    }
                    if name == "multipleOf"
                        && field.as_f64().is_some_and(|step| step.abs() > MAX_STEP)
                    {
                        return Err(SampleError::Grammar(format!(
                            "multipleOf is {field}: at most {MAX_STEP} is taken"
                        )));
                    }
                    open.push((field, depth + 1));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Bounds how deep brackets lie in one another, wherever they stand.
fn check_brackets(text: &str) -> Result<(), SampleError> {
    let mut depth = 0usize;
    for letter in text.chars() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(SampleError::Grammar(format!("brackets nested deeper than {MAX_DEPTH}")));
        }
    }
    Ok(())
}

/// What an error says, without the state that llguidance adds.
fn shortened(told: &str) -> String {
    let told = told.split('<').next().unwrap_or_default().trim();
    if told.starts_with("NoExtension") {
        return "nothing matches it".to_owned();
    }
    if told.starts_with("panic") || told.is_empty() {
        return "it cannot be compiled".to_owned();
    }
    told.chars().take(400).collect()
}

/// Where one text stands in its grammar.
#[derive(Clone)]
pub struct Constraint(Box<Matcher>);

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

impl Constraint {
    /// Masks what would break the grammar.
    pub(super) fn mask(&mut self, logits: &mut [f32]) -> Result<(), SampleError> {
        let allowed = self.0.compute_mask_or_eos().map_err(wrong)?;
        for (token, logit) in logits.iter_mut().enumerate() {
            if token >= allowed.len() || !allowed.is_allowed(token as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes the token that was chosen; whether the text is complete with it.
    pub(super) fn take(&mut self, token: u32) -> Result<bool, SampleError> {
        self.0.consume_token(token).map_err(wrong)?;
        Ok(self.0.is_stopped())
    }
}

fn wrong(error: impl fmt::Display) -> SampleError {
    SampleError::Grammar(shortened(&error.to_string()))
}
