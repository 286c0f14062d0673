//! The client: questions to the kernel's IPVS, changes one by one and in batches.

use std::collections::HashSet;
use std::sync::mpsc::sync_channel;

use netlink_packet_core::DecodeError;
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::encode::{attributes, deserialise, question, serialise};
use crate::family::resolve;
use crate::message::{Attribute, IpvsCommand, IpvsMessage};
use crate::netlink::{Counters, Socket, SocketError, SocketOptions};
use crate::preload::Preloaded;
use crate::{Attempt, Command, Daemon, DestinationEntry, Error, Info, ServiceEntry, ServiceId, Timeouts};

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
    socket: Socket,
    family: u16,
    options: Options,
    preloaded: Preloaded,
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
    /// repeated until two in a row show the same number and nothing new. A virtual server that is removed meanwhile may still be seen.
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
            if one_message || tries == 0 || (seen.len() == known && rows == known) {
                return Ok(());
            }
        }
    }

    /// One dump of the virtual servers, as the kernel gives it, and whether it came in one piece. If not, and the kernel is
    /// from before 2026, rows may be missing ([`for_each_service`](Self::for_each_service) says why): compare it with
    /// [`proc`](crate::proc).
    ///
    /// # Errors
    /// The socket failed.
    pub fn services_at_first(&mut self) -> Result<(Vec<ServiceEntry>, bool), Error> {
        let before = self.counters().receives;
        let request = question(IpvsCommand::GetService, None);
        let all = self.collect(&Attempt::Services, &request, &|payload| ServiceEntry::parse(attributes(payload)))?;
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

    /// Executes one command.
    ///
    /// # Errors
    /// The kernel refused it ([`Error::Refused`], [`Error::PermissionDenied`]), it cannot be sent
    /// ([`Error::Invalid`]), or the socket failed.
    pub fn execute(&mut self, command: &Command) -> Result<(), Error> {
        self.execute_batch(std::slice::from_ref(command)).pop().unwrap_or(Ok(()))
    }

    /// Executes commands in order, about a hundred in one system call, and returns one result for each.
    ///
    /// A refused command does not stop those after it. A failure of the socket does: every command that the kernel had
    /// not answered by then is an error, either [`Error::is_outcome_unknown`] or [`SocketError::NotSent`].
    pub fn execute_batch(&mut self, commands: &[Command]) -> Vec<Result<(), Error>> {
        let (size, family) = (self.options.socket.batch_messages.max(1), self.family);
        if commands.len() <= size.saturating_mul(BEHIND) {
            return self.execute_chunks(commands.chunks(size), std::iter::empty());
        }
        // The kernel executes a chunk while the next one is encoded; a few are ready at most, so that a batch of any length
        // takes little memory.
        std::thread::scope(|scope| {
            let (sender, encoded) = sync_channel(READY);
            let encode = move || {
                let mut chunks = commands.chunks(size).map(|chunk| Encoded::new(chunk, family));
                // Nobody takes any more when the socket failed.
                while chunks.next().is_some_and(|chunk| sender.send(chunk).is_ok()) {}
            };
            // Without a thread each is encoded when its turn comes.
            let _ = std::thread::Builder::new().name("ipvs encode".into()).spawn_scoped(scope, encode);
            self.execute_chunks(commands.chunks(size), encoded.into_iter())
        })
    }

    /// Executes the chunks, of which the first ones may be encoded already.
    fn execute_chunks<'c>(
        &mut self,
        chunks: impl Iterator<Item = &'c [Command]>,
        mut encoded: impl Iterator<Item = Encoded>,
    ) -> Vec<Result<(), Error>> {
        let mut results = Vec::new();
        let mut broken: Option<SocketError> = None;
        for chunk in chunks {
            if let Some(cause) = &broken {
                let skipped = |command| not_sent(command, cause.clone());
                results.extend(chunk.iter().map(skipped));
                continue;
            }
            self.preloaded.prepare(chunk);
            let Encoded { mut messages, objections } =
                encoded.next().unwrap_or_else(|| Encoded::new(chunk, self.family));
            let mut answers = self.socket.batch(&mut messages).into_iter();
            for (command, objection) in chunk.iter().zip(objections) {
                let attempt = || Attempt::Command(Box::new(command.clone()));
                results.push(match objection {
                    Some(reason) => Err(Error::Invalid { attempt: attempt(), reason }),
                    None => match answers.next() {
                        Some(Ok(())) => Ok(()),
                        Some(Err(error)) => {
                            if !error.is_kernel_verdict() {
                                broken = Some(error.clone().into_cause());
                            }
                            Err(Error::from_socket(attempt(), error))
                        }
                        None => not_sent(command, SocketError::malformed("no answer")),
                    },
                });
            }
        }
        results
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

/// Chunks of a batch for which it is worthwhile to encode on a thread of its own.
const BEHIND: usize = 4;

/// Chunks that wait for the kernel at most.
const READY: usize = 4;

/// Some commands of a batch.
struct Encoded {
    /// The messages of those that can be sent.
    messages: Vec<Vec<u8>>,
    /// For each command why it cannot.
    objections: Vec<Option<String>>,
}

impl Encoded {
    fn new(commands: &[Command], family: u16) -> Self {
        let objections: Vec<Option<String>> = commands.iter().map(Command::objection).collect();
        let possible = commands.iter().zip(&objections).filter(|(_, objection)| objection.is_none());
        let messages = possible.map(|(command, _)| serialise(command.to_message(), family, false)).collect();
        Self { messages, objections }
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

fn not_sent(command: &Command, cause: SocketError) -> Result<(), Error> {
    let source = SocketError::NotSent { cause: Box::new(cause) };
    Err(Error::Transport { attempt: Attempt::Command(Box::new(command.clone())), source })
}
