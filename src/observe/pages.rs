//! What is answered on the port for metrics. Upstream: `serveMetrics` in cmd/kube-proxy/app/server.go.

use super::http::{Answer, Handler};
use super::metrics::Metrics;
use super::profile;
use crate::reconcile::{Mode, Status};
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::{Request, Response, StatusCode};
use prometheus::{CounterVec, GaugeVec, Opts, Registry, TEXT_FORMAT, TextEncoder};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};
use tokio::sync::watch;

const PLAIN: &str = "text/plain; charset=utf-8";
/// The component, as kube-proxy calls itself there.
const COMPONENT: &str = "kube-proxy";
const PATHS: &[&str] =
    &["/configz", "/flagz", "/healthz", "/healthz/ping", "/metrics", "/metrics/slis", "/proxyMode", "/statusz"];

/// The pages.
#[derive(Debug)]
pub struct Pages {
    metrics: Arc<Metrics>,
    /// The mode, until the reconciler tells.
    mode: &'static str,
    status: OnceLock<watch::Receiver<Status>>,
    /// The configuration as JSON; changes when another one is taken over.
    configz: watch::Receiver<String>,
    /// What the program was started with, a flag a line.
    flags: Vec<String>,
    profiling: bool,
    started: (Instant, SystemTime),
    checks: Checks,
}

impl Pages {
    /// Pages about a program that starts in a mode.
    ///
    /// # Errors
    /// Never, unless two metrics have one name.
    pub fn new(
        metrics: Arc<Metrics>,
        mode: &'static str,
        configz: watch::Receiver<String>,
        flags: Vec<String>,
        profiling: bool,
    ) -> Result<Self, prometheus::Error> {
        let (started, checks) = ((Instant::now(), SystemTime::now()), Checks::new()?);
        Ok(Self { metrics, mode, status: OnceLock::new(), configz, flags, profiling, started, checks })
    }

    /// From now on the reconciler tells which mode serves.
    pub fn follow(&self, status: watch::Receiver<Status>) {
        // A second one would be the same.
        let _ = self.status.set(status);
    }

    /// The mode that serves; IPv4's, where the families differ.
    fn mode(&self) -> &'static str {
        let serving = |status: &watch::Receiver<Status>| {
            let status = status.borrow();
            let first = status.programmed.first()?;
            status.families.get(*first).mode.map(Mode::name)
        };
        self.status.get().and_then(serving).unwrap_or(self.mode)
    }

    fn page(&self, request: &Request<Incoming>) -> Answer {
        match request.uri().path() {
            "/healthz" => {
                self.checks.passed();
                let verbose = request.uri().query().is_some_and(|query| {
                    query.split('&').any(|word| word == "verbose" || word.starts_with("verbose="))
                });
                plain(if verbose { "[+]ping ok\nhealthz check passed\n" } else { "ok" })
            }
            "/healthz/ping" => plain("ok"),
            "/metrics/slis" => with_type(TEXT_FORMAT, self.checks.text()),
            "/proxyMode" => plain(self.mode()),
            "/configz" => with_type("application/json", self.configz.borrow().clone()),
            "/flagz" => plain(self.flagz()),
            "/statusz" => plain(self.statusz()),
            path if self.profiling && path.starts_with("/debug/") => profile::page(path),
            _ => not_found(),
        }
    }

    fn flagz(&self) -> String {
        format!("{}{}\n", header("flagz"), self.flags.join("\n"))
    }

    fn statusz(&self) -> String {
        let (started, since) = (self.started.0.elapsed().as_secs(), jiff::Timestamp::try_from(self.started.1));
        let (hours, minutes, seconds) = (started / 3600, started / 60 % 60, started % 60);
        let since = since.map(|time| time.strftime("%a %b %e %H:%M:%S UTC %Y").to_string()).unwrap_or_default();
        let (version, paths) = (env!("CARGO_PKG_VERSION"), PATHS.join(" "));
        format!(
            "{}Started:  {since}\nUp:  {hours} hr {minutes:02} min {seconds:02} sec\nBinary version:  kube-ipvs \
             {version}\nEmulation version:  1.36\nPaths:  {paths}\n",
            header("statusz")
        )
    }
}

/// Upstream's words, which programs that read these pages expect.
fn header(page: &str) -> String {
    format!(
        "\n{COMPONENT} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting \
         compatibility guarantees and is for debugging purposes only.\n\n"
    )
}

impl Handler for Pages {
    fn answer(&self, request: &Request<Incoming>) -> Answer {
        self.page(request)
    }

    fn answer_later<'a>(&'a self, request: &'a Request<Incoming>) -> BoxFuture<'a, Answer> {
        if request.uri().path() != "/metrics" {
            return Box::pin(std::future::ready(self.page(request)));
        }
        let metrics = self.metrics.clone();
        // Some of it the kernel is asked for.
        let text = tokio::task::spawn_blocking(move || metrics.text());
        Box::pin(async move {
            match text.await {
                Ok(Ok(text)) => with_type(TEXT_FORMAT, text),
                Ok(Err(error)) => failed(&error.to_string()),
                Err(error) => failed(&error.to_string()),
            }
        })
    }
}

/// component-base's metrics of health checks (`/metrics/slis`). There is one check: that somebody answers.
#[derive(Debug)]
struct Checks {
    registry: Registry,
    last: GaugeVec,
    all: CounterVec,
}

impl Checks {
    fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let help = "[STABLE] This metric records the result of a single healthcheck.";
        let last = GaugeVec::new(Opts::new("kubernetes_healthcheck", help), &["name", "type"])?;
        let help = "[STABLE] This metric records the results of all healthcheck.";
        let all = CounterVec::new(Opts::new("kubernetes_healthchecks_total", help), &["name", "type", "status"])?;
        registry.register(Box::new(last.clone()))?;
        registry.register(Box::new(all.clone()))?;
        Ok(Self { registry, last, all })
    }

    fn passed(&self) {
        self.last.with_label_values(&["ping", "healthz"]).set(1.0);
        self.all.with_label_values(&["ping", "healthz", "success"]).inc();
    }

    fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// An answer in plain text.
pub(super) fn plain(text: impl Into<String>) -> Answer {
    with_type(PLAIN, text.into())
}

/// As Go's `http.NotFound`.
pub(super) fn not_found() -> Answer {
    let mut answer = plain("404 page not found\n");
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

fn failed(what: &str) -> Answer {
    let mut answer = plain(format!("{what}\n"));
    *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    answer
}

fn with_type(content_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::from(text));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
