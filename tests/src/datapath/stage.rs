//! Where the bench happens: a network namespace of the thread's own with a LAN, and a tunnel interface that is a plain L3
//! device, so that the cost of deciding shows and not that of encryption.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;
use sdwan::dataplane::desired::{
    CandidateDesired, Desired, LanIngress, PathDesired, SetDesired, SiteDesired, WallClock,
};
use sdwan::dataplane::{Attachment, Capacities, Dataplane, Direction, Settings};
use sdwan::engine::Time;
use sdwan::engine::policy::{Match, Policy, PortRange, Protocol, compile, default_policies};
use sdwan::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};

use crate::bed::offload;
use crate::tun;

/// Interfaces: where packets come in, where they are sent from, and the tunnel.
pub const LAN: &str = "lan";
const SENDER: &str = "sender";
pub const TUNNEL: &str = "tunnel";
/// MAC address of the gateway's LAN interface.
pub const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The namespace. It ends with the thread.
pub struct Stage {
    bpffs: tempfile::TempDir,
    _tunnel: File,
    /// Index of the LAN interface.
    pub lan: u32,
    /// Index of the interface whose packets come in at the LAN.
    pub sender: u32,
    /// Index of the tunnel.
    pub tunnel: u32,
}

/// How much the data path holds.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Flows that there is room for.
    pub flows: u32,
    /// Remote sites.
    pub sites: u16,
    /// Policies beside the default ones.
    pub policies: u16,
}

impl Size {
    /// Three sites, the default policies, and the default flow table.
    pub const SMALL: Self = Self { flows: sdwan_common::abi::capacity::FLOWS, sites: 2, policies: 0 };
}

/// Runs a command; a failure tells what it said.
pub fn run(command: &str) -> Result<()> {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output().with_context(|| command.to_owned())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Ties this thread, or another, to a processor.
pub fn pin(thread: Pid, processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(thread, &set).with_context(|| format!("tie thread {thread} to processor {processor}"))
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
        setting("ipv6/conf/default/disable_ipv6", "1")?;
        let mac = LAN_MAC.map(|byte| format!("{byte:02x}")).join(":");
        run(&format!("ip link add {LAN} address {mac} type veth peer name {SENDER}"))?;
        let tunnel = tun::open(TUNNEL).context("make a TUN device")?;
        for interface in ["lo", LAN, SENDER, TUNNEL] {
            run(&format!("ip link set {interface} up"))?;
        }
        run(&format!("ip address add 10.1.0.1/16 dev {LAN}"))?;
        // No queue: what the device does with a packet is the end of its way.
        run(&format!("tc qdisc replace dev {TUNNEL} root noqueue"))?;
        setting("ipv4/ip_forward", "1")?;
        for interface in ["all", LAN] {
            setting(&format!("ipv4/conf/{interface}/rp_filter"), "0")?;
        }
        // Packets of the generator come in by a ring, which a veth interface has with GRO only.
        offload::switch_on_gro(LAN).context("switch GRO on")?;
        let index = |name| nix::net::if_::if_nametoindex(name).with_context(|| format!("look up {name}"));
        Ok(Self { bpffs, _tunnel: tunnel, lan: index(LAN)?, sender: index(SENDER)?, tunnel: index(TUNNEL)? })
    }

    /// What comes in at the LAN is handled by a thread of its own on this processor.
    ///
    /// # Errors
    /// When the kernel has no such threads for it.
    pub fn handle_on(&self, processor: usize) -> Result<()> {
        std::fs::write(format!("/sys/class/net/{LAN}/threaded"), "1").context("threaded NAPI")?;
        let mut found = false;
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.starts_with(&format!("napi/{LAN}-")) {
                pin(Pid::from_raw(number), processor)?;
                found = true;
            }
        }
        ensure!(found, "there is no thread that handles {LAN}'s packets");
        Ok(())
    }

    /// Our data path, filled and attached.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn dataplane(&self, size: Size) -> Result<Dataplane> {
        let mut dataplane = Dataplane::open(&Settings {
            directory: self.bpffs.path().join("sdwan"),
            capacities: Capacities {
                flows: size.flows,
                sites: u32::from(size.sites) + 1,
                classes: 64,
                paths: 4 * (u32::from(size.sites) + 1),
                prefixes: 8 * (u32::from(size.sites) + 16),
            },
            tcp_rtt_per_second: 10,
        })?;
        dataplane.apply(&self.desired(size)?)?;
        Ok(dataplane)
    }

    /// Attaches our program to the LAN.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn attach(&self, dataplane: &mut Dataplane) -> Result<()> {
        let wanted = Attachment { direction: Direction::Lan, ifindex: self.lan, interface: LAN.into() };
        let errors = dataplane.attach(&BTreeSet::from([wanted]));
        ensure!(errors.is_empty(), "{errors:?}");
        Ok(())
    }

    /// Takes it away again, maps and all.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn detach(&self, dataplane: Dataplane) -> Result<()> {
        drop(dataplane);
        Ok(sdwan::dataplane::detach_all(&self.bpffs.path().join("sdwan"))?)
    }

    fn desired(&self, size: Size) -> Result<Desired> {
        let mut policies = default_policies();
        policies.extend((0..size.policies).map(policy));
        let compilation = compile(&policies, &["lan".into()], 64)?;
        let mut desired = Desired {
            overlay: IpAddr::from([100, 64, 0, 1]),
            local_prefixes: vec!["10.1.0.0/16".parse()?],
            lan: vec![LanIngress { ifindex: self.lan, vlan: None, zone: 0 }],
            sites: BTreeMap::new(),
            sets: BTreeMap::new(),
            paths: BTreeMap::new(),
            classes: compilation.classes.iter().map(|class| class.abi()).collect(),
            rules: compilation.rules,
            fast_path: sdwan_common::abi::fast_path::BOTH,
            outer_port: 0,
            flow_event_mask: u32::MAX,
            events_per_second: 0,
            heartbeat_stale: Duration::from_secs(3_600),
            clock: WallClock { offset_ns: 0, scale: 0 },
        };
        for number in 0..size.sites {
            self.add_site(&mut desired, number)?;
        }
        Ok(desired)
    }

    /// A site with four prefixes and four paths, all of which lead into the one tunnel. The first is 10.2.0.0/16.
    fn add_site(&self, desired: &mut Desired, number: u16) -> Result<()> {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let site = SiteId(id);
        let [high, low] = number.to_be_bytes();
        let mut prefixes = (0..4_u8).map(|part| format!("172.{part}.{low}.{high}/32")).collect::<Vec<_>>();
        if number == 0 {
            prefixes.push("10.2.0.0/16".into());
        }
        let prefixes: Result<Vec<_>, _> = prefixes.iter().map(|prefix| prefix.parse()).collect();
        let overlay = IpAddr::from([100, 65, high, low]);
        desired.sites.insert(site, SiteDesired { overlay, prefixes: prefixes? });
        let paths: Vec<PathKey> = [(0, 0), (0, 1), (1, 0), (1, 1)]
            .into_iter()
            .filter_map(|(local, remote)| {
                let tunnel = TunnelKey { local: UplinkIndex::new(local)?, remote: UplinkIndex::new(remote)? };
                Some(PathKey { site, tunnel })
            })
            .collect();
        for path in &paths {
            let path_desired = PathDesired {
                ifindex: self.tunnel,
                mark: 0,
                mtu: 1_420,
                up: true,
                detection: Duration::ZERO,
                last_answer: Time(0),
                peer_detection: Duration::ZERO,
            };
            desired.paths.insert(*path, path_desired);
        }
        let candidates: Vec<_> = (0..)
            .zip(&paths)
            .map(|(rank, path)| CandidateDesired { path: *path, rank, weight: 1, full: false })
            .collect();
        for class in 0..desired.classes.len() as u16 {
            desired.sets.insert((site, class), SetDesired { candidates: candidates.clone(), keep_rank: 0 });
        }
        Ok(())
    }
}

/// One of many policies that the bench's packets don't match: each looks at another port of another prefix.
fn policy(number: u16) -> Policy {
    let alternative = Match {
        protocols: vec![Protocol(17)],
        destination_ports: vec![PortRange(1_000 + number..=1_000 + number)],
        ..Match::default()
    };
    Policy {
        name: format!("bench-{number}"),
        priority: 1_000 + number,
        matches: vec![alternative],
        class: Some("default".into()),
        ..default_policies().remove(3)
    }
}

/// Sets a kernel setting of the namespace.
pub fn setting(name: &str, value: &str) -> Result<()> {
    std::fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("set {name} to {value}"))
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = umount2(Path::new(self.bpffs.path()), MntFlags::MNT_DETACH) {
            eprintln!("{}: {error}", self.bpffs.path().display());
        }
    }
}
