//! Events that clients write: what a real server checks of them, and what is kept.

use serde_json::Value;

use super::answer::{Answer, failure};
use super::http::Request;
use super::state::State;

/// What stands before and behind the namespace in the path of the collection.
const PATH: [&str; 2] = ["/apis/events.k8s.io/v1/namespaces/", "/events"];

/// The answer to a request that is about events; `None` if it is not.
pub fn answer(state: &mut State, request: &Request) -> Option<Answer> {
    let (namespace, rest) = request.path.strip_prefix(PATH[0])?.split_once(PATH[1])?;
    if let Some(status) = state.trouble.events {
        return Some(failure(status, "trouble with events"));
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    Some(match (request.method.as_str(), rest.strip_prefix('/')) {
        ("POST", None) => create(state, namespace, body),
        ("PATCH", Some(name)) => patch(state, namespace, name, &body),
        _ => failure(405, "method not allowed"),
    })
}

fn create(state: &mut State, namespace: &str, event: Value) -> Answer {
    if let Some(problem) = problem(namespace, &event) {
        return failure(422, &problem);
    }
    let id = (namespace.to_owned(), event["metadata"]["name"].as_str().unwrap().to_owned());
    if state.events.iter().any(|(known, _)| *known == id) {
        return failure(409, "already exists");
    }
    let answer = Answer::Whole(201, event.to_string());
    state.events.push((id, event));
    answer
}

fn patch(state: &mut State, namespace: &str, name: &str, patch: &Value) -> Answer {
    let id = (namespace.to_owned(), name.to_owned());
    let Some((_, event)) = state.events.iter_mut().find(|(known, _)| *known == id) else {
        return failure(404, "not found");
    };
    let (series, others) = (&patch["series"], patch.as_object().unwrap().len() - 1);
    if series["count"].as_u64().is_none_or(|count| count < 2) || !is_time(&series["lastObservedTime"]) || others > 0 {
        return failure(422, "a series of at least 2 with a time, and nothing else, can be set");
    }
    event["series"] = series.clone();
    Answer::Whole(200, event.to_string())
}

/// `ValidateEventCreate` in pkg/apis/core/validation/events.go.
fn problem(namespace: &str, event: &Value) -> Option<String> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let short = |pointer: &str| !text(pointer).is_empty() && text(pointer).len() <= 128;
    let about = text("/regarding/namespace");
    let checks = [
        (text("/metadata/namespace") == namespace, "metadata.namespace"),
        (!text("/metadata/name").is_empty() && text("/metadata/name").len() <= 253, "metadata.name"),
        (about == namespace || (about.is_empty() && namespace == "default"), "regarding.namespace"),
        (!text("/regarding/kind").is_empty() && !text("/regarding/name").is_empty(), "regarding"),
        (is_time(&event["eventTime"]), "eventTime"),
        (short("/reportingController") && short("/reportingInstance"), "reporting"),
        (short("/action") && short("/reason"), "action, reason"),
        (["Normal", "Warning"].contains(&text("/type")), "type"),
        (text("/note").len() <= 1024, "note"),
    ];
    checks.iter().find(|(fine, _)| !fine).map(|(_, field)| format!("{field} is invalid: {event}"))
}

/// `2006-01-02T15:04:05.000000Z`
fn is_time(value: &Value) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.ddddddZ";
    value.as_str().is_some_and(|text| {
        let fits =
            |(letter, wanted): (char, char)| if wanted == 'd' { letter.is_ascii_digit() } else { letter == wanted };
        text.len() == pattern.len() && text.chars().zip(pattern.chars()).all(fits)
    })
}
