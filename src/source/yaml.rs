//! YAML and JSON text to documents that know on which line each field stands.

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use serde_json::{Map, Number, Value};

/// Text that is no YAML or JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

/// One document.
#[derive(Debug)]
pub struct Document<'text> {
    node: MarkedYaml<'text>,
}

/// Reads all documents of a text.
///
/// # Errors
/// When any of them is malformed: a half-written file must not pass for a shorter one.
pub fn documents(text: &str) -> Result<Vec<Document<'_>>, SyntaxError> {
    let nodes = MarkedYaml::load_from_str(text)
        .map_err(|error| SyntaxError { line: error.marker().line(), message: error.info().to_owned() })?;
    Ok(nodes.into_iter().map(|node| Document { node }).collect())
}

impl Document<'_> {
    /// The content as JSON.
    ///
    /// # Errors
    /// On anything that JSON cannot hold, such as a mapping with a sequence as key.
    pub fn value(&self) -> Result<Value, SyntaxError> {
        value(&self.node)
    }

    /// The line on which the name of the field at a path stands; the nearest parent's value if it is missing.
    pub fn line_of_name(&self, path: &str) -> usize {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        match self.node_at(parent) {
            MarkedYaml { data: YamlData::Mapping(mapping), .. } => mapping.keys().find(|key| is_key(key, name)),
            _ => None,
        }
        .map_or_else(|| self.line_of(path), |key| key.span.start.line())
    }

    /// The line of the field at a path such as `items[3].spec.ports[0].port`; the nearest parent's if it is missing.
    pub fn line_of(&self, path: &str) -> usize {
        self.node_at(path).span.start.line()
    }

    /// The node at a path, or its nearest parent.
    fn node_at(&self, path: &str) -> &MarkedYaml<'_> {
        let mut node = &self.node;
        for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
            let next = match &node.data {
                YamlData::Mapping(mapping) => mapping.iter().find(|(key, _)| is_key(key, step)).map(|(_, value)| value),
                YamlData::Sequence(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        node
    }
}

fn is_key(key: &MarkedYaml<'_>, step: &str) -> bool {
    matches!(&key.data, YamlData::Value(Scalar::String(text)) if text == step)
}

fn value(node: &MarkedYaml<'_>) -> Result<Value, SyntaxError> {
    let error = |message: &str| SyntaxError { line: node.span.start.line(), message: message.to_owned() };
    Ok(match &node.data {
        YamlData::Value(scalar) => self::scalar(scalar).ok_or_else(|| error("a number that JSON cannot hold"))?,
        YamlData::Sequence(items) => Value::Array(items.iter().map(value).collect::<Result<_, _>>()?),
        YamlData::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, entry) in mapping {
                let YamlData::Value(key) = &key.data else { return Err(error("a key must be a string")) };
                object.insert(key_text(key), value(entry)?);
            }
            Value::Object(object)
        }
        YamlData::Tagged(_, inner) => value(inner)?,
        YamlData::Representation(text, ..) => Value::String(text.to_string()),
        YamlData::Alias(_) => return Err(error("an alias without an anchor")),
        YamlData::BadValue => return Err(error("a value that does not fit its tag")),
    })
}

fn scalar(scalar: &Scalar<'_>) -> Option<Value> {
    Some(match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(value) => Value::Bool(*value),
        Scalar::Integer(value) => Value::Number((*value).into()),
        Scalar::FloatingPoint(value) => Value::Number(Number::from_f64(value.into_inner())?),
        Scalar::String(text) => Value::String(text.to_string()),
    })
}

fn key_text(key: &Scalar<'_>) -> String {
    match scalar(key) {
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_with_lines() {
        let text = "a: 1\n---\nitems:\n- spec:\n    ports:\n    - port: eighty\n      name: \"x\"\n";
        let documents = documents(text).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[1].value().unwrap()["items"][0]["spec"]["ports"][0]["port"], "eighty");
        assert_eq!(documents[1].line_of("items[0].spec.ports[0].port"), 6);
        assert_eq!(documents[1].line_of("items[0].spec.ports[0].nothing"), 6);
    }

    #[test]
    fn half_a_file_is_an_error_with_its_line() {
        for text in ["a: [1, 2\n", "{\"a\": {\"b\": 1}", "a: \"open\nb: 2\n", "a:\n  - b\n c: 1\n"] {
            let error = documents(text).map(|_| ()).unwrap_err();
            assert!(error.line >= 1, "{text:?}: {error:?}");
        }
    }

    #[test]
    fn json_is_yaml() {
        let documents = documents("{\"kind\": \"List\", \"items\": [{\"n\": 1.5, \"s\": \"1\"}]}").unwrap();
        let value = documents[0].value().unwrap();
        assert_eq!(value["items"][0]["n"], 1.5);
        assert_eq!(value["items"][0]["s"], "1");
    }
}
