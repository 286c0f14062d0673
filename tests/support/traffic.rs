//! Traffic that goes on while something happens to the proxy.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use kube_ipvs::commands::bench::Drops;
use kube_ipvs::lab::{Answer, NetNs, Outcome, Probe, Prober, Protocol};
use socket2::{Domain, Socket, Type};

use super::{Cluster, Witness, emulated, wait_until};

/// Time for one answer: longer than any retransmission that happens to come right, shorter than giving up.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The same for a stream, of which what the kernel has is looked at while it still has it.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Long-lived TCP connections that ask a question every 50 ms.
pub struct Talks {
    stop: Arc<AtomicBool>,
    answers: Vec<Arc<AtomicUsize>>,
    threads: Vec<JoinHandle<Result<String, String>>>,
}

impl Talks {
    /// Opens `each` connections from every host to every address; all are open when this returns.
    pub fn start(cluster: &Cluster, from: &[&str], to: &[String], each: usize) -> Self {
        let mut talks = Self::none();
        for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (*from, to))) {
            (0..each).for_each(|_| talks.open(cluster, from, to, 0, None));
        }
        talks.wait_for_more(1);
        talks
    }

    /// Opens one connection from each of `ports` of a host. With `each` it is reset after so long and opened anew from its port
    /// at once, again and again.
    pub fn start_from(cluster: &Cluster, from: &str, ports: Range<u16>, to: &str, each: Option<Duration>) -> Self {
        let mut talks = Self::none();
        ports.for_each(|port| talks.open(cluster, from, to, port, each));
        talks.wait_for_more(1);
        talks
    }

    fn none() -> Self {
        Self { stop: Arc::default(), answers: Vec::new(), threads: Vec::new() }
    }

    fn open(&mut self, cluster: &Cluster, from: &str, to: &str, port: u16, each: Option<Duration>) {
        let (ns, stop, answers) = (cluster.host(from).ns.clone(), self.stop.clone(), Arc::default());
        self.answers.push(Arc::clone(&answers));
        let (what, to) = (format!("{from} to {to} (port {port})"), to.parse().unwrap());
        self.threads.push(thread::spawn(move || {
            let told = ns.run(|| {
                loop {
                    let until = each.map(|each| Instant::now() + each);
                    let told = talk(to, port, &answers, || {
                        stop.load(Ordering::SeqCst) || until.is_some_and(|until| Instant::now() >= until)
                    });
                    if told.is_err() || stop.load(Ordering::SeqCst) {
                        return told;
                    }
                }
            });
            told.unwrap().map_err(|error| format!("{what}: after {} answers: {error}", answers.load(Ordering::SeqCst)))
        }));
    }

    /// Waits until every connection has had `more` answers; those that broke are left to [`Self::end`].
    pub fn wait_for_more(&self, more: usize) {
        let wanted: Vec<usize> = self.answers.iter().map(|count| count.load(Ordering::SeqCst) + more).collect();
        wait_until("answers on every connection", || {
            let counts = self.answers.iter().zip(&wanted).zip(&self.threads);
            counts
                .into_iter()
                .all(|((count, wanted), thread)| thread.is_finished() || count.load(Ordering::SeqCst) >= *wanted)
        });
    }

    /// Closes the connections; none may have failed. Returns who answered on each.
    pub fn end(self) -> Vec<String> {
        Self::end_all([self])
    }

    /// The same of many, each of which is closed first: what failed is told together.
    pub fn end_all(all: impl IntoIterator<Item = Self>) -> Vec<String> {
        let all: Vec<_> = all.into_iter().inspect(|talks| talks.stop.store(true, Ordering::SeqCst)).collect();
        let threads = all.into_iter().flat_map(|talks| talks.threads);
        let ended: Vec<_> = threads.map(|thread| thread.join().unwrap()).collect();
        let failed: Vec<_> = ended.iter().filter_map(|end| end.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {} connections broke: {failed:#?}", failed.len(), ended.len());
        ended.into_iter().map(Result::unwrap).collect()
    }
}

/// A connection from any port, or from the one given. A program that another thread starts holds every socket until it
/// executes, closed or not: so long the port is waited for.
fn connect(to: SocketAddr, port: u16) -> std::io::Result<TcpStream> {
    if port == 0 {
        return TcpStream::connect_timeout(&to, TIMEOUT);
    }
    let started = Instant::now();
    loop {
        match connect_from(to, port) {
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && started.elapsed() < TIMEOUT => {
                thread::sleep(Duration::from_millis(10));
            }
            outcome => return outcome,
        }
    }
}

/// Closing it sends a reset, so that the port is free again at once.
fn connect_from(to: SocketAddr, port: u16) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_reuse_address(true)?;
    let any = if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.connect_timeout(&to.into(), TIMEOUT)?;
    Ok(socket.into())
}

fn talk(to: SocketAddr, port: u16, answers: &AtomicUsize, over: impl Fn() -> bool) -> Result<String, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = connect(to, port).map_err(text)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
    let mut reader = BufReader::new(stream.try_clone().map_err(text)?);
    let mut name: Option<String> = None;
    while !over() {
        let question = format!("talk {}", answers.load(Ordering::SeqCst));
        stream.write_all(format!("{question}\n").as_bytes()).map_err(text)?;
        let mut line = String::new();
        if reader.read_line(&mut line).map_err(text)? == 0 {
            return Err("closed by the other side".to_owned());
        }
        let answer: Answer = serde_json::from_str(&line).map_err(|error| format!("{line:?}: {error}"))?;
        let known = name.get_or_insert_with(|| answer.name.clone());
        if *known != answer.name || answer.question != question {
            return Err(format!("{known} became {}, asked {question:?}, answer to {:?}", answer.name, answer.question));
        }
        answers.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(50));
    }
    Ok(name.unwrap_or_default())
}

/// New connections, or datagrams, all the time.
pub struct Stream {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Stream {
    /// Starts asking every address from every host.
    pub fn start(cluster: &Cluster, from: &[&str], to: &[String], protocol: Protocol) -> Self {
        Self::start_with(cluster, from, to, protocol, None)
    }

    /// The same; what `witness` saw of a request that failed is told with it.
    pub fn start_with(
        cluster: &Cluster,
        from: &[&str],
        to: &[String],
        protocol: Protocol,
        witness: Option<&Arc<Witness>>,
    ) -> Self {
        let (stop, done): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let addresses: Vec<SocketAddr> = to.iter().map(|to| to.parse().unwrap()).collect();
        let start = |from: &&str| {
            let (ns, stop, done, to) = (cluster.host(from).ns.clone(), stop.clone(), done.clone(), addresses.clone());
            let (from, witness) = ((*from).to_owned(), witness.cloned());
            thread::spawn(move || ask_on(&ns, &from, &to, protocol, &stop, &done, witness.as_deref()))
        };
        let threads = from.iter().map(start).collect();
        let stream = Self { stop, done, threads };
        stream.wait_for_more(1);
        stream
    }

    /// Waits until `more` requests have come to an end.
    pub fn wait_for_more(&self, more: usize) {
        let wanted = self.done.load(Ordering::SeqCst) + more;
        wait_until("requests of the stream", || self.done.load(Ordering::SeqCst) >= wanted);
    }

    /// How many requests have come to an end.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }

    /// Ends it; no request may have failed. Returns how many there were.
    pub fn end(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut self.threads);
        let failed: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let done = self.done.load(Ordering::SeqCst);
        assert!(
            failed.is_empty(),
            "{} of {done} requests failed: {:#?}",
            failed.len(),
            &failed[..failed.len().min(10)]
        );
        done
    }
}

impl Drop for Stream {
    /// Where another stream's end fails, this one is not to go on.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn ask_on(
    ns: &NetNs,
    from: &str,
    to: &[SocketAddr],
    protocol: Protocol,
    stop: &AtomicBool,
    done: &AtomicUsize,
    witness: Option<&Witness>,
) -> Vec<String> {
    let prober = Prober::start(ns).unwrap();
    let (mut failed, started) = (Vec::new(), Instant::now());
    while !stop.load(Ordering::SeqCst) {
        let probe =
            |to: &SocketAddr| Probe { reset: protocol == Protocol::Tcp, ..Probe::ask(*to, protocol, STREAM_TIMEOUT) };
        for finished in prober.probe_all(to.iter().map(probe).collect(), 4).unwrap() {
            done.fetch_add(1, Ordering::SeqCst);
            if !matches!(finished.outcome, Outcome::Answered(_)) {
                let seconds = started.elapsed().as_secs();
                let (Probe { to, .. }, outcome, local) = (finished.probe, finished.outcome, finished.local);
                let (took, at) = (finished.elapsed, SystemTime::UNIX_EPOCH.elapsed().unwrap());
                let what = format!("{from} from {local:?} to {to}/{protocol}, after {seconds} s: {outcome}");
                eprintln!("{what}; it took {took:?} and was over before {at:?}");
                eprintln!("    what the machine had no room for so far: {:?}", Drops::of([ns]));
                if let (Some(witness), Some(local)) = (witness, local) {
                    let (now, before) = (witness.now(local.port()), witness.about(local.port()));
                    now.iter().chain(&before).for_each(|line| eprintln!("    {line}"));
                }
                failed.push(what);
            }
        }
        // A stream, not a flood: neither ports nor an emulated processor must be used up.
        thread::sleep(Duration::from_millis(if emulated() { 100 } else { 5 }));
    }
    failed
}
