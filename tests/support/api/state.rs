//! What the server holds, what it remembers of changes, and what goes wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

/// Path of the collection, namespace, name.
pub type Object = (&'static str, String, String);

/// One change.
#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub path: &'static str,
    pub kind: &'static str,
    pub object: Value,
}

/// What goes wrong.
#[derive(Clone, Default)]
pub struct Trouble {
    /// Every request is answered with this status.
    pub status: Option<u16>,
    /// Requests for these collections are answered with this status.
    pub statuses: BTreeMap<&'static str, u16>,
    /// Every watch that follows a version is answered with this status, lists are not.
    pub watch_status: Option<u16>,
    /// Lists as streams are not known (422).
    pub no_streams: bool,
    /// Lists as streams come without the mark at their end.
    pub no_end_of_list: bool,
    /// The parameters of lists as streams are ignored and a page's token is forgotten at once.
    pub tokens_expire: bool,
    /// A list ends in the middle of its answer.
    pub lists_break_off: bool,
    /// Every answer waits.
    pub delay: Duration,
    /// Connections are accepted and nothing is ever said.
    pub mute: bool,
    /// Whoever writes an event is answered with this status.
    pub events: Option<u16>,
}

/// The server's memory.
#[derive(Default)]
pub struct State {
    pub version: u64,
    pub objects: BTreeMap<Object, Value>,
    pub history: Vec<Change>,
    /// Versions before this one are forgotten.
    pub oldest: u64,
    pub trouble: Trouble,
    /// Connections of an earlier generation are cut.
    pub generation: u64,
    pub bookmarks: u64,
    pub watches: usize,
    pub requests: Vec<String>,
    pub headers: BTreeMap<String, String>,
    pub expired_tokens: BTreeSet<String>,
    /// Events that were written, by namespace and name, in the order in which they came.
    pub events: Vec<((String, String), Value)>,
}

impl State {
    /// Stores an object under a new version.
    pub fn put(&mut self, mut object: Value) {
        let path = path_of(object["kind"].as_str().unwrap());
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let id = (path, text("namespace"), text("name"));
        let kind = if self.objects.contains_key(&id) { "MODIFIED" } else { "ADDED" };
        self.history.push(Change { version: self.version, path, kind, object: object.clone() });
        self.objects.insert(id, object);
    }

    /// Removes an object.
    pub fn delete(&mut self, path: &'static str, namespace: &str, name: &str) {
        let Some(mut object) = self.objects.remove(&(path, namespace.to_owned(), name.to_owned())) else { return };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push(Change { version: self.version, path, kind: "DELETED", object });
    }

    /// Forgets all changes so far: whoever is behind must list again.
    pub fn forget(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }

    /// The objects of a collection.
    pub fn all(&self, path: &str) -> Vec<Value> {
        self.objects.iter().filter(|((of, ..), _)| *of == path).map(|(_, object)| object.clone()).collect()
    }
}

/// The collection of a kind.
pub fn path_of(kind: &str) -> &'static str {
    match kind {
        "Service" => "/api/v1/services",
        "EndpointSlice" => "/apis/discovery.k8s.io/v1/endpointslices",
        "Node" => "/api/v1/nodes",
        "ServiceCIDR" => "/apis/networking.k8s.io/v1/servicecidrs",
        other => panic!("no collection of {other}"),
    }
}
