//! What is to be listed and how: `ipvsadm`'s options as types, whichever command line they come from.

use ipvs::ServiceId;

/// What `ipvsadm -L` or `-S` would be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub what: What,
    /// How.
    pub format: Format,
}

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum What {
    /// The whole table.
    #[default]
    All,
    /// One virtual server.
    Service(ServiceId),
    /// The connections.
    Connections,
    /// The timeouts.
    Timeout,
    /// The synchronisation daemons.
    Daemon,
    /// The whole table, as `ipvsadm -R` reads it.
    Save,
}

/// How it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Format {
    /// Addresses and ports as numbers.
    pub numeric: bool,
    /// All digits of large numbers.
    pub exact: bool,
    /// In the kernel's order.
    pub unsorted: bool,
    /// Which columns.
    pub columns: Columns,
    /// Connections with the data of their persistence engine.
    pub engines: bool,
}

/// The columns of a listing. Where several are asked for, the first of these is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Columns {
    /// Counters.
    Stats,
    /// What the counters grow by in a second.
    Rate,
    /// Connections at which real servers are full.
    Thresholds,
    /// Clients that stay with a real server.
    PersistentConnections,
    /// Encapsulations.
    Tunnels,
    /// Method, weight and connections.
    #[default]
    Usual,
}

/// Which of `ipvsadm`'s options of a listing were given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// `-n`
    pub numeric: bool,
    /// `-c`
    pub connection: bool,
    /// `-t`, `-u`, `--sctp-service`, `-f`
    pub service: Option<ServiceId>,
    /// `--timeout`
    pub timeout: bool,
    /// `--daemon`
    pub daemon: bool,
    /// `--stats`
    pub stats: bool,
    /// `--rate`
    pub rate: bool,
    /// `--thresholds`
    pub thresholds: bool,
    /// `--persistent-conn`
    pub persistent: bool,
    /// `--tun-info`
    pub tunnels: bool,
    /// `--nosort`
    pub unsorted: bool,
    /// `-X`
    pub exact: bool,
}

/// As `process_options` in `ipvsadm.c` says it.
pub const CONFLICT: &str = "options conflicts in the list command";

impl Given {
    /// The request of `ipvsadm -L` with these options.
    ///
    /// # Errors
    /// [`CONFLICT`] when they exclude each other.
    pub fn request(&self) -> Result<Request, &'static str> {
        let columns = self.stats || self.rate || self.thresholds;
        if ((self.connection || self.timeout || self.daemon) && columns)
            || ((self.timeout || self.daemon) && self.persistent)
        {
            return Err(CONFLICT);
        }
        let what = match self.service {
            _ if self.connection => What::Connections,
            Some(id) => What::Service(id),
            None if self.timeout => What::Timeout,
            None if self.daemon => What::Daemon,
            None => What::All,
        };
        Ok(Request { what, format: self.format() })
    }

    fn format(&self) -> Format {
        let columns = [
            (self.stats, Columns::Stats),
            (self.rate, Columns::Rate),
            (self.thresholds, Columns::Thresholds),
            (self.persistent, Columns::PersistentConnections),
            (self.tunnels, Columns::Tunnels),
        ];
        let columns = columns.into_iter().find(|(given, _)| *given).map_or(Columns::Usual, |(_, columns)| columns);
        let Self { numeric, exact, unsorted, persistent: engines, .. } = *self;
        Format { numeric, exact, unsorted, columns, engines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_excludes_what() {
        let ask = |given: Given| given.request().map(|request| (request.what, request.format.columns));
        let none = Given::default();
        assert_eq!(ask(none), Ok((What::All, Columns::Usual)));
        assert_eq!(ask(Given { rate: true, stats: true, ..none }), Ok((What::All, Columns::Stats)));
        assert_eq!(
            ask(Given { connection: true, persistent: true, ..none }),
            Ok((What::Connections, Columns::PersistentConnections))
        );
        assert_eq!(ask(Given { timeout: true, tunnels: true, ..none }), Ok((What::Timeout, Columns::Tunnels)));
        for given in [
            Given { connection: true, stats: true, ..none },
            Given { timeout: true, thresholds: true, ..none },
            Given { daemon: true, rate: true, ..none },
            Given { daemon: true, persistent: true, ..none },
        ] {
            assert_eq!(ask(given), Err(CONFLICT));
        }
    }
}
