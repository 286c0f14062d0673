//! `--selector`: label selectors as kubectl reads them, over labels written `a=1,b=2`.

use std::str::FromStr;

/// What is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no label selector; write NAME=VALUE, NAME!=VALUE, NAME, !NAME, NAME in (A,B) or NAME notin (A,B), with commas between"
)]
pub struct SelectorError(String);

/// Requirements, all of which have to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    label: String,
    /// One of these; empty: any.
    values: Vec<String>,
    /// The opposite. A label that is not there fulfils it.
    negated: bool,
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let error = || SelectorError(text.to_owned());
        let parts = split(text).ok_or_else(error)?;
        let requirements = parts.into_iter().map(|part| requirement(part.trim()).ok_or_else(error));
        requirements.collect::<Result<_, _>>().map(Self)
    }
}

impl Selector {
    /// Whether `labels`, written `a=1,b=2`, fulfil it.
    #[must_use]
    pub fn matches(&self, labels: &str) -> bool {
        let value =
            |name: &str| labels.split(',').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        self.0.iter().all(|requirement| {
            let found = value(&requirement.label).is_some_and(|(_, value)| {
                requirement.values.is_empty() || requirement.values.iter().any(|wanted| wanted == value)
            });
            found != requirement.negated
        })
    }
}

/// At the commas outside of brackets.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut open) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            '(' if open => return None,
            '(' => open = true,
            ')' if !open => return None,
            ')' => open = false,
            ',' if !open => {
                parts.push(text.get(start..at)?);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?);
    (!open).then_some(parts)
}

fn requirement(text: &str) -> Option<Requirement> {
    let make = |label: &str, values: Vec<String>, negated| {
        let label = label.trim();
        let fine = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        let usable = !label.is_empty() && fine(label) && values.iter().all(|value| fine(value));
        usable.then(|| Requirement { label: label.to_owned(), values, negated })
    };
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some(list) = text.strip_suffix(')') {
        let (head, list) = list.split_once('(')?;
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        let (label, word) = head.trim_end().rsplit_once(char::is_whitespace)?;
        return match word {
            "in" => make(label, values, false),
            "notin" => make(label, values, true),
            _ => None,
        };
    }
    if let Some((label, value)) = text.split_once("!=") {
        return make(label, one(value), true);
    }
    if let Some((label, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return make(label, one(value), false);
    }
    match text.strip_prefix('!') {
        Some(label) => make(label, Vec::new(), true),
        None => make(text, Vec::new(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_as_kubectl_reads_them() {
        let labels = "app=web,tier=front";
        for (selector, wanted) in [
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app=web,tier=back", false),
            ("app", true),
            ("!app", false),
            ("!zone", true),
            ("zone!=a", true),
            ("app in (api, web),tier", true),
            ("app notin (api,web)", false),
            ("zone notin (a)", true),
            ("zone in (a)", false),
        ] {
            assert_eq!(selector.parse::<Selector>().unwrap().matches(labels), wanted, "{selector}");
        }
        assert!("app=".parse::<Selector>().unwrap().matches("app="));
        for wrong in ["", "a b", "app in web", "app in (web", "a=b=c", ",", "a=b,"] {
            assert!(wrong.parse::<Selector>().is_err(), "{wrong}");
        }
    }
}
