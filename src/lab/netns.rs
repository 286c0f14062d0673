//! A network namespace without a name.
//!
//! The namespace is created by a thread that leaves the process's own one; from then on a file descriptor keeps it. That
//! thread stays and starts programs on request: a child inherits the namespace of the thread that forks it, and a
//! child that asked the kernel for a signal at its parent's death (PR_SET_PDEATHSIG) means the parent *thread*, so
//! that thread has to live as long as the namespace is in use.

use std::fs::File;
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::LabError;

/// A handle to a network namespace; clones are the same namespace. It goes away with the last handle, its last socket
/// and its last process.
#[derive(Debug, Clone)]
pub struct NetNs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
    spawner: Mutex<mpsc::Sender<SpawnRequest>>,
}

struct SpawnRequest {
    command: Command,
    reply: mpsc::Sender<io::Result<Child>>,
}

impl NetNs {
    /// Creates a namespace with nothing but a loopback interface that is down. `name` is for messages only.
    ///
    /// # Errors
    /// [`LabError::CreateNamespace`] without CAP_SYS_ADMIN or when the kernel has no network namespaces.
    pub fn create(name: &str) -> Result<Self, LabError> {
        let (ready, created) = mpsc::channel();
        let (spawner, requests) = mpsc::channel();
        thread::Builder::new()
            .name(format!("netns {name}"))
            .spawn(move || keep_namespace(&ready, &requests))
            .map_err(LabError::CreateNamespace)?;
        let file = created
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
            .map_err(LabError::CreateNamespace)?;
        Ok(Self(Arc::new(Inner { name: name.to_owned(), file, spawner: Mutex::new(spawner) })))
    }

    /// The name given at creation.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The file descriptor that stands for the namespace (for IFLA_NET_NS_FD and the like).
    pub(super) fn file(&self) -> &File {
        &self.0.file
    }

    /// Moves the calling thread into the namespace, for good. Sockets opened by this thread from now on belong to it.
    ///
    /// # Errors
    /// When setns(2) is refused.
    pub fn enter(&self) -> Result<(), LabError> {
        setns(&self.0.file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| LabError::step(self.name(), "entering the namespace", errno))
    }

    /// Runs `work` on a fresh thread inside the namespace and returns what it returned. A panic in `work` goes on in the
    /// caller.
    ///
    /// # Errors
    /// When no thread could be started or the namespace not be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name(format!("in {}", self.name()))
                .spawn_scoped(scope, || self.enter().map(|()| work()))
                .map_err(|error| LabError::step(self.name(), "starting a thread", error))?;
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a program inside the namespace. It outlives neither itself nor anything here on its own account: kill it
    /// and wait for it as for any other child.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_process(&self, command: Command) -> Result<Child, LabError> {
        let what = format!("starting {}", command.get_program().to_string_lossy());
        let gone = || LabError::ThreadGone { host: self.name().to_owned() };
        let (reply, started) = mpsc::channel();
        let spawner = self.0.spawner.lock().map_err(|_| gone())?.clone();
        spawner.send(SpawnRequest { command, reply }).map_err(|_| gone())?;
        started.recv().map_err(|_| gone())?.map_err(|error| LabError::step(self.name(), what, error))
    }
}

/// Body of the thread that made the namespace: hands out its file, then starts programs until the handle is gone.
fn keep_namespace(ready: &mpsc::Sender<io::Result<File>>, requests: &mpsc::Receiver<SpawnRequest>) {
    let created = unshare(CloneFlags::CLONE_NEWNET)
        .map_err(io::Error::from)
        // thread-self and not self: only this thread is in the new namespace.
        .and_then(|()| File::open("/proc/thread-self/ns/net"));
    let failed = created.is_err();
    if ready.send(created).is_err() || failed {
        return;
    }
    while let Ok(mut request) = requests.recv() {
        // The asker may have given up; then there is nobody to hand the child to and it must not be left running.
        if let Err(mpsc::SendError(Ok(mut orphan))) = request.reply.send(request.command.spawn()) {
            let _ = orphan.kill();
            let _ = orphan.wait();
        }
    }
}
