//! The embedded source: manifest files and folders, reread when they change. Needs no cluster.

mod files;
mod read;
mod watch;

pub use files::{Input, Inputs};
pub use watch::start;

use super::Problem;
use super::convert::Object;
use crate::model::{Slices, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

/// What is known of all files; each keeps its last good state.
#[derive(Debug, Default)]
pub struct Manifests {
    files: BTreeMap<PathBuf, File>,
    complete: bool,
    snapshot: Snapshot,
}

/// The last good state of a file.
#[derive(Debug)]
struct File {
    /// Of the text, so that what did not change is not parsed again.
    hash: u64,
    objects: Vec<(ObjectId, Object)>,
    /// What could not be used of it.
    problems: Vec<Problem>,
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Kind, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    kind: String,
    namespace: String,
    name: String,
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

impl Manifests {
    /// The newest complete state.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Takes in the present content of the files. A file that is broken keeps its last good state, an object that is
    /// broken keeps its own; a file that is gone takes its objects along.
    pub fn load(&mut self, contents: BTreeMap<PathBuf, Result<String, String>>) -> Vec<Problem> {
        let mut problems = Vec::new();
        // A folder that cannot be read says nothing about the files in it.
        let unreadable = |file: &PathBuf| contents.iter().any(|(path, text)| text.is_err() && file.starts_with(path));
        self.files.retain(|path, _| contents.contains_key(path) || unreadable(path));
        let mut all_read = true;
        for (path, content) in contents {
            let known = self.files.get(&path);
            let outcome = content.map_err(Problem::new).and_then(|text| {
                let hash = hash(&text);
                if let Some(known) = known.filter(|known| known.hash == hash) {
                    problems.extend(known.problems.iter().cloned());
                    return Ok(None);
                }
                let mut own = Vec::new();
                let objects = known.map(|known| known.objects.as_slice()).unwrap_or_default();
                let objects = read::objects(&text, objects, &mut |problem| {
                    own.push(Problem { file: Some(path.clone()), ..problem });
                })?;
                problems.extend(own.iter().cloned());
                Ok(Some(File { hash, objects, problems: own }))
            });
            match outcome {
                Ok(None) => {}
                Ok(Some(file)) => {
                    self.files.insert(path, file);
                }
                Err(problem) => {
                    all_read = false;
                    let kept =
                        if self.files.contains_key(&path) { "its last good state is kept" } else { "it is ignored" };
                    let message = format!("{}; {kept}", problem.message);
                    problems.push(Problem { file: Some(path), message, ..problem });
                }
            }
        }
        // Until every file was read once, what is in the kernel and in no file may belong to one of those.
        self.complete |= all_read;
        self.rebuild(&mut problems);
        problems
    }

    /// Makes the snapshot from all files, sharing what did not change.
    fn rebuild(&mut self, problems: &mut Vec<Problem>) {
        let mut winners: BTreeMap<&ObjectId, (&PathBuf, &Object)> = BTreeMap::new();
        for (path, file) in &self.files {
            for (id, object) in &file.objects {
                if let Some((other, _)) = winners.insert(id, (path, object)) {
                    problems.push(Problem {
                        file: Some(path.clone()),
                        object: Some(id.to_string()),
                        ..Problem::new(format!("is in {} as well; this one counts", other.display()))
                    });
                }
            }
        }
        let mut snapshot = std::mem::take(&mut self.snapshot);
        let mut seen = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (_, object) in winners.values() {
            match object {
                Object::Service(service) => {
                    seen.0.insert(service.name.clone());
                    if snapshot.services.get(&service.name) != Some(service) {
                        snapshot.services.insert(service.name.clone(), service.clone());
                        snapshot.changes.services += 1;
                    }
                }
                Object::Slice(service, slice) => {
                    seen.1.insert((service.clone(), slice.name.clone()));
                    snapshot.put_slice(service, slice.clone());
                }
                // Of the cluster source alone: `is_wanted` does not take ServiceCIDRs out of files.
                Object::ServiceRange(_) => {}
                Object::Node(node) => {
                    seen.2.insert(node.name.clone());
                    if snapshot.nodes.get(&node.name) != Some(node) {
                        snapshot.nodes.insert(node.name.clone(), node.clone());
                    }
                }
            }
        }
        remove_unseen(&mut snapshot, &seen);
        snapshot.complete = self.complete;
        self.snapshot = snapshot;
    }
}

type Seen = (
    BTreeSet<crate::model::ServiceName>,
    BTreeSet<(crate::model::ServiceName, crate::model::SliceName)>,
    BTreeSet<std::sync::Arc<str>>,
);

fn remove_unseen(snapshot: &mut Snapshot, (services, slices, nodes): &Seen) {
    let gone: Vec<_> = snapshot.services.keys().filter(|name| !services.contains(*name)).cloned().collect();
    for name in gone {
        snapshot.services.remove(&name);
        snapshot.changes.services += 1;
    }
    let stale: Vec<_> = snapshot
        .slices
        .iter()
        .flat_map(|(service, own)| own.keys().map(move |slice| (service.clone(), slice.clone())))
        .filter(|id| !slices.contains(id))
        .collect();
    for (service, slice) in stale {
        let mut own: Slices = snapshot.slices.get(&service).cloned().unwrap_or_default();
        own.remove(&slice);
        snapshot.changes.slices += 1;
        if own.is_empty() {
            snapshot.slices.remove(&service);
        } else {
            snapshot.slices.insert(service, own);
        }
    }
    let gone: Vec<_> = snapshot.nodes.keys().filter(|name| !nodes.contains(*name)).cloned().collect();
    for name in gone {
        snapshot.nodes.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;

    fn service(name: &str, ip: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: n}}\nspec:\n  clusterIP: {ip}\n  \
             ports:\n  - port: 80\n"
        )
    }

    fn load(manifests: &mut Manifests, files: &[(&str, &str)]) -> Vec<String> {
        let contents = files.iter().map(|(path, text)| (PathBuf::from(path), Ok((*text).to_owned()))).collect();
        manifests.load(contents).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_state_and_is_named() {
        let mut manifests = Manifests::default();
        let (good, other) = (service("a", "172.30.0.1"), service("b", "172.30.0.2"));
        assert!(load(&mut manifests, &[("a.yaml", &good), ("b.yaml", &other)]).is_empty());
        let half = &good[..good.len() - 12];
        let broken = format!("{half}\"");
        let problems = load(&mut manifests, &[("a.yaml", &broken), ("b.yaml", &other)]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].starts_with("a.yaml:") && problems[0].contains("its last good state is kept"),
            "{problems:?}"
        );
        assert_eq!(manifests.snapshot().services.len(), 2);
        let empty = load(&mut manifests, &[("a.yaml", ""), ("b.yaml", &other)]);
        assert!(empty[0].contains("a.yaml: is empty"), "{empty:?}");
        assert_eq!(manifests.snapshot().services.len(), 2);
        load(&mut manifests, &[("b.yaml", &other)]);
        assert_eq!(manifests.snapshot().services.keys().cloned().collect::<Vec<_>>(), [ServiceName::new("n", "b")]);
    }

    #[test]
    fn a_folder_that_is_gone_takes_nothing_along() {
        let mut manifests = Manifests::default();
        load(&mut manifests, &[("m/a.yaml", &service("a", "172.30.0.1"))]);
        manifests.load(BTreeMap::from([(PathBuf::from("m"), Err("No such file or directory".into()))]));
        assert_eq!(manifests.snapshot().services.len(), 1);
    }

    #[test]
    fn nothing_is_complete_before_every_file_was_read_once() {
        let mut manifests = Manifests::default();
        let good = service("a", "172.30.0.1");
        load(&mut manifests, &[("a.yaml", &good), ("b.yaml", "x: [")]);
        assert!(!manifests.snapshot().complete && manifests.snapshot().services.len() == 1);
        load(&mut manifests, &[("a.yaml", &good), ("b.yaml", &service("b", "172.30.0.2"))]);
        assert!(manifests.snapshot().complete);
        load(&mut manifests, &[("a.yaml", &good), ("b.yaml", "x: [")]);
        assert!(manifests.snapshot().complete && manifests.snapshot().services.len() == 2);
    }

    #[test]
    fn a_broken_object_keeps_itself_and_does_not_stop_the_others() {
        let mut manifests = Manifests::default();
        let (a, b) = (service("a", "172.30.0.1"), service("b", "172.30.0.2"));
        load(&mut manifests, &[("x.yaml", &format!("{a}---\n{b}"))]);
        let bad = a.replace("port: 80", "port: many");
        let moved = b.replace("172.30.0.2", "172.30.0.3");
        let problems = load(&mut manifests, &[("x.yaml", &format!("{bad}---\n{moved}"))]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("x.yaml:7: Service n/a: spec.ports[0].port: invalid type"), "{problems:?}");
        let services = &manifests.snapshot().services;
        assert_eq!(services[&ServiceName::new("n", "a")].cluster_ips[0].to_string(), "172.30.0.1");
        assert_eq!(services[&ServiceName::new("n", "b")].cluster_ips[0].to_string(), "172.30.0.3");
    }

    #[test]
    fn unchanged_objects_are_shared_between_snapshots() {
        let mut manifests = Manifests::default();
        let (a, b) = (service("a", "172.30.0.1"), service("b", "172.30.0.2"));
        load(&mut manifests, &[("a.yaml", &a), ("b.yaml", &b)]);
        let before = manifests.snapshot().clone();
        load(&mut manifests, &[("a.yaml", &a), ("b.yaml", &b.replace("0.2", "0.9"))]);
        assert_eq!(before.changed_services(manifests.snapshot()), [ServiceName::new("n", "b")]);
    }
}
