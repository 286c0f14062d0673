//! Running iptables-restore and iptables-save.
//!
//! ```no_run
//! use iptables::{Commands, Family, Table, Transaction};
//! let commands = Commands::detect(Family::V4)?;
//! let before = commands.save(&[Table::Nat])?;
//! # let transaction = Transaction::new();
//! let report = commands.restore(&transaction)?;
//! println!("{} bytes in {:?}", report.bytes, report.duration);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod detect;
mod error;
mod list;
mod probe;
mod process;
mod saving;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use self::detect::DetectError;
pub use self::error::{RestoreError, RunFailure, SaveError, SaveFailure};
use self::process::{PIECE, Run};
pub use self::saving::Saving;
use crate::{Family, SaveSink, Saved, Table, Transaction, Variant};

/// The programs for one family, and how to run them. Clones share the count of processes started.
#[derive(Debug, Clone)]
pub struct Commands {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Which kernel interface the programs use.
    pub variant: Variant,
    /// iptables-restore.
    pub restore_path: PathBuf,
    /// iptables-save.
    pub save_path: PathBuf,
    /// How long legacy programs wait for `/run/xtables.lock`; whole seconds, at least one.
    pub lock_wait: Duration,
    /// When a program is killed.
    pub timeout: Duration,
    /// Version of the programs, where they told it: `(1, 8, 9)`.
    pub version: Option<Version>,
    forks: Arc<AtomicU64>,
}

/// Version of iptables: major, minor, patch.
pub type Version = (u32, u32, u32);

/// What a restore took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// From start to exit of the program.
    pub duration: Duration,
    /// Size of the input.
    pub bytes: usize,
    /// Programs run: 0 where there was nothing to write.
    pub runs: u32,
    /// What the program said although it succeeded: warnings, mostly empty.
    pub stderr: String,
}

/// Input for a restore: a [`Transaction`] or restore text.
pub trait RestoreInput {
    /// The text.
    fn restore_text(&self) -> std::borrow::Cow<'_, str>;

    /// The same in pieces, which are made as they are read: a large input never is in memory as a whole.
    fn restore_pieces(&self) -> Box<dyn Iterator<Item = std::borrow::Cow<'_, str>> + '_> {
        Box::new(std::iter::once(self.restore_text()).filter(|text| !text.is_empty()))
    }
}

impl RestoreInput for Transaction {
    fn restore_text(&self) -> std::borrow::Cow<'_, str> {
        self.render().into()
    }

    fn restore_pieces(&self) -> Box<dyn Iterator<Item = std::borrow::Cow<'_, str>> + '_> {
        Box::new(self.pieces(PIECE).map(Into::into))
    }
}

impl RestoreInput for str {
    fn restore_text(&self) -> std::borrow::Cow<'_, str> {
        self.into()
    }
}

impl RestoreInput for String {
    fn restore_text(&self) -> std::borrow::Cow<'_, str> {
        self.as_str().into()
    }
}

impl Commands {
    /// Commands with known paths; nothing is run.
    #[must_use]
    pub fn new(family: Family, variant: Variant, restore_path: PathBuf, save_path: PathBuf) -> Self {
        Self {
            family,
            variant,
            restore_path,
            save_path,
            lock_wait: Duration::from_secs(5),
            timeout: Duration::from_secs(120),
            version: None,
            forks: Arc::default(),
        }
    }

    /// Finds the programs and the variant that the node already uses, as upstream's iptables-wrapper does: the one
    /// with kubelet's chains (`KUBE-IPTABLES-HINT`, `KUBE-KUBELET-CANARY`) in its mangle table, else the one with more
    /// rules, else the one that plain `iptables-restore` is.
    ///
    /// # Errors
    /// When no variant is installed, or none of those installed works in this kernel.
    pub fn detect(family: Family) -> Result<Self, DetectError> {
        detect::detect(family)
    }

    /// The programs of one variant.
    ///
    /// # Errors
    /// When the variant is not installed.
    pub fn with_variant(family: Family, variant: Variant) -> Result<Self, DetectError> {
        detect::with_variant(family, variant)
    }

    /// Programs started so far, by this value and its clones.
    #[must_use]
    pub fn forks(&self) -> u64 {
        self.forks.load(Ordering::Relaxed)
    }

    /// Writes a transaction, or restore text. Nothing is run for an empty one.
    ///
    /// # Errors
    /// When the program cannot be run, takes too long, or refuses: the error keeps the exact input and the line that
    /// the program named. Tables before the failing one may have been written.
    pub fn restore<I: RestoreInput + ?Sized>(&self, input: &I) -> Result<RestoreReport, RestoreError> {
        self.run_restore(input, false)
    }

    /// Has iptables-restore read and build a transaction without writing it (`--test`). iptables-nft finds less this
    /// way than by writing: the kernel itself is not asked.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn check<I: RestoreInput + ?Sized>(&self, input: &I) -> Result<RestoreReport, RestoreError> {
        self.run_restore(input, true)
    }

    /// Writes a large transaction in pieces of at most `max_chains` chains; see [`Transaction::chunks`].
    ///
    /// # Errors
    /// As [`restore`](Self::restore), for the first piece that fails; those before it stay written, which is harmless
    /// because the jumps come last.
    pub fn restore_chunked(&self, transaction: Transaction, max_chains: usize) -> Result<RestoreReport, RestoreError> {
        let mut total = RestoreReport { duration: Duration::ZERO, bytes: 0, runs: 0, stderr: String::new() };
        for piece in transaction.chunks(max_chains) {
            let report = self.restore(&piece)?;
            total.duration += report.duration;
            total.bytes += report.bytes;
            total.runs += report.runs;
            total.stderr.push_str(&report.stderr);
        }
        Ok(total)
    }

    /// How many chains one restore should have at most when there are many. Measured with 5,000 services of five
    /// endpoints each: iptables-nft-restore 1.8.9 takes 108 s for all in one and 3 s in pieces of 300 to 1,200;
    /// legacy rewrites the whole table for each piece, 0.9 s in one and 4.7 s in eight.
    #[must_use]
    pub const fn chains_per_restore(&self) -> usize {
        match self.variant {
            Variant::Nft => 600,
            Variant::Legacy => usize::MAX,
        }
    }

    /// Writes a transaction of any size: in pieces of [`chains_per_restore`](Self::chains_per_restore), which is one
    /// piece for what changes in daily life.
    ///
    /// # Errors
    /// As [`restore_chunked`](Self::restore_chunked).
    pub fn restore_large(&self, transaction: Transaction) -> Result<RestoreReport, RestoreError> {
        self.restore_chunked(transaction, self.chains_per_restore())
    }

    /// Reads tables. A table that the kernel does not have (legacy) is not created and comes back missing.
    ///
    /// # Errors
    /// When the program cannot be run, takes too long, fails, or prints no complete table.
    pub fn save(&self, tables: &[Table]) -> Result<Saved, SaveError> {
        self.save_with(tables, &[])
    }

    /// Reads tables with the counters of each rule.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_with_counters(&self, tables: &[Table]) -> Result<Saved, SaveError> {
        self.save_with(tables, &["-c"])
    }

    fn save_with(&self, tables: &[Table], options: &[&str]) -> Result<Saved, SaveError> {
        let mut saved = Saved::default();
        for table in self.start_saving_with(tables, options).finish(&mut saved)? {
            saved.tables.entry(table).or_default();
        }
        Ok(saved)
    }

    /// Reads tables into a sink as they are printed, so that tables of any size need no more memory than the sink keeps.
    ///
    /// # Errors
    /// As [`save`](Self::save); what the sink has taken by then is of no use.
    pub fn save_into(&self, tables: &[Table], sink: &mut dyn SaveSink) -> Result<(), SaveError> {
        self.start_saving(tables).finish(sink).map(drop)
    }

    /// Reads tables little by little.
    #[must_use]
    pub fn start_saving(&self, tables: &[Table]) -> Saving {
        self.start_saving_with(tables, &[])
    }

    fn start_saving_with(&self, tables: &[Table], options: &[&str]) -> Saving {
        let existing = self.existing_legacy_tables();
        let exists = |table: &&Table| existing.as_ref().is_none_or(|existing| existing.contains(table));
        let tables = tables.iter().filter(exists).copied().collect();
        Saving::new(self.clone(), tables, options.iter().map(|option| (*option).to_owned()).collect())
    }

    /// Reading a legacy table that does not exist would create it, with its hooks.
    fn existing_legacy_tables(&self) -> Option<Vec<Table>> {
        if self.variant != Variant::Legacy {
            return None;
        }
        let file = match self.family {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        // The file is missing while the kernel's module is not loaded; iptables-save loads it and says what is wrong.
        let names = std::fs::read_to_string(file).ok()?;
        Some(names.lines().filter_map(|name| name.parse().ok()).collect())
    }

    fn run_restore<I: RestoreInput + ?Sized>(&self, input: &I, test: bool) -> Result<RestoreReport, RestoreError> {
        let mut bytes = 0;
        let mut pieces = input.restore_pieces().inspect(|piece| bytes += piece.len()).peekable();
        if pieces.peek().is_none() {
            return Ok(RestoreReport { duration: Duration::ZERO, bytes: 0, runs: 0, stderr: String::new() });
        }
        let mut arguments = vec!["--noflush".to_owned()];
        arguments.extend(self.lock_arguments());
        if test {
            arguments.push("--test".to_owned());
        }
        let started = Instant::now();
        let outcome = self.run(&self.restore_path, &arguments, &mut pieces);
        drop(pieces);
        let failure = match outcome {
            Ok(output) => {
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                if output.status.success() {
                    return Ok(RestoreReport { duration: started.elapsed(), bytes, runs: 1, stderr });
                }
                RunFailure::Refused { status: output.status, stderr }
            }
            Err(error) => error.into(),
        };
        let text = input.restore_text().into_owned();
        Err(RestoreError::new(error::command_line(&self.restore_path, &arguments), failure, text))
    }

    /// `-w` makes legacy programs wait for the lock; nft's take it and ignore it. Between 1.6.2 and 1.8.7 they look
    /// once a second unless told otherwise by `-W`; from 1.8.8 they sleep until it is free and complain about `-W`.
    fn lock_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-w".to_owned(), self.lock_wait.as_secs().max(1).to_string()];
        let polls = self.version.is_some_and(|version| ((1, 6, 2)..(1, 8, 8)).contains(&version));
        if polls && self.variant == Variant::Legacy {
            arguments.extend(["-W".to_owned(), "100000".to_owned()]);
        }
        arguments
    }

    fn run(
        &self,
        program: &std::path::Path,
        arguments: &[String],
        input: &mut process::Input<'_>,
    ) -> Result<Run, process::RunError> {
        self.forks.fetch_add(1, Ordering::Relaxed);
        process::run(program, arguments, input, self.timeout)
    }

    /// Hands over what a program prints, as it prints it; returns how it ended and what it complained of.
    fn read(
        &self,
        program: &std::path::Path,
        arguments: &[String],
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(std::process::ExitStatus, String), process::RunError> {
        self.forks.fetch_add(1, Ordering::Relaxed);
        let mut reading = process::Reading::start(program, arguments, self.timeout)?;
        loop {
            // It gives up at its own deadline.
            let until = Instant::now() + self.timeout;
            if let Some(status) = reading.step(until, true, take)? {
                return Ok((status, reading.stderr()));
            }
        }
    }
}
