//! A kernel with one mode only: there is nothing to switch to. What can be measured is that a daemon which is killed or ended
//! under traffic, and started again, is not noticed.

use super::report::{Restarted, Run};
use super::{ModeSwitchArgs, PATIENCE, hold};
use crate::commands::bench::field::Field;
use crate::commands::bench::load::Load;
use crate::commands::bench::proxy::Daemon;
use crate::reconcile::Mode;
use std::time::Instant;

/// Kills and ends the daemon in turns, and enters everything.
pub fn play(
    args: &ModeSwitchArgs,
    field: &Field,
    (mut daemon, mode): (Daemon, Mode),
    load: &Load,
    run: &mut Run,
) -> anyhow::Result<()> {
    let because = run.only_mode_because.clone().unwrap_or_default();
    eprintln!("bench: this kernel has {} mode only ({because}); measuring restarts instead of switches", mode.name());
    hold(args.hold)?;
    run.period("before", mode, load.cut());
    for number in 1..=args.switches {
        let killed = number % 2 == 1;
        let asked = Instant::now();
        if killed {
            daemon.kill()?;
        } else {
            daemon.stop()?;
        }
        let ended = asked.elapsed();
        let (next, ready) = Daemon::start(field, "auto", PATIENCE)?;
        daemon = next;
        run.period(&format!("restart {number}"), mode, load.cut());
        hold(args.hold)?;
        run.period(&format!("after {number}"), mode, load.cut());
        let usage = daemon.usage()?;
        let restarted = Restarted {
            number,
            how: if killed { "kill -9" } else { "SIGTERM" },
            at_ms: load.at(asked),
            ended_ms: ended.as_secs_f64() * 1000.0,
            in_sync_ms: ready.as_secs_f64() * 1000.0,
            processor: usage.own + usage.programs,
            peak_memory: usage.peak_memory,
        };
        let so_far = run.so_far(load);
        eprintln!(
            "bench: restart {number} ({}): in sync after {:.2} s; so far {so_far}",
            restarted.how,
            ready.as_secs_f64()
        );
        run.restarts.push(restarted);
        anyhow::ensure!(load.is_alive(), "the load generator has ended");
    }
    run.daemon = daemon.usage()?;
    Ok(())
}
