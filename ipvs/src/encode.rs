//! Commands to messages and back, and messages to bytes.

use netlink_packet_core::{DecodeError, NLM_F_DUMP, NetlinkMessage, ParseableParametrized};
use netlink_packet_generic::{GenlHeader, GenlMessage};

use crate::message::{Attribute, DaemonAttribute, DestinationAttribute, IpvsCommand, IpvsMessage, ServiceAttribute};
use crate::message::{destination_identity, destination_identity_from};
use crate::{Command, Daemon, DaemonState, Destination, Service, ServiceId, Timeouts};

/// `sizeof(struct genlmsghdr)`.
const GENERIC_HEADER_LENGTH: usize = 4;
/// Longest name that the kernel's buffers of 16 bytes hold: scheduler, persistence engine, interface.
const MAX_NAME_LENGTH: usize = 15;

impl Command {
    /// What a message with this command is about.
    pub(crate) const fn kind(&self) -> IpvsCommand {
        match self {
            Self::AddService(_) => IpvsCommand::NewService,
            Self::SetService(_) => IpvsCommand::SetService,
            Self::DeleteService(_) => IpvsCommand::DelService,
            Self::AddDestination { .. } => IpvsCommand::NewDest,
            Self::SetDestination { .. } => IpvsCommand::SetDest,
            Self::DeleteDestination { .. } => IpvsCommand::DelDest,
            Self::Zero(_) => IpvsCommand::Zero,
            Self::Flush => IpvsCommand::Flush,
            Self::SetTimeouts(_) => IpvsCommand::SetConfig,
            Self::StartDaemon(_) => IpvsCommand::NewDaemon,
            Self::StopDaemon(_) => IpvsCommand::DelDaemon,
        }
    }

    /// The message that carries this command.
    #[must_use]
    pub fn to_message(&self) -> IpvsMessage {
        let attributes = match self {
            Self::AddService(service) | Self::SetService(service) => vec![Attribute::Service(service.to_attributes())],
            Self::DeleteService(id) | Self::Zero(Some(id)) => vec![Attribute::Service(id.to_attributes())],
            Self::AddDestination { service, destination } | Self::SetDestination { service, destination } => {
                with_destination(service, destination.to_attributes())
            }
            Self::DeleteDestination { service, address, port } => {
                with_destination(service, destination_identity(address, *port).into())
            }
            Self::Zero(None) | Self::Flush => Vec::new(),
            Self::SetTimeouts(timeouts) => timeouts.to_attributes(),
            Self::StartDaemon(daemon) => vec![Attribute::Daemon(daemon.to_attributes())],
            Self::StopDaemon(state) => vec![Attribute::Daemon(vec![DaemonAttribute::State(state.number())])],
        };
        IpvsMessage { command: self.kind(), attributes }
    }

    /// The command that a message carries.
    ///
    /// # Errors
    /// The message is a question or a reply, or lacks an attribute.
    pub fn from_message(message: &IpvsMessage) -> Result<Self, DecodeError> {
        let (mut service, mut destination, mut daemon) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                Attribute::Service(attributes) => service = Some(attributes.as_slice()),
                Attribute::Destination(attributes) => destination = Some(attributes.as_slice()),
                Attribute::Daemon(attributes) => daemon = Some(attributes.as_slice()),
                _ => {}
            }
        }
        let id = || ServiceId::from_attributes(service.ok_or("no virtual server")?);
        let daemon = || daemon.ok_or_else(|| DecodeError::from("no synchronisation daemon"));
        Ok(match message.command {
            IpvsCommand::NewService => Self::AddService(full_service(service)?),
            IpvsCommand::SetService => Self::SetService(full_service(service)?),
            IpvsCommand::DelService => Self::DeleteService(id()?),
            IpvsCommand::NewDest => {
                Self::AddDestination { service: id()?, destination: full_destination(&id()?, destination)? }
            }
            IpvsCommand::SetDest => {
                Self::SetDestination { service: id()?, destination: full_destination(&id()?, destination)? }
            }
            IpvsCommand::DelDest => {
                let service = id()?;
                let attributes = destination.ok_or("no destination")?;
                let (address, port) = destination_identity_from(attributes, service.family())?;
                Self::DeleteDestination { service, address, port }
            }
            IpvsCommand::Zero => Self::Zero(service.map(ServiceId::from_attributes).transpose()?),
            IpvsCommand::Flush => Self::Flush,
            IpvsCommand::SetConfig => Self::SetTimeouts(Timeouts::from_attributes(&message.attributes)),
            IpvsCommand::NewDaemon => Self::StartDaemon(Daemon::from_attributes(daemon()?)?),
            IpvsCommand::DelDaemon => Self::StopDaemon(daemon_state(daemon()?)?),
            other => return Err(DecodeError::from(format!("{other:?} changes nothing"))),
        })
    }

    /// Why this command cannot be put on the wire, if so.
    pub(crate) fn objection(&self) -> Option<String> {
        match self {
            Self::AddService(service) | Self::SetService(service) => {
                if service.netmask.family() != service.id.family() {
                    let (mask, family) = (service.netmask.family(), service.id.family());
                    return Some(format!("{mask} netmask for an {family} virtual server"));
                }
                service.pe_name.as_deref().and_then(|name| objection_to_name("persistence engine", name))
            }
            Self::StartDaemon(daemon) => objection_to_name("interface", &daemon.interface),
            _ => None,
        }
    }
}

fn objection_to_name(what: &str, name: &str) -> Option<String> {
    if name.is_empty() {
        Some(format!("empty name of the {what}"))
    } else if name.contains('\0') {
        Some(format!("zero byte in the name of the {what}"))
    } else if name.len() > MAX_NAME_LENGTH {
        Some(format!("name of the {what} longer than {MAX_NAME_LENGTH} bytes: {name:?}"))
    } else {
        None
    }
}

fn with_destination(service: &ServiceId, destination: Vec<DestinationAttribute>) -> Vec<Attribute> {
    vec![Attribute::Service(service.to_attributes()), Attribute::Destination(destination)]
}

fn full_service(attributes: Option<&[ServiceAttribute]>) -> Result<Service, DecodeError> {
    Service::from_attributes(attributes.ok_or("no virtual server")?)
}

fn full_destination(
    service: &ServiceId,
    attributes: Option<&[DestinationAttribute]>,
) -> Result<Destination, DecodeError> {
    Destination::from_attributes(attributes.ok_or("no destination")?, service.family())
}

fn daemon_state(attributes: &[DaemonAttribute]) -> Result<DaemonState, DecodeError> {
    let state = attributes.iter().find_map(|attribute| match attribute {
        DaemonAttribute::State(number) => Some(DaemonState::from_number(*number)),
        _ => None,
    });
    state.ok_or_else(|| "a synchronisation daemon without a state".into())
}

impl Timeouts {
    /// The attributes of [`Command::SetTimeouts`]; 0 is sent, too, and means none.
    #[must_use]
    pub fn to_attributes(&self) -> Vec<Attribute> {
        vec![Attribute::TimeoutTcp(self.tcp), Attribute::TimeoutTcpFin(self.tcp_fin), Attribute::TimeoutUdp(self.udp)]
    }

    /// The timeouts among `attributes`; what is missing is 0.
    #[must_use]
    pub fn from_attributes(attributes: &[Attribute]) -> Self {
        let mut timeouts = Self::default();
        for attribute in attributes {
            match attribute {
                Attribute::TimeoutTcp(seconds) => timeouts.tcp = *seconds,
                Attribute::TimeoutTcpFin(seconds) => timeouts.tcp_fin = *seconds,
                Attribute::TimeoutUdp(seconds) => timeouts.udp = *seconds,
                _ => {}
            }
        }
        timeouts
    }
}

/// A question that is answered by a dump or by one message.
pub(crate) fn question(command: IpvsCommand, service: Option<&ServiceId>) -> IpvsMessage {
    let attributes = service.map(|id| Attribute::Service(id.to_attributes())).into_iter().collect();
    IpvsMessage { command, attributes }
}

/// A whole netlink message; length, sequence number and the remaining flags are the socket's business.
pub(crate) fn serialise(message: IpvsMessage, family: u16, dump: bool) -> Vec<u8> {
    let mut generic = GenlMessage::from_payload(message);
    generic.set_resolved_family_id(family);
    let mut whole = NetlinkMessage::from(generic);
    whole.header.flags = if dump { NLM_F_DUMP } else { 0 };
    whole.finalize();
    let mut bytes = vec![0; whole.buffer_len()];
    whole.serialize(&mut bytes);
    bytes
}

/// The attributes of a message of the family, behind its netlink header.
pub(crate) fn attributes(payload: &[u8]) -> &[u8] {
    payload.get(GENERIC_HEADER_LENGTH..).unwrap_or(&[])
}

/// The message behind a netlink header.
pub(crate) fn deserialise(payload: &[u8]) -> Result<IpvsMessage, DecodeError> {
    let header = GenlHeader::parse(payload)?;
    IpvsMessage::parse_with_param(attributes(payload), header)
}
