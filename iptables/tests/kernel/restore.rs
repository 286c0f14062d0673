//! Failures, other programs' rules, missing capabilities.

use std::time::Duration;

use iptables::{Chain, ChainName, Position, Protocol, Rule, Table, Target, Transaction, Variant};

use crate::netns::{ALL, commands, in_netns};

const OURS: ChainName = ChainName::from_static("KUBE-OURS");
const LEAF: ChainName = ChainName::from_static("KUBE-LEAF");
const OUTPUT: ChainName = ChainName::from_static("OUTPUT");

#[test]
fn a_failure_keeps_the_input_and_names_the_line() {
    in_netns(|| {
        for (variant, family) in ALL {
            let Some(commands) = commands(variant, family) else { continue };
            let mut transaction = Transaction::new();
            let rules = vec![Rule::new().accept(), Rule::new().raw("-m nosuchmatch --x 1").accept()];
            transaction.replace_chain(Table::Nat, &Chain::new(OURS, rules));
            let error = commands.restore(&transaction).unwrap_err();
            assert_eq!(error.input, transaction.render());
            assert_eq!(error.line, Some((4, "-A KUBE-OURS -m nosuchmatch --x 1 -j ACCEPT".to_owned())), "{error}");
            assert!(error.status().is_some_and(|status| !status.success()));
            assert!(error.stderr().contains("nosuchmatch") && error.to_string().contains("line 4"), "{error}");
            // Nothing of the table was taken.
            assert!(commands.save(&[Table::Nat]).unwrap().chain(Table::Nat, OURS).is_none());
            assert!(commands.check(&transaction).is_err());

            // What only the kernel refuses: a chain that is still in use.
            let mut busy = Transaction::new();
            busy.add_chain(Table::Nat, Chain::new(OURS, vec![Rule::new().jump(LEAF)])).delete_chain(Table::Nat, LEAF);
            let error = commands.restore(&busy).unwrap_err();
            assert!(error.line.is_some(), "{error}");
            assert_eq!(error.input, busy.render());
        }
    });
}

#[test]
fn a_program_that_is_missing_or_hangs() {
    in_netns(|| {
        let Some(mut commands) = commands(ALL[0].0, ALL[0].1) else { return };
        let mut transaction = Transaction::new();
        transaction.add_chain(Table::Nat, Chain::new(OURS, vec![]));
        commands.timeout = Duration::ZERO;
        let error = commands.restore(&transaction).unwrap_err();
        assert!(error.to_string().contains("killed after"), "{error}");
        commands.restore_path = "/nonexistent/iptables-restore".into();
        let error = commands.restore(&transaction).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/iptables-restore --noflush -w 5: cannot start"), "{error}");
    });
}

#[test]
fn another_program_holds_the_lock() {
    use nix::fcntl::{Flock, FlockArg};
    in_netns(|| {
        let Some(mut commands) = commands(Variant::Legacy, ALL[0].1) else { return };
        commands.lock_wait = Duration::from_secs(1);
        let mut transaction = Transaction::new();
        transaction.add_chain(Table::Nat, Chain::new(OURS, vec![]));
        let file =
            std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open("/run/xtables.lock");
        let lock = Flock::lock(file.unwrap(), FlockArg::LockExclusive).unwrap();
        let error = commands.restore(&transaction).unwrap_err();
        assert!(error.is_lock_timeout(), "{error}");
        drop(lock);
        // Other tests may hold it by now.
        commands.lock_wait = Duration::from_secs(30);
        commands.restore(&transaction).unwrap();
    });
}

#[test]
fn rules_of_others_survive() {
    in_netns(|| {
        for (variant, family) in ALL {
            let Some(commands) = commands(variant, family) else { continue };
            commands
                .restore("*nat\n:OTHERS - [0:0]\n-A OTHERS -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 8080\n\
                          -A OUTPUT -m comment --comment \"not ours\" -j OTHERS\n-A OUTPUT -m owner --uid-owner 7 -j RETURN\nCOMMIT\n")
                .unwrap();
            let before = commands.save(&[Table::Nat]).unwrap();
            let jump = Rule::new().comment("kubernetes service portals").jump(OURS);
            let last = Rule::new().comment("last").jump(OURS);
            let mut ours = Transaction::new();
            ours.add_chain(Table::Nat, Chain::new(OURS, vec![Rule::new().jump(LEAF)]))
                .add_chain(Table::Nat, Chain::new(LEAF, vec![Rule::new().return_()]))
                .insert_jump(Table::Nat, OUTPUT, Position::First, jump.clone())
                .insert_jump(Table::Nat, OUTPUT, Position::First, Rule::new().comment("second"))
                .insert_jump(Table::Nat, OUTPUT, Position::Last, last.clone());
            commands.restore(&ours).unwrap();
            let during = commands.save(&[Table::Nat]).unwrap();
            let output = during.chain(Table::Nat, OUTPUT).unwrap();
            assert_eq!(output.rules.first(), Some(&jump), "the first given stands first");
            assert_eq!(output.rules[1].comment_text(), Some("second"));
            assert_eq!(output.rules.last(), Some(&last));
            assert_eq!(output.rules.len(), 5);
            assert_eq!(output.raw[3], "-A OUTPUT -m owner --uid-owner 7 -j RETURN");
            let mut gone = Transaction::new();
            gone.delete_jump(Table::Nat, OUTPUT, jump)
                .delete_jump(Table::Nat, OUTPUT, Rule::new().comment("second"))
                .delete_jump(Table::Nat, OUTPUT, last)
                .delete_chain(Table::Nat, LEAF)
                .delete_chain(Table::Nat, OURS);
            commands.restore(&gone).unwrap();
            assert_eq!(commands.save(&[Table::Nat]).unwrap(), before, "{variant}");
            // Deleting once more what is gone is no error.
            let mut again = Transaction::new();
            again.delete_chain(Table::Nat, LEAF).delete_chain(Table::Nat, OURS);
            commands.restore(&again).unwrap();
        }
    });
}

#[test]
fn counters_are_read() {
    in_netns(|| {
        for (variant, family) in ALL {
            let Some(commands) = commands(variant, family) else { continue };
            commands
                .restore("*filter\n:KUBE-OURS - [0:0]\n[7:420] -A KUBE-OURS -j ACCEPT\n-A KUBE-OURS\nCOMMIT\n")
                .unwrap();
            let saved = commands.save_with_counters(&[Table::Filter]).unwrap();
            let counters = &saved.chain(Table::Filter, OURS).unwrap().counters;
            assert_eq!(counters.len(), 2);
            assert_eq!(commands.save(&[Table::Filter]).unwrap().chain(Table::Filter, OURS).unwrap().counters, []);
        }
    });
}

#[test]
fn what_the_kernel_lacks_is_said() {
    in_netns(|| {
        for (variant, family) in ALL {
            let Some(commands) = commands(variant, family) else { continue };
            let probe = ChainName::from_static("KUBE-PROBE");
            assert_eq!(
                commands.missing_for(Table::Filter, probe, &Rule::new().ctstate(&[iptables::CtState::New])),
                None
            );
            let no_such = Rule::new().raw("-m nosuchmatch --x 1");
            assert!(
                commands.missing_for(Table::Filter, probe, &no_such).is_some_and(|said| said.contains("nosuchmatch"))
            );
            // DNAT is no target of the filter table: the kernel or the program refuses.
            let wrong = Rule::new().protocol(Protocol::Tcp).target(Target::Other("DNAT --to-destination :80".into()));
            assert!(!commands.supports(Table::Filter, probe, &wrong));
            assert!(commands.save(&[Table::Filter]).unwrap().chain(Table::Filter, probe).is_none());
        }
    });
}

#[test]
fn reading_legacy_tables_does_not_create_them() {
    in_netns(|| {
        let Some(commands) = commands(Variant::Legacy, ALL[0].1) else { return };
        let names = || std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
        assert_eq!(names(), "");
        assert_eq!(commands.save(&[Table::Nat, Table::Raw]).unwrap(), iptables::Saved::default());
        assert_eq!((names().as_str(), commands.forks()), ("", 0));
        commands.restore("*raw\n:KUBE-OURS - [0:0]\nCOMMIT\n").unwrap();
        assert_eq!(commands.save(&[Table::Nat, Table::Raw]).unwrap().tables.len(), 1);
        assert_eq!((names().trim(), commands.forks()), ("raw", 2));
    });
}

#[test]
fn a_transaction_applied_in_memory_gives_what_the_kernel_gives() {
    in_netns(|| {
        for (variant, family) in ALL {
            let Some(commands) = commands(variant, family) else { continue };
            let mut plan = Transaction::new();
            plan.add_chain(Table::Nat, Chain::new(OURS, vec![Rule::new().or_mark(1), Rule::new().jump(LEAF)]))
                .add_chain(Table::Nat, Chain::new(LEAF, vec![Rule::new().comment("x y").return_()]))
                .insert_jump(Table::Nat, OUTPUT, Position::First, Rule::new().comment("1").jump(OURS))
                .insert_jump(Table::Nat, OUTPUT, Position::First, Rule::new().comment("2").jump(OURS))
                .insert_jump(Table::Nat, OUTPUT, Position::Last, Rule::new().comment("3").jump(OURS));
            let mut change = Transaction::new();
            change
                .add_chain(Table::Nat, Chain::new(OURS, vec![Rule::new().accept()]))
                .delete_jump(Table::Nat, OUTPUT, Rule::new().comment("2").jump(OURS))
                .delete_chain(Table::Nat, LEAF);
            let mut memory = iptables::Saved::default();
            for step in [plan, change] {
                commands.restore(&step).unwrap();
                memory.apply(&step).unwrap();
                assert_eq!(commands.save(&[Table::Nat]).unwrap(), memory, "{variant}");
            }
        }
    });
}
