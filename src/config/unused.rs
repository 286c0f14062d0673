//! What may be configured and means nothing here: said once, in one line, where it differs from the default.

use super::kubeproxy::KubeProxyConfiguration;

/// The warning, if there is anything to warn of.
#[must_use]
pub fn warning(config: &KubeProxyConfiguration) -> Option<String> {
    let defaults = KubeProxyConfiguration::with_defaults();
    let mut found = Vec::new();
    let mut note = |differs: bool, field: &str, reason: &str| {
        if differs {
            found.push(format!("{field} ({reason})"));
        }
    };
    if config.mode == "nftables" {
        note(true, "mode nftables", "served as auto: ipvs where it works, otherwise iptables");
    } else {
        note(config.nftables != defaults.nftables, "nftables", "of another mode");
    }
    let windows = config.winkernel != defaults.winkernel || config.windows_run_as_service;
    note(windows, "winkernel, windowsRunAsService", "of Windows");
    note(!config.port_range.is_empty(), "portRange", "the userspace mode is gone");
    let ours = ["LoggingAlphaOptions", "LoggingBetaOptions"];
    let (connection, default) = (&config.client_connection, &defaults.client_connection);
    let limits = (connection.qps, connection.burst) != (default.qps, default.burst);
    note(limits, "clientConnection.qps, burst", "there are four watches and nothing to limit");
    let types = (&connection.content_type, &connection.accept_content_types)
        != (&default.content_type, &default.accept_content_types);
    note(types, "clientConnection.contentType, acceptContentTypes", "objects travel as JSON");
    note(config.config_sync_period != defaults.config_sync_period, "configSyncPeriod", "what was read is followed");
    let gates: Vec<&str> =
        config.feature_gates.keys().map(String::as_str).filter(|gate| !ours.contains(gate)).collect();
    note(!gates.is_empty(), &format!("featureGates {}", gates.join(", ")), "no such features here");
    let hidden = !config.show_hidden_metrics_for_version.is_empty();
    note(hidden, "showHiddenMetricsForVersion", "no metric is hidden");
    let (logging, default) = (&config.logging, &defaults.logging);
    note(logging.flush_frequency != default.flush_frequency, "logging.flushFrequency", "nothing is kept back");
    let buffers = [&logging.options.text, &logging.options.json].iter().any(|options| options.info_buffer_size != "0");
    note(buffers, "logging.options.*.infoBufferSize", "nothing is kept back");
    (!found.is_empty()).then(|| format!("configured and without effect: {}", found.join("; ")))
}
