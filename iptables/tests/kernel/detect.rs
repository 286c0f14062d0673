//! Which variant does a node use?

use iptables::{Commands, Family, Variant};

use crate::netns::{commands, in_netns};

fn write(variant: Variant, family: Family, text: &str) -> bool {
    let Some(commands) = commands(variant, family) else { return false };
    commands.restore(text).unwrap();
    true
}

const HINT: &str = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
const CANARY: &str = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
const RULES: &str = "*filter\n-A INPUT -j ACCEPT\n-A INPUT -j ACCEPT\nCOMMIT\n";

#[test]
fn kubelets_chains_decide() {
    for family in [Family::V4, Family::V6] {
        for (variant, other, hint) in [(Variant::Legacy, Variant::Nft, HINT), (Variant::Nft, Variant::Legacy, CANARY)] {
            in_netns(move || {
                // The other variant has more rules, which does not count.
                if write(variant, family, hint) && write(other, family, RULES) {
                    assert_eq!(Commands::detect(family).unwrap().variant, variant);
                }
            });
        }
    }
}

#[test]
fn kubelets_chains_of_the_other_family_count() {
    in_netns(|| {
        if write(Variant::Legacy, Family::V4, HINT) && write(Variant::Nft, Family::V6, RULES) {
            assert_eq!(Commands::detect(Family::V6).unwrap().variant, Variant::Legacy);
        }
    });
}

#[test]
fn otherwise_more_rules_decide() {
    for (variant, other) in [(Variant::Legacy, Variant::Nft), (Variant::Nft, Variant::Legacy)] {
        in_netns(move || {
            if write(variant, Family::V4, RULES) && write(other, Family::V4, "*filter\n-A INPUT -j ACCEPT\nCOMMIT\n") {
                assert_eq!(Commands::detect(Family::V4).unwrap().variant, variant);
            }
        });
    }
}

#[test]
fn an_empty_node_uses_the_plain_program_and_stays_empty() {
    in_netns(|| {
        if commands(Variant::Legacy, Family::V4).is_none() || commands(Variant::Nft, Family::V4).is_none() {
            return;
        }
        let plain = std::process::Command::new("iptables-restore").arg("-V").output().unwrap().stdout;
        let expected =
            if String::from_utf8_lossy(&plain).contains("nf_tables") { Variant::Nft } else { Variant::Legacy };
        let found = Commands::detect(Family::V4).unwrap();
        assert_eq!(found.variant, expected);
        assert!(found.version.is_some());
        let names = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
        assert_eq!(names, "", "looking created a table");
    });
}
