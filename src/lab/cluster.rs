//! Builds a [`Topology`] out of namespaces and veth pairs.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::links::{
    Configurator, LinkEnd, Mac, TABLE_LOCAL, TABLE_MAIN, Via, create_veth_pair, default_route_for, gateway_for, single,
};
use super::topology::{HostSpec, Interface, Place, Topology};
use super::{LabError, NetNs, sysctl};

/// The routing table that the router uses for whatever hosts beyond `eth0` send: all of it goes to the node.
const TABLE_TO_NODE: u8 = 100;

/// A port that nobody listens on (RFC 863 reserves it): its refusal proves the way there and back.
const DISCARD: u16 = 9;

/// Time for an address to get usable; usually some milliseconds, a second or two on a slow emulated machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A place in the lab: its namespace and its addresses.
#[derive(Debug, Clone)]
pub struct Host {
    /// Unique name.
    pub name: String,
    /// Its namespace.
    pub ns: NetNs,
    /// Its addresses, IPv4 and IPv6; the node's are those of `eth0`.
    pub addresses: [IpAddr; 2],
}

impl Host {
    /// The address in the family of `like`.
    #[must_use]
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        let [ipv4, ipv6] = self.addresses;
        if like.is_ipv4() { ipv4 } else { ipv6 }
    }
}

/// A running lab. Dropping it lets go of all namespaces.
#[derive(Debug)]
pub struct Lab {
    node: Host,
    hosts: Vec<Host>,
    router: NetNs,
    sink: Option<NetNs>,
    links: u16,
}

impl Lab {
    /// Builds `topology`; when this returns, every host reaches every other one over both families.
    ///
    /// # Errors
    /// The first step that the kernel refused; what was built until then is gone again.
    pub fn build(topology: &Topology) -> Result<Self, LabError> {
        let node = namespace(&topology.node, true)?;
        let router = namespace("router", true)?;
        let uplink = &topology.uplink;
        let mut lab = Self {
            node: Host {
                name: topology.node.clone(),
                ns: node,
                addresses: [uplink.ipv4.addr().into(), uplink.ipv6.addr().into()],
            },
            hosts: Vec::new(),
            router,
            sink: None,
            links: 0,
        };
        lab.connect_uplink(uplink, [topology.gateway.0.into(), topology.gateway.1.into()])?;
        for interface in &topology.idle_interfaces {
            lab.add_idle_interface(interface)?;
        }
        for host in &topology.hosts {
            lab.add_host(host)?;
        }
        if !topology.sink.is_empty() {
            lab.sink = Some(lab.add_sink(&topology.sink)?);
        }
        lab.settle()?;
        Ok(lab)
    }

    /// The machine that the proxy runs on.
    #[must_use]
    pub fn node(&self) -> &Host {
        &self.node
    }

    /// All hosts but the node, in the topology's order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of this name, the node included.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        std::iter::once(&self.node).chain(&self.hosts).find(|host| host.name == name)
    }

    /// The host with this address, the node included.
    #[must_use]
    pub fn host_at(&self, address: IpAddr) -> Option<&Host> {
        std::iter::once(&self.node).chain(&self.hosts).find(|host| host.addresses.contains(&address))
    }

    /// The namespace beyond `eth0`; its end of the wire to the node is called `wire0`.
    #[must_use]
    pub fn router(&self) -> &NetNs {
        &self.router
    }

    /// The namespace that has all addresses of [`Topology::sink`], if there are any: whatever answers there has left the
    /// node untranslated.
    #[must_use]
    pub fn sink(&self) -> Option<&NetNs> {
        self.sink.as_ref()
    }

    /// The node's uplink. Neighbours are found by ARP and neighbour discovery here: a proxy that changes how the node
    /// answers those must be seen to get it right.
    fn connect_uplink(&mut self, uplink: &Interface, gateway: [IpAddr; 2]) -> Result<(), LabError> {
        let [node_mac, router_mac] = self.next_macs();
        create_veth_pair(
            LinkEnd { ns: &self.node.ns, name: &uplink.name, mac: node_mac },
            LinkEnd { ns: &self.router, name: "wire0", mac: router_mac },
        )?;
        let addresses: [IpNet; 2] = [uplink.ipv4.into(), uplink.ipv6.into()];
        Configurator::with(&self.node.ns, |node| {
            addresses.iter().try_for_each(|address| node.add_address(&uplink.name, *address))?;
            gateway.iter().try_for_each(|&gateway| {
                node.add_route(default_route_for(gateway), Via::Gateway(gateway, &uplink.name), TABLE_MAIN)
            })
        })?;
        Configurator::with(&self.router, |router| {
            for (gateway, network) in gateway.into_iter().zip(addresses) {
                let address = IpNet::new(gateway, network.prefix_len()).unwrap_or_else(|_| single(gateway));
                router.add_address("wire0", address)?;
                let to_node = Via::Gateway(network.addr(), "wire0");
                router.add_route(default_route_for(gateway), to_node, TABLE_TO_NODE)?;
            }
            Ok(())
        })
    }

    /// Waits until every host has its addresses and node and router have found each other, before anybody measures:
    /// refusals that come too early get lost. The kernel puts even an address without duplicate address detection to use
    /// asynchronously (`addrconf_dad_work` in net/ipv6/addrconf.c).
    fn settle(&self) -> Result<(), LabError> {
        for host in std::iter::once(&self.node).chain(&self.hosts) {
            wait_until_refused(&host.ns, host.addresses)?;
        }
        wait_until_refused(&self.router, self.node.addresses)
    }

    fn add_idle_interface(&mut self, interface: &Interface) -> Result<(), LabError> {
        let [node_mac, router_mac] = self.next_macs();
        let far_end = format!("wire{}", self.links);
        create_veth_pair(
            LinkEnd { ns: &self.node.ns, name: &interface.name, mac: node_mac },
            LinkEnd { ns: &self.router, name: &far_end, mac: router_mac },
        )?;
        Configurator::with(&self.node.ns, |node| {
            node.add_address(&interface.name, interface.ipv4.into())?;
            node.add_address(&interface.name, interface.ipv6.into())
        })?;
        self.route_to_node([interface.ipv4.addr().into(), interface.ipv6.addr().into()])
    }

    /// Tells the router itself, and the sink that answers through it, that `addresses` are behind the node.
    fn route_to_node(&self, addresses: [IpAddr; 2]) -> Result<(), LabError> {
        Configurator::with(&self.router, |router| {
            addresses.iter().try_for_each(|&address| {
                let node = self.node.address_like(address);
                router.add_route(single(address), Via::Gateway(node, "wire0"), TABLE_MAIN)
            })
        })
    }

    fn add_host(&mut self, spec: &HostSpec) -> Result<(), LabError> {
        let host = Host {
            name: spec.name.clone(),
            ns: namespace(&spec.name, false)?,
            addresses: [spec.ipv4.into(), spec.ipv6.into()],
        };
        let [gateway_mac, host_mac] = self.next_macs();
        let link = format!("veth{}", self.links);
        let gateway = match spec.place {
            Place::OnNode => &self.node.ns,
            Place::BeyondEth0 => &self.router,
        };
        create_veth_pair(
            LinkEnd { ns: gateway, name: &link, mac: gateway_mac },
            LinkEnd { ns: &host.ns, name: "eth0", mac: host_mac },
        )?;
        Configurator::with(&host.ns, |this| {
            for address in host.addresses {
                let gateway = gateway_for(address);
                this.add_address("eth0", single(address))?;
                this.add_neighbour("eth0", gateway, gateway_mac)?;
                this.add_route(default_route_for(address), Via::Gateway(gateway, "eth0"), TABLE_MAIN)?;
            }
            spec.ranges.iter().try_for_each(|range| this.add_route(*range, Via::Local, TABLE_LOCAL))
        })?;
        Configurator::with(gateway, |gateway| {
            for address in host.addresses {
                gateway.add_route(single(address), Via::Device(&link), TABLE_MAIN)?;
                gateway.add_neighbour(&link, address, host_mac)?;
            }
            for range in &spec.ranges {
                gateway.add_route(*range, Via::Gateway(host.address_like(range.addr()), &link), TABLE_MAIN)?;
            }
            if spec.place == Place::BeyondEth0 { gateway.add_rule_for_input(&link, TABLE_TO_NODE) } else { Ok(()) }
        })?;
        if spec.place == Place::OnNode {
            self.route_to_node(host.addresses)?;
        }
        self.hosts.push(host);
        Ok(())
    }

    /// A namespace of its own and not the router: routes that make a host take foreign addresses only count in its local
    /// table, and the router's local table comes before the rule that sends everything to the node.
    fn add_sink(&mut self, ranges: &[IpNet]) -> Result<NetNs, LabError> {
        let sink = namespace("sink", false)?;
        sysctl::answer_from_any_address(&sink)?;
        let [router_mac, sink_mac] = self.next_macs();
        create_veth_pair(
            LinkEnd { ns: &self.router, name: "sink", mac: router_mac },
            LinkEnd { ns: &sink, name: "eth0", mac: sink_mac },
        )?;
        Configurator::with(&sink, |sink| {
            for gateway in [IpAddr::from([0; 4]), IpAddr::from([0_u16; 8])].map(gateway_for) {
                sink.add_neighbour("eth0", gateway, router_mac)?;
                sink.add_route(default_route_for(gateway), Via::Gateway(gateway, "eth0"), TABLE_MAIN)?;
            }
            ranges.iter().try_for_each(|range| sink.add_route(*range, Via::Local, TABLE_LOCAL))
        })?;
        Configurator::with(&self.router, |router| {
            for range in ranges {
                let next_hop = gateway_for(range.addr());
                router.add_neighbour("sink", next_hop, sink_mac)?;
                router.add_route(*range, Via::Gateway(next_hop, "sink"), TABLE_MAIN)?;
            }
            // Answers go back the way the question came, through the node: its connection tracking would otherwise take
            // the rest of the question's connection for invalid.
            router.add_rule_for_input("sink", TABLE_TO_NODE)
        })?;
        Ok(sink)
    }

    /// Two locally administered MAC addresses for the next veth pair.
    fn next_macs(&mut self) -> [Mac; 2] {
        self.links += 1;
        let [high, low] = self.links.to_be_bytes();
        [[2, 0, high, low, 0, 1], [2, 0, high, low, 0, 2]]
    }
}

/// A namespace with the lab's settings and its loopback up.
fn namespace(name: &str, forwards: bool) -> Result<NetNs, LabError> {
    let ns = NetNs::create(name)?;
    sysctl::apply(&ns, forwards)?;
    Configurator::with(&ns, |configurator| configurator.set_up("lo"))?;
    Ok(ns)
}

/// Tries [`DISCARD`] at `targets` from `ns` until it is refused: then packets find their way there and back.
fn wait_until_refused(ns: &NetNs, targets: [IpAddr; 2]) -> Result<(), LabError> {
    let started = Instant::now();
    ns.run(|| {
        for target in targets {
            loop {
                let tried = TcpStream::connect_timeout(&(target, DISCARD).into(), Duration::from_millis(50));
                match tried {
                    Ok(_) => break,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => break,
                    Err(error) if started.elapsed() > PATIENCE => {
                        return Err(LabError::step(ns.name(), format!("waiting for {target} to be reachable"), error));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        Ok(())
    })?
}
