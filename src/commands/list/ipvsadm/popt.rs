//! How the library popt 1.19 takes a command line apart (`poptGetNextOpt` in `popt.c`): short options in bundles, an
//! argument glued to its option with or without `=`, no abbreviations, arguments that are no options anywhere.

use super::options::{Argument, Code, OPTIONS, OptionName};

/// A command line that is being read.
#[derive(Debug)]
pub struct Popt<'a> {
    words: &'a [&'a str],
    next: usize,
    /// What is left of a bundle of short options.
    bundle: Option<&'a str>,
    leftovers: Vec<&'a str>,
    rest_is_left: bool,
}

/// An option and its argument, or what is wrong.
pub type Next = Result<(Code, Option<String>), String>;

impl<'a> Popt<'a> {
    /// Of words without the program's name.
    pub fn new(words: &'a [&'a str]) -> Self {
        Self { words, next: 0, bundle: None, leftovers: Vec::new(), rest_is_left: false }
    }

    /// The word that was read last.
    pub fn word(&self) -> &'a str {
        self.next.checked_sub(1).and_then(|last| self.words.get(last)).copied().unwrap_or_default()
    }

    /// The first word that is no option.
    pub fn leftover(&self) -> Option<&'a str> {
        self.leftovers.first().copied()
    }

    /// The next option; none at the end.
    pub fn next(&mut self) -> Option<Next> {
        let (option, glued) = match self.bundle.take() {
            Some(bundle) => self.short(bundle),
            None => {
                let word = self.next_word()?;
                match word.strip_prefix("--") {
                    Some(long) => {
                        let (name, value) =
                            long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                        (OPTIONS.iter().find(|option| option.long == name), value)
                    }
                    None => self.short(word.strip_prefix('-').unwrap_or_default()),
                }
            }
        };
        let Some(option) = option else { return Some(Err(self.wrong("unknown option"))) };
        Some(self.argument(option, glued).map(|argument| (option.code, argument)))
    }

    /// The next word that is an option.
    fn next_word(&mut self) -> Option<&'a str> {
        loop {
            let word = *self.words.get(self.next)?;
            self.next += 1;
            if word == "--" && !self.rest_is_left {
                self.rest_is_left = true;
            } else if self.rest_is_left || !word.starts_with('-') || word == "-" {
                self.leftovers.push(word);
            } else {
                return Some(word);
            }
        }
    }

    fn short(&mut self, bundle: &'a str) -> (Option<&'static OptionName>, Option<&'a str>) {
        let mut letters = bundle.chars();
        let letter = letters.next();
        let rest = letters.as_str();
        self.bundle = (!rest.is_empty()).then_some(rest);
        (OPTIONS.iter().find(|option| option.short.is_some() && option.short == letter), None)
    }

    fn argument(&mut self, option: &OptionName, glued: Option<&'a str>) -> Result<Option<String>, String> {
        if option.argument == Argument::None {
            let unwanted = glued.is_some() || self.bundle.is_some_and(|rest| rest.starts_with('='));
            return if unwanted { Err(self.wrong("option does not take an argument")) } else { Ok(None) };
        }
        if let Some(value) = glued {
            return Ok(Some(value.to_owned()));
        }
        if let Some(rest) = self.bundle.take() {
            return Ok(Some(rest.strip_prefix('=').unwrap_or(rest).to_owned()));
        }
        match self.words.get(self.next) {
            None if option.argument == Argument::Optional => Ok(None),
            None => Err(self.wrong("missing argument")),
            Some(word) if option.argument == Argument::Optional && word.starts_with('-') => Ok(None),
            Some(word) => {
                self.next += 1;
                Ok(Some((*word).to_owned()))
            }
        }
    }

    fn wrong(&self, what: &str) -> String {
        format!("{}: {what}", self.word())
    }
}
