//! Time of one packet by the kernel's test-run.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::programs::SchedClassifier;
use etherparse::PacketBuilder;

use super::raw::{self, Object};
use super::stage::{LAN_MAC, Size, Stage};

/// A run's packets: the program gets what it made of the packet before, and each one takes a hop off its TTL.
const ROUNDS: u32 = 250;
/// Runs of so many packets behind a mean.
const RUNS: usize = 2_000;
/// Single packets behind a median.
const SINGLES: u16 = 2_000;

/// A UDP packet from the LAN to the other site, without a checksum, as the generator needs it.
pub fn udp(source_port: u16, destination_port: u16, size: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], LAN_MAC)
        .ipv4([10, 1, 0, 5], [10, 2, 0, 9], 255)
        .udp(source_port, destination_port);
    let payload = vec![0x5a; size.saturating_sub(28)];
    builder.write(&mut frame, &payload).expect("memory takes any packet");
    frame[40..42].fill(0);
    frame
}

/// `lan_ingress`, loaded once more onto the maps of a data path.
pub struct Ours {
    program: aya::Ebpf,
    lan: u32,
}

impl Ours {
    /// Loads it.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load(stage: &Stage, layout: &sdwan::dataplane::Layout) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let object = aya_obj::Object::parse(sdwan::dataplane::OBJECT)?;
        let names: Vec<String> = object.maps.keys().cloned().collect();
        for name in names.iter().filter(|name| layout.map(name).exists()) {
            let map = aya::maps::MapData::from_pin(layout.map(name))?;
            loader.map_pin_path(name, layout.map(name)).map_max_entries(name, map.info()?.max_entries());
        }
        let mut program = loader.load(sdwan::dataplane::OBJECT)?;
        let classifier: &mut SchedClassifier = program.program_mut("lan_ingress").context("lan_ingress")?.try_into()?;
        classifier.load()?;
        Ok(Self { program, lan: stage.lan })
    }

    fn time(&self, frame: &[u8], repeat: u32) -> Result<f64> {
        let program: &SchedClassifier = self.program.program("lan_ingress").context("lan_ingress")?.try_into()?;
        let time = raw::time(program.fd()?.as_fd().as_raw_fd(), frame, self.lan, repeat)?;
        Ok(time.as_nanos() as f64)
    }

    /// A packet of a known flow, ns.
    pub fn hit(&self, frame: &[u8]) -> Result<f64> {
        mean((0..RUNS).map(|_| self.time(frame, ROUNDS)))
    }

    /// What a first packet costs more than a further one of the same flow, ns. One packet can miss only once, and a run of
    /// one packet pays for a cold start: both are measured so.
    pub fn miss_over_hit(&self) -> Result<f64> {
        let known = udp(40_000, 8_191, 60);
        let hit = median((0..SINGLES).map(|_| self.time(&known, 1)))?;
        // Flows that nobody has seen, in each call others.
        let start = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.subsec_nanos() as u16;
        let unknown = |number: u16| udp(start.wrapping_add(number), 20_000 + number % 16_384, 60);
        let miss = median((0..SINGLES).map(|number| self.time(&unknown(number), 1)))?;
        Ok(miss - hit)
    }

    /// What a packet of one of so many flows costs more than one of a flow that was just seen, ns: its place in the table
    /// is in no cache. The flows are those of [`udp`] with these source ports.
    pub fn cold_over_warm(&self, flows: impl Iterator<Item = (u16, u16)>) -> Result<f64> {
        let known = udp(40_000, 8_191, 60);
        let warm = median((0..SINGLES).map(|_| self.time(&known, 1)))?;
        let cold = median(flows.map(|(source, destination)| self.time(&udp(source, destination, 60), 1)))?;
        Ok(cold - warm)
    }
}

/// Time of a yardstick, ns.
pub fn yardstick(object: &Object) -> Result<f64> {
    let frame = udp(40_000, 8_191, 60);
    mean((0..RUNS).map(|_| Ok(object.time(&frame, ROUNDS)?.as_nanos() as f64)))
}

fn mean(times: impl ExactSizeIterator<Item = Result<f64>>) -> Result<f64> {
    let count = times.len() as f64;
    let mut sum = 0.0;
    for time in times {
        sum += time?;
    }
    Ok(sum / count)
}

fn median(times: impl Iterator<Item = Result<f64>>) -> Result<f64> {
    let mut times = times.collect::<Result<Vec<f64>>>()?;
    times.sort_unstable_by(f64::total_cmp);
    times.get(times.len() / 2).copied().context("no time was measured")
}

/// The median of some numbers.
pub fn middle(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied()
}

/// Sizes whose cost is compared with [`Size::SMALL`].
pub const MANY_POLICIES: Size = Size { policies: 252, ..Size::SMALL };
/// Ten thousand sites, forty thousand prefixes.
pub const MANY_SITES: Size = Size { sites: 9_999, ..Size::SMALL };
