//! The userspace WireGuard that this binary carries: one process per interface, around gotatun's device.
//!
//! gotatun rather than boringtun, whose device ends the process when a peer is changed, shares its UDP port with
//! whoever else asks for it, loses the firewall mark when the port changes, and fixes a peer's source address before
//! the mark can choose the route. Of gotatun this module replaces three parts:
//!
//! - its TUN reader takes a malformed packet for an error of the device; ours ([`tun`]) skips it,
//! - its UDP reader ends at the first error; ours ([`udp`]) goes on,
//! - its control socket adds a changed peer anew, which loses the session and the packets on their way; ours
//!   ([`control`]) changes the peer in place.
//!
//! What it says about its own failures isn't listened to: when its socket is reopened, its tasks now and then take
//! their own end for an error. With the parts above, only a removed interface is one.
//!
//! The process keeps running when the daemon ends, and ends when its interface is removed or on SIGTERM.

mod bundle;
mod control;
mod offload;
mod outlet;
mod tun;
mod udp;

pub use tun::check_tun;

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use gotatun::device::DeviceBuilder;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::confine::capabilities::{NET_ADMIN, Set, keep_only};
use tun::Tun;

/// Where WireGuard's tools look for control sockets.
const SOCKET_DIRECTORY: &str = "/var/run/wireguard";
/// How often the interface is looked at for its MTU and for having been removed.
const LOOK: Duration = Duration::from_millis(500);
/// Most threads that carry packets. gotatun works in stages (read, encrypt or decrypt, send), one task each and per
/// direction, and no stage on two cores at once. With iperf3 through one tunnel on two cores, one thread carried two
/// thirds of what two did, and a third one changed nothing that stood out of the noise.
const MOST_THREADS: usize = 3;

/// Why the userspace WireGuard ended or didn't start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TUN device can't be made.
    #[error("cannot create the TUN interface {interface}: {source}{}", remedy(source))]
    Tun {
        /// Name.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The control socket can't be made.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else that the process needs.
    #[error("cannot {action}: {source}")]
    Process {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// gotatun refused.
    #[error("cannot start WireGuard on {interface}: {source}")]
    Device {
        /// Name.
        interface: String,
        /// Why.
        #[source]
        source: gotatun::device::Error,
    },
}

/// What to do about a TUN interface that can't be made.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root or with CAP_NET_ADMIN",
        io::ErrorKind::NotFound => "; load the kernel's TUN driver with `modprobe tun`",
        io::ErrorKind::ResourceBusy => "; an interface of this name is there: remove it",
        _ => "",
    }
}

/// How a userspace WireGuard runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Stay in the session of whoever started it.
    pub foreground: bool,
    /// Threads that carry packets; `None`: as many as the machine has use for.
    pub threads: Option<usize>,
    /// Take TCP in bundles and cut them here, and the other way make bundles of what comes out.
    pub offload: bool,
}

/// Path of an interface's control socket.
pub fn socket_path(interface: &str) -> PathBuf {
    Path::new(SOCKET_DIRECTORY).join(format!("{interface}.sock"))
}

/// Path of the log of an interface's userspace WireGuard.
pub fn log_path(interface: &str) -> PathBuf {
    Path::new(SOCKET_DIRECTORY).join(format!("{interface}.log"))
}

/// Where control sockets and logs are.
pub fn socket_directory() -> &'static Path {
    Path::new(SOCKET_DIRECTORY)
}

/// Makes the directory of control sockets, for root alone.
pub fn make_socket_directory() -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(SOCKET_DIRECTORY)
}

/// Opens the log of an interface's userspace WireGuard, emptied.
pub fn open_log(interface: &str) -> io::Result<std::fs::File> {
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(log_path(interface))
}

/// Keeps the network alone, for the firewall mark of the sockets, and keys out of core dumps and debuggers.
fn give_up_privileges() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    keep_only(Set(1 << NET_ADMIN))
}

/// Runs the userspace WireGuard of one interface until the interface is removed or a signal ends it.
///
/// Without [`Options::foreground`] it leaves the session and the working directory of whoever started it.
pub fn run(interface: &str, options: &Options) -> Result<(), Error> {
    if !options.foreground {
        // A process that leads its group already has no terminal to lose.
        let _ = nix::unistd::setsid();
        std::env::set_current_dir("/").map_err(|source| Error::Process { action: "change to /", source })?;
    }
    let tun =
        Tun::create(interface, options.offload).map_err(|source| Error::Tun { interface: interface.into(), source })?;
    let socket = listen(interface)?;
    give_up_privileges().map_err(|source| Error::Process { action: "give up privileges", source })?;
    let threads =
        options.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1))
        .thread_name(interface)
        .enable_all()
        .build()
        .map_err(|source| Error::Process { action: "start threads", source })?;
    let outcome = runtime.block_on(serve(interface, tun, socket));
    let path = socket_path(interface);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(%error, path = %path.display(), "cannot remove the control socket");
    }
    // The tasks of the device have nothing to finish.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

/// Makes the control socket. The TUN interface exists by now, so that nobody else can be serving it.
fn listen(interface: &str) -> Result<std::os::unix::net::UnixListener, Error> {
    let path = socket_path(interface);
    let make = || {
        make_socket_directory()?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = std::os::unix::net::UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    make().map_err(|source| Error::Socket { path: path.clone(), source })
}

async fn serve(interface: &str, tun: Tun, socket: std::os::unix::net::UnixListener) -> Result<(), Error> {
    let process = |action| move |source| Error::Process { action, source };
    let (mtu_sender, mtu) = watch::channel(0);
    let tun = tun.into_async(mtu).map_err(|source| Error::Tun { interface: interface.into(), source })?;
    let socket = UnixListener::from_std(socket).map_err(process("listen for control connections"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(process("wait for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(process("wait for signals"))?;
    // A terminal that closes is none of its business.
    let _hangup = signal(SignalKind::hangup()).map_err(process("wait for signals"))?;

    let look = tun.clone();
    let device = DeviceBuilder::new()
        .with_udp(udp::PatientSockets::default())
        .with_ip(tun)
        .build()
        .await
        .map_err(|source| Error::Device { interface: interface.into(), source })?;
    let mut control = control::Control::new(device);
    info!(interface, "userspace WireGuard is up");

    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = socket.accept() => match accepted {
                Ok((stream, _)) => control.serve(stream).await,
                Err(error) => {
                    warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(LOOK).await;
                }
            },
            _ = ticks.tick() => match look.mtu() {
                Ok(mtu) => {
                    mtu_sender.send_if_modified(|known| std::mem::replace(known, mtu) != mtu);
                }
                Err(error) => {
                    info!(interface, %error, "the interface is gone");
                    return Ok(());
                }
            },
            () = look.gone() => {
                info!(interface, "the interface is gone");
                return Ok(());
            }
            _ = terminate.recv() => {
                info!(interface, "told to end");
                return Ok(());
            }
            _ = interrupt.recv() => {
                info!(interface, "interrupted");
                return Ok(());
            }
        }
    }
}
