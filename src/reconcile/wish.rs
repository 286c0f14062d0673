//! The modes, which of them is wished for, and where they come from.

use crate::backend::{Dataplane, FlowTable};
use crate::desired::Settings;
use crate::model::{IpFamily, PerFamily};
use std::fmt;

/// A way of programming the kernel, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// IPVS.
    Ipvs,
    /// iptables.
    Iptables,
}

impl Mode {
    /// The name, as people and flags write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Ipvs => Self::Iptables,
            Self::Iptables => Self::Ipvs,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which mode somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// IPVS while it works, otherwise iptables.
    #[default]
    Auto,
    /// This one and no other.
    Only(Mode),
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Only(mode) => mode.fmt(f),
        }
    }
}

/// What the next start is to know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// What is wished for.
    pub wish: PerFamily<Wish>,
    /// It is `auto`, and iptables mode serves: what stood in the way of IPVS may stand there still, and no probe may see it.
    pub fell_back: PerFamily<bool>,
}

/// The modes that this node could have.
pub trait Modes: Send {
    /// Tries a mode without touching anything of the node.
    ///
    /// # Errors
    /// What is missing, in one line.
    fn probe(&mut self, mode: Mode) -> Result<(), String>;

    /// Makes a mode ready to be synced.
    ///
    /// # Errors
    /// What it could not talk to.
    fn open(&mut self, mode: Mode) -> Result<Box<dyn Dataplane>, String>;

    /// Keeps what is wished for and what serves from now on, for the next start; and what the configuration asks for, if that is new.
    ///
    /// # Errors
    /// Why it could not be kept. A switch does not happen then: the next start would take it back.
    fn record(&mut self, kept: &Kept, configured: Option<Wish>) -> Result<(), String>;

    /// These are the settings from now on.
    fn take_settings(&mut self, _: &Settings) {}
}

/// The ways of programming the kernel that are at hand.
pub struct Planes {
    /// IPVS mode, where it can be talked to.
    pub ipvs: Option<Box<dyn Dataplane>>,
    /// iptables mode.
    pub iptables: Option<Box<dyn Dataplane>>,
    /// What kube-proxy left that is of neither mode, where it is looked for.
    pub leftovers: Option<Box<dyn Dataplane>>,
    /// The mode that serves.
    pub active: PerFamily<Mode>,
    /// The mode that was asked for.
    pub wish: PerFamily<Wish>,
    /// Where modes come from.
    pub modes: Box<dyn Modes>,
    /// The flows that the kernel remembers.
    pub flows: Box<dyn FlowTable>,
    /// The families that are programmed at all.
    pub families: Vec<IpFamily>,
}

impl Planes {
    /// A mode, if it can be talked to.
    pub fn at(&mut self, mode: Mode) -> Option<&mut Box<dyn Dataplane>> {
        match mode {
            Mode::Ipvs => self.ipvs.as_mut(),
            Mode::Iptables => self.iptables.as_mut(),
        }
    }

    /// The mode that serves a family.
    pub fn active(&mut self, family: IpFamily) -> Option<&mut Box<dyn Dataplane>> {
        self.at(*self.active.get(family))
    }

    /// The mode that serves a family, to be asked only.
    pub fn serving(&self, family: IpFamily) -> Option<&dyn Dataplane> {
        match self.active.get(family) {
            Mode::Ipvs => self.ipvs.as_deref(),
            Mode::Iptables => self.iptables.as_deref(),
        }
    }

    /// The mode that does not serve a family: what is left of it drains and goes.
    pub fn retiring(&mut self, family: IpFamily) -> Option<&mut Box<dyn Dataplane>> {
        self.at(self.active.get(family).other())
    }

    /// Makes a mode ready to take over.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&mut self, mode: Mode) -> Result<(), String> {
        self.modes.probe(mode)?;
        if self.at(mode).is_none() {
            let plane = Some(self.modes.open(mode)?);
            match mode {
                Mode::Ipvs => self.ipvs = plane,
                Mode::Iptables => self.iptables = plane,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Planes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planes").field("active", &self.active).field("families", &self.families).finish_non_exhaustive()
    }
}
