//! The states of upstream's pkg/proxy/healthcheck/healthcheck_test.go, `TestHealthzServer` and `TestLivezServer`.

use super::*;

const PERIOD: Duration = Duration::from_secs(5);

struct Lab {
    health: Arc<Health>,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        Self { health: Health::new(PERIOD), now: Instant::now() }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// What is answered: `/healthz`, `/livez`, and of `/livez` the families.
    fn check(&self, ready: bool, live: bool, families: &[(&str, bool)]) {
        let (report, is_ready) = self.health.ready(self.now);
        let lives = self.health.live(self.now);
        assert_eq!((is_ready, lives.healthy), (ready, live));
        assert_eq!(report.healthy, live, "the field is the proxy's");
        assert!(report.node_eligible.is_some() && lives.node_eligible.is_none());
        let found: Vec<(&str, bool)> = lives.status.iter().map(|(name, family)| (*name, family.healthy)).collect();
        assert_eq!(found, families);
    }
}

#[test]
fn one_family() {
    let mut lab = Lab::new();
    let v4 = IpFamily::V4;
    // Should be 200 "OK" by default.
    lab.check(true, true, &[]);
    // Should be 200 "OK" after the first update.
    lab.health.updated(v4, lab.now);
    lab.check(true, true, &[("IPv4", true)]);
    // Should continue to be 200 "OK" as long as no further updates are queued.
    lab.pass(25);
    lab.check(true, true, &[("IPv4", true)]);
    // Should return 503 "ServiceUnavailable" if exceed max update-processing time.
    lab.health.queued(v4, lab.now);
    lab.pass(25);
    lab.check(false, false, &[("IPv4", false)]);
    // Should return 200 "OK" after processing update.
    lab.health.updated(v4, lab.now);
    lab.pass(5);
    lab.check(true, true, &[("IPv4", true)]);
    // Should return 200 "OK" if last update processing time is within the limit; that of the oldest one counts.
    lab.health.queued(v4, lab.now);
    lab.pass(4);
    lab.health.queued(v4, lab.now);
    lab.pass(4);
    lab.check(true, true, &[("IPv4", true)]);
    lab.pass(2);
    lab.check(false, false, &[("IPv4", false)]);
}

#[test]
fn either_family_counts() {
    let mut lab = Lab::new();
    IpFamily::BOTH.into_iter().for_each(|family| lab.health.updated(family, lab.now));
    lab.pass(25);
    lab.health.queued(IpFamily::V6, lab.now);
    lab.pass(25);
    lab.health.updated(IpFamily::V4, lab.now);
    lab.check(false, false, &[("IPv4", true), ("IPv6", false)]);
    lab.health.updated(IpFamily::V6, lab.now);
    lab.check(true, true, &[("IPv4", true), ("IPv6", true)]);
}

#[test]
fn a_node_that_goes_is_alive_and_not_ready() {
    let mut lab = Lab::new();
    lab.health.updated(IpFamily::V4, lab.now);
    // Tainted, or being deleted.
    lab.health.set_eligible(false);
    lab.check(false, true, &[("IPv4", true)]);
    lab.health.queued(IpFamily::V4, lab.now);
    lab.pass(10);
    lab.check(false, false, &[("IPv4", false)]);
    lab.health.set_eligible(true);
    lab.health.updated(IpFamily::V4, lab.now);
    lab.check(true, true, &[("IPv4", true)]);
}

#[test]
fn a_first_sync_may_take_its_time() {
    let mut lab = Lab::new();
    lab.health.queued(IpFamily::V4, lab.now);
    lab.pass(3600);
    lab.check(true, true, &[]);
}

#[test]
fn another_period_counts_at_once() {
    let mut lab = Lab::new();
    lab.health.updated(IpFamily::V4, lab.now);
    lab.health.queued(IpFamily::V4, lab.now);
    lab.pass(15);
    lab.check(false, false, &[("IPv4", false)]);
    lab.health.set_sync_period(Duration::from_secs(30));
    lab.check(true, true, &[("IPv4", true)]);
}

#[test]
fn the_answer_is_upstreams() {
    let lab = Lab::new();
    lab.health.updated(IpFamily::V4, lab.now);
    let (report, _) = lab.health.ready(lab.now);
    let text = serde_json::to_string(&report).unwrap();
    let shape = regex_like(&text);
    assert_eq!(
        shape,
        r#"{"lastUpdated":"T","currentTime":"T","nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"T","healthy":true}}}"#
    );
    let text = serde_json::to_string(&lab.health.live(lab.now)).unwrap();
    assert!(regex_like(&text).starts_with(r#"{"lastUpdated":"T","currentTime":"T","healthy":true,"#), "{text}");
}

/// Times become `T`.
fn regex_like(text: &str) -> String {
    text.split('"')
        .map(|part| if part.parse::<Timestamp>().is_ok() { "T" } else { part })
        .collect::<Vec<_>>()
        .join("\"")
}
