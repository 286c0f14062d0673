//! HTTP/1.1 as far as a client of the Kubernetes API needs it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::Shared;
use super::answer::{Answer, answer};

/// A request.
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn get(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }
}

/// A connection as long as its generation lasts.
pub struct Connection<'a> {
    pub stream: TcpStream,
    pub generation: u64,
    pub shared: &'a Shared,
}

/// Serves a connection to its end.
pub fn serve(stream: TcpStream, shared: &Shared) {
    let generation = shared.lock().generation;
    let _ = stream.set_nodelay(true);
    let mut connection = Connection { stream: stream.try_clone().unwrap(), generation, shared };
    let cutter = stream.try_clone().unwrap();
    let done = AtomicBool::new(false);
    // Cuts the connection from another thread: this one may be reading.
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) && shared.lock().generation == generation {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = cutter.shutdown(Shutdown::Both);
        });
        let mut reader = BufReader::new(stream);
        while let Some(request) = read(&mut reader, shared) {
            if respond(&mut connection, &request).is_err() {
                break;
            }
        }
        done.store(true, Ordering::SeqCst);
    });
}

fn read(reader: &mut impl BufRead, shared: &Shared) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut state = shared.lock();
    state.headers = headers;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect();
    let words: Vec<String> = query.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if method == "GET" {
        state.requests.push(format!("{path}?{}", words.join("&")));
    }
    Some(Request { method, path: path.to_owned(), query, body })
}

/// Percent-encoding and plus signs.
fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

fn respond(connection: &mut Connection<'_>, request: &Request) -> std::io::Result<()> {
    let trouble = connection.shared.lock().trouble.clone();
    thread::sleep(trouble.delay);
    while connection.shared.lock().trouble.mute {
        thread::sleep(Duration::from_millis(20));
    }
    match answer(connection.shared, request) {
        Answer::Whole(status, body) if trouble.lists_break_off && status == 200 => {
            let half = &body.as_bytes()[..body.len() / 2];
            write!(connection.stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())?;
            connection.stream.write_all(half)?;
            connection.stream.shutdown(Shutdown::Both)
        }
        Answer::Whole(status, body) => {
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
            connection.stream.write_all((head + &body).as_bytes())
        }
        Answer::Watch(watch) => {
            connection.stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            connection.shared.lock().watches += 1;
            let outcome = watch.run(connection);
            connection.shared.lock().watches -= 1;
            outcome
        }
    }
}

impl Connection<'_> {
    /// Sends lines of a stream.
    pub fn send(&mut self, lines: &str) -> std::io::Result<()> {
        self.stream.write_all(format!("{:x}\r\n{lines}\r\n", lines.len()).as_bytes())
    }

    /// Ends a stream in good order.
    pub fn end(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"0\r\n\r\n")
    }
}
