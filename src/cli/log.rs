//! How the program logs: levels, formats, where to.

use crate::config::{Logging, VmoduleItem};
use clap::Args;
use std::io::IsTerminal;
use std::path::Path;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// How the program logs. Logs go to stderr.
#[derive(Debug, Args)]
pub struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter such as "kube_ipvs::reconcile=debug"; comes before -v [default: info]
    #[arg(long, global = true, value_name = "LEVEL", env = "KUBE_IPVS_LOG")]
    pub log_level: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, global = true, value_parser = ["text", "json"])]
    pub logging_format: Option<String>,
}

impl LogArgs {
    /// Starts logging as a configuration and these flags say.
    ///
    /// # Errors
    /// When the level is none.
    pub fn start(&self, logging: &Logging) -> anyhow::Result<()> {
        let directives = self.log_level.as_deref().map_or_else(|| directives(logging.verbosity).to_owned(), quieted);
        let filter =
            EnvFilter::try_new(&directives).map_err(|error| anyhow::anyhow!("--log-level {directives:?}: {error}"))?;
        let filter = if logging.vmodule.is_empty() {
            FilterExt::boxed(filter)
        } else {
            let files = logging.vmodule.clone();
            let raised = filter_fn(move |metadata| raised(metadata, &files));
            FilterExt::boxed(filter.or(raised.with_max_level_hint(LevelFilter::TRACE)))
        };
        let json = self.logging_format.as_deref().unwrap_or(&logging.format) == "json";
        let options = if json { &logging.options.json } else { &logging.options.text };
        let writer = if options.split_stream {
            BoxMakeWriter::new(std::io::stderr.with_max_level(Level::ERROR).or_else(std::io::stdout))
        } else {
            BoxMakeWriter::new(std::io::stderr)
        };
        let layer = tracing_subscriber::fmt::layer()
            .with_target(false)
            .with_writer(writer)
            .with_ansi(std::io::stderr().is_terminal());
        let layer: Box<dyn Layer<Registry> + Send + Sync> = if json { layer.json().boxed() } else { layer.boxed() };
        tracing_subscriber::registry().with(layer.with_filter(filter)).init();
        Ok(())
    }
}

/// klog's levels in words. Manifests commonly ask for 2, which must be quiet when nothing happens.
fn directives(verbosity: u32) -> &'static str {
    match verbosity {
        0..=3 => "info,kube_client=off",
        4..=6 => "info,kube_ipvs=debug,kube_client=off",
        7..=9 => "info,kube_ipvs=trace,kube_client=off",
        _ => "trace",
    }
}

/// kube logs what the source tells in its own words, once per outage. Who names it gets its logs.
fn quieted(level: &str) -> String {
    if level.contains("kube_client") { level.to_owned() } else { format!("{level},kube_client=off") }
}

/// Whether `--vmodule` lets through what the level does not.
fn raised(metadata: &Metadata<'_>, files: &[VmoduleItem]) -> bool {
    let path = metadata.file().unwrap_or_default().trim_end_matches(".rs");
    let name = Path::new(path).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    files.iter().any(|item| {
        let text = if item.file_pattern.contains('/') { path } else { &*name };
        let level = match item.verbosity {
            0..=3 => LevelFilter::INFO,
            4..=6 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        *metadata.level() <= level && fits(item.file_pattern.as_bytes(), text.as_bytes())
    })
}

/// `*` stands for any number of characters, `?` for one.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => fits(rest, text),
        (Some((b'*', rest)), Some((_, tail))) => fits(rest, text) || fits(pattern, tail),
        (Some((b'?', rest)), Some((_, tail))) => fits(rest, tail),
        (Some((wanted, rest)), Some((found, tail))) => wanted == found && fits(rest, tail),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let fits = |pattern: &str, text: &str| fits(pattern.as_bytes(), text.as_bytes());
        assert!(fits("round", "round") && fits("rou*", "round") && fits("*", "") && fits("r?und", "round"));
        assert!(!fits("round", "rounds") && !fits("r?und", "rund") && !fits("", "x"));
    }

    #[test]
    fn klogs_levels() {
        assert_eq!(directives(2), "info,kube_client=off");
        assert_eq!(directives(5), "info,kube_ipvs=debug,kube_client=off");
        assert_eq!(directives(10), "trace");
    }

    #[test]
    fn kubes_own_logs_are_off_unless_they_are_named() {
        assert_eq!(quieted("trace"), "trace,kube_client=off");
        assert_eq!(quieted("info,kube_client=debug"), "info,kube_client=debug");
        EnvFilter::try_new(quieted("info")).unwrap();
    }
}
