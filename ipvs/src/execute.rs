//! Changes of the kernel's IPVS, one by one and in batches.

use crate::netlink::{Messages, SocketError};
use crate::wire::USUAL_LENGTH;
use crate::{Attempt, Client, Command, Error};

impl Client {
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
        let mut results = Vec::with_capacity(commands.len());
        let mut broken: Option<SocketError> = None;
        for chunk in commands.chunks(self.options.socket.batch_messages.max(1)) {
            if let Some(cause) = &broken {
                results.extend(chunk.iter().map(|command| not_sent(command, cause.clone())));
                continue;
            }
            let encoded = Encoded::new(chunk, self.family);
            self.execute_encoded(chunk, encoded, &mut results, &mut broken);
        }
        results
    }

    /// Commands with their messages, for [`execute_prepared`](Self::execute_prepared): by another client as well, so that one
    /// thread encodes while another one's messages are with the kernel.
    #[must_use]
    pub fn prepare(&self, commands: Vec<Command>) -> Prepared {
        let encoded = Encoded::new(&commands, self.family);
        Prepared { commands, encoded }
    }

    /// As [`execute_batch`](Self::execute_batch); returns what was not done, and why.
    pub fn execute_prepared(&mut self, prepared: Prepared) -> Vec<(Command, Error)> {
        let Prepared { commands, encoded } = prepared;
        let mut results = Vec::with_capacity(commands.len());
        self.execute_encoded(&commands, encoded, &mut results, &mut None);
        commands.into_iter().zip(results).filter_map(|(command, result)| Some((command, result.err()?))).collect()
    }

    fn execute_encoded(
        &mut self,
        commands: &[Command],
        encoded: Encoded,
        results: &mut Vec<Result<(), Error>>,
        broken: &mut Option<SocketError>,
    ) {
        self.preloaded.prepare(commands);
        let Encoded { mut messages, objections } = encoded;
        let mut answers = self.socket.batch_messages(&mut messages).into_iter();
        for (command, objection) in commands.iter().zip(objections) {
            let attempt = || Attempt::Command(Box::new(command.clone()));
            results.push(match objection {
                Some(reason) => Err(Error::Invalid { attempt: attempt(), reason }),
                None => match answers.next() {
                    Some(Ok(())) => Ok(()),
                    Some(Err(error)) => {
                        if !error.is_kernel_verdict() {
                            *broken = Some(error.clone().into_cause());
                        }
                        Err(Error::from_socket(attempt(), error))
                    }
                    None => not_sent(command, SocketError::malformed("no answer")),
                },
            });
        }
    }

    /// The messages of commands, for [`send`](Self::send) later.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the first that cannot be sent.
    pub fn encode(&self, commands: &[Command]) -> Result<Messages, Error> {
        encode_commands(commands, self.family)
    }

    /// Sends messages of [`encode`](Self::encode), and nothing else: no scheduler's module is loaded beforehand, and a
    /// failure does not say of which command it is.
    pub fn send(&mut self, messages: &mut Messages) -> Vec<Result<(), SocketError>> {
        self.socket.batch_messages(messages)
    }
}

/// The messages of commands for a kernel that gave the family `IPVS` this number: nobody is asked.
///
/// # Errors
/// [`Error::Invalid`]: the first that cannot be sent.
pub fn encode_commands(commands: &[Command], family: u16) -> Result<Messages, Error> {
    let Encoded { messages, objections } = Encoded::new(commands, family);
    let objection = commands.iter().zip(objections).find_map(|(command, reason)| Some((command, reason?)));
    objection.map_or(Ok(messages), |(command, reason)| {
        Err(Error::Invalid { attempt: Attempt::Command(Box::new(command.clone())), reason })
    })
}

/// Commands with their messages, ready to be sent ([`Client::prepare`]).
#[derive(Debug)]
pub struct Prepared {
    commands: Vec<Command>,
    encoded: Encoded,
}

/// Some commands of a batch.
#[derive(Debug)]
struct Encoded {
    /// The messages of those that can be sent.
    messages: Messages,
    /// For each command why it cannot.
    objections: Vec<Option<String>>,
}

impl Encoded {
    fn new(commands: &[Command], family: u16) -> Self {
        let objections: Vec<Option<String>> = commands.iter().map(Command::objection).collect();
        let mut messages = Messages::with_capacity(commands.len(), commands.len().saturating_mul(USUAL_LENGTH));
        for (command, _) in commands.iter().zip(&objections).filter(|(_, objection)| objection.is_none()) {
            messages.write(|bytes| command.append_to(bytes, family));
        }
        Self { messages, objections }
    }
}

fn not_sent(command: &Command, cause: SocketError) -> Result<(), Error> {
    let source = SocketError::NotSent { cause: Box::new(cause) };
    Err(Error::Transport { attempt: Attempt::Command(Box::new(command.clone())), source })
}
