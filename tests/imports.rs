//! Data goes one way, and so do imports: source → model → desired → reconcile → backend → kernel and the crates.
//!
//! [`HOUSE`] is the table of who may import what. Every entry but the plain arrows of the diagram has its reason beside
//! it. An import that is not in the table fails the test with file and line; so does an entry that nobody needs any
//! more, so that the table stays what is really so. How imports are found is in `imports/scan.rs`.

#![expect(clippy::indexing_slicing, reason = "helpers of tests may fail loudly, too")]

#[path = "imports/scan.rs"]
mod scan;

use scan::{Import, imports};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a unit may import, and why.
///
/// A unit is a module with everything below it that is not a unit of its own. An entry allows what its path begins, but
/// only within one unit: `backend` is the border in `src/backend/mod.rs`, not `backend::ipvs`. `crate:x` is the crate
/// `x`.
type Unit = (&'static str, &'static [(&'static str, &'static str)]);

const ARROW: &str = "an arrow of the diagram";

const HOUSE: &[Unit] = &[
    ("model", &[]),
    ("source", &[("model", ARROW), ("source::convert", "hands values over to it, gets objects of the model")]),
    (
        "source::convert",
        &[
            ("source::Problem", "what it could not use"),
            ("source::annotations", "what the annotations of an object ask for"),
            ("model", ARROW),
            ("crate:k8s_openapi", "the one place that knows the API"),
        ],
    ),
    (
        "source::cluster",
        &[
            ("source", "the slot that it fills, and what it could not use"),
            ("source::convert", "hands values over to it, gets objects of the model"),
            ("model", ARROW),
            ("crate:kube", "the one place that talks to the API server"),
        ],
    ),
    ("desired", &[("model", ARROW)]),
    (
        "reconcile",
        &[
            ("desired", ARROW),
            ("backend", "the border: Dataplane, Report, Lost; never a mode"),
            ("model", "IP families, the snapshot that it hands on, events about what it refuses"),
            ("source::Snapshots", "the slot out of which it takes snapshots, whatever fills it"),
        ],
    ),
    ("backend", &[("desired", ARROW), ("model", "IP families"), ("kernel", ARROW)]),
    ("backend::rules", &[("backend", "Failure, Effort and RuleCounts"), ("desired", ARROW), ("crate:iptables", ARROW)]),
    (
        "backend::iptables",
        &[
            ("backend", "the trait"),
            ("backend::rules", "chains and jumps, as both modes write them"),
            ("backend::kube_proxy::names", "chains that it removes, as it has kube-proxy's names"),
            ("desired", ARROW),
            ("model", "IP families and protocols"),
            ("kernel", ARROW),
            ("crate:iptables", ARROW),
        ],
    ),
    (
        "backend::kube_proxy",
        &[
            ("backend", "the trait"),
            ("backend::rules", "deletes a chain as both modes do"),
            ("desired", ARROW),
            ("model", "IP families"),
            ("kernel", ARROW),
            ("crate:iptables", "names of chains"),
        ],
    ),
    (
        "backend::ipvs",
        &[
            ("backend", "the trait"),
            ("backend::rules", "chains and jumps, as both modes write them"),
            ("backend::kube_proxy::Recorded", "which virtual servers and addresses kube-proxy made"),
            ("desired", ARROW),
            ("model", "IP families and protocols"),
            ("kernel", ARROW),
            ("crate:ipvs", ARROW),
            ("crate:iptables", "the helper rules"),
        ],
    ),
    (
        "backend::fake",
        &[
            ("backend", "tests only: both modes over a kernel in memory"),
            ("source", "reads the scenarios whose histories it plays"),
            ("reconcile", "the loop that switches between both modes"),
            ("backend::rules", "as above"),
            ("backend::iptables", "as above"),
            ("backend::ipvs", "as above"),
            ("desired", "as above"),
            ("model", "as above"),
            ("kernel", "as above"),
            ("crate:ipvs", "as above"),
            ("crate:iptables", "as above"),
        ],
    ),
    (
        "kernel",
        &[
            ("model", "IP families"),
            ("crate:ipvs::netlink", "the blocking netlink socket, which is the same for all families"),
        ],
    ),
    (
        "config",
        &[
            ("desired", "makes its Settings"),
            ("model", "reads addresses as the model does"),
            ("reconcile::Timing", "makes it"),
            ("reconcile::Timings", "of both modes"),
            ("backend::ipvs::Options", "makes them"),
            ("backend::ipvs::VipBinding", "makes it"),
            ("source::manifests::Input", "makes them"),
            ("source::yaml", "reads files with their lines, as the manifests are read"),
            ("kernel::sysctl::ConntrackSettings", "makes them"),
            ("source::cluster::Access", "makes it"),
        ],
    ),
    (
        "control",
        &[
            ("reconcile", "asks it for another mode, tells how it stands"),
            ("model", "IP families; the Services by name"),
            ("source::Snapshots", "the slot out of which it tells the Services by name"),
        ],
    ),
    (
        "commands",
        &[
            ("config", "what a command goes by"),
            ("control", "the daemon's socket, and the commands that use it"),
            ("exit", "how it ends"),
            ("source", "wires the parts together"),
            ("source::cluster", "as above"),
            ("model", "as above"),
            ("desired", "as above"),
            ("reconcile", "as above"),
            ("observe", "as above"),
            ("backend", "as above"),
            ("backend::ipvs", "as above"),
            ("backend::iptables", "as above"),
            ("backend::kube_proxy", "as above"),
            ("kernel", "as above; and the node's own addresses"),
            ("lab", "the demo's cluster"),
            ("crate:ipvs", "list reads the table, dataplane tries whether IPVS works"),
            ("crate:iptables", "dataplane finds the commands"),
        ],
    ),
    ("lab", &[]),
    (
        "observe",
        &[
            ("desired", "what load balancers are told"),
            ("reconcile", "what it tells: its numbers, how it stands; whether it may be believed"),
            ("backend", "the border: Report, and what the kernel counts; never a mode"),
            ("model", "IP families, names of Services, events"),
        ],
    ),
    (
        "cli",
        &[("commands", "hands over to them"), ("config", "the flags that commands share"), ("exit", "how it ends")],
    ),
    ("exit", &[]),
    ("lib", &[]),
    ("main", &[("cli", "starts it")]),
];

/// Crates of which every import is checked. Others (tokio, tracing, …) are nobody's border.
const CRATES: &[&str] = &["ipvs", "iptables", "k8s_openapi", "kube"];

#[test]
fn imports_go_one_way() {
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (file, text) in sources() {
        for import in imports(&file, &text, CRATES) {
            match verdict(&file, &import) {
                Ok(entry) => used.extend(entry),
                Err(problem) => wrong.push(problem),
            }
        }
    }
    assert!(wrong.is_empty(), "{} imports against the direction:\n{}", wrong.len(), wrong.join("\n"));
    for (unit, entries) in HOUSE {
        for (allowed, _) in *entries {
            assert!(used.contains(&(*unit, *allowed)), "{unit} does not import {allowed} any more: take the entry out");
        }
    }
}

#[test]
fn a_planted_import_is_found() {
    let planted = [
        ("model/node.rs", "use crate::desired::Desired;", "model imports desired"),
        ("desired/mod.rs", "fn f() -> crate::backend::Report { todo!() }", "desired imports backend"),
        (
            "desired/drain.rs",
            "use std::{fmt, io};\nuse crate::{\n    model,\n    kernel::sysctl::{self, Setting},\n};",
            "line 4",
        ),
        ("reconcile/round.rs", "use crate::backend::{Report, ipvs::Op};", "reconcile imports backend::ipvs"),
        ("reconcile/mod.rs", "use crate::source::manifests;", "reconcile imports source"),
        ("backend/ipvs/helpers.rs", "use super::super::iptables::node;", "backend::ipvs imports backend::iptables"),
        ("backend/iptables/mod.rs", "use ipvs::Client;", "backend::iptables imports crate:ipvs"),
        ("kernel/netlink.rs", "use ipvs::Client;", "kernel imports crate:ipvs"),
        ("source/yaml.rs", "type S = k8s_openapi::api::core::v1::Service;", "source imports crate:k8s_openapi"),
        ("source/manifests/mod.rs", "use kube::Client;", "source imports crate:kube"),
        ("lab/mod.rs", "use crate::model::IpFamily;", "lab imports model"),
        ("main.rs", "use kube_ipvs::reconcile::Timing;", "main imports reconcile"),
        ("shadow/mod.rs", "use crate::model::Node;", "belongs to no unit"),
    ];
    for (file, text, expected) in planted {
        let file = Path::new(file);
        let found: Vec<_> =
            imports(file, text, CRATES).iter().filter_map(|import| verdict(file, import).err()).collect();
        assert!(found.iter().any(|problem| problem.contains(expected)), "{}: {found:?}", file.display());
    }
}

#[test]
fn what_is_allowed_passes() {
    let fine = [
        ("model/service.rs", "use super::IpFamily;\nuse imbl::OrdMap;"),
        ("desired/builder.rs", "use super::claims::{self, Claims};\nuse crate::model::{self, Node};"),
        ("backend/ipvs/plan.rs", "use super::{Op, names};\nuse super::super::Failure;\nuse ipvs::Command;"),
        ("backend/mod.rs", "pub mod ipvs;\n// crate::commands is no import here\nconst S: &str = \"crate::cli\";"),
        ("backend/fake/mod.rs", "mod ipvs;\nuse ipvs::FakeIpvs;"),
    ];
    for (file, text) in fine {
        let file = Path::new(file);
        for import in imports(file, text, CRATES) {
            assert_eq!(verdict(file, &import).err(), None);
        }
    }
}

/// The entry that allows an import (none is needed within a unit), or what is wrong with it.
fn verdict(file: &Path, import: &Import) -> Result<Option<(&'static str, &'static str)>, String> {
    let here = format!("src/{}, line {}", file.display(), import.line);
    let (unit, entries) = unit_of(&scan::module_of(file)).ok_or_else(|| format!("{here}: it belongs to no unit"))?;
    let target = if import.path.starts_with("crate:") {
        None
    } else {
        let target = unit_of(&import.path).ok_or_else(|| format!("{here}: {} belongs to no unit", import.path))?;
        Some(target.0)
    };
    if target == Some(unit) {
        return Ok(None);
    }
    let allows = |allowed: &str| {
        let same_unit = target.is_none_or(|target| unit_of(allowed).is_some_and(|(unit, _)| unit == target));
        same_unit && begins(allowed, &import.path)
    };
    match entries.iter().find(|(allowed, _)| allows(allowed)) {
        Some((allowed, _)) => Ok(Some((unit, allowed))),
        None => {
            let what = target.map(str::to_owned).unwrap_or_else(|| import.path.clone());
            Err(format!("{here}: {unit} imports {what} ({})", import.path))
        }
    }
}

/// The unit to which a path within the crate belongs: the longest one that it begins with.
fn unit_of(path: &str) -> Option<Unit> {
    HOUSE.iter().filter(|(unit, _)| begins(unit, path)).max_by_key(|(unit, _)| unit.len()).copied()
}

fn begins(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// All files below `src`, by their path in it.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let (Ok(inside), Ok(text)) = (path.strip_prefix(&root), std::fs::read_to_string(&path)) {
                files.push((inside.to_owned(), text));
            }
        }
    }
    assert!(files.len() > 50, "only {} files below {}", files.len(), root.display());
    files
}
