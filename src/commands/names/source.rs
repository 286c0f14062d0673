//! Fetches the names. A source that was asked for has to answer; the daemon that nobody asked for may be away.

use super::Names;
use crate::commands::source::Opened;
use crate::control::names::{Draining, NamedService};
use crate::control::{self, Client, ClientError};
use crate::model::Snapshot;
use crate::source::cluster::{Access, Interest};
use crate::source::manifests::{Input, Inputs};
use anyhow::Context;
use std::path::PathBuf;

/// Where names come from.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct NamesArgs {
    /// Take names from manifest files or folders; "-" is standard input [default: from the running daemon]
    #[arg(long, num_args = 1.., value_name = "PATH", conflicts_with_all = ["kubeconfig", "control_socket"])]
    pub manifests: Vec<PathBuf>,
    /// Take names from the API server of a kubeconfig file
    #[arg(long, value_name = "FILE", conflicts_with = "control_socket")]
    pub kubeconfig: Option<PathBuf>,
    /// The daemon's socket [default: that of the daemon in this network namespace]
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
}

impl NamesArgs {
    /// Whether a source was named.
    #[must_use]
    pub fn given(&self) -> bool {
        !self.manifests.is_empty() || self.kubeconfig.is_some() || self.control_socket.is_some()
    }

    /// Fetches the names. Without a source and without a daemon there are none: [`Names::missing`] says why.
    ///
    /// # Errors
    /// When the source that was given does not answer.
    pub fn fetch(&self) -> anyhow::Result<Names> {
        if !self.manifests.is_empty() || self.kubeconfig.is_some() {
            return self.read_source();
        }
        match self.ask_daemon() {
            Ok(services) => Ok(Names::new(services)),
            Err(error) if self.control_socket.is_some() => Err(error.into()),
            Err(error) => Ok(Names::without(error.to_string())),
        }
    }

    fn ask_daemon(&self) -> Result<Vec<NamedService>, ClientError> {
        let mut client = Client::connect(&self.control_socket.clone().unwrap_or_else(control::default_socket))?;
        let mut services = Vec::new();
        client.names(&mut |service| services.push(service))?;
        Ok(services)
    }

    fn read_source(&self) -> anyhow::Result<Names> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let snapshot = runtime.block_on(self.look()).context("the names cannot be read")?;
        Ok(Names::new(NamedService::all(&snapshot, &Draining::default()).collect()))
    }

    async fn look(&self) -> anyhow::Result<Snapshot> {
        let opened = if self.manifests.is_empty() {
            let access = Access { kubeconfig: self.kubeconfig.clone(), master: None };
            let node_name = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
            Opened::Cluster(access.open().await?, Interest { node_name: node_name.into(), proxy_name: None })
        } else {
            let input = |path: &PathBuf| if path.as_os_str() == "-" { Input::Stdin } else { Input::Path(path.clone()) };
            Opened::Manifests(Inputs::open(&self.manifests.iter().map(input).collect::<Vec<_>>())?)
        };
        opened.look().await
    }
}
