//! As much of YAML as deployments are written in. Pure.

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Yaml {
    Text(String),
    Number(u64),
    Flag(bool),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl From<&str> for Yaml {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Yaml {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Yaml {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Yaml {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

/// A map, in the order that is given.
pub(super) fn map<const N: usize>(entries: [(&str, Yaml); N]) -> Yaml {
    Yaml::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// A list.
pub(super) fn list(items: impl IntoIterator<Item = impl Into<Yaml>>) -> Yaml {
    Yaml::List(items.into_iter().map(Into::into).collect())
}

impl Yaml {
    /// Adds an entry to a map.
    pub(super) fn with(mut self, key: &str, value: impl Into<Yaml>) -> Self {
        if let Self::Map(entries) = &mut self {
            entries.push((key.to_owned(), value.into()));
        }
        self
    }

    /// The document.
    pub(super) fn document(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0, true);
        out
    }

    /// `fresh`: the value begins a line, after `depth` levels that are written already where it is in a list.
    fn write(&self, out: &mut String, depth: usize, fresh: bool) {
        match self {
            Self::Text(text) => out.push_str(&scalar(text)),
            Self::Number(number) => out.push_str(&number.to_string()),
            Self::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Self::List(items) if items.is_empty() => out.push_str("[]"),
            Self::Map(entries) if entries.is_empty() => out.push_str("{}"),
            Self::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if index > 0 || !fresh {
                        line(out, depth);
                    }
                    out.push_str("- ");
                    item.write(out, depth + 1, true);
                }
            }
            Self::Map(entries) => {
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 || !fresh {
                        line(out, depth);
                    }
                    out.push_str(&scalar(key));
                    out.push(':');
                    if value.is_block() {
                        value.write(out, depth + 1, false);
                    } else {
                        out.push(' ');
                        value.write(out, depth + 1, true);
                    }
                }
            }
        }
        if depth == 0 && !out.ends_with('\n') {
            out.push('\n');
        }
    }

    fn is_block(&self) -> bool {
        match self {
            Self::List(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
            _ => false,
        }
    }
}

fn line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

/// A text: bare where nothing takes it for anything else, in quotes as JSON has them otherwise.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    let lower = text.to_ascii_lowercase();
    let other =
        ["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&lower.as_str());
    match word && !other {
        true => text.to_owned(),
        // Quotes of JSON are quotes of YAML.
        false => serde_json::Value::from(text).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_indented_and_quoted() {
        let document = map([
            ("kind", "Deployment".into()),
            ("on", "off".into()),
            ("count", 2.into()),
            ("args", list(["--a=1", "plain", "it: \"x\"\n"])),
            ("none", list(Vec::<Yaml>::new())),
            ("nested", list([map([("name", "a".into()), ("deep", map([("k", true.into())]))])])),
        ]);
        assert_eq!(
            document.document(),
            "kind: Deployment\n\"on\": \"off\"\ncount: 2\nargs:\n  - \"--a=1\"\n  - plain\n  - \"it: \\\"x\\\"\\n\"\n\
             none: []\nnested:\n  - name: a\n    deep:\n      k: true\n"
        );
    }
}
