//! Where the kernel would send a packet, asked of the kernel itself (`RTM_GETROUTE`): policy routing, `rp_filter` and
//! `ip_forward` are in its answer.

use super::addresses::AddressesError;
use super::{IpFamily, rtnetlink};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use nix::errno::Errno;
use nix::net::if_::{if_indextoname, if_nametoindex};
use std::net::IpAddr;

/// A packet, as far as routing looks at it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Query {
    /// Where it is sent.
    pub destination: IpAddr,
    /// Where it comes from, if that is decided already.
    pub source: Option<IpAddr>,
    /// The interface by which it came in; `None` for what the node itself sends.
    pub input: Option<String>,
}

/// What the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is the node's own.
    Local {
        /// The source that the node would use.
        source: Option<IpAddr>,
    },
    /// It goes out.
    Out {
        /// By this interface.
        interface: String,
        /// The source that the node would use.
        source: Option<IpAddr>,
    },
    /// It goes nowhere, for this reason.
    Nowhere(String),
}

impl Answer {
    /// The source that the node would use.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        match self {
            Self::Local { source } | Self::Out { source, .. } => *source,
            Self::Nowhere(_) => None,
        }
    }
}

/// Asks the kernel of the calling thread's network namespace.
///
/// # Errors
/// When it cannot be asked. That there is no route is an answer.
pub fn route(query: &Query) -> Result<Answer, AddressesError> {
    let failed = |source| AddressesError { question: format!("ask for the route to {}", query.destination), source };
    let mut socket = rtnetlink::open().map_err(failed)?;
    let mut found = None;
    let request = RouteNetlinkMessage::GetRoute(request(query));
    let asked = rtnetlink::request(&mut socket, request, 0, |answer| {
        if let RouteNetlinkMessage::NewRoute(route) = answer {
            found = Some(answer_of(&route));
        }
    });
    match asked {
        Err(error) if error.is_kernel_verdict() => Ok(Answer::Nowhere(reason(error.errno(), query))),
        asked => asked.map(|()| found.unwrap_or_else(|| Answer::Nowhere("no route".into()))).map_err(failed),
    }
}

fn request(query: &Query) -> RouteMessage {
    let mut request = RouteMessage::default();
    let bits = if query.destination.is_ipv4() { 32 } else { 128 };
    request.header.address_family = IpFamily::of(query.destination).into();
    request.header.destination_prefix_length = bits;
    request.attributes.push(RouteAttribute::Destination(query.destination.into()));
    if let Some(source) = query.source {
        request.header.source_prefix_length = bits;
        request.attributes.push(RouteAttribute::Source(source.into()));
    }
    // A name that is no interface's is left out, and the answer is that for the node's own packets.
    let input = query.input.as_deref().and_then(|name| if_nametoindex(name).ok());
    request.attributes.extend(input.map(RouteAttribute::Iif));
    request
}

fn answer_of(route: &RouteMessage) -> Answer {
    let mut index = None;
    let mut source = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(found) => index = Some(*found),
            RouteAttribute::PrefSource(address) => source = rtnetlink::ip_address(address),
            _ => {}
        }
    }
    let name = index.and_then(|index| if_indextoname(index).ok());
    let interface = name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match route.header.kind {
        RouteType::Local => Answer::Local { source },
        RouteType::Unicast | RouteType::Anycast | RouteType::Broadcast | RouteType::Multicast => {
            Answer::Out { interface, source }
        }
        other => Answer::Nowhere(format!("a route of type {other:?}").to_lowercase()),
    }
}

/// `ip_route_input_slow`, `fib_validate_source` and `ip_route_output_key_hash_rcu` in `net/ipv4`.
fn reason(errno: Option<i32>, query: &Query) -> String {
    let errno = errno.map(|errno| Errno::from_raw(errno.saturating_abs()));
    match (errno, query.input.is_some()) {
        (Some(Errno::EXDEV), _) => "rp_filter: its source is not reached by the interface that it came in by".into(),
        (Some(Errno::EINVAL), true) => "martian: such addresses do not come in by this interface".into(),
        (Some(Errno::EHOSTUNREACH), true) => "no route, or forwarding is off (ip_forward)".into(),
        (Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH), _) => "no route".into(),
        (Some(errno), _) => errno.desc().to_lowercase(),
        (None, _) => "no route".into(),
    }
}
