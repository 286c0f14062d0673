//! The service ranges without the cluster IPs of Services that are none of this proxy's (labels
//! `service.kubernetes.io/service-proxy-name` and `service.kubernetes.io/headless`): those must not become local to the node.

use super::Settings;
use crate::model::{Service, ServiceName};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The service ranges, and who has an address in them that is none of ours.
#[derive(Debug, Default)]
pub struct Ranges {
    foreign: BTreeMap<ServiceName, Vec<IpAddr>>,
    whole: Vec<IpNet>,
    nets: Vec<IpNet>,
    known: bool,
}

impl Ranges {
    /// Takes in what became of these Services, and the ranges that the cluster announces. Those of the settings come first:
    /// somebody wrote them down.
    pub fn update<'a>(
        &mut self,
        settings: &Settings,
        announced: &[IpNet],
        services: impl Iterator<Item = (&'a ServiceName, Option<&'a Service>)>,
    ) {
        let whole = if settings.service_ranges.is_empty() { announced } else { &settings.service_ranges };
        let mut changed = !self.known || self.whole != whole;
        for (name, service) in services {
            let proxy_name = settings.proxy_name.as_deref();
            let foreign = service.filter(|service| service.is_forwarded() && !service.is_served_by(proxy_name));
            let addresses = foreign.map(|service| service.cluster_ips.clone());
            let before = match addresses.clone() {
                Some(addresses) => self.foreign.insert(name.clone(), addresses),
                None => self.foreign.remove(name),
            };
            changed |= before != addresses;
        }
        if !changed {
            return;
        }
        self.known = true;
        self.whole = whole.to_vec();
        let holes: BTreeSet<IpAddr> = self.foreign.values().flatten().copied().collect();
        let holes: Vec<IpAddr> = holes.into_iter().collect();
        self.nets.clear();
        // Who serves only what bears his name has the ranges for the least part: every address is taken by itself.
        for range in IpNet::aggregate(&self.whole) {
            if settings.proxy_name.is_none() {
                carve(range, &holes, &mut self.nets);
            }
        }
        self.nets.sort_unstable();
    }

    /// What is left of the ranges.
    pub fn nets(&self) -> &[IpNet] {
        &self.nets
    }
}

/// The networks that cover a range but for some addresses (sorted): for each of these at most as many as the range has
/// bits for hosts.
fn carve(range: IpNet, holes: &[IpAddr], into: &mut Vec<IpNet>) {
    let first = holes.partition_point(|hole| *hole < range.network());
    let end = holes.partition_point(|hole| *hole <= range.broadcast());
    let inside = holes.get(first..end).unwrap_or_default();
    if inside.is_empty() {
        return into.push(range);
    }
    // A range of one address has no halves, and is a hole itself.
    let longer = range.prefix_len().saturating_add(1);
    for half in range.subnets(longer).into_iter().flatten() {
        carve(half, inside, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carved(range: &str, holes: &[&str]) -> Vec<String> {
        let mut holes: Vec<IpAddr> = holes.iter().map(|hole| hole.parse().unwrap()).collect();
        holes.sort_unstable();
        let mut nets = Vec::new();
        carve(range.parse().unwrap(), &holes, &mut nets);
        nets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn holes_are_cut_out() {
        assert_eq!(carved("10.96.0.0/16", &["10.97.0.1", "fd00::1"]), ["10.96.0.0/16"]);
        assert_eq!(carved("10.0.0.0/30", &["10.0.0.2"]), ["10.0.0.0/31", "10.0.0.3/32"]);
        assert_eq!(carved("10.0.0.0/30", &["10.0.0.0", "10.0.0.3"]), ["10.0.0.1/32", "10.0.0.2/32"]);
        assert_eq!(carved("10.0.0.1/32", &["10.0.0.1"]), [""; 0]);
        assert_eq!(carved("10.96.0.0/16", &["10.96.31.1"]).len(), 16);
        assert_eq!(carved("fd00:172:30::/108", &["fd00:172:30::31"]).len(), 20);
    }

    #[test]
    fn given_ranges_come_before_announced_ones() {
        let announced: [IpNet; 2] = ["10.96.0.0/16".parse().unwrap(), "fd00:96::/108".parse().unwrap()];
        let mut ranges = Ranges::default();
        ranges.update(&Settings::default(), &announced, std::iter::empty());
        assert_eq!(ranges.nets(), announced);
        ranges.update(&Settings::default(), &announced[..1], std::iter::empty());
        assert_eq!(ranges.nets(), &announced[..1], "what is announced may change");
        let given: IpNet = "172.30.0.0/16".parse().unwrap();
        let settings = Settings { service_ranges: vec![given], ..Settings::default() };
        ranges.update(&settings, &announced, std::iter::empty());
        assert_eq!(ranges.nets(), [given]);
    }

    #[test]
    fn the_label_decides_and_may_go() {
        let settings = Settings { service_ranges: vec!["10.0.0.0/30".parse().unwrap()], ..Settings::default() };
        let mut service = Service::for_test("ns", "mesh");
        service.cluster_ips = vec!["10.0.0.2".parse().unwrap()];
        let mut ranges = Ranges::default();
        ranges.update(&settings, &[], std::iter::empty());
        assert_eq!(ranges.nets(), settings.service_ranges);
        service.proxy_name = Some("mesh".into());
        ranges.update(&settings, &[], [(&service.name, Some(&service))].into_iter());
        assert_eq!(ranges.nets().len(), 2);
        ranges.update(&settings, &[], [(&service.name, None)].into_iter());
        assert_eq!(ranges.nets(), settings.service_ranges);
    }
}
