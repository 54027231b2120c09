//! Where the bench happens: a network namespace of the thread's own with LANs, and a tunnel interface that is a plain L3
//! device, so that the cost of deciding shows and not that of encryption.
//!
//! ```text
//! LAN → tunnel:  sender ─► lan (veth) ─► [ours, or another way] ─► tunnel (TUN that nobody reads)
//! tunnel → LAN:  feeder ─► feed (veth) ─► [redirect inbound] ─► tunnel ─► [ours, or the kernel] ─► office (TAP)
//! ```

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use sdwan::dataplane::desired::Desired;
use sdwan::dataplane::{Attachment, Capacities, Dataplane, Direction, Settings};
use sdwan_common::abi::capacity;

use super::desired::{Ports, Size, add_site, desired};
use super::packets::HOST_MAC;
use crate::bed::offload;
use crate::tun;

/// Interfaces: where packets of the LAN come in, where they are sent from, the tunnel, where its packets come in, where
/// these are sent from, and a LAN that they go to.
pub const LAN: &str = "lan";
const SENDER: &str = "sender";
pub const TUNNEL: &str = "tunnel";
pub const FEED: &str = "feed";
const FEEDER: &str = "feeder";
pub const OFFICE: &str = "office";
/// MAC address of the gateway's LAN interfaces.
pub const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// A host of the office.
pub const OFFICE_HOST: [u8; 4] = [10, 3, 0, 5];

/// How long the kernel may take to take a program off.
const PATIENCE: Duration = Duration::from_secs(2);

/// The namespace. It ends with the thread.
pub struct Stage {
    bpffs: tempfile::TempDir,
    _devices: [File; 2],
    /// Processors that there are: the generator is on the first, what handles its packets on the last.
    pub processors: usize,
    /// Index of the LAN interface.
    pub lan: u32,
    /// Index of the interface whose packets come in at the LAN.
    pub sender: u32,
    /// Index of the tunnel.
    pub tunnel: u32,
    /// Index of the interface whose packets go on into the tunnel, inbound, if a program sends them there.
    pub feed: u32,
    /// Index of the interface whose packets come in there.
    pub feeder: u32,
    office: u32,
}

/// Runs a command; a failure tells what it said.
pub fn run(command: &str) -> Result<()> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output().with_context(|| command.to_owned())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

impl Stage {
    /// Makes the calling thread's namespaces.
    ///
    /// # Errors
    /// Without root, or where the kernel lacks TUN or veth.
    pub fn new() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("make namespaces: this needs root")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        // The kernel's view of this namespace's interfaces.
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
        let bpffs = tempfile::Builder::new().prefix("sdwan-datapath-").tempdir()?;
        mount(Some("bpf"), bpffs.path(), Some("bpf"), MsFlags::empty(), None::<&str>)?;
        // The kernel's own packets of IPv6 are none of the bench's.
        setting("ipv6/conf/default/addr_gen_mode", "1")?;
        setting("ipv6/conf/default/router_solicitations", "0")?;
        let [mac, host_mac] = [LAN_MAC, HOST_MAC].map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        run(&format!("ip link add {LAN} address {mac} type veth peer name {SENDER}"))?;
        run(&format!("ip link add {FEED} address {mac} type veth peer name {FEEDER}"))?;
        let devices = [tun::open(TUNNEL), tun::open_ethernet(OFFICE)];
        let [tunnel, office] = devices.map(|device| device.context("make a TUN or TAP device"));
        let devices = [tunnel?, office?];
        run(&format!("ip link set {OFFICE} address {mac}"))?;
        for interface in ["lo", LAN, SENDER, FEED, FEEDER, TUNNEL, OFFICE] {
            run(&format!("ip link set {interface} up"))?;
        }
        for address in [&format!("10.1.0.1/16 dev {LAN}"), &format!("10.3.0.1/16 dev {OFFICE}")] {
            run(&format!("ip address add {address}"))?;
        }
        run(&format!("ip address add fd00:a:3::1/48 dev {OFFICE} nodad"))?;
        for host in [OFFICE_HOST.map(|byte| byte.to_string()).join("."), "fd00:a:3::5".into()] {
            run(&format!("ip neigh replace {host} lladdr {host_mac} dev {OFFICE} nud permanent"))?;
        }
        for interface in [TUNNEL, OFFICE] {
            // No queue: what the device does with a packet is the end of its way.
            run(&format!("tc qdisc replace dev {interface} root noqueue"))?;
        }
        setting("ipv4/ip_forward", "1")?;
        setting("ipv6/conf/all/forwarding", "1")?;
        for interface in ["all", LAN, TUNNEL] {
            setting(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        for interface in [LAN, FEED] {
            // Packets of the generator come in by a ring, which a veth interface has with GRO only.
            offload::switch_on_gro(interface).context("switch GRO on")?;
        }
        let index = |name| nix::net::if_::if_nametoindex(name).with_context(|| format!("look up {name}"));
        Ok(Self {
            bpffs,
            _devices: devices,
            // Before this thread is tied to one of them.
            processors: std::thread::available_parallelism()?.get(),
            lan: index(LAN)?,
            sender: index(SENDER)?,
            tunnel: index(TUNNEL)?,
            feed: index(FEED)?,
            feeder: index(FEEDER)?,
            office: index(OFFICE)?,
        })
    }

    /// A data path that is filled but not attached. There may be several.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn dataplane(&self, size: Size) -> Result<Dataplane> {
        let number = std::fs::read_dir(self.bpffs.path())?.count();
        let mut dataplane = Dataplane::open(&Settings {
            directory: self.bpffs.path().join(format!("sdwan{number}")),
            capacities: Capacities {
                flows: size.flows,
                sites: u32::from(size.sites) + 1,
                classes: capacity::CLASSES,
                paths: 4 * (u32::from(size.sites) + 1),
                prefixes: 8 * (u32::from(size.sites) + 16),
            },
            tcp_rtt_per_second: 10,
        })?;
        dataplane.apply(&self.desired(size)?)?;
        Ok(dataplane)
    }

    /// Attaches our programs to the LANs and the tunnel, as the daemon does.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn attach(&self, dataplane: &mut Dataplane) -> Result<()> {
        let wanted = [
            (Direction::Lan, self.lan, LAN),
            (Direction::Lan, self.office, OFFICE),
            (Direction::Tunnel, self.tunnel, TUNNEL),
            (Direction::IntoTunnel, self.tunnel, TUNNEL),
        ];
        let wanted = wanted.map(|(direction, ifindex, name)| Attachment { direction, ifindex, interface: name.into() });
        attach(dataplane, &wanted.into())
    }

    /// Attaches only what counts on the way into the tunnel.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn attach_counting(&self, dataplane: &mut Dataplane) -> Result<()> {
        let (direction, ifindex) = (Direction::IntoTunnel, self.tunnel);
        attach(dataplane, &[Attachment { direction, ifindex, interface: TUNNEL.into() }].into())
    }

    /// Takes them off again; the maps stay.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn detach(&self, dataplane: &mut Dataplane) -> Result<()> {
        attach(dataplane, &BTreeSet::new())
    }

    /// Removes a data path, maps and all. The one that was made last comes first.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn remove(&self, dataplane: Dataplane) -> Result<()> {
        let directory = dataplane.layout().root().parent().context("a directory of pins")?.to_owned();
        drop(dataplane);
        Ok(sdwan::dataplane::detach_all(&directory)?)
    }

    /// Does something with data paths of some sizes, and removes them.
    ///
    /// # Errors
    /// When a data path can't be made or removed, or that fails.
    pub fn with<T, const N: usize>(
        &self,
        sizes: [Size; N],
        what: impl FnOnce(&mut [Dataplane; N]) -> Result<T>,
    ) -> Result<T> {
        let mut made = Vec::new();
        for size in sizes {
            made.push(self.dataplane(size)?);
        }
        let mut dataplanes = <[Dataplane; N]>::try_from(made).ok().context("as many as there are sizes")?;
        let outcome = what(&mut dataplanes);
        for dataplane in dataplanes.into_iter().rev() {
            self.remove(dataplane)?;
        }
        outcome
    }

    /// Each site has four prefixes, the first one 10.2.0.0/16 and fd00:a:2::/48 beside.
    fn desired(&self, size: Size) -> Result<Desired> {
        let parse = |texts: &[String]| texts.iter().map(|text| text.parse()).collect::<Result<Vec<IpNet>, _>>();
        let local = ["10.1.0.0/16", "10.3.0.0/16", "fd00:a:1::/48", "fd00:a:3::/48"].map(String::from);
        let ports = Ports { lan: vec![self.lan, self.office], tunnel: self.tunnel, mtu: 1_420 };
        let mut desired = desired(&ports, parse(&local)?, size.policies)?;
        for number in 0..size.sites {
            let [high, low] = number.to_be_bytes();
            let mut prefixes: Vec<_> = (0..4).map(|part| format!("172.{part}.{low}.{high}/32")).collect();
            if number == 0 {
                prefixes.extend(["10.2.0.0/16", "fd00:a:2::/48"].map(String::from));
            }
            add_site(&mut desired, number, parse(&prefixes)?, &ports);
        }
        Ok(desired)
    }
}

/// Attaches programs where they are wanted, and nowhere else.
///
/// # Errors
/// When the kernel refuses it.
pub fn attach(dataplane: &mut Dataplane, wanted: &BTreeSet<Attachment>) -> Result<()> {
    let start = Instant::now();
    loop {
        let Some(error) = dataplane.attach(wanted).into_iter().next() else { return Ok(()) };
        // The kernel takes off what was let go a moment later, and has no program twice.
        if start.elapsed() > PATIENCE {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sets a kernel setting of the namespace.
pub fn setting(name: &str, value: &str) -> Result<()> {
    std::fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("set {name} to {value}"))
}

/// A counter of an interface.
pub fn counter(interface: &str, name: &str) -> Result<u64> {
    let file = format!("/sys/class/net/{interface}/statistics/{name}");
    Ok(std::fs::read_to_string(&file).with_context(|| file.clone())?.trim().parse()?)
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = umount2(Path::new(self.bpffs.path()), MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.bpffs.path().display());
        }
    }
}
