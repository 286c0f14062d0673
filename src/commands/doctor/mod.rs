//! `kube-ipvs doctor`: checks the node and says for each finding what it means, how sure it is, and what mends it.
//!
//! [`checks`] are functions over [`facts::Facts`]; [`gather`] reads these. Changes nothing, but that trying IPVS loads its
//! modules.

pub mod checks;
pub mod facts;
pub mod finding;
mod gather;
mod processes;

use super::output::{self, Form, Paint, Style};
use super::require_root;
use crate::exit::Exit;
use clap::Args;
use finding::{Finding, Severity};
use serde_json::json;
use std::fmt::Write as _;

/// Flags of `doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// The mode that the node is to have; auto: the one that serves, or that `run` would choose
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = ["auto", "ipvs", "iptables"])]
    proxy_mode: String,
    /// The IPVS scheduler that is to be tried
    #[arg(long, value_name = "NAME", default_value = "rr")]
    ipvs_scheduler: String,
    /// The cluster's service ranges [default: those that IPVS mode has routed]
    #[arg(long, value_delimiter = ',', value_name = "CIDR,…")]
    service_cidr: Vec<String>,
    /// How it is printed; docs/doctor.md names the fields
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// Examines the node.
///
/// # Errors
/// When an argument is wrong, or this is not root.
pub fn run(args: &DoctorArgs) -> anyhow::Result<Exit> {
    require_root("doctor")?;
    let findings = checks::examine(&gather::facts(args)?);
    let text = match args.output {
        Form::Json => {
            let sound = checks::sound(&findings);
            serde_json::to_string_pretty(&json!({ "findings": findings, "sound": sound }))? + "\n"
        }
        Form::Text => text(&findings, Paint::of_stdout())?,
    };
    output::print(&text)?;
    Ok(exit(&findings))
}

/// By the worst finding.
fn exit(findings: &[Finding]) -> Exit {
    match findings.iter().map(|finding| finding.severity).max() {
        None | Some(Severity::Note) => Exit::Success,
        Some(Severity::Warning) => Exit::Changes,
        Some(Severity::Error) => Exit::Broken,
    }
}

fn text(findings: &[Finding], paint: Paint) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for finding in findings {
        let style = match finding.severity {
            Severity::Note => Style::Good,
            Severity::Warning => Style::Warning,
            Severity::Error => Style::Bad,
        };
        let word = paint.paint(style, finding.severity.word());
        writeln!(text, "{word} {}: {} ({})", finding.check, finding.what, finding.certainty.word())?;
        writeln!(text, "  means: {}", finding.means)?;
        if let Some(remedy) = &finding.remedy {
            writeln!(text, "  mend:  {remedy}")?;
        }
        text.push('\n');
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    writeln!(text, "errors: {errors}, warnings: {warnings}, notes: {notes}")?;
    writeln!(text, "nothing found: {}", checks::sound(findings).join(", "))?;
    Ok(text)
}
