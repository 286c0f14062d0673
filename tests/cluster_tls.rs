//! The way to an API server that speaks TLS: certificates, tokens that change, plugins; and what is said when it is wrong.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly, too"
)]

mod support;
#[path = "support/tls.rs"]
mod tls;

use data_encoding::BASE64;
use kube_ipvs::lab::NetNs;
use kube_ipvs::source::cluster::Access;
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::api::Trouble;
use support::follow::{fill, name, service};
use support::{Api, Followed, quick};
use tls::{Authority, Front, Identity};

/// A server that speaks TLS, and a folder for what belongs to it.
struct Secure {
    api: Api,
    authority: Authority,
    front: Front,
    folder: PathBuf,
}

static FOLDERS: AtomicU32 = AtomicU32::new(0);

impl Secure {
    /// For these names, open to everybody or only to those with a certificate.
    fn start(names: &[&str], certificates_only: bool) -> Self {
        let api = Api::start();
        fill(&api, 0..5);
        let authority = Authority::new("the cluster's own");
        let clients = certificates_only.then_some(&authority);
        let front = Front::start(&authority.issue(names), clients, plain(&api));
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("kube-ipvs-tls-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self { api, authority, front, folder }
    }

    /// A file in the folder.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The source on a kubeconfig with this authority and this user.
    async fn follow(&self, authority: &Authority, user: Value) -> Followed {
        let data = BASE64.encode(authority.certificate.as_bytes());
        self.follow_on(json!({"certificate-authority-data": data}), user).await
    }

    async fn follow_on(&self, mut cluster: Value, user: Value) -> Followed {
        if cluster.get("server").is_none() {
            cluster["server"] = json!(format!("https://{}", self.front.address));
        }
        let config = config(&cluster, &user);
        let path = self.write("kubeconfig", &config.to_string());
        Followed::start_on(Access { kubeconfig: Some(path.into()), master: None }, quick()).await
    }

    fn authorization(&self) -> String {
        self.api.header("authorization").unwrap_or_default()
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A kubeconfig of one cluster and one user.
fn config(cluster: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    })
}

fn plain(api: &Api) -> SocketAddr {
    api.url().trim_start_matches("http://").parse().unwrap()
}

fn data(text: &str) -> Value {
    json!(BASE64.encode(text.as_bytes()))
}

/// Nothing arrives, and one warning has all of these words.
async fn refused(followed: &Followed, words: &[&str]) {
    followed.until_true("a warning", || followed.said("WARN") > 0).await;
    assert!(!followed.now().complete);
    let log = followed.log();
    let warning = log.lines().find(|line| line.contains("WARN")).unwrap();
    eprintln!("{warning}");
    assert!(words.iter().all(|word| warning.contains(word)), "{words:?}: {log}");
    assert_eq!(followed.said("WARN"), 1, "{log}");
}

#[tokio::test]
async fn an_authority_in_the_kubeconfig_is_believed() {
    let secure = Secure::start(&["127.0.0.1"], false);
    let followed = secure.follow(&secure.authority, json!({"token": "secret"})).await;
    assert_eq!(followed.complete().await.services.len(), 5);
    assert_eq!(secure.authorization(), "Bearer secret");
    secure.api.put(service(6));
    followed.until("a change", |snapshot| snapshot.services.contains_key(&name(6))).await;
    assert_eq!(followed.said("WARN"), 0, "{}", followed.log());
}

#[tokio::test]
async fn an_authority_in_a_file_and_another_name_are_believed() {
    let secure = Secure::start(&["kubernetes.default.svc"], false);
    let file = secure.write("ca.crt", &secure.authority.certificate);
    let cluster = json!({"certificate-authority": file, "tls-server-name": "kubernetes.default.svc"});
    let followed = secure.follow_on(cluster, json!({"token": "secret"})).await;
    assert_eq!(followed.complete().await.services.len(), 5);
}

#[tokio::test]
async fn another_authority_is_not_believed() {
    let secure = Secure::start(&["127.0.0.1"], false);
    let followed = secure.follow(&Authority::new("somebody else's"), json!({"token": "secret"})).await;
    refused(&followed, &["https://127.0.0.1", "invalid peer certificate", "UnknownIssuer"]).await;
    assert!(secure.api.requests().is_empty(), "nothing is said to a server that is not believed");
}

#[tokio::test]
async fn another_name_is_not_believed() {
    let secure = Secure::start(&["other.example"], false);
    let followed = secure.follow(&secure.authority, json!({"token": "secret"})).await;
    refused(&followed, &["invalid peer certificate", "not valid for", "127.0.0.1", "other.example"]).await;
}

#[tokio::test]
async fn a_certificate_of_ours_opens_what_is_closed_without() {
    let secure = Secure::start(&["127.0.0.1"], true);
    let Identity { certificate, key, .. } = secure.authority.issue(&["node"]);
    let user = json!({"client-certificate-data": data(&certificate), "client-key-data": data(&key)});
    let followed = secure.follow(&secure.authority, user).await;
    assert_eq!(followed.complete().await.services.len(), 5);
    assert_eq!(secure.authorization(), "");
    let files = [secure.write("tls.crt", &certificate), secure.write("tls.key", &key)];
    let user = json!({"client-certificate": files[0], "client-key": files[1]});
    let followed = secure.follow(&secure.authority, user).await;
    assert_eq!(followed.complete().await.services.len(), 5);
    let followed = secure.follow(&secure.authority, json!({"token": "secret"})).await;
    refused(&followed, &["https://127.0.0.1", "CertificateRequired"]).await;
}

#[tokio::test]
async fn a_key_that_is_none_is_named() {
    let secure = Secure::start(&["127.0.0.1"], true);
    let identity = secure.authority.issue(&["node"]);
    let config = config(
        &json!({"server": "https://127.0.0.1:1"}),
        &json!({"client-certificate-data": data(&identity.certificate), "client-key-data": data("no key")}),
    );
    let path = secure.write("kubeconfig", &config.to_string());
    let error = Access { kubeconfig: Some(path.into()), master: None }.open().await.unwrap_err().to_string();
    eprintln!("{error}");
    assert!(error.contains("https://127.0.0.1:1") && error.contains("key"), "{error}");
}

/// A service account's token is written anew every hour or so.
#[tokio::test]
async fn a_token_that_changes_in_its_file_is_used() {
    let secure = Secure::start(&["127.0.0.1"], false);
    let file = secure.write("token", "first");
    let followed = secure.follow(&secure.authority, json!({"tokenFile": file})).await;
    followed.complete().await;
    assert_eq!(secure.authorization(), "Bearer first");
    secure.write("token", "second");
    // The first one has run out.
    secure.api.trouble(Trouble { status: Some(401), ..Trouble::default() });
    secure.api.cut();
    followed.until_true("the second token", || secure.authorization() == "Bearer second").await;
    secure.api.trouble(Trouble::default());
    secure.api.put(service(7));
    followed.until("a change", |snapshot| snapshot.services.contains_key(&name(7))).await;
}

#[tokio::test]
async fn a_plugin_is_asked_for_credentials_and_asked_again() {
    let secure = Secure::start(&["127.0.0.1"], false);
    let counter = secure.folder.join("count");
    // Every token is about to run out.
    let script = format!(
        "#!/bin/sh\necho x >> {0}\nn=$(wc -l < {0})\nuntil=$(date -u -d '+10 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
         echo '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":\
         {{\"token\":\"'$VARIABLE-$1-$n'\",\"expirationTimestamp\":\"'$until'\"}}}}'\n",
        counter.display()
    );
    let plugin = secure.write("plugin", &script);
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": plugin, "args": ["given"],
        "env": [{"name": "VARIABLE", "value": "token"}], "interactiveMode": "Never"}});
    let followed = secure.follow(&secure.authority, exec).await;
    followed.complete().await;
    let first = secure.authorization();
    assert!(first.starts_with("Bearer token-given-"), "{first}");
    secure.api.cut();
    followed.until_true("another token", || secure.authorization() != first).await;
    secure.api.put(service(8));
    followed.until("a change", |snapshot| snapshot.services.contains_key(&name(8))).await;
}

#[tokio::test]
async fn a_plugin_that_is_missing_is_named() {
    let secure = Secure::start(&["127.0.0.1"], false);
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "/nonexistent/plugin"}});
    let config = config(&json!({"server": format!("https://{}", secure.front.address)}), &exec);
    let path = secure.write("kubeconfig", &config.to_string());
    let outcome = Access { kubeconfig: Some(path.into()), master: None }.open().await;
    let error = outcome.unwrap_err().to_string();
    eprintln!("{error}");
    assert!(error.contains("/nonexistent/plugin"), "{error}");
}

/// What the test against a real server stands on: that it can be reached from another network namespace.
#[tokio::test]
async fn a_relay_leads_out_of_a_network_namespace() {
    if !nix::unistd::geteuid().is_root() {
        return support::skipped("needs root to make network namespaces");
    }
    let secure = Secure::start(&["127.0.0.1"], false);
    let ns = NetNs::create("relay").unwrap();
    let mut up = std::process::Command::new("ip");
    up.args(["link", "set", "lo", "up"]);
    assert!(ns.spawn_process(up).unwrap().wait().unwrap().success());
    let address = secure.front.address;
    let listener = ns.run(|| TcpListener::bind(address)).unwrap().unwrap();
    let relay = Front::relay(listener, address);
    assert_eq!(relay.address, address);
    let told = ns.run(|| {
        use std::io::Write;
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // The other side speaks TLS and says so.
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
        let mut answer = [0_u8; 1];
        std::io::Read::read_exact(&mut stream, &mut answer).map(|()| answer[0])
    });
    assert_eq!(told.unwrap().unwrap(), 0x15, "a TLS alert");
    support::wait_until("the server to notice", || !secure.front.refused.lock().unwrap().is_empty());
}
