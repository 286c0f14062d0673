//! What a kube-proxy is started with: its configuration file and the kubeconfig that it names.

use super::Mode;
use crate::commands::bench::synthetic::Synthetic;
use anyhow::Context;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// The name of the node; the API server has every node that is asked for.
const NODE: &str = "bench";

/// Writes both files and returns the configuration's path.
///
/// # Errors
/// When they can't be written.
pub fn write(folder: &Path, mode: Mode, server: SocketAddr, metrics: SocketAddr) -> anyhow::Result<PathBuf> {
    let (kubeconfig, config) = (folder.join("kubeconfig"), folder.join("kube-proxy-config"));
    for (path, value) in [(&kubeconfig, access(server)), (&config, configuration(mode, &kubeconfig, metrics))] {
        // JSON is YAML.
        fs::write(path, value.to_string()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(config)
}

fn access(server: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": format!("http://{server}")}}],
        "users": [{"name": "bench", "user": {}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    })
}

/// What is not here is kube-proxy's default, periods of syncs above all.
fn configuration(mode: Mode, kubeconfig: &Path, metrics: SocketAddr) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "mode": mode.name(), "hostnameOverride": NODE,
        "clientConnection": {"kubeconfig": kubeconfig, "contentType": "application/json",
            "acceptContentTypes": "application/json"},
        "clusterCIDR": Synthetic::pods().to_string(), "detectLocalMode": "ClusterCIDR",
        "metricsBindAddress": metrics.to_string(),
        "healthzBindAddress": SocketAddr::from((Ipv4Addr::LOCALHOST, 10256)).to_string(),
        // The machine's limit, which other namespaces than the first can't set.
        "conntrack": {"maxPerCore": 0, "min": 0},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_was_asked_for() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let value = configuration(Mode::Iptables, Path::new("/kubeconfig"), address);
        assert_eq!(value["mode"], "iptables");
        assert_eq!(value["clusterCIDR"], "10.128.0.0/9");
        assert_eq!(value["conntrack"]["maxPerCore"], 0);
    }
}
