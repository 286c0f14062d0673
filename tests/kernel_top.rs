//! `kube-ipvs top` at work: a recorded session in a terminal of its own (a pty, and a terminal emulator that reads what comes
//! out of it), over rules in a network namespace of its own, with real packets that they count and refuse.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use nix::sched::{CloneFlags, unshare};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZero;
use std::process;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const SERVICES: usize = 40;
const DOWN: &str = "\x1b[B";
const PAGE_DOWN: &str = "\x1b[6~";
const HOME: &str = "\x1b[H";
const ESCAPE: &str = "\x1b";

fn succeeded(program: &str, arguments: &[&str]) {
    let status = process::Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// A Service for each rule, the last one without endpoints, which a rule refuses.
fn rules() -> String {
    let (mut nat, mut services) = (String::new(), String::new());
    for number in 0..SERVICES - 1 {
        let hash = format!("{number:016}");
        writeln!(nat, ":KUBE-SVC-{hash} - [0:0]\n:KUBE-SEP-{hash} - [0:0]").unwrap();
        writeln!(services, "-A KUBE-SERVICES -d 10.96.0.{number} -p tcp -m tcp --dport 80 -j KUBE-SVC-{hash}").unwrap();
        writeln!(services, "-A KUBE-SVC-{hash} -j KUBE-SEP-{hash}").unwrap();
        writeln!(services, "-A KUBE-SEP-{hash} -p tcp -m tcp -j DNAT --to-destination 10.200.0.1:8080").unwrap();
    }
    let refused = SERVICES - 1;
    format!(
        "*nat\n:KUBE-SERVICES - [0:0]\n{nat}-A OUTPUT -j KUBE-SERVICES\n{services}COMMIT\n\
         *filter\n:KUBE-SERVICES - [0:0]\n-A OUTPUT -j KUBE-SERVICES\n\
         -A KUBE-SERVICES -d 10.96.0.{refused} -p tcp -m tcp --dport 80 -j REJECT\nCOMMIT\n"
    )
}

/// The Services behind them, as manifests. One endpoint is not ready.
fn manifests() -> String {
    let mut text = String::new();
    for number in 0..SERVICES {
        let name = format!("web-{number:02}");
        write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  type: ClusterIP\n  \
             clusterIPs: [10.96.0.{number}]\n  ports: [{{name: http, port: 80, protocol: TCP}}]\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  namespace: shop\n  \
             labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, \
             protocol: TCP}}]\nendpoints:\n"
        )
        .unwrap();
        if number < SERVICES - 1 {
            writeln!(
                text,
                "- {{addresses: [10.200.0.1], nodeName: node-a, targetRef: {{kind: Pod, name: {name}-pod}}, \
                 conditions: {{ready: true}}}}"
            )
            .unwrap();
        } else {
            writeln!(text, "- {{addresses: [10.200.0.9], conditions: {{ready: false, serving: false}}}}").unwrap();
        }
        text.push_str("---\n");
    }
    text
}

/// A terminal with the program in it, and all that was on its screen.
struct Session {
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Bytes that the program sent.
    sent: Arc<Mutex<usize>>,
    recording: String,
    started: Instant,
}

impl Session {
    fn start(arguments: &[&str], columns: u16, lines: u16) -> Self {
        let size = PtySize { rows: lines, cols: columns, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_kube-ipvs"));
        command.args(arguments);
        command.env("TERM", "xterm-256color");
        let child = pair.slave.spawn_command(command).unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(cells(lines), cells(columns), 0)));
        let sent = Arc::new(Mutex::new(0));
        let mut output = pair.master.try_clone_reader().unwrap();
        let (feed, count) = (screen.clone(), sent.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                feed.lock().unwrap().process(&bytes[..read]);
                *count.lock().unwrap() += read;
            }
        });
        let keyboard = pair.master.take_writer().unwrap();
        let (recording, started) = (String::new(), Instant::now());
        Self { master: pair.master, keyboard, child, screen, sent, recording, started }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn line(&self, number: usize) -> String {
        self.text().lines().nth(number).unwrap_or_default().to_owned()
    }

    fn sent(&self) -> usize {
        *self.sent.lock().unwrap()
    }

    /// Types, then waits until the screen is as it should be, which is recorded.
    fn step(&mut self, keys: &str, what: &str, reached: impl Fn(&str) -> bool) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while !reached(&self.text()) {
            assert!(Instant::now() < end, "{what}: never seen; recorded:\n{}\nnow:\n{}", self.recording, self.text());
            thread::sleep(Duration::from_millis(20));
        }
        let at = self.started.elapsed().as_secs_f32();
        writeln!(self.recording, "--- {at:.1} s, keys {keys:?}: {what}\n{}", self.text()).unwrap();
    }
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).unwrap()
}

fn listed(screen: &str) -> usize {
    screen.lines().filter(|line| line.starts_with("shop/web-")).count()
}

#[test]
fn a_session() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a network namespace needs root");
        return;
    }
    thread::spawn(session).join().unwrap();
}

fn session() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    succeeded("ip", &["link", "set", "lo", "up"]);
    succeeded("ip", &["address", "add", "10.200.0.1/32", "dev", "lo"]);
    succeeded("ip", &["route", "add", "local", "10.96.0.0/16", "dev", "lo"]);
    let commands = iptables::Commands::detect(iptables::Family::V4).unwrap();
    commands.restore(rules().as_str()).unwrap();
    let folder = std::env::temp_dir().join(format!("kube-ipvs-top-{}", process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("services.yaml"), manifests()).unwrap();
    let listener = TcpListener::bind("10.200.0.1:8080").unwrap();
    let manifests = folder.to_str().unwrap().to_owned();
    let arguments = ["top", "--proxy-mode", "iptables", "--interval", "0.5", "--manifests", &manifests];
    let mut session = Session::start(&arguments, 160, 24);

    session.step("", "the first screen", |screen| listed(screen) == 21);
    assert!(session.line(0).contains("iptables  40 virtual servers"), "{}", session.line(0));
    assert!(session.line(1).contains("CONN/Sv"), "sorted by rate at the start: {}", session.line(1));
    assert!(session.text().contains("ClusterIP"), "{}", session.text());

    // Twelve connections to one Service, six refused ones to another: rates that are not 0.
    let held: Vec<TcpStream> = (0..12).map(|_| TcpStream::connect("10.96.0.17:80").unwrap()).collect();
    session.step("", "who gets connections comes first", |screen| {
        screen.lines().nth(2).is_some_and(|line| line.starts_with("shop/web-17:http"))
    });
    let refuse = || (0..6).for_each(|_| assert!(TcpStream::connect("10.96.0.39:80").is_err()));
    session.step("ss", "sorted by errors", |screen| screen.contains("ERR/Sv"));

    refuse();

    session.step("", "who is refused", |screen| {
        let line = screen.lines().nth(2).unwrap_or_default();
        line.starts_with("shop/web-39:http") && line.contains("no endpoints") && !line.contains("  0 no endpoints")
    });
    session.step("s", "sorted by name", |screen| {
        screen.contains("SERVICEv") && screen.lines().nth(2).is_some_and(|line| line.starts_with("shop/web-00:http"))
    });
    session.step(PAGE_DOWN, "one screen on", |screen| screen.contains("shop/web-21"));
    session.step(&DOWN.repeat(30), "to the end, and no further", |screen| {
        screen.contains("shop/web-39") && listed(screen) == 21
    });
    session.step(HOME, "back", |screen| screen.contains("shop/web-00"));
    session.step("/web-1", "filtered while typing", |screen| listed(screen) == 10 && screen.contains("/web-1_"));
    session.step("7\r", "one left", |screen| listed(screen) == 1 && screen.contains("filter: web-17"));
    session.step("\r", "its endpoints", |screen| screen.contains("web-17-pod") && screen.contains("10.200.0.1:8080"));
    session.step("q", "closed, not ended", |screen| !screen.contains("web-17-pod"));
    session.step("?", "help", |screen| screen.contains("Keys and columns"));
    session.step(ESCAPE, "help closed", |screen| !screen.contains("Keys and columns") && listed(screen) == 1);
    session.step(ESCAPE, "filter cleared", |screen| listed(screen) == 21);

    differences_only(&mut session);

    let small = PtySize { rows: 12, cols: 100, pixel_width: 0, pixel_height: 0 };
    session.screen.lock().unwrap().screen_mut().set_size(cells(12), cells(100));
    session.master.resize(small).unwrap();
    session.step("", "a smaller screen", |screen| listed(screen) == 9 && screen.contains("? help"));

    session.keyboard.write_all(b"q").unwrap();
    let status = session.child.wait().unwrap();
    assert!(status.success(), "{status:?}");
    let ended = Instant::now() + Duration::from_secs(10);
    while session.screen.lock().unwrap().screen().alternate_screen() && Instant::now() < ended {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!session.screen.lock().unwrap().screen().alternate_screen(), "the screen is given back");
    eprintln!("{}", session.recording);
    drop((held, listener));
    std::fs::remove_dir_all(folder).unwrap();
}

/// One line further costs a fraction of a screen: 21 lines of 160 characters are more than 3000 bytes.
fn differences_only(session: &mut Session) {
    session.step("p", "paused", |screen| screen.contains("PAUSED"));
    thread::sleep(Duration::from_millis(700));
    let before = session.sent();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(session.sent(), before, "nothing changes, nothing is sent");
    session.step(DOWN, "one line further", |_| true);
    thread::sleep(Duration::from_millis(500));
    let sent = session.sent() - before;
    assert!((1..1500).contains(&sent), "{sent} bytes for one line");
    session.step("p", "going on", |screen| !screen.contains("PAUSED"));
}
