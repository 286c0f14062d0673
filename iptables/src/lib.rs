//! Typed iptables rules.
