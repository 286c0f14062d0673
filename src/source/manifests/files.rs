//! Which files the given paths mean, and what is in them now.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// One path that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input, read once.
    Stdin,
    /// A file or a folder.
    Path(PathBuf),
}

/// All paths that were given.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    paths: Vec<PathBuf>,
    stdin: Option<String>,
}

/// The name under which standard input appears in messages.
const STDIN: &str = "standard input";

impl Inputs {
    /// Checks that the paths exist, and reads standard input if it is among them.
    ///
    /// # Errors
    /// When a path does not exist or standard input cannot be read: a typing error must not look like an empty cluster.
    pub fn open(inputs: &[Input]) -> anyhow::Result<Self> {
        let mut opened = Self::default();
        for input in inputs {
            match input {
                Input::Path(path) => {
                    fs::metadata(path).map_err(|error| anyhow::anyhow!("--manifests {}: {error}", path.display()))?;
                    opened.paths.push(path.clone());
                }
                Input::Stdin => {
                    let mut text = String::new();
                    std::io::stdin().read_to_string(&mut text)?;
                    opened.stdin = Some(text);
                }
            }
        }
        Ok(opened)
    }

    /// Folders whose changes matter: those given, and those that hold the files given.
    pub fn folders(&self) -> Vec<PathBuf> {
        let folder = |path: &PathBuf| {
            if path.is_dir() {
                return path.clone();
            }
            match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
                _ => PathBuf::from("."),
            }
        };
        let mut folders: Vec<PathBuf> = self.paths.iter().map(folder).collect();
        folders.sort_unstable();
        folders.dedup();
        folders
    }

    /// The present content of every file, or why it cannot be read. A file given by name that is gone counts as
    /// unreadable, not as empty; one that vanished from a folder is gone.
    pub fn read(&self) -> BTreeMap<PathBuf, Result<String, String>> {
        let mut contents = BTreeMap::new();
        if let Some(text) = &self.stdin {
            contents.insert(PathBuf::from(STDIN), Ok(text.clone()));
        }
        for path in &self.paths {
            match list(path) {
                Ok(Some(files)) => {
                    contents.extend(files.into_iter().filter_map(|file| match fs::read_to_string(&file) {
                        Ok(text) => Some((file, Ok(text))),
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                        Err(error) => Some((file, Err(error.to_string()))),
                    }))
                }
                Ok(None) => {
                    contents.insert(path.clone(), fs::read_to_string(path).map_err(|error| error.to_string()));
                }
                Err(error) => {
                    contents.insert(path.clone(), Err(error.to_string()));
                }
            }
        }
        contents
    }
}

/// The manifests of a folder, or `None` if the path is a file.
fn list(path: &Path) -> std::io::Result<Option<Vec<PathBuf>>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(None);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest =
            file.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|e| extension == *e));
        if manifest && !hidden {
            files.push(file);
        }
    }
    Ok(Some(files))
}
