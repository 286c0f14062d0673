//! Runs qemu: its arguments, and the sockets over which output and exit status come back.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Machine, Outcome, Stdout, TIMED_OUT};
use crate::process;

/// The 9p tag of the writable folder.
pub const SHARE_TAG: &str = "shared";

/// The virtio ports of the machine; guest/start.sh knows these names too.
const PORTS: [&str; 3] = ["control", "stdout", "stderr"];

/// Everything that can be emulated but cmpxchg16b, with which the allocator of Linux 6.x frees without a lock: qemu 7.2 was
/// seen to hand its operand to the kernel as the flags register ("double fault" in `__kmalloc_cache_node_noprof`).
const PROCESSOR: &str = "max,-cx16";

/// What the control port said, or the end of qemu.
enum Event {
    Started,
    Exited(u8),
    Gone,
}

/// Boots the machine and runs to the end of its job.
pub fn run(machine: &Machine, initramfs: &[u8], shared: Option<&Path>, stdout: Stdout) -> Result<Outcome> {
    let scratch = Scratch::create()?;
    fs::write(scratch.file("initramfs"), initramfs).context("writing the initramfs")?;
    let [control, out, err] = PORTS.map(|port| UnixListener::bind(scratch.file(port)));
    let (control, out, err) = (control?, out?, err?);

    let begin = Instant::now();
    let mut qemu = Qemu::start(machine, &scratch, shared)?;
    let (control, out, err) = (qemu.accept(&control)?, qemu.accept(&out)?, qemu.accept(&err)?);
    let out = thread::spawn(move || copy(out, io::stdout(), stdout == Stdout::PassAndKeep));
    let err = thread::spawn(move || copy(err, io::stderr(), false));
    let (sender, events) = mpsc::channel();
    thread::spawn(move || watch(control, &sender));

    let mut boot = None;
    let status = loop {
        match events.recv_timeout(machine.timeout.saturating_sub(begin.elapsed())) {
            Ok(Event::Started) => boot = Some(begin.elapsed()),
            Ok(Event::Exited(status)) => break Some(status),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                eprintln!("xtask: the virtual machine was stopped after {} s", machine.timeout.as_secs());
                break Some(TIMED_OUT);
            }
            Ok(Event::Gone) | Err(mpsc::RecvTimeoutError::Disconnected) => break None,
        }
    };
    // Nothing of the machine is needed any more: all output has been read by qemu before the status came.
    qemu.stop();
    let kept = out.join().unwrap_or_default();
    let _ = err.join();
    let Some(status) = status else {
        bail!("the virtual machine ended without an exit status; its console said:\n{}", scratch.console());
    };
    if boot.is_none() {
        eprintln!("xtask: the command was never started; the console said:\n{}", scratch.console());
    }
    Ok(Outcome { status, boot: boot.unwrap_or_default(), stdout: kept })
}

fn arguments(machine: &Machine, scratch: &Scratch, shared: Option<&Path>) -> Vec<String> {
    let mut arguments: Vec<String> = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        .into_iter()
        .chain(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2"])
        .chain(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
        .map(String::from)
        .collect();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add("-m", format!("{}M", machine.memory));
    add("-kernel", machine.kernel.image().display().to_string());
    add("-initrd", escaped(&scratch.file("initramfs")));
    add("-append", KERNEL_PARAMETERS.to_owned());
    add("-serial", format!("file:{}", escaped(&scratch.file("console"))));
    for port in PORTS {
        add("-chardev", format!("socket,id={port},path={}", escaped(&scratch.file(port))));
        add("-device", format!("virtserialport,chardev={port},name={port}"));
    }
    add("-virtfs", share("machine", Path::new("/"), "readonly=on"));
    if let Some(folder) = shared {
        add("-virtfs", share(SHARE_TAG, folder, "readonly=off"));
    }
    arguments
}

/// Quiet and without what only costs time in an emulated, short-lived machine. A panic ends it at once.
const KERNEL_PARAMETERS: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable \
    random.trust_cpu=on audit=0 cryptomgr.notests";

fn share(tag: &str, folder: &Path, access: &str) -> String {
    format!("local,path={},mount_tag={tag},security_model=none,multidevs=remap,{access}", escaped(folder))
}

/// qemu's options end a value at a comma, and take two commas for one.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

struct Qemu(Child);

impl Qemu {
    fn start(machine: &Machine, scratch: &Scratch, shared: Option<&Path>) -> Result<Self> {
        let qemu = process::program("qemu-system-x86_64")?;
        // setpriv makes the kernel kill qemu when this process ends in whatever way, Ctrl-C included.
        let child = Command::new(process::program("setpriv")?)
            .args(["--pdeathsig", "KILL", "--"])
            .arg(qemu)
            .args(arguments(machine, scratch, shared))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting qemu")?;
        Ok(Self(child))
    }

    /// Waits for qemu to connect, which it does before the machine starts.
    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        listener.set_nonblocking(true)?;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Some(status) = self.0.try_wait()? {
                        bail!("qemu ended at once: {status}");
                    }
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error).context("waiting for qemu"),
            }
        }
    }

    fn stop(&mut self) {
        // Fails only where qemu has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.stop();
    }
}

fn watch(control: UnixStream, events: &mpsc::Sender<Event>) {
    for line in BufReader::new(control).lines().map_while(Result::ok) {
        let event = match line.split_once(' ') {
            Some(("exit", status)) => status.parse().map_or(Event::Gone, Event::Exited),
            _ => Event::Started,
        };
        if events.send(event).is_err() {
            return;
        }
    }
    // The receiver is gone when the job has ended.
    let _ = events.send(Event::Gone);
}

/// Copies until the machine ends. Where nobody reads our output any more, the rest is dropped as `| head` expects.
fn copy(mut from: UnixStream, mut to: impl Write, keep: bool) -> Vec<u8> {
    let (mut kept, mut buffer, mut open) = (Vec::new(), [0; 16 * 1024], true);
    while let Ok(length) = from.read(&mut buffer) {
        let Some(chunk) = buffer.get(..length).filter(|chunk| !chunk.is_empty()) else { break };
        open = open && to.write_all(chunk).and_then(|()| to.flush()).is_ok();
        if keep {
            kept.extend_from_slice(chunk);
        }
    }
    kept
}

/// A folder for one run. Its name carries our process id, so that a later run clears away what a killed one left.
struct Scratch(PathBuf);

const SCRATCH_PREFIX: &str = "kube-ipvs-vm-";

impl Scratch {
    fn create() -> Result<Self> {
        let parent = std::env::temp_dir();
        remove_left_over(&parent);
        let (process, mut number) = (std::process::id(), 0);
        loop {
            let folder = parent.join(format!("{SCRATCH_PREFIX}{process}-{number}"));
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(Self(folder)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).with_context(|| format!("creating {}", folder.display())),
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn console(&self) -> String {
        fs::read(self.file("console")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is tried again by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn remove_left_over(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(SCRATCH_PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        if !Path::new("/proc").join(process).exists() {
            // Another run may be clearing the same folder.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
