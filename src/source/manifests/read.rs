//! The text of one manifest file to objects: many documents, `List` kinds, other kinds ignored.

use super::ObjectId;
use crate::source::Problem;
use crate::source::convert::{Object, from_value, is_wanted};
use crate::source::yaml::{self, Document};
use serde_json::Value;

/// Reads the objects of a text. An object that is broken is reported and keeps the state that it has in `known`.
///
/// # Errors
/// When the text as a whole is malformed, or looks half-written: nothing of it is used then. kubectl writes the `kind` of
/// a `List` behind its items, so that a document without one is most likely the beginning of one.
pub fn objects(
    text: &str,
    known: &[(ObjectId, Object)],
    report: &mut dyn FnMut(Problem),
) -> Result<Vec<(ObjectId, Object)>, Problem> {
    let documents = yaml::documents(text).map_err(malformed)?;
    let mut found = Vec::new();
    let mut empty = true;
    for document in &documents {
        let value = document.value().map_err(malformed)?;
        if value.is_null() {
            continue;
        }
        empty = false;
        if value.get("kind").and_then(Value::as_str).is_none_or(str::is_empty) {
            let line = Some(document.line_of(""));
            return Err(Problem { line, ..Problem::in_field("kind", "is missing: half-written, or no manifest") });
        }
        let mut reader = Reader { document, known, report: &mut *report, found: &mut found };
        reader.object(&value, "");
    }
    if empty && !known.is_empty() {
        return Err(Problem::new("is empty: half-written, or to be deleted"));
    }
    Ok(found)
}

fn malformed(error: yaml::SyntaxError) -> Problem {
    Problem { line: Some(error.line), ..Problem::new(format!("malformed: {}", error.message)) }
}

struct Reader<'a, 'text> {
    document: &'a Document<'text>,
    known: &'a [(ObjectId, Object)],
    report: &'a mut dyn FnMut(Problem),
    found: &'a mut Vec<(ObjectId, Object)>,
}

impl Reader<'_, '_> {
    fn object(&mut self, value: &Value, path: &str) {
        if value.is_null() {
            return;
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        let (kind, api_version) = (text("kind"), text("apiVersion"));
        if kind.is_empty() {
            return self.tell(None, Problem::in_field("kind", "is missing; ignored"), path);
        }
        if let Some(item_kind) = kind.strip_suffix("List") {
            let items = value.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}items[{index}].");
                match item.get("kind") {
                    Some(_) => self.object(item, &path),
                    // Items of typed lists (ServiceList) need not repeat their kind.
                    None => self.typed(item, item_kind, &path),
                }
            }
        } else if is_wanted(kind, api_version) {
            self.typed(value, kind, path);
        }
    }

    fn typed(&mut self, value: &Value, kind: &str, path: &str) {
        let metadata = |key: &str| value.pointer(&format!("/metadata/{key}")).and_then(Value::as_str);
        let id = ObjectId {
            kind: kind.to_owned(),
            namespace: metadata("namespace").unwrap_or(if kind == "Node" { "" } else { "default" }).to_owned(),
            name: metadata("name").unwrap_or_default().to_owned(),
        };
        let mut problems = Vec::new();
        match from_value(kind, value, &mut problems) {
            Ok(Some(object)) => self.found.push((id.clone(), object)),
            Ok(None) => {}
            Err(problem) => {
                let old = self.known.iter().find(|(known, _)| *known == id);
                self.found.extend(old.cloned());
                let kept = if old.is_some() { "its last good state is kept" } else { "it is ignored" };
                let message = format!("{}; {kept}", problem.message);
                problems.push(Problem { message, ..problem });
            }
        }
        for problem in problems {
            self.tell(Some(&id), problem, path);
        }
    }

    fn tell(&mut self, id: Option<&ObjectId>, problem: Problem, path: &str) {
        let field = format!("{path}{}", problem.field.as_deref().unwrap_or_default());
        let line = Some(self.document.line_of(&field));
        (self.report)(Problem { line, object: id.map(ToString::to_string), ..problem });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, Vec<String>) {
        let mut problems = Vec::new();
        let objects = objects(text, &[], &mut |problem| problems.push(problem.to_string())).unwrap();
        (objects.iter().map(|(id, _)| id.to_string()).collect(), problems)
    }

    #[test]
    fn lists_documents_and_other_kinds() {
        let text = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a, namespace: n}
  spec: {clusterIP: 172.30.0.1, ports: [{port: 80}]}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: d}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSliceList
items:
- metadata: {name: a-1, namespace: n, labels: {kubernetes.io/service-name: a}}
  addressType: IPv4
  endpoints: []
  ports: []
---
# nothing
---
apiVersion: v1
kind: Node
metadata: {name: me}
"#;
        let (objects, problems) = read(text);
        assert_eq!(objects, ["Service n/a", "EndpointSlice n/a-1", "Node /me"]);
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn json_list() {
        let text = r#"{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service",
            "metadata":{"name":"a"},"spec":{"clusterIP":"None","type":"ClusterIP"}}]}"#;
        assert_eq!(read(text).0, ["Service default/a"]);
    }

    #[test]
    fn a_document_without_a_kind_makes_the_file_half_written() {
        let problem = objects("a: b\n", &[], &mut |_| {}).unwrap_err();
        assert_eq!(problem.to_string(), "kind: is missing: half-written, or no manifest");
    }

    #[test]
    fn no_beginning_of_a_list_passes_for_a_shorter_one() {
        let service = |name: &str| {
            format!(
                "- apiVersion: v1\n  kind: Service\n  metadata:\n    name: {name}\n    namespace: n\n  spec:\n    \
                 clusterIP: 172.30.0.1\n    ports:\n    - port: 80\n"
            )
        };
        let whole = format!("apiVersion: v1\nitems:\n{}{}kind: List\nmetadata: {{}}\n", service("a"), service("b"));
        let known = objects(&whole, &[], &mut |_| {}).unwrap();
        assert_eq!(known.len(), 2);
        for cut in 0..whole.find("kind: List").unwrap() {
            let outcome = objects(&whole[..cut], &known, &mut |_| {});
            assert!(outcome.is_err(), "{:?}", &whole[..cut]);
        }
    }
}
