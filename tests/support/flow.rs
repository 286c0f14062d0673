//! A UDP flow that never ends: one socket, datagrams all the time.

use super::emulated;
use kube_ipvs::lab::{Answer, NetNs};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A socket that sends datagrams all the time, and notes who answered which.
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

    /// Sends nothing more.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Ends it. Who answered, without repetitions; how many datagrams stayed unanswered after the first answer, and how
    /// many of them in a row.
    pub fn end(self) -> (String, Vec<String>, usize, usize) {
        self.stop();
        let (sent, mut answers) = self.thread.join().unwrap();
        let first = answers.first().map_or(sent, |(number, _)| *number);
        let lost = (sent - first).saturating_sub(answers.len());
        answers.sort_by_key(|(number, _)| *number);
        let numbers: Vec<usize> = answers.iter().map(|(number, _)| *number).chain([sent]).collect();
        let row = numbers.windows(2).map(|pair| pair[1].saturating_sub(pair[0] + 1)).max().unwrap_or(sent);
        let mut names: Vec<String> = answers.into_iter().map(|(_, name)| name).collect();
        names.dedup();
        eprintln!("{}: {names:?}, {lost} of {sent} lost, {row} in a row", self.what);
        (self.what, names, lost, row)
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
        receive(if emulated() { 50 } else { 10 }, &mut answers);
    }
    receive(if emulated() { 3000 } else { 500 }, &mut answers);
    (sent, answers)
}
