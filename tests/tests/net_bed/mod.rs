//! Network namespaces for the tests of `net` and `tunnel`. Each belongs to a thread, which has a mount namespace of
//! its own too: WireGuard's control sockets lie in one directory for all of a machine. Nothing has a name outside, so
//! copies can run side by side, and the kernel clears everything away with the last process inside.

// Every test binary uses its own part of this.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::fs;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use sdwan::engine::types::{TunnelKey, UplinkIndex};
use sdwan::net::UplinkSpec;
use tokio::runtime::Runtime;

type Job = Box<dyn FnOnce(&Runtime) + Send>;

/// A network namespace and the thread that lives in it.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces (needs root)");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
            // A state directory for this namespace alone, and within it the sockets.
            fs::create_dir_all("/run/wireguard").expect("the socket directory");
            mount(Some("tmpfs"), "/run/wireguard", Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            tell.send(gettid().as_raw()).expect("the test waits");
            while let Ok(job) = queue.recv() {
                job(&runtime);
            }
        });
        let namespace = Self { jobs: Some(jobs), thread: Some(thread), tid: told.recv().expect("a namespace") };
        namespace.ip("link set lo up");
        // Duplicate address detection takes seconds, in which a router can't ask for its neighbours.
        namespace.run(|| {
            for which in ["default", "all"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0").expect("no detection");
            }
        });
        namespace
    }

    /// Runs something in the namespace.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.job(move |_| work())
    }

    /// Runs something asynchronous in the namespace. Tasks that it leaves behind go on with the next one.
    pub fn block_on<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        self.job(move |runtime| runtime.block_on(async { work().await }))
    }

    fn job<T: Send + 'static>(&self, work: impl FnOnce(&Runtime) -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move |runtime| {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(runtime)));
            // The test may have given up.
            let _ = tell.send(outcome);
        });
        self.jobs.as_ref().expect("open").send(job).expect("the namespace's thread");
        match told.recv().expect("an outcome") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs `ip` in the namespace and gives back what it prints.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        let line = arguments.to_owned();
        self.run(move || ip(&line))
    }

    /// Joins two namespaces by a cable.
    #[track_caller]
    pub fn cable(&self, name: &str, other: &Self, other_name: &str) {
        self.ip(&format!("link add {name} type veth peer name {other_name} netns {}", other.tid));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {other_name} up"));
    }

    /// Waits until a cable carries packets: until the kernel has attended to its carrier, up to a second later, it
    /// drops them.
    #[track_caller]
    pub fn await_cable(&self, name: &str) {
        eventually("the cable", || self.ip(&format!("link show {name}")).contains("state UP"));
    }

    /// Packets sent out of an interface so far.
    #[track_caller]
    pub fn sent_packets(&self, interface: &str) -> u64 {
        self.counted(interface, 10)
    }

    /// Packets that came in at an interface so far, bundles counted once.
    #[track_caller]
    pub fn received_packets(&self, interface: &str) -> u64 {
        self.counted(interface, 2)
    }

    /// A column of the kernel's list of interfaces.
    #[track_caller]
    fn counted(&self, interface: &str, column: usize) -> u64 {
        let interface = format!("{interface}:");
        self.run(move || {
            let text = fs::read_to_string("/proc/thread-self/net/dev").expect("the interfaces");
            let line = text.lines().find(|line| line.trim_start().starts_with(&interface)).expect("the interface");
            line.split_whitespace().nth(column).expect("a column").parse().expect("a number")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `ip` in the calling thread's namespace.
#[track_caller]
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip (iproute2)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits for something to come true.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// The program behind a userspace tunnel.
pub fn child_program() -> (PathBuf, Vec<String>) {
    // Set once, before anything reads it; says that the children shall not survive the test.
    static TIED: std::sync::Once = std::sync::Once::new();
    TIED.call_once(|| {
        // SAFETY: nothing in these tests reads the environment at the same time but the start of children, which
        // comes after this.
        unsafe { std::env::set_var("SDWAN_TEST_TIED", "1") }
    });
    (env!("CARGO_BIN_EXE_userspace-wireguard").into(), Vec::new())
}

pub fn ip_of(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn index(number: u8) -> UplinkIndex {
    UplinkIndex::new(number).expect("an uplink index")
}

pub fn tunnel(local: u8, remote: u8) -> TunnelKey {
    TunnelKey { local: index(local), remote: index(remote) }
}

pub fn spec(number: u8, interface: &str) -> UplinkSpec {
    UplinkSpec {
        index: index(number),
        name: interface.into(),
        interface: interface.into(),
        gateways: Vec::new(),
        public_addresses: Vec::new(),
        cost: 0,
        rate_up: None,
        rate_down: None,
    }
}

/// A UDP socket bound to a device, which sends to one address and waits at most `patience` for each answer.
pub fn bound_socket(device: Option<&str>, to: SocketAddr, patience: Duration) -> std::net::UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::DGRAM, None).expect("a socket");
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes())).expect("bound to the device");
    }
    socket.connect(&to.into()).expect("a route");
    socket.set_read_timeout(Some(patience)).expect("a timeout");
    socket.into()
}
