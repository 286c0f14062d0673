//! The conversation with the kernel about sets.

use ipvs::netlink::Messages;
use nix::errno::Errno;

use super::{EntryWithMark, IpsetError, Reason, SetCommand, SetHeader, SetSpec, codec};
use crate::kernel::NetlinkError;
use crate::kernel::netlink::Socket;

/// `NETLINK_NETFILTER`.
const NETLINK_NETFILTER: isize = 12;
/// The newest protocol that this client speaks; kernels before 4.20 speak 6 only.
const NEWEST: u8 = 7;
const OLDEST: u8 = 6;

/// Sets of the network namespace of the thread that opened the client.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    protocol: u8,
}

/// The messages of commands for a kernel that speaks this version of the protocol: nobody is asked.
#[must_use]
pub fn encode(protocol: u8, commands: &[SetCommand]) -> Messages {
    commands.iter().map(|command| codec::encode(protocol, command)).collect()
}

impl Client {
    /// Opens the way to the kernel's sets and agrees on a protocol, which loads the module if need be.
    ///
    /// # Errors
    /// [`Reason::Unavailable`] when the kernel has no ipset, else what it said.
    pub fn open() -> Result<Self, IpsetError> {
        let unreadable = |reason: Reason| IpsetError::Unreadable { question: "open ipset".to_owned(), reason };
        let mut socket = Socket::open(NETLINK_NETFILTER).map_err(|error| unreadable(Reason::from(error)))?;
        let mut found = None;
        let outcome = socket.request(codec::ask_protocol(OLDEST), |_, payload| {
            found = codec::decode_protocol(payload).map_err(NetlinkError::malformed)?;
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            // What nfnetlink_rcv_msg answers when no subsystem is registered after an attempt to load the module.
            Err(error) if error.errno() == Some(Errno::EINVAL as i32) => return Err(unreadable(Reason::Unavailable)),
            Err(error) => return Err(unreadable(Reason::from(error))),
        }
        match found {
            Some(protocol) if protocol >= OLDEST => Ok(Self { socket, protocol: protocol.min(NEWEST) }),
            _ => Err(unreadable(Reason::Protocol)),
        }
    }

    /// The protocol agreed on: 6 or 7.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// The headers of all sets.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn list(&mut self) -> Result<Vec<SetHeader>, IpsetError> {
        self.headers(None, "list the ipsets")
    }

    /// The header of one set, `None` when there is none of that name.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn header(&mut self, name: &str) -> Result<Option<SetHeader>, IpsetError> {
        match self.headers(Some(name), &format!("read the header of ipset {name}")) {
            Ok(headers) => Ok(headers.into_iter().next()),
            Err(error) if *error.reason() == Reason::NoSuchSet => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn headers(&mut self, name: Option<&str>, question: &str) -> Result<Vec<SetHeader>, IpsetError> {
        let mut headers = Vec::new();
        self.socket
            .request(codec::list_headers(self.protocol, name), |_, payload| {
                headers.push(codec::decode_header(payload).map_err(NetlinkError::malformed)?);
                Ok(())
            })
            .map_err(|error| IpsetError::Unreadable { question: question.to_owned(), reason: error.into() })?;
        Ok(headers)
    }

    /// The entries of a set, in the kernel's order.
    ///
    /// # Errors
    /// [`Reason::NoSuchSet`], [`Reason::NoSuchType`] for types without an [`super::Entry`], else what the kernel said.
    pub fn entries(&mut self, name: &str) -> Result<Vec<EntryWithMark>, IpsetError> {
        let mut entries = Vec::new();
        self.each_entry(name, |entry| entries.push(entry))?;
        Ok(entries)
    }

    /// Hands over the entries of a set as they arrive. An entry that is added or deleted meanwhile may be seen or not.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn each_entry(&mut self, name: &str, mut each: impl FnMut(EntryWithMark)) -> Result<(), IpsetError> {
        let mut set_type = None;
        let mut reason = None;
        let outcome = self.socket.request(codec::list_entries(self.protocol, name), |_, payload| {
            let malformed = |error: crate::kernel::attribute::AttributeError| NetlinkError::malformed(error);
            if set_type.is_none() {
                set_type = codec::decode_header(payload).map_err(malformed)?.set_type();
            }
            match set_type {
                Some(set_type) => codec::decode_entries(payload, set_type, &mut each).map_err(malformed),
                None => {
                    reason = Some(Reason::NoSuchType);
                    Ok(())
                }
            }
        });
        let outcome = outcome.map_err(Reason::from).and_then(|()| reason.map_or(Ok(()), Err));
        outcome.map_err(|reason| IpsetError::Unreadable { question: format!("list ipset {name}"), reason })
    }

    /// Carries out commands in order, each with its result; one that fails does not stop the others.
    pub fn batch(&mut self, commands: &[SetCommand]) -> Vec<Result<(), IpsetError>> {
        self.send(&mut self.encode(commands))
            .into_iter()
            .zip(commands)
            .map(|(result, command)| {
                result.map_err(|error| IpsetError::Refused {
                    command: Box::new(command.clone()),
                    reason: Reason::of_command(error, command),
                })
            })
            .collect()
    }

    /// The messages of commands, for [`send`](Self::send) later.
    #[must_use]
    pub fn encode(&self, commands: &[SetCommand]) -> Messages {
        encode(self.protocol, commands)
    }

    /// Sends messages of [`encode`](Self::encode). A failure does not say of which command it is.
    pub fn send(&mut self, messages: &mut Messages) -> Vec<Result<(), NetlinkError>> {
        self.socket.batch_messages(messages)
    }

    fn one(&mut self, command: SetCommand) -> Result<(), IpsetError> {
        self.batch(&[command]).pop().unwrap_or(Ok(()))
    }

    /// Creates a set.
    ///
    /// # Errors
    /// [`Reason::SetExists`] and others.
    pub fn create(&mut self, spec: &SetSpec) -> Result<(), IpsetError> {
        self.one(SetCommand::Create(spec.clone()))
    }

    /// Destroys a set with its entries.
    ///
    /// # Errors
    /// [`Reason::NoSuchSet`], [`Reason::Busy`] while rules refer to it, and others.
    pub fn destroy(&mut self, name: &str) -> Result<(), IpsetError> {
        self.one(SetCommand::Destroy(name.to_owned()))
    }

    /// Renames a set that nothing refers to.
    ///
    /// # Errors
    /// [`Reason::NoSuchSet`], [`Reason::Referenced`], [`Reason::SecondName`] and others.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<(), IpsetError> {
        self.one(SetCommand::Rename { from: from.to_owned(), to: to.to_owned() })
    }

    /// Exchanges the contents of two sets; references stay with the names.
    ///
    /// # Errors
    /// [`Reason::NoSuchSet`], [`Reason::SecondName`], [`Reason::TypeMismatch`] and others.
    pub fn swap(&mut self, from: &str, to: &str) -> Result<(), IpsetError> {
        self.one(SetCommand::Swap(from.to_owned(), to.to_owned()))
    }

    /// Deletes all entries of a set.
    ///
    /// # Errors
    /// [`Reason::NoSuchSet`] and others.
    pub fn flush(&mut self, name: &str) -> Result<(), IpsetError> {
        self.one(SetCommand::Flush(name.to_owned()))
    }
}
