//! `/debug/…`, where profiling is on: what a Rust program can honestly say there. Upstream serves Go's net/http/pprof.
//!
//! A sampling profiler within the process interrupts it by signals and unwinds the stack in their handlers, which is not
//! sound in every library that may be interrupted. So there is none; `perf` does it from outside. What is here comes from
//! /proc: what each thread is doing, and how much processor time it has used.

use super::http::Answer;
use super::pages::{not_found, plain};
use hyper::StatusCode;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const INDEX: &str = "/debug/pprof/\n\n\
    cmdline: the command line, its words divided by zero bytes\n\
    threads: each thread with its state, its processor time, and where in the kernel it waits\n\n\
    Profiles of Go's runtime (allocs, block, goroutine, heap, mutex, profile, threadcreate, trace) are not served: this is \
    no Go program. For a profile of the processor: perf record -g -p PID. The program has line tables.\n";

/// The page, if there is one.
pub fn page(path: &str) -> Answer {
    match path {
        "/debug/pprof" | "/debug/pprof/" => plain(INDEX),
        "/debug/pprof/cmdline" => plain(fs::read_to_string("/proc/self/cmdline").unwrap_or_default()),
        "/debug/pprof/threads" => plain(threads()),
        "/debug/flags/v" => refused("The level of the log is set by -v or logging.verbosity, and takes a new start.\n"),
        path if path.starts_with("/debug/pprof/") => refused(INDEX),
        _ => not_found(),
    }
}

fn refused(why: &str) -> Answer {
    let mut answer = plain(why);
    *answer.status_mut() = StatusCode::NOT_IMPLEMENTED;
    answer
}

/// One line a thread; the longest-running first.
fn threads() -> String {
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut found: Vec<(u64, String)> = entries.filter_map(|entry| thread(&entry.path())).collect();
    found.sort_by(|a, b| b.cmp(a));
    let mut text = String::from("thread                  state  ticks  waits in\n");
    for (_, line) in found {
        text += &line;
    }
    text
}

fn thread(folder: &Path) -> Option<(u64, String)> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let (head, rest) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Fields 14 and 15 of proc_pid_stat(5); the third is the first here.
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let state = fields.first()?;
    let wait = fs::read_to_string(folder.join("wchan")).unwrap_or_default();
    let wait = if wait.is_empty() || wait == "0" { "-" } else { &*wait };
    let mut line = String::new();
    writeln!(line, "{name:<24}{state:<7}{ticks:<7}{wait}").ok()?;
    Some((ticks, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_this_process() {
        let text = threads();
        assert!(text.lines().count() > 1, "{text}");
        assert_eq!(page("/debug/pprof/heap").status(), StatusCode::NOT_IMPLEMENTED);
        assert_eq!(page("/debug/else").status(), StatusCode::NOT_FOUND);
    }
}
