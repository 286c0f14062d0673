//! The options of `ipvsadm` 1.31, and which of them its two reading commands take (`commands_v_options` in `ipvsadm.c`).

/// What an option means. The commands come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    AddService,
    EditService,
    DeleteService,
    Clear,
    List,
    Zero,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    Help,
    Version,
    Restore,
    Save,
    StartDaemon,
    StopDaemon,
    TcpService,
    UdpService,
    SctpService,
    FwmarkService,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    Forward,
    Weight,
    UpperThreshold,
    LowerThreshold,
    Numeric,
    Connection,
    McastInterface,
    SyncId,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    Sort,
    Exact,
    Ipv6,
    Ops,
    Engine,
    SchedFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNocsum,
    TunCsum,
    TunRemcsum,
}

/// Whether an option has an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// Never.
    None,
    /// Always.
    Needed,
    /// Unless the next word is an option.
    Optional,
}

/// How an option is written.
#[derive(Debug)]
pub struct OptionName {
    /// After two dashes.
    pub long: &'static str,
    /// After one.
    pub short: Option<char>,
    /// Its argument.
    pub argument: Argument,
    /// Its meaning.
    pub code: Code,
}

const fn plain(long: &'static str, short: Option<char>, code: Code) -> OptionName {
    OptionName { long, short, argument: Argument::None, code }
}

const fn valued(long: &'static str, short: Option<char>, code: Code) -> OptionName {
    OptionName { long, short, argument: Argument::Needed, code }
}

/// All of them.
pub const OPTIONS: &[OptionName] = &[
    plain("add-service", Some('A'), Code::AddService),
    plain("edit-service", Some('E'), Code::EditService),
    plain("delete-service", Some('D'), Code::DeleteService),
    plain("clear", Some('C'), Code::Clear),
    plain("list", Some('L'), Code::List),
    plain("list", Some('l'), Code::List),
    plain("zero", Some('Z'), Code::Zero),
    plain("add-server", Some('a'), Code::AddServer),
    plain("edit-server", Some('e'), Code::EditServer),
    plain("delete-server", Some('d'), Code::DeleteServer),
    plain("set", None, Code::Set),
    plain("help", Some('h'), Code::Help),
    plain("version", Some('v'), Code::Version),
    plain("restore", Some('R'), Code::Restore),
    plain("save", Some('S'), Code::Save),
    valued("start-daemon", None, Code::StartDaemon),
    valued("stop-daemon", None, Code::StopDaemon),
    valued("tcp-service", Some('t'), Code::TcpService),
    valued("udp-service", Some('u'), Code::UdpService),
    valued("sctp-service", None, Code::SctpService),
    valued("fwmark-service", Some('f'), Code::FwmarkService),
    valued("scheduler", Some('s'), Code::Scheduler),
    OptionName { long: "persistent", short: Some('p'), argument: Argument::Optional, code: Code::Persistent },
    valued("netmask", Some('M'), Code::Netmask),
    valued("real-server", Some('r'), Code::RealServer),
    plain("masquerading", Some('m'), Code::Forward),
    plain("ipip", Some('i'), Code::Forward),
    plain("gatewaying", Some('g'), Code::Forward),
    valued("weight", Some('w'), Code::Weight),
    valued("u-threshold", Some('x'), Code::UpperThreshold),
    valued("l-threshold", Some('y'), Code::LowerThreshold),
    plain("numeric", Some('n'), Code::Numeric),
    plain("connection", Some('c'), Code::Connection),
    valued("mcast-interface", None, Code::McastInterface),
    valued("syncid", None, Code::SyncId),
    plain("timeout", None, Code::Timeout),
    plain("daemon", None, Code::Daemon),
    plain("stats", None, Code::Stats),
    plain("rate", None, Code::Rate),
    plain("thresholds", None, Code::Thresholds),
    plain("persistent-conn", None, Code::PersistentConn),
    plain("nosort", None, Code::NoSort),
    plain("sort", None, Code::Sort),
    plain("exact", Some('X'), Code::Exact),
    plain("ipv6", Some('6'), Code::Ipv6),
    plain("ops", Some('o'), Code::Ops),
    valued("pe", None, Code::Engine),
    valued("sched-flags", Some('b'), Code::SchedFlags),
    valued("mcast-group", None, Code::McastGroup),
    valued("mcast-port", None, Code::McastPort),
    valued("mcast-ttl", None, Code::McastTtl),
    valued("sync-maxlen", None, Code::SyncMaxlen),
    plain("tun-info", None, Code::TunInfo),
    valued("tun-type", None, Code::TunType),
    valued("tun-port", None, Code::TunPort),
    plain("tun-nocsum", None, Code::TunNocsum),
    plain("tun-csum", None, Code::TunCsum),
    plain("tun-remcsum", None, Code::TunRemcsum),
];

/// How options are called in messages, in the order in which they are checked; and whether `list` takes them: `Some(true)`
/// at most one of these, `Some(false)` always, `None` never. `save` takes the first one only.
const CHECKED: [(&str, Option<bool>); 34] = [
    ("numeric", Some(false)),
    ("connection", Some(true)),
    ("service-address", Some(true)),
    ("scheduler", None),
    ("persistent", None),
    ("netmask", None),
    ("real-server", None),
    ("forwarding-method", None),
    ("weight", None),
    ("u-threshold", None),
    ("l-threshold", None),
    ("mcast-interface", None),
    ("timeout", Some(true)),
    ("daemon", Some(true)),
    ("stats", Some(false)),
    ("rate", Some(false)),
    ("thresholds", Some(false)),
    ("persistent-conn", Some(false)),
    ("nosort", Some(false)),
    ("syncid", Some(false)),
    ("exact", Some(false)),
    ("ops", None),
    ("pe", None),
    ("sched-flags", None),
    ("mcast-group", None),
    ("mcast-port", None),
    ("mcast-ttl", None),
    ("sync-maxlen", None),
    ("tun-info", Some(false)),
    ("tun-type", None),
    ("tun-port", None),
    ("tun-nocsum", None),
    ("tun-csum", None),
    ("tun-remcsum", None),
];

impl Code {
    /// The long name of a command that changes something.
    pub fn command(self) -> Option<&'static str> {
        let changes = matches!(
            self,
            Self::AddService
                | Self::EditService
                | Self::DeleteService
                | Self::Clear
                | Self::Zero
                | Self::AddServer
                | Self::EditServer
                | Self::DeleteServer
                | Self::Set
                | Self::Restore
                | Self::StartDaemon
                | Self::StopDaemon
        );
        OPTIONS.iter().find(|option| changes && option.code == self).map(|option| option.long)
    }

    /// Its name in messages; none for commands and for what is not checked.
    pub fn option(self) -> Option<&'static str> {
        Some(match self {
            Self::TcpService | Self::UdpService | Self::SctpService | Self::FwmarkService => "service-address",
            Self::Forward => "forwarding-method",
            Self::Sort | Self::Ipv6 | Self::List | Self::Save | Self::Help | Self::Version => return None,
            other if other.command().is_some() => return None,
            other => OPTIONS.iter().find(|option| option.code == other)?.long,
        })
    }
}

/// The options that were given.
#[derive(Debug, Default)]
pub struct Seen(Vec<&'static str>);

impl Seen {
    /// One more, by its name in messages.
    pub fn add(&mut self, option: &'static str) -> Result<(), String> {
        if self.has(option) {
            return Err(format!("multiple '{option}' options specified"));
        }
        self.0.push(option);
        Ok(())
    }

    /// Whether it was given.
    pub fn has(&self, option: &str) -> bool {
        self.0.contains(&option)
    }

    /// What does not go together (`generic_opt_check`).
    pub fn problem(&self, save: bool) -> Option<String> {
        let command = if save { "save" } else { "list" };
        let mut first = None;
        for (option, taken) in CHECKED.into_iter().filter(|(option, _)| self.has(option)) {
            match taken {
                _ if save && option == "numeric" => {}
                Some(false) if !save => {}
                Some(true) if !save => match first {
                    None => first = Some(option),
                    Some(first) => {
                        return Some(format!(
                            "The option '{option}' conflicts with the '{first}' option in the '{command}' command"
                        ));
                    }
                },
                _ => return Some(format!("Illegal '{option}' option with the '{command}' command")),
            }
        }
        None
    }
}
