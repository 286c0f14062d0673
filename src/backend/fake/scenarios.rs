//! The conformance scenarios' histories: with a tenth of all calls failing and restarts in between, each ends where a
//! fresh start ends, is idle then, and leaves nothing when all objects go. What packets do is tried on real kernels.

use super::convergence::{Moment, check, facts, settings};
use super::iptables::FakeIptables;
use super::ipvs::FakeIpvs;
use crate::desired::{DetectLocal, NodePortSelector, Settings};
use crate::source::manifests::Manifests;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Histories of each scenario: other calls fail in each.
const SEEDS: u64 = 6;

fn scenarios() -> BTreeMap<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let scenario = |file: PathBuf| {
        let name = file.file_stem()?.to_str()?.to_owned();
        if file.extension()? != "yaml" || name == "topology" {
            return None;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let documents = crate::source::yaml::documents(&text).unwrap();
        Some((name, documents.first()?.value().unwrap()))
    };
    files.filter_map(scenario).collect()
}

/// The settings that a scenario asks for.
fn settings_of(scenario: &Value) -> Arc<Settings> {
    let node = &scenario["node"];
    let yes = |field: &str, default: bool| node[field].as_bool().unwrap_or(default);
    let mut own = Settings { masquerade_all: yes("masqueradeAll", false), ..(*settings()).clone() };
    own.localhost_node_ports = yes("localhostNodePorts", own.localhost_node_ports);
    own.proxy_name = node["serviceProxyName"].as_str().map(Arc::from);
    if node["detectLocal"] == "none" {
        own.detect_local = DetectLocal::None;
    }
    let texts: Vec<&str> =
        node["nodePortAddresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    own.node_port_addresses = match texts.as_slice() {
        [] => NodePortSelector::All,
        ["primary"] => NodePortSelector::Primary,
        cidrs => NodePortSelector::Cidrs(cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect()),
    };
    Arc::new(own)
}

/// What stands after each step, twice: the second time the program was started again, or time has passed.
fn history(scenario: &Value) -> Vec<Moment> {
    let mut manifests = Manifests::default();
    let mut objects: BTreeMap<PathBuf, Result<String, String>> = BTreeMap::new();
    let mut moments = Vec::new();
    for (number, step) in scenario["steps"].as_array().unwrap().iter().enumerate() {
        for gone in step["delete"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            objects.remove(Path::new(&gone.replace('/', " ")));
        }
        for object in step["apply"].as_array().into_iter().flatten() {
            let (kind, metadata) = (object["kind"].as_str().unwrap(), &object["metadata"]);
            let namespace = metadata["namespace"].as_str().unwrap_or("default");
            let name = format!("{kind} {namespace} {}", metadata["name"].as_str().unwrap());
            objects.insert(PathBuf::from(name), Ok(object.to_string()));
        }
        manifests.load(objects.clone());
        let moment = Moment {
            snapshot: manifests.snapshot().clone(),
            facts: facts(2),
            restarted: false,
            later: Duration::from_secs(1),
        };
        moments.push(moment.clone());
        let again = if number % 2 == 0 {
            Moment { restarted: true, ..moment }
        } else {
            Moment { later: Duration::from_secs(600), ..moment }
        };
        moments.push(again);
    }
    moments
}

#[test]
fn every_scenario_converges_under_faults() {
    let scenarios = scenarios();
    assert!(scenarios.len() >= 32, "only {} scenarios were found", scenarios.len());
    for (name, scenario) in &scenarios {
        let (settings, history) = (settings_of(scenario), history(scenario));
        let services: usize = history.iter().map(|moment| moment.snapshot.services.len()).sum();
        assert!(services > 0, "{name}: no Service was understood");
        for seed in 1..=SEEDS {
            let seed = seed * 0x9e37_79b9;
            check::<FakeIpvs>(&settings, &history, seed)
                .unwrap_or_else(|error| panic!("{name}, IPVS, seed {seed}: {error}"));
            check::<FakeIptables>(&settings, &history, seed)
                .unwrap_or_else(|error| panic!("{name}, iptables, seed {seed}: {error}"));
        }
    }
}
