//! What stands below the flags in every `--help`: examples that work, and what the exit status says. A test goes through
//! all commands.

use clap::Command;

/// A command by its path below `kube-ipvs`, with examples and what its exit status means.
struct Epilogue {
    command: &'static str,
    /// The command line, and what it does.
    examples: &'static [(&'static str, &'static str)],
    exit: &'static str,
}

const DONE: &str = "0 done, 1 it could not be done (standard error says why), 2 wrong command line";

const EPILOGUES: &[Epilogue] = &[
    Epilogue {
        command: "run",
        examples: &[
            (
                "kube-ipvs run --kubeconfig /etc/kubernetes/kube-proxy.conf --cluster-cidr 10.180.0.0/16",
                "Services of an API server",
            ),
            ("kube-ipvs run --manifests services/ --proxy-mode iptables", "Services of files, in iptables mode"),
            ("kube-ipvs run --config /var/lib/kube-proxy/config.conf", "as kube-proxy's configuration file says"),
            ("kube-ipvs run --manifests services/ --once", "bring the kernel in sync, and end"),
        ],
        exit: "0 stopped, or in sync with --once; 1 it could not start or, with --once, not do everything; 2 wrong command line",
    },
    Epilogue {
        command: "plan",
        examples: &[
            ("kube-ipvs plan --manifests services/ --cluster-cidr 10.180.0.0/16", "what run would change"),
            ("kube-ipvs diff --kubeconfig kubeconfig -o json | jq .counts", "the same for programs"),
        ],
        exit: "0 in sync, 1 it could not be found out, 2 something would change, or a wrong command line",
    },
    Epilogue {
        command: "list",
        examples: &[
            ("kube-ipvs list", "the table of virtual servers, in either mode"),
            ("kube-ipvs list --proxy-mode iptables", "the rules as that table"),
            ("kube-ipvs list -o wide --namespace shop", "with the names of Services, pods and nodes"),
            ("kube-ipvs list --stats -t 172.30.0.10:80", "what one virtual server has carried"),
        ],
        exit: DONE,
    },
    Epilogue { command: "top", examples: &[("kube-ipvs top", "rates and connections, live; q ends it")], exit: DONE },
    Epilogue {
        command: "explain",
        examples: &[
            ("kube-ipvs explain 203.0.113.9 172.30.0.10:80/tcp", "what the kernel does with a packet from outside"),
            ("kube-ipvs explain node [fd00:172:30::10]:53/udp --manifests services/", "and what is wanted of it"),
            (
                "kube-ipvs explain 10.180.0.7:40123 172.30.0.10:80/tcp",
                "also who has this very connection, if it is open",
            ),
            ("kube-ipvs explain 203.0.113.9 192.168.0.2:30080/tcp --in eth1 -o json", "for programs"),
        ],
        exit: "0 the kernel does what is wanted, or that was not asked; 1 it could not be found out; 2 the kernel does otherwise, or a wrong command line",
    },
    Epilogue {
        command: "doctor",
        examples: &[
            ("kube-ipvs doctor", "check the node for the mode that serves, or that run would choose"),
            ("kube-ipvs doctor --proxy-mode ipvs --service-cidr 10.96.0.0/12", "check it for IPVS mode"),
            ("kube-ipvs doctor -o json | jq '.findings[].remedy'", "for programs"),
        ],
        exit: "0 nothing, or notes only; 1 it could not be examined; 2 warnings, or a wrong command line; 3 errors",
    },
    Epilogue {
        command: "switch",
        examples: &[
            ("kube-ipvs switch iptables --drain 1h", "iptables mode; open connections may go on for an hour"),
            ("kube-ipvs switch auto --no-wait", "back to choosing by itself; return once the new mode serves"),
        ],
        exit: DONE,
    },
    Epilogue {
        command: "status",
        examples: &[
            ("kube-ipvs status", "modes, what drains, last sync, last failure"),
            ("kube-ipvs status -o json | jq '.families[].in_sync'", "for programs"),
        ],
        exit: DONE,
    },
    Epilogue {
        command: "cleanup",
        examples: &[
            ("kube-ipvs cleanup", "remove all that is ours; the daemon has to be stopped"),
            ("kube-ipvs cleanup --keep-sysctls", "leave the settings of the kernel as they are"),
        ],
        exit: "0 nothing of ours is left, 1 not everything could be removed, 2 wrong command line",
    },
    Epilogue {
        command: "demo",
        examples: &[("kube-ipvs demo", "in network namespaces; leaves nothing behind")],
        exit: DONE,
    },
    Epilogue {
        command: "bench",
        examples: &[("kube-ipvs bench sync --services 1000 --endpoints 5", "all benchmarks are subcommands")],
        exit: DONE,
    },
    Epilogue {
        command: "bench sync",
        examples: &[(
            "kube-ipvs bench sync --services 1000 --endpoints 5 --mode iptables",
            "beside iptables-restore of the same",
        )],
        exit: DONE,
    },
    Epilogue {
        command: "bench mode-switch",
        examples: &[
            ("kube-ipvs bench mode-switch", "1,000 services of 5 endpoints, six switches, as a table"),
            ("kube-ipvs bench mode-switch --services 100,1000 --output html", "two sizes, as one page with plots"),
        ],
        exit: DONE,
    },
    Epilogue {
        command: "bench datapath",
        examples: &[(
            "kube-ipvs bench datapath --services 10,1000,5000",
            "first packets against the number of services",
        )],
        exit: DONE,
    },
    Epilogue {
        command: "bench daemon",
        examples: &[(
            "kube-ipvs bench daemon --services 10000 --endpoints 5 --mode iptables",
            "cold start, memory and changes with an API server",
        )],
        exit: DONE,
    },
    Epilogue {
        command: "bench fanout",
        examples: &[("kube-ipvs bench fanout --nodes 50 --services 200", "what fifty nodes ask of an API server")],
        exit: DONE,
    },
    Epilogue {
        command: "bench instructions",
        examples: &[("kube-ipvs bench instructions", "a change among 100 and among 10,000 services")],
        exit: "0 measured; 1 not measured, or the second takes more than 1.3 times the first; 2 wrong command line",
    },
    Epilogue {
        command: "bench table",
        examples: &[
            ("kube-ipvs bench table --mode ipvs", "100 to 44,000 services, of 1 and of 5 endpoints"),
            (
                "kube-ipvs bench table --mode iptables --services 100,1000 --output json",
                "two sizes, with everything that the single benchmarks told",
            ),
        ],
        exit: "0 measured, 1 something could not be measured",
    },
    Epilogue {
        command: "bench list",
        examples: &[("kube-ipvs bench list --runs 3", "10,000 services of 5 endpoints, beside ipvsadm -Ln")],
        exit: DONE,
    },
    Epilogue {
        command: "completions",
        examples: &[
            ("kube-ipvs completions bash > /etc/bash_completion.d/kube-ipvs", "for all users of bash"),
            ("kube-ipvs completions zsh > ~/.zfunc/_kube-ipvs", "for zsh, with ~/.zfunc in fpath"),
            ("kube-ipvs completions fish > ~/.config/fish/completions/kube-ipvs.fish", "for fish"),
        ],
        exit: DONE,
    },
    Epilogue {
        command: "man",
        examples: &[
            ("kube-ipvs man | man -l -", "read the page of the program"),
            ("kube-ipvs man --dir /usr/local/share/man/man1", "write a page for every command"),
        ],
        exit: DONE,
    },
];

/// The whole command line with the epilogue of every command.
pub fn dress(command: Command) -> Command {
    let commands = "kube-ipvs COMMAND --help tells more, with examples.";
    EPILOGUES.iter().fold(command.after_help(commands), |command, epilogue| put(command, epilogue.command, epilogue))
}

/// Puts an epilogue to the command at `path`; one that is not there is passed over.
fn put(command: Command, path: &str, epilogue: &Epilogue) -> Command {
    let (name, rest) = path.split_once(' ').unwrap_or((path, ""));
    if command.find_subcommand(name).is_none() {
        return command;
    }
    command.mut_subcommand(name, |found| {
        if rest.is_empty() { found.after_help(text(epilogue)) } else { put(found, rest, epilogue) }
    })
}

fn text(epilogue: &Epilogue) -> String {
    let examples: String =
        epilogue.examples.iter().map(|(example, what)| format!("  {example}\n      {what}\n")).collect();
    format!("Examples:\n{examples}\nExit status: {}", epilogue.exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::{CommandFactory, Parser};

    /// The paths of all commands that are shown.
    fn paths(command: &Command, prefix: &str, into: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            let path = format!("{prefix}{}", sub.get_name());
            paths(sub, &format!("{path} "), into);
            into.push(path);
        }
    }

    #[test]
    fn every_command_has_examples_and_says_what_its_exit_status_means() {
        let mut all = Vec::new();
        paths(&Cli::command(), "", &mut all);
        assert!(all.len() > 8, "{all:?}");
        for path in &all {
            let found = EPILOGUES.iter().find(|epilogue| epilogue.command == path);
            let epilogue = found.unwrap_or_else(|| panic!("kube-ipvs {path} has no examples"));
            assert!(!epilogue.examples.is_empty() && epilogue.exit.starts_with('0'), "{path}");
        }
        for epilogue in EPILOGUES {
            assert!(all.iter().any(|path| path == epilogue.command), "there is no command {}", epilogue.command);
        }
    }

    #[test]
    fn every_example_parses() {
        for epilogue in EPILOGUES {
            for (example, _) in epilogue.examples {
                let words: Vec<&str> =
                    example.split_whitespace().take_while(|word| !matches!(*word, "|" | ">")).collect();
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{example}: {error}");
                }
                let alias = words.get(1) == Some(&"diff") && epilogue.command == "plan";
                assert!(alias || words[1..].join(" ").starts_with(epilogue.command), "{example}");
            }
        }
    }

    #[test]
    fn help_shows_them() {
        let mut command = dress(Cli::command());
        let help = command.find_subcommand_mut("bench").and_then(|bench| bench.find_subcommand_mut("sync"));
        let help = help.map(|command| command.render_help().to_string()).unwrap_or_default();
        assert!(
            help.contains("Examples:\n  kube-ipvs bench sync --services") && help.contains("Exit status: 0"),
            "{help}"
        );
        assert!(Cli::try_parse_from(["kube-ipvs", "plan", "--no-such-flag"]).is_err());
    }
}
