//! `-o json`, `-o yaml`, `-o csv`: the same fields, one virtual server after the other.

use super::row::ServerRow;
use saphyr::{LoadableYamlNode, Yaml, YamlEmitter};

const COLUMNS: [&str; 19] = [
    "namespace",
    "service",
    "port_name",
    "kind",
    "inside",
    "protocol",
    "address",
    "port",
    "scheduler",
    "connections",
    "endpoint_address",
    "endpoint_port",
    "pod",
    "node",
    "zone",
    "state",
    "weight",
    "active",
    "inactive",
];

/// A form.
#[derive(Debug)]
pub struct Data {
    form: Form,
    count: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Form {
    Json,
    Yaml,
    Csv,
}

impl Data {
    /// One array.
    pub fn json() -> Self {
        Self { form: Form::Json, count: 0 }
    }

    /// One list.
    pub fn yaml() -> Self {
        Self { form: Form::Yaml, count: 0 }
    }

    /// A line for each real server; for a virtual server without any, one with nothing in those columns.
    pub fn csv() -> Self {
        Self { form: Form::Csv, count: 0 }
    }

    /// What comes before.
    pub fn begin(&self, text: &mut String) {
        match self.form {
            Form::Json => text.push('['),
            Form::Yaml => {}
            Form::Csv => {
                text.push_str(&COLUMNS.join(","));
                text.push('\n');
            }
        }
    }

    /// A virtual server.
    pub fn server(&mut self, row: &ServerRow<'_>, text: &mut String) -> anyhow::Result<()> {
        match self.form {
            Form::Json => {
                text.push_str(if self.count == 0 { "\n" } else { ",\n" });
                text.push_str(&serde_json::to_string(row)?);
            }
            Form::Yaml => yaml(row, text)?,
            Form::Csv => csv(row, text)?,
        }
        self.count += 1;
        Ok(())
    }

    /// What comes after.
    pub fn end(&self, text: &mut String) {
        match self.form {
            Form::Json => text.push_str("\n]\n"),
            Form::Yaml if self.count == 0 => text.push_str("[]\n"),
            Form::Yaml | Form::Csv => {}
        }
    }
}

/// As an element of a list.
fn yaml(row: &ServerRow<'_>, text: &mut String) -> anyhow::Result<()> {
    // JSON is YAML, which is all the conversion that it takes.
    let json = serde_json::to_string(row)?;
    let mut document = String::new();
    for yaml in &Yaml::load_from_str(&json)? {
        YamlEmitter::new(&mut document).dump(yaml)?;
    }
    for (number, line) in document.trim_start_matches("---\n").lines().enumerate() {
        text.push_str(if number == 0 { "- " } else { "  " });
        text.push_str(line);
        text.push('\n');
    }
    Ok(())
}

fn csv(row: &ServerRow<'_>, text: &mut String) -> anyhow::Result<()> {
    let server = [
        row.namespace.to_owned(),
        row.service.to_owned(),
        row.port_name.to_owned(),
        row.kind.to_owned(),
        row.inside.to_string(),
        row.protocol.to_owned(),
        row.address.map_or_else(|| row.fwmark.unwrap_or_default().to_string(), |address| address.to_string()),
        row.port.to_string(),
        row.scheduler.to_string(),
        row.connections.to_string(),
    ];
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    for real in &row.real_servers {
        let real = [
            real.address.to_string(),
            real.port.to_string(),
            real.pod.to_owned(),
            real.node.to_owned(),
            real.zone.to_owned(),
            real.state.to_owned(),
            real.weight.to_string(),
            real.active.to_string(),
            real.inactive.to_string(),
        ];
        writer.write_record(server.iter().chain(&real))?;
    }
    if row.real_servers.is_empty() {
        let nothing = vec![String::new(); COLUMNS.len() - server.len()];
        writer.write_record(server.iter().chain(&nothing))?;
    }
    text.push_str(&String::from_utf8(writer.into_inner()?)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<ServerRow<'static>> {
        let row = ServerRow {
            namespace: "shop",
            service: "web,\"1\"",
            kind: "ClusterIP",
            protocol: "TCP",
            address: Some("10.96.0.1".parse().unwrap()),
            port: 80,
            scheduler: "rr".into(),
            ..ServerRow::default()
        };
        vec![row.clone(), row]
    }

    fn printed(mut data: Data) -> String {
        let mut text = String::new();
        data.begin(&mut text);
        rows().iter().for_each(|row| data.server(row, &mut text).unwrap());
        data.end(&mut text);
        text
    }

    #[test]
    fn json_and_yaml_are_read_back() {
        let json: serde_json::Value = serde_json::from_str(&printed(Data::json())).unwrap();
        assert_eq!(json[1]["service"], "web,\"1\"");
        assert_eq!((&json[0]["address"], &json[0]["port"]), (&"10.96.0.1".into(), &80.into()));
        let yaml = printed(Data::yaml());
        let documents = Yaml::load_from_str(&yaml).unwrap();
        assert_eq!(documents[0].as_sequence().map(Vec::len), Some(2), "{yaml}");
        let mut empty = (Data::json(), String::new());
        empty.0.begin(&mut empty.1);
        empty.0.end(&mut empty.1);
        assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&empty.1).unwrap(), Vec::<serde_json::Value>::new());
    }

    #[test]
    fn csv_has_its_quotes_and_as_many_fields_as_titles() {
        let text = printed(Data::csv());
        let mut lines = text.lines();
        let titles = lines.next().unwrap();
        let line = lines.next().unwrap();
        assert_eq!(line, "shop,\"web,\"\"1\"\"\",,ClusterIP,false,TCP,10.96.0.1,80,rr,0,,,,,,,,,");
        assert_eq!(line.matches(',').count(), titles.matches(',').count() + 1, "one is within quotes");
    }
}
