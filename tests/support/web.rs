//! Pages of the running program, asked for on the node, and its metrics as a Prometheus parser reads them.

use super::Cluster;
use prometheus_parse::{Scrape, Value};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Where health checks are answered.
pub const HEALTHZ: &str = "127.0.0.1:10256";
/// Where metrics are served.
pub const METRICS: &str = "127.0.0.1:10249";

/// A page's status and body; the error if nobody answers.
pub fn page(cluster: &Cluster, address: &str, path: &str) -> std::io::Result<(u16, String)> {
    let asked = cluster.lab.node().ns.run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    let text = asked.map_err(std::io::Error::other)??;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}

/// The metrics at one instant.
pub struct Numbers {
    pub text: String,
    scrape: Scrape,
}

impl Numbers {
    /// Asks for them.
    pub fn scrape(cluster: &Cluster) -> Self {
        let (status, text) = page(cluster, METRICS, "/metrics").unwrap();
        assert_eq!(status, 200, "{text}");
        let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
        Self { text, scrape }
    }

    /// The value with these labels, among others; of a histogram how many values it has seen.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits =
            |labels_of: &prometheus_parse::Labels| labels.iter().all(|(key, value)| labels_of.get(key) == Some(*value));
        let found = self.scrape.samples.iter().find(|sample| sample.metric == name && fits(&sample.labels))?;
        Some(match &found.value {
            Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => *value,
            Value::Histogram(counts) => counts.last().map_or(0.0, |last| last.count),
            Value::Summary(_) => return None,
        })
    }
}
