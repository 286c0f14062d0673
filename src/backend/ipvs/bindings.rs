//! How service addresses become local, and stop being so: routes for ranges and single addresses, or addresses on the
//! device.

use super::names::Set;
use super::observed::address_entry;
use super::plan::Planner;
use super::wanted::host;
use super::{Op, VipBinding, shadow};
use crate::kernel::interface::LocalRoute;
use crate::model::IpFamily;
use ipnet::IpNet;
use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

impl Planner<'_> {
    /// Single addresses that are bound now and were bound by us.
    pub(super) fn bound(&self) -> Vec<IpAddr> {
        // What is left of a range may be a single address.
        let ranges: HashSet<_> = self.rules.service_ranges.iter().collect();
        let single = |net: &&IpNet| **net == host(net.addr()) && !ranges.contains(net);
        let routed = self.observed.routes.keys().filter(single).map(IpNet::addr);
        let mut bound: Vec<IpAddr> = routed.filter(|ip| self.by_route(*ip)).collect();
        if self.context.binding == VipBinding::Address {
            // On the device anybody may have put addresses: ours are those that we recorded.
            let own = self.observed.addresses.iter().filter(|net| self.observed.is_own_address(net));
            bound.extend(own.map(IpNet::addr));
        }
        bound
    }

    /// Shadows are nobody's addresses and never put on the device.
    pub(super) fn by_route(&self, address: IpAddr) -> bool {
        self.context.binding == VipBinding::Route || shadow::range(self.context.family).contains(&address)
    }

    pub(super) fn bindings(&mut self, wanted: &BTreeSet<IpAddr>, old: &BTreeSet<IpAddr>) {
        for address in wanted {
            self.record(Set::Addresses, address_entry(*address));
            if self.by_route(*address) {
                self.route(host(*address), false);
            } else if !self.observed.addresses.contains(&host(*address)) {
                self.steps.bindings.push(Op::AddAddress(host(*address)));
            }
        }
        for address in old.difference(wanted) {
            match self.observed.routes.get(&host(*address)) {
                Some(route) if self.by_route(*address) => {
                    self.steps.unbinding.push(Op::Unroute(*route));
                }
                _ if self.observed.addresses.contains(&host(*address)) => {
                    self.steps.unbinding.push(Op::DeleteAddress(host(*address)));
                }
                _ => {}
            }
        }
    }

    pub(super) fn route(&mut self, net: IpNet, range: bool) {
        let route = LocalRoute::new(net, self.rules.primary);
        if self.observed.routes.get(&route.net) != Some(&route) {
            let place = if range { &mut self.steps.ranges } else { &mut self.steps.bindings };
            place.push(Op::Route(route));
        }
    }

    /// Addresses that an earlier run with the other binding put on the device. The last IPv4 address of a device takes
    /// all its routes along (`fib_disable_ip` in net/ipv4/fib_frontend.c). For that instant they lead to the loopback
    /// device as well; then they are made once more, in the place of those. Without that a packet of an open connection
    /// would be forwarded out of another interface than before, and NAT ends a masqueraded connection that does
    /// (`nf_nat_oif_changed`).
    pub(super) fn routes_instead_of_addresses(&mut self, wanted: &BTreeSet<IpAddr>, ranges: &[IpNet]) {
        let recorded = |net: &&IpNet| self.observed.is_own_address(net);
        let left: Vec<_> = self.observed.addresses.iter().filter(recorded).copied().map(Op::DeleteAddress).collect();
        if left.is_empty() {
            return;
        }
        if self.context.family != IpFamily::V4 || left.len() < self.observed.addresses.len() {
            return self.steps.unbinding.extend(left);
        }
        let nets = ranges.iter().copied().chain(wanted.iter().map(|address| host(*address)));
        let routes: Vec<LocalRoute> = nets.map(|net| LocalRoute::new(net, self.rules.primary)).collect();
        self.steps.unbinding.extend(routes.iter().copied().map(Op::Bridge));
        self.steps.unbinding.extend(left);
        self.steps.unbinding.extend(routes.into_iter().map(Op::Route));
    }
}
