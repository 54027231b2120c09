//! The line between a site's uplink and its provider: cutting, changing, impairing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::emulator::{Direction, Impairment, LineSpec, LineStatistics};
use super::error::{BedError, Result};
use super::keeper::{Keeper, Request, Response};
use super::namespace::Namespace;
use super::netem;
use super::offload;
use super::plan::{Attachment, Families, Provider, UplinkPosition};

/// A classic BPF program that drops everything: return 2 (`TC_ACT_SHOT`).
const DROP_ALL: &str = "bpf direct-action bytecode \"1,6 0 0 2\"";
/// The same for UDP over IPv4 (protocol 17 at byte 23) and IPv6 (at byte 20); everything else goes on.
const DROP_UDP: &str = "bpf direct-action bytecode \"9,40 0 0 12,21 0 2 2048,48 0 0 23,21 3 4 17,21 0 3 34525,\
                        48 0 0 20,21 0 1 17,6 0 0 2,6 0 0 4294967295\"";

/// How a line is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The uplink loses its carrier.
    Carrier,
    /// Packets vanish both ways; the carrier stays.
    Silent,
    /// Packets from the site vanish; the others arrive.
    SilentUp,
    /// Packets to the site vanish; the others arrive.
    SilentDown,
    /// UDP vanishes both ways, and with it the tunnels; everything else is answered, as by a captive portal.
    Portal,
}

impl Cut {
    const fn drops(self) -> &'static [&'static str] {
        match self {
            Self::Carrier => &[],
            Self::Silent | Self::Portal => &["ingress", "egress"],
            Self::SilentUp => &["ingress"],
            Self::SilentDown => &["egress"],
        }
    }
}

/// One uplink's line.
#[derive(Debug)]
pub struct Link {
    pub(super) parts: Parts,
    state: Mutex<State>,
}

/// What a link consists of.
#[derive(Debug)]
pub(super) struct Parts {
    pub site: Namespace,
    /// The uplink's name and the name of its interface at the site.
    pub uplink: String,
    /// Number of the uplink at its site, from 0.
    pub number: usize,
    pub provider: Namespace,
    /// Interface at the provider.
    pub port: String,
    /// Where emulated lines have their ends.
    pub lines: Namespace,
    /// Number of the link in the bed.
    pub serial: usize,
    pub keeper: Arc<Keeper>,
    pub families: Families,
    pub position: UplinkPosition,
    pub mtu: u16,
    /// Emulated lines are the kernel's, as far as it can.
    pub by_kernel: bool,
}

#[derive(Debug)]
struct State {
    position: UplinkPosition,
    cut: Option<Cut>,
    emulated: Option<[Impairment; 2]>,
    /// The kernel's netem emulates the line, not the keeper.
    by_kernel: bool,
    /// The port has the queueing discipline that filters hang on.
    has_hook: bool,
    site_mtu: u16,
    port_mtu: u16,
}

impl Link {
    /// Makes the interfaces, with addresses and default routes; with an impairment, by way of an emulated line.
    pub(super) fn build(parts: Parts, impairment: Option<[Impairment; 2]>) -> Result<Self> {
        let state = State {
            position: parts.position,
            cut: None,
            emulated: None,
            by_kernel: false,
            has_hook: false,
            site_mtu: parts.mtu,
            port_mtu: parts.mtu,
        };
        let link = Self { parts, state: Mutex::new(state) };
        let mut state = link.state();
        link.make_interface(&state)?;
        if let Some(impairment) = impairment {
            link.insert_line(&mut state, impairment)?;
        } else {
            link.parts.provider.ip(&link.port_lines(&state))?;
        }
        link.parts.site.ip(&link.site_lines(&state))?;
        drop(state);
        Ok(link)
    }

    /// Name of the site.
    pub fn site(&self) -> &str {
        self.parts.site.name()
    }

    /// Name of the uplink, which is also its interface at the site.
    pub fn uplink(&self) -> &str {
        &self.parts.uplink
    }

    /// Name of the line in the emulator, and of the interface at the provider.
    pub fn port(&self) -> &str {
        &self.parts.port
    }

    /// The provider's namespace.
    pub fn provider(&self) -> &Namespace {
        &self.parts.provider
    }

    /// Addresses and gateways that the uplink has now, IPv4 first.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.attachments_of(&self.state())
    }

    /// Cuts the line; returns when it was done. A line that is cut already is cut the new way instead.
    pub fn cut(&self, cut: Cut) -> Result<Instant> {
        let mut state = self.state();
        if state.cut == Some(cut) {
            return Ok(Instant::now());
        }
        self.restore_locked(&mut state)?;
        self.cut_locked(&mut state, cut)?;
        Ok(Instant::now())
    }

    /// Makes a cut line whole again; returns when it was done.
    pub fn restore(&self) -> Result<Instant> {
        self.restore_locked(&mut self.state())?;
        Ok(Instant::now())
    }

    /// How the line is cut, if it is.
    pub fn is_cut(&self) -> Option<Cut> {
        self.state().cut
    }

    /// Changes what the line does to packets, both ways.
    ///
    /// The first impairment of a line that was built without one inserts the emulator; the carrier is lost for some
    /// milliseconds then. Lines built with an impairment change without any interruption.
    pub fn impair(&self, impairment: &Impairment) -> Result<()> {
        for direction in Direction::BOTH {
            self.impair_direction(direction, impairment.clone())?;
        }
        Ok(())
    }

    /// Changes what the line does to packets in one direction; see [`Self::impair`].
    pub fn impair_direction(&self, direction: Direction, impairment: Impairment) -> Result<()> {
        let mut state = self.state();
        let Some(emulated) = &mut state.emulated else {
            let mut both = [Impairment::default(), Impairment::default()];
            both[direction as usize] = impairment;
            let cut = state.cut;
            self.restore_locked(&mut state)?;
            self.insert_line(&mut state, both)?;
            return cut.map_or(Ok(()), |cut| self.cut_locked(&mut state, cut));
        };
        let old = std::mem::replace(&mut emulated[direction as usize], impairment.clone());
        if state.by_kernel {
            return self.change_kernel_line(&mut state, direction, &old);
        }
        self.parts.keeper.ask(&Request::Impair {
            name: self.parts.port.clone(),
            direction,
            impairment: Box::new(impairment),
        })?;
        Ok(())
    }

    /// Whether the kernel's netem emulates the line.
    pub fn is_by_kernel(&self) -> bool {
        self.state().by_kernel
    }

    /// What the emulator did on this line; an error for a line without impairment. Of a line by the kernel there is only
    /// what came in, went out and was lost, since it was made or its direction was changed
    /// ([`super::Builder::by_keeper`]).
    pub fn statistics(&self) -> Result<LineStatistics> {
        if self.is_by_kernel() {
            let (near, far) = self.line_ends();
            return netem::statistics(&self.parts.lines, [&near, &far]);
        }
        match self.parts.keeper.ask(&Request::Statistics { name: self.parts.port.clone() })? {
            Response::Statistics(statistics) => Ok(*statistics),
            other => Err(BedError::Keeper(format!("it answers {other:?} when asked for statistics"))),
        }
    }

    /// Gives the uplink other addresses of the provider, as a dynamic line does; returns the new ones.
    pub fn change_address(&self) -> Result<Vec<Attachment>> {
        let mut state = self.state();
        let old = self.attachments_of(&state);
        state.position.generation += 1;
        let new = self.attachments_of(&state);
        let mut lines = String::new();
        for one in &old {
            lines.push_str(&format!("address delete {} dev {}\n", one.address, self.parts.uplink));
        }
        for one in &new {
            lines.push_str(&format!("address add {} dev {}\n", one.address, self.parts.uplink));
        }
        lines.push_str(&self.route_lines(&state));
        self.parts.site.ip(&lines)?;
        Ok(new)
    }

    /// Moves the uplink's default routes to another gateway of the provider; returns the new state.
    ///
    /// The old gateway goes away at a routed provider; at a bridged one other sites still use it.
    pub fn change_gateway(&self) -> Result<Vec<Attachment>> {
        let mut state = self.state();
        let old = self.attachments_of(&state);
        state.position.gateway_generation += 1;
        let new = self.attachments_of(&state);
        let device = self.port_device();
        let mut lines = String::new();
        for (old, new) in old.iter().zip(&new) {
            let length = new.address.prefix_len();
            if self.parts.position.kind == Provider::Routed {
                // First: with a primary IPv4 address its secondary ones go too.
                lines.push_str(&format!("address delete {}/{length} dev {device}\n", old.gateway));
            }
            lines.push_str(&format!("address replace {}/{length} dev {device}\n", new.gateway));
        }
        self.parts.provider.ip(&lines)?;
        self.parts.site.ip(&self.route_lines(&state))?;
        Ok(new)
    }

    /// Deletes the uplink's interface with everything on it, as when a modem is pulled out. Lines with an impairment
    /// can't do this.
    pub fn delete_interface(&self) -> Result<()> {
        let mut state = self.state();
        if state.emulated.is_some() {
            let line = &self.parts.port;
            return Err(BedError::Plan(format!("{line} has an emulated line, which doesn't outlive its interface")));
        }
        self.parts.site.ip(&format!("link delete {}\n", self.parts.uplink))?;
        state.cut = None;
        state.has_hook = false;
        Ok(())
    }

    /// Makes an interface that was deleted again, with the addresses and routes that it had.
    pub fn recreate_interface(&self) -> Result<()> {
        let state = self.state();
        self.make_interface(&state)?;
        self.parts.provider.ip(&self.port_lines(&state))?;
        self.parts.site.ip(&self.site_lines(&state))
    }

    /// Sets the MTU of both ends.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.parts.site.ip(&format!("link set {} mtu {mtu}\n", self.parts.uplink))?;
        self.state().site_mtu = mtu;
        self.set_provider_mtu(mtu)
    }

    /// Sets the MTU of the provider's end alone: what is larger and comes from elsewhere gets ICMP too-big from a routed
    /// provider, and vanishes at a bridged one. Larger packets from the site vanish.
    pub fn set_provider_mtu(&self, mtu: u16) -> Result<()> {
        let mut state = self.state();
        self.parts.provider.ip(&format!("link set {} mtu {mtu}\n", self.parts.port))?;
        state.port_mtu = mtu;
        if state.emulated.is_some() {
            let (near, far) = self.line_ends();
            let (near_mtu, far_mtu) = (state.site_mtu, state.port_mtu);
            self.parts.lines.ip(&format!("link set {near} mtu {near_mtu}\nlink set {far} mtu {far_mtu}\n"))?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attachments_of(&self, state: &State) -> Vec<Attachment> {
        state.position.attachments(self.parts.families)
    }

    fn line_ends(&self) -> (String, String) {
        (format!("near{}", self.parts.serial), format!("far{}", self.parts.serial))
    }

    /// The device at the provider that has its addresses.
    fn port_device(&self) -> &str {
        match self.parts.position.kind {
            Provider::Bridge => super::build::BRIDGE,
            Provider::Routed => &self.parts.port,
        }
    }

    /// The uplink's interface and the provider's, joined.
    fn make_interface(&self, state: &State) -> Result<()> {
        let Parts { site, uplink, provider, port, .. } = &self.parts;
        let (site_mtu, port_mtu, pid) = (state.site_mtu, state.port_mtu, provider.pid());
        site.ip(&format!("link add {uplink} mtu {site_mtu} type veth peer name {port} mtu {port_mtu} netns {pid}\n"))
    }

    /// What makes the uplink's interface usable.
    fn site_lines(&self, state: &State) -> String {
        let uplink = &self.parts.uplink;
        let mut lines = format!("link set {uplink} up\n");
        for attachment in self.attachments_of(state) {
            lines.push_str(&format!("address add {} dev {uplink}\n", attachment.address));
        }
        lines + &self.route_lines(state)
    }

    /// What makes the provider's interface part of its network.
    fn port_lines(&self, state: &State) -> String {
        let port = &self.parts.port;
        match self.parts.position.kind {
            Provider::Bridge => format!("link set {port} master {}\nlink set {port} up\n", super::build::BRIDGE),
            Provider::Routed => {
                let mut lines = format!("link set {port} up\n");
                for one in self.attachments_of(state) {
                    let length = one.address.prefix_len();
                    lines.push_str(&format!("address replace {}/{length} dev {port}\n", one.gateway));
                }
                lines
            }
        }
    }

    /// The uplink's default routes at the site; the first uplink's are preferred.
    fn route_lines(&self, state: &State) -> String {
        let metric = 100 + self.parts.number;
        let mut lines = String::new();
        for one in self.attachments_of(state) {
            let (gateway, uplink) = (one.gateway, &self.parts.uplink);
            lines.push_str(&format!("route replace default via {gateway} dev {uplink} metric {metric}\n"));
        }
        lines
    }

    fn cut_locked(&self, state: &mut State, cut: Cut) -> Result<()> {
        if cut == Cut::Carrier {
            self.set_carrier(state, "down")?;
        } else {
            let port = &self.parts.port;
            let mut lines = String::new();
            if !state.has_hook {
                lines.push_str(&format!("qdisc add dev {port} clsact\n"));
            }
            let what = if cut == Cut::Portal { DROP_UDP } else { DROP_ALL };
            for hook in cut.drops() {
                lines.push_str(&format!("filter add dev {port} {hook} pref 1 protocol all {what}\n"));
            }
            self.parts.provider.tc(&lines)?;
            state.has_hook = true;
        }
        state.cut = Some(cut);
        Ok(())
    }

    fn restore_locked(&self, state: &mut State) -> Result<()> {
        let Some(cut) = state.cut else { return Ok(()) };
        if cut == Cut::Carrier {
            self.set_carrier(state, "up")?;
        } else {
            let port = &self.parts.port;
            let delete = |hook: &&str| format!("filter delete dev {port} {hook} pref 1\n");
            self.parts.provider.tc(&cut.drops().iter().map(delete).collect::<String>())?;
        }
        state.cut = None;
        Ok(())
    }

    /// Takes the other end of the uplink's interface up or down.
    fn set_carrier(&self, state: &State, to: &str) -> Result<()> {
        if state.emulated.is_some() {
            return self.parts.lines.ip(&format!("link set {} {to}\n", self.line_ends().0));
        }
        self.parts.provider.ip(&format!("link set {} {to}\n", self.parts.port))
    }

    /// Puts an emulated line between the uplink and the provider's port: the port's interface becomes the line's near
    /// end, and a new one with the same name and MAC address takes its place.
    fn insert_line(&self, state: &mut State, [up, down]: [Impairment; 2]) -> Result<()> {
        let Parts { site, uplink, provider, port, lines, .. } = &self.parts;
        let (near, far) = self.line_ends();
        let (mac, lines_pid, mtu) = (provider.mac(port)?, lines.pid(), state.port_mtu);
        provider.ip(&format!(
            "link set {port} netns {lines_pid} name {near}\n\
             link add {port} address {mac} mtu {mtu} type veth peer name {far} mtu {mtu} netns {lines_pid}\n"
        ))?;
        state.has_hook = false;
        offload::switch_off(site, uplink)?;
        offload::switch_off(provider, port)?;
        lines.ip(&format!("link set {near} up\nlink set {far} up\n"))?;
        let both = [up, down];
        state.by_kernel = self.parts.by_kernel && both.iter().all(netem::can);
        if state.by_kernel {
            lines.tc(&netem::join([&near, &far], &both))?;
        } else {
            self.emulate(&both)?;
        }
        provider.ip(&self.port_lines(state))?;
        state.emulated = Some(both);
        Ok(())
    }

    /// Has the keeper carry packets between the line's ends.
    fn emulate(&self, [up, down]: &[Impairment; 2]) -> Result<()> {
        let (near, far) = self.line_ends();
        let line = LineSpec {
            name: self.parts.port.clone(),
            near,
            far,
            up: up.clone(),
            down: down.clone(),
            seed: 0x5d_3a_11 + self.parts.serial as u64,
        };
        let namespace = self.parts.lines.name().into();
        self.parts.keeper.ask(&Request::Emulate { namespace, line: Box::new(line) }).map(drop)
    }

    /// Makes a line by the kernel what it should be by now; the keeper takes over what the kernel can't do.
    fn change_kernel_line(&self, state: &mut State, direction: Direction, old: &Impairment) -> Result<()> {
        let Some(both) = &state.emulated else { return Ok(()) };
        let (near, far) = self.line_ends();
        if both.iter().all(netem::can) {
            let new = &both[direction as usize];
            return self.parts.lines.tc(&netem::change([&near, &far], direction, old, new));
        }
        self.parts.lines.tc(&netem::part([&near, &far]))?;
        self.emulate(both)?;
        state.by_kernel = false;
        Ok(())
    }
}
