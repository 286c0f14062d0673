//! `--watch`: a listing again and again, until the reader leaves.

use super::args::ListArgs;
use super::output::Output;
use std::io::IsTerminal;
use std::time::Duration;

/// To the upper left corner; what stands there is overwritten, and the rest cleared, so that nothing flickers.
const HOME: &str = "\x1b[H\x1b[J";

/// Prints it every `period`. On a terminal the newest takes the place of the one before.
///
/// # Errors
/// The table cannot be read, or the reader left.
pub fn run(args: &ListArgs, period: Duration) -> anyhow::Result<()> {
    let terminal = std::io::stdout().is_terminal();
    loop {
        let mut page = Vec::new();
        super::print(args, &mut Output::new(&mut page))?;
        let mut out = Output::stdout();
        out.text().push_str(if terminal { HOME } else { "" });
        out.text().push_str(&String::from_utf8_lossy(&page));
        if !terminal {
            out.text().push('\n');
        }
        out.flush()?;
        std::thread::sleep(period);
    }
}
