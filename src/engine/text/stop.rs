//! Strings that end a text, wherever its tokens cut them.
//!
//! Text that may be the beginning of such a string is held back. Which string ends the text does not depend on
//! how the text was cut: it is the first that is complete, and of several the longest.

/// One string, found byte by byte.
#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// For each length of a beginning, the longest shorter beginning that it ends with.
    shorter: Vec<usize>,
    /// How long a beginning the text ends with.
    matched: usize,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut shorter = vec![0; bytes.len()];
        for at in 1..bytes.len() {
            let mut length = shorter[at - 1];
            while length > 0 && bytes[length] != bytes[at] {
                length = shorter[length - 1];
            }
            shorter[at] = length + usize::from(bytes[length] == bytes[at]);
        }
        Self { bytes, shorter, matched: 0 }
    }

    /// Whether the string is complete with this byte.
    fn push(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.shorter[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        let complete = self.matched == self.bytes.len();
        if complete {
            self.matched = self.shorter[self.matched - 1];
        }
        complete
    }
}

/// What may be told of a text so far.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    /// Text that no stop string can take back.
    pub text: String,
    /// Which string ended the text, if one did.
    pub stop: Option<usize>,
}

/// Looks for the strings that end one text.
#[derive(Debug)]
pub struct StopStrings {
    patterns: Vec<Pattern>,
    include: bool,
    held: String,
}

impl StopStrings {
    /// Empty strings end nothing. The string that ends the text is part of it if `include`.
    #[must_use]
    pub fn new(strings: &[String], include: bool) -> Self {
        let patterns = strings.iter().map(|text| Pattern::new(text)).collect();
        Self { patterns, include, held: String::new() }
    }

    /// Takes more of the text. Nothing may follow once a string has ended it.
    pub fn push(&mut self, text: &str) -> Passed {
        let before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            let mut found: Option<(usize, usize)> = None;
            for (which, pattern) in self.patterns.iter_mut().enumerate() {
                let length = pattern.bytes.len();
                if length > 0 && pattern.push(byte) && found.is_none_or(|(_, other)| other < length)
                {
                    found = Some((which, length));
                }
            }
            if let Some((which, length)) = found {
                let end = before + at + 1;
                self.held.truncate(if self.include { end } else { end - length });
                return Passed { text: std::mem::take(&mut self.held), stop: Some(which) };
            }
        }
        let kept = self.patterns.iter().map(|pattern| pattern.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Passed { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// Takes text that nothing ends, and looks for strings only after it.
    pub fn pass(&mut self, text: &str) -> String {
        for pattern in &mut self.patterns {
            pattern.matched = 0;
        }
        self.held.push_str(text);
        std::mem::take(&mut self.held)
    }

    /// What was held back, when no text follows.
    pub fn finish(&mut self) -> String {
        self.pass("")
    }
}
