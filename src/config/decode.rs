//! Configuration files to objects, strictly: one document of the expected kind, no unknown field, no wrong type; what is
//! wrong is named with its line.

use super::kubeproxy::{self, KubeProxyConfiguration};
use crate::source::yaml;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Fields of former releases. They may stand in files that outlived them, and meant nothing any more when they went.
const REMOVED: [&str; 3] = ["udpIdleTimeout", "resourceContainer", "conntrack.max"];

/// What is wrong with a file's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct DecodeError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
}

/// A file's object, and which fields of former releases stand in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded<T> {
    /// The object.
    pub object: T,
    /// Paths of fields that are passed over.
    pub removed: Vec<&'static str>,
}

/// Reads kube-proxy's configuration; defaults are not filled in yet.
///
/// # Errors
/// The first thing that is wrong.
pub fn kube_proxy(text: &str) -> Result<Decoded<KubeProxyConfiguration>, DecodeError> {
    object(text, kubeproxy::API_VERSION, kubeproxy::KIND, &REMOVED)
}

/// Reads the object of a kind.
///
/// # Errors
/// The first thing that is wrong.
pub fn object<T>(text: &str, api_version: &str, kind: &str, removed: &[&'static str]) -> Result<Decoded<T>, DecodeError>
where
    T: Default + Serialize + DeserializeOwned,
{
    let error = |line: usize, problem: String| DecodeError { line: line.max(1), problem };
    let documents = yaml::documents(text).map_err(|wrong| error(wrong.line, wrong.message))?;
    let mut objects = Vec::new();
    for document in &documents {
        match document.value().map_err(|wrong| error(wrong.line, wrong.message))? {
            // What stands behind a last "---".
            Value::Null => {}
            value => objects.push((document, value)),
        }
    }
    let mut objects = objects.into_iter();
    let Some((document, value)) = objects.next() else {
        return Err(error(1, format!("the file is empty; a {kind} ({api_version}) was expected")));
    };
    if let Some((second, _)) = objects.next() {
        return Err(error(second.line_of(""), format!("a second document; the file must have one {kind} and no more")));
    }
    let at = |path: &str, problem: String| error(document.line_of(path), problem);
    let Value::Object(mut fields) = value else {
        return Err(at("", format!("a {kind} ({api_version}) was expected")));
    };
    for (field, expected) in [("apiVersion", api_version), ("kind", kind)] {
        match fields.remove(field) {
            Some(Value::String(found)) if found == expected => {}
            Some(found) => return Err(at(field, format!("{field} {found} is not {expected:?}"))),
            None => return Err(at("", format!("{field} is missing; it must be {expected:?}"))),
        }
    }
    without_nulls(&mut fields);
    let removed: Vec<&'static str> = removed.iter().copied().filter(|path| take(&mut fields, path)).collect();
    let known = serde_json::to_value(T::default()).map_err(|wrong| at("", wrong.to_string()))?;
    if let Some(path) = unknown(&fields, &known, "") {
        return Err(error(document.line_of_name(&path), format!("unknown field {path:?}")));
    }
    let object = serde_path_to_error::deserialize(Value::Object(fields)).map_err(|wrong| {
        let path = wrong.path().to_string();
        at(&path, format!("{path}: {}", wrong.inner()))
    })?;
    Ok(Decoded { object, removed })
}

/// To Go, null means "as if it were not there".
fn without_nulls(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
    for value in fields.values_mut() {
        if let Value::Object(fields) = value {
            without_nulls(fields);
        }
    }
}

/// Takes a field out; whether it was there.
fn take(fields: &mut Map<String, Value>, path: &str) -> bool {
    match path.split_once('.') {
        None => fields.remove(path).is_some(),
        Some((first, rest)) => match fields.get_mut(first) {
            Some(Value::Object(fields)) => take(fields, rest),
            _ => false,
        },
    }
}

/// The first field that the object does not have. An empty object in `known` is a map with keys of the user's.
fn unknown(fields: &Map<String, Value>, known: &Value, prefix: &str) -> Option<String> {
    let Value::Object(known) = known else { return None };
    if known.is_empty() {
        return None;
    }
    fields.iter().find_map(|(name, value)| {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match (known.get(name), value) {
            (None, _) => Some(path),
            (Some(known), Value::Object(fields)) => unknown(fields, known, &path),
            _ => None,
        }
    })
}
