//! A scenario file: what the format in tests/scenarios/README.md says, as data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kube_ipvs::source::yaml;
use serde::Deserialize;
use serde_json::Value;

use crate::flow::{Flow, FlowFields};

/// One scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// The file that it is from.
    pub file: PathBuf,
    /// Group of behaviour.
    pub area: String,
    /// The proxy's settings where they differ from the defaults.
    pub node: NodeSettings,
    /// What happens.
    pub steps: Vec<Step>,
    /// Fields that the format does not have, for a warning.
    pub unknown: Vec<String>,
}

/// Settings of the proxy.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSettings {
    /// "clusterCIDR" or "none".
    pub detect_local: String,
    /// Masquerade everything to cluster IPs.
    pub masquerade_all: bool,
    /// Networks, or "primary".
    pub node_port_addresses: Vec<String>,
    /// Node ports on 127.0.0.1.
    pub localhost_node_ports: bool,
    /// Whose Services it serves.
    pub service_proxy_name: String,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            detect_local: "clusterCIDR".to_owned(),
            masquerade_all: false,
            node_port_addresses: Vec::new(),
            localhost_node_ports: true,
            service_proxy_name: String::new(),
            unknown: BTreeMap::new(),
        }
    }
}

/// Changes of objects, and what packets must do afterwards.
#[derive(Debug, Clone)]
pub struct Step {
    /// For people.
    pub title: String,
    /// Objects that go, as Kind/namespace/name.
    pub delete: Vec<String>,
    /// Objects that come or change, those that an API server would refuse at the end.
    pub apply: Vec<Value>,
    /// What packets must do.
    pub flows: Vec<Flow>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ScenarioFields {
    name: String,
    #[serde(default)]
    area: String,
    #[serde(default)]
    node: NodeSettings,
    steps: Vec<StepFields>,
}

#[derive(Debug, Deserialize)]
struct StepFields {
    #[serde(default)]
    title: String,
    #[serde(default)]
    delete: Vec<String>,
    #[serde(default)]
    apply: Vec<Value>,
    #[serde(default)]
    refused: Vec<Value>,
    #[serde(default)]
    flows: Vec<FlowFields>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

impl Scenario {
    /// Reads a scenario; `None` if the file is none at all (it has no steps).
    pub fn read(file: &Path) -> Result<Option<Self>> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        Self::parse(file, &text).with_context(|| file.display().to_string())
    }

    fn parse(file: &Path, text: &str) -> Result<Option<Self>> {
        let problem = |error: yaml::SyntaxError| anyhow!("line {}: {}", error.line, error.message);
        let documents = yaml::documents(text).map_err(problem)?;
        let [document] = documents.as_slice() else { bail!("has {} documents instead of one", documents.len()) };
        let value = document.value().map_err(problem)?;
        if value.get("steps").is_none() {
            return Ok(None);
        }
        let fields: ScenarioFields = serde_json::from_value(value)?;
        let mut unknown: Vec<_> = fields.node.unknown.keys().map(|key| format!("node.{key}")).collect();
        let mut steps = Vec::new();
        for (index, step) in fields.steps.into_iter().enumerate() {
            let number = index + 1;
            unknown.extend(step.unknown.keys().map(|key| format!("step {number}: {key}")));
            let mut flows = Vec::new();
            for flow in step.flows {
                unknown.extend(flow.unknown.keys().map(|key| format!("flow {:?}: {key}", flow.name)));
                let name = flow.name.clone();
                flows.push(Flow::try_from(flow).with_context(|| format!("step {number}, flow {name:?}"))?);
            }
            let since = flows.iter().filter_map(|flow| flow.held.as_ref()?.since_step);
            ensure!(since.clone().all(|since| (1..=number).contains(&since)), "step {number}: sinceStep out of range");
            let apply = step.apply.into_iter().chain(step.refused).collect();
            steps.push(Step { title: step.title, delete: step.delete, apply, flows });
        }
        let node = fields.node;
        Ok(Some(Self { name: fields.name, file: file.to_owned(), area: fields.area, node, steps, unknown }))
    }

    /// All objects that ever occur.
    pub fn objects(&self) -> impl Iterator<Item = &Value> {
        self.steps.iter().flat_map(|step| &step.apply)
    }

    /// All flows.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.steps.iter().flat_map(|step| &step.flows)
    }

    /// Whether a flow of it takes minutes: better begun early.
    pub fn is_slow(&self) -> bool {
        self.flows().any(|flow| flow.needs.iter().any(|need| need == "slow"))
    }
}

/// All scenarios of the given files and folders, subfolders included, ordered by name within each.
pub fn find(paths: &[PathBuf]) -> Result<Vec<Scenario>> {
    let mut files = Vec::new();
    for path in paths {
        collect(path, &mut files)?;
    }
    let mut scenarios: Vec<Scenario> = Vec::new();
    for file in files {
        let Some(scenario) = Scenario::read(&file)? else { continue };
        let same = |other: &&Scenario| other.name == scenario.name && other.file != scenario.file;
        if let Some(other) = scenarios.iter().find(same) {
            eprintln!("{}: the same name as {}; both run", file.display(), other.file.display());
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let looking = || format!("looking for scenarios in {}", path.display());
    if !std::fs::metadata(path).with_context(looking)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).with_context(looking)?;
    let mut entries: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>().with_context(looking)?;
    entries.sort();
    for entry in entries {
        let is_yaml = entry.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if is_yaml || entry.is_dir() {
            collect(&entry, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenarios() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios")
    }

    #[test]
    fn all_of_ours_are_read_and_have_no_unknown_fields() {
        let found = find(&[scenarios()]).unwrap();
        assert!(found.len() >= 32, "{}", found.len());
        for scenario in found {
            assert_eq!(scenario.unknown, Vec::<String>::new(), "{}", scenario.name);
            assert_eq!(scenario.file.file_stem().unwrap().to_str(), Some(scenario.name.as_str()));
        }
    }

    #[test]
    fn the_topology_is_no_scenario() {
        assert!(Scenario::read(&scenarios().join("topology.yaml")).unwrap().is_none());
    }

    #[test]
    fn a_word_that_the_format_lacks_is_an_error_with_its_place() {
        let text = "name: x\nsteps:\n- flows:\n  - {name: f, from: client, to: \"10.0.0.1:80/TCP\", expect: magic}\n";
        let error = format!("{:#}", Scenario::parse(Path::new("x.yaml"), text).unwrap_err());
        assert!(error.contains("step 1, flow \"f\": expect: magic"), "{error}");
    }
}
