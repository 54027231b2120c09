//! Makes faults, and undoes them.

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::plan::{Fault, PLAIN, SITES, Step, UPLINKS};
use crate::bed::{Attempt, Bed, BedError, Cut, Impairment, Link, Result};
use crate::clock::WallClock;
use crate::mesh::{Gateway, Mesh};

/// The delay of the first and of the second line of a site with emulated ones, each way.
const DELAYS: [Duration; 2] = [Duration::from_millis(4), Duration::from_millis(9)];
/// First of the ports outside a NAT; each rebinding takes the next hundred.
pub const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 100;

/// What makes faults on a mesh.
#[derive(Debug)]
pub struct Faults<'a> {
    mesh: &'a Mesh,
    clocks: Vec<(&'static str, WallClock)>,
    rebindings: u16,
    policies: u32,
}

/// The bed that faults are made on.
///
/// # Errors
/// When it can't be built.
pub fn bed() -> Result<Bed> {
    let mut builder = Bed::builder().sites(SITES);
    for site in SITES.into_iter().filter(|site| *site != PLAIN) {
        for uplink in UPLINKS {
            builder = builder.impair(site, uplink, plain_line(uplink));
        }
    }
    builder.build()
}

fn plain_line(uplink: &str) -> Impairment {
    Impairment::delay(if uplink == UPLINKS[0] { DELAYS[0] } else { DELAYS[1] })
}

impl<'a> Faults<'a> {
    /// Faults on a mesh whose daemons see these clocks.
    pub fn new(mesh: &'a Mesh, clocks: Vec<(&'static str, WallClock)>) -> Self {
        Self { mesh, clocks, rebindings: 0, policies: 0 }
    }

    /// Makes one.
    ///
    /// # Errors
    /// When the bed or a daemon refuses.
    pub fn make(&mut self, step: &Step) -> Result<()> {
        match step.fault {
            Fault::Cut(cut) => self.link(step)?.cut(cut).map(drop),
            Fault::Flap => self.link(step)?.cut(Cut::Silent).map(drop),
            Fault::Loss(share) => self.impair(step, |line| line.loss(share)),
            Fault::Latency(more) => self.impair(step, |line| Impairment { delay: line.delay + more, ..line }),
            Fault::Address => self.link(step)?.change_address().map(drop),
            Fault::Gateway => self.link(step)?.change_gateway().map(drop),
            Fault::Rebind => {
                self.rebindings += 1;
                self.link(step)?.map_ports(FIRST_PORT + self.rebindings % 200 * PORTS)
            }
            Fault::Unplug => self.link(step)?.delete_interface(),
            Fault::Kill => self.gateway(step).kill(),
            Fault::Pause => self.gateway(step).signal(Signal::SIGSTOP),
            Fault::Restart => {
                self.gateway(step).stop()?;
                self.gateway(step).start()
            }
            Fault::Reload => self.reload(step),
            Fault::FullDisk => self.gateway(step).fill_disk(),
            Fault::Clock(by) => self.clock(step)?.set(by),
        }
    }

    /// Undoes one; nothing is to be done for what happens at once.
    ///
    /// # Errors
    /// When the bed or a daemon refuses.
    pub fn undo(&self, step: &Step) -> Result<()> {
        match step.fault {
            Fault::Cut(_) | Fault::Flap => self.link(step)?.restore().map(drop),
            Fault::Loss(_) | Fault::Latency(_) => self.impair(step, |line| line),
            Fault::Unplug => self.link(step)?.recreate_interface(),
            Fault::Kill => self.gateway(step).start(),
            Fault::Pause => self.gateway(step).signal(Signal::SIGCONT),
            Fault::FullDisk => self.gateway(step).make_room_on_disk(),
            Fault::Clock(_) => self.clock(step)?.set(0),
            Fault::Address | Fault::Gateway | Fault::Rebind | Fault::Restart | Fault::Reload => Ok(()),
        }
    }

    fn impair(&self, step: &Step, how: impl Fn(Impairment) -> Impairment) -> Result<()> {
        self.link(step)?.impair(&how(plain_line(step.uplink.unwrap_or(UPLINKS[0]))))
    }

    fn reload(&mut self, step: &Step) -> Result<()> {
        let gateway = self.gateway(step);
        let (number, path) = (self.policies, gateway.config());
        let policy = format!(
            "\n[[policy]]\nname = \"chaos-{number}\"\npriority = {}\npreference = \"latency\"\n\
             match = [{{ protocols = [\"udp\"], destination_ports = [{}] }}]\n",
            200 + number % 50,
            40_000 + number % 1_000
        );
        let append = || File::options().append(true).open(&path)?.write_all(policy.as_bytes());
        append().attempt(|| format!("append to {}", path.display()))?;
        gateway.reload()?;
        self.policies += 1;
        Ok(())
    }

    fn link(&self, step: &Step) -> Result<&'a Link> {
        let uplink = step.uplink.ok_or_else(|| BedError::Plan(format!("{step:?} names no uplink")))?;
        Ok(self.mesh.bed().link(step.site, uplink))
    }

    fn gateway(&self, step: &Step) -> &'a Gateway {
        self.mesh.gateway(step.site)
    }

    fn clock(&self, step: &Step) -> Result<&WallClock> {
        let found = self.clocks.iter().find(|(site, _)| *site == step.site);
        found.map(|(_, clock)| clock).ok_or_else(|| BedError::Plan(format!("{step:?}: its clock can't be set")))
    }
}
