//! The annotations of our own: what a Service, or a slice, asks for beyond the Kubernetes API. docs/annotations.md
//! describes them. A value that makes no sense is told, and the default is used.

use super::Problem;
use crate::model::{Balancing, SCHEDULERS, Weights, counts_weights};
use std::collections::BTreeMap;

/// What all of them begin with.
pub const PREFIX: &str = "kube-ipvs.io/";
/// The IPVS scheduler of a Service.
pub const SCHEDULER: &str = "kube-ipvs.io/scheduler";
/// The flags of its scheduler.
pub const FLAGS: &str = "kube-ipvs.io/scheduler-flags";
/// One-packet scheduling of its UDP ports.
pub const ONE_PACKET: &str = "kube-ipvs.io/one-packet";
/// The weights of its, or a slice's, endpoints.
pub const WEIGHTS: &str = "kube-ipvs.io/weights";

const OF_SERVICES: [&str; 4] = [SCHEDULER, FLAGS, ONE_PACKET, WEIGHTS];
const OF_SLICES: [&str; 1] = [WEIGHTS];

/// The annotations of an object.
pub type Annotations = BTreeMap<String, String>;

/// Takes in problems with annotations.
struct Reader<'a> {
    annotations: &'a Annotations,
    problems: &'a mut Vec<Problem>,
}

/// What a Service asks for. `udp`: it has a port of that protocol.
pub fn of_service(annotations: Option<&Annotations>, udp: bool, problems: &mut Vec<Problem>) -> Balancing {
    let Some(annotations) = annotations else { return Balancing::default() };
    let mut reader = Reader { annotations, problems };
    reader.unknown(&OF_SERVICES);
    let scheduler = reader.scheduler();
    let source_port = reader.source_port(scheduler);
    let one_packet = reader.one_packet(udp);
    let weights = reader.weights(scheduler);
    Balancing { scheduler: scheduler.map(Into::into), source_port, one_packet, weights }
}

/// The weights that a slice gives its endpoints.
pub fn of_slice(annotations: Option<&Annotations>, problems: &mut Vec<Problem>) -> Weights {
    let Some(annotations) = annotations else { return Weights::default() };
    let mut reader = Reader { annotations, problems };
    reader.unknown(&OF_SLICES);
    reader.weights(None)
}

impl<'a> Reader<'a> {
    fn value(&self, name: &str) -> Option<&'a str> {
        self.annotations.get(name).map(|value| value.trim())
    }

    fn problem(&mut self, name: &str, message: String) {
        self.problems.push(Problem::in_field(format!("metadata.annotations[{name}]"), message));
    }

    /// A slip of the pen in a name would otherwise look as if it had no effect.
    fn unknown(&mut self, known: &[&str]) {
        let annotations = self.annotations;
        let ours = annotations.keys().filter(|name| name.starts_with(PREFIX));
        for name in ours.filter(|name| !known.contains(&name.as_str())) {
            self.problem(name, format!("there is no such annotation; there are {}", known.join(", ")));
        }
    }

    fn scheduler(&mut self) -> Option<&'a str> {
        let name = self.value(SCHEDULER)?;
        if SCHEDULERS.contains(&name) {
            return Some(name);
        }
        self.problem(SCHEDULER, format!("{name:?} is not one of {}; the default is used", SCHEDULERS.join(", ")));
        None
    }

    /// The fall-back flags are accepted and change nothing: they are always set.
    fn source_port(&mut self, scheduler: Option<&str>) -> bool {
        let Some(text) = self.value(FLAGS) else { return false };
        let Some(scheduler) = scheduler.filter(|name| ["sh", "mh"].contains(name)) else {
            self.problem(FLAGS, format!("has a meaning beside {SCHEDULER}: sh or mh only; it is ignored"));
            return false;
        };
        let mut source_port = false;
        for flag in text.split(',').map(str::trim).filter(|flag| !flag.is_empty()) {
            match flag.strip_prefix(scheduler) {
                Some("-port") => source_port = true,
                Some("-fallback") => {}
                _ => {
                    let message =
                        format!("{flag:?} is not one of {scheduler}-port, {scheduler}-fallback; all are ignored");
                    self.problem(FLAGS, message);
                    return false;
                }
            }
        }
        source_port
    }

    fn one_packet(&mut self, udp: bool) -> bool {
        match self.value(ONE_PACKET) {
            None | Some("false") => return false,
            Some("true") if udp => return true,
            Some("true") => self.problem(ONE_PACKET, "the Service has no UDP port; it is ignored".to_owned()),
            Some(other) => self.problem(ONE_PACKET, format!("{other:?} is not \"true\" or \"false\"; false is used")),
        }
        false
    }

    fn weights(&mut self, scheduler: Option<&str>) -> Weights {
        let Some(text) = self.value(WEIGHTS) else { return Weights::default() };
        match (Weights::read(text), scheduler) {
            (Ok(weights), Some(name)) if !weights.is_empty() && !counts_weights(name) => {
                self.problem(WEIGHTS, format!("the scheduler {name} knows no weights; they are ignored"));
                Weights::default()
            }
            (Ok(weights), _) => weights,
            (Err(error), _) => {
                self.problem(WEIGHTS, format!("{error}; all weights are ignored"));
                Weights::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)], udp: bool) -> (Balancing, Vec<String>) {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut problems = Vec::new();
        let balancing = of_service(Some(&annotations), udp, &mut problems);
        (balancing, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn everything_that_can_be_asked_for() {
        let asked = [(SCHEDULER, "mh"), (FLAGS, "mh-port, mh-fallback"), (ONE_PACKET, "true"), (WEIGHTS, "zone:a=3")];
        let (balancing, problems) = read(&asked, true);
        assert_eq!(problems, Vec::<String>::new());
        assert_eq!(balancing.scheduler.as_deref(), Some("mh"));
        assert!(balancing.source_port && balancing.one_packet);
        assert_eq!(balancing.weights.to_string(), "zone:a=3");
        assert_eq!(read(&[("example.org/scheduler", "x")], false), (Balancing::default(), Vec::new()));
    }

    #[test]
    fn what_makes_no_sense_is_told_and_the_default_is_used() {
        let cases: [(&[(&str, &str)], &str); 8] = [
            (&[(SCHEDULER, "fast")], "kube-ipvs.io/scheduler]: \"fast\" is not one of rr, wrr,"),
            (&[(FLAGS, "sh-port")], "scheduler-flags]: has a meaning beside kube-ipvs.io/scheduler: sh or mh only;"),
            (
                &[(FLAGS, "mh-port"), (SCHEDULER, "rr")],
                "scheduler-flags]: has a meaning beside kube-ipvs.io/scheduler:",
            ),
            (&[(FLAGS, "mh-port"), (SCHEDULER, "sh")], "scheduler-flags]: \"mh-port\" is not one of sh-port, sh-fall"),
            (&[(ONE_PACKET, "yes")], "one-packet]: \"yes\" is not \"true\" or \"false\"; false is used"),
            (&[(ONE_PACKET, "true")], "one-packet]: the Service has no UDP port; it is ignored"),
            (&[(WEIGHTS, "a=1")], "weights]: \"a\" is not an IP address, pod:NAME, node:NAME, zone:NAME or *; all"),
            (&[("kube-ipvs.io/weight", "*=1")], "kube-ipvs.io/weight]: there is no such annotation; there are "),
        ];
        for (annotations, expected) in cases {
            let (balancing, problems) = read(annotations, false);
            assert_eq!(problems.len(), 1, "{annotations:?}: {problems:?}");
            assert!(problems[0].contains(expected), "{annotations:?}: {problems:?}");
            assert!(!balancing.source_port && !balancing.one_packet && balancing.weights.is_empty());
        }
        let (balancing, problems) = read(&[(SCHEDULER, "dh"), (WEIGHTS, "*=2")], false);
        assert_eq!(
            problems,
            ["metadata.annotations[kube-ipvs.io/weights]: the scheduler dh knows no weights; they are ignored"]
        );
        assert!(balancing.weights.is_empty() && balancing.scheduler.is_some());
    }
}
