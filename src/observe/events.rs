//! What becomes of events: the same one is told once an hour at most, an object never has many in an hour, and whoever
//! tells one waits for nobody.

use crate::model::{Event, EventQueue, Reason, Regarding};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// How long the same event is not told again. The API server forgets events after an hour.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// So many different events of one reason an object has within that time.
const DIFFERENT: usize = 5;
/// So many events are remembered; whoever remembers more makes others forget.
const REMEMBERED: usize = 4096;

/// An event that is due, and how often it came while it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The event.
    pub event: Event,
    /// How often it happened since it was told last, this time among them.
    pub count: u64,
}

/// Who tells events on.
pub trait Sink: Send {
    /// Tells one. What cannot be told is lost; the sink says so in the log.
    fn tell(&mut self, due: Due) -> impl Future<Output = ()> + Send;
}

/// Where there is no API server: what events tell was logged where it happened.
#[derive(Debug, Clone, Copy)]
pub struct Nowhere;

impl Sink for Nowhere {
    async fn tell(&mut self, _due: Due) {}
}

/// Tells events on until nobody can have one any more.
pub async fn run(mut queue: EventQueue, mut sink: impl Sink) {
    let mut limiter = Limiter::default();
    while let Some(event) = queue.next().await {
        match queue.dropped() {
            0 => {}
            dropped => warn!(dropped, "more events than can be told; the log has what they were about"),
        }
        debug!("event: {event}");
        if let Some(due) = limiter.admit(event, Instant::now()) {
            sink.tell(due).await;
        }
    }
}

/// What was told lately.
#[derive(Debug, Default)]
struct Limiter {
    told: HashMap<(Regarding, Reason), HashMap<String, Told>>,
    remembered: usize,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

impl Limiter {
    fn admit(&mut self, event: Event, now: Instant) -> Option<Due> {
        if self.remembered >= REMEMBERED {
            self.forget(now);
        }
        let fresh = |told: &Told| now.saturating_duration_since(told.at) < AGAIN_AFTER;
        let notes = self.told.entry((event.regarding.clone(), event.reason)).or_default();
        if let Some(told) = notes.get_mut(&event.note) {
            told.since += 1;
            if fresh(told) {
                return None;
            }
            let count = std::mem::take(&mut told.since);
            told.at = now;
            return Some(Due { event, count });
        }
        if notes.values().filter(|told| fresh(told)).count() >= DIFFERENT {
            return None;
        }
        notes.insert(event.note.clone(), Told { at: now, since: 0 });
        self.remembered += 1;
        Some(Due { event, count: 1 })
    }

    /// First what may be told again anyway; if that is not enough, everything.
    fn forget(&mut self, now: Instant) {
        self.told.retain(|_, notes| {
            notes.retain(|_, told| now.saturating_duration_since(told.at) < AGAIN_AFTER);
            !notes.is_empty()
        });
        self.remembered = self.told.values().map(HashMap::len).sum();
        if self.remembered >= REMEMBERED {
            self.told.clear();
            self.remembered = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;

    fn event(service: &str, reason: Reason, note: &str) -> Event {
        Event::of_service(&ServiceName::new("n", service), reason, note)
    }

    #[test]
    fn the_same_once_an_hour_and_few_of_a_kind() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let mut count = |service, note: &str, seconds| {
            let due = limiter.admit(event(service, Reason::AddressRefused, note), start + Duration::from_secs(seconds));
            due.map_or(0, |due| due.count)
        };
        assert_eq!(count("a", "x", 0), 1);
        assert_eq!([count("a", "x", 1), count("a", "x", 3599)], [0, 0]);
        assert_eq!(count("b", "x", 1), 1, "another object");
        assert_eq!(count("a", "x", 3600), 3, "an hour later, with those in between");
        assert_eq!(count("a", "x", 3601), 0);
        let many: Vec<u64> = (0..9).map(|number| count("c", &number.to_string(), 10)).collect();
        assert_eq!(many, [1, 1, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(count("c", "new", 3610), 1);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        for number in 0..3 * REMEMBERED {
            assert!(limiter.admit(event(&number.to_string(), Reason::InvalidObject, "x"), now).is_some());
            assert!(limiter.remembered <= REMEMBERED);
        }
    }

    #[tokio::test]
    async fn what_is_due_reaches_the_sink() {
        struct List(std::sync::Arc<std::sync::Mutex<Vec<String>>>);
        impl Sink for List {
            async fn tell(&mut self, due: Due) {
                self.0.lock().unwrap().push(due.event.to_string());
            }
        }
        let (events, queue) = crate::model::Events::queue();
        for _ in 0..3 {
            events.tell(event("a", Reason::InvalidAnnotation, "x"));
        }
        drop(events);
        let list = List(std::sync::Arc::default());
        let told = list.0.clone();
        run(queue, list).await;
        assert_eq!(*told.lock().unwrap(), ["Service n/a: InvalidAnnotation: x"]);
    }
}
