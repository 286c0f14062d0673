//! What a check found out, and in what order it is told.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Something works worse than it could, or will fail one day.
    Warning,
    /// Services do not work, or not all of them.
    Error,
}

/// How sure that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// It was seen.
    Certain,
    /// What was seen usually means that.
    Likely,
    /// It may be meant so.
    Possible,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check that made it.
    pub check: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// How sure that is.
    pub certainty: Certainty,
    /// What was found, in a sentence.
    pub what: String,
    /// What it means for Services.
    pub means: String,
    /// The command that mends it; none where there is nothing to type.
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding that was seen.
    pub fn new(check: &'static str, severity: Severity, what: impl Into<String>, means: impl Into<String>) -> Self {
        let certainty = Certainty::Certain;
        Self { check, severity, certainty, what: what.into(), means: means.into(), remedy: None }
    }

    /// How sure it is.
    #[must_use]
    pub fn sure(mut self, certainty: Certainty) -> Self {
        self.certainty = certainty;
        self
    }

    /// The command that mends it.
    #[must_use]
    pub fn mend(mut self, command: impl Into<String>) -> Self {
        self.remedy = Some(command.into());
        self
    }
}

impl Severity {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Certainty {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Certain => "certain",
            Self::Likely => "likely",
            Self::Possible => "possible",
        }
    }
}
