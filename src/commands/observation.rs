//! What the running program shows of itself: starts the ports for health checks and metrics before anything else, so that
//! they answer while an API server is waited for, and tells them of the reconciler once there is one.

use super::dataplane;
use crate::backend::ipvs::IpvsTraffic;
use crate::config::{Config, TrafficLevel};
use crate::model::Events;
use crate::observe::bind::{self, BindError, Purpose};
use crate::observe::health::{Health, HealthPages};
use crate::observe::http::Handler;
use crate::observe::metrics::{Limits, Metrics, RulePackets, Traffic};
use crate::observe::pages::Pages;
use crate::reconcile::{Handle, Meter};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The open ports; they close with this.
#[derive(Debug)]
pub struct Observation {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    pages: Arc<Pages>,
    servers: JoinSet<()>,
}

impl Observation {
    /// Opens the ports that are configured. `mode` is the one that serves first.
    ///
    /// # Errors
    /// When a port cannot be bound, if that is to end the program.
    pub fn start(
        config: &Config,
        mode: &'static str,
        configz: watch::Receiver<String>,
        events: &Events,
    ) -> anyhow::Result<Self> {
        let metrics = Metrics::new()?;
        let health = Health::new(config.timing(mode).audit);
        let pages = Arc::new(Pages::new(metrics.clone(), mode, configz, flags(), config.enable_profiling)?);
        let mut servers = JoinSet::new();
        let mut serve = |purpose, address: Option<SocketAddr>, handler: Arc<dyn Handler>| -> Result<(), BindError> {
            if let Some(address) = address {
                servers.spawn(bind::open(purpose, address, handler, config.bind_address_hard_fail, events)?);
            }
            Ok(())
        };
        let health_pages = HealthPages { health: health.clone(), metrics: metrics.clone() };
        serve(Purpose::Healthz, config.healthz_bind_address, Arc::new(health_pages))?;
        serve(Purpose::Metrics, config.metrics_bind_address, pages.clone())?;
        Ok(Self { metrics, health, pages, servers })
    }

    /// What the reconciler is to tell its numbers to.
    #[must_use]
    pub fn meter(&self) -> Box<dyn Meter> {
        self.metrics.meter(self.health.clone())
    }

    /// From now on the reconciler is asked.
    pub fn follow(&self, handle: &Handle, config: &Config) {
        let status = || handle.status.clone();
        self.pages.follow(status());
        if config.metrics_bind_address.is_none() {
            return;
        }
        self.metrics.add_status(status());
        self.metrics.add(Arc::new(RulePackets::new(Box::new(dataplane::rule_counters()), status())));
        let (metrics, desired, status) = (self.metrics.clone(), handle.desired.clone(), status());
        let endpoints = match config.traffic.level {
            TrafficLevel::Off => return,
            TrafficLevel::Services => false,
            TrafficLevel::Endpoints => true,
        };
        let limits = Limits { endpoints, most: config.traffic.limit };
        tokio::task::spawn_blocking(move || {
            metrics.add(Arc::new(Traffic::begin(Box::new(IpvsTraffic::default()), limits, status, desired)));
        });
    }

    /// Closes the ports.
    pub async fn end(mut self) {
        self.servers.shutdown().await;
    }
}

/// The flags that the program was started with, a line each.
fn flags() -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in std::env::args().skip(1) {
        match lines.last_mut() {
            _ if word.starts_with('-') => lines.push(word.trim_start_matches('-').to_owned()),
            Some(last) if !last.contains('=') => *last = format!("{last}={word}"),
            // The name of the command.
            _ => {}
        }
    }
    lines.sort();
    lines
}
