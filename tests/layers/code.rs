//! As much of Rust as it takes to see what a file imports: words and marks without comments, texts and
//! tests; modules, items, `use` trees and paths.

use std::collections::BTreeSet;

/// What a file says.
#[derive(Debug, Default)]
pub struct Code {
    /// The modules that lie in files of their own, each with the feature it needs.
    pub modules: Vec<(String, Option<String>)>,
    /// Those that are built for tests only.
    pub test_modules: BTreeSet<String>,
    /// What is defined at the top.
    pub items: BTreeSet<String>,
    /// What is imported, at the top or in a function.
    pub uses: Vec<Use>,
    /// Paths in the code itself: `a::b::c`.
    pub paths: BTreeSet<Vec<String>>,
    /// Every word of the code itself.
    pub words: BTreeSet<String>,
}

/// One name that a `use` brings.
#[derive(Debug)]
pub struct Use {
    pub path: Vec<String>,
    /// What it is called here; `*` for all of a module.
    pub name: String,
    /// Whether it is for others.
    pub exported: bool,
}

/// Words, `::`, and single marks; texts are one `"`.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\n');
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            while i < chars.len() && !(at(i) == '*' && at(i + 1) == '/') {
                i += 1;
            }
            i += 2;
        } else if c == '"' {
            i += 1;
            let start = i;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            found
                .push(format!("\"{}", chars[start..i.min(chars.len())].iter().collect::<String>()));
            i += 1;
        } else if c == 'r'
            && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '"' | '#')))
        {
            let hashes = (i + 1..).take_while(|i| at(*i) == '#').count();
            i += hashes + 2;
            let ends = |i: usize| at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#');
            while i < chars.len() && !ends(i) {
                i += 1;
            }
            i += hashes + 1;
            found.push("\"".to_owned());
        } else if c == '\'' && at(i + 1) == '\\' {
            i += 3;
            while at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if c == '\'' && at(i + 2) == '\'' {
            i += 3;
        } else if is_word(c) {
            let start = i;
            while is_word(at(i)) {
                i += 1;
            }
            found.push(chars[start..i].iter().collect());
        } else if c == ':' && at(i + 1) == ':' {
            found.push("::".to_owned());
            i += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
            i += 1;
        }
    }
    found
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

struct Reader {
    tokens: Vec<String>,
    at: usize,
    code: Code,
}

impl Code {
    pub fn of(text: &str) -> Self {
        let mut reader = Reader { tokens: tokens(text), at: 0, code: Self::default() };
        reader.read();
        reader.code
    }
}

impl Reader {
    fn peek(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", String::as_str)
    }

    /// Goes past what the mark here opens.
    fn skip_group(&mut self) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    fn read(&mut self) {
        let mut depth = 0_usize;
        let (mut attributes, mut exported) = (String::new(), false);
        while self.at < self.tokens.len() {
            let token = self.peek(0).to_owned();
            match token.as_str() {
                "#" => {
                    let start = self.at;
                    self.at += 1 + usize::from(self.peek(1) == "!");
                    self.skip_group();
                    attributes.push_str(&self.tokens[start..self.at].concat());
                    continue;
                }
                "pub" => {
                    exported = true;
                    self.at += 1;
                    if self.peek(0) == "(" {
                        self.skip_group();
                    }
                    continue;
                }
                "mod" if is_name(self.peek(1)) => {
                    let name = self.peek(1).to_owned();
                    let test = attributes.contains("cfg(test)");
                    self.at += 2;
                    if self.peek(0) == ";" {
                        let feature = attributes.split("cfg(feature=\"").nth(1);
                        let feature = feature.and_then(|rest| rest.split(')').next());
                        self.code.modules.push((name.clone(), feature.map(str::to_owned)));
                        if test {
                            self.code.test_modules.insert(name);
                        }
                    } else if test {
                        self.skip_group();
                    }
                }
                "use" => {
                    self.at += 1;
                    self.tree(&[], exported && depth == 0);
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union"
                    if depth == 0 && is_name(self.peek(1)) && self.peek(1) != "fn" =>
                {
                    let name = self.peek(1).to_owned();
                    self.code.items.insert(name);
                    self.at += 2;
                }
                "macro_rules" => {
                    let name = self.peek(2).to_owned();
                    self.code.items.insert(name);
                    self.at += 3;
                }
                name if is_name(name) => {
                    let mut path = vec![token];
                    self.at += 1;
                    while self.peek(0) == "::" && is_name(self.peek(1)) {
                        path.push(self.peek(1).to_owned());
                        self.at += 2;
                    }
                    if depth == 0 && matches!(path[0].as_str(), "unsafe" | "async") {
                        continue;
                    }
                    self.code.words.extend(path.iter().cloned());
                    self.code.paths.insert(path);
                }
                mark => {
                    match mark {
                        "{" => depth += 1,
                        "}" => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    self.at += 1;
                }
            }
            attributes.clear();
            exported = false;
        }
    }

    /// What follows `use`, up to its end or that of the group it stands in.
    fn tree(&mut self, before: &[String], exported: bool) {
        let mut path = before.to_vec();
        loop {
            let token = self.peek(0).to_owned();
            self.at += 1;
            match token.as_str() {
                "::" => {}
                "{" => {
                    while self.peek(0) != "}" && self.at < self.tokens.len() {
                        self.tree(&path, exported);
                        if self.peek(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "as" => {
                    let name = self.peek(0).to_owned();
                    self.at += 1;
                    self.code.uses.push(Use { path, name, exported });
                    return;
                }
                "*" => {
                    self.code.uses.push(Use { path, name: token, exported });
                    return;
                }
                name if is_name(name) => path.push(token),
                _ => {
                    self.at -= 1;
                    // `self` in a group is the module itself.
                    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
                        path.pop();
                    }
                    let name = path.last().cloned().unwrap_or_default();
                    self.code.uses.push(Use { path, name, exported });
                    return;
                }
            }
        }
    }
}
