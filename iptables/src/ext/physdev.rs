//! `-m physdev`: the bridge port behind a bridged packet.

use std::fmt;
use std::sync::Arc;

use super::bang;
use super::conntrack::Test;
use crate::options::Words;

/// The options of `-m physdev`. A flag is `Some(true)` where required and `Some(false)` where excluded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PhysdevMatch {
    /// `--physdev-is-in`
    pub is_in: Option<bool>,
    /// `--physdev-in`
    pub input: Option<Test<Arc<str>>>,
    /// `--physdev-is-out`
    pub is_out: Option<bool>,
    /// `--physdev-out`
    pub output: Option<Test<Arc<str>>>,
    /// `--physdev-is-bridged`
    pub is_bridged: Option<bool>,
}

impl PhysdevMatch {
    pub(crate) fn write(&self, f: &mut dyn fmt::Write) -> fmt::Result {
        f.write_str(" -m physdev")?;
        write_flag(f, "--physdev-is-in", self.is_in)?;
        write_name(f, "--physdev-in", self.input.as_ref())?;
        write_flag(f, "--physdev-is-out", self.is_out)?;
        write_name(f, "--physdev-out", self.output.as_ref())?;
        write_flag(f, "--physdev-is-bridged", self.is_bridged)
    }

    pub(crate) fn parse(words: &mut Words<'_, '_>) -> Option<Self> {
        let mut found = Self::default();
        while let Some(option) = words.option() {
            let negated = option.negated;
            match option.name {
                "--physdev-is-in" => found.is_in = Some(!negated),
                "--physdev-is-out" => found.is_out = Some(!negated),
                "--physdev-is-bridged" => found.is_bridged = Some(!negated),
                "--physdev-in" => found.input = Some(Test { value: words.value()?.into(), negated }),
                "--physdev-out" => found.output = Some(Test { value: words.value()?.into(), negated }),
                _ => return None,
            }
        }
        Some(found)
    }
}

fn write_flag(f: &mut dyn fmt::Write, option: &str, flag: Option<bool>) -> fmt::Result {
    let Some(required) = flag else { return Ok(()) };
    bang(f, !required)?;
    write!(f, " {option}")
}

fn write_name(f: &mut dyn fmt::Write, option: &str, test: Option<&Test<Arc<str>>>) -> fmt::Result {
    let Some(test) = test else { return Ok(()) };
    bang(f, test.negated)?;
    write!(f, " {option} {}", test.value)
}
