//! Hangs the programs on interfaces: tcx links where the kernel has them (6.6), clsact filters otherwise.
//!
//! A tcx link is pinned, so that it outlives the daemon; the next daemon swaps its own program into the link, which is
//! one atomic step for packets. A clsact filter stays by itself and is replaced likewise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use tracing::{debug, info, warn};

use super::Error;
use super::load::{self, Layout, program};

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
}

impl Direction {
    /// All.
    pub const ALL: [Self; 4] = [Self::Lan, Self::Tunnel, Self::IntoTunnel, Self::Uplink];

    /// Name of the program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Lan => "lan_ingress",
            Self::Tunnel => "tunnel_ingress",
            Self::IntoTunnel => "tunnel_egress",
            Self::Uplink => "uplink_egress",
        }
    }

    /// Which packets of the interface the program sees.
    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::Lan | Self::Tunnel => TcAttachType::Ingress,
            Self::IntoTunnel | Self::Uplink => TcAttachType::Egress,
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

/// Keeps the attachments as wanted.
pub(super) struct Attacher {
    layout: Layout,
    mode: AttachMode,
    done: BTreeMap<Attachment, Option<FdLink>>,
    /// Filters that an earlier daemon left on interfaces that are not wanted any more are gone.
    swept: bool,
    /// What daemons of other ABI versions left is taken over or gone.
    others_gone: bool,
}

impl Attacher {
    pub(super) fn new(layout: Layout, mode: AttachMode) -> Self {
        Self { layout, mode, done: BTreeMap::new(), swept: false, others_gone: false }
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
            if self.mode == AttachMode::Clsact {
                // The interface may be gone, and its filter with it.
                let name = attachment.direction.program();
                if let Err(error) =
                    qdisc_detach_program(&attachment.interface, attachment.direction.attach_type(), name)
                {
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
        for attachment in wanted {
            if self.done.contains_key(attachment) {
                continue;
            }
            match self.attach(object, attachment) {
                Ok(link) => {
                    self.done.insert(attachment.clone(), link);
                }
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
    fn take_over(&self, pin: &Path) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(name) = pin.file_name() else { return Ok(()) };
        for other in load::others(&self.layout)? {
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
        let program = program(object, name)?;
        let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
            program: name,
            interface: attachment.interface.clone(),
            source,
        };
        match self.mode {
            AttachMode::Tcx => self.attach_tcx(program, attachment).map(Some).map_err(fail),
            AttachMode::Clsact => attach_clsact(program, attachment).map(|()| None).map_err(fail),
        }
    }

    fn attach_tcx(
        &self,
        program: &mut SchedClassifier,
        attachment: &Attachment,
    ) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
        let pin = self.pin(attachment);
        if !self.others_gone && !pin.exists() {
            self.take_over(&pin)?;
        }
        if pin.exists() {
            match adopt(program, &pin) {
                Ok(link) => return Ok(link),
                Err(error) => {
                    // The interface that the link hung on is gone, or the link is none of tcx.
                    warn!(interface = attachment.interface, "cannot adopt {}: {error}", pin.display());
                    std::fs::remove_file(&pin)?;
                }
            }
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = program.attach_with_options(&attachment.interface, attachment.direction.attach_type(), options)?;
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
            if !keep(&name, direction)
                && let Err(error) = qdisc_detach_program(&name, direction.attach_type(), direction.program())
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

fn attach_clsact(
    program: &mut SchedClassifier,
    attachment: &Attachment,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (interface, attach_type) = (attachment.interface.as_str(), attachment.direction.attach_type());
    if let Err(error) = qdisc_add_clsact(interface) {
        // It is usually there already; if something else is wrong, the attachment below says so.
        debug!(interface, "clsact is not added: {error}");
    }
    let existing = SchedClassifierLink::attached(interface, attach_type, FILTER_PRIORITY, FILTER_HANDLE, None)?;
    let id = match program.attach_to_link(existing) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: FILTER_PRIORITY, handle: FILTER_HANDLE, classid: None };
            program.attach_with_options(interface, attach_type, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping the link would remove the filter, which must outlive the daemon.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}
