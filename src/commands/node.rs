//! What the kernel says of the node itself, and the notifications about it.

use crate::backend::Lost;
use crate::backend::ipvs::names::INTERFACE;
use crate::desired::NodeFacts;
use crate::kernel::addresses::{default_gateways, node_addresses, route_source};
use crate::kernel::interface::Interface;
use crate::kernel::monitor::{Change, Monitor};
use crate::model::IpFamily;
use crate::reconcile::Trigger;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::warn;

/// Addresses change in bursts (DHCP, interface restarts): they are read once the burst is over.
const QUIET: Duration = Duration::from_millis(100);
/// How often the node's addresses and gateways are read although nothing was heard.
const REREAD: Duration = Duration::from_secs(10);

/// Reads the node's addresses and gateways.
///
/// # Errors
/// When the kernel does not tell.
pub fn facts() -> anyhow::Result<NodeFacts> {
    let all = node_addresses()?;
    let own = all.iter().filter(|address| address.interface != INTERFACE);
    let gateways = default_gateways()?;
    let mut primary = Vec::new();
    for family in IpFamily::BOTH {
        let via = gateways.iter().copied().find(|gateway| IpFamily::of(*gateway) == family);
        let source = via.and_then(|gateway| route_source(gateway).ok().flatten());
        let mut usable = own.clone().map(|address| address.address).filter(|ip| {
            IpFamily::of(*ip) == family
                && !ip.is_loopback()
                && !matches!(ip, std::net::IpAddr::V6(ip) if ip.is_unicast_link_local())
        });
        // A link-local next hop has a link-local source, which no service can answer to.
        let source = source.filter(|ip| usable.clone().any(|own| own == *ip));
        primary.extend(source.or_else(|| usable.next()));
    }
    Ok(NodeFacts { addresses: own.map(|address| address.address).collect(), primary, gateways })
}

/// Follows the kernel's notifications and turns them into triggers, for as long as anybody listens.
///
/// # Errors
/// When the subscription cannot be made.
pub fn follow(triggers: mpsc::UnboundedSender<Trigger>) -> anyhow::Result<()> {
    let monitor = Monitor::open(INTERFACE)?;
    let mut device = Interface::open(INTERFACE)?.index()?;
    let (sender, mut changes) = mpsc::channel(1024);
    tokio::spawn(monitor.run(sender));
    tokio::spawn(async move {
        loop {
            // Nobody tells of a default route that changes; and what could not be read is read again.
            let addresses_changed = match tokio::time::timeout(REREAD, changes.recv()).await {
                Ok(None) => return,
                Ok(Some(change)) => forward(&change, &mut device, &triggers),
                Err(_) => true,
            };
            if !addresses_changed {
                continue;
            }
            while let Ok(Some(change)) = tokio::time::timeout(QUIET, changes.recv()).await {
                forward(&change, &mut device, &triggers);
            }
            match facts() {
                Ok(facts) => drop(triggers.send(Trigger::Facts(facts))),
                Err(error) => warn!("the node's addresses could not be read again: {error:#}"),
            }
        }
    });
    Ok(())
}

/// Passes a change on; true if the node's own addresses have to be read again. `device` is the number of our device
/// since it has been up: a new one is down at first, which is no loss.
fn forward(change: &Change, device: &mut Option<u32>, triggers: &mpsc::UnboundedSender<Trigger>) -> bool {
    // A closed channel means that the reconciler is gone and the process about to end.
    let tell = |trigger| drop(triggers.send(trigger));
    match change {
        Change::Link { index, present, up } => {
            if (!present || !up) && *device == Some(*index) {
                IpFamily::BOTH.into_iter().for_each(|family| tell(Trigger::Gone(family, Lost::Interface)));
            }
            if *up {
                *device = Some(*index);
            } else if !present {
                *device = None;
            }
            false
        }
        Change::RouteDeleted(route) => {
            tell(Trigger::Gone(IpFamily::of(route.net.addr()), Lost::Route(route.net)));
            false
        }
        Change::InterfaceAddressDeleted(address) => {
            let net = ipnet::IpNet::from(address.address);
            tell(Trigger::Gone(IpFamily::of(address.address), Lost::Address(net)));
            false
        }
        Change::NodeAddressSet(_) | Change::NodeAddressDeleted(_) => true,
        Change::Overflow => {
            tell(Trigger::Lost);
            true
        }
    }
}
