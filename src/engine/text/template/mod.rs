//! Chat templates: conversations written as the model learned them, by the checkpoint's own Jinja template,
//! with what Hugging Face's `apply_chat_template` gives templates.
//!
//! A template is the work of strangers. It reaches nothing outside itself, works within a budget, and writes
//! within a bound; what exceeds them is an error. One way around remains: `~` over a list that holds itself many
//! times, which minijinja writes out before it counts.

mod files;
mod json;
mod methods;
mod time;

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja};
use minijinja::{Environment, Error, ErrorKind, State, context};
use serde_json::{Map, Value};

pub use files::TemplateFiles;

use json::MAX_OUTPUT;

use super::error::TemplateError;

/// Work that a template may do: an instruction is one, and so are 64 bytes of what it makes.
const FUEL: u64 = 1_000_000;
/// Bytes of a format of the time.
const MAX_FORMAT: usize = 256;
/// Calls and blocks within one another.
const DEPTH: usize = 100;
/// Stands behind a message that is to be continued, as in transformers.
const CONTINUED: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// How a model's thoughts are called, the standard first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A conversation to be written.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// Its messages, in OpenAI's form.
    pub messages: Vec<Map<String, Value>>,
    /// The tools that the model may call.
    pub tools: Option<Vec<Value>>,
    /// The documents that it may read.
    pub documents: Option<Vec<Value>>,
    /// Whether the beginning of an answer is written.
    pub add_generation_prompt: bool,
    /// Whether the last message is left open, to be continued.
    pub continue_final_message: bool,
    /// What else the template is given.
    pub extra: Map<String, Value>,
}

/// A checkpoint's chat templates.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Each name with its source.
    sources: Vec<(String, String)>,
    special: Map<String, Value>,
}

impl ChatTemplate {
    /// Of a checkpoint's files; none if it has no template.
    ///
    /// # Errors
    /// If a file is damaged, or a template cannot be parsed.
    pub fn load(files: &TemplateFiles<'_>) -> Result<Option<Self>, TemplateError> {
        let found = files::read(files)?;
        if found.templates.is_empty() {
            return Ok(None);
        }
        let mut environment = Environment::new();
        let mut blocks = SyntaxConfig::builder();
        let syntax = blocks.trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| TemplateError::Syntax(told(&error)))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(methods::call);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEPTH);
        environment.add_filter("tojson", json::tojson);
        environment.add_filter("string", |value: Jinja| -> Result<Jinja, Error> {
            json::check_size(&value)?;
            Ok(if value.as_str().is_some() { value } else { Jinja::from(value.to_string()) })
        });
        environment.add_filter(
            "join",
            |state: &mut State, value: Jinja, by: Option<Jinja>, of: Kwargs| {
                json::check_size(&value)?;
                let value = match of.get::<Option<String>>("attribute")? {
                    Some(name) => {
                        let by = Kwargs::from_iter([("attribute".to_owned(), Jinja::from(name))]);
                        state.apply_filter("map", &[value, by.into()])?
                    }
                    None => value,
                };
                of.assert_all_used()?;
                let parts: Vec<String> = value.try_iter()?.map(|part| part.to_string()).collect();
                Ok::<_, Error>(parts.join(&by.map_or(String::new(), |by| by.to_string())))
            },
        );
        environment.add_filter("wordcount", |text: &str| text.split_whitespace().count());
        environment.add_function("raise_exception", |told: String| -> Result<Jinja, Error> {
            Err(Error::new(ErrorKind::EvalBlock, told))
        });
        environment.set_formatter(|out, state, value| {
            json::check_size(value)?;
            minijinja::escape_formatter(out, state, value)
        });
        for (name, source) in &found.templates {
            let source = files::without_generation(source);
            environment
                .add_template_owned(name.clone(), source)
                .map_err(|error| TemplateError::Syntax(told(&error)))?;
        }
        Ok(Some(Self { environment, sources: found.templates, special: found.special }))
    }

    /// Whether messages' content is handed over as a list of parts, and not as one text.
    #[must_use]
    pub fn takes_parts(&self) -> bool {
        let loops = ["in message['content']", "in message.content", "in message[\"content\"]"];
        self.sources.iter().any(|(_, source)| loops.iter().any(|part| source.contains(part)))
    }

    /// Writes a conversation. `now` is the time that the template may ask for, in UTC.
    ///
    /// # Errors
    /// If the template refuses it, fails, or exceeds its bounds.
    pub fn render(&self, of: &Conversation, now: SystemTime) -> Result<String, TemplateError> {
        if of.messages.is_empty() {
            return Err(TemplateError::Empty);
        }
        let (name, source) = self.choose(of.tools.is_some())?;
        let mut messages: Vec<Map<String, Value>> =
            of.messages.iter().cloned().map(plain).collect();
        if of.continue_final_message {
            if of.add_generation_prompt {
                return Err(TemplateError::NotContinued(
                    "add_generation_prompt begins another one",
                ));
            }
            if !source.contains("content") {
                return Err(TemplateError::NotContinued("the template writes no content"));
            }
            mark(messages.last_mut())?;
        }
        let mut given = self.special.clone();
        given.extend(of.extra.clone());
        let given = Jinja::from(Serde(&given));
        let fixed = context! {
            messages => Jinja::from(Serde(&messages)),
            tools => Jinja::from(Serde(&of.tools)),
            documents => Jinja::from(Serde(&of.documents)),
            add_generation_prompt => of.add_generation_prompt,
            strftime_now => Jinja::from_function(move |format: String| {
                let short = format.len() <= MAX_FORMAT;
                short.then(|| time::strftime(&format, now)).ok_or_else(|| Error::from(ErrorKind::OutOfFuel))
            }),
        };
        let template = self.environment.get_template(name).map_err(|error| failed(&error))?;
        let mut text = Bounded(Vec::new());
        let rendered = template.render_captured_to(context! { ..fixed, ..given }, &mut text);
        if let Err(error) = rendered {
            return Err(failed(&error));
        }
        let text = String::from_utf8_lossy(&text.0).into_owned();
        if of.continue_final_message { cut(&text) } else { Ok(text) }
    }

    fn choose(&self, tools: bool) -> Result<(&str, &str), TemplateError> {
        let named = |wanted: &str| self.sources.iter().find(|(name, _)| name == wanted);
        let found =
            if tools { named("tool_use").or_else(|| named("default")) } else { named("default") };
        let only = if self.sources.len() == 1 { self.sources.first() } else { None };
        let (name, source) =
            found.or(only).ok_or_else(|| TemplateError::Missing("default".to_owned()))?;
        Ok((name, source))
    }
}

/// A message as templates are given it: without what is null, and thoughts under both their names.
fn plain(mut message: Map<String, Value>) -> Map<String, Value> {
    message.retain(|_, value| !value.is_null());
    let thoughts = REASONING.iter().find_map(|name| message.get(*name)).cloned();
    if let Some(thoughts) = thoughts {
        message.entry("thinking").or_insert_with(|| thoughts.clone());
        message.insert("reasoning_content".to_owned(), thoughts);
    }
    message
}

/// Marks the end of the message that is continued.
fn mark(last: Option<&mut Map<String, Value>>) -> Result<(), TemplateError> {
    let content = last.and_then(|message| message.get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        other => other,
    };
    let Some(Value::String(text)) = text else {
        return Err(TemplateError::NotContinued("it has no text"));
    };
    text.push_str(CONTINUED);
    Ok(())
}

/// What stands before the mark.
fn cut(text: &str) -> Result<String, TemplateError> {
    let missing = TemplateError::NotContinued("the template leaves it out");
    let at = text.rfind(CONTINUED.trim_end()).ok_or(missing)?;
    let (before, after) = text.split_at(at);
    // A template that trims messages took the mark's own space, and the spaces of the message.
    Ok(if after.starts_with(CONTINUED) { before } else { before.trim_end() }.to_owned())
}

fn failed(error: &Error) -> TemplateError {
    let mut inner = Some(error as &dyn std::error::Error);
    while let Some(error) = inner {
        if let Some(own) = error.downcast_ref::<Error>() {
            match own.kind() {
                ErrorKind::OutOfFuel | ErrorKind::WriteFailure => {
                    return TemplateError::TooLarge(MAX_OUTPUT);
                }
                ErrorKind::EvalBlock => {
                    return TemplateError::Refused(own.detail().unwrap_or_default().to_owned());
                }
                _ => {}
            }
        }
        inner = error.source();
    }
    TemplateError::Failed(told(error))
}

/// What an error says, in a bounded line.
fn told(error: &Error) -> String {
    let text = error.to_string();
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

/// Text within the bound.
struct Bounded(Vec<u8>);

impl std::io::Write for &mut Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
