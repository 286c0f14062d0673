//! The command line as Go's pflag reads it: underscores for hyphens, booleans in Go's spelling, the last one counts.

use clap::{ArgAction, Command};
use std::ffi::OsString;
use std::str::FromStr;

/// `strconv.ParseBool`.
///
/// # Errors
/// For anything else.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// `Name=true`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureGate {
    /// Its name.
    pub name: String,
    /// Whether it is on.
    pub enabled: bool,
}

impl FromStr for FeatureGate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or_else(|| format!("missing bool value for {text}"))?;
        let enabled =
            boolean(value.trim()).map_err(|error| format!("invalid value of {}={value}, err: {error}", name.trim()))?;
        Ok(Self { name: name.trim().to_owned(), enabled })
    }
}

/// `--a_b=c` is `--a-b=c` (`cliflag.WordSepNormalizeFunc`). What stands behind `--` is left alone.
pub fn normalise(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut flags = true;
    let each = |argument: OsString| {
        flags &= argument != "--";
        match argument.to_str() {
            Some(text) if flags && text.starts_with("--") => {
                let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
                OsString::from(name.replace('_', "-") + value)
            }
            _ => argument,
        }
    };
    arguments.map(each).collect()
}

/// A flag that is given twice counts as it was given last; lists grow.
#[must_use]
pub fn last_one_counts(command: Command) -> Command {
    command.mut_args(|argument| match argument.get_action() {
        ArgAction::Set => {
            let id = argument.get_id().clone();
            argument.overrides_with(id)
        }
        _ => argument,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn underscores_in_names_only() {
        let line = ["kube-proxy", "--proxy_mode=a_b", "--v", "2", "-x_y", "--", "--a_b"];
        let read = normalise(line.iter().map(OsString::from));
        assert_eq!(read, ["kube-proxy", "--proxy-mode=a_b", "--v", "2", "-x_y", "--", "--a_b"]);
    }

    #[test]
    fn gates() {
        assert_eq!("A=true".parse(), Ok(FeatureGate { name: "A".into(), enabled: true }));
        assert_eq!("A".parse::<FeatureGate>(), Err("missing bool value for A".into()));
        assert!("A=maybe".parse::<FeatureGate>().unwrap_err().starts_with("invalid value of A=maybe, err: "));
    }
}
