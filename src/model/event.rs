//! What is worth telling the owner of an object: Kubernetes events, before anybody knows whether there is an API server.
//!
//! Whoever has something to tell puts it into [`Events`], which never makes anybody wait. What becomes of it is decided
//! elsewhere (`observe::events`).

use super::{ServiceName, Uid};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// As many events may wait; what comes then is dropped and counted.
const QUEUE: usize = 256;

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Regarding {
    /// Our own node, whatever its name.
    Node,
    /// A Service.
    Service {
        /// Its namespace and name.
        name: ServiceName,
        /// The identity of this very object; another one may have the same name later.
        uid: Option<Uid>,
    },
}

impl fmt::Display for Regarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("Node"),
            Self::Service { name, .. } => write!(f, "Service {name}"),
        }
    }
}

/// What happened, in one word for machines. Those that kube-proxy has are called as it calls them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The proxy serves from here on (`birthCry`, cmd/kube-proxy/app/server.go).
    Starting,
    /// `/healthz` cannot be served.
    FailedToStartProxierHealthcheck,
    /// `/metrics` cannot be served.
    FailedToStartMetricServer,
    /// A `healthCheckNodePort` cannot be served.
    FailedToStartServiceHealthcheck,
    /// The mode that is best does not work here, so that another one serves.
    ModeFallback,
    /// Another mode serves since now.
    ModeChanged,
    /// A Service does not get an address or a port that it asks for.
    AddressRefused,
    /// An annotation of ours makes no sense.
    InvalidAnnotation,
    /// A field, or the whole object, cannot be used.
    InvalidObject,
    /// What an annotation asks for does not exist in the mode that serves.
    AnnotationWithoutEffect,
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::FailedToStartProxierHealthcheck => "FailedToStartProxierHealthcheck",
            Self::FailedToStartMetricServer => "FailedToStartMetricServer",
            Self::FailedToStartServiceHealthcheck => "FailedToStartServiceHealthcheck",
            Self::ModeFallback => "ModeFallback",
            Self::ModeChanged => "ModeChanged",
            Self::AddressRefused => "AddressRefused",
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::InvalidObject => "InvalidObject",
            Self::AnnotationWithoutEffect => "AnnotationWithoutEffect",
        }
    }

    /// What was being done, as kube-proxy calls it where it does the same.
    pub fn action(self) -> &'static str {
        match self {
            Self::Starting | Self::FailedToStartProxierHealthcheck | Self::FailedToStartMetricServer => {
                "StartKubeProxy"
            }
            Self::FailedToStartServiceHealthcheck => "Listen",
            Self::ModeFallback | Self::ModeChanged => "ChooseMode",
            Self::AddressRefused | Self::AnnotationWithoutEffect => "Program",
            Self::InvalidAnnotation | Self::InvalidObject => "Read",
        }
    }

    /// Whether somebody should look at it.
    pub fn is_warning(self) -> bool {
        !matches!(self, Self::Starting | Self::ModeChanged | Self::AnnotationWithoutEffect)
    }
}

/// Something that happened to an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Event {
    /// The object.
    pub regarding: Regarding,
    /// What happened, for machines.
    pub reason: Reason,
    /// What happened, for people.
    pub note: String,
}

impl Event {
    /// An event about our own node.
    pub fn of_node(reason: Reason, note: impl Into<String>) -> Self {
        Self { regarding: Regarding::Node, reason, note: note.into() }
    }

    /// An event about a Service.
    pub fn of_service(service: &ServiceName, reason: Reason, note: impl Into<String>) -> Self {
        Self { regarding: Regarding::Service { name: service.clone(), uid: None }, reason, note: note.into() }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.regarding, self.reason.as_str(), self.note)
    }
}

/// Where events go in. The default goes nowhere.
#[derive(Debug, Clone, Default)]
pub struct Events(Option<Queue>);

#[derive(Debug, Clone)]
struct Queue {
    sender: mpsc::Sender<Event>,
    dropped: Arc<AtomicU64>,
}

/// Where they come out.
#[derive(Debug)]
pub struct EventQueue {
    receiver: mpsc::Receiver<Event>,
    dropped: Arc<AtomicU64>,
}

impl Events {
    /// Both ends of a queue.
    pub fn queue() -> (Self, EventQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        (Self(Some(Queue { sender, dropped: dropped.clone() })), EventQueue { receiver, dropped })
    }

    /// Tells it. Never waits: where too much waits already, it is dropped.
    pub fn tell(&self, event: Event) {
        if let Some(queue) = &self.0
            && queue.sender.try_send(event).is_err()
        {
            queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl EventQueue {
    /// The next one; `None` once nobody can tell any more.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// How many were dropped since it was asked last.
    pub fn dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_queue_makes_nobody_wait() {
        let (events, mut queue) = Events::queue();
        for number in 0..QUEUE + 3 {
            events.tell(Event::of_node(Reason::Starting, number.to_string()));
        }
        assert_eq!((queue.dropped(), queue.dropped()), (3, 0));
        assert_eq!(queue.next().await.unwrap().to_string(), "Node: Starting: 0");
        Events::default().tell(Event::of_node(Reason::Starting, ""));
        drop(events);
        let mut left = 0;
        while queue.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, QUEUE - 1);
    }
}
