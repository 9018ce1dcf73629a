//! Patterns for names, as a shell has them: `?`, `*`, `[ab]`, `[!a-z]`, `{a,b}`, `\*` for the
//! character itself, and `**` for any number of whole parts of a path.
//!
//! A pattern is compiled into states that are followed all at once, so that no pattern takes longer
//! for a name than the product of both lengths.

use std::iter::Peekable;
use std::str::Chars;

/// How deep braces may be nested.
const MAX_DEPTH: usize = 250;

/// What is wrong with a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GlobError {
    /// A class without its end.
    #[error("unclosed character class; missing ']'")]
    UnclosedClass,
    /// A range that holds nothing.
    #[error("invalid range; '{0}' > '{1}'")]
    InvalidRange(char, char),
    /// The end of a group that did not begin.
    #[error("unopened alternate group; missing '{{' (maybe escape '}}' with '[}}]'?)")]
    Unopened,
    /// A group without its end.
    #[error("unclosed alternate group; missing '}}' (maybe escape '{{' with '[{{]'?)")]
    Unclosed,
    /// A backslash that ends the pattern.
    #[error("dangling '\\'")]
    DanglingEscape,
    /// More bytes than whoever matches names allows.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// Too many groups inside each other.
    #[error("groups are nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

#[derive(Debug, Clone)]
enum Op {
    Char(char),
    /// One character; a slash only if `slash` says so.
    Any {
        slash: bool,
    },
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// Any number of characters.
    Many {
        slash: bool,
    },
    /// Goes on at each of these, without a character.
    Fork(Vec<usize>),
}

/// A pattern.
#[derive(Debug, Clone)]
pub struct Glob {
    ops: Vec<Op>,
}

impl Glob {
    /// A pattern whose `*` and `?` stand for any characters.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn new(pattern: &str) -> Result<Self, GlobError> {
        Compiler::compile(pattern, true)
    }

    /// A pattern whose `*` and `?` stay within one part of a path.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn of_path(pattern: &str) -> Result<Self, GlobError> {
        Compiler::compile(pattern, false)
    }

    /// Whether all of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let mut seen = vec![0_usize; self.ops.len() + 1];
        let (mut now, mut next) = (Vec::new(), Vec::new());
        self.reach(0, 1, &mut seen, &mut now);
        for (turn, c) in (2..).zip(name.chars()) {
            for &at in &now {
                let to = match self.ops.get(at) {
                    Some(Op::Char(own)) if *own == c => at + 1,
                    Some(Op::Any { slash }) if *slash || c != '/' => at + 1,
                    Some(Op::Class { negated, ranges })
                        if ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != *negated =>
                    {
                        at + 1
                    }
                    Some(Op::Many { slash }) if *slash || c != '/' => at,
                    _ => continue,
                };
                self.reach(to, turn, &mut seen, &mut next);
            }
            now.clear();
            std::mem::swap(&mut now, &mut next);
            if now.is_empty() {
                return false;
            }
        }
        now.contains(&self.ops.len())
    }

    /// Adds `to`, and whatever is reached from there without a character, unless it was in `turn`.
    fn reach(&self, to: usize, turn: usize, seen: &mut [usize], states: &mut Vec<usize>) {
        let mut open = vec![to];
        while let Some(at) = open.pop() {
            match seen.get_mut(at) {
                Some(last) if *last != turn => *last = turn,
                _ => continue,
            }
            states.push(at);
            match self.ops.get(at) {
                Some(Op::Many { .. }) => open.push(at + 1),
                Some(Op::Fork(all)) => open.extend(all),
                _ => {}
            }
        }
    }
}

/// A group that is open: where its fork stands, where its branches begin, and which jumps leave it.
struct Group {
    fork: usize,
    branches: Vec<usize>,
    jumps: Vec<usize>,
}

struct Compiler<'p> {
    rest: Peekable<Chars<'p>>,
    ops: Vec<Op>,
    groups: Vec<Group>,
    /// Whether `*` and `?` match slashes.
    slash: bool,
}

impl<'p> Compiler<'p> {
    fn compile(pattern: &'p str, slash: bool) -> Result<Glob, GlobError> {
        let rest = pattern.chars().peekable();
        let mut this = Self { rest, ops: Vec::new(), groups: Vec::new(), slash };
        let mut before = None;
        while let Some(c) = this.rest.next() {
            before = match c {
                '*' => this.star(before),
                '[' => this.class()?,
                '{' => this.open()?,
                ',' if !this.groups.is_empty() => this.branch(),
                '}' => this.close()?,
                '?' => this.push(Op::Any { slash }, '?'),
                '\\' => {
                    let c = this.rest.next().ok_or(GlobError::DanglingEscape)?;
                    this.push(Op::Char(c), c)
                }
                c => this.push(Op::Char(c), c),
            };
        }
        if this.groups.is_empty() { Ok(Glob { ops: this.ops }) } else { Err(GlobError::Unclosed) }
    }

    /// Adds `op`; gives back the character that it was made of, for what follows to look at.
    fn push(&mut self, op: Op, c: char) -> Option<char> {
        self.ops.push(op);
        Some(c)
    }

    /// `**` as a whole part of a path stands for any parts, and takes a slash that follows along.
    fn star(&mut self, before: Option<char>) -> Option<char> {
        if self.rest.next_if_eq(&'*').is_none() {
            return self.push(Op::Many { slash: self.slash }, '*');
        }
        let grouped = !self.groups.is_empty();
        let begins = match before {
            None => true,
            Some('{' | ',') => grouped,
            Some(c) => c == '/',
        };
        let slash = match self.rest.peek() {
            Some('/') if begins => {
                self.rest.next();
                let at = self.ops.len();
                self.ops.push(Op::Fork(vec![at + 1, at + 3]));
                self.ops.push(Op::Many { slash: true });
                return self.push(Op::Char('/'), '/');
            }
            None => begins,
            Some(',' | '}') => grouped && before == Some('/'),
            Some(_) => false,
        };
        self.push(Op::Many { slash: slash || self.slash }, '*')
    }

    fn class(&mut self) -> Result<Option<char>, GlobError> {
        let negated = self.rest.next_if(|c| matches!(c, '!' | '^')).is_some();
        let mut ranges: Vec<(char, char)> = Vec::new();
        let mut in_range = false;
        loop {
            match (self.rest.next().ok_or(GlobError::UnclosedClass)?, ranges.last_mut()) {
                (']', Some(_)) => break,
                ('-', Some(_)) if !in_range => in_range = true,
                (c, Some(last)) if in_range => {
                    if c < last.0 {
                        return Err(GlobError::InvalidRange(last.0, c));
                    }
                    last.1 = c;
                    in_range = false;
                }
                (c, _) => ranges.push((c, c)),
            }
        }
        if in_range {
            ranges.push(('-', '-'));
        }
        Ok(self.push(Op::Class { negated, ranges }, ']'))
    }

    fn open(&mut self) -> Result<Option<char>, GlobError> {
        if self.groups.len() >= MAX_DEPTH {
            return Err(GlobError::TooDeep);
        }
        let fork = self.ops.len();
        self.groups.push(Group { fork, branches: vec![fork + 1], jumps: Vec::new() });
        Ok(self.push(Op::Fork(Vec::new()), '{'))
    }

    /// Ends a branch of the innermost group and begins the next one.
    fn branch(&mut self) -> Option<char> {
        let at = self.ops.len();
        let group = self.groups.last_mut()?;
        // A branch without anything in it is none.
        if group.branches.last() != Some(&at) {
            group.jumps.push(at);
            group.branches.push(at + 1);
            self.ops.push(Op::Fork(Vec::new()));
        }
        Some(',')
    }

    fn close(&mut self) -> Result<Option<char>, GlobError> {
        let Group { fork, mut branches, jumps } = self.groups.pop().ok_or(GlobError::Unopened)?;
        let end = self.ops.len();
        branches.retain(|at| *at != end);
        if branches.is_empty() {
            self.ops.truncate(fork);
        }
        for jump in jumps {
            if let Some(op) = self.ops.get_mut(jump) {
                *op = Op::Fork(vec![end]);
            }
        }
        if let Some(op) = self.ops.get_mut(fork) {
            *op = Op::Fork(branches);
        }
        Ok(Some('}'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(glob: Result<Glob, GlobError>, name: &str) -> bool {
        glob.unwrap().matches(name)
    }

    #[test]
    fn stars_stay_within_a_part_of_a_path_or_do_not() {
        for (pattern, name, anywhere, within) in [
            ("a*", "abc", true, true),
            ("a*", "a/c", true, false),
            ("a?c", "a/c", true, false),
            ("a[/]c", "a/c", true, true),
            ("**", "a/b", true, true),
            ("a/**", "a/b/c", true, true),
            ("a/**", "a", false, false),
            ("a/**/d", "a/d", true, true),
            ("a/**/d", "a/b/c/d", true, true),
            ("**/d", "d", true, true),
            ("**/d", "a/d", true, true),
            ("**d", "a/d", true, false),
            ("{a,b*}/c", "bb/c", true, true),
            ("{a,b}", "c", false, false),
            ("{,a}b", "b", false, false),
            ("{}b", "b", true, true),
            ("\\*", "*", true, true),
            ("\\*", "a", false, false),
            ("?", "é", true, true),
            ("", "", true, true),
            ("", "a", false, false),
        ] {
            assert_eq!(matches(Glob::new(pattern), name), anywhere, "{pattern} {name}");
            assert_eq!(matches(Glob::of_path(pattern), name), within, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_pattern_is_said() {
        for (pattern, error) in [
            ("a[", GlobError::UnclosedClass),
            ("[]", GlobError::UnclosedClass),
            ("[b-a]", GlobError::InvalidRange('b', 'a')),
            ("}", GlobError::Unopened),
            ("{a,{b}", GlobError::Unclosed),
            ("a\\", GlobError::DanglingEscape),
        ] {
            assert_eq!(Glob::new(pattern).unwrap_err(), error, "{pattern}");
        }
        let nested = |n: usize| format!("{}a{}", "{".repeat(n), "}".repeat(n));
        assert!(matches(Glob::new(&nested(MAX_DEPTH)), "a"));
        assert_eq!(Glob::new(&nested(MAX_DEPTH + 1)).unwrap_err(), GlobError::TooDeep);
    }

    #[test]
    fn no_pattern_takes_long() {
        let glob = Glob::new(&"*a".repeat(500)).unwrap();
        assert!(!glob.matches(&format!("{}b", "a".repeat(1000))));
        assert!(glob.matches(&"a".repeat(1000)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]
        #[test]
        fn the_same_names_match_as_with_globset(
            pattern in "[ab/*?{},!\\[\\]^-]{0,9}|(a|b|/|\\*\\*/|/\\*\\*|\\*|\\{a,|b\\}|\\\\[*?]){0,5}",
            names in prop::collection::vec("[ab/,!*?-]{0,6}", 20),
        ) {
            // Its words for several `**` in a row, and for nothing else, are its own.
            let only = !pattern.is_empty() && pattern.replace("**/", "").is_empty();
            if only || pattern.contains("**/**") {
                return Ok(());
            }
            for within in [false, true] {
                let oracle = globset::GlobBuilder::new(&pattern).literal_separator(within).build();
                let ours = if within { Glob::of_path(&pattern) } else { Glob::new(&pattern) };
                prop_assert_eq!(ours.is_ok(), oracle.is_ok(), "{}: {:?} {:?}", pattern, ours, oracle);
                let (Ok(ours), Ok(oracle)) = (ours, oracle) else { continue };
                let oracle = oracle.compile_matcher();
                for name in &names {
                    prop_assert_eq!(ours.matches(name), oracle.is_match(name), "{} {}", pattern, name);
                }
            }
        }
    }
}
