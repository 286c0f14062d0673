//! Listings of rules as kube-proxy writes them.

use super::super::format::render;
use super::*;

const TITLE: &str = "\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
";

const V4: &str = r#"
*nat
:PREROUTING ACCEPT [0:0]
:KUBE-EXT-LOCALNODEPORTXXX - [0:0]
:KUBE-EXT-NODEPORTXXXXXXXX - [0:0]
:KUBE-FW-LOADBALANCERXXXXX - [0:0]
:KUBE-EXT-LOADBALANCERXXXX - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]
:KUBE-SEP-BBBBBBBBBBBBBBBB - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-NODEPORTXXXXXXXX - [0:0]
:KUBE-SVC-LOADBALANCERXXXX - [0:0]
:KUBE-SVL-LOCALNODEPORTXXX - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A KUBE-EXT-NODEPORTXXXXXXXX -m comment --comment "masquerade traffic for default/web external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-NODEPORTXXXXXXXX -j KUBE-SVC-NODEPORTXXXXXXXX
-A KUBE-EXT-LOCALNODEPORTXXX -s 10.244.0.0/16 -m comment --comment "pod traffic for default/local external destinations" -j KUBE-SVC-NODEPORTXXXXXXXX
-A KUBE-EXT-LOCALNODEPORTXXX -m comment --comment "masquerade LOCAL traffic for default/local external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
-A KUBE-EXT-LOCALNODEPORTXXX -m comment --comment "route LOCAL traffic for default/local external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-NODEPORTXXXXXXXX
-A KUBE-EXT-LOCALNODEPORTXXX -j KUBE-SVL-LOCALNODEPORTXXX
-A KUBE-FW-LOADBALANCERXXXXX -s 203.0.113.0/24 -m comment --comment "default/lb loadbalancer IP" -j KUBE-EXT-LOADBALANCERXXXX
-A KUBE-FW-LOADBALANCERXXXXX -m comment --comment "other traffic to default/lb will be dropped by KUBE-PROXY-FIREWALL"
-A KUBE-EXT-LOADBALANCERXXXX -m comment --comment "masquerade traffic for default/lb external destinations" -j KUBE-MARK-MASQ
-A KUBE-EXT-LOADBALANCERXXXX -j KUBE-SVC-LOADBALANCERXXXX
-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web" -m tcp --dport 32767 -j KUBE-EXT-NODEPORTXXXXXXXX
-A KUBE-NODEPORTS -p udp -m comment --comment "default/local" -m udp --dport 30053 -j KUBE-EXT-LOCALNODEPORTXXX
-A KUBE-SEP-AAAAAAAAAAAAAAAA -s 10.244.0.2/32 -m comment --comment "default/web" -j KUBE-MARK-MASQ
-A KUBE-SEP-AAAAAAAAAAAAAAAA -p tcp -m comment --comment "default/web" -m recent --set --name KUBE-SEP-AAAAAAAAAAAAAAAA --mask 255.255.255.255 --rsource -m tcp -j DNAT --to-destination 10.244.0.2:80
-A KUBE-SEP-BBBBBBBBBBBBBBBB -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination 10.244.0.10:8080
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-NODEPORTXXXXXXXX
-A KUBE-SERVICES -d 203.0.113.9/32 -p sctp -m comment --comment "default/lb loadbalancer IP" -m sctp --dport 443 -j KUBE-FW-LOADBALANCERXXXXX
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 -j KUBE-NODEPORTS
-A KUBE-SVC-NODEPORTXXXXXXXX ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-NODEPORTXXXXXXXX -m comment --comment "default/web -> 10.244.0.10:8080" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-BBBBBBBBBBBBBBBB --mask 255.255.255.255 --rsource -j KUBE-SEP-BBBBBBBBBBBBBBBB
-A KUBE-SVC-NODEPORTXXXXXXXX -m comment --comment "default/web -> 10.244.0.2:80" -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-AAAAAAAAAAAAAAAA --mask 255.255.255.255 --rsource -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-NODEPORTXXXXXXXX -m comment --comment "default/web -> 10.244.0.10:8080" -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-BBBBBBBBBBBBBBBB
-A KUBE-SVC-NODEPORTXXXXXXXX -m comment --comment "default/web -> 10.244.0.2:80" -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVC-LOADBALANCERXXXX -m comment --comment "default/lb -> 10.244.0.2:80" -j KUBE-SEP-AAAAAAAAAAAAAAAA
-A KUBE-SVL-LOCALNODEPORTXXX -m comment --comment "default/local -> 10.244.0.2:80" -j KUBE-SEP-AAAAAAAAAAAAAAAA
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "default/idle has no endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 31000 -j REJECT --reject-with icmp-port-unreachable
-A KUBE-PROXY-FIREWALL -d 203.0.113.9/32 -p sctp -m comment --comment "default/lb traffic not accepted by KUBE-FW-LOADBALANCERXXXXX" -m sctp --dport 443 -j DROP
-A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m comment --comment "default/idle has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
COMMIT
"#;

const V6: &str = r#"
*nat
:KUBE-SEP-CCCCCCCCCCCCCCCC - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-SIXXXXXXXXXXXXXX - [0:0]
-A KUBE-SEP-CCCCCCCCCCCCCCCC -p tcp -m comment --comment "default/web" -m tcp -j DNAT --to-destination [fd00:10:244::2]:80
-A KUBE-SERVICES -d fd00:10:96::a/128 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-SIXXXXXXXXXXXXXX
-A KUBE-SVC-SIXXXXXXXXXXXXXX -m comment --comment "default/web -> [fd00:10:244::2]:80" -j KUBE-SEP-CCCCCCCCCCCCCCCC
COMMIT
"#;

fn list(rules: &[&str], addresses: &[&str]) -> String {
    let family = |text: &str| if text.contains("fd00:") { Family::V6 } else { Family::V4 };
    let saved: Vec<_> = rules.iter().map(|text| (family(text), iptables::parse_save(text).unwrap())).collect();
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let text = render(&table(&saved, &addresses));
    text.strip_prefix(TITLE).unwrap().to_owned()
}

#[test]
fn no_rules_are_an_empty_table() {
    assert_eq!(list(&[], &["192.0.2.1"]), "");
    assert_eq!(list(&["*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"], &["192.0.2.1"]), "");
}

#[test]
fn every_way_in_leads_to_its_endpoints() {
    let expected = "\
TCP  10.96.0.10:80 random persistent 10800
  -> 10.244.0.2:80                Masq    1      0          0         \n\
\x20 -> 10.244.0.10:8080             Masq    1      0          0         \n\
TCP  10.96.0.11:80 random
TCP  10.96.0.12:31000 random
TCP  10.96.0.12:32767 random persistent 10800
  -> 10.244.0.2:80                Masq    1      0          0         \n\
\x20 -> 10.244.0.10:8080             Masq    1      0          0         \n\
UDP  10.96.0.12:30053 random
  -> 10.244.0.2:80                Masq    1      0          0         \n\
SCTP 203.0.113.9:443 random
  -> 10.244.0.2:80                Masq    1      0          0         \n";
    // Loopback is excepted by the rule; an IPv6 address is not this family's.
    assert_eq!(list(&[V4], &["10.96.0.12", "127.0.0.1", "fd00::1"]), expected);
}

#[test]
fn both_families_are_one_table() {
    let text = list(&[V4, V6], &[]);
    let six =
        "TCP  [fd00:10:96::a]:80 random\n  -> [fd00:10:244::2]:80          Masq    1      0          0         \n";
    assert!(text.ends_with(six), "{text}");
    assert!(!text.contains(":32767"), "a node without addresses has no node ports\n{text}");
}

#[test]
fn chains_that_form_a_ring_end() {
    let ring = "\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-EXT-AAAAAAAAAAAAAAAA - [0:0]
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j KUBE-EXT-AAAAAAAAAAAAAAAA
-A KUBE-EXT-AAAAAAAAAAAAAAAA -j KUBE-EXT-AAAAAAAAAAAAAAAA
COMMIT
";
    assert_eq!(list(&[ring], &[]), "TCP  10.96.0.1:80 random\n");
}

#[test]
fn a_node_port_is_on_its_own_familys_addresses_only() {
    let everywhere = V4.replace(" ! -d 127.0.0.0/8", "");
    let text = list(&[&everywhere], &["192.0.2.7", "2001:db8::7"]);
    assert!(text.contains("TCP  192.0.2.7:32767 "), "{text}");
    assert!(!text.contains("2001:db8::7"), "{text}");
}
