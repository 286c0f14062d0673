//! What is in deploy/ is what it says: the API knows every field, the role has just the rights that are used, the
//! configuration is one that the program takes, the overlay changes nothing but the image, and dashboard and alerts ask
//! for metrics that there are.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};
use kube_ipvs::source::cluster::Kind;
use kube_ipvs::source::yaml;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Metrics that alerts and dashboard may ask for; those of kube-proxy, and ours.
const METRICS: [&str; 20] = [
    "kube_ipvs_behind_seconds",
    "kube_ipvs_build_info",
    "kube_ipvs_draining_connections",
    "kube_ipvs_draining_endpoints",
    "kube_ipvs_drift_repaired_steps_total",
    "kube_ipvs_failing_steps",
    "kube_ipvs_in_sync",
    "kube_ipvs_proxy_mode",
    "kube_ipvs_retiring_connections",
    "kube_ipvs_service_connections_total",
    "kube_ipvs_service_outgoing_bytes_total",
    "kubeproxy_network_programming_duration_seconds_bucket",
    "kubeproxy_proxy_healthz_total",
    "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
    "kubeproxy_sync_proxy_rules_endpoint_changes_total",
    "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "kubeproxy_sync_proxy_rules_service_changes_total",
    "kubeproxy_sync_proxy_rules_iptables_total",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(path: &str) -> String {
    fs::read_to_string(folder().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn documents(path: &str) -> Vec<Value> {
    let text = read(path);
    let documents = yaml::documents(&text).unwrap_or_else(|error| panic!("{path}: {error:?}"));
    documents.iter().map(|document| document.value().unwrap()).collect()
}

/// The manifests that a kustomization names.
fn manifests(kustomization: &str) -> Vec<(String, Value)> {
    let named = documents(&format!("{kustomization}/kustomization.yaml")).remove(0);
    let files =
        named["resources"].as_array().unwrap().iter().map(|file| format!("{kustomization}/{}", file.as_str().unwrap()));
    files.flat_map(|file| documents(&file).into_iter().map(move |object| (file.clone(), object))).collect()
}

/// What `value` has and `known` has not, by path.
fn unknown(value: &Value, known: &Value, path: &str, found: &mut Vec<String>) {
    match (value, known) {
        (Value::Object(value), Value::Object(known)) => {
            for (key, inner) in value {
                match known.get(key) {
                    Some(other) => unknown(inner, other, &format!("{path}.{key}"), found),
                    None => found.push(format!("{path}.{key}")),
                }
            }
        }
        (Value::Array(value), Value::Array(known)) if value.len() == known.len() => {
            for (index, (inner, other)) in value.iter().zip(known).enumerate() {
                unknown(inner, other, &format!("{path}[{index}]"), found);
            }
        }
        (value, known) if value != known => found.push(format!("{path}: {value} became {known}")),
        _ => {}
    }
}

/// Reads an object as a type of the API and back: what gets lost the API does not know.
fn checked<T: DeserializeOwned + Serialize>(file: &str, object: &Value) {
    let typed: T = serde_path_to_error::deserialize(object).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut found = Vec::new();
    unknown(object, &serde_json::to_value(typed).unwrap(), "", &mut found);
    assert!(found.is_empty(), "{file}: the API does not know {found:#?}");
}

#[test]
fn the_api_knows_every_field() {
    let mut kinds = BTreeSet::new();
    for (file, object) in manifests("base").into_iter().chain(manifests("overlays/kubeadm")) {
        let kind = object["kind"].as_str().unwrap();
        match kind {
            "DaemonSet" => checked::<DaemonSet>(&file, &object),
            "ConfigMap" => checked::<ConfigMap>(&file, &object),
            "ServiceAccount" => checked::<ServiceAccount>(&file, &object),
            "ClusterRole" => checked::<ClusterRole>(&file, &object),
            "ClusterRoleBinding" => checked::<ClusterRoleBinding>(&file, &object),
            other => panic!("{file}: nobody checks a {other}"),
        }
        kinds.insert(kind.to_owned());
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
}

#[test]
fn a_field_that_the_api_does_not_know_is_found() {
    let mut object = documents("base/daemonset.yaml").remove(0);
    object["spec"]["template"]["spec"]["hostNetworks"] = Value::Bool(true);
    let typed: DaemonSet = serde_json::from_value(object.clone()).unwrap();
    let mut found = Vec::new();
    unknown(&object, &serde_json::to_value(typed).unwrap(), "", &mut found);
    assert_eq!(found, [".spec.template.spec.hostNetworks"]);
}

#[test]
fn the_role_has_the_rights_that_are_used_and_no_other() {
    let role = documents("base/rbac.yaml").remove(0);
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut given = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                given.extend(texts(&rule["verbs"]).into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    let mut used = BTreeSet::new();
    for kind in Kind::ALL {
        // /api/v1/services, /apis/GROUP/v1/RESOURCE
        let words: Vec<&str> = kind.path().split('/').collect();
        let group = if words[1] == "api" { "" } else { words[2] };
        used.extend(["list", "watch"].map(|verb| (group.to_owned(), kind.plural().to_owned(), verb.to_owned())));
    }
    used.extend(["create", "patch"].map(|verb| ("events.k8s.io".to_owned(), "events".to_owned(), verb.to_owned())));
    assert_eq!(given, used);
    let [binding] = &documents("base/rbac.yaml")[1..] else { panic!("one role, one binding") };
    let account = &documents("base/serviceaccount.yaml")[0]["metadata"];
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    for key in ["name", "namespace"] {
        assert_eq!(binding["subjects"][0][key], account[key]);
    }
    let pod = &documents("base/daemonset.yaml")[0]["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account["name"]);
}

#[test]
fn the_program_takes_its_command_line_and_configuration() {
    let config = &documents("base/configmap.yaml")[0]["data"];
    let folder = std::env::temp_dir().join(format!("kube-ipvs-deploy-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in config.as_object().unwrap() {
        fs::write(folder.join(name), text.as_str().unwrap()).unwrap();
    }
    let pod = &documents("base/daemonset.yaml")[0]["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let command: Vec<String> =
        container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    assert_eq!(command[0], "/usr/local/bin/kube-ipvs");
    let folder_name = folder.to_str().unwrap();
    let arguments =
        command[1..].iter().map(|word| word.replace("/etc/kube-ipvs", folder_name).replace("$(NODE_NAME)", "node"));
    let written = folder.join("written");
    let output = Command::new(env!("CARGO_BIN_EXE_kube-ipvs"))
        .args(arguments)
        .arg("--write-config-to")
        .arg(&written)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("WARN"), "{said}");
    assert!(fs::read_to_string(written).unwrap().contains("oomScoreAdj: -997"));
    fs::remove_dir_all(folder).unwrap();

    // Mounts have volumes, and what the daemon writes to is mounted: everything else is read-only.
    let names = |list: &Value| -> BTreeMap<String, Value> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|entry| (entry["name"].as_str().unwrap().to_owned(), entry.clone()))
            .collect()
    };
    let (mounts, volumes) = (names(&container["volumeMounts"]), names(&pod["volumes"]));
    assert!(mounts.keys().eq(volumes.keys()), "{mounts:?} {volumes:?}");
    let variable = &names(&container["env"])["KUBE_IPVS_PROC_SYS"]["value"];
    assert_eq!(mounts["sysctls"]["mountPath"], *variable);
    assert_eq!(mounts["state"]["mountPath"], volumes["state"]["hostPath"]["path"]);
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["securityContext"]["privileged"], false);
}

#[test]
fn the_overlay_changes_nothing_but_the_image() {
    let Some((program, arguments)) = kustomize() else {
        return support::skipped("no kustomize is given: install it or kubectl to have the kustomizations built");
    };
    let build = |path: &str| -> Vec<Value> {
        let output = Command::new(program).args(arguments).arg(folder().join(path)).output().unwrap();
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        yaml::documents(&text).unwrap().iter().map(|document| document.value().unwrap()).collect()
    };
    let base = build("base");
    assert_eq!(base.len(), manifests("base").len());
    let daemon = base.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    assert_eq!(daemon["spec"]["template"]["spec"]["containers"][0]["image"], "kube-ipvs:0.1.0");
    let [overlay] = build("overlays/kubeadm").try_into().unwrap();
    let mut theirs = documents("overlays/kubeadm/kube-proxy.yaml").remove(0);
    let image = &mut theirs["spec"]["template"]["spec"]["containers"][0]["image"];
    assert!(image.as_str().unwrap().starts_with("registry.k8s.io/kube-proxy:"));
    *image = Value::String("kube-ipvs:0.1.0".into());
    assert_eq!(overlay, theirs);
}

/// What builds a kustomization.
fn kustomize() -> Option<(&'static str, &'static [&'static str])> {
    let known: [(&str, &[&str], &[&str]); 2] =
        [("kustomize", &["version"], &["build"]), ("kubectl", &["kustomize", "--help"], &["kustomize"])];
    let there = |(program, question, _): &(&str, &[&str], &[&str])| {
        Command::new(program).args(*question).output().is_ok_and(|output| output.status.success())
    };
    known.into_iter().find(there).map(|(program, _, arguments)| (program, arguments))
}

/// The names of metrics in an expression.
fn metrics(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("kube_ipvs_") || word.starts_with("kubeproxy_")).collect()
}

fn assert_metrics(place: &str, expression: &str) {
    let asked = metrics(expression);
    assert!(!asked.is_empty(), "{place} asks for no metric: {expression}");
    for name in asked {
        assert!(METRICS.contains(&name), "{place}: there is no metric {name}");
    }
    let (open, close) = (expression.matches(['(', '{', '[']).count(), expression.matches([')', '}', ']']).count());
    assert_eq!(open, close, "{place}: brackets in {expression}");
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn alerts_are_rules_over_metrics_that_there_are() {
    let alerts = documents("monitoring/alerts.yaml").remove(0);
    assert_eq!(keys(&alerts), ["groups"]);
    let mut names = BTreeSet::new();
    for group in alerts["groups"].as_array().unwrap() {
        assert_eq!(keys(group), ["name", "rules"]);
        for rule in group["rules"].as_array().unwrap() {
            let name = rule["alert"].as_str().unwrap();
            let sorted: BTreeSet<&str> = keys(rule).into_iter().collect();
            assert_eq!(sorted, BTreeSet::from(["alert", "annotations", "expr", "for", "labels"]), "{name}");
            assert!(names.insert(name.to_owned()), "{name} is there twice");
            assert_metrics(name, rule["expr"].as_str().unwrap());
            let severity = rule["labels"]["severity"].as_str().unwrap();
            assert!(["critical", "warning", "info"].contains(&severity), "{name}");
            let annotations: BTreeSet<&str> = keys(&rule["annotations"]).into_iter().collect();
            assert_eq!(annotations, BTreeSet::from(["description", "summary"]), "{name}");
            let wait = rule["for"].as_str().unwrap();
            assert!(wait.ends_with(['m', 'h', 'd']) && wait[..wait.len() - 1].parse::<u32>().is_ok(), "{name}: {wait}");
        }
    }
    let output =
        Command::new("promtool").args(["check", "rules"]).arg(folder().join("monitoring/alerts.yaml")).output();
    match output {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => eprintln!("promtool is not installed: it was not asked about the alerts"),
    }
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&read("monitoring/dashboard.json")).unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its number is another's");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} stands out");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(places.insert((x, y)), "{title} lies on another");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            assert_metrics(title, target["expr"].as_str().unwrap());
        }
    }
    assert!(ids.len() > 15);
}

/// Asks an API server whether it would take the objects. It changes nothing there.
#[tokio::test]
async fn a_server_would_take_them() {
    let Some(path) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return support::skipped("no API server is given: set KUBECONFIG to a kubeconfig file of one");
    };
    assert!(path.is_file(), "KUBECONFIG={}: it has to be one file that is there", path.display());
    let (file, options) = (Kubeconfig::read_from(path).unwrap(), KubeConfigOptions::default());
    let config = Config::from_custom_kubeconfig(file, &options).await.unwrap();
    let client = Client::try_from(config).unwrap();
    for (file, object) in manifests("base").into_iter().chain(manifests("overlays/kubeadm")) {
        let kind = object["kind"].as_str().unwrap();
        let version = object["apiVersion"].as_str().unwrap();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let strict = Some(kube::api::ValidationDirective::Strict);
        let params =
            PatchParams { dry_run: true, field_validation: strict, ..PatchParams::apply("kube-ipvs-test").force() };
        let name = object["metadata"]["name"].as_str().unwrap();
        let outcome = api.patch(name, &params, &Patch::Apply(&object)).await;
        outcome.unwrap_or_else(|error| panic!("{file}: {kind} {name}: {error}"));
    }
}
