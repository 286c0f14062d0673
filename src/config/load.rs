//! From the command line and the files that it names to a [`Config`]: who comes before whom, and what is wrong.
//!
//! kube-proxy's file replaces all of kube-proxy's flags but `--hostname-override`, `--master` and those about logging,
//! as upstream has it. Our own file comes before our own flags. Loading again reads the files again.

use super::decode::{self, DecodeError};
use super::duration::GoDuration;
use super::extension::KubeIpvsConfiguration;
use super::field::FieldError;
use super::kubeproxy::KubeProxyConfiguration;
use super::{Config, ProxyArgs, flags, settle, unused, validation};
use std::path::{Path, PathBuf};

/// Under which name the program was started: what was not said means to each what its users expect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Invocation {
    /// `kube-ipvs run`: mode auto, and every change at once.
    #[default]
    KubeIpvs,
    /// `kube-proxy`: as upstream.
    KubeProxy,
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file's text is not what it should be.
    #[error("{}: {error}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        error: DecodeError,
    },
    /// Fields have values that cannot be used.
    #[error("{}", list(file.as_deref(), errors))]
    Invalid {
        /// The file, if the values stand in one.
        file: Option<PathBuf>,
        /// What is wrong.
        errors: Vec<FieldError>,
    },
}

/// As upstream lists: one as it is, several in brackets. Of what came from flags, the flags are named.
fn list(file: Option<&Path>, errors: &[FieldError]) -> String {
    let with_flag = |error: &FieldError| match flags::of_field(&error.path).filter(|_| file.is_none()) {
        Some(flag) => format!("{flag}: {error}"),
        None => error.to_string(),
    };
    let mut texts: Vec<String> = errors.iter().map(with_flag).collect();
    texts.dedup();
    let text = if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) };
    file.map(|file| format!("{}: ", file.display())).unwrap_or_default() + &text
}

/// What loading gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What it was made of, for `--write-config-to`.
    pub kube_proxy: KubeProxyConfiguration,
    /// What was given and has no effect, and what was decided.
    pub warnings: Vec<String>,
}

/// Loads the configuration, as often as is asked for.
#[derive(Debug, Clone, Default)]
pub struct Loader {
    /// The command line.
    pub args: ProxyArgs,
    /// `--logging-format`.
    pub logging_format: Option<String>,
    /// The name that we were started under.
    pub invocation: Invocation,
}

impl Loader {
    /// The files that are read.
    pub fn files(&self) -> Vec<PathBuf> {
        [&self.args.config, &self.args.kube_ipvs_config].into_iter().flatten().cloned().collect()
    }

    /// Reads the files and validates everything.
    ///
    /// # Errors
    /// Everything that is wrong with the first part that is wrong.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut warnings = Vec::new();
        let mut kube_proxy = self.kube_proxy(&mut warnings)?;
        self.args.logging.apply(self.logging_format.as_deref(), &mut kube_proxy.logging);
        self.fill_in(&mut kube_proxy);
        let extension = match &self.args.kube_ipvs_config {
            None => KubeIpvsConfiguration::default(),
            Some(file) => KubeIpvsConfiguration::read(&read(file)?)
                .map_err(|error| ConfigError::Malformed { file: file.clone(), error })?,
        };
        let extension = self.args.extended(extension);
        let mut errors = validation::validate(&kube_proxy);
        if self.args.config.is_none() {
            self.adjust_for_flags(&kube_proxy, &mut errors);
        }
        self.check(errors, &self.args.config)?;
        self.check(extension.validate(), &self.args.kube_ipvs_config)?;
        let config = settle::settle(&kube_proxy, &extension, self.args.master.as_deref())
            .map_err(|error| ConfigError::Invalid { file: self.args.config.clone(), errors: vec![error] })?;
        warnings.extend(unused::warning(&kube_proxy));
        Ok(Loaded { config, kube_proxy, warnings })
    }

    fn check(&self, errors: Vec<FieldError>, file: &Option<PathBuf>) -> Result<(), ConfigError> {
        if errors.is_empty() { Ok(()) } else { Err(ConfigError::Invalid { file: file.clone(), errors }) }
    }

    /// kube-proxy's part, with defaults, before the mode is filled in.
    fn kube_proxy(&self, warnings: &mut Vec<String>) -> Result<KubeProxyConfiguration, ConfigError> {
        let mut config = KubeProxyConfiguration::with_defaults();
        if self.invocation == Invocation::KubeIpvs {
            // A sync costs little here: what changed is brought to the kernel at once.
            config.iptables.min_sync_period = GoDuration::default();
        }
        if let Some(period) = self.args.sync_period {
            (config.iptables.sync_period, config.ipvs.sync_period) = (period, period);
        }
        let given = self.args.kube_proxy.apply(&mut config);
        if let Some(file) = &self.args.config {
            let decoded = decode::kube_proxy(&read(file)?)
                .map_err(|error| ConfigError::Malformed { file: file.clone(), error })?;
            config = decoded.object;
            config.set_defaults();
            let shown = file.display();
            let ignored: Vec<&str> = given.iter().map(String::as_str).collect();
            let sync_period = self.args.sync_period.map(|_| "--sync-period");
            let ignored: Vec<&str> = ignored.into_iter().chain(sync_period).collect();
            if !ignored.is_empty() {
                warnings.push(format!("{} have no effect, as {shown} comes before flags", ignored.join(", ")));
            }
            if !decoded.removed.is_empty() {
                let removed = decoded.removed.join(", ");
                warnings.push(format!("{shown}: fields of former releases are passed over: {removed}"));
            }
        }
        if let Some(name) = self.args.kube_proxy.hostname_override.as_deref().filter(|name| !name.is_empty()) {
            let name = name.trim().to_lowercase();
            if name.is_empty() {
                let error = FieldError::invalid("--hostname-override", "", "empty hostname-override is invalid");
                return Err(ConfigError::Invalid { file: None, errors: vec![error] });
            }
            config.hostname_override = name;
        }
        Ok(config)
    }

    /// `platformApplyDefaults`. Who writes no mode into kube-proxy's file means iptables, now as before.
    fn fill_in(&self, config: &mut KubeProxyConfiguration) {
        if config.mode.is_empty() {
            let auto = self.invocation == Invocation::KubeIpvs && self.args.config.is_none();
            config.mode = if auto { "auto" } else { "iptables" }.into();
        }
        if config.mode == "nftables" && config.node_port_addresses.is_empty() {
            config.node_port_addresses = vec!["primary".into()];
        }
        if config.detect_local_mode.is_empty() {
            config.detect_local_mode = "ClusterCIDR".into();
        } else if self.args.config.is_none()
            && let Some(name) =
                validation::DETECT_LOCAL_MODES.iter().find(|name| name.eq_ignore_ascii_case(&config.detect_local_mode))
        {
            config.detect_local_mode = (*name).into();
        }
    }

    /// What is typed is looked at even if the mode has no use for it; and our own command takes any number of pod ranges.
    fn adjust_for_flags(&self, config: &KubeProxyConfiguration, errors: &mut Vec<FieldError>) {
        let path = "KubeProxyConfiguration.KubeProxyIPVSConfiguration";
        let known = errors.iter().any(|error| error.path.ends_with(".Scheduler"));
        errors.extend(validation::scheduler(&config.ipvs.scheduler, path).filter(|_| !known));
        if self.invocation == Invocation::KubeIpvs {
            errors.retain(|error| !error.path.ends_with(".ClusterCIDRs"));
        }
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file)
        .map_err(|error| ConfigError::Unreadable { file: file.to_owned(), reason: error.to_string() })
}
