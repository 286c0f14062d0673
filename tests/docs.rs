//! What the documents say about the tree is so: the links lead somewhere, and the table of flags in README.md is that of
//! `kube-ipvs run --help`. (tests/kube_proxy.rs looks after docs/kube-proxy-flags.md.)

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail loudly, too")]

use clap::CommandFactory;
use kube_ipvs::cli::Cli;
use std::fs;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- flags of `run`: tests/docs.rs says what must stand here -->\n";
const END: &str = "<!-- end of flags -->";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_flags_in_the_readme_are_those_of_run() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let table = readme.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).unwrap().0;
    let expected = flags();
    assert!(table == expected, "README.md has other flags than `kube-ipvs run --help`; this is right:\n{expected}");
}

/// The flags as a table in Markdown.
fn flags() -> String {
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").unwrap();
    let mut table = "| flag | default | what |\n|---|---|---|\n".to_owned();
    for flag in run.get_arguments().filter(|flag| flag.get_long().is_some_and(|name| name != "help")) {
        if flag.is_hide_set() {
            continue;
        }
        let mut name = format!("--{}", flag.get_long().unwrap());
        let values: Vec<_> = flag.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let takes_value = flag.get_action().takes_values();
        let placeholder = flag.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
        if takes_value && values.is_empty() {
            name += &format!(" {}", placeholder.replace('|', "\\|"));
        } else if takes_value {
            name += &format!(" {}", values.join("\\|"));
        }
        let defaults: Vec<_> = flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let default = if takes_value { defaults.join(",") } else { String::new() };
        let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
        table += &format!("| `{name}` | {default} | {} |\n", help.replace('|', "\\|"));
    }
    table
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    let files = documents();
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let path = link.split('#').next().unwrap_or_default();
            let outside = link.starts_with("http://") || link.starts_with("https://") || path.is_empty();
            if !outside && !file.parent().unwrap().join(path).exists() {
                broken.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// All documents of the tree.
fn documents() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["docs", "ipvs", "iptables"].iter().map(|name| root().join(name)).collect();
    let mut files: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].iter().map(|name| root().join(name)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files
}
