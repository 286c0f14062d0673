//! Service addresses as addresses of the interface: kube-proxy's layout, for `--vip-binding=address`.

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};

use super::{AddressError, Interface, InterfaceError};
use crate::kernel::netfilter::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use crate::kernel::netlink::NetlinkError;
use crate::kernel::{IpFamily, rtnetlink};

impl Interface {
    /// The addresses on the interface, with their prefix lengths; none when there is no such interface. IPv6
    /// link-local addresses, which the kernel makes itself, are left out.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn addresses(&mut self, family: IpFamily) -> Result<Vec<IpNet>, InterfaceError> {
        let Some(index) = self.index()? else { return Ok(Vec::new()) };
        let mut request = AddressMessage::default();
        request.header.family = family.into();
        request.header.index = index;
        let mut found = Vec::new();
        let message = RouteNetlinkMessage::GetAddress(request);
        rtnetlink::request(&mut self.socket, message, NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewAddress(address) = answer
                && address.header.index == index
                && address.header.family == family.into()
                && address.header.scope != AddressScope::Link
            {
                found.extend(net_of(&address));
            }
        })
        .map_err(|source| self.failed("list the addresses of", source))?;
        Ok(found)
    }

    /// Adds and deletes addresses; the results are those of `add` in its order, then those of `delete`.
    pub fn change_addresses(&mut self, add: &[IpNet], delete: &[IpNet]) -> Vec<Result<(), AddressError>> {
        let outcome = self.existing_index("change addresses of").map(|index| {
            let messages: Vec<Vec<u8>> = add
                .iter()
                .map(|net| (RouteNetlinkMessage::NewAddress(message(*net, index)), NLM_F_CREATE | NLM_F_EXCL))
                .chain(delete.iter().map(|net| (RouteNetlinkMessage::DelAddress(message(*net, index)), 0)))
                .map(|(message, flags)| rtnetlink::encode(message, flags))
                .collect();
            self.socket.batch(&messages)
        });
        let results = outcome.unwrap_or_else(|error| {
            vec![Err::<(), NetlinkError>(super::error::source_of(&error)); add.len() + delete.len()]
        });
        let tried = add.iter().map(|net| ("add", net)).chain(delete.iter().map(|net| ("delete", net)));
        tried
            .zip(results)
            .map(|((action, net), result)| {
                result.map_err(|source| AddressError { action, net: *net, interface: self.name.clone(), source })
            })
            .collect()
    }
}

fn message(net: IpNet, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = IpFamily::of(net.addr()).into();
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    if net.addr().is_ipv6() {
        // The same address is on every node: duplicate address detection would take it from us.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

/// IPv4 has the address in `IFA_LOCAL` (`IFA_ADDRESS` is the peer's), IPv6 in `IFA_ADDRESS`.
fn net_of(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    IpNet::new(address, message.header.prefix_len).ok()
}
