//! The folder of manifests that the proxy under test reads.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A temporary folder, a file an object; removed when this is dropped.
#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// An empty folder.
    pub fn create() -> Result<Self> {
        let template = std::env::temp_dir().join("kube-ipvs-conformance-XXXXXX");
        let folder = nix::unistd::mkdtemp(&template)
            .with_context(|| format!("creating the temporary folder {}", template.display()))?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Deletes, then writes. All is prepared beside first, so that what the proxy can see changes in one go: names that
    /// start with a dot are nobody's manifest, and a rename is atomic.
    pub fn change(&self, delete: &[String], apply: &[Value]) -> Result<()> {
        let mut renames = Vec::new();
        for (number, object) in apply.iter().enumerate() {
            let name = file_name(&id_of(object));
            let (beside, target) = (self.folder.join(format!(".{name}.{number}")), self.folder.join(name));
            fs::write(&beside, serde_json::to_vec_pretty(object)?)
                .with_context(|| format!("writing {}", beside.display()))?;
            renames.push((beside, target));
        }
        for id in delete {
            let target = self.folder.join(file_name(id));
            ensure!(target.exists(), "{id} is to be deleted and does not exist");
            fs::remove_file(&target).with_context(|| format!("removing {}", target.display()))?;
        }
        for (beside, target) in renames {
            fs::rename(&beside, &target).with_context(|| format!("writing {}", target.display()))?;
        }
        Ok(())
    }
}

impl Drop for Manifests {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("removing the temporary folder {}: {error}", self.folder.display());
        }
    }
}

/// Kind/namespace/name, as a step's `delete` has it.
fn id_of(object: &Value) -> String {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str);
    let kind = text("/kind").unwrap_or("Unknown");
    let name = text("/metadata/name").unwrap_or_default();
    match text("/metadata/namespace") {
        Some(namespace) => format!("{kind}/{namespace}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

fn file_name(id: &str) -> String {
    format!("{}.json", id.replace('/', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_come_change_and_go() {
        let manifests = Manifests::create().unwrap();
        let service = json!({"kind": "Service", "metadata": {"namespace": "a", "name": "b"}});
        manifests.change(&[], &[service.clone(), service.clone()]).unwrap();
        let names = || {
            let entries = fs::read_dir(manifests.folder()).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(), ["Service_a_b.json"]);
        manifests.change(&["Service/a/b".to_owned()], &[]).unwrap();
        assert_eq!(names(), Vec::<String>::new());
        assert!(manifests.change(&["Service/a/b".to_owned()], &[]).is_err());
    }
}
