//! `kube-ipvs top`: a live view of the virtual servers, by rate, connections or trouble. Reads only.
//!
//! | file | what |
//! |---|---|
//! | `sample.rs` | reading the table and the names, on a thread of its own |
//! | `rows.rs` | rates out of two samples, trouble, order |
//! | `state.rs` | what is shown of them; keys |
//! | `view.rs` | the screen: only the lines that fit are made, only what differs is sent |

mod rows;
mod sample;
mod state;
mod view;

use super::list::ListMode;
use super::names::NamesArgs;
use crate::exit::Exit;
use anyhow::Context;
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use sample::Samples;
use state::{State, Verdict};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How long a key waits at most for the screen to be made again.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is sorted by at the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SortArg {
    /// New connections in a second
    #[default]
    Rate,
    /// Open connections
    Connections,
    /// Refused packets, then virtual servers without endpoints, then endpoints that are not ready
    Errors,
    /// Name
    Name,
}

/// Flags of `top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Which table: the kernel's IPVS, or the iptables rules
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    proxy_mode: ListMode,
    /// Seconds between two readings
    #[arg(short, long, value_name = "SECONDS", default_value = "2", value_parser = super::list::args::seconds)]
    interval: Duration,
    /// What comes first
    #[arg(short, long, value_enum, default_value_t)]
    sort: SortArg,
    /// Only what has this in its name, kind or address
    #[arg(short, long, value_name = "TEXT", default_value = "")]
    filter: String,
    #[command(flatten)]
    names: NamesArgs,
}

/// Runs until `q`.
///
/// # Errors
/// This is no terminal, or the table cannot be read at all.
pub fn run(args: &TopArgs) -> anyhow::Result<Exit> {
    anyhow::ensure!(
        std::io::stdout().is_terminal() && std::io::stdin().is_terminal(),
        "top needs a terminal; `kube-ipvs list --watch` goes anywhere"
    );
    // What is wrong from the start is said on an ordinary screen.
    let mut samples = Samples::start(args.proxy_mode, args.names.clone(), args.interval)?;
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let watched = watch(&mut terminal, &mut samples, State::new(args.sort, &args.filter));
    ratatui::restore();
    watched.map(|()| Exit::Success)
}

fn watch(terminal: &mut ratatui::DefaultTerminal, samples: &mut Samples, mut state: State) -> anyhow::Result<()> {
    let mut drawn: Option<Instant> = None;
    loop {
        let mut changed = drawn.is_none();
        while let Some(sample) = samples.newest() {
            changed |= state.take(sample);
        }
        if changed {
            terminal.draw(|frame| view::draw(frame, &mut state)).context("the screen cannot be drawn")?;
            drawn = Some(Instant::now());
        }
        if !event::poll(PATIENCE).context("the keyboard cannot be read")? {
            continue;
        }
        // Everything that was typed meanwhile, then one screen: over a slow line keys must not queue behind screens.
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if state.key(key) == Verdict::Quit {
                        return Ok(());
                    }
                    drawn = None;
                }
                Event::Resize(..) => drawn = None,
                _ => {}
            }
        }
    }
}
