//! A place of a test's own: network namespace, BPF file system, a LAN interface and two tunnel interfaces.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// MAC address of the LAN interface.
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What a test has to itself.
pub struct Sandbox {
    bpffs: tempfile::TempDir,
}

/// Runs a test in a sandbox, or says by its name why it can't run here. The namespaces end with the test's thread.
pub fn sandboxed(test: &'static str, body: impl FnOnce(&Sandbox) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: {test}: namespaces and eBPF programs need root");
        return;
    }
    if !Path::new("/dev/net/tun").exists() {
        println!("skipped: {test}: the kernel has no TUN device");
        return;
    }
    let thread = std::thread::spawn(move || {
        let sandbox = Sandbox::new();
        body(&sandbox);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Sandbox {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may make namespaces");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts can be made private");
        let bpffs = tempfile::Builder::new().prefix("sdwan-dataplane-").tempdir().expect("a directory");
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>).expect("bpffs can be mounted");
        // IPv6 speaks up by itself on every interface, which would be counted.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("a setting of the namespace");
        Self { bpffs }
    }

    /// Where the BPF file system is.
    pub fn bpffs(&self) -> &Path {
        self.bpffs.path()
    }

    /// Makes the pair `host` and `lan`: what is sent into the one comes in at the other. Returns the index of `lan`.
    pub fn add_lan(&self) -> u32 {
        let mac = LAN_MAC.map(|byte| format!("{byte:02x}")).join(":");
        run(&format!("ip link add lan address {mac} type veth peer name host"));
        run("ip link set lan up");
        run("ip link set host up");
        index("lan")
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.bpffs.path(), MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.bpffs.path().display());
        }
    }
}

/// A tunnel interface whose far end is this object: the packets that are sent into it can be read here.
pub struct Tun {
    file: File,
    /// Interface index.
    pub ifindex: u32,
}

impl Tun {
    /// Makes it and sets it up.
    pub fn new(name: &str) -> Self {
        let file = sdwan_tests::tun::open(name).expect("a TUN device");
        run(&format!("ip link set {name} mtu 1420 up"));
        Self { file, ifindex: index(name) }
    }

    /// The next packet, or `None` when none comes within a second.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        if !self.readable(1_000) {
            return None;
        }
        let mut packet = vec![0; 2_048];
        let length = self.file.read(&mut packet).expect("a packet is there");
        packet.truncate(length);
        Some(packet)
    }

    /// Is there no packet?
    pub fn is_empty(&mut self) -> bool {
        !self.readable(0)
    }

    fn readable(&self, wait_ms: i32) -> bool {
        let mut descriptor = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor is passed, and it lives through the call.
        let ready = unsafe { libc::poll(&raw mut descriptor, 1, wait_ms) };
        assert!(ready >= 0, "{}", io::Error::last_os_error());
        ready > 0
    }
}

/// Sends a UDP packet from the LAN towards a remote site.
pub fn send_udp(source_port: u16, destination: [u8; 4], destination_port: u16) {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], LAN_MAC)
        .ipv4([10, 1, 0, 5], destination, 64)
        .udp(source_port, destination_port)
        .write(&mut frame, b"payload")
        .expect("memory takes any packet");
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(socket >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeros are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index("host") as i32;
    // SAFETY: the frame and the address live through the call, with the lengths that are passed.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        )
    };
    assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
}

/// Index of an interface.
pub fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap_or_else(|error| panic!("{interface}: {error}"))
}

/// Runs a command and returns what it prints. A `·` is a space within an argument.
pub fn run(command: &str) -> String {
    let words: Vec<String> = command.split(' ').map(|word| word.replace('·', " ")).collect();
    let output =
        Command::new(&words[0]).args(&words[1..]).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits up to two seconds for something to become true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
