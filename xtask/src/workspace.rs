//! What cargo knows about this workspace: where it is, its test binaries, the product's binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::CommandExt as _;

/// The workspace around the current directory, so that one built xtask serves every working tree.
#[derive(Debug)]
pub struct Workspace {
    /// The folder of the root Cargo.toml.
    pub root: PathBuf,
}

/// One compiled test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestBinary {
    /// Package and target, as in "iptables-rules tests/kernel.rs".
    pub name: String,
    /// "lib", "bin", "test" or another kind of target.
    pub kind: String,
    /// The target's name: the file's name for a file in tests/.
    pub target: String,
    /// The folder of the package, in which cargo runs tests.
    pub folder: PathBuf,
    /// The binary.
    pub executable: PathBuf,
}

impl TestBinary {
    /// Whether it is an integration test that needs the kernel features which a virtual machine provides.
    pub fn is_kernel_test(&self) -> bool {
        self.kind == "test" && self.target.starts_with("kernel")
    }

    /// Whether it is one of those that judge by the clock while traffic flows.
    pub fn is_timing_test(&self) -> bool {
        self.is_kernel_test()
            && matches!(
                self.target.as_str(),
                "kernel_restart" | "kernel_repair" | "kernel_switch" | "kernel_switch_kill" | "kernel_switch_failures"
            )
    }

    /// Whether it is a kernel test that does not.
    pub fn is_steady_kernel_test(&self) -> bool {
        self.is_kernel_test() && !self.is_timing_test()
    }
}

/// The cargo that runs us, or the one on the path.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

impl Workspace {
    /// Finds the workspace around the current directory.
    pub fn here() -> Result<Self> {
        let manifest = cargo().args(["locate-project", "--workspace", "--message-format", "plain"]).read()?;
        let manifest = PathBuf::from(String::from_utf8_lossy(&manifest).trim());
        let root = manifest.parent().with_context(|| format!("{} has no folder", manifest.display()))?;
        Ok(Self { root: root.to_owned() })
    }

    /// cargo, run at the workspace's root.
    pub fn cargo(&self) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root);
        command
    }

    /// Compiles all tests and lists them in the order in which cargo would run them.
    pub fn test_binaries(&self) -> Result<Vec<TestBinary>> {
        let mut command = self.cargo();
        command.args(["test", "--no-run", "--workspace", "--locked"]);
        let mut binaries: Vec<_> = messages(&mut command)?.lines().filter_map(test_binary).collect();
        binaries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(binaries)
    }

    /// Compiles the product and returns the path of its binary.
    pub fn product(&self) -> Result<PathBuf> {
        self.binary(PRODUCT)
    }

    /// As [`product`](Self::product), optimised. Takes minutes the first time.
    pub fn optimised_product(&self) -> Result<PathBuf> {
        self.build(PRODUCT, &["--release", "--package", PRODUCT])
    }

    /// Compiles the product for a target as a static, stripped file and returns its path.
    pub fn static_product(&self, target: &str) -> Result<PathBuf> {
        let mut command = self.cargo();
        // With a target, build scripts and macros stay dynamic, which they have to be.
        command.args(["build", "--locked", "--release", "--package", PRODUCT, "--bin", PRODUCT, "--target", target]);
        command.env("RUSTFLAGS", "-C target-feature=+crt-static");
        command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols").env("CARGO_PROFILE_RELEASE_DEBUG", "none");
        Self::built(command, PRODUCT)
    }

    /// Compiles the binary that is called as its package and returns its path.
    pub fn binary(&self, package: &str) -> Result<PathBuf> {
        // Always the same selection: with another, crates that both share get other features and are compiled again.
        self.build(package, &["--package", PRODUCT, "--package", RUNNER])
    }

    fn build(&self, binary: &str, selection: &[&str]) -> Result<PathBuf> {
        let mut command = self.cargo();
        command.args(["build", "--bins", "--locked"]).args(selection);
        Self::built(command, binary)
    }

    fn built(mut command: Command, binary: &str) -> Result<PathBuf> {
        let messages = messages(&mut command)?;
        let named = |message: &Value| message.pointer("/target/name").and_then(Value::as_str) == Some(binary);
        let mut found = messages.lines().filter_map(parse).filter(named).filter_map(|message| executable(&message));
        found.next_back().with_context(|| format!("cargo build named no binary {binary}"))
    }
}

/// Name of the scenario runner's package and binary.
pub const RUNNER: &str = "conformance";

/// Name of the product's package and binary.
const PRODUCT: &str = "kube-ipvs";

/// Runs cargo with its machine-readable messages; people see its progress and its warnings on standard error.
fn messages(command: &mut Command) -> Result<String> {
    command.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    ensure!(!text.is_empty(), "{command:?} printed no messages");
    Ok(text)
}

fn parse(line: &str) -> Option<Value> {
    // Build scripts may print lines of their own among the messages.
    serde_json::from_str(line).ok()
}

fn executable(message: &Value) -> Option<PathBuf> {
    (message.get("reason")? == "compiler-artifact").then(|| message.get("executable")?.as_str().map(PathBuf::from))?
}

fn test_binary(line: &str) -> Option<TestBinary> {
    let message = parse(line)?;
    let executable = executable(&message)?;
    // An ordinary binary is compiled too, for the tests that run it.
    if message.pointer("/profile/test")? != true {
        return None;
    }
    let folder = Path::new(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
    let target = message.pointer("/target/name")?.as_str()?.to_owned();
    let kind = message.pointer("/target/kind/0")?.as_str()?.to_owned();
    let source = Path::new(message.pointer("/target/src_path")?.as_str()?);
    let source = source.strip_prefix(&folder).unwrap_or(source).display().to_string();
    let package = package_name(message.get("package_id")?.as_str()?, &folder);
    Some(TestBinary { name: format!("{package} {source}"), kind, target, folder, executable })
}

/// "path+file:///x/ipvs#ipvs-netlink@0.1.0" → "ipvs-netlink"; the name is left out where the folder has the same.
fn package_name(id: &str, folder: &Path) -> String {
    let fragment = id.rsplit_once('#').map_or(id, |(_, fragment)| fragment);
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => folder.file_name().map_or_else(|| fragment.to_owned(), |name| name.to_string_lossy().into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARTIFACT: &str = r#"{"reason":"compiler-artifact","package_id":"path+file:///src/ipvs#ipvs-netlink@0.1.0",
        "manifest_path":"/src/ipvs/Cargo.toml","target":{"kind":["test"],"name":"kernel_dump",
        "src_path":"/src/ipvs/tests/kernel_dump.rs"},"profile":{"test":true},"executable":"/target/debug/deps/kernel_dump-1"}"#;

    #[test]
    fn a_test_binary_is_read_from_cargos_message() {
        let binary = test_binary(ARTIFACT).unwrap();
        assert_eq!(binary.name, "ipvs-netlink tests/kernel_dump.rs");
        assert_eq!(binary.folder, Path::new("/src/ipvs"));
        assert_eq!(binary.executable, Path::new("/target/debug/deps/kernel_dump-1"));
        assert!(binary.is_kernel_test());
    }

    #[test]
    fn what_is_no_test_is_left_out() {
        assert_eq!(test_binary(&ARTIFACT.replace(r#""test":true"#, r#""test":false"#)), None);
        assert_eq!(test_binary(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(test_binary("a line of a build script"), None);
    }

    #[test]
    fn a_package_is_named_by_its_id_and_otherwise_by_its_folder() {
        assert_eq!(package_name("path+file:///src/ipvs#ipvs-netlink@0.1.0", Path::new("/src/ipvs")), "ipvs-netlink");
        assert_eq!(package_name("path+file:///src/xtask#0.1.0", Path::new("/src/xtask")), "xtask");
    }
}
