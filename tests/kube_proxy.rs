//! The program under the name of kube-proxy, as far as it needs no kernel: command line, files, exit statuses.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail loudly, too")]

use kube_ipvs::cli::KubeProxyCli;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder with the program under its other name in it; goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("kube-ipvs-kube-proxy-{}-{name}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        symlink(env!("CARGO_BIN_EXE_kube-ipvs"), folder.join("kube-proxy")).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Runs it; exit status, stdout and stderr.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        said(Command::new(self.0.join("kube-proxy")).args(arguments).output().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(output: Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube-proxy-config");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 6, "{files:?}");
    files
}

#[test]
fn the_version() {
    let folder = Folder::new("version");
    let version = format!("kube-ipvs {}\n", env!("CARGO_PKG_VERSION"));
    for flag in ["--version", "--version=true", "--version=raw"] {
        assert_eq!(folder.run(&[flag]), (0, version.clone(), String::new()), "{flag}");
    }
    let (status, help, _) = folder.run(&["--help"]);
    assert!(status == 0 && help.contains("--ipvs-strict-arp") && !help.contains("--alsologtostderr"), "{help}");
}

#[test]
fn a_wrong_command_line_ends_with_1() {
    let folder = Folder::new("wrong");
    for (arguments, message) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["run"], "\"kube-proxy\" does not take any arguments, got \"run\""),
        (&["--masquerade-all=maybe"], "strconv.ParseBool: parsing \"maybe\": invalid syntax"),
        (
            &["--oom-score-adj", "-2000"],
            "KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value",
        ),
        (&["--proxy-mode=userspace"], "KubeProxyConfiguration.Mode.ProxyMode: Invalid value: \"userspace\""),
        (&["--config", "/nonexistent"], "/nonexistent: No such file"),
    ] {
        let (status, stdout, stderr) = folder.run(arguments);
        assert!(status == 1 && stderr.contains(message), "{arguments:?}: {status}\n{stderr}");
        assert_eq!(stdout, "");
    }
}

#[test]
fn the_configuration_is_written_and_read_again() {
    let folder = Folder::new("write");
    for fixture in fixtures() {
        let (first, second) = (folder.path("first.yaml"), folder.path("second.yaml"));
        let (status, _, stderr) = folder.run(&["--config", fixture.to_str().unwrap(), "--write-config-to", &first]);
        assert_eq!(status, 0, "{}: {stderr}", fixture.display());
        let (status, _, stderr) = folder.run(&["--config", &first, &format!("--write-config-to={second}")]);
        assert_eq!(status, 0, "{}: {stderr}", fixture.display());
        let text = fs::read_to_string(&first).unwrap();
        assert!(text.contains("\nkind: KubeProxyConfiguration\n") && text.contains("\nmode: "), "{text}");
        assert_eq!(text, fs::read_to_string(&second).unwrap(), "{}", fixture.display());
    }
    let (status, _, stderr) = folder.run(&["--write-config-to", "/nonexistent/folder/file"]);
    assert!(status == 1 && stderr.contains("write /nonexistent/folder/file"), "{stderr}");
}

#[test]
fn a_wrong_file_ends_with_1_and_is_named_with_line_or_path() {
    let folder = Folder::new("file");
    let file = folder.path("config.yaml");
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    for (text, message) in [
        ("ipvs:\n  schedular: rr\n", "config.yaml: line 4: unknown field \"ipvs.schedular\""),
        ("oomScoreAdj: much\n", "config.yaml: line 3: oomScoreAdj: invalid type: string \"much\""),
        (
            "bindAddress: here\n",
            "config.yaml: KubeProxyConfiguration.BindAddress: Invalid value: \"here\": not a valid",
        ),
    ] {
        fs::write(&file, format!("{head}{text}")).unwrap();
        let (status, _, stderr) = folder.run(&["--config", &file]);
        assert!(status == 1 && stderr.starts_with("kube-proxy: ") && stderr.contains(message), "{stderr}");
    }
}

#[test]
fn what_has_no_effect_is_said_once_and_logs_are_json_if_asked_for() {
    let folder = Folder::new("json");
    let written = folder.path("written.yaml");
    let arguments =
        ["--logging-format=json", "--logtostderr", "--log_dir=/tmp", "--port-range", "--feature-gates=X=true"];
    let (status, _, stderr) = folder.run(&[&arguments[..], &["--write-config-to", &written]].concat());
    assert!(status == 1 && stderr.contains("--port-range"), "a flag that went long ago: {stderr}");
    let arguments = [arguments[0], arguments[1], arguments[2], arguments[4], "--write-config-to", &written];
    let (status, _, stderr) = folder.run(&arguments);
    assert_eq!(status, 0, "{stderr}");
    let lines: Vec<serde_json::Value> = stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let warnings: Vec<&str> = lines
        .iter()
        .filter(|line| line.get("level").is_some_and(|level| level == "WARN"))
        .map(|line| line.pointer("/fields/message").and_then(serde_json::Value::as_str).unwrap())
        .collect();
    let [first, second] = warnings.as_slice() else { panic!("{stderr}") };
    assert!(first.contains("featureGates X"), "{first}");
    assert!(second.starts_with("--log-dir have no effect"), "{second}");
}

/// docs/kube-proxy-flags.md has a line for each flag of kube-proxy and for each field of its file.
#[test]
fn every_flag_and_field_is_documented() {
    use clap::CommandFactory;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kube-proxy-flags.md");
    let text = fs::read_to_string(path).unwrap();
    let has = |name: &str| text.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
    let command = KubeProxyCli::command();
    let flags = command.get_arguments().filter_map(|flag| flag.get_long()).filter(|name| *name != "help");
    let mut missing: Vec<String> = flags.map(|name| format!("--{name}")).filter(|name| !has(name)).collect();
    let config = serde_json::to_value(kube_ipvs::config::KubeProxyConfiguration::default()).unwrap();
    let mut fields = Vec::new();
    leaves(&config, "", &mut fields);
    assert!(fields.len() > 50, "{fields:?}");
    missing.extend(fields.into_iter().filter(|name| !has(name)));
    assert!(missing.is_empty(), "docs/kube-proxy-flags.md lacks:\n{}", missing.join("\n"));
}

fn leaves(value: &serde_json::Value, prefix: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                leaves(value, &path, found);
            }
        }
        _ => found.push(prefix.to_owned()),
    }
}
