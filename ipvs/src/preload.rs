//! Loading the modules of two schedulers before the kernel does it in a way that can lock it up.
//!
//! The kernel loads a scheduler's module while it holds IPVS's mutex (`ip_vs_add_service` → `request_module`). The
//! modules `ip_vs_lblc` and `ip_vs_lblcr` register with all network namespaces when they start, which waits for the
//! removal of any namespace that is under way, and that waits for IPVS's mutex (`cleanup_net` → `ip_vs_dst_event`),
//! with the lock of all network configuration held. Seen on 6.1, and 6.12 hung likewise: nothing on the machine can
//! configure networking from then on. So these modules are loaded first, while no mutex is held.

use std::path::Path;

use crate::{Command, Scheduler};

/// Which schedulers' modules were looked after already.
#[derive(Debug, Default)]
pub(crate) struct Preloaded {
    done: Vec<Scheduler>,
}

impl Preloaded {
    /// Loads what `commands` need, each once.
    pub fn prepare(&mut self, commands: &[Command]) {
        for command in commands {
            let (Command::AddService(service) | Command::SetService(service)) = command else { continue };
            let scheduler = service.scheduler;
            if needs_preloading(scheduler) && !self.done.contains(&scheduler) {
                self.done.push(scheduler);
                preload(&scheduler.module());
            }
        }
    }
}

/// The two that are known to wait for namespaces, and those of which nothing is known.
fn needs_preloading(scheduler: Scheduler) -> bool {
    match scheduler {
        Scheduler::Lblc | Scheduler::Lblcr => true,
        Scheduler::Other(name) => name.as_str() != "none",
        _ => false,
    }
}

/// Has the kernel load `module` by asking for a network interface of that name (`dev_load`), which takes
/// `CAP_SYS_MODULE` and no program. Whether it worked does not matter here: the kernel will say what is missing.
fn preload(module: &str) {
    if !Path::new("/sys/module").join(module).exists() {
        let _ = nix::net::if_::if_nametoindex(module);
    }
}
