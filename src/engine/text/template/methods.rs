//! Methods of Python's strings that templates call and minijinja's own set lacks.

use minijinja::value::{Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// The widest that a text is made by padding: a width is no reason to write a gigabyte.
const MAX_WIDTH: usize = 9999;

/// Calls a method that minijinja does not know.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return unknown_method_callback(state, value, name, args);
    };
    Ok(match name {
        "title" => Value::from(title(text)),
        "swapcase" => Value::from(swap_case(text)),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            let last = name == "rpartition";
            let cut = if last { text.rsplit_once(by) } else { text.split_once(by) };
            match cut {
                Some((before, after)) => tuple([before, by, after]),
                None if last => tuple(["", "", text]),
                None => tuple([text, "", ""]),
            }
        }
        "rsplit" => {
            let (by, most): (Option<&str>, Option<i64>) = from_args(args)?;
            rsplit(text, by, most.and_then(|most| usize::try_from(most).ok()))
        }
        "index" | "rindex" => {
            let (of,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(of) } else { text.rfind(of) };
            let missing = || Error::new(ErrorKind::InvalidOperation, "substring not found");
            Value::from(text[..at.ok_or_else(missing)?].chars().count())
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let sign = usize::from(text.starts_with(['+', '-']));
            let missing = missing(text, width)?;
            Value::from(format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..]))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let (missing, fill) = (missing(text, width)?, fill.unwrap_or(' '));
            // Python gives the odd one to the left if the width is odd too.
            let before = match name {
                "ljust" => 0,
                "rjust" => missing,
                _ => missing / 2 + (missing & width & 1),
            };
            let pad = |count: usize| String::from_iter(std::iter::repeat_n(fill, count));
            Value::from(format!("{}{text}{}", pad(before), pad(missing - before)))
        }
        "format" if text.split(|c: char| !c.is_ascii_digit()).any(|run| run.len() > 4) => {
            return Err(too_wide());
        }
        _ => return unknown_method_callback(state, value, name, args),
    })
}

fn too_wide() -> Error {
    Error::new(ErrorKind::OutOfFuel, "a width of more than 9999")
}

/// How many letters a text lacks to a width.
fn missing(text: &str, width: usize) -> Result<usize, Error> {
    if width > MAX_WIDTH { Err(too_wide()) } else { Ok(width.saturating_sub(text.chars().count())) }
}

fn tuple(parts: [&str; 3]) -> Value {
    let [before, by, after] = parts.map(str::to_owned);
    Value::from((before, by, after))
}

fn rsplit(text: &str, by: Option<&str>, most: Option<usize>) -> Value {
    let most = most.unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = if by.is_none() { text.trim_end() } else { text };
    while parts.len() < most {
        let cut = match by {
            Some(by) if !by.is_empty() => rest.rsplit_once(by),
            _ => rest.rsplit_once(char::is_whitespace),
        };
        let Some((before, after)) = cut else { break };
        parts.push(after);
        rest = if by.is_none() { before.trim_end() } else { before };
    }
    if by.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    parts.reverse();
    parts.into_iter().map(Value::from).collect()
}

/// Each letter after what is no letter in upper case, the others in lower case.
fn title(text: &str) -> String {
    let (mut out, mut within) = (String::with_capacity(text.len()), false);
    for letter in text.chars() {
        if within {
            out.extend(letter.to_lowercase())
        } else {
            out.extend(letter.to_uppercase())
        }
        within = letter.is_alphabetic();
    }
    out
}

fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_uppercase() {
            out.extend(letter.to_lowercase())
        } else {
            out.extend(letter.to_uppercase())
        }
    }
    out
}
