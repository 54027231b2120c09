//! What is looked at on the machine. Every function reads and changes nothing.

use std::collections::BTreeSet;
use std::path::Path;

use super::Check;
use crate::config::{Config, TunnelBackend};
use crate::daemon::missing_capabilities;
use crate::measure::capacity::may_keep_time;
use crate::measure::clock;
use crate::measure::stamp::answer::ClockQuality;

/// First kernel with tcx links.
const TCX_KERNEL: (u32, u32) = (6, 6);

/// All checks. Those that need the configuration are left out without one.
pub(super) fn checks(config: Option<&Config>) -> Vec<Check> {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let status = read("/proc/self/status").unwrap_or_default();
    let mut checks = vec![
        privileges(&status),
        kernel(&release),
        type_information(),
        bpf_file_system(config.map_or(Path::new("/sys/fs/bpf"), |config| &config.dataplane.bpffs)),
        wireguard(&release, config.map_or(TunnelBackend::Auto, |config| config.tunnel.backend)),
    ];
    checks.extend(jit());
    checks.push(clock());
    checks.push(pacing(&status, &read("/proc/self/limits").unwrap_or_default()));
    if let Some(config) = config {
        checks.extend(interfaces(config));
        checks.push(super::identity::check(config, super::super::when::now_ns().unsigned_abs() / 1_000_000_000));
    }
    checks
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

pub(in crate::cli) fn privileges(status: &str) -> Check {
    let missing = missing_capabilities(status);
    if missing.is_empty() {
        return Check::ok("privileges", "are sufficient");
    }
    let remedy = "run as root, for example with `sudo sdwan check`, or start the daemon with `systemctl start sdwan`";
    Check::failed("privileges", format!("{} missing", missing.join(", ")), remedy)
}

/// Major and minor version of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(in crate::cli) fn kernel(release: &str) -> Check {
    let (oldest, tcx) = (sdwan_common::kernel::OLDEST, TCX_KERNEL);
    match version(release) {
        Some(version) if version >= tcx => Check::ok("kernel", format!("{release}; programs attach by tcx")),
        Some(version) if version >= oldest => Check::warning(
            "kernel",
            format!("{release} has no tcx; programs attach by clsact"),
            format!("works; an upgrade of the daemon is seamless from kernel {}.{} on", tcx.0, tcx.1),
        ),
        Some(_) => Check::failed(
            "kernel",
            format!("{release} is older than any that sdwan is tested on"),
            format!("install kernel {}.{} or later", oldest.0, oldest.1),
        ),
        None => Check::warning("kernel", format!("its release {release:?} can't be read"), "look at `uname -r`"),
    }
}

fn type_information() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    if Path::new(path).exists() {
        Check::ok("BTF", "the kernel describes its types")
    } else {
        let remedy = "use a distribution's kernel, or build one with CONFIG_DEBUG_INFO_BTF=y";
        Check::failed("BTF", format!("{path} is missing"), remedy)
    }
}

fn bpf_file_system(pins: &Path) -> Check {
    let existing = pins.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match nix::sys::statfs::statfs(existing) {
        Ok(found) if found.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC => {
            Check::ok("bpffs", format!("{} is on a BPF file system", pins.display()))
        }
        Ok(_) => Check::failed(
            "bpffs",
            format!("{} is not on a BPF file system", pins.display()),
            "mount one with `mount -t bpf bpf /sys/fs/bpf`, or set `bpffs` in [dataplane] to where it is",
        ),
        Err(errno) => Check::failed("bpffs", format!("{}: {errno}", existing.display()), "run as root"),
    }
}

fn wireguard(release: &str, backend: TunnelBackend) -> Check {
    let loaded = Path::new("/sys/module/wireguard").exists();
    let module = |list: &str| {
        let text = read(format!("/lib/modules/{release}/{list}")).unwrap_or_default();
        text.lines().any(|line| line.split(':').next().is_some_and(|path| path.contains("/wireguard.ko")))
    };
    let kernel = loaded || module("modules.dep") || module("modules.builtin");
    let tun = Path::new("/dev/net/tun").exists();
    match (backend, kernel, tun) {
        (TunnelBackend::Auto | TunnelBackend::Kernel, true, _) => Check::ok("WireGuard", "the kernel has it"),
        (TunnelBackend::Kernel, false, _) => Check::failed(
            "WireGuard",
            format!("the kernel {release} has none, and `backend` in [tunnel] is \"kernel\""),
            "install the module (`apt-get install wireguard`), or set backend = \"auto\"",
        ),
        (TunnelBackend::Auto, false, true) => Check::warning(
            "WireGuard",
            format!("the kernel {release} has none; the one in the binary carries the tunnels"),
            "works, more slowly; install the module (`apt-get install wireguard`) for speed",
        ),
        (TunnelBackend::Userspace, _, true) => Check::ok("WireGuard", "the one in the binary carries the tunnels"),
        (_, _, false) => Check::failed(
            "WireGuard",
            "/dev/net/tun is missing, which the one in the binary needs",
            "load it with `modprobe tun`, or install the kernel's WireGuard",
        ),
    }
}

fn jit() -> Option<Check> {
    match read("/proc/sys/net/core/bpf_jit_enable")?.as_str() {
        "0" => Some(Check::warning(
            "BPF JIT",
            "is off: the data path is interpreted, about ten times slower",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        )),
        _ => Some(Check::ok("BPF JIT", "is on")),
    }
}

fn clock() -> Check {
    judge_clock(crate::cli::when::now_ns(), clock::quality())
}

/// Is the time plausible, and does something keep it?
pub(in crate::cli) fn judge_clock(now_ns: i64, quality: ClockQuality) -> Check {
    // 2025-01-01: certificates and announcements carry dates.
    if now_ns <= 1_735_689_600_000_000_000 {
        let remedy = "set the clock, for example with chrony: certificates have dates";
        return Check::failed("clock", "is wrong: it shows a date in the past", remedy);
    }
    if !quality.synchronized {
        return Check::warning(
            "clock",
            "is not kept by anything (NTP, PTP): announcements of a clock that is off by minutes are refused, delays of one \
             direction can't be told",
            "install chrony, or `timedatectl set-ntp true`",
        );
    }
    Check::ok("clock", format!("is kept, off by {} ms at most", quality.error_ns.div_ceil(1_000_000)))
}

/// Whether trains of capacity measurements may be paced at real-time priority.
pub(in crate::cli) fn pacing(status: &str, limits: &str) -> Check {
    if may_keep_time(status, limits) {
        return Check::ok("pacing", "capacity is measured at real-time priority");
    }
    Check::warning(
        "pacing",
        "capacity is measured without real-time priority: figures scatter more while the machine is busy",
        "set LimitRTPRIO=1 and no RestrictRealtime= in the unit, as docs/sdwan.service does",
    )
}

/// Interfaces that carry a default route, IPv4 or IPv6.
fn default_route_interfaces() -> BTreeSet<String> {
    let four = read("/proc/net/route").unwrap_or_default();
    let six = read("/proc/net/ipv6_route").unwrap_or_default();
    default_routes(&four, &six)
}

/// The same from the texts of /proc/net/route and /proc/net/ipv6_route.
pub(in crate::cli) fn default_routes(four: &str, six: &str) -> BTreeSet<String> {
    let mut interfaces = BTreeSet::new();
    for line in four.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [interface, "00000000", _, flags, _, _, _, "00000000", ..] = fields[..]
            && u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1)
        {
            interfaces.insert(interface.to_owned());
        }
    }
    for line in six.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [destination, "00", .., flags, interface] = fields[..]
            && destination.bytes().all(|byte| byte == b'0')
            // RTF_UP and RTF_GATEWAY: the kernel's own unreachable default is neither.
            && u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & 3 == 3)
        {
            interfaces.insert(interface.to_owned());
        }
    }
    interfaces
}

fn interfaces(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    if config.uplinks.is_empty() {
        let found = default_route_interfaces();
        checks.push(if found.is_empty() {
            let remedy = "add a default route, or list the uplinks as [[uplink]] (or --interface)";
            Check::failed("uplinks", "none is configured, and no interface carries a default route", remedy)
        } else {
            let names: Vec<&str> = found.iter().map(String::as_str).collect();
            Check::ok("uplinks", format!("{} (from the default routes)", names.join(", ")))
        });
    }
    for uplink in &config.uplinks {
        let remedy = format!("check `interface` of uplink {:?}; `ip link` lists the names", uplink.name);
        checks.push(interface("uplink", &uplink.interface, remedy));
    }
    for lan in &config.lan.interfaces {
        checks.push(interface("LAN", &lan.name, "check `interfaces` in [lan]; `ip link` lists the names".into()));
    }
    checks
}

fn interface(name: &'static str, interface: &str, remedy: String) -> Check {
    let state = |file: &str| read(format!("/sys/class/net/{interface}/{file}"));
    if !Path::new("/sys/class/net").join(interface).exists() {
        return Check::failed(name, format!("there is no interface {interface}"), remedy);
    }
    match (state("operstate").as_deref(), state("carrier").as_deref()) {
        (Some("down" | "lowerlayerdown" | "notpresent"), _) | (_, Some("0") | None) => Check::warning(
            name,
            format!("{interface} is down"),
            format!("`ip link set {interface} up`, and look at the cable"),
        ),
        _ => Check::ok(name, format!("{interface} is up")),
    }
}
