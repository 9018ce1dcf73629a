//! `tojson` as Hugging Face's templates have it: Python's `json.dumps`, which escapes nothing for HTML.
//!
//! Lists may hold one list many times over; what is written is bounded, not only what is held.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Bytes that a template may write.
pub(super) const MAX_OUTPUT: usize = 8 << 20;
/// Lists within lists.
const MAX_DEPTH: usize = 100;

pub(super) fn tojson(value: &Value, indent: Option<Value>, args: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => args.get::<Option<Value>>("indent")?,
    };
    let indent = indent.filter(|indent| !indent.is_none() && !indent.is_undefined());
    let indent = indent.map(|indent| match indent.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => usize::try_from(indent).map(|count| " ".repeat(count.min(64))),
    });
    let indent = indent.transpose()?;
    let separators = args.get::<Option<Value>>("separators")?.filter(|given| !given.is_none());
    let between = if indent.is_some() { "," } else { ", " };
    let separators = match separators {
        None => (between.to_owned(), ": ".to_owned()),
        Some(given) => {
            let part = |at: usize| given.get_item(&Value::from(at)).map(|part| part.to_string());
            (part(0)?, part(1)?)
        }
    };
    let mut writer = Writer {
        out: String::new(),
        indent,
        separators,
        ascii: args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: args.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    args.assert_all_used()?;
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// Refuses what would write more than the bound.
pub(super) fn check_size(value: &Value) -> Result<(), Error> {
    let nested = matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable);
    if nested { count(value, 0, &mut 0) } else { Ok(()) }
}

fn count(value: &Value, depth: usize, seen: &mut usize) -> Result<(), Error> {
    *seen += 1 + value.as_str().map_or(0, str::len);
    if *seen > MAX_OUTPUT / 8 || depth > MAX_DEPTH {
        return Err(too_large());
    }
    match value.kind() {
        ValueKind::Seq => value.try_iter()?.try_for_each(|item| count(&item, depth + 1, seen)),
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            count(&key, depth + 1, seen)?;
            count(&value.get_item(&key)?, depth + 1, seen)
        }),
        _ => Ok(()),
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::OutOfFuel, "a value is too large to be written")
}

struct Writer {
    out: String,
    indent: Option<String>,
    separators: (String, String),
    ascii: bool,
    sorted: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if self.out.len() > MAX_OUTPUT || depth > MAX_DEPTH {
            return Err(too_large());
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Map => self.map(value, depth)?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', &items, depth, |own, item| own.value(item, depth + 1))?;
            }
            other => {
                let told = format!("a value of kind {other} is not JSON serializable");
                return Err(Error::new(ErrorKind::BadSerialization, told));
            }
        }
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sorted {
            keys.sort();
        }
        self.list('{', '}', &keys, depth, |own, key| {
            match key.kind() {
                ValueKind::String => own.text(key.as_str().unwrap_or_default()),
                ValueKind::Bool => own.text(if key.is_true() { "true" } else { "false" }),
                ValueKind::None => own.text("null"),
                _ => own.text(&number(key)),
            }
            let between = own.separators.1.clone();
            own.out.push_str(&between);
            own.value(&value.get_item(key)?, depth + 1)
        })
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut each: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                let between = self.separators.0.clone();
                self.out.push_str(&between);
            }
            self.line(depth + 1);
            each(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                ' '.. if !self.ascii || letter.is_ascii() && letter != '\u{7f}' => {
                    self.out.push(letter)
                }
                _ => {
                    for unit in letter.encode_utf16(&mut [0; 2]) {
                        // Writing to a string does not fail.
                        write!(self.out, "\\u{unit:04x}").unwrap_or_default();
                    }
                }
            }
        }
        self.out.push('"');
    }
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let shortest = format!("{number:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
