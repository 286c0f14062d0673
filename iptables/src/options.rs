//! The options of one match or target extension, as they stand on a rule line.

use crate::quote::Word;

/// Single-dash words that end an extension's options.
const BOUNDARIES: [&str; 11] = ["-m", "-j", "-g", "-s", "-d", "-i", "-o", "-p", "-f", "-c", "-A"];

/// One option, `--name` or `! --name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opt<'w> {
    pub(crate) name: &'w str,
    pub(crate) negated: bool,
}

/// Reads the words of a rule one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Words<'w, 'l> {
    words: &'w [Word<'l>],
    at: usize,
}

impl<'w, 'l> Words<'w, 'l> {
    pub(crate) fn new(words: &'w [Word<'l>]) -> Self {
        Self { words, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<&'w Word<'l>> {
        self.words.get(self.at)
    }

    /// The next word, whatever it is.
    pub(crate) fn value(&mut self) -> Option<&'w str> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(&word.text)
    }

    /// Takes the next word if it is the bare `text`.
    pub(crate) fn take(&mut self, text: &str) -> bool {
        let found = self.peek().is_some_and(|word| word.is(text));
        self.at += usize::from(found);
        found
    }

    /// Whether an extension's options end here: at the line's end, at `-m`, `-j` and the like, negated or not.
    pub(crate) fn at_boundary(&self) -> bool {
        let Some(mut word) = self.peek() else { return true };
        if word.is("!")
            && let Some(next) = self.words.get(self.at + 1)
        {
            word = next;
        }
        !word.quoted && BOUNDARIES.contains(&&*word.text)
    }

    /// The next option, `None` at a boundary. A word that is no option comes back as an option of that name, which no
    /// extension knows.
    pub(crate) fn option(&mut self) -> Option<Opt<'w>> {
        if self.at_boundary() {
            return None;
        }
        let negated = self.take("!");
        self.value().map(|name| Opt { name, negated })
    }

    /// Skips to the boundary and returns what was skipped.
    pub(crate) fn rest(&mut self) -> &'w [Word<'l>] {
        let from = self.at;
        while !self.at_boundary() {
            self.at += 1;
        }
        self.words.get(from..self.at).unwrap_or_default()
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn since(&self, position: usize) -> &'w [Word<'l>] {
        self.words.get(position..self.at).unwrap_or_default()
    }
}
