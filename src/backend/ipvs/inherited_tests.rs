//! What kube-proxy made is taken over, or left where it is kube-proxy's again; what others made is never touched.

use super::super::leave::everything_goes;
use super::*;
use ipvs::{Protocol, Scheduler};

fn id(address: &str) -> ServiceId {
    let address: SocketAddr = address.parse().unwrap();
    ServiceId::Address { protocol: Protocol::Tcp, address: address.ip(), port: address.port() }
}

/// Four virtual servers: recorded by us, recorded by kube-proxy, on an address that it bound, and somebody else's.
fn observed() -> Observed {
    let ids = ["172.30.0.1:80", "172.30.0.2:80", "172.30.0.3:80", "192.0.2.1:80"].map(id);
    let server = |id| FoundServer { service: Service::new(id, Scheduler::Rr), destinations: Default::default() };
    let [ours, theirs, ..] = ids;
    let mut observed = Observed {
        servers: ids.into_iter().map(|id| (id, server(id))).collect(),
        interface: true,
        addresses: ["172.30.0.2/32", "172.30.0.3/32", "192.0.2.128/25"]
            .iter()
            .map(|net| net.parse().unwrap())
            .collect(),
        inherited: Recorded::of(entry_of(&theirs)),
        ..Observed::default()
    };
    observed.sets.insert(Set::ClusterIp, entry_of(&ours).into_iter().collect());
    observed
}

fn deleted(observed: &Observed) -> Vec<String> {
    everything_goes(observed).iter().map(ToString::to_string).filter(|step| step.starts_with("delete")).collect()
}

#[test]
fn what_kube_proxy_made_goes_with_ours() {
    let steps = deleted(&observed());
    let expected = [
        "delete address 172.30.0.2/32 from kube-ipvs0",
        "delete address 172.30.0.3/32 from kube-ipvs0",
        "delete service TCP 172.30.0.1:80",
        "delete service TCP 172.30.0.2:80",
        "delete service TCP 172.30.0.3:80",
    ];
    // A network on the device is nobody's service address, so that the device stays as well.
    assert_eq!(steps, expected);
}

#[test]
fn where_kube_proxy_runs_again_only_ours_goes() {
    assert_eq!(deleted(&Observed { spares_inherited: true, ..observed() }), ["delete service TCP 172.30.0.1:80"]);
}

#[test]
fn where_kube_proxy_never_was_nothing_is_taken_for_its_own() {
    let steps = deleted(&Observed { inherited: Recorded::default(), ..observed() });
    assert_eq!(steps, ["delete service TCP 172.30.0.1:80"]);
}

#[test]
fn what_both_recorded_is_kube_proxys_when_it_runs_again() {
    let ours = entry_of(&id("172.30.0.1:80"));
    let observed = Observed { inherited: Recorded::of(ours), spares_inherited: true, ..observed() };
    assert_eq!(deleted(&observed), Vec::<String>::new());
}
