//! Hangs the programs on interfaces: tcx links where the kernel has them (6.6), clsact filters otherwise.
//!
//! A tcx link is pinned, so that it outlives the daemon; the next daemon swaps its own program into the link, which is
//! one atomic step for packets. A clsact filter stays by itself and is replaced likewise. XDP programs have links as tcx
//! ones do.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::xdp::XdpLink;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode as AttachXdp};
use aya::util::KernelVersion;
use tracing::{debug, info, warn};

use super::Error;
use super::early::XdpMode;
use super::load::{self, Layout, program, xdp};

/// Priority and handle of our clsact filters.
const FILTER_PRIORITY: u16 = 0x5d;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

/// Which program an interface gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// `lan_ingress`.
    Lan,
    /// `tunnel_ingress`.
    Tunnel,
    /// `tunnel_egress`.
    IntoTunnel,
    /// `uplink_egress`.
    Uplink,
    /// `lan_xdp`.
    LanXdp,
    /// `wan_xdp`; only where `uplink_egress` is, without which it recognises no session.
    WanXdp,
}

impl Direction {
    /// All.
    pub const ALL: [Self; 6] = [Self::Lan, Self::Tunnel, Self::IntoTunnel, Self::Uplink, Self::LanXdp, Self::WanXdp];

    /// Name of the program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Lan => "lan_ingress",
            Self::Tunnel => "tunnel_ingress",
            Self::IntoTunnel => "tunnel_egress",
            Self::Uplink => "uplink_egress",
            Self::LanXdp => "lan_xdp",
            Self::WanXdp => "wan_xdp",
        }
    }

    /// Whether a gateway can't do without it.
    pub const fn always(self) -> bool {
        !matches!(self, Self::LanXdp | Self::WanXdp)
    }

    /// Which packets of the interface the program sees; `None` for an XDP program.
    pub(super) const fn tc(self) -> Option<TcAttachType> {
        match self {
            Self::Lan | Self::Tunnel => Some(TcAttachType::Ingress),
            Self::IntoTunnel | Self::Uplink => Some(TcAttachType::Egress),
            Self::LanXdp | Self::WanXdp => None,
        }
    }
}

/// An interface and the program that it gets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// Which program.
    pub direction: Direction,
    /// Interface index: a recreated interface is another one.
    pub ifindex: u32,
    /// Interface name.
    pub interface: String,
}

/// How programs are attached on this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// By tcx links.
    Tcx,
    /// By clsact filters.
    Clsact,
}

impl AttachMode {
    /// What this kernel can do.
    pub fn of_this_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// How XDP does on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XdpState {
    /// A program is attached, in the driver.
    Native,
    /// None is, and why.
    Off(String),
}

/// An interface that refused an XDP program is asked again after so long: its MTU or its driver's settings may be others.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Keeps the attachments as wanted.
pub(super) struct Attacher {
    layout: Layout,
    mode: AttachMode,
    xdp_mode: XdpMode,
    xdp: BTreeMap<String, XdpState>,
    /// XDP attachments that were refused, and when.
    refused: BTreeMap<Attachment, Instant>,
    done: BTreeMap<Attachment, Option<FdLink>>,
    /// `uplink_egress` came to an interface where it wasn't before.
    new_uplink: Cell<bool>,
    /// Filters that an earlier daemon left on interfaces that are not wanted any more are gone.
    swept: bool,
    /// What daemons of other ABI versions left is taken over or gone.
    others_gone: bool,
}

impl Attacher {
    pub(super) fn new(layout: Layout, mode: AttachMode) -> Self {
        Self {
            layout,
            mode,
            xdp_mode: XdpMode::default(),
            xdp: BTreeMap::new(),
            refused: BTreeMap::new(),
            done: BTreeMap::new(),
            new_uplink: Cell::new(false),
            swept: false,
            others_gone: false,
        }
    }

    pub(super) fn set_xdp_mode(&mut self, mode: XdpMode) {
        self.xdp_mode = mode;
    }

    /// Whether `uplink_egress` came to an interface where it wasn't before, since this was last asked.
    pub(super) fn take_new_uplink(&self) -> bool {
        self.new_uplink.take()
    }

    pub(super) fn xdp(&self) -> &BTreeMap<String, XdpState> {
        &self.xdp
    }

    pub(super) fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Attaches what is missing and detaches what isn't wanted. An interface that fails is left out, with its error,
    /// and tried again at the next call.
    pub(super) fn reconcile(&mut self, object: &mut Ebpf, wanted: &BTreeSet<Attachment>) -> Vec<Error> {
        let mut errors = Vec::new();
        let stale: Vec<Attachment> = self.done.keys().filter(|done| !wanted.contains(done)).cloned().collect();
        for attachment in stale {
            self.done.remove(&attachment);
            if let (AttachMode::Clsact, Some(hook)) = (self.mode, attachment.direction.tc()) {
                // The interface may be gone, and its filter with it.
                let name = attachment.direction.program();
                if let Err(error) = qdisc_detach_program(&attachment.interface, hook, name) {
                    debug!(interface = attachment.interface, "nothing to detach: {error}");
                }
            }
        }
        if let Err(error) = self.remove_stale_pins(wanted) {
            errors.push(error);
        }
        if !self.swept {
            let clsact = self.mode == AttachMode::Clsact;
            let is_wanted = |interface: &str, direction| {
                clsact && wanted.iter().any(|wish| wish.interface == interface && wish.direction == direction)
            };
            match detach_filters(is_wanted) {
                Ok(()) => self.swept = true,
                Err(error) => errors.push(error),
            }
        }
        self.refused.retain(|attachment, at| wanted.contains(attachment) && at.elapsed() < ASK_AGAIN);
        self.xdp.retain(|interface, _| {
            wanted.iter().any(|wish| wish.direction.tc().is_none() && wish.interface == *interface)
        });
        for attachment in wanted {
            if self.done.contains_key(attachment) || self.refused.contains_key(attachment) {
                continue;
            }
            match self.attach(object, attachment) {
                Ok(link) => {
                    if attachment.direction.tc().is_none() {
                        self.xdp.insert(attachment.interface.clone(), XdpState::Native);
                    }
                    self.done.insert(attachment.clone(), link);
                }
                Err(error) if attachment.direction.tc().is_none() => self.refused_xdp(attachment, error, &mut errors),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() && !self.others_gone {
            match self.remove_others() {
                Ok(()) => self.others_gone = true,
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// An interface that doesn't take an XDP program: all goes on without it, unless the operator insists.
    fn refused_xdp(&mut self, attachment: &Attachment, error: Error, errors: &mut Vec<Error>) {
        let why = match &error {
            Error::Attach { source, .. } => causes(source.as_ref()),
            other => other.to_string(),
        };
        let state = XdpState::Off(why.clone());
        if self.xdp.insert(attachment.interface.clone(), state.clone()) != Some(state) {
            let (interface, program) = (&attachment.interface, attachment.direction.program());
            info!(interface, program, "there is no XDP here, and packets go on without it: {why}");
        }
        self.refused.insert(attachment.clone(), Instant::now());
        if self.xdp_mode == XdpMode::Native {
            errors.push(error);
        }
    }

    /// Once the programs of this version carry the packets: links that nobody took over, and maps that nobody reads.
    fn remove_others(&self) -> Result<(), Error> {
        for other in load::others(&self.layout)? {
            info!(pins = %other.display(), "what another version of the data path left is removed");
            std::fs::remove_dir_all(&other).map_err(|source| Error::Pin { action: "remove", path: other, source })?;
        }
        Ok(())
    }

    /// A link that a daemon of another ABI version left on this interface becomes one of this version: the program in it is
    /// then swapped, and with it the maps, between one packet and the next.
    fn take_over(&self, pin: &Path) -> std::io::Result<()> {
        let Some(name) = pin.file_name() else { return Ok(()) };
        for other in load::others(&self.layout).map_err(std::io::Error::other)? {
            let theirs = Layout::links_in(&other).join(name);
            if theirs.exists() {
                std::fs::rename(&theirs, pin)?;
                return Ok(());
            }
        }
        Ok(())
    }

    fn pin(&self, attachment: &Attachment) -> PathBuf {
        self.layout.links().join(pin_name(attachment))
    }

    fn remove_stale_pins(&self, wanted: &BTreeSet<Attachment>) -> Result<(), Error> {
        let names: BTreeSet<String> = wanted.iter().map(pin_name).collect();
        let directory = self.layout.links();
        let fail = |path: &PathBuf| {
            let path = path.clone();
            move |source| Error::Pin { action: "tidy", path, source }
        };
        for entry in std::fs::read_dir(&directory).map_err(fail(&directory))? {
            let entry = entry.map_err(fail(&directory))?;
            if !names.contains(entry.file_name().to_string_lossy().as_ref()) {
                std::fs::remove_file(entry.path()).map_err(fail(&entry.path()))?;
            }
        }
        Ok(())
    }

    fn attach(&self, object: &mut Ebpf, attachment: &Attachment) -> Result<Option<FdLink>, Error> {
        let name = attachment.direction.program();
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
            program: name,
            interface: attachment.interface.clone(),
            source,
        };
        let Some(hook) = attachment.direction.tc() else {
            let learns = |done: &Attachment| done.direction == Direction::Uplink && done.ifindex == attachment.ifindex;
            if attachment.direction == Direction::WanXdp && !self.done.keys().any(learns) {
                return Err(fail("uplink_egress, which it goes by, could not be attached".into()));
            }
            return self.attach_xdp(xdp(object, name)?, attachment).map(Some).map_err(fail);
        };
        let program = program(object, name)?;
        match self.mode {
            AttachMode::Tcx => self.attach_tcx(program, attachment, hook).map(Some).map_err(fail),
            AttachMode::Clsact => {
                let new = attach_clsact(program, attachment, hook).map_err(fail)?;
                self.is_new(attachment, new);
                Ok(None)
            }
        }
    }

    fn is_new(&self, attachment: &Attachment, new: bool) {
        if new && attachment.direction == Direction::Uplink {
            self.new_uplink.set(true);
        }
    }

    /// The pin of a link that can be adopted, if there is one.
    fn adoptable(&self, attachment: &Attachment) -> std::io::Result<PathBuf> {
        let pin = self.pin(attachment);
        if !self.others_gone && !pin.exists() {
            self.take_over(&pin)?;
        }
        Ok(pin)
    }

    fn attach_xdp(
        &self,
        program: &mut Xdp,
        attachment: &Attachment,
    ) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
        let pin = self.adoptable(attachment)?;
        if pin.exists() {
            match adopt_xdp(program, &pin) {
                Ok(link) => return Ok(link),
                Err(error) => give_up(&pin, &attachment.interface, error.as_ref())?,
            }
        }
        let id = program.attach_to_if_index(attachment.ifindex, AttachXdp::Driver)?;
        let link: FdLink = program.take_link(id)?.try_into()?;
        Ok(link.pin(&pin)?.into())
    }

    fn attach_tcx(
        &self,
        program: &mut SchedClassifier,
        attachment: &Attachment,
        hook: TcAttachType,
    ) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
        let pin = self.adoptable(attachment)?;
        if pin.exists() {
            match adopt(program, &pin) {
                Ok(link) => return Ok(link),
                Err(error) => give_up(&pin, &attachment.interface, error.as_ref())?,
            }
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(&attachment.interface, hook, options)?;
        self.is_new(attachment, true);
        let link: FdLink = program.take_link(id)?.try_into()?;
        Ok(link.pin(&pin)?.into())
    }
}

/// Removes our clsact filters, known by their programs' names, from every interface but those that `keep` accepts.
pub(super) fn detach_filters(keep: impl Fn(&str, Direction) -> bool) -> Result<(), Error> {
    let interfaces =
        nix::net::if_::if_nameindex().map_err(|error| Error::Interfaces { source: std::io::Error::from(error) })?;
    for interface in interfaces.iter() {
        let name = interface.name().to_string_lossy();
        for direction in Direction::ALL {
            if let Some(hook) = direction.tc()
                && !keep(&name, direction)
                && let Err(error) = qdisc_detach_program(&name, hook, direction.program())
            {
                // It has none of ours, or it vanished meanwhile.
                debug!(interface = %name, "nothing to detach: {error}");
            }
        }
    }
    Ok(())
}

fn pin_name(attachment: &Attachment) -> String {
    format!("{}-{}", attachment.direction.program(), attachment.ifindex)
}

/// Swaps the program into a pinned link; packets see the old one or the new one, never none.
fn adopt(program: &mut SchedClassifier, pin: &Path) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    let link: SchedClassifierLink = FdLink::from(PinnedLink::from_pin(pin)?).try_into()?;
    let id = program.attach_to_link(link)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// The same for an XDP program.
fn adopt_xdp(program: &mut Xdp, pin: &Path) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    let link: XdpLink = FdLink::from(PinnedLink::from_pin(pin)?).try_into()?;
    let id = program.attach_to_link(link)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Forgets a link that can't be adopted: the interface that it hung on is gone, or it is of another kind.
fn give_up(pin: &Path, interface: &str, error: &(dyn std::error::Error + Send + Sync)) -> std::io::Result<()> {
    warn!(interface, "cannot adopt {}: {error}", pin.display());
    std::fs::remove_file(pin)
}

/// An error with its causes.
fn causes(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Returns whether there was no filter of ours before.
fn attach_clsact(
    program: &mut SchedClassifier,
    attachment: &Attachment,
    attach_type: TcAttachType,
) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    let interface = attachment.interface.as_str();
    if let Err(error) = qdisc_add_clsact(interface) {
        // It is usually there already; if something else is wrong, the attachment below says so.
        debug!(interface, "clsact is not added: {error}");
    }
    let existing = SchedClassifierLink::attached(interface, attach_type, FILTER_PRIORITY, FILTER_HANDLE, None)?;
    let (id, new) = match program.attach_to_link(existing) {
        Ok(id) => (id, false),
        Err(_) => {
            let options = NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, classid: None };
            (program.attach_with_options(interface, attach_type, TcAttachOptions::Netlink(options))?, true)
        }
    };
    // Dropping the link would remove the filter, which must outlive the daemon.
    std::mem::forget(program.take_link(id)?);
    Ok(new)
}
