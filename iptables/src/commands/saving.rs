//! Reading tables little by little, or all at once, while other things go on.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::{self, RunFailure, SaveError, SaveFailure};
use super::process::Reading;
use super::{Commands, process};
use crate::save_reader::{SaveReader, SaveSink};
use crate::{ParseError, Table};

/// Tables that are being read: a run of iptables-save each. The programs are killed when this is dropped.
///
/// iptables-nft-save begins anew when rules change while it reads, so that what comes is one state of the table.
#[derive(Debug)]
pub struct Saving {
    commands: Commands,
    options: Vec<String>,
    waiting: VecDeque<Table>,
    /// The first one is read, what comes behind it was begun already.
    started: VecDeque<Current>,
    found: BTreeSet<Table>,
}

#[derive(Debug)]
struct Current {
    table: Table,
    command: String,
    reading: Reading,
    reader: SaveReader,
    broken: Option<ParseError>,
    empty: bool,
}

impl Saving {
    pub(super) fn new(commands: Commands, tables: VecDeque<Table>, options: Vec<String>) -> Self {
        Self { commands, options, waiting: tables, started: VecDeque::new(), found: BTreeSet::new() }
    }

    /// Starts the programs for all tables that wait, so that they work while others are read, or something else.
    ///
    /// # Errors
    /// When a program does not start.
    pub fn begin(&mut self) -> Result<(), SaveError> {
        while let Some(table) = self.waiting.pop_front() {
            let begun = self.start(table)?;
            self.started.push_back(begun);
        }
        Ok(())
    }

    /// Goes on until everything is read (then `true`), or until that instant, or until there is nothing to read yet.
    ///
    /// # Errors
    /// As [`Commands::save`]; what the sink has taken by then is of no use.
    pub fn step(&mut self, until: Instant, sink: &mut dyn SaveSink) -> Result<bool, SaveError> {
        self.go_on(until, false, sink)
    }

    /// Goes on to the end, all tables at once; returns those that exist.
    ///
    /// # Errors
    /// As [`Commands::save`]; what the sink has taken by then is of no use.
    pub fn finish(mut self, sink: &mut dyn SaveSink) -> Result<BTreeSet<Table>, SaveError> {
        self.begin()?;
        // The program is killed at its own deadline before that.
        while !self.go_on(Instant::now() + Duration::from_secs(3600), true, sink)? {}
        Ok(self.found)
    }

    fn go_on(&mut self, until: Instant, patient: bool, sink: &mut dyn SaveSink) -> Result<bool, SaveError> {
        loop {
            let mut current = match self.started.pop_front() {
                Some(current) => current,
                None => match self.waiting.pop_front() {
                    Some(table) => self.start(table)?,
                    None => return Ok(true),
                },
            };
            let Current { reading, reader, broken, empty, .. } = &mut current;
            let ended = reading.step(until, patient, &mut |piece| {
                *empty &= piece.iter().all(u8::is_ascii_whitespace);
                if broken.is_none() {
                    *broken = reader.feed(piece, sink).err();
                }
            });
            let ended = ended.map_err(|error| fail(&current.command, error.into()))?;
            match ended {
                None => {
                    self.started.push_front(current);
                    return Ok(false);
                }
                Some(status) => self.found.extend(current.end(status, sink)?),
            }
            // It may have waited long for its turn.
            if let Some(next) = self.started.front_mut() {
                next.reading.restart_clock();
            }
        }
    }

    fn start(&self, table: Table) -> Result<Current, SaveError> {
        let mut arguments = vec!["-t".to_owned(), table.as_str().to_owned()];
        arguments.extend(self.options.iter().cloned());
        let path = &self.commands.save_path;
        let command = error::command_line(path, &arguments);
        self.commands.forks.fetch_add(1, Ordering::Relaxed);
        let reading = Reading::start(path, &arguments, self.commands.timeout)
            .map_err(|error: process::RunError| fail(&command, error.into()))?;
        Ok(Current { table, command, reading, reader: SaveReader::default(), broken: None, empty: true })
    }
}

impl Current {
    fn end(self, status: std::process::ExitStatus, sink: &mut dyn SaveSink) -> Result<BTreeSet<Table>, SaveError> {
        let stderr = self.reading.stderr();
        if !status.success() {
            return Err(fail(&self.command, RunFailure::Refused { status, stderr }.into()));
        }
        let read = match self.broken {
            Some(error) => Err(error),
            None => self.reader.finish(sink),
        };
        let tables =
            read.map_err(|error| fail(&self.command, SaveFailure::Unreadable { error, stderr: stderr.clone() }))?;
        // iptables-nft-save may print an error and exit with 0. Nothing at all and no complaint is a table that does
        // not exist.
        let complete = tables.contains(&self.table) || (self.empty && !error::complains(&stderr));
        if complete { Ok(tables) } else { Err(fail(&self.command, SaveFailure::Incomplete { stderr })) }
    }
}

fn fail(command: &str, failure: SaveFailure) -> SaveError {
    SaveError { command: command.to_owned(), failure }
}
