//! Which endpoints a service port may use on this node: readiness, traffic policies, topology hints, and the fall-back
//! to endpoints that are terminating but still serve. Upstream: `pkg/proxy/topology.go`, `CategorizeEndpoints`.

use crate::model::LentEndpoint;
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;

/// Where this node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub node: Arc<str>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
}

impl Place {
    pub fn has(&self, endpoint: &LentEndpoint<'_>) -> bool {
        endpoint.node == Some(&*self.node)
    }
}

/// What a service port asks for.
#[derive(Debug, Clone, Copy)]
pub struct Policies {
    pub internal_local: bool,
    pub external_local: bool,
    pub externally_accessible: bool,
}

impl Policies {
    fn uses_cluster(self) -> bool {
        // Even a port whose external policy is Local needs them, to short-circuit traffic from within the cluster.
        !self.internal_local || self.externally_accessible
    }

    fn uses_local(self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible)
    }
}

/// The verdict on one endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    pub cluster: bool,
    pub local: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hints {
    Ignored,
    SameNode,
    SameZone,
}

/// An endpoint, and where it listens.
pub type Found<'a> = (SocketAddr, &'a LentEndpoint<'a>);

/// The verdict on each endpoint, in order, and whether any endpoint anywhere could serve.
pub fn categorize(endpoints: &[Found<'_>], policies: Policies, place: &Place) -> (SmallVec<[Use; 8]>, bool) {
    let mut uses = SmallVec::from_elem(Use::default(), endpoints.len());
    let mut has_any = false;
    let falls_back = |endpoint: &LentEndpoint<'_>| endpoint.serving && endpoint.terminating;
    if policies.uses_cluster() {
        let hints = hints(endpoints, place);
        mark(
            &mut uses,
            endpoints,
            |verdict| &mut verdict.cluster,
            |endpoint| endpoint.ready && available(endpoint, hints, place),
        );
        if !uses.iter().any(|verdict| verdict.cluster) {
            // A best effort to avoid dropping connections: hints don't count here.
            mark(&mut uses, endpoints, |verdict| &mut verdict.cluster, falls_back);
        }
        has_any = uses.iter().any(|verdict| verdict.cluster);
    }
    if policies.uses_local() {
        has_any |= endpoints.iter().any(|(_, endpoint)| endpoint.ready || falls_back(endpoint));
        mark(&mut uses, endpoints, |verdict| &mut verdict.local, |endpoint| place.has(endpoint) && endpoint.ready);
        if !uses.iter().any(|verdict| verdict.local) {
            mark(
                &mut uses,
                endpoints,
                |verdict| &mut verdict.local,
                |endpoint| place.has(endpoint) && falls_back(endpoint),
            );
        }
    }
    (uses, has_any)
}

fn mark(
    uses: &mut [Use],
    endpoints: &[Found<'_>],
    field: impl Fn(&mut Use) -> &mut bool,
    chosen: impl Fn(&LentEndpoint<'_>) -> bool,
) {
    for (verdict, (_, endpoint)) in uses.iter_mut().zip(endpoints) {
        *field(verdict) = chosen(endpoint);
    }
}

/// Hints count only if every ready endpoint has one and one of them names this node (or zone).
fn hints(endpoints: &[Found<'_>], place: &Place) -> Hints {
    let ready = || endpoints.iter().map(|(_, endpoint)| *endpoint).filter(|endpoint| endpoint.ready);
    let node = |endpoint: &LentEndpoint<'_>| endpoint.node_hints().contains(&&*place.node);
    if ready().all(|endpoint| !endpoint.node_hints().is_empty()) && ready().any(node) {
        return Hints::SameNode;
    }
    let Some(own_zone) = &place.zone else { return Hints::Ignored };
    let in_zone = |endpoint: &LentEndpoint<'_>| endpoint.zone_hints().contains(&&**own_zone);
    if ready().all(|endpoint| !endpoint.zone_hints().is_empty()) && ready().any(in_zone) {
        return Hints::SameZone;
    }
    Hints::Ignored
}

fn available(endpoint: &LentEndpoint<'_>, hints: Hints, place: &Place) -> bool {
    match hints {
        Hints::Ignored => true,
        Hints::SameNode => endpoint.node_hints().contains(&&*place.node),
        Hints::SameZone => place.zone.as_ref().is_some_and(|zone| endpoint.zone_hints().contains(&&**zone)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Endpoint, Hints as Meant};

    fn endpoint(last: u8, node: &str, state: &str) -> Endpoint {
        let (ready, serving, terminating) = match state {
            "ready" => (true, true, false),
            "terminating" => (false, true, true),
            "dead" => (false, false, true),
            _ => (false, false, false),
        };
        Endpoint {
            address: [10, 0, 0, last].into(),
            ready,
            serving,
            terminating,
            node: Some(node.into()),
            zone: None,
            hints: None,
            pod: None,
            weight: None,
        }
    }

    fn place() -> Place {
        Place { node: "here".into(), zone: Some("a".into()) }
    }

    const CLUSTER: Policies = Policies { internal_local: false, external_local: false, externally_accessible: true };
    const EXTERNAL_LOCAL: Policies =
        Policies { internal_local: false, external_local: true, externally_accessible: true };
    const INTERNAL_LOCAL: Policies =
        Policies { internal_local: true, external_local: false, externally_accessible: false };

    fn run(endpoints: &[Endpoint], policies: Policies) -> (String, bool) {
        let lent: Vec<LentEndpoint<'_>> = endpoints.iter().map(LentEndpoint::from).collect();
        let list: Vec<Found<'_>> = lent.iter().map(|one| (SocketAddr::new(one.address, 80), one)).collect();
        let (uses, any) = categorize(&list, policies, &place());
        let letter = |verdict: &Use| match (verdict.cluster, verdict.local) {
            (true, true) => 'b',
            (true, false) => 'c',
            (false, true) => 'l',
            (false, false) => '-',
        };
        (uses.iter().map(letter).collect(), any)
    }

    #[test]
    fn ready_endpoints_serve_and_terminating_ones_only_when_none_is_left() {
        let list = [endpoint(1, "here", "ready"), endpoint(2, "there", "terminating"), endpoint(3, "there", "dead")];
        assert_eq!(run(&list, CLUSTER), ("c--".into(), true));
        assert_eq!(run(&list[1..], CLUSTER), ("c-".into(), true));
        assert_eq!(run(&list[2..], CLUSTER), ("-".into(), false));
    }

    #[test]
    fn local_choice_is_made_among_this_nodes_endpoints() {
        let list = [endpoint(1, "here", "terminating"), endpoint(2, "there", "ready")];
        assert_eq!(run(&list, EXTERNAL_LOCAL), ("lc".into(), true));
        assert_eq!(run(&list, INTERNAL_LOCAL), ("l-".into(), true));
        assert_eq!(run(&list[1..], INTERNAL_LOCAL), ("-".into(), true), "elsewhere only: has any, none usable");
    }

    #[test]
    fn hints_count_only_when_every_ready_endpoint_has_one() {
        let mut list = [endpoint(1, "here", "ready"), endpoint(2, "there", "ready")];
        let zone = |zone: &str| Some(Arc::new(Meant { zones: vec![zone.into()], nodes: Vec::new() }));
        list[0].hints = zone("a");
        assert_eq!(run(&list, CLUSTER), ("cc".into(), true));
        list[1].hints = zone("b");
        assert_eq!(run(&list, CLUSTER), ("c-".into(), true));
        list[0].hints = zone("c");
        assert_eq!(run(&list, CLUSTER), ("cc".into(), true), "no endpoint for our zone");
        for (endpoint, node) in list.iter_mut().zip(["there", "here"]) {
            endpoint.hints = Some(Arc::new(Meant { zones: Vec::new(), nodes: vec![node.into()] }));
        }
        assert_eq!(run(&list, CLUSTER), ("-c".into(), true));
    }
}
