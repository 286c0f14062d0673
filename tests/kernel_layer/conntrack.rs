//! Deletion of tracked connections.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use kube_ipvs::backend::{Conntrack, FlowTable};
use kube_ipvs::desired::UdpFlows;
use kube_ipvs::kernel::IpFamily;
use kube_ipvs::kernel::conntrack::{Client, Filter, Flow};

use crate::{Feature, in_namespace, run, skip};

/// A namespace that tracks connections, with two endpoints behind a translated service in each family.
fn with_services(test: impl FnOnce(Client) + Send + 'static) {
    in_namespace(|| {
        if std::process::Command::new("conntrack").arg("--version").output().is_err() {
            return skip(Feature::Iptables, "there is no `conntrack` to make flows with");
        }
        let mut client = Client::open().unwrap();
        if let Err(error) = client.dump(&Filter::family(IpFamily::V4), |_| {}) {
            return skip(Feature::Iptables, &error.to_string());
        }
        test(client);
    });
}

/// Puts a flow into the table as if a packet had made it: `client` to `service`, answered by `endpoint`.
fn flow(client: &str, service: &str, endpoint: &str, protocol: &str) {
    let [client, service, endpoint] = [client, service, endpoint].map(|text| text.parse::<SocketAddr>().unwrap());
    let text = |address: IpAddr| address.to_string();
    let (from, port) = (text(client.ip()), client.port().to_string());
    let mut arguments = vec!["-I", "-p", protocol, "-s", &from, "--sport", &port];
    let (to, to_port) = (text(service.ip()), service.port().to_string());
    let (by, by_port) = (text(endpoint.ip()), endpoint.port().to_string());
    arguments.extend(["-d", &to, "--dport", &to_port, "-t", "600", "-r", &by, "--reply-port-src", &by_port]);
    arguments.extend(["-q", &from, "--reply-port-dst", &port]);
    if protocol == "tcp" {
        arguments.extend(["--state", "ESTABLISHED"]);
    }
    run("conntrack", &arguments);
}

fn flows(client: &mut Client, filter: &Filter) -> Vec<String> {
    let mut found = Vec::new();
    client
        .dump(filter, |Flow { original, reply, .. }| {
            found.push(format!("{} {} {}", original.source.port(), original.destination, reply.source));
        })
        .unwrap();
    found.sort();
    found
}

/// Makes the kernel forget, and says how many flows.
fn forget(frontends: &[(&str, &[&str])]) -> usize {
    let parse = |(frontend, endpoints): &(&str, &[&str])| {
        (frontend.parse().unwrap(), endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect())
    };
    let flows: UdpFlows = frontends.iter().map(parse).collect();
    let family = IpFamily::of(flows.frontends().next().unwrap().ip());
    Conntrack::default().forget(family, &flows).unwrap()
}

#[test]
fn udp_flows_to_endpoints_that_are_gone_are_deleted_and_no_others() {
    with_services(|mut client| {
        flow("10.0.0.1:1001", "10.96.0.10:53", "10.244.0.5:53", "udp");
        flow("10.0.0.1:1002", "10.96.0.10:53", "10.244.0.6:53", "udp");
        flow("10.0.0.1:1003", "10.96.0.10:54", "10.244.0.6:53", "udp");
        flow("10.0.0.1:1004", "10.96.0.11:53", "10.244.0.6:53", "udp");
        flow("10.0.0.1:1005", "10.96.0.10:53", "10.244.0.6:53", "tcp");
        flow("10.0.0.1:1006", "10.96.0.10:53", "10.96.0.10:53", "udp");
        flow("10.0.0.1:1007", "10.96.0.10:53", "10.244.0.5:54", "udp");
        let deleted = forget(&[("10.96.0.10:53", &["10.244.0.5:53"])]);
        assert_eq!(deleted, 3, "1002 to the endpoint that is gone, 1006, not translated, and 1007 to another port");
        let left = flows(&mut client, &Filter::family(IpFamily::V4));
        assert_eq!(
            left,
            [
                "1001 10.96.0.10:53 10.244.0.5:53",
                "1003 10.96.0.10:54 10.244.0.6:53",
                "1004 10.96.0.11:53 10.244.0.6:53",
                "1005 10.96.0.10:53 10.244.0.6:53",
            ]
        );
        assert_eq!(forget(&[("10.96.0.11:53", &[]), ("10.96.0.10:53", &[])]), 2);
        assert_eq!(forget(&[("10.96.0.10:53", &[])]), 0);
        // More ports than are asked for one by one.
        let many: Vec<String> = (54..60).map(|port| format!("10.96.0.10:{port}")).collect();
        let many: Vec<(&str, &[&str])> = many.iter().map(|frontend| (frontend.as_str(), [].as_slice())).collect();
        assert_eq!(forget(&many), 1);
        assert_eq!(flows(&mut client, &Filter::family(IpFamily::V4)), ["1005 10.96.0.10:53 10.244.0.6:53"]);
    });
}

#[test]
fn ipv6_flows_are_found_although_the_kernel_compares_addresses_the_wrong_way_round() {
    with_services(|mut client| {
        flow("[fd00::1]:1001", "[fd00:96::10]:53", "[fd00:244::5]:53", "udp");
        flow("[fd00::1]:1002", "[fd00:96::10]:53", "[fd00:244::6]:53", "udp");
        flow("[fd00::1]:1003", "[fd00:96::11]:53", "[fd00:244::6]:53", "udp");
        flow("10.0.0.1:1004", "10.96.0.10:53", "10.244.0.6:53", "udp");
        assert_eq!(forget(&[("[fd00:96::10]:53", &["[fd00:244::5]:53"])]), 1);
        let left = flows(&mut client, &Filter::family(IpFamily::V6));
        assert_eq!(left, ["1001 [fd00:96::10]:53 [fd00:244::5]:53", "1003 [fd00:96::11]:53 [fd00:244::6]:53"]);
        assert_eq!(flows(&mut client, &Filter::family(IpFamily::V4)).len(), 1);
    });
}

#[test]
fn filters_select_and_a_flow_is_deleted_once() {
    with_services(|mut client| {
        for number in 0..60u16 {
            flow_over_many_ports(number);
        }
        let any = Filter::family(IpFamily::V4);
        assert_eq!(flows(&mut client, &any).len(), 60);
        let endpoint = Filter { reply_source: Some("10.244.0.2".parse().unwrap()), ..any };
        assert_eq!(flows(&mut client, &endpoint).len(), 20);
        let tcp = Filter { protocol: Some(6), ..any };
        assert_eq!(flows(&mut client, &tcp).len(), 0);
        let mut found = Vec::new();
        client.dump(&endpoint, |flow| found.push(flow)).unwrap();
        assert!(client.delete(&found[0]).unwrap());
        assert!(!client.delete(&found[0]).unwrap(), "it is gone");
        assert_eq!(client.delete_all(&found).unwrap(), 19);
        assert_eq!(flows(&mut client, &any).len(), 40);
    });
}

fn flow_over_many_ports(number: u16) {
    let endpoint = format!("10.244.0.{}:53", number % 3);
    flow(&format!("10.0.0.1:{}", 2000 + number), "10.96.0.10:53", &endpoint, "udp");
}

/// What IPVS leaves in the table: answered by the endpoint, and nothing says that it is translated.
#[test]
fn what_ipvs_carries_is_taken_over_and_stays_where_it_is() {
    with_services(|mut client| {
        flow("10.0.0.1:1001", "10.96.0.10:53", "10.244.0.5:53", "udp");
        flow("10.0.0.1:1002", "10.96.0.10:53", "10.244.0.6:53", "udp");
        flow("10.0.0.1:1003", "10.96.0.10:53", "10.96.0.10:53", "udp");
        let answer = "-I -p udp -s 10.244.0.5 --sport 53 -d 10.0.0.1 --dport 1004 -t 600 -r 10.0.0.1 --reply-port-src 1004 \
                      -q 10.96.0.10 --reply-port-dst 53";
        run("conntrack", &answer.split_whitespace().collect::<Vec<_>>());
        flow("10.0.0.1:1005", "10.96.0.10:53", "10.244.0.5:53", "tcp");
        flow("10.0.0.1:1006", "10.96.0.99:53", "10.244.0.5:53", "udp");
        // Masqueraded as well: the answer goes to the node.
        let to_node = "-I -p udp -s 10.9.9.9 --sport 1007 -d 10.96.0.10 --dport 53 -t 600 -r 10.244.0.5 \
                       --reply-port-src 53 -q 192.168.0.2 --reply-port-dst 4711";
        run("conntrack", &to_node.split_whitespace().collect::<Vec<_>>());
        let endpoints = ["10.244.0.5:53".parse().unwrap()].into();
        let flows: UdpFlows = [("10.96.0.10:53".parse().unwrap(), endpoints)].into_iter().collect();
        let mut table = Conntrack::default();
        assert_eq!(table.take_over(IpFamily::V4, &flows).unwrap(), 2);
        let mut found = Vec::new();
        client.dump(&Filter::family(IpFamily::V4), |flow| found.push(flow)).unwrap();
        found.sort_by_key(|flow| flow.original.source.port());
        let told: Vec<String> = found.iter().map(|flow| format!("{flow}: {}", flow.translated)).collect();
        assert_eq!(
            told,
            [
                "protocol 17 10.0.0.1:1001 -> 10.96.0.10:53 (answers 10.244.0.5:53 -> 10.0.0.1:1001): true",
                "protocol 6 10.0.0.1:1005 -> 10.96.0.10:53 (answers 10.244.0.5:53 -> 10.0.0.1:1005): false",
                "protocol 17 10.0.0.1:1006 -> 10.96.0.99:53 (answers 10.244.0.5:53 -> 10.0.0.1:1006): false",
                "protocol 17 10.9.9.9:1007 -> 10.96.0.10:53 (answers 10.244.0.5:53 -> 192.168.0.2:4711): true",
            ],
            "1002 goes to an endpoint that serves no more, 1003 to nobody, 1004 is an answer alone: all three begin anew"
        );
        assert!(found.iter().all(|flow| flow.timeout > 500), "{found:?}");
        assert_eq!(table.take_over(IpFamily::V4, &flows).unwrap(), 0, "nothing is left to take over");
    });
}

#[test]
fn a_real_flow_is_seen_and_deleted() {
    with_services(|mut client| {
        // A rule that looks at the state makes the namespace track connections.
        run("iptables", &["-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"]);
        let server = UdpSocket::bind("127.0.0.1:5353").unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", "127.0.0.1:5353").unwrap();
        server.recv_from(&mut [0]).unwrap();
        assert_eq!(forget(&[("127.0.0.1:5353", &["127.0.0.1:5353"])]), 0);
        assert_eq!(forget(&[("127.0.0.1:5353", &[])]), 1);
        assert_eq!(flows(&mut client, &Filter::family(IpFamily::V4)), Vec::<String>::new());
    });
}
