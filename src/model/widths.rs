//! How much room endpoints take in a table.

use super::Endpoint;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The lengths of the longest texts among some endpoints, in bytes, and whether there is an IPv6 address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Widths {
    /// Name of a pod.
    pub pod: usize,
    /// Name of a node.
    pub node: usize,
    /// Name of a zone.
    pub zone: usize,
    /// An IPv6 address.
    pub ipv6: bool,
}

impl Widths {
    /// Of one endpoint.
    pub fn of(endpoint: &Endpoint) -> Self {
        let length = |text: &Option<Arc<str>>| text.as_deref().map_or(0, str::len);
        let Endpoint { pod, node, zone, address, .. } = endpoint;
        Self { pod: length(pod), node: length(node), zone: length(zone), ipv6: address.is_ipv6() }
    }

    /// Those of both.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            pod: self.pod.max(other.pod),
            node: self.node.max(other.node),
            zone: self.zone.max(other.zone),
            ipv6: self.ipv6 || other.ipv6,
        }
    }
}
