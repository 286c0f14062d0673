//! A UDP flow that never ends: one socket, datagrams all the time.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kube_ipvs::lab::{Answer, NetNs};

/// A socket that sends a datagram every 10 ms, and notes who answered which.
pub struct Flow {
    what: String,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(usize, Vec<(usize, String)>)>,
}

impl Flow {
    /// Starts sending.
    pub fn start(ns: &NetNs, from: &str, to: &str) -> Self {
        let (what, to): (_, SocketAddr) = (format!("{from} to {to}"), to.parse().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let (ns, stopped) = (ns.clone(), stop.clone());
        let thread = thread::spawn(move || ns.run(|| send(to, &stopped)).unwrap());
        Self { what, stop, thread }
    }

    /// Ends it. Who answered, without repetitions, and how many datagrams stayed unanswered after the first answer.
    pub fn end(self) -> (String, Vec<String>, usize) {
        self.stop.store(true, Ordering::SeqCst);
        let (sent, answers) = self.thread.join().unwrap();
        let first = answers.first().map_or(sent, |(number, _)| *number);
        let lost = (sent - first).saturating_sub(answers.len());
        let mut names: Vec<String> = answers.into_iter().map(|(_, name)| name).collect();
        names.dedup();
        (self.what, names, lost)
    }
}

fn send(to: SocketAddr, stop: &AtomicBool) -> (usize, Vec<(usize, String)>) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    let (mut sent, mut answers) = (0, Vec::new());
    let receive = |wait: u64, answers: &mut Vec<(usize, String)>| {
        socket.set_read_timeout(Some(Duration::from_millis(wait))).unwrap();
        let mut buffer = [0; 2048];
        while let Ok(length) = socket.recv(&mut buffer) {
            let Ok(answer) = serde_json::from_slice::<Answer>(&buffer[..length]) else { continue };
            let number = answer.question.trim_start_matches("ask ").parse().unwrap();
            answers.push((number, answer.name));
        }
    };
    while !stop.load(Ordering::SeqCst) {
        // A refusal of an earlier one is told here.
        let _ = socket.send(format!("ask {sent}\n").as_bytes());
        sent += 1;
        receive(10, &mut answers);
    }
    receive(500, &mut answers);
    (sent, answers)
}
