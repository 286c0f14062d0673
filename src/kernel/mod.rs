//! What the data plane needs from the kernel besides IPVS itself: kube-ipvs0 and the routes to it, the node's own
//! addresses, ipsets, connection tracking, sysctls, and news about changes that others make.
//!
//! Everything but [`monitor`] blocks and speaks netlink directly: no forks, no external binaries. Changes go to the
//! kernel about a hundred messages a system call; each has a result of its own. A socket belongs to the network
//! namespace of the thread that opened it.

pub mod accounting;
pub mod addresses;
mod attribute;
pub mod conntrack;
pub mod interface;
pub mod ipset;
pub mod links;
pub mod monitor;
mod netfilter;
mod netlink;
pub mod nftables;
pub mod recent;
pub mod routing;
mod rtnetlink;
pub mod sysctl;

pub use crate::model::IpFamily;
pub use netlink::NetlinkError;
