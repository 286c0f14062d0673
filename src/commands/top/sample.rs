//! Reads the table and the names, on a thread of its own: a large table must not keep a key waiting.

use crate::commands::list::from_ipvs::{self, Depth};
use crate::commands::list::table::{Table, VirtualServer};
use crate::commands::list::{self, Found, ListMode};
use crate::commands::names::{Names, NamesArgs};
use crate::kernel::addresses;
use anyhow::Context;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Names are read again this often.
const NAMES_PERIOD: Duration = Duration::from_secs(10);

/// What was found at one instant.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// `IPVS` or `iptables`.
    pub mode: &'static str,
    /// The virtual servers with their real servers.
    pub servers: Arc<[VirtualServer]>,
    /// The names.
    pub names: Arc<Names>,
    /// The node's addresses.
    pub own: Arc<[IpAddr]>,
    /// How long the reading took.
    pub took: Duration,
}

/// Samples, or what went wrong.
pub type Sampled = Result<Sample, String>;

/// The reading thread. It ends with the program.
#[derive(Debug)]
pub struct Samples(Receiver<Sampled>);

impl Samples {
    /// Takes the first sample, then starts the thread for the others.
    ///
    /// # Errors
    /// The first one cannot be had.
    pub fn start(mode: ListMode, names: NamesArgs, interval: Duration) -> anyhow::Result<Self> {
        let mut sampler = Sampler { mode, args: names, names: None };
        let first = sampler.sample()?;
        // Room for one: who does not draw needs no newer one.
        let (sender, receiver) = sync_channel(1);
        let _ = sender.try_send(Ok(first));
        std::thread::Builder::new()
            .name("sampler".into())
            .spawn(move || sampler.run(interval, &sender))
            .context("starting the thread that reads the table")?;
        Ok(Self(receiver))
    }

    /// The next sample, if there is one.
    pub fn newest(&mut self) -> Option<Sampled> {
        self.0.try_recv().ok()
    }
}

struct Sampler {
    mode: ListMode,
    args: NamesArgs,
    names: Option<(Instant, Arc<Names>)>,
}

impl Sampler {
    fn run(mut self, interval: Duration, sender: &SyncSender<Sampled>) {
        loop {
            std::thread::sleep(interval);
            if sender.send(self.sample().map_err(|error| format!("{error:#}"))).is_err() {
                return;
            }
        }
    }

    fn sample(&mut self) -> anyhow::Result<Sample> {
        let started = Instant::now();
        let (mode, table) = match list::read(self.mode)? {
            Found::Ipvs(mut client) => ("IPVS", from_ipvs::read(&mut client, Depth::Rows)?),
            Found::Rules(table) => ("iptables", table),
        };
        let Table { servers, .. } = table;
        let at = Instant::now();
        let names = self.names(at)?;
        let own = addresses::node_addresses()?.into_iter().map(|found| found.address).collect();
        Ok(Sample { at, mode, servers: servers.into(), names, own, took: started.elapsed() })
    }

    fn names(&mut self, now: Instant) -> anyhow::Result<Arc<Names>> {
        // Standard input can be read only once.
        let once = self.args.manifests.iter().any(|path| path.as_os_str() == "-");
        match &self.names {
            Some((at, names)) if once || now.duration_since(*at) < NAMES_PERIOD => Ok(names.clone()),
            _ => {
                let names = Arc::new(self.args.fetch()?);
                self.names = Some((now, names.clone()));
                Ok(names)
            }
        }
    }
}
