//! A request that was understood: what the engine is asked, and how its answer is told. Everything that can be
//! refused is refused here, before anything runs.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::error::ApiError;
use super::request::{ChatRequest, Choosing, CompletionRequest, ConversationRequest, Input};
use super::state::State;
use crate::engine::Request;
use crate::engine::sample::{Grammar, MAX_LOGPROBS, Sampling};
use crate::engine::text::Conversation;

/// OpenAI's, for completions.
const DEFAULT_TOKENS: usize = 16;
/// Stop strings of a request, and bytes of one.
const MAX_STOPS: usize = 64;
const MAX_STOP: usize = 4096;
/// Probabilities of one answer.
const MAX_TOLD: usize = 4 << 20;
/// Texts of one list.
const MAX_INPUTS: usize = 2048;

/// Which of OpenAI's forms an answer takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Completion,
    Chat,
}

/// A text to go on with.
#[derive(Debug, Clone)]
pub(crate) struct Prompt {
    pub(crate) text: Option<String>,
    pub(crate) tokens: Vec<u32>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) form: Form,
    pub(crate) model: String,
    pub(crate) prompts: Vec<Prompt>,
    /// Texts for each prompt.
    pub(crate) n: usize,
    /// Without its prompt.
    pub(crate) request: Request,
    /// For each prompt.
    pub(crate) max_tokens: Vec<usize>,
    pub(crate) stops: Vec<String>,
    pub(crate) include_stop: bool,
    pub(crate) skip_special: bool,
    pub(crate) echo: bool,
    /// Whether tokens are told, and how many of the likeliest with each.
    pub(crate) logprobs: Option<usize>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
}

/// Objects as the values that a template is given.
fn objects(of: &Option<Vec<Map<String, Value>>>) -> Option<Vec<Value>> {
    of.clone().map(|all| all.into_iter().map(Value::Object).collect())
}

impl State {
    pub(crate) fn plan_completion(&self, of: &CompletionRequest) -> Result<Plan, ApiError> {
        if of.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::wrong("suffix", "suffix is not supported: leave it out"));
        }
        let input =
            of.prompt.as_ref().ok_or_else(|| ApiError::wrong("prompt", "prompt is required"))?;
        let prompts = self.prompts("prompt", input, of.add_special_tokens.unwrap_or(true))?;
        let logprobs = of.logprobs.map(|count| count as usize);
        self.plan(Form::Completion, &of.choosing, prompts, logprobs, of.echo.unwrap_or(false))
    }

    pub(crate) fn plan_chat(&self, of: &ChatRequest) -> Result<Plan, ApiError> {
        let forced = match &of.tool_choice {
            None | Some(Value::Null) => false,
            Some(Value::String(choice)) => choice != "auto" && choice != "none",
            Some(_) => true,
        };
        if forced {
            let told =
                "tool_choice: calls of tools are not forced: use auto or none, or a JSON schema";
            return Err(ApiError::wrong("tool_choice", told));
        }
        let told = of.logprobs.unwrap_or(false);
        if of.top_logprobs.is_some_and(|count| count > 0) && !told {
            return Err(ApiError::wrong(
                "top_logprobs",
                "top_logprobs is told only with logprobs: true",
            ));
        }
        let logprobs = told.then(|| of.top_logprobs.unwrap_or(0) as usize);
        let tokens = self.conversation(&of.conversation)?;
        let prompts = vec![Prompt { text: None, tokens }];
        self.plan(Form::Chat, &of.choosing, prompts, logprobs, false)
    }

    /// The tokens of a conversation.
    pub(crate) fn conversation(&self, of: &ConversationRequest) -> Result<Vec<u32>, ApiError> {
        let Some(template) = &self.server.template else {
            let told = "this model has no chat template: use /v1/completions";
            return Err(ApiError::wrong("messages", told));
        };
        let messages = of.messages.clone();
        let mut messages =
            messages.ok_or_else(|| ApiError::wrong("messages", "messages is required"))?;
        for message in &mut messages {
            prepare(message, template.takes_parts())?;
        }
        let continued = of.continue_final_message.unwrap_or(false);
        let conversation = Conversation {
            messages,
            tools: objects(&of.tools).filter(|tools| !tools.is_empty()),
            documents: objects(&of.documents),
            add_generation_prompt: of.add_generation_prompt.unwrap_or(!continued),
            continue_final_message: continued,
            extra: of.chat_template_kwargs.clone().unwrap_or_default(),
        };
        let text = template.render(&conversation, SystemTime::now())?;
        // The template writes the model's own tokens.
        Ok(self.server.tokenizer.encode(&text, false)?)
    }

    /// Texts as tokens.
    pub(crate) fn prompts(
        &self,
        field: &str,
        input: &Input,
        special: bool,
    ) -> Result<Vec<Prompt>, ApiError> {
        let text = |text: &String| -> Result<Prompt, ApiError> {
            let tokens = self.server.tokenizer.encode(text, special)?;
            Ok(Prompt { text: Some(text.clone()), tokens })
        };
        let tokens = |tokens: &Vec<u32>| Prompt { text: None, tokens: tokens.clone() };
        let count = match input {
            Input::Texts(list) => list.len(),
            Input::TokenLists(list) => list.len(),
            Input::Text(_) | Input::Tokens(_) => 1,
        };
        if count == 0 || count > MAX_INPUTS {
            let told = format!("{field} is a list of {count}: give 1 to {MAX_INPUTS}");
            return Err(ApiError::wrong(field, told));
        }
        let prompts = match input {
            Input::Text(own) => vec![text(own)?],
            Input::Texts(list) => list.iter().map(text).collect::<Result<_, _>>()?,
            Input::Tokens(own) => vec![tokens(own)],
            Input::TokenLists(list) => list.iter().map(tokens).collect(),
        };
        for prompt in &prompts {
            if prompt.tokens.is_empty() {
                return Err(ApiError::wrong(
                    field,
                    format!("{field} is empty: give at least one token"),
                ));
            }
            let unknown =
                prompt.tokens.iter().find(|token| **token as usize >= self.info.vocabulary);
            if let Some(token) = unknown {
                let told =
                    format!("{field} has token {token}: the model has {}", self.info.vocabulary);
                return Err(ApiError::wrong(field, told));
            }
        }
        Ok(prompts)
    }

    fn plan(
        &self,
        form: Form,
        of: &Choosing,
        prompts: Vec<Prompt>,
        logprobs: Option<usize>,
        echo: bool,
    ) -> Result<Plan, ApiError> {
        let (model, adapter) = self.model(of.model.as_deref())?;
        let n = of.n.unwrap_or(1) as usize;
        let most = self.server.limits.choices;
        if n == 0 || n.saturating_mul(prompts.len()) > most {
            let told =
                format!("n is {n} for {} prompts: from 1 to {most} texts are made", prompts.len());
            return Err(ApiError::wrong("n", told));
        }
        if of.best_of.is_some_and(|best| best as usize != n) {
            let told = "best_of beyond n is not supported: ask for n texts and choose among them";
            return Err(ApiError::wrong("best_of", told));
        }
        if of.use_beam_search == Some(true) {
            return Err(ApiError::wrong(
                "use_beam_search",
                "beams are not searched: leave use_beam_search out",
            ));
        }
        if let Some(name) = of.unsupported.asked() {
            return Err(ApiError::wrong(name, format!("{name} is not supported: leave it out")));
        }
        if logprobs.is_some_and(|count| count > MAX_LOGPROBS) {
            let told = format!("at most {MAX_LOGPROBS} of the likeliest tokens are told");
            let field = if form == Form::Chat { "top_logprobs" } else { "logprobs" };
            return Err(ApiError::wrong(field, told));
        }
        let max_tokens = self.max_tokens(form, of, &prompts, echo)?;
        let longest =
            max_tokens.iter().zip(&prompts).map(|(own, prompt)| own + prompt.tokens.len());
        let told =
            longest.sum::<usize>().saturating_mul(n).saturating_mul(1 + logprobs.unwrap_or(0));
        if logprobs.is_some() && told > MAX_TOLD {
            let told = format!(
                "{told} probabilities may be told: at most {MAX_TOLD}; ask for fewer texts or logprobs"
            );
            return Err(ApiError::wrong("logprobs", told));
        }
        let sampling = self.sampling(of, logprobs)?;
        let least = max_tokens.iter().copied().min().unwrap_or(0);
        if sampling.min_tokens > least {
            let told =
                format!("min_tokens is {}, and at most {least} are made", sampling.min_tokens);
            return Err(ApiError::wrong("min_tokens", told));
        }
        let stops = stops(of)?;
        let stream = of.stream.unwrap_or(false);
        let options = of.stream_options.clone();
        if options.is_some() && !stream {
            return Err(ApiError::wrong("stream_options", "stream_options are for stream: true"));
        }
        let constraint = grammar(of)?.map(|grammar| self.constraint(&grammar)).transpose()?;
        let request = Request {
            prompt: Vec::new(),
            sampling,
            constraint,
            max_tokens: 0,
            prompt_logprobs: if echo { logprobs } else { None },
            adapter,
        };
        Ok(Plan {
            form,
            model,
            prompts,
            n,
            request,
            max_tokens,
            stops,
            include_stop: of.include_stop_str_in_output.unwrap_or(false),
            skip_special: of.skip_special_tokens.unwrap_or(true),
            echo,
            logprobs,
            stream,
            include_usage: options.is_some_and(|options| options.include_usage.unwrap_or(false)),
        })
    }

    /// How many tokens each prompt may get.
    fn max_tokens(
        &self,
        form: Form,
        of: &Choosing,
        prompts: &[Prompt],
        echo: bool,
    ) -> Result<Vec<usize>, ApiError> {
        let asked = of.max_completion_tokens.or(of.max_tokens).map(|count| count as usize);
        if asked == Some(0) && !echo {
            let told = "max_tokens is 0: at least one token is made, unless the prompt is echoed";
            return Err(ApiError::wrong("max_tokens", told));
        }
        let most = self.info.max_context;
        let each = prompts.iter().map(|prompt| {
            let length = prompt.tokens.len();
            let room = most.saturating_sub(length);
            let own = match (asked, form) {
                (Some(asked), _) => asked,
                (None, Form::Completion) => DEFAULT_TOKENS.min(room.max(1)),
                (None, Form::Chat) => room.max(1),
            };
            if length + own > most {
                let told = format!(
                    "the prompt has {length} tokens and {own} are to be made: the model takes {most} in all; \
                     shorten the prompt or lower max_tokens"
                );
                return Err(ApiError::wrong("max_tokens", told).coded("context_length_exceeded"));
            }
            Ok(own)
        });
        each.collect()
    }

    fn sampling(&self, of: &Choosing, logprobs: Option<usize>) -> Result<Sampling, ApiError> {
        let mut own = self.server.defaults.clone();
        let set = |to: &mut f32, given: Option<f32>| *to = given.unwrap_or(*to);
        set(&mut own.temperature, of.temperature);
        set(&mut own.top_p, of.top_p);
        set(&mut own.min_p, of.min_p);
        set(&mut own.typical_p, of.typical_p);
        set(&mut own.repetition_penalty, of.repetition_penalty);
        set(&mut own.presence_penalty, of.presence_penalty);
        set(&mut own.frequency_penalty, of.frequency_penalty);
        if let Some(top_k) = of.top_k {
            let kept = usize::try_from(top_k.max(0)).ok().filter(|_| top_k >= -1);
            own.top_k = kept.ok_or_else(|| {
                ApiError::wrong(
                    "top_k",
                    format!("top_k is {top_k}: it must be at least 1, or 0 or -1 for all"),
                )
            })?;
        }
        own.seed = of.seed.map(i64::cast_unsigned).or(own.seed);
        if let Some(bias) = &of.logit_bias {
            own.logit_bias = biases(bias)?;
        }
        own.stop_tokens = of.stop_token_ids.clone().unwrap_or(own.stop_tokens);
        own.ignore_eos = of.ignore_eos.unwrap_or(own.ignore_eos);
        own.min_tokens = of.min_tokens.unwrap_or(0) as usize;
        own.logprobs = logprobs.unwrap_or(0);
        own.check(self.info.vocabulary).map_err(|error| {
            let told = error.to_string();
            let field = told.split(' ').next().unwrap_or_default().to_owned();
            ApiError::wrong(&field, told)
        })?;
        Ok(own)
    }
}

fn biases(bias: &BTreeMap<String, f32>) -> Result<Vec<(u32, f32)>, ApiError> {
    let each = bias.iter().map(|(token, bias)| match token.parse::<u32>() {
        Ok(token) => Ok((token, *bias)),
        Err(_) => {
            let shown: String = token.chars().take(50).collect();
            Err(ApiError::wrong(
                "logit_bias",
                format!("logit_bias names {shown:?}: tokens are named by id"),
            ))
        }
    });
    each.collect()
}

fn stops(of: &Choosing) -> Result<Vec<String>, ApiError> {
    let stops = of.stop.as_ref().map(super::request::Strings::list).unwrap_or_default();
    if stops.len() > MAX_STOPS || stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP)
    {
        let told =
            format!("stop: at most {MAX_STOPS} texts are taken, each of 1 to {MAX_STOP} bytes");
        return Err(ApiError::wrong("stop", told));
    }
    Ok(stops)
}

/// The grammar that a request names, of the many ways to name one.
fn grammar(of: &Choosing) -> Result<Option<Grammar>, ApiError> {
    let structured = of.structured_outputs.clone().unwrap_or_default();
    let schema = |field: &str, value: &Value| -> Result<Grammar, ApiError> {
        let Value::String(text) = value else { return Ok(Grammar::JsonSchema(value.clone())) };
        let parsed = serde_json::from_str(text);
        parsed.map(Grammar::JsonSchema).map_err(|error| {
            ApiError::wrong(field, format!("{field} is a text that is not JSON: {error}"))
        })
    };
    let mut found: Vec<Grammar> = Vec::new();
    if let Some(format) = &of.response_format {
        match format.kind.as_str() {
            "text" => {}
            "json_object" => found.push(Grammar::Json),
            "json_schema" => {
                let own = format.json_schema.as_ref().and_then(|own| own.schema.as_ref());
                let told = "response_format of type json_schema needs json_schema.schema";
                let own = own.ok_or_else(|| ApiError::wrong("response_format", told))?;
                found.push(schema("response_format", own)?);
            }
            _ => {
                let told = "response_format: its type is text, json_object or json_schema";
                return Err(ApiError::wrong("response_format", told));
            }
        }
    }
    let schemas = [("guided_json", &of.guided_json), ("structured_outputs", &structured.json)];
    for (field, value) in schemas {
        found.extend(value.as_ref().map(|value| schema(field, value)).transpose()?);
    }
    let regexes = [&of.guided_regex, &structured.regex];
    found.extend(regexes.into_iter().flatten().cloned().map(Grammar::Regex));
    let choices = [&of.guided_choice, &structured.choice];
    found.extend(choices.into_iter().flatten().cloned().map(Grammar::Choice));
    let grammars = [&of.guided_grammar, &structured.grammar];
    found.extend(grammars.into_iter().flatten().cloned().map(Grammar::Lark));
    found.extend((structured.json_object == Some(true)).then_some(Grammar::Json));
    if found.len() > 1 {
        let told = "several grammars are named: an answer keeps to one";
        return Err(ApiError::wrong("structured_outputs", told));
    }
    Ok(found.pop())
}

/// Makes a message what templates take: content as text, or as parts, and the arguments of calls as objects.
fn prepare(message: &mut Map<String, Value>, parts: bool) -> Result<(), ApiError> {
    let wrong = |told: &str| Err(ApiError::wrong("messages", told));
    if !message.get("role").is_some_and(Value::is_string) {
        return wrong("each message needs a role, which is a text");
    }
    match message.get_mut("content") {
        None | Some(Value::Null | Value::String(_)) => {}
        Some(Value::Array(list)) => {
            let texts: Option<Vec<&str>> = list
                .iter()
                .map(|part| part["text"].as_str().filter(|_| part["type"] == "text"))
                .collect();
            let Some(texts) = texts else {
                return wrong("content has a part that is not text: this model reads text only");
            };
            if !parts {
                let joined = texts.join("\n");
                message.insert("content".to_owned(), joined.into());
            }
        }
        Some(_) => return wrong("content must be a text, or a list of parts"),
    }
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        let Some(arguments) =
            call.get_mut("function").and_then(|function| function.get_mut("arguments"))
        else {
            continue;
        };
        // Clients send them as text; templates write them as JSON.
        if let Some(parsed) =
            arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok())
        {
            *arguments = parsed;
        }
    }
    Ok(())
}
