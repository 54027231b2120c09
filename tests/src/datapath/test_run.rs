//! Time of one packet by the kernel's test-run.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use aya::EbpfLoader;
use aya::programs::SchedClassifier;

use super::packets::Kind;
use super::raw;
use super::stage::Stage;
use crate::figures::median;

/// A run's packets: the program gets what it made of the packet before, and each one takes a hop off its TTL.
const ROUNDS: u32 = 250;
/// Runs of so many packets behind a median.
const RUNS: usize = 500;
/// Runs of packets of new flows behind a median: all of a bench's must find room in the table.
const MISSES: usize = 30;
/// Single packets behind a median.
const SINGLES: usize = 1_000;

/// The flow of [`Kind::outbound`] that is known.
const KNOWN: (u16, u16) = (40_000, 8_191);
/// Bytes before the IP header in a test-run, also where a tunnel's packets have none.
const ETHERNET: u32 = 14;

/// What a program says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// `TC_ACT_OK`
    Pass = 0,
    /// `TC_ACT_SHOT`
    Drop = 2,
    /// `TC_ACT_REDIRECT`
    Redirect = 7,
}

/// Our programs, loaded once more onto the maps of a data path.
pub struct Ours {
    programs: aya::Ebpf,
    lan: u32,
    tunnel: u32,
}

impl Ours {
    /// Loads them.
    ///
    /// # Errors
    /// When the kernel refuses them.
    pub fn load(stage: &Stage, layout: &sdwan::dataplane::Layout) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global("TUNNEL_HEADER", &ETHERNET, true);
        let object = aya_obj::Object::parse(sdwan::dataplane::OBJECT)?;
        let names: Vec<String> = object.maps.keys().cloned().collect();
        for name in names.iter().filter(|name| layout.map(name).exists()) {
            let map = aya::maps::MapData::from_pin(layout.map(name))?;
            loader.map_pin_path(name, layout.map(name)).map_max_entries(name, map.info()?.max_entries());
        }
        let mut programs = loader.load(sdwan::dataplane::OBJECT)?;
        for name in ["lan_ingress", "tunnel_ingress"] {
            let classifier: &mut SchedClassifier = programs.program_mut(name).context(name)?.try_into()?;
            classifier.load()?;
        }
        Ok(Self { programs, lan: stage.lan, tunnel: stage.tunnel })
    }

    /// The first of two copies passes: it doesn't count.
    fn first(&self, frame: &[u8]) -> Result<()> {
        raw::time(self.descriptor("tunnel_ingress")?, frame, self.tunnel, 1)?;
        Ok(())
    }

    fn descriptor(&self, name: &'static str) -> Result<i32> {
        let program: &SchedClassifier = self.programs.program(name).context(name)?.try_into()?;
        Ok(program.fd()?.as_fd().as_raw_fd())
    }

    fn time(&self, name: &'static str, frame: &[u8], repeat: u32, expected: Verdict) -> Result<f64> {
        let ifindex = if name == "lan_ingress" { self.lan } else { self.tunnel };
        let (time, verdict) = raw::time(self.descriptor(name)?, frame, ifindex, repeat)?;
        ensure!(verdict == expected as u32, "{name} says {verdict} instead of {expected:?}");
        Ok(time.as_nanos() as f64)
    }

    /// A packet that comes out of the tunnel, ns.
    pub fn inbound(&self, frame: &[u8], expected: Verdict) -> Result<f64> {
        self.first(frame)?;
        middle((0..RUNS).map(|_| self.time("tunnel_ingress", frame, ROUNDS, expected)))
    }

    /// A packet for an address that is no site's, ns.
    pub fn elsewhere(&self, kind: Kind) -> Result<f64> {
        middle((0..RUNS).map(|_| self.time("lan_ingress", &kind.elsewhere(), ROUNDS, Verdict::Pass)))
    }

    /// A packet of a known flow, ns.
    pub fn hit(&self, kind: Kind) -> Result<f64> {
        if kind == Kind::Vlan {
            // Once, for the program takes the tag off: what it costs more than a packet without.
            return Ok(self.hit(Kind::Udp)? + self.single_hit(kind)? - self.single_hit(Kind::Udp)?);
        }
        let frame = kind.outbound(KNOWN.0, KNOWN.1);
        middle((0..RUNS).map(|_| self.time("lan_ingress", &frame, ROUNDS, Verdict::Redirect)))
    }

    /// The first packet of a flow, ns.
    pub fn miss(&self, kind: Kind) -> Result<f64> {
        if kind == Kind::Vlan {
            // One packet alone can miss only once, and pays for a cold start: so does one of a known flow.
            let singles = (0..SINGLES).map(|_| {
                let (source, destination) = fresh(1);
                self.time("lan_ingress", &kind.outbound(source, destination), 1, Verdict::Redirect)
            });
            return Ok(self.hit(kind)? + middle(singles)? - self.single_hit(kind)?);
        }
        // Both by way of a program that makes each packet one of another flow, or leaves it as it is.
        let [known, new] = [false, true].map(|renumbered| {
            let (way, _map) = raw::goes_on_in(self.descriptor("lan_ingress")?, renumbered)?;
            middle((0..MISSES).map(|_| {
                let (source, destination) = fresh(ROUNDS);
                let (time, verdict) = way.time_at(&kind.outbound(source, destination), self.lan, ROUNDS)?;
                ensure!(verdict == Verdict::Redirect as u32, "lan_ingress says {verdict} of a new flow");
                Ok(time.as_nanos() as f64)
            }))
        });
        Ok(self.hit(kind)? + new? - known?)
    }

    /// A packet of one of these flows, ns, whose place in the table is in no cache.
    pub fn cold(&self, flows: impl Iterator<Item = (u16, u16)>) -> Result<f64> {
        let singles = flows.map(|(source, destination)| {
            self.time("lan_ingress", &Kind::Udp.outbound(source, destination), 1, Verdict::Redirect)
        });
        Ok(self.hit(Kind::Udp)? + middle(singles)? - self.single_hit(Kind::Udp)?)
    }

    fn single_hit(&self, kind: Kind) -> Result<f64> {
        let frame = kind.outbound(KNOWN.0, KNOWN.1);
        self.time("lan_ingress", &frame, 1, Verdict::Redirect)?;
        middle((0..SINGLES).map(|_| self.time("lan_ingress", &frame, 1, Verdict::Redirect)))
    }
}

/// Ports of the first of so many flows that nobody has seen yet, and whose source ports follow each other.
fn fresh(flows: u32) -> (u16, u16) {
    const BLOCK: u32 = 32_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(flows, Ordering::Relaxed);
    (1_024 + (number % BLOCK) as u16, 20_000 + (number / BLOCK) as u16)
}

/// Time of a yardstick, ns.
pub fn yardstick(object: &raw::Object) -> Result<f64> {
    let frame = Kind::Udp.outbound(KNOWN.0, KNOWN.1);
    middle((0..RUNS).map(|_| Ok(object.time(&frame, ROUNDS)?.as_nanos() as f64)))
}

/// The median of runs: one that something else interrupted says nothing.
fn middle(times: impl Iterator<Item = Result<f64>>) -> Result<f64> {
    median(&times.collect::<Result<Vec<f64>>>()?).context("no time was measured")
}
