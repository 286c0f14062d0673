//! Finds the paths in a Rust file that lead to another module of the crate, or to a crate that counts.
//!
//! No parser: a path is what follows `crate::`, `kube_ipvs::`, `super::` or the name of a crate, with its braces
//! unfolded, wherever it stands. Comments and literals don't count. A crate's name does not count in a file that
//! declares a module of that name.

use std::path::Path;

/// A path that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The line on which its last part stands, from 1.
    pub line: usize,
    /// Within the crate `module::module::Item`, otherwise `crate:name::Item`.
    pub path: String,
}

/// The path of the module that a file below `src` holds.
pub fn module_of(file: &Path) -> String {
    let path = file.with_extension("");
    let mut parts: Vec<_> = path.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts.join("::")
}

/// All imports of a file.
pub fn imports(file: &Path, text: &str, crates: &[&str]) -> Vec<Import> {
    let tokens = tokens(text);
    let module = module_of(file);
    let here: Vec<&str> = module.split("::").filter(|part| *part != "lib" && *part != "main").collect();
    let declares = |name: &str| tokens.windows(2).any(|pair| pair[0].text == "mod" && pair[1].text == name);
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let continues = index > 0 && tokens[index - 1].text == "::";
        if continues || tokens.get(index + 1).is_none_or(|next| next.text != "::") {
            continue;
        }
        let start: Vec<String> = match token.text {
            "crate" | "kube_ipvs" => Vec::new(),
            // A `super` within a module inside the file goes up less far than it is taken for here, and stays in sight.
            "super" => here.iter().take(here.len().saturating_sub(1)).map(ToString::to_string).collect(),
            name if crates.contains(&name) && !declares(name) => vec![format!("crate:{name}")],
            _ => continue,
        };
        unfold(&tokens, index + 2, start, &mut found);
    }
    found
}

/// Follows a path from `at`, which stands behind a `::`; returns where it ends.
fn unfold(tokens: &[Token<'_>], mut at: usize, mut path: Vec<String>, found: &mut Vec<Import>) -> usize {
    let mut line = 0;
    while let Some(token) = tokens.get(at) {
        line = token.line;
        match token.text {
            "{" => return unfold_braces(tokens, at + 1, &path, found),
            "super" => drop(path.pop()),
            "self" | "*" => {}
            name if name.starts_with(|c: char| c.is_alphabetic() || c == '_') => path.push(name.to_owned()),
            _ => break,
        }
        at += 1;
        if tokens.get(at).is_none_or(|next| next.text != "::") {
            break;
        }
        at += 1;
    }
    // What is left of `super::super` at the root of the crate is an item of `lib.rs` itself.
    if !path.is_empty() {
        found.push(Import { line, path: path.join("::") });
    }
    at
}

fn unfold_braces(tokens: &[Token<'_>], mut at: usize, path: &[String], found: &mut Vec<Import>) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.text {
            "}" => return at + 1,
            "," => at += 1,
            // The new name of `x as y`.
            "as" => at += 2,
            _ => at = unfold(tokens, at, path.to_vec(), found).max(at + 1),
        }
    }
    at
}

#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Names, `::` and single other characters; without comments and literals.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut tokens, mut rest, mut line) = (Vec::new(), text, 1);
    while let Some(first) = rest.chars().next() {
        let name = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            string(rest)
        } else if rest.starts_with("r#\"") {
            rest.get(3..).and_then(|inner| inner.find("\"#")).map_or(rest.len(), |end| end + 5)
        } else if first == '\'' {
            character(rest)
        } else if name > 0 {
            tokens.push(Token { text: &rest[..name], line });
            name
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(Token { text: &rest[..length], line });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of a string literal with both its quotes.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return index + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

/// The length of a character literal; of a lifetime only its quote.
fn character(text: &str) -> usize {
    let mut inner = text.chars().skip(1);
    match (inner.next(), inner.next()) {
        (Some('\\'), _) => text.get(3..).and_then(|rest| rest.find('\'')).map_or(text.len(), |end| end + 4),
        (Some(c), Some('\'')) => c.len_utf8() + 2,
        _ => 1,
    }
}
