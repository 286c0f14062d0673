//! Writes events to the API server, as client-go's recorder does (`tools/events/event_recorder.go`): events.k8s.io/v1, in
//! the namespace of the object that they are about, those about a Node in `default`.
//!
//! An event that cannot be written is lost: what it is about stands in the log anyway. That it could not is told once
//! for as long as it lasts.

use super::access::Gateway;
use super::failure::Failure;
use crate::model::{Event, Regarding};
use crate::source::Snapshots;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::{debug, info, warn};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure nothing is tried for this long.
const PAUSE: Duration = Duration::from_secs(30);
/// Events that may be counted on instead of written anew.
const REMEMBERED: usize = 1024;
/// Who reports.
const CONTROLLER: &str = "kube-ipvs";

/// Bytes that fields may have (`legacyValidateEvent`, pkg/apis/core/validation/events.go).
const NOTE_BYTES: usize = 1024;
const INSTANCE_BYTES: usize = 128;
/// Of the 253 of a name, what the 16 digits and the dot leave.
const NAME_BYTES: usize = 236;

/// Writes events through a gateway.
#[derive(Debug)]
pub struct EventWriter {
    gateway: Arc<Gateway>,
    node_name: Arc<str>,
    snapshots: Snapshots,
    written: HashMap<Event, Written>,
    /// Nothing is tried before.
    paused_until: Option<Instant>,
    failing: bool,
}

/// An event that the server has, or had.
#[derive(Debug, Clone)]
struct Written {
    name: String,
    count: u64,
}

impl EventWriter {
    /// Reports as this node. Identities of Services that are not told with an event are looked up in the snapshots.
    pub(super) fn new(gateway: Arc<Gateway>, node_name: Arc<str>, snapshots: Snapshots) -> Self {
        Self { gateway, node_name, snapshots, written: HashMap::new(), paused_until: None, failing: false }
    }

    /// Writes an event that happened `count` times since it was written last. Returns when that is done, or was given up.
    pub async fn write(&mut self, event: &Event, count: u64) {
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            debug!("not written: {event}");
            return;
        }
        match self.try_write(event, count).await {
            Ok(()) if self.failing => {
                info!("events can be written again");
                (self.failing, self.paused_until) = (false, None);
            }
            Ok(()) => {}
            Err(failure) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let needed = match failure {
                        Failure::Refused { code: 401 | 403, .. } => {
                            " (it takes the verbs create and patch for events in the group events.k8s.io)"
                        }
                        _ => "",
                    };
                    warn!("events cannot be written: {failure}{needed}; what they tell stands in this log");
                }
                // Of a server that refuses one of them, the next one is none the worse for it.
                let away = !matches!(failure, Failure::Refused { code: 400 | 404 | 409 | 422, .. });
                self.paused_until = away.then(|| Instant::now() + PAUSE);
            }
        }
    }

    async fn try_write(&mut self, event: &Event, count: u64) -> Result<(), Failure> {
        let now = Timestamp::now();
        let namespace = namespace(&event.regarding).to_owned();
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        if let Some(known) = self.written.get(event).cloned() {
            let count = known.count + count;
            let series = json!({"series": {"count": count, "lastObservedTime": micro_time(now)}});
            let request = Request::new(&path).patch(&known.name, &PatchParams::default(), &Patch::Merge(series));
            match self.send(request).await {
                Ok(()) => {
                    self.written.insert(event.clone(), Written { name: known.name, count });
                    return Ok(());
                }
                // The server keeps events for an hour.
                Err(Failure::Refused { code: 404, .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        let body = self.body(event, &namespace, now);
        let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.send(Request::new(&path).create(&PostParams::default(), body.to_string().into_bytes())).await?;
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        self.written.insert(event.clone(), Written { name, count: 1 });
        Ok(())
    }

    async fn send(&self, request: Result<http::Request<Vec<u8>>, kube::core::request::Error>) -> Result<(), Failure> {
        let request = request.map_err(|error| Failure::Unreachable(error.to_string()))?;
        let answer = timeout(PATIENCE, self.gateway.client().request::<Value>(request)).await;
        answer.map_err(|_| Failure::Silent(PATIENCE))?.map(drop).map_err(Failure::from)
    }

    fn body(&self, event: &Event, namespace: &str, now: Timestamp) -> Value {
        let regarding = match &event.regarding {
            // kube-proxy, and kubectl describe, take a Node's name for its identity.
            Regarding::Node => {
                json!({"apiVersion": "v1", "kind": "Node", "name": &*self.node_name, "uid": &*self.node_name})
            }
            Regarding::Service { name, uid } => {
                let known = || self.snapshots.borrow().services.get(name).and_then(|service| service.uid.clone());
                let uid = uid.clone().or_else(known);
                json!({"apiVersion": "v1", "kind": "Service", "namespace": &*name.namespace, "name": &*name.name,
                    "uid": uid.map(|uid| uid.to_string())})
            }
        };
        let object = regarding.get("name").and_then(Value::as_str).unwrap_or_default();
        let name = format!("{}.{:016x}", at_most(object, NAME_BYTES), now.as_nanosecond());
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": micro_time(now),
            "reportingController": CONTROLLER,
            "reportingInstance": at_most(&format!("{CONTROLLER}-{}", self.node_name), INSTANCE_BYTES),
            "action": event.reason.action(),
            "reason": event.reason.as_str(),
            "type": if event.reason.is_warning() { "Warning" } else { "Normal" },
            "note": at_most(&event.note, NOTE_BYTES),
            "regarding": regarding,
        })
    }
}

fn namespace(regarding: &Regarding) -> &str {
    match regarding {
        Regarding::Node => "default",
        Regarding::Service { name, .. } => &name.namespace,
    }
}

/// `metav1.MicroTime`
fn micro_time(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// The beginning of a text, never half a character.
fn at_most(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(at_most("abc", 3), "abc");
        assert_eq!(at_most("abä", 3), "ab");
        assert_eq!(at_most(&"ä".repeat(600), NOTE_BYTES).len(), 1024);
    }

    #[test]
    fn times_are_written_as_the_api_wants_them() {
        let time = Timestamp::from_microsecond(1_700_000_000_000_001).unwrap();
        assert_eq!(micro_time(time), "2023-11-14T22:13:20.000001Z");
    }
}
