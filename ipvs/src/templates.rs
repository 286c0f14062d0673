//! Which client stays with which destination: the persistence templates among the [`connections`]. Netlink does not tell
//! them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::Protocol;
use crate::connections::{self, Connection};

pub use crate::connections::PATH;

/// A client whose next connection goes where its last one went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Template {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The client, masked as the virtual server says.
    pub client: IpAddr,
    /// The virtual server's address and port.
    pub server: SocketAddr,
    /// The destination.
    pub destination: SocketAddr,
}

/// Reads the templates; [`PATH`] is the usual file. Connections are passed over, and so is what is not understood.
///
/// # Errors
/// It cannot be read. `NotFound` means that the kernel has no IPVS, or not yet.
pub fn read(path: impl AsRef<Path>) -> std::io::Result<Vec<Template>> {
    let mut templates = Vec::new();
    connections::for_each(path, |found| templates.extend(template(&found)))?;
    Ok(templates)
}

fn template(found: &Connection) -> Option<Template> {
    let Connection { protocol, client, server, destination, .. } = *found;
    found.is_template().then_some(Template { protocol, client: client.ip(), server, destination })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_told_from_connections() {
        let read = |line| connections::connection(line).as_ref().and_then(template);
        let v4 = read("TCP C0A80001 0000 AC1E0016 0050 0AB40001 1F90 NONE            42").unwrap();
        assert_eq!((v4.client, v4.server), ("192.168.0.1".parse().unwrap(), "172.30.0.22:80".parse().unwrap()));
        assert_eq!((v4.protocol, v4.destination), (Protocol::Tcp, "10.180.0.1:8080".parse().unwrap()));
        let v6 = "UDP fd00:0000:0000:0000:0000:0000:0000:0001 0000 fd00:0172:0030:0000:0000:0000:0000:0016 0035 \
                  fd00:0010:0180:0000:0000:0000:0000:0001 0035 UDP            299";
        assert_eq!(read(v6).unwrap().destination, "[fd00:10:180::1]:53".parse().unwrap());
        for other in [
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
            "TCP C0A80001 9C40 AC1E0016 0050 0AB40001 0050 ESTABLISHED    899",
            "IP  C0A80001 0000 00000007 0000 0AB40001 0050 NONE            42",
            "TCP C0A80001 0000",
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
