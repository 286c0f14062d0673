//! kube-proxy's logging flags. Unlike its others they count beside `--config`.

use super::duration::GoDuration;
use super::kubeproxy::{Logging, VmoduleItem};
use super::pflag::boolean;
use clap::Args;
use std::str::FromStr;

/// What logsapi.AddFlags adds, but for `--logging-format`, which all commands have.
#[derive(Debug, Clone, Default, Args)]
pub struct LoggingFlags {
    /// How much is logged: up to 3 what matters, from 4 on debug, from 7 on trace, from 10 on libraries as well
    #[arg(short, long, value_name = "LEVEL")]
    pub v: Option<u32>,
    /// The same for single source files: name without .rs (with * and ?) = level
    #[arg(long, value_delimiter = ',', value_name = "FILE=LEVEL,…")]
    pub vmodule: Option<Vec<Vmodule>>,
    /// No effect: nothing is kept back
    #[arg(long, value_name = "DURATION", hide = true)]
    pub log_flush_frequency: Option<GoDuration>,
    /// In text format: errors to stderr, all else to stdout
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub log_text_split_stream: Option<bool>,
    /// No effect: nothing is kept back
    #[arg(long, value_name = "SIZE", hide = true)]
    pub log_text_info_buffer_size: Option<String>,
    /// In JSON format: errors to stderr, all else to stdout
    #[arg(long, value_name = "BOOL", value_parser = boolean, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide = true)]
    pub log_json_split_stream: Option<bool>,
    /// No effect: nothing is kept back
    #[arg(long, value_name = "SIZE", hide = true)]
    pub log_json_info_buffer_size: Option<String>,
}

/// One `file=level`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vmodule(VmoduleItem);

impl FromStr for Vmodule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} must have the pattern=N format");
        let (pattern, level) = text.split_once('=').ok_or_else(wrong)?;
        let verbosity = level.parse().map_err(|_| wrong())?;
        Ok(Self(VmoduleItem { file_pattern: pattern.to_owned(), verbosity }))
    }
}

impl LoggingFlags {
    /// Changes what was given. Levels of files that were given come before those of the configuration.
    pub fn apply(&self, format: Option<&str>, logging: &mut Logging) {
        if let Some(format) = format {
            format.clone_into(&mut logging.format);
        }
        let set = |value: &Option<String>, target: &mut String| {
            if let Some(value) = value {
                target.clone_from(value);
            }
        };
        logging.verbosity = self.v.unwrap_or(logging.verbosity);
        logging.flush_frequency = self.log_flush_frequency.unwrap_or(logging.flush_frequency);
        let given = self.vmodule.iter().flatten().map(|item| item.0.clone());
        logging.vmodule = given.chain(std::mem::take(&mut logging.vmodule)).collect();
        let (text, json) = (&mut logging.options.text, &mut logging.options.json);
        text.split_stream = self.log_text_split_stream.unwrap_or(text.split_stream);
        json.split_stream = self.log_json_split_stream.unwrap_or(json.split_stream);
        set(&self.log_text_info_buffer_size, &mut text.info_buffer_size);
        set(&self.log_json_info_buffer_size, &mut json.info_buffer_size);
    }
}
