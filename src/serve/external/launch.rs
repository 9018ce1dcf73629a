//! What is asked of an engine, and the command that it becomes. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where an engine finds the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelAt {
    /// In a repository of the edge, at a commit.
    Hub {
        /// The artifact's name.
        repo: String,
        /// The first 40 digits of its manifest's id.
        revision: String,
    },
    /// In a file.
    File(PathBuf),
}

/// Which program is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// This one.
    Bin(String),
    /// The engine's module in this Python.
    Python(String),
}

/// The type that an engine computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeType {
    /// bf16.
    Bf16,
    /// f16.
    F16,
    /// f32.
    F32,
}

impl ComputeType {
    /// As torch calls it.
    pub const fn torch(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
        }
    }
}

/// A LoRA adapter in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// What requests call it.
    pub name: String,
    /// Its files.
    pub folder: PathBuf,
    /// Its rank.
    pub rank: u32,
}

/// What is asked of an engine, whichever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program.
    pub program: Program,
    /// The model.
    pub model: ModelAt,
    /// What the checkpoint's layout is called, if it is quantized.
    pub layout: Option<String>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// What requests call the model; the first is the artifact's own name unless others were given.
    pub names: Vec<String>,
    /// Whether names were given beside the artifact's own.
    pub named: bool,
    /// Over how many GPUs it is spread.
    pub tensor_parallel: Option<u32>,
    /// Tokens of the longest text.
    pub max_context: Option<u32>,
    /// Texts at a time.
    pub max_concurrent: Option<u32>,
    /// The type that it computes in; its own choice, if none.
    pub dtype: Option<ComputeType>,
    /// One of which a request must show.
    pub api_keys: Vec<String>,
    /// Its adapters.
    pub adapters: Vec<Adapter>,
    /// Arguments of its own.
    pub more: Vec<String>,
}

/// What an engine has no way to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unable(pub String);

/// A word of a command, or the value of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Anybody may see it.
    Plain(String),
    /// Shown as stars.
    Secret(String),
}

impl Word {
    /// What the program gets.
    pub fn value(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Secret(text) => text,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(text) => f.write_str(text),
            Self::Secret(_) => f.write_str("***"),
        }
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self::Plain(text.to_owned())
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self::Plain(text)
    }
}

/// A command with what is changed of the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invocation {
    /// The program and its arguments.
    pub words: Vec<Word>,
    /// Variables that are set.
    pub set: Vec<(String, Word)>,
    /// Variables that are taken away.
    pub unset: Vec<String>,
}

impl Invocation {
    pub(super) fn new(words: impl IntoIterator<Item = impl Into<Word>>) -> Self {
        Self { words: words.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    pub(super) fn arg(&mut self, word: impl Into<Word>) {
        self.words.push(word.into());
    }

    /// An option with its value.
    pub(super) fn option(&mut self, name: &str, value: impl ToString) {
        self.arg(name);
        self.arg(value.to_string());
    }

    /// An option with its value, if there is one.
    pub(super) fn option_of(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.option(name, value);
        }
    }

    pub(super) fn env(&mut self, name: &str, value: impl Into<Word>) {
        self.set.push((name.to_owned(), value.into()));
    }

    /// The command as a shell takes it, secrets as stars.
    pub fn shown(&self) -> String {
        let mut words = Vec::new();
        if !self.set.is_empty() || !self.unset.is_empty() {
            words.push("env".to_owned());
        }
        words.extend(self.unset.iter().map(|name| format!("-u {name}")));
        words.extend(
            self.set.iter().map(|(name, value)| format!("{name}={}", quoted(&value.to_string()))),
        );
        words.extend(self.words.iter().map(|word| quoted(&word.to_string())));
        words.join(" ")
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%*".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// The name of an option in these words that is one of `own`: `--port 1` and `--port=1`.
pub fn own_option<'a>(words: &'a [String], own: &[&str]) -> Option<&'a str> {
    let name = |word: &'a String| word.split('=').next().unwrap_or(word);
    words.iter().map(name).find(|name| own.iter().any(|own| same_option(own, name)))
}

/// Python's and Rust's parsers take `_` for `-`.
fn same_option(one: &str, other: &str) -> bool {
    let bytes =
        |text: &str| text.bytes().map(|b| if b == b'_' { b'-' } else { b }).collect::<Vec<_>>();
    bytes(one) == bytes(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_stars_and_words_are_quoted() {
        let mut made = Invocation::new(["vllm", "serve", "org/m"]);
        made.option("--chat-template", "it's {{ x }}");
        made.arg(Word::Secret("key".to_owned()));
        made.env("TOKEN", Word::Secret("key".to_owned()));
        made.env("EMPTY", "");
        made.unset.push("HF_TOKEN".to_owned());
        assert_eq!(
            made.shown(),
            r"env -u HF_TOKEN TOKEN=*** EMPTY='' vllm serve org/m --chat-template 'it'\''s {{ x }}' ***"
        );
    }

    #[test]
    fn options_that_we_set_are_found_however_they_are_written() {
        let words =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let own = ["--port", "--served-model-name", "-m"];
        for (given, found) in [
            (&["--port", "1"][..], Some("--port")),
            (&["--x", "--port=1"], Some("--port")),
            (&["--served_model_name", "a"], Some("--served_model_name")),
            (&["-m", "a"], Some("-m")),
            (&["--ports", "1"], None),
            (&[], None),
        ] {
            assert_eq!(own_option(&words(given), &own), found, "{given:?}");
        }
    }
}
