//! The client: questions to the kernel's IPVS. What changes it is in `execute.rs`.

use std::collections::HashSet;

use netlink_packet_core::DecodeError;
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::encode::{attributes, deserialise, question, serialise};
use crate::family::resolve;
use crate::message::{Attribute, IpvsCommand, IpvsMessage};
use crate::netlink::{Counters, Socket, SocketError, SocketOptions};
use crate::preload::Preloaded;
use crate::{Attempt, Daemon, DestinationEntry, Error, Info, ServiceEntry, ServiceId, Timeouts, proc};

/// How a [`Client`] works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Timeout, buffers and size of batches.
    pub socket: SocketOptions,
    /// How often a dump is repeated at most: when the kernel says that its table changed meanwhile, or when the one before
    /// brought virtual servers that had not been seen (5).
    pub dump_retries: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { socket: SocketOptions::default(), dump_retries: 5 }
    }
}

/// A connection to the IPVS of one network namespace: that of the thread which made it.
///
/// Blocking: the kernel executes a command inside the `send` that carries it.
#[derive(Debug)]
pub struct Client {
    pub(crate) socket: Socket,
    pub(crate) family: u16,
    pub(crate) options: Options,
    pub(crate) preloaded: Preloaded,
}

impl Client {
    /// Connects to the IPVS of the calling thread's network namespace. The kernel loads the module `ip_vs` if needed.
    ///
    /// # Errors
    /// [`Error::FamilyMissing`] when the kernel has no IPVS, [`Error::PermissionDenied`] without `CAP_NET_ADMIN`,
    /// otherwise a failure of the socket.
    pub fn connect() -> Result<Self, Error> {
        Self::connect_with(Options::default())
    }

    /// [`Client::connect`] with other timeouts, buffers or sizes of batches.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_with(options: Options) -> Result<Self, Error> {
        let transport = |source| Error::from_socket(Attempt::Connect, source);
        let mut socket = Socket::open(NETLINK_GENERIC, &options.socket).map_err(transport)?;
        let family = resolve(&mut socket)?;
        let mut client = Self { socket, family, options, preloaded: Preloaded::default() };
        // Anyone may look up the family; this question needs the capability that all others need.
        client.ask_info(&Attempt::Connect)?;
        Ok(client)
    }

    /// System calls and messages so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.socket.counters()
    }

    /// Version and size of the connection table.
    ///
    /// # Errors
    /// The socket failed.
    pub fn info(&mut self) -> Result<Info, Error> {
        self.ask_info(&Attempt::Info)
    }

    fn ask_info(&mut self, attempt: &Attempt) -> Result<Info, Error> {
        let (mut version, mut size) = (None, None);
        self.ask(attempt, question(IpvsCommand::GetInfo, None), false, &mut |payload| {
            for attribute in deserialise(payload)?.attributes {
                match attribute {
                    Attribute::InfoVersion(value) => version = Some(value),
                    Attribute::InfoConnectionTableSize(value) => size = Some(value),
                    _ => {}
                }
            }
            Ok(())
        })?;
        match (version, size) {
            (Some(version), Some(size)) => Ok(Info::new(version, size)),
            _ => Err(Error::Decode { attempt: attempt.clone(), reason: "no version or no size".to_owned() }),
        }
    }

    /// How long idle connections live.
    ///
    /// # Errors
    /// The socket failed.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        let mut timeouts = Timeouts::default();
        self.ask(&Attempt::Timeouts, question(IpvsCommand::GetConfig, None), false, &mut |payload| {
            timeouts = Timeouts::from_attributes(&deserialise(payload)?.attributes);
            Ok(())
        })?;
        Ok(timeouts)
    }

    /// The synchronisation daemons that run: none, a master, a backup, or both.
    ///
    /// # Errors
    /// The socket failed.
    pub fn daemons(&mut self) -> Result<Vec<Daemon>, Error> {
        self.collect(&Attempt::Daemons, &question(IpvsCommand::GetDaemon, None), &|payload| {
            let attributes = deserialise(payload)?.attributes.into_iter().find_map(|attribute| match attribute {
                Attribute::Daemon(attributes) => Some(attributes),
                _ => None,
            });
            Daemon::from_attributes(&attributes.ok_or("no synchronisation daemon")?)
        })
    }

    /// All virtual servers, in the kernel's order: by hash bucket, firewall marks last. Each once, as
    /// [`for_each_service`](Self::for_each_service) finds them.
    ///
    /// # Errors
    /// The socket failed.
    pub fn services(&mut self) -> Result<Vec<ServiceEntry>, Error> {
        let mut all = Vec::new();
        self.for_each_service(|entry| all.push(entry))?;
        Ok(all)
    }

    /// Hands each virtual server to `each` as it arrives, keeping no more than its identity.
    ///
    /// Kernels before 2026 keep the virtual servers of all network namespaces in one table, and a dump of several
    /// messages goes on by the number of rows it has passed, others' included (`ip_vs_genl_dump_services`): while
    /// another namespace's virtual servers come or go, rows are passed over. So a dump of more than one message is
    /// repeated until two in a row show the same number and nothing new, and then compared with [`proc`](crate::proc) of the
    /// calling thread's namespace, which counts in another way. A virtual server that is removed meanwhile may still be seen.
    ///
    /// # Errors
    /// The socket failed; [`SocketError::DumpInterrupted`] when the table changed during every try (kernels that notice
    /// it), so that what `each` saw may be incomplete.
    pub fn for_each_service(&mut self, mut each: impl FnMut(ServiceEntry)) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let mut tries = self.options.dump_retries + 2;
        loop {
            let (known, received) = (seen.len(), self.counters().receives);
            let mut rows = 0;
            let request = question(IpvsCommand::GetService, None);
            let asked = self.ask(&Attempt::Services, request, true, &mut |payload| {
                let entry = ServiceEntry::parse(attributes(payload))?;
                rows += 1;
                if seen.insert(entry.service.id) {
                    each(entry);
                }
                Ok(())
            });
            tries = tries.saturating_sub(1);
            match asked {
                Err(Error::Transport { source: SocketError::DumpInterrupted, .. }) if tries > 0 => continue,
                asked => asked?,
            }
            // One message of rows and the one that ends the dump: the kernel held its lock for all of it.
            let one_message = self.counters().receives - received <= 2;
            if one_message {
                return Ok(());
            }
            if tries == 0 || (seen.len() == known && rows == known) {
                return self.each_passed_over(&seen, each);
            }
        }
    }

    /// Those that the file has and no dump had.
    fn each_passed_over(&mut self, seen: &HashSet<ServiceId>, mut each: impl FnMut(ServiceEntry)) -> Result<(), Error> {
        let mut passed_over = Vec::new();
        // A thread without the file, or of another namespace, has no more to tell than the dumps.
        let _ = proc::for_each_row(proc::PATH, |row, _| {
            passed_over.extend(row.id.service_id().filter(|id| !seen.contains(id)));
        });
        for id in passed_over {
            if let Some(entry) = self.service(&id)? {
                each(entry);
            }
        }
        Ok(())
    }

    /// One dump of the virtual servers, as the kernel gives it, each made into what is to be kept of it, and whether the dump
    /// came in one piece. If not, and the kernel is from before 2026, rows may be missing
    /// ([`for_each_service`](Self::for_each_service) says why): compare it with [`proc`](crate::proc).
    ///
    /// # Errors
    /// The socket failed.
    pub fn services_at_first<T>(&mut self, keep: impl Fn(ServiceEntry) -> T) -> Result<(Vec<T>, bool), Error> {
        let before = self.counters().receives;
        let request = question(IpvsCommand::GetService, None);
        let kept = |payload: &[u8]| ServiceEntry::parse(attributes(payload)).map(&keep);
        let all = self.collect(&Attempt::Services, &request, &kept)?;
        // One message of rows and the one that ends the dump.
        Ok((all, self.counters().receives - before <= 2))
    }

    /// One virtual server; `None` when it is not there.
    ///
    /// # Errors
    /// The socket failed.
    pub fn service(&mut self, id: &ServiceId) -> Result<Option<ServiceEntry>, Error> {
        let mut entry = None;
        let asked =
            self.ask(&Attempt::Service(*id), question(IpvsCommand::GetService, Some(id)), false, &mut |payload| {
                entry = Some(ServiceEntry::parse(attributes(payload))?);
                Ok(())
            });
        match asked {
            Err(error) if error.is_not_there() => Ok(None),
            asked => asked.map(|()| entry),
        }
    }

    /// The destinations of one virtual server, in the order in which they were added. The kernel answers with an empty
    /// list, too, when there is no such virtual server.
    ///
    /// # Errors
    /// The socket failed.
    pub fn destinations(&mut self, id: &ServiceId) -> Result<Vec<DestinationEntry>, Error> {
        let request = question(IpvsCommand::GetDest, Some(id));
        self.collect(&Attempt::Destinations(*id), &request, &|payload| {
            DestinationEntry::parse(attributes(payload), id.family())
        })
    }

    /// The destinations of many virtual servers, in their order.
    ///
    /// The kernel runs one dump a socket at a time and lists the destinations of one virtual server only, so this
    /// takes three system calls for each. Where a few columns suffice, [`proc`](crate::proc) reads them all at once.
    ///
    /// # Errors
    /// The first failure.
    pub fn destinations_of_many(&mut self, ids: &[ServiceId]) -> Result<Vec<Vec<DestinationEntry>>, Error> {
        ids.iter().map(|id| self.destinations(id)).collect()
    }

    /// Asks `request` and hands over the payload of every answer.
    fn ask(
        &mut self,
        attempt: &Attempt,
        request: IpvsMessage,
        dump: bool,
        each: &mut dyn FnMut(&[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), Error> {
        let family = self.family;
        let bytes = serialise(request, family, dump);
        let asked = self.socket.request::<Failure>(bytes, &mut |kind, payload| {
            if kind != family {
                return Err(Failure::Decode(DecodeError::from(format!("message of type {kind}"))));
            }
            each(payload).map_err(Failure::Decode)
        });
        asked.map_err(|failure| match failure {
            Failure::Socket(source) => Error::from_socket(attempt.clone(), source),
            Failure::Decode(error) => Error::Decode { attempt: attempt.clone(), reason: error.to_string() },
        })
    }

    /// All answers of a dump, asked again while the kernel says that its table changed meanwhile.
    fn collect<T>(
        &mut self,
        attempt: &Attempt,
        request: &IpvsMessage,
        decode: &dyn Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, Error> {
        let mut retries = self.options.dump_retries;
        loop {
            let mut all = Vec::new();
            let asked = self.ask(attempt, request.clone(), true, &mut |payload| {
                all.push(decode(payload)?);
                Ok(())
            });
            match asked {
                Ok(()) => return Ok(all),
                Err(Error::Transport { source: SocketError::DumpInterrupted, .. }) if retries > 0 => retries -= 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Why an answer was not taken.
enum Failure {
    Socket(SocketError),
    Decode(DecodeError),
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        Self::Socket(error)
    }
}
