//! The manifests that the proxy reads: a private copy in a temporary folder, and a change to it that looks like a pod's
//! replacement.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use crate::lab::{Host, Lab};
use crate::source::yaml;

/// The examples, as they are in the source tree.
const EXAMPLES: &[(&str, &str)] = &[
    ("my-debian.yaml", include_str!("../../../deploy/examples/my-debian.yaml")),
    ("my-debian-nodeport.yaml", include_str!("../../../deploy/examples/my-debian-nodeport.yaml")),
    ("my-debian-sticky.yaml", include_str!("../../../deploy/examples/my-debian-sticky.yaml")),
    ("my-debian-lb.yaml", include_str!("../../../deploy/examples/my-debian-lb.yaml")),
];

/// A folder of manifests, removed when this is dropped.
#[derive(Debug)]
pub(super) struct Manifests {
    folder: PathBuf,
    files: Vec<ManifestFile>,
}

#[derive(Debug)]
struct ManifestFile {
    name: String,
    objects: Vec<Value>,
}

/// One pod taking another one's place in all slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Name of the pod that goes.
    pub(super) old: String,
    /// Name of the pod that comes.
    pub(super) new: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} takes the place of {}", self.new, self.old)
    }
}

impl Manifests {
    /// Copies `source`, or the examples if there is none, to a new folder.
    pub(super) fn prepare(source: Option<&Path>) -> anyhow::Result<Self> {
        let files = match source {
            None => EXAMPLES.iter().map(|(name, text)| parse(name, text)).collect(),
            Some(folder) => read_folder(folder),
        }?;
        let template = std::env::temp_dir().join("kube-ipvs-demo-XXXXXX");
        let folder = nix::unistd::mkdtemp(&template)
            .with_context(|| format!("creating the temporary folder {}", template.display()))?;
        let manifests = Self { folder, files };
        manifests.files.iter().try_for_each(|file| manifests.write(file))?;
        Ok(manifests)
    }

    /// Where the proxy is to look.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// All objects as they are now.
    pub(super) fn objects(&self) -> Vec<&Value> {
        self.files.iter().flat_map(|file| &file.objects).collect()
    }

    /// Replaces the last local endpoint that occurs by a pod that does not occur yet. `None` if there is no such pair.
    pub(super) fn replace_an_endpoint(&mut self, lab: &Lab) -> anyhow::Result<Option<Change>> {
        let used: Vec<IpAddr> = self.objects().into_iter().flat_map(endpoint_addresses).collect();
        let is_used = |host: &&Host| host.addresses.iter().any(|address| used.contains(address));
        // From here to elsewhere: the harder case, since the way back changes with it.
        let old = lab.hosts().iter().filter(is_used).rfind(|host| host.name.starts_with("pod-"));
        let new = lab.hosts().iter().find(|host| !is_used(host) && host.name.starts_with("far-pod-"));
        let (Some(old), Some(new)) = (old, new) else { return Ok(None) };
        for file in &mut self.files {
            file.objects.iter_mut().for_each(|object| replace_in_slice(object, old, new));
        }
        self.files.iter().try_for_each(|file| self.write(file))?;
        Ok(Some(Change { old: old.name.clone(), new: new.name.clone() }))
    }

    /// Writes beside and renames: a reader sees the old content or the new, never half of it. JSON is YAML.
    fn write(&self, file: &ManifestFile) -> anyhow::Result<()> {
        let target = self.folder.join(&file.name);
        let beside = self.folder.join(format!(".{}.new", file.name));
        let list = json!({"apiVersion": "v1", "kind": "List", "items": file.objects});
        fs::write(&beside, serde_json::to_vec_pretty(&list)?)
            .and_then(|()| fs::rename(&beside, &target))
            .with_context(|| format!("writing {}", target.display()))
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("removing the temporary folder {}: {error}", self.folder.display());
        }
    }
}

fn read_folder(folder: &Path) -> anyhow::Result<Vec<ManifestFile>> {
    let mut paths = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>())
        .with_context(|| format!("reading the folder {}", folder.display()))?;
    paths
        .retain(|path| path.extension().is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known)));
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            parse(&path.file_name().unwrap_or_default().to_string_lossy(), &text)
        })
        .collect()
}

/// Reads all documents of a text; `List` kinds are taken apart.
fn parse(name: &str, text: &str) -> anyhow::Result<ManifestFile> {
    let problem = |error: yaml::SyntaxError| anyhow!("{name}, line {}: {}", error.line, error.message);
    let mut objects = Vec::new();
    for document in yaml::documents(text).map_err(problem)? {
        let mut value = document.value().map_err(problem)?;
        if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
            objects.append(items);
        } else if !value.is_null() {
            objects.push(value);
        }
    }
    Ok(ManifestFile { name: name.to_owned(), objects })
}

/// All endpoint addresses of a slice; nothing for other objects.
fn endpoint_addresses(object: &Value) -> Vec<IpAddr> {
    let endpoints = object.get("endpoints").and_then(Value::as_array).into_iter().flatten();
    endpoints
        .filter_map(|endpoint| endpoint.get("addresses")?.as_array())
        .flatten()
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect()
}

fn replace_in_slice(object: &mut Value, old: &Host, new: &Host) {
    for endpoint in object.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        let address = endpoint.pointer("/addresses/0").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let Some(address) = address.filter(|address: &IpAddr| old.addresses.contains(address)) else { continue };
        let Some(fields) = endpoint.as_object_mut() else { continue };
        fields.insert("addresses".to_owned(), json!([new.address_like(address).to_string()]));
        fields.insert("nodeName".to_owned(), json!("far-node"));
        if let Some(pod) = fields.get_mut("targetRef").and_then(Value::as_object_mut) {
            pod.insert("name".to_owned(), json!(new.name));
        }
    }
}
