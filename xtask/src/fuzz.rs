//! A few seconds of every fuzz target, where cargo-fuzz is installed.

use anyhow::{Context, Result};

use crate::libtest::Tally;
use crate::place::Place;
use crate::process;
use crate::shell::quoted;
use crate::workspace::Workspace;

/// Seconds for each target: enough to run the corpus and find what fails at once.
const SECONDS: u32 = 10;

/// Runs every target of fuzz/fuzz_targets. None: there is none, or nothing to run it with, which has been said.
pub fn smoke(workspace: &Workspace) -> Result<Option<Tally>> {
    let folder = workspace.root.join("fuzz/fuzz_targets");
    if !folder.exists() {
        println!("fuzz: not run, there are no fuzz targets");
        return Ok(None);
    }
    if process::find_program("cargo-fuzz").is_none() {
        println!("fuzz: not run, cargo-fuzz is not installed");
        return Ok(None);
    }
    let mut tally = Tally::default();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let Some(target) = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()) else { continue };
        let script = format!("exec cargo fuzz run {} -- -max_total_time={SECONDS}", quoted(&target));
        // cargo-fuzz needs options of the nightly compiler, which this variable gives to the stable one.
        let run = Place::Here.run(&script, workspace.root.clone(), &[("RUSTC_BOOTSTRAP", "1")])?;
        let good = run.status == Some(0);
        tally += Tally { passed: u32::from(good), failed: u32::from(!good), ..Tally::default() };
    }
    Ok(Some(tally))
}
