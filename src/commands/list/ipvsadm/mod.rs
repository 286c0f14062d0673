//! The command line of `ipvsadm` 1.31, for when the program is started under that name: everything that reads, with
//! `ipvsadm`'s messages and exit codes. What would change the table is refused.
//!
//! | file | what |
//! |---|---|
//! | `popt.rs` | how the library popt takes a command line apart |
//! | `options.rs` | the options: which there are, which a command takes |
//! | `values.rs` | addresses, ports, marks, numbers |
//! | `usage.rs` | `-h` |

mod options;
mod popt;
mod usage;
mod values;

pub use values::service;

use super::request::{Format, Given, Request, What};
use options::{Code, Seen};
use popt::Popt;
use std::path::Path;
use std::process::ExitCode;
use values::Values;

/// What a command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A listing.
    List(Request),
    /// A text: help, version.
    Text(String),
}

/// What is said to a command line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// On standard error.
    pub message: String,
    /// Exit code.
    pub status: u8,
}

impl Refusal {
    /// `fail(2, …)`
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 2 }
    }

    /// `tryhelp_exit(program, -1)`
    fn try_help(program: &str) -> Self {
        let message = format!("Try `{program} -h' or '{program} --help' for more information.");
        Self { message, status: 255 }
    }
}

/// Runs the program under the name `ipvsadm`.
pub fn run(arguments: &[String]) -> ExitCode {
    let program = arguments.first().map_or("ipvsadm", String::as_str);
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let status = match parse(program, &words) {
        Ok(Asked::Text(text)) => super::finish(super::write_text(&text), ""),
        Ok(Asked::List(request)) => super::finish(super::print_ipvs(&request, &mut super::Output::stdout()), ""),
        Err(Refusal { message, status }) => {
            eprintln!("{message}");
            status
        }
    };
    ExitCode::from(status)
}

/// Reads a command line without the program's name.
///
/// # Errors
/// It is wrong, or would change the table.
pub fn parse(program: &str, words: &[&str]) -> Result<Asked, Refusal> {
    if words.is_empty() {
        return Ok(Asked::List(Request { what: What::All, format: Format::default() }));
    }
    let mut popt = Popt::new(words);
    let command = match popt.next() {
        Some(Ok((code, _))) => code,
        _ => return Err(Refusal::try_help(program)),
    };
    match command {
        Code::List | Code::Save => {}
        Code::Help => return Ok(Asked::Text(usage::text(Path::new(program)))),
        Code::Version => return Ok(Asked::Text(usage::version())),
        other => match other.command() {
            Some(name) => return Err(usage::refusal(name)),
            None => return Err(Refusal::try_help(program)),
        },
    }
    let (seen, values) = options(&mut popt)?;
    if let Some(word) = popt.leftover() {
        return Err(Refusal::new(format!("unexpected argument {word}")));
    }
    if let Some(problem) = seen.problem(command == Code::Save) {
        return Err(Refusal::new(problem));
    }
    let given = given(&seen, &values);
    if command == Code::Save {
        return Ok(Asked::List(Request {
            what: What::Save,
            format: Format { numeric: given.numeric, ..Format::default() },
        }));
    }
    given.request().map(Asked::List).map_err(Refusal::new)
}

/// Everything behind the command, in its order: the first mistake counts.
fn options(popt: &mut Popt<'_>) -> Result<(Seen, Values), Refusal> {
    let (mut seen, mut values) = (Seen::default(), Values::default());
    while let Some(next) = popt.next() {
        let (code, argument) = match next {
            Ok(found) => found,
            // Said by popt, not by `fail`.
            Err(message) => return Err(Refusal { message, status: 255 }),
        };
        if let Some(option) = code.option() {
            seen.add(option).map_err(Refusal::new)?;
        } else if !matches!(code, Code::Sort | Code::Ipv6) {
            return Err(Refusal::new(format!("invalid option `{}'", popt.word())));
        }
        values.take(code, argument.as_deref()).map_err(Refusal::new)?;
    }
    Ok((seen, values))
}

fn given(seen: &Seen, values: &Values) -> Given {
    let has = |code: Code| code.option().is_some_and(|option| seen.has(option));
    Given {
        numeric: has(Code::Numeric),
        connection: has(Code::Connection),
        service: values.service(),
        timeout: has(Code::Timeout),
        daemon: has(Code::Daemon),
        stats: has(Code::Stats),
        rate: has(Code::Rate),
        thresholds: has(Code::Thresholds),
        persistent: has(Code::PersistentConn),
        tunnels: has(Code::TunInfo),
        unsorted: has(Code::NoSort),
        exact: has(Code::Exact),
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{CONFLICT, Columns};
    use super::*;

    fn asked(line: &str) -> Result<Asked, (String, u8)> {
        let words: Vec<&str> = line.split_whitespace().collect();
        parse("ipvsadm", &words).map_err(|refusal| (refusal.message, refusal.status))
    }

    fn listed(line: &str) -> Request {
        match asked(line) {
            Ok(Asked::List(request)) => request,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn wrong(line: &str) -> (String, u8) {
        asked(line).unwrap_err()
    }

    #[test]
    fn listings() {
        assert_eq!(listed(""), Request { what: What::All, format: Format::default() });
        let all = listed("-Ln --stats -X --nosort");
        assert!(all.format.numeric && all.format.exact && all.format.unsorted);
        assert_eq!((all.what, all.format.columns), (What::All, Columns::Stats));
        let service = |text: &str| {
            What::Service(
                text.parse::<std::net::SocketAddr>()
                    .map(|at| ipvs::ServiceId::new(ipvs::Protocol::Tcp, at.ip(), at.port()))
                    .unwrap(),
            )
        };
        assert_eq!(listed("-L -t 10.0.0.1:80 -n").what, service("10.0.0.1:80"));
        assert_eq!(listed("-Lnt10.0.0.1:80").what, service("10.0.0.1:80"));
        assert_eq!(listed("--list --tcp-service=[fd00::1]:80").what, service("[fd00::1]:80"));
        assert_eq!(listed("-L -t 10.1").what, service("10.0.0.1:0"));
        assert_eq!(listed("-Lc --sort").what, What::Connections);
        assert_eq!(
            listed("-S -n"),
            Request { what: What::Save, format: Format { numeric: true, ..Format::default() } }
        );
        assert_eq!(listed("-L -f 7 -6").what, What::Service(ipvs::ServiceId::fwmark(7, ipvs::AddressFamily::Ipv6)));
        assert!(matches!(asked("-h"), Ok(Asked::Text(text)) if text.contains("-L|l")));
    }

    #[test]
    fn mistakes_of_the_command_line() {
        let conflict =
            |last, first| format!("The option '{last}' conflicts with the '{first}' option in the 'list' command");
        for (line, message, status) in [
            ("-n", "Try `ipvsadm -h' or 'ipvsadm --help' for more information.", 255),
            ("--bogus", "Try `ipvsadm -h' or 'ipvsadm --help' for more information.", 255),
            ("-L --bogus", "--bogus: unknown option", 255),
            ("-Lq", "-Lq: unknown option", 255),
            ("-L -t", "-t: missing argument", 255),
            ("-L --stats=1", "--stats=1: option does not take an argument", 255),
            ("-L -S", "invalid option `-S'", 2),
            ("-L more", "unexpected argument more", 2),
            ("-L -n -n", "multiple 'numeric' options specified", 2),
            ("-L -t 10.0.0.1:80 -u 10.0.0.1:80", "multiple 'service-address' options specified", 2),
            ("-L -t 80", "illegal virtual server address[:port] specified", 2),
            ("-L -t [fd00::1]", "illegal virtual server address[:port] specified", 2),
            ("-L -t 10.0.0.1:70000", "illegal virtual server address[:port] specified", 2),
            ("-L -f x", "invalid fwmark value `x' specified", 2),
            ("-L -f 0", "invalid fwmark value `0' specified", 2),
            ("-L -6 -f 7", "-6 used before -f\n", 2),
            ("-L --timeout --stats", CONFLICT, 2),
            ("-L -w 1", "Illegal 'weight' option with the 'list' command", 2),
            ("-S --stats", "Illegal 'stats' option with the 'save' command", 2),
            ("-L -w x", "illegal weight specified", 2),
            ("-L --syncid 256", "illegal syncid specified", 2),
        ] {
            assert_eq!(wrong(line), (message.to_owned(), status), "{line}");
        }
        assert_eq!(wrong("-L -c --daemon").0, conflict("daemon", "connection"));
        assert_eq!(wrong("-L --timeout -f 7").0, conflict("timeout", "service-address"));
    }

    #[test]
    fn what_changes_the_table_is_refused() {
        for line in ["-A -t 10.0.0.1:80", "-C", "-Z", "-R", "--set 1 2 3", "--start-daemon master", "-d"] {
            let (message, status) = wrong(line);
            assert_eq!(status, 2, "{line}");
            assert!(message.contains("only reads"), "{line}: {message}");
        }
    }
}
