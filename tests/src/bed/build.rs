//! From the description of a bed to its namespaces.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::emulator::Impairment;
use super::error::{BedError, Result};
use super::keeper::{Keeper, Kind, Request, Response};
use super::link::{Link, Parts};
use super::namespace::Namespace;
use super::netem;
use super::plan::{self, Families, Provider, UplinkPosition, check_name};
use super::site::{Host, Site};
use super::stale::{self, Process, Record};
use super::{Bed, available};

/// The interface at a bridged provider that joins its customers and has its own address.
pub(super) const BRIDGE: &str = "segment";

/// How long interfaces get to come up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Description of a bed. The default: sites `a`, `b`, `c` with one host each and an uplink to each of the providers
/// `isp1` and `isp2`, both bridges.
#[derive(Clone, Debug)]
pub struct Builder {
    sites: Vec<String>,
    hosts: usize,
    providers: Vec<(String, Provider)>,
    /// By site: (uplink, provider).
    uplinks: HashMap<String, Vec<(String, String)>>,
    families: Families,
    impairments: HashMap<(String, String), [Impairment; 2]>,
    mtus: HashMap<(String, String), u16>,
    by_keeper: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            sites: ["a", "b", "c"].map(String::from).into(),
            hosts: 1,
            providers: vec![("isp1".into(), Provider::Bridge), ("isp2".into(), Provider::Bridge)],
            uplinks: HashMap::new(),
            families: Families::Both,
            impairments: HashMap::new(),
            mtus: HashMap::new(),
            by_keeper: false,
        }
    }
}

impl Builder {
    /// Names of the sites; site number `n` (from 1) has the LAN prefixes `10.n.0.0/16` and `fd00:n::/48`.
    pub fn sites<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.sites = names.into_iter().map(Into::into).collect();
        self
    }

    /// Hosts at each site, each on a LAN interface of its own (`lan0`, `lan1`, …) of the gateway.
    pub fn hosts(mut self, hosts: usize) -> Self {
        self.hosts = hosts;
        self
    }

    /// The providers.
    pub fn providers<S: Into<String>>(mut self, providers: impl IntoIterator<Item = (S, Provider)>) -> Self {
        self.providers = providers.into_iter().map(|(name, kind)| (name.into(), kind)).collect();
        self
    }

    /// Uplinks of one site as (name, provider), instead of one to each provider with the provider's name.
    pub fn uplinks<S: Into<String>>(mut self, site: &str, uplinks: impl IntoIterator<Item = (S, S)>) -> Self {
        let uplinks = uplinks.into_iter().map(|(name, provider)| (name.into(), provider.into())).collect();
        self.uplinks.insert(site.into(), uplinks);
        self
    }

    /// Address families of the underlay. LANs always have both.
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// Impairs a line from the start, both ways.
    pub fn impair(self, site: &str, uplink: &str, impairment: Impairment) -> Self {
        self.impair_directions(site, uplink, impairment.clone(), impairment)
    }

    /// Impairs a line from the start: (site → provider, provider → site).
    pub fn impair_directions(mut self, site: &str, uplink: &str, up: Impairment, down: Impairment) -> Self {
        self.impairments.insert((site.into(), uplink.into()), [up, down]);
        self
    }

    /// MTU of both ends of a line instead of 1500 bytes.
    pub fn mtu(mut self, site: &str, uplink: &str, mtu: u16) -> Self {
        self.mtus.insert((site.into(), uplink.into()), mtu);
        self
    }

    /// Has the keeper emulate lines even where the kernel could (netem): it keeps account of each packet.
    pub fn by_keeper(mut self) -> Self {
        self.by_keeper = true;
        self
    }

    /// Builds it. Everything is up and addressed when this returns.
    pub fn build(self) -> Result<Bed> {
        available().map_err(BedError::Unavailable)?;
        self.check()?;
        let (prefix, directory) = stale::new_directory()?;
        let keeper = match Keeper::start(&prefix, &directory) {
            Ok(keeper) => Arc::new(keeper),
            Err(error) => {
                stale::remove_directory(&directory)?;
                return Err(error);
            }
        };
        let owner = Process::find(std::process::id()).ok_or_else(|| BedError::Unavailable("no /proc".into()))?;
        let record = Record { prefix: prefix.clone(), owner, keeper: Process::find(keeper.pid()) };
        stale::write_record(&directory, &record)?;

        let maker = Maker { prefix: &prefix, keeper: &keeper };
        let lines = maker.hold("lines", Kind::Plain)?;
        lines.sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")])?;
        let providers = self.build_providers(&maker)?;
        let sites = self.build_sites(&maker, &directory)?;
        let links = self.build_links(&keeper, &lines, &providers, &sites)?;
        let bed = Bed::assemble(prefix, directory, sites, providers, links, lines, keeper);
        for namespace in bed.namespaces() {
            namespace.wait_until_up(PATIENCE)?;
        }
        Ok(bed)
    }

    fn check(&self) -> Result<()> {
        if self.sites.len() > 255 || self.hosts > 255 || self.providers.len() > 15 {
            return Err(BedError::Plan("at most 255 sites, 255 hosts at each, and 15 providers".into()));
        }
        for site in &self.sites {
            check_name("site", site)?;
            for (uplink, provider) in self.uplinks_of(site) {
                check_name("uplink", &uplink)?;
                if site.len() + uplink.len() > 14 {
                    return Err(BedError::Plan(format!("{site}-{uplink} is longer than an interface's name can be")));
                }
                if !self.providers.iter().any(|(name, _)| *name == provider) {
                    return Err(BedError::Unknown { kind: "provider", name: provider });
                }
            }
        }
        for (name, _) in &self.providers {
            check_name("provider", name)?;
        }
        for (site, uplink) in self.impairments.keys().chain(self.mtus.keys()) {
            let known = self.sites.contains(site) && self.uplinks_of(site).iter().any(|(name, _)| name == uplink);
            if !known {
                return Err(BedError::Unknown { kind: "link", name: format!("{site}-{uplink}") });
            }
        }
        Ok(())
    }

    fn uplinks_of(&self, site: &str) -> Vec<(String, String)> {
        let default = || self.providers.iter().map(|(name, _)| (name.clone(), name.clone())).collect();
        self.uplinks.get(site).cloned().unwrap_or_else(default)
    }

    fn build_providers(&self, maker: &Maker<'_>) -> Result<Vec<Namespace>> {
        let mut namespaces: Vec<Namespace> = Vec::new();
        for (number, (name, kind)) in self.providers.iter().enumerate() {
            let namespace = maker.hold(name, Kind::Plain)?;
            namespace.sysctl(&ROUTER)?;
            namespace.sysctl(&PROVIDER)?;
            let mut lines = String::from("link set lo up\n");
            if *kind == Provider::Bridge {
                // With an address of its own: otherwise it has the lowest of its ports', and when a port comes or goes
                // all customers send to a gateway that is no more.
                lines.push_str(&format!(
                    "link add {BRIDGE} address 02:5d:00:00:00:{number:02x} type bridge stp_state 0 forward_delay 0 \
                     mcast_snooping 0\nlink set {BRIDGE} up\n"
                ));
                let position = self.position(number, 0);
                for one in position.attachments(self.families) {
                    let length = one.address.prefix_len();
                    lines.push_str(&format!("address add {}/{length} dev {BRIDGE}\n", one.gateway));
                }
            }
            namespace.ip(&lines)?;
            for (other, (other_name, _)) in self.providers.iter().enumerate().take(number) {
                peer(&namespaces[other], other_name, other, &namespace, name, number)?;
            }
            namespaces.push(namespace);
        }
        Ok(namespaces)
    }

    fn build_sites(&self, maker: &Maker<'_>, directory: &std::path::Path) -> Result<Vec<Site>> {
        let mut sites = Vec::new();
        for (index, name) in self.sites.iter().enumerate() {
            let number = index + 1;
            let namespace = maker.hold(name, Kind::Site)?;
            namespace.sysctl(&ROUTER)?;
            let mut lines = String::from("link set lo up\n");
            let mut hosts = Vec::new();
            for host_number in 0..self.hosts {
                let host = maker.hold(&format!("{name}-h{host_number}"), Kind::Plain)?;
                host.sysctl(&QUICK)?;
                let lan = format!("lan{host_number}");
                lines.push_str(&format!("link add {lan} type veth peer name eth0 netns {}\n", host.pid()));
                lines.push_str(&format!("link set {lan} up\n"));
                for one in plan::lan_attachments(number, host_number) {
                    let length = one.address.prefix_len();
                    lines.push_str(&format!("address add {}/{length} dev {lan}\n", one.gateway));
                }
                hosts.push(Host::new(host, number, host_number));
            }
            namespace.ip(&lines)?;
            for (host_number, host) in hosts.iter().enumerate() {
                let mut lines = String::from("link set lo up\nlink set eth0 up\n");
                for one in plan::lan_attachments(number, host_number) {
                    lines.push_str(&format!("address add {} dev eth0\n", one.address));
                    lines.push_str(&format!("route add default via {}\n", one.gateway));
                }
                host.namespace().ip(&lines)?;
            }
            sites.push(Site::new(namespace, number, hosts, directory)?);
        }
        Ok(sites)
    }

    fn build_links(
        &self,
        keeper: &Arc<Keeper>,
        lines: &Namespace,
        providers: &[Namespace],
        sites: &[Site],
    ) -> Result<Vec<Link>> {
        let by_kernel = !self.by_keeper && netem::available(lines);
        let mut links = Vec::new();
        let mut customers = vec![0; self.providers.len()];
        for site in sites {
            for (number, (uplink, provider)) in self.uplinks_of(site.name()).into_iter().enumerate() {
                let index = self.providers.iter().position(|(name, _)| *name == provider);
                let index = index.ok_or(BedError::Unknown { kind: "provider", name: provider })?;
                let customer = customers[index];
                customers[index] += 1;
                if customer >= UplinkPosition::MOST_CUSTOMERS {
                    let most = UplinkPosition::MOST_CUSTOMERS;
                    return Err(BedError::Plan(format!("more than {most} uplinks at one provider")));
                }
                let key = (site.name().to_string(), uplink.clone());
                let parts = Parts {
                    site: site.namespace().clone(),
                    port: format!("{}-{uplink}", site.name()),
                    uplink,
                    number,
                    provider: providers[index].clone(),
                    lines: lines.clone(),
                    serial: links.len(),
                    keeper: keeper.clone(),
                    families: self.families,
                    position: self.position(index, customer),
                    mtu: self.mtus.get(&key).copied().unwrap_or(1_500),
                    by_kernel,
                };
                links.push(Link::build(parts, self.impairments.get(&key).cloned())?);
            }
        }
        Ok(links)
    }

    fn position(&self, provider: usize, customer: usize) -> UplinkPosition {
        let kind = self.providers[provider].1;
        UplinkPosition { kind, provider, customer, generation: 0, gateway_generation: 0 }
    }
}

struct Maker<'a> {
    prefix: &'a str,
    keeper: &'a Keeper,
}

impl Maker<'_> {
    fn hold(&self, name: &str, kind: Kind) -> Result<Namespace> {
        match self.keeper.ask(&Request::Hold { name: name.into(), kind })? {
            Response::Held { pid } => Namespace::open(self.prefix, name, pid),
            other => Err(BedError::Keeper(format!("it answers {other:?} when asked for a namespace"))),
        }
    }
}

/// Addresses are usable at once.
const QUICK: [(&str, &str); 2] = [("net/ipv6/conf/all/accept_dad", "0"), ("net/ipv6/conf/default/accept_dad", "0")];

/// A router.
const ROUTER: [(&str, &str); 4] =
    [QUICK[0], QUICK[1], ("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];

/// A provider's router: asymmetric ways are fine, addresses stay when a line is down, ICMP isn't rationed.
const PROVIDER: [(&str, &str); 6] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/keep_addr_on_down", "1"),
    ("net/ipv6/conf/default/keep_addr_on_down", "1"),
    ("net/ipv4/icmp_ratelimit", "0"),
    ("net/ipv6/icmp/ratelimit", "0"),
];

/// A line between two providers, and routes to each other's customers over it.
fn peer(
    first: &Namespace,
    first_name: &str,
    first_number: usize,
    second: &Namespace,
    second_name: &str,
    second_number: usize,
) -> Result<()> {
    let (to_second, to_first) = (format!("to-{second_name}"), format!("to-{first_name}"));
    first.ip(&format!("link add {to_second} type veth peer name {to_first} netns {}\n", second.pid()))?;
    let addresses = plan::peering(first_number, second_number);
    let ends = [
        (first, &to_second, second_number, addresses.map(|(own, other)| (own, other.addr()))),
        (second, &to_first, first_number, addresses.map(|(other, own)| (own, other.addr()))),
    ];
    for (namespace, device, other_number, addresses) in ends {
        let mut lines = format!("link set {device} up\n");
        for (own, other) in addresses {
            lines.push_str(&format!("address add {own} dev {device}\n"));
            for prefix in plan::provider_prefixes(other_number) {
                if prefix.addr().is_ipv4() == other.is_ipv4() {
                    lines.push_str(&format!("route add {prefix} via {other} dev {device}\n"));
                }
            }
        }
        namespace.ip(&lines)?;
    }
    Ok(())
}
