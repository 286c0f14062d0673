//! Words of a rule line: splitting as iptables-restore splits, quoting as iptables-save quotes.

use std::borrow::Cow;
use std::fmt;

/// One word; `quoted` tells a value like `"-j"` from the option `-j`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) quoted: bool,
}

impl Word<'_> {
    /// Whether this is the bare word `text`.
    pub(crate) fn is(&self, text: &str) -> bool {
        !self.quoted && self.text == text
    }
}

/// Splits a line. White space ends a word; between double quotes a backslash takes the next character as it is
/// (`add_param_to_argv` in iptables' `xshared.c`). An open quote reaches to the last character of the line that is no
/// white space: what is behind belongs to no word.
pub(crate) fn split(line: &str) -> Vec<Word<'_>> {
    let mut words = Vec::with_capacity(16);
    let mut rest = line.trim_end_matches(is_space);
    loop {
        rest = rest.trim_start_matches(is_space);
        if rest.is_empty() {
            return words;
        }
        let end = rest.find(|c| is_space(c) || c == '"').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(body) = after.strip_prefix('"') {
            let (text, after) = quoted(word, body);
            words.push(Word { text, quoted: true });
            rest = after;
        } else {
            words.push(Word { text: Cow::Borrowed(word), quoted: false });
            rest = after;
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// The body of a quoted word that follows `before` without a gap, and what comes after its closing quote.
fn quoted<'a>(before: &str, body: &'a str) -> (Cow<'a, str>, &'a str) {
    let plain = body.find(['"', '\\']).unwrap_or(body.len());
    let (start, rest) = body.split_at(plain);
    if before.is_empty() && !rest.starts_with('\\') {
        return (Cow::Borrowed(start), rest.strip_prefix('"').unwrap_or(rest));
    }
    let mut text = format!("{before}{start}");
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => text.extend(chars.next()),
            other => text.push(other),
        }
    }
    (Cow::Owned(text), chars.as_str())
}

/// A string value as `xtables_save_string` prints it: bare when every character is harmless, else quoted with `"`,
/// `\` and `'` escaped.
pub(crate) fn write_value(f: &mut dyn fmt::Write, text: &str) -> fmt::Result {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !text.is_empty() && text.bytes().all(harmless) {
        return f.write_str(text);
    }
    f.write_char('"')?;
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '\'') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

/// The words joined again; `split(join(words))` gives the same words.
pub(crate) fn join(words: &[Word<'_>]) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        let bare = !word.quoted && !word.text.is_empty() && !word.text.contains([' ', '\t', '\n', '\r', '"']);
        if bare {
            line.push_str(&word.text);
        } else {
            line.push('"');
            for c in word.text.chars() {
                if matches!(c, '"' | '\\' | '\'') {
                    line.push('\\');
                }
                line.push(c);
            }
            line.push('"');
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(line: &str) -> Vec<String> {
        split(line).into_iter().map(|word| word.text.into_owned()).collect()
    }

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(texts(r#"-m comment --comment "a \"b\" \\ it\'s" -j X"#)[3], r#"a "b" \ it's"#);
        assert_eq!(texts(r#"--comment "" -j"#), ["--comment", "", "-j"]);
        assert_eq!(texts(r#"--comment "open"#), ["--comment", "open"]);
        assert_eq!(texts(" \t "), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn a_written_value_is_read_back(text in "[^\\x00\n\r]{0,40}") {
            let mut line = String::from("--comment ");
            write_value(&mut line, &text).unwrap();
            prop_assert_eq!(&split(&line)[1].text, &text);
        }

        #[test]
        fn joining_then_splitting_keeps_the_words(line in "\\PC{0,80}") {
            let words = split(&line);
            let joined = join(&words);
            let again = split(&joined);
            prop_assert_eq!(again, words);
        }
    }
}
