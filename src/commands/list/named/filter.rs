//! Which virtual servers and real servers are wanted.

use super::super::args::FilterArgs;
use super::row::{RealRow, ServerRow};

/// What matches all that was asked for.
#[derive(Debug)]
pub struct Filter<'a> {
    args: &'a FilterArgs,
    /// Namespace and name of `--service`.
    service: Option<(Option<&'a str>, &'a str)>,
}

impl<'a> Filter<'a> {
    /// As asked for.
    ///
    /// # Errors
    /// Two namespaces were given.
    pub fn new(args: &'a FilterArgs) -> anyhow::Result<Self> {
        let service = args.service.as_deref().map(|text| match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        });
        if let (Some((Some(one), _)), Some(other)) = (service, &args.namespace) {
            anyhow::ensure!(one == other, "--service names the namespace {one}, --namespace {other}");
        }
        Ok(Self { args, service })
    }

    /// Whether it asks for what only the cluster knows.
    pub fn needs_names(&self) -> bool {
        let FilterArgs { namespace, service, state, selector, foreign, .. } = self.args;
        namespace.is_some() || service.is_some() || state.is_some() || selector.is_some() || *foreign
    }

    /// Whether a virtual server can match, whatever its real servers are.
    pub fn may_match(&self, row: &ServerRow<'_>) -> bool {
        let namespace = self.args.namespace.as_ref().is_none_or(|wanted| *wanted == row.namespace);
        let service = self.service.is_none_or(|(namespace, name)| {
            namespace.is_none_or(|namespace| fits(namespace, row.namespace))
                && !row.service.is_empty()
                && fits(name, row.service)
        });
        let labels =
            self.args.selector.as_ref().is_none_or(|selector| !row.service.is_empty() && selector.matches(row.labels));
        namespace && service && labels && (!self.args.foreign || row.kind == "foreign")
    }

    /// Whether it matches, reduced to the real servers that do. Address and port may be those of the virtual server, which
    /// then comes whole, or of some of its real servers.
    pub fn keep(&self, row: &mut ServerRow<'_>) -> bool {
        let FilterArgs { address, port, state, .. } = self.args;
        let at = |found: Option<std::net::IpAddr>, number: u16| {
            address.is_none_or(|wanted| found == Some(wanted)) && port.is_none_or(|wanted| number == wanted)
        };
        let whole = at(row.address, row.port);
        let in_state = |real: &RealRow<'_>| state.as_deref().is_none_or(|wanted| real.state == wanted);
        row.real_servers.retain(|real| (whole || at(Some(real.address), real.port)) && in_state(real));
        !row.real_servers.is_empty() || (whole && state.is_none())
    }
}

/// `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(start) else { return false };
    (0..=text.len()).filter_map(|at| text.get(at..)).any(|tail| fits(rest, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> ServerRow<'static> {
        let real = |address: &str, state| RealRow {
            address: address.parse().unwrap(),
            port: 8080,
            pod: "",
            node: "",
            zone: "",
            state,
            drain_left: None,
            forward: "Masq",
            weight: 1,
            active: 0,
            inactive: 0,
        };
        ServerRow {
            namespace: "shop",
            service: "web-front",
            labels: "app=web",
            kind: "ClusterIP",
            address: Some("10.96.0.1".parse().unwrap()),
            port: 80,
            real_servers: vec![real("10.0.0.1", "serving"), real("10.0.0.2", "draining")],
            ..ServerRow::default()
        }
    }

    fn kept(args: &FilterArgs) -> Option<usize> {
        let (filter, mut row) = (Filter::new(args).unwrap(), row());
        (filter.may_match(&row) && filter.keep(&mut row)).then_some(row.real_servers.len())
    }

    #[test]
    fn every_condition_counts() {
        let none = FilterArgs::default;
        assert_eq!(kept(&none()), Some(2));
        assert_eq!(kept(&FilterArgs { namespace: Some("shop".into()), ..none() }), Some(2));
        assert_eq!(kept(&FilterArgs { namespace: Some("other".into()), ..none() }), None);
        for (service, count) in [("web-front", Some(2)), ("web*", Some(2)), ("*o*/*front", Some(2)), ("web", None)] {
            assert_eq!(kept(&FilterArgs { service: Some(service.into()), ..none() }), count, "{service}");
        }
        assert_eq!(kept(&FilterArgs { address: Some("10.96.0.1".parse().unwrap()), ..none() }), Some(2));
        assert_eq!(kept(&FilterArgs { address: Some("10.0.0.2".parse().unwrap()), ..none() }), Some(1));
        assert_eq!(kept(&FilterArgs { port: Some(8080), ..none() }), Some(2));
        assert_eq!(kept(&FilterArgs { port: Some(81), ..none() }), None);
        assert_eq!(kept(&FilterArgs { state: Some("draining".into()), ..none() }), Some(1));
        assert_eq!(kept(&FilterArgs { selector: Some("app=web".parse().unwrap()), ..none() }), Some(2));
        assert_eq!(kept(&FilterArgs { selector: Some("app!=web".parse().unwrap()), ..none() }), None);
        assert_eq!(kept(&FilterArgs { foreign: true, ..none() }), None);
        let twice = FilterArgs { service: Some("a/b".into()), namespace: Some("c".into()), ..none() };
        assert!(Filter::new(&twice).is_err());
    }
}
