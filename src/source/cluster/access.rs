//! The way to the API server: which address, which credentials, which connection.
//!
//! As in kube-proxy (`createClient`, cmd/kube-proxy/app/server.go): a kubeconfig file or an address that was given, or
//! else what the pod was given. `KUBECONFIG` is not looked at.

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tower::{BoxError, ServiceBuilder};
use tracing::debug;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A server that went without a word is found by the kernel after this long …
const KEEPALIVE: Duration = Duration::from_secs(15);
/// … and this many unanswered probes, this far apart (client-go: a ping after 30 s, given up after another 15 s).
const PROBES: (u32, Duration) = (3, Duration::from_secs(5));

/// What was given of the way to the API server; nothing means: as a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// `--kubeconfig`
    pub kubeconfig: Option<PathBuf>,
    /// `--master`: takes the place of the server in the kubeconfig; alone it is used without credentials.
    pub master: Option<String>,
}

/// Why there is no way to an API server. Nothing was sent yet.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig file is missing, malformed or incomplete.
    #[error("--kubeconfig {path}: {problem}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The address is none.
    #[error("--master {master:?}: {problem}; write it as https://HOST:PORT")]
    Master {
        /// What was given.
        master: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing was given, and this is no pod.
    #[error(
        "there is nothing to read Services from: give --manifests PATH, or --kubeconfig FILE or --master URL for an API \
         server, or run it in a pod with a service account (here: {problem}){hint}"
    )]
    NoPod {
        /// What a pod would have.
        problem: String,
        /// What may have been meant.
        hint: &'static str,
    },
    /// Certificates, credentials or a proxy cannot be used.
    #[error("the API server {server} cannot be reached with this configuration: {problem}")]
    Credentials {
        /// The server.
        server: String,
        /// What is wrong with them.
        problem: String,
    },
}

/// A client and what it talks to. Tokens are refreshed by kube; certificates are not, so that all is read again when
/// nothing works any more.
pub struct Gateway {
    access: Access,
    current: Mutex<(Client, Instant)>,
    server: String,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Gateway {
    /// The server's address when it was opened, for people.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The client of the hour.
    pub fn client(&self) -> Client {
        self.current().0.clone()
    }

    /// Reads the configuration again, unless that was done a moment ago. What cannot be read changes nothing.
    pub async fn renew(&self, at_most_every: Duration) {
        let now = Instant::now();
        if now.duration_since(self.current().1) < at_most_every {
            return;
        }
        self.current().1 = now;
        match self.access.client().await {
            Ok((client, _)) => self.current().0 = client,
            Err(error) => debug!("the way to the API server cannot be read again: {error}"),
        }
    }

    fn current(&self) -> MutexGuard<'_, (Client, Instant)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Access {
    /// Reads the configuration and makes a client. Sends nothing yet.
    ///
    /// # Errors
    /// When there is no configuration or it cannot be used.
    pub async fn open(&self) -> Result<Gateway, AccessError> {
        let (client, server) = self.client().await?;
        Ok(Gateway { access: self.clone(), current: Mutex::new((client, Instant::now())), server })
    }

    async fn client(&self) -> Result<(Client, String), AccessError> {
        let mut config = self.config().await?;
        let agent = format!("kube-ipvs/{} (linux/{})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        if let (Ok(name), Ok(value)) = ("user-agent".parse(), agent.parse()) {
            config.headers.push((name, value));
        }
        let server = config.cluster_url.to_string();
        // kube does not say which plugin it could not run.
        let plugin = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
        let plugin = plugin.map(|command| format!("with the plugin {command}: ")).unwrap_or_default();
        let error = |error: &dyn std::error::Error| AccessError::Credentials {
            server: server.clone(),
            problem: plugin.clone() + &super::failure::chain(error),
        };
        if let Some(proxy) = &config.proxy_url {
            let problem = format!("proxy-url {proxy} is not supported");
            return Err(AccessError::Credentials { server, problem });
        }
        let client = client(&config).map_err(|problem| error(&problem))?;
        Ok((client, server))
    }

    async fn config(&self) -> Result<Config, AccessError> {
        let mut config = match (&self.kubeconfig, &self.master) {
            (Some(path), _) => {
                let error = |problem: String| AccessError::Kubeconfig { path: path.clone(), problem };
                let file = Kubeconfig::read_from(path).map_err(|problem| error(super::failure::chain(&problem)))?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                    .await
                    .map_err(|problem| error(super::failure::chain(&problem)))?
            }
            (None, Some(_)) => Config::new(placeholder()),
            (None, None) => Config::incluster().map_err(|problem| AccessError::NoPod {
                problem: super::failure::chain(&problem),
                hint: match std::env::var_os("KUBECONFIG") {
                    Some(_) => {
                        "; KUBECONFIG is set, but as with kube-proxy it is not read: give --kubeconfig \"$KUBECONFIG\""
                    }
                    None => "",
                },
            })?,
        };
        if let Some(master) = &self.master {
            config.cluster_url = address(master)?;
        }
        Ok(config)
    }
}

/// Stands where `--master` goes.
fn placeholder() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

/// Reads an address; one without a scheme is plain HTTP, as client-go has it.
fn address(master: &str) -> Result<http::Uri, AccessError> {
    let error = |problem: String| AccessError::Master { master: master.to_owned(), problem };
    let text = if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
    let uri: http::Uri = text.parse().map_err(|problem: http::uri::InvalidUri| error(problem.to_string()))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(error("it is no address of a server".to_owned())),
    }
}

/// kube's own stack but for two things: it retries by itself and logs each failure, which is done here once per outage;
/// and it leaves connections to a server that is gone as they are.
fn client(config: &Config) -> Result<Client, kube::Error> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_retries(Some(PROBES.0));
    http.set_keepalive_interval(Some(PROBES.1));
    let https = config.rustls_https_connector_with_connector(http)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(https));
    Ok(Client::new(service, config.default_namespace.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(access: Access) -> String {
        access.open().await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_with_the_flag() {
        let missing = Access { kubeconfig: Some("/nonexistent/config".into()), ..Access::default() };
        let text = refused(missing).await;
        assert!(text.starts_with("--kubeconfig /nonexistent/config: failed to read kubeconfig"), "{text}");
        for master in ["", "ftp://x", "https://", "https://a b"] {
            let text = refused(Access { master: Some(master.to_owned()), ..Access::default() }).await;
            assert!(text.starts_with(&format!("--master {master:?}: ")), "{text}");
        }
        let text = refused(Access::default()).await;
        assert!(
            text.contains("give --manifests PATH") && text.contains("KUBERNETES_SERVICE_HOST")
                || text.contains("environment variable"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn master_takes_the_place_of_the_server() {
        let folder = std::env::temp_dir().join(format!("kube-ipvs-access-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("config");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  context: {cluster: k, user: u}\n\
                    clusters:\n- name: k\n  cluster: {server: 'https://192.0.2.1:6443'}\nusers:\n- name: u\n  user: {token: t}\n";
        std::fs::write(&path, text).unwrap();
        let plain = Access { kubeconfig: Some(path.clone()), master: None };
        assert_eq!(plain.open().await.unwrap().server(), "https://192.0.2.1:6443/");
        let other = Access { master: Some("192.0.2.9:8080".to_owned()), ..plain };
        assert_eq!(other.open().await.unwrap().server(), "http://192.0.2.9:8080/");
        std::fs::write(&path, "apiVersion: v1\nkind: Config\nclusters: [").unwrap();
        assert!(refused(other).await.contains("--kubeconfig"), "a malformed file is named");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
