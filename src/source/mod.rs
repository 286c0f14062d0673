//! Where Services come from. Every source yields the same: complete snapshots through one `watch` slot, of which the
//! reader sees the newest.

pub mod annotations;
pub mod cluster;
pub mod convert;
pub mod manifests;
pub mod yaml;

use crate::model::Snapshot;
use std::fmt;
use std::path::PathBuf;
use tokio::sync::watch;

/// The reading end of a source.
pub type Snapshots = watch::Receiver<Snapshot>;

/// Something in the input that could not be used. It never stops anything else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, if it came from one.
    pub file: Option<PathBuf>,
    /// The line in it, from 1.
    pub line: Option<usize>,
    /// The object, as `Kind namespace/name`.
    pub object: Option<String>,
    /// The field within the object.
    pub field: Option<String>,
    /// What is wrong and what is done about it.
    pub message: String,
}

impl Problem {
    /// A problem of which only the message is known yet.
    pub fn new(message: impl Into<String>) -> Self {
        Self { file: None, line: None, object: None, field: None, message: message.into() }
    }

    /// A problem with a field.
    pub fn in_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(message) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}", file.display())?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}
