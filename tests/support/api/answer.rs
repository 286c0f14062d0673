//! What is answered: lists, watches, errors.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Shared;
use super::events;
use super::http::{Connection, Request};
use super::state::{State, path_of};

/// An answer.
pub enum Answer {
    /// A status and a body.
    Whole(u16, String),
    /// A stream.
    Watch(Watch),
}

/// A watch that begins.
pub struct Watch {
    path: String,
    labels: String,
    from: u64,
    initial: bool,
    until: Instant,
}

/// Decides on the answer to a request.
pub fn answer(shared: &Shared, request: &Request) -> Answer {
    let mut state = shared.lock();
    let known = ["Service", "EndpointSlice", "Node", "ServiceCIDR"].map(path_of);
    let troubled = state.trouble.statuses.get(request.path.as_str()).copied();
    if let Some(status) = state.trouble.status.or(troubled) {
        return failure(status, "trouble");
    }
    if let Some(answer) = events::answer(&mut state, request) {
        return answer;
    }
    let (path, namespace) = collection(&request.path);
    if !known.contains(&path.as_str()) {
        return failure(404, "the server could not find the requested resource");
    }
    match request.get("watch") {
        "true" => watch(&state, request),
        _ => list(&mut state, request, &path, namespace),
    }
}

/// The path of a collection in all namespaces, and the only one that is asked for.
fn collection(path: &str) -> (String, Option<&str>) {
    let whole = || (path.to_owned(), None);
    let Some((group, rest)) = path.split_once("/namespaces/") else { return whole() };
    let Some((namespace, plural)) = rest.split_once('/') else { return whole() };
    (format!("{group}/{plural}"), Some(namespace))
}

pub fn failure(status: u16, message: &str) -> Answer {
    Answer::Whole(status, status_object(status, message).to_string())
}

fn status_object(status: u16, message: &str) -> Value {
    let reason = match status {
        410 => "Expired",
        403 => "Forbidden",
        404 => "NotFound",
        422 => "Invalid",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": status})
}

fn list(state: &mut State, request: &Request, path: &str, namespace: Option<&str>) -> Answer {
    let mut items = state.all(path);
    let name = request.get("fieldSelector").split(',').find_map(|term| term.strip_prefix("metadata.name="));
    items.retain(|item| {
        let is = |key: &str, wanted: Option<&str>| wanted.is_none_or(|wanted| item["metadata"][key] == wanted);
        is("namespace", namespace) && is("name", name) && is_selected(request.get("labelSelector"), item)
    });
    let token = request.get("continue").to_owned();
    let begin: usize = if token.is_empty() { 0 } else { token.split('@').next().unwrap().parse().unwrap() };
    if !token.is_empty() && state.trouble.tokens_expire {
        return failure(410, "the provided continue parameter is too old");
    }
    let limit = request.get("limit").parse().unwrap_or(usize::MAX);
    let page: Vec<&Value> = items.iter().skip(begin).take(limit).collect();
    let end = begin + page.len();
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if end < items.len() {
        metadata["continue"] = json!(format!("{end}@{}", state.version));
    }
    Answer::Whole(200, json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": page}).to_string())
}

fn watch(state: &State, request: &Request) -> Answer {
    let initial = request.get("sendInitialEvents") == "true";
    if initial && state.trouble.no_streams {
        return failure(422, "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled");
    }
    if let Some(status) = state.trouble.watch_status.filter(|_| !initial) {
        return failure(status, "trouble");
    }
    let seconds = request.get("timeoutSeconds").parse().unwrap_or(300);
    let from = if initial { 0 } else { request.get("resourceVersion").parse().unwrap() };
    Answer::Watch(Watch {
        path: request.path.clone(),
        labels: request.get("labelSelector").to_owned(),
        from,
        initial,
        until: Instant::now() + Duration::from_secs(seconds),
    })
}

impl Watch {
    /// Sends until the time is over or the connection is cut.
    pub fn run(mut self, connection: &mut Connection<'_>) -> std::io::Result<()> {
        if self.initial {
            self.send_list(connection)?;
        }
        let mut bookmarks = connection.shared.lock().bookmarks;
        while Instant::now() < self.until {
            let mut lines = String::new();
            {
                let state = connection.shared.lock();
                if state.generation != connection.generation {
                    return Err(std::io::ErrorKind::ConnectionReset.into());
                }
                if self.from < state.oldest {
                    let status = status_object(410, "too old resource version");
                    drop(state);
                    connection.send(&event("ERROR", &status))?;
                    return connection.end();
                }
                // Newest last: the history is in order.
                let begin = state.history.partition_point(|change| change.version <= self.from);
                for change in state.history[begin..].iter().filter(|change| change.path == self.path) {
                    if !is_selected(&self.labels, &change.object) {
                        continue;
                    }
                    lines += &event(change.kind, &change.object);
                }
                self.from = self.from.max(state.version);
                if state.bookmarks > bookmarks {
                    bookmarks = state.bookmarks;
                    lines += &event("BOOKMARK", &bookmark(self.from, false));
                }
                if lines.is_empty() {
                    let waiting = connection.shared.changed.wait_timeout(state, Duration::from_millis(50));
                    drop(waiting.unwrap());
                    continue;
                }
            }
            connection.send(&lines)?;
        }
        connection.end()
    }

    fn send_list(&mut self, connection: &mut Connection<'_>) -> std::io::Result<()> {
        let (objects, version, marked, broken) = {
            let state = connection.shared.lock();
            let trouble = &state.trouble;
            let mut all = state.all(&self.path);
            all.retain(|object| is_selected(&self.labels, object));
            (all, state.version, !trouble.no_end_of_list, trouble.lists_break_off)
        };
        self.from = version;
        for (index, object) in objects.iter().enumerate() {
            if broken && index >= objects.len() / 2 {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            connection.send(&event("ADDED", object))?;
        }
        if marked { connection.send(&event("BOOKMARK", &bookmark(version, true))) } else { Ok(()) }
    }
}

/// Whether an object has the labels of a selector: `key`, `!key`, `key=value`, `key!=value`, with commas between.
fn is_selected(selector: &str, object: &Value) -> bool {
    let label = |key: &str| object["metadata"]["labels"][key].as_str();
    selector.split(',').filter(|term| !term.is_empty()).all(|term| match term.split_once("!=") {
        Some((key, value)) => label(key) != Some(value),
        None => match (term.split_once('='), term.strip_prefix('!')) {
            (Some((key, value)), _) => label(key) == Some(value),
            (None, Some(key)) => label(key).is_none(),
            (None, None) => label(term).is_some(),
        },
    })
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn bookmark(version: u64, end: bool) -> Value {
    let annotations = if end { json!({"k8s.io/initial-events-end": "true"}) } else { json!({}) };
    json!({"kind": "Bookmark", "apiVersion": "v1",
        "metadata": {"resourceVersion": version.to_string(), "annotations": annotations}})
}
