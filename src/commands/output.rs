//! Standard output, for all commands: a reader that has gone is no error, and colours are for terminals.

use clap::ValueEnum;
use std::io::{ErrorKind, IsTerminal, Write};

/// In which form a command tells what it found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Prints text to standard output.
///
/// # Errors
/// When it cannot be written. That the reader has seen enough (`| head`) is none.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What a piece of text is to be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As it should be; in `plan`, what comes.
    Good,
    /// Worth a look; in `plan`, what changes.
    Warning,
    /// Not as it should be; in `plan`, what goes.
    Bad,
}

/// Whether the user leaves colours to us: <https://no-color.org>.
pub fn colors_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether colours are wanted and standard output is a terminal, which shows them.
pub fn colors_fit() -> bool {
    colors_allowed() && std::io::stdout().is_terminal()
}

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint(bool);

impl Paint {
    /// Colours where they fit.
    pub fn of_stdout() -> Self {
        Self(colors_fit())
    }

    /// No colours.
    pub fn plain() -> Self {
        Self(false)
    }

    /// The text, in the colour of its style.
    pub fn paint(self, style: Style, text: &str) -> String {
        let colour = match style {
            Style::Good => 32,
            Style::Warning => 33,
            Style::Bad => 31,
        };
        if self.0 { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_where_wanted() {
        assert_eq!(Paint::plain().paint(Style::Bad, "x"), "x");
        assert_eq!(Paint(true).paint(Style::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
