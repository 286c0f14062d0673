//! An API server as large as need be: lists in pages and watches of a synthetic cluster, with everything in an object that
//! a real one has (managed fields, labels, owners), so that bytes and memory are those of real life. It counts what it is
//! asked and what it sends.
//!
//! Every node that is asked for is there, with the addresses of the node of [`Topology::with_node`]: a kube-proxy waits half
//! a minute for its own. Lists come in pages and not as the beginning of a watch (`WatchList` is refused). Events are taken
//! and forgotten.

use super::super::synthetic::Synthetic;
use crate::lab::Topology;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read as _, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// What was asked and sent.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Traffic {
    /// Requests by collection and verb.
    pub requests: BTreeMap<String, u64>,
    /// Bytes of answers by collection and verb.
    pub bytes: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// Changed slices since the start, oldest first.
    changes: Vec<Replaced>,
    traffic: Traffic,
    /// When requests came.
    times: Vec<Instant>,
    /// How often everything was cut.
    cuts: u64,
    watches: u64,
    watches_before_cut: u64,
}

/// A slice that has a new endpoint.
#[derive(Debug, Clone, Copy)]
struct Replaced {
    /// The service's number.
    service: u32,
    /// The new endpoint's.
    number: u32,
    /// When that was.
    at: Timestamp,
}

#[derive(Debug)]
struct Shared {
    cluster: Synthetic,
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running server; it ends with the process.
#[derive(Debug, Clone)]
pub struct Server {
    shared: Arc<Shared>,
    /// Where it listens.
    pub address: SocketAddr,
}

const FIRST_VERSION: u64 = 1000;

impl Server {
    /// Starts on a free port of this thread's network namespace.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub fn start(cluster: Synthetic) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = State { version: FIRST_VERSION, ..State::default() };
        let shared = Arc::new(Shared { cluster, state: Mutex::new(state), changed: Condvar::new() });
        let server = Self { shared: shared.clone(), address };
        thread::Builder::new().name("api server".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // A client that goes away ends its thread.
                thread::spawn(move || serve(&shared, stream).ok());
            }
        })?;
        Ok(server)
    }

    /// Replaces an endpoint of a service.
    pub fn replace_endpoint(&self, service: u32, number: u32) {
        let mut state = self.shared.lock();
        state.version += 1;
        state.changes.push(Replaced { service, number, at: Timestamp::now() });
        self.shared.changed.notify_all();
    }

    /// Ends every watch, in its midst.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.cuts += 1;
        state.watches_before_cut = state.watches;
        self.shared.changed.notify_all();
    }

    /// When requests came.
    pub fn times(&self) -> Vec<Instant> {
        self.shared.lock().times.clone()
    }

    /// How many watches were open when everything was cut.
    pub fn open_watches_before_cut(&self) -> u64 {
        self.shared.lock().watches_before_cut
    }

    /// What was asked and sent until now.
    pub fn traffic(&self) -> Traffic {
        self.shared.lock().traffic.clone()
    }
}

struct Request {
    path: String,
    query: BTreeMap<String, String>,
    /// What is to be written; nobody writes but events.
    body: Option<String>,
}

impl Request {
    fn get(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    /// The collection and what is asked of it, as it is counted.
    fn name(&self) -> String {
        let verb = match (&self.body, self.get("watch")) {
            (Some(_), _) => "write",
            (None, "true") => "watch",
            (None, _) => "list",
        };
        let others = self.get("labelSelector").starts_with("service.kubernetes.io");
        let collection = self.path.rsplit('/').next().unwrap_or_default();
        format!("{verb} {collection}{}", if others { " of other proxies" } else { "" })
    }
}

fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        let name = request.name();
        {
            let mut state = shared.lock();
            *state.traffic.requests.entry(name.clone()).or_default() += 1;
            state.times.push(Instant::now());
        }
        let begins_with_list = request.get("sendInitialEvents") == "true";
        if request.get("watch") == "true" && !begins_with_list {
            return watch(shared, &request, &name, &mut out);
        }
        // The connection goes on, whatever the answer is: a client that sends its next request into one that is being
        // closed has to wait and try again.
        let (status, body) = match request.body {
            _ if begins_with_list => ("422 Unprocessable Entity", refusal().to_string()),
            Some(object) => ("201 Created", object),
            None => ("200 OK", list(shared, &request).to_string()),
        };
        *shared.lock().traffic.bytes.entry(name).or_default() += body.len() as u64;
        let length = body.len();
        out.write_all(
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
                .as_bytes(),
        )?;
    }
    Ok(())
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        let field = line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        length = field.and_then(|(_, value)| value.trim().parse().ok()).or(length);
    }
    let mut body = length.map(|_: u64| String::new());
    if let (Some(body), Some(length)) = (&mut body, length) {
        reader.take(length).read_to_string(body)?;
    }
    let target = first.split_whitespace().nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(key, value)| (key.to_owned(), decode(value))).collect();
    Ok(Some(Request { path: path.to_owned(), query, body }))
}

/// What of percent-encoding our clients use in selectors.
fn decode(text: &str) -> String {
    let signs = [("%21", "!"), ("%2C", ","), ("%2F", "/"), ("%3D", "="), ("%40", "@")];
    signs.iter().fold(text.to_owned(), |text, (code, sign)| text.replace(code, sign))
}

fn list(shared: &Shared, request: &Request) -> Value {
    let (version, changes) = {
        let state = shared.lock();
        (state.version, state.changes.clone())
    };
    let begin: u32 = request.get("continue").parse().unwrap_or(0);
    let limit: u32 = request.get("limit").parse().unwrap_or(u32::MAX);
    let nothing = request.name().ends_with("of other proxies") || request.path.contains("/namespaces/");
    let all = if nothing { 0 } else { shared.cluster.services };
    let end = begin.saturating_add(limit).min(all);
    let latest: BTreeMap<u32, Replaced> = changes.into_iter().map(|change| (change.service, change)).collect();
    let object = |index: u32| match request.path.as_str() {
        "/api/v1/services" => Some(service(shared.cluster, index)),
        path if path.ends_with("/endpointslices") => {
            Some(slice(shared.cluster, index, latest.get(&index).copied(), version))
        }
        _ => None,
    };
    let mut items: Vec<Value> = (begin..end).filter_map(object).collect();
    let (kind, group) = kind(&request.path);
    if kind == "Node" {
        items.extend(request.get("fieldSelector").strip_prefix("metadata.name=").map(node));
    }
    let more = end < all && !items.is_empty() && kind != "Node";
    let metadata = if more {
        let left = all - end;
        json!({"resourceVersion": version.to_string(), "continue": end.to_string(), "remainingItemCount": left})
    } else {
        json!({"resourceVersion": version.to_string()})
    };
    json!({"kind": format!("{kind}List"), "apiVersion": group, "metadata": metadata, "items": items})
}

/// What a collection holds: kind and API group, without which client-go takes a list for an empty one.
fn kind(path: &str) -> (&'static str, &'static str) {
    match path.rsplit('/').next().unwrap_or_default() {
        "services" => ("Service", "v1"),
        "endpointslices" => ("EndpointSlice", "discovery.k8s.io/v1"),
        "nodes" => ("Node", "v1"),
        "servicecidrs" => ("ServiceCIDR", "networking.k8s.io/v1"),
        _ => ("", "v1"),
    }
}

/// Of a watch that is to begin with the list.
fn refusal() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422,
        "message": "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"})
}

fn watch(shared: &Shared, request: &Request, name: &str, out: &mut TcpStream) -> io::Result<()> {
    out.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let cuts = {
        let mut state = shared.lock();
        state.watches += 1;
        state.cuts
    };
    let outcome = follow(shared, request, name, out, cuts);
    shared.lock().watches -= 1;
    outcome
}

fn follow(shared: &Shared, request: &Request, name: &str, out: &mut TcpStream, cuts: u64) -> io::Result<()> {
    let mut seen: u64 = request.get("resourceVersion").parse().unwrap_or(FIRST_VERSION);
    loop {
        let mut lines = String::new();
        {
            let mut state = shared.lock();
            while state.version <= seen {
                if state.cuts != cuts {
                    return Ok(());
                }
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let skip = usize::try_from(seen - FIRST_VERSION).unwrap_or(usize::MAX);
            for change in state.changes.iter().skip(skip) {
                seen += 1;
                if request.path.ends_with("/endpointslices") {
                    let object = slice(shared.cluster, change.service, Some(*change), seen);
                    lines += &format!("{}\n", json!({"type": "MODIFIED", "object": object}));
                }
            }
            *state.traffic.bytes.entry(name.to_owned()).or_default() += lines.len() as u64;
        }
        if !lines.is_empty() {
            out.write_all(format!("{:x}\r\n{lines}\r\n", lines.len()).as_bytes())?;
        }
    }
}

/// What controllers leave in every object.
fn managed(manager: &str, fields: &Value) -> Value {
    json!([{"manager": manager, "operation": "Update", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": fields}])
}

fn node(name: &str) -> Value {
    let uplink = Topology::with_node(name).uplink;
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": name, "uid": "5f0c1f4e-0000-4000-b000-000000000000", "resourceVersion": "900",
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"kubernetes.io/hostname": name},
        },
        "spec": {},
        "status": {"addresses": [
            {"type": "InternalIP", "address": uplink.ipv4.addr()}, {"type": "InternalIP", "address": uplink.ipv6.addr()},
            {"type": "Hostname", "address": name},
        ]},
    })
}

fn service(cluster: Synthetic, index: u32) -> Value {
    let name = format!("service-{index:06}");
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": "bench", "uid": format!("5f0c1f4e-0000-4000-8000-{index:012}"),
            "resourceVersion": "900", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": "bench", "helm.sh/chart": "bench-1.0.0"},
            "annotations": {"meta.helm.sh/release-name": "bench", "meta.helm.sh/release-namespace": "bench"},
            "managedFields": managed("helm", &json!({"f:metadata": {"f:annotations": {".": {}, "f:meta.helm.sh/release-name": {},
                "f:meta.helm.sh/release-namespace": {}}, "f:labels": {".": {}, "f:app.kubernetes.io/name": {},
                "f:app.kubernetes.io/instance": {}, "f:helm.sh/chart": {}}}, "f:spec": {"f:internalTrafficPolicy": {},
                "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {},
                "f:protocol": {}, "f:targetPort": {}}}, "f:selector": {}, "f:sessionAffinity": {}, "f:type": {}}})),
        },
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": "bench"},
            "clusterIP": cluster.cluster_ip(index), "clusterIPs": [cluster.cluster_ip(index)], "type": "ClusterIP",
            "sessionAffinity": "None", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    })
}

fn slice(cluster: Synthetic, index: u32, replaced: Option<Replaced>, version: u64) -> Value {
    let name = format!("service-{index:06}");
    let changed = replaced.map_or_else(|| "2026-01-01T00:00:00Z".to_owned(), |change| change.at.to_string());
    let endpoints =
        cluster.endpoint_addresses(index, replaced.map(|change| change.number)).into_iter().enumerate().map(
            |(number, address)| {
                json!({
                    "addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false},
                    "nodeName": format!("node-{:04}", (index as usize * 7 + number * 13) % 5000), "zone": "zone-a",
                    "targetRef": {"kind": "Pod", "namespace": "bench", "name": format!("{name}-7c9d8f6b5d-{number:05}"),
                        "uid": format!("5f0c1f4e-0000-4000-9000-{index:07}{number:05}")},
                })
            },
        );
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            "name": format!("{name}-x7k2p"), "generateName": format!("{name}-"), "namespace": "bench",
            "uid": format!("5f0c1f4e-0000-4000-a000-{index:012}"), "resourceVersion": version.to_string(), "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"kubernetes.io/service-name": name, "app.kubernetes.io/name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": changed},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name,
                "uid": format!("5f0c1f4e-0000-4000-8000-{index:012}"), "controller": true, "blockOwnerDeletion": true}],
            "managedFields": managed("kube-controller-manager", &json!({"f:addressType": {}, "f:endpoints": {}, "f:metadata": {
                "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}}, "f:generateName": {},
                "f:labels": {".": {}, "f:app.kubernetes.io/name": {}, "f:endpointslice.kubernetes.io/managed-by": {},
                "f:kubernetes.io/service-name": {}}, "f:ownerReferences": {".": {}}}, "f:ports": {}})),
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": endpoints.collect::<Vec<Value>>(),
    })
}
