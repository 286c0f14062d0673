//! Programs that behave as other versions do, or badly: shell scripts in place of iptables.

use std::path::PathBuf;
use std::process::Command;

use iptables::{Commands, Family, RunFailure, SaveFailure, Table, Transaction, Variant};

/// A script in the tests' own directory. A child writes it: were it open for writing here, a program that another test
/// starts at that moment would hold it open too, and running it would fail with ETXTBSY.
fn script(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
    let status = Command::new("/bin/sh").args(["-c", write]).arg(&path).arg(text).status().unwrap();
    assert!(status.success());
    path
}

fn saving(name: &str, text: &str) -> Commands {
    Commands::new(Family::V4, Variant::Nft, "/bin/false".into(), script(name, text))
}

#[test]
fn an_error_with_status_zero_is_an_error() {
    let commands = saving("save-error", "echo 'Could not fetch rule set generation id: Permission denied' >&2");
    let error = commands.save(&[Table::Nat]).unwrap_err();
    assert!(matches!(error.failure, SaveFailure::Incomplete { .. }), "{error}");
    assert!(error.to_string().contains("Permission denied"), "{error}");
    let cut = saving("save-cut", "printf '*nat\\n:OUTPUT ACCEPT [0:0]\\n'; echo 'out of memory' >&2");
    let error = cut.save(&[Table::Nat]).unwrap_err();
    assert!(matches!(error.failure, SaveFailure::Unreadable { .. }), "{error}");
    let refused = saving("save-refused", "echo no >&2; exit 3");
    assert!(matches!(refused.save(&[Table::Nat]).unwrap_err().failure, SaveFailure::Run(RunFailure::Refused { .. })));
}

#[test]
fn a_warning_is_no_error() {
    let commands = saving("save-warning", "echo '# Warning: iptables-legacy tables present' >&2");
    assert_eq!(commands.save(&[Table::Nat]).unwrap().tables.len(), 0);
}

#[test]
fn the_input_and_the_options_arrive_unchanged() {
    let seen = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("restore-seen");
    let restore = script("restore-tee", &format!("echo \"$@\" > {0}.args; cat > {0}", seen.display()));
    let mut commands = Commands::new(Family::V4, Variant::Legacy, restore, "/bin/false".into());
    commands.version = Some((1, 8, 7));
    let input = "*nat\n-A OUTPUT -m comment --comment \"x\"\nCOMMIT\n".repeat(5_000);
    let report = commands.restore(&input).unwrap();
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), input);
    let arguments = || std::fs::read_to_string(seen.with_extension("args")).unwrap();
    assert_eq!(arguments(), "--noflush -w 5 -W 100000\n");
    assert_eq!((report.bytes, report.runs, commands.forks()), (input.len(), 1, 1));
    commands.version = Some((1, 8, 9));
    commands.check("*nat\nCOMMIT\n").unwrap();
    assert_eq!(arguments(), "--noflush -w 5 --test\n");
    // Nothing to write runs nothing.
    assert_eq!(commands.restore(&Transaction::new()).unwrap().runs, 0);
    assert_eq!(commands.forks(), 2);
}
