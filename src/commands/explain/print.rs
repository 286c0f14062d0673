//! A report as text, or as JSON.

use super::report::{Answer, Report};
use crate::commands::output::{self, Form, Paint, Style};
use std::fmt::Write as _;

/// Prints it.
///
/// # Errors
/// When standard output fails; that its reader has gone is none.
pub fn print(report: &Report, form: Form) -> anyhow::Result<()> {
    let text = match form {
        Form::Json => serde_json::to_string_pretty(report)? + "\n",
        Form::Text => text(report, Paint::of_stdout())?,
    };
    output::print(&text)
}

fn text(report: &Report, paint: Paint) -> Result<String, std::fmt::Error> {
    let packet = &report.packet;
    let source = match (packet.source, packet.source_port) {
        (Some(source), Some(port)) => std::net::SocketAddr::new(source, port).to_string(),
        (Some(source), None) => source.to_string(),
        (None, _) => "node".into(),
    };
    let from = match &packet.input {
        Some(input) => format!("in by {input}"),
        None => "sent by the node itself".into(),
    };
    let mut text = format!("{} {source} -> {}, {from}\n", packet.protocol, packet.destination);
    if let Some(wanted) = &report.wanted {
        describe(&mut text, "wanted", wanted, paint)?;
    }
    let modes = if report.modes.is_empty() { "nothing of a service proxy".into() } else { report.modes.join(" and ") };
    describe(&mut text, &format!("the kernel ({modes})"), &report.kernel, paint)?;
    for doubt in &report.doubts {
        writeln!(text, "\n{}", paint.paint(Style::Warning, &format!("in doubt: {doubt}")))?;
    }
    if report.wanted.is_none() {
        writeln!(text, "\nwhat the Services want was not asked: --manifests or --kubeconfig name a source")?;
    } else if report.differences.is_empty() {
        writeln!(text, "\n{}", paint.paint(Style::Good, "the kernel does what is wanted"))?;
    } else {
        writeln!(text, "\nthe kernel does otherwise:")?;
        for difference in &report.differences {
            writeln!(text, "  {}", paint.paint(Style::Bad, difference))?;
        }
    }
    Ok(text)
}

fn describe(text: &mut String, who: &str, answer: &Answer, paint: Paint) -> std::fmt::Result {
    let style = if answer.fate == "balanced" || answer.fate == "untouched" { Style::Good } else { Style::Bad };
    write!(text, "\n{who}: {}", paint.paint(style, answer.fate))?;
    if let (Some(service), Some(kind)) = (&answer.service, answer.kind) {
        write!(text, ", {kind} of {service}")?;
    }
    text.push('\n');
    for (index, step) in answer.steps.iter().enumerate() {
        writeln!(text, "  {:>2}. {step}", index + 1)?;
    }
    for endpoint in &answer.endpoints {
        let masqueraded = if endpoint.masqueraded { "masqueraded" } else { "not masqueraded" };
        let pod = endpoint.pod.as_ref().map(|pod| format!("  {pod}")).unwrap_or_default();
        writeln!(
            text,
            "  -> {:<24} {:5.1}%  {masqueraded}{pod}",
            endpoint.address.to_string(),
            endpoint.share * 100.0
        )?;
    }
    if let Some(endpoint) = answer.open_with {
        writeln!(text, "  its connection is open already, with {endpoint}")?;
    }
    match (answer.sticks_to, answer.affinity_seconds) {
        (Some(endpoint), Some(seconds)) => {
            writeln!(text, "  the sender is remembered, for {seconds} s after its last connection, with {endpoint}")?;
        }
        // What is wanted says so in its steps.
        (None, Some(seconds)) if answer.service.is_none() => {
            writeln!(text, "  affinity of {seconds} s; the sender is not remembered")?
        }
        _ => {}
    }
    Ok(())
}
