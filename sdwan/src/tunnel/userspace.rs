//! The userspace WireGuard that this binary carries, one child process per tunnel.
//!
//! A child is told from its control socket: the kernel vouches for the process that listens there, so that no file
//! with a process id can be stale or forged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use wireguard_control as wg;

use super::backend::{Backend, BackendKind, ObservedTunnel, TunnelChange};
use super::kernel::{check_port, device_updates, find, interface_name, observed};
use super::{Error, device, tunnel_of_interface};
use crate::engine::types::TunnelKey;
use crate::net::{self, link};

/// Kind of a TUN interface.
const KIND: &str = "tun";
/// The subcommand of this binary that is a userspace WireGuard.
const SUBCOMMAND: &str = "userspace-wireguard";
/// A child that doesn't answer by then won't.
const START: Duration = Duration::from_secs(5);
/// A child that was told to end has this long before it is killed.
const END: Duration = Duration::from_secs(2);
/// Pause between looks at something that is about to happen.
const POLL: Duration = Duration::from_millis(5);
/// Bytes of a child's log that go into an error.
const LAST_WORDS: usize = 1_000;

/// Tunnels by userspace WireGuards.
pub struct UserspaceBackend {
    program: PathBuf,
    arguments: Vec<String>,
    /// Children that this process started: it has to take leave of them when they end.
    children: BTreeMap<TunnelKey, Child>,
    /// Processes found at work that may be children of ours from before this process executed itself anew.
    adopted: BTreeSet<Pid>,
}

impl Default for UserspaceBackend {
    fn default() -> Self {
        Self::new("/proc/self/exe".into(), vec![SUBCOMMAND.into()])
    }
}

impl UserspaceBackend {
    /// Children are started as `program arguments… INTERFACE`.
    pub fn new(program: PathBuf, arguments: Vec<String>) -> Self {
        Self { program, arguments, children: BTreeMap::new(), adopted: BTreeSet::new() }
    }

    fn start(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        let interface = tunnel.interface();
        let failed = |reason: String| Error::Child { interface: interface.clone(), reason };
        let log = device::make_socket_directory()
            .and_then(|()| device::open_log(&interface))
            .map_err(|error| failed(format!("its log cannot be opened: {error}")))?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .arg(&interface)
            // Its last words shall be the error itself.
            .env("RUST_LIB_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| failed(format!("{} cannot be run: {error}", self.program.display())))?;
        let child = self.children.entry(tunnel).insert_entry(child).into_mut();
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                self.children.remove(&tunnel);
                return Err(failed(format!("it ended ({status}): {}", last_words(&interface))));
            }
            if listener(&interface).is_some_and(|process| u32::try_from(process.as_raw()) == Ok(child.id())) {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        // It may still come up, and must not then.
        let _ = child.kill();
        let _ = child.wait();
        self.children.remove(&tunnel);
        Err(failed(format!("no control socket after {} s: {}", START.as_secs(), last_words(&interface))))
    }

    /// Takes leave of children that have ended.
    fn reap(&mut self) {
        self.children.retain(|_, child| !matches!(child.try_wait(), Ok(Some(_))));
        // What isn't a child of ours (ECHILD) has another that takes leave of it.
        self.adopted.retain(|pid| waitpid(*pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive));
    }

    /// Remembers who works for an interface; says whether anyone does.
    fn adopt(&mut self, interface: &str) -> bool {
        let Some(process) = listener(interface) else { return false };
        let started = |child: &Child| u32::try_from(process.as_raw()) == Ok(child.id());
        if !self.children.values().any(started) {
            self.adopted.insert(process);
        }
        true
    }

    /// Ends the child of a tunnel and waits until its interface is gone.
    fn end(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        let interface = tunnel.interface();
        if let Some(process) = listener(&interface) {
            signal(process, Signal::SIGTERM);
            if !self.gone(&interface)? {
                signal(process, Signal::SIGKILL);
            }
        }
        if !self.gone(&interface)? {
            // Nobody answers for it: a child that hangs or lost its socket. It ends when it misses its interface.
            if let Some(found) = find(tunnel, KIND)? {
                link::delete(&found.name, found.ifindex)?;
            }
        }
        for path in [device::socket_path(&interface), device::log_path(&interface)] {
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(net::Error::File { action: "remove", path, source }.into());
                }
                _ => {}
            }
        }
        self.reap();
        Ok(())
    }

    /// Waits for an interface to go, but not for ever.
    fn gone(&mut self, interface: &str) -> Result<bool, Error> {
        let deadline = Instant::now() + END;
        loop {
            self.reap();
            if link::find(interface)?.is_none() {
                return Ok(true);
            }
            // Without a listener nothing is about to happen.
            if Instant::now() > deadline || listener(interface).is_none() {
                return Ok(link::find(interface)?.is_none());
            }
            thread::sleep(POLL);
        }
    }
}

impl Backend for UserspaceBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Userspace
    }

    fn list(&mut self) -> Result<Vec<TunnelKey>, Error> {
        self.reap();
        let ours = link::links()?.into_iter().filter(|link| link.kind.as_deref() == Some(KIND));
        Ok(ours.filter_map(|link| tunnel_of_interface(&link.name)).collect())
    }

    fn observe(&mut self, tunnel: TunnelKey) -> Result<Option<ObservedTunnel>, Error> {
        self.reap();
        let interface = tunnel.interface();
        // An interface without a process that answers is a half-made one: it is created anew.
        let Some(found) = find(tunnel, KIND)? else { return Ok(None) };
        if !self.adopt(&interface) {
            return Ok(None);
        }
        match wg::Device::get(&interface_name(&interface)?, wg::Backend::Userspace) {
            Ok(device) => Ok(Some(observed(&found, device))),
            // It ended just now.
            Err(_) if listener(&interface).is_none() => Ok(None),
            Err(source) => Err(Error::WireGuard { action: "read the configuration of", interface, source }),
        }
    }

    fn create(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        let interface = tunnel.interface();
        if find(tunnel, KIND)?.is_some() || listener(&interface).is_some() {
            if find(tunnel, KIND)?.is_some() && listener(&interface).is_some() {
                return Ok(());
            }
            self.end(tunnel)?;
        }
        self.start(tunnel)
    }

    fn configure(&mut self, tunnel: TunnelKey, change: &TunnelChange) -> Result<(), Error> {
        let interface = tunnel.interface();
        check_port(&interface, change)?;
        for update in device_updates(change) {
            // Without a socket wireguard-control would start whatever `wireguard-go` it finds.
            if listener(&interface).is_none() {
                return Err(Error::Child { interface, reason: "it ended while it was configured".into() });
            }
            update.apply(&interface_name(&interface)?, wg::Backend::Userspace).map_err(|source| Error::WireGuard {
                action: "configure",
                interface: interface.clone(),
                source,
            })?;
        }
        if let Some(found) = find(tunnel, KIND)? {
            link::set_up(&interface, found.ifindex, change.mtu)?;
        }
        Ok(())
    }

    fn delete(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        self.end(tunnel)
    }
}

/// The process that listens at an interface's control socket, if it is a WireGuard of this interface.
fn listener(interface: &str) -> Option<Pid> {
    let stream = UnixStream::connect(device::socket_path(interface)).ok()?;
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = mem::size_of_val(&credentials) as libc::socklen_t;
    // SAFETY: SO_PEERCRED writes one `ucred`, whose size `length` tells; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    // A listener in another process namespace has no number here: it can be talked to, but it isn't ours to end.
    if result != 0 || credentials.pid <= 0 {
        return None;
    }
    let command = std::fs::read(format!("/proc/{}/cmdline", credentials.pid)).ok()?;
    let last = command.split(|byte| *byte == 0).rfind(|argument| !argument.is_empty())?;
    (last == interface.as_bytes()).then(|| Pid::from_raw(credentials.pid))
}

fn signal(process: Pid, signal: Signal) {
    // It may have ended meanwhile: then there is nothing to do.
    let _ = kill(process, signal);
}

/// The end of a child's log.
fn last_words(interface: &str) -> String {
    let mut text = Vec::new();
    let read = std::fs::File::open(device::log_path(interface)).and_then(|mut file| file.read_to_end(&mut text));
    match read {
        Ok(0) => "it said nothing".into(),
        Ok(length) => {
            let tail = &text[length.saturating_sub(LAST_WORDS)..];
            String::from_utf8_lossy(tail).trim().lines().collect::<Vec<_>>().join("; ")
        }
        Err(error) => format!("its log cannot be read: {error}"),
    }
}
