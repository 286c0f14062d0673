//! What one Service asks for, as if there were no other. Most have one port and one slice, and there are very many: lists of one
//! need no memory of their own, for which threads would wait for each other.

use super::super::topology::Policies;
use super::super::{Scheduling, ServicePort, ServicePortKey, Settings, endpoints, health, of_family, scheduling};
use super::Builder;
use crate::model::{self, IpFamily, LentSlice, Service, Slices};
use smallvec::SmallVec;

/// A Service, unless it is meant for another proxy.
pub(super) fn served<'a>(settings: &Settings, service: Option<&'a Service>) -> Option<&'a Service> {
    service.filter(|service| service.is_served_by(settings.proxy_name.as_deref()))
}

impl Builder {
    /// The slices of a Service that are not meant for another proxy.
    pub(super) fn slices<'a>(&self, slices: Option<&'a Slices>) -> SmallVec<[LentSlice<'a>; 1]> {
        let own = self.settings.proxy_name.as_deref();
        let theirs = |slice: &LentSlice<'_>| slice.proxy_name.is_some() && slice.proxy_name != own;
        let slices = slices.into_iter().flat_map(Slices::lent);
        slices.filter(|slice| !theirs(slice)).collect()
    }

    /// All ports of a Service with these slices in a family, as if nobody else claimed anything.
    pub(super) fn compile(
        &self,
        service: Option<&Service>,
        slices: &[LentSlice<'_>],
        family: IpFamily,
    ) -> SmallVec<[ServicePort; 1]> {
        let Some(service) = service else { return SmallVec::new() };
        let Some(cluster_ip) = service.cluster_ips.iter().copied().find(|ip| IpFamily::of(*ip) == family) else {
            return SmallVec::new();
        };
        let balancing = &service.balancing;
        let scheduler = scheduling::scheduler(&self.settings, balancing, slices);
        let weights = model::counts_weights(&scheduler).then_some(&balancing.weights);
        let each = |wanted: &model::ServicePort| {
            let key =
                ServicePortKey { service: service.name.clone(), port: wanted.name.clone(), protocol: wanted.protocol };
            let mut port = ServicePort {
                key,
                cluster_ip,
                port: wanted.port,
                node_port: wanted.node_port,
                external_ips: of_family(&service.external_ips, family),
                load_balancer_ips: of_family(&service.load_balancer_ips, family),
                source_ranges: service.source_ranges.clone(),
                affinity: service.affinity,
                internal_policy_local: service.internal_policy_local,
                external_policy_local: service.external_policy_local,
                health_check_port: health::port(service),
                scheduler: scheduler.clone(),
                scheduling: Scheduling::of(balancing, wanted.protocol),
                endpoints: Vec::new(),
                has_any_endpoints: false,
                left_local: None,
            };
            port.source_ranges.retain(|net| IpFamily::of_network(net) == family);
            let policies = Policies {
                internal_local: port.internal_policy_local,
                external_local: port.external_policy_local,
                externally_accessible: port.externally_accessible(),
            };
            (port.endpoints, port.has_any_endpoints) =
                endpoints::of_port(slices, &port.key, family, policies, &self.place, weights, self.names_pods);
            port
        };
        service.ports.iter().map(each).collect()
    }
}
