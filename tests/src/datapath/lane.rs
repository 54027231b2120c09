//! One way through the gateway: a generator in the kernel at its beginning, a thread of the kernel that handles the packets,
//! a device that nobody reads at its end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::raw::{Aim, Generator, PLAN};
use super::stage::{FEED, LAN, OFFICE, Stage, TUNNEL, counter};
use crate::pace;
use crate::processors::pin;

/// How long packets are handled in one measurement, at least; in the handling thread's own time.
const TIME: Duration = Duration::from_millis(300);
/// A measurement whose packets aren't handled ends after this.
const PATIENCE: Duration = Duration::from_secs(60);
/// What waits in a ring is handled in less.
const SETTLE: Duration = Duration::from_millis(20);

/// A way through the gateway.
pub struct Lane {
    /// The interface that the generator sends out of.
    from: u32,
    input: &'static str,
    output: &'static str,
    handler: Handler,
}

/// What was carried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Carried {
    /// Packets that came in.
    pub entered: u64,
    /// Packets that came out.
    pub arrived: u64,
    /// Time of the handling thread that they took.
    pub time: Duration,
}

impl Carried {
    /// Packets per second that a processor carries if it does nothing else.
    pub fn rate(&self) -> f64 {
        self.arrived as f64 / self.time.as_secs_f64()
    }
}

impl Lane {
    /// LAN → tunnel.
    ///
    /// # Errors
    /// When the kernel has no threads that handle an interface's packets (Linux 5.12).
    pub fn outbound(stage: &Stage) -> Result<Self> {
        Ok(Self { from: stage.sender, input: LAN, output: TUNNEL, handler: Handler::of(LAN, stage.processors - 1)? })
    }

    /// Tunnel → LAN. A program must let what comes in at [`FEED`] come in at the tunnel.
    ///
    /// # Errors
    /// As [`Self::outbound`].
    pub fn inbound(stage: &Stage) -> Result<Self> {
        Ok(Self { from: stage.feeder, input: FEED, output: OFFICE, handler: Handler::of(FEED, stage.processors - 1)? })
    }

    /// Sends packets through, so many at least, then measures how many the handling thread carries. The generator runs on
    /// this thread as fast as it goes.
    ///
    /// # Errors
    /// When the kernel has no live frames, or packets get lost on the way.
    pub fn measure(&self, frame: &[u8], warm: u32, next: impl FnMut() -> Aim) -> Result<Carried> {
        Ok(self.measure_while(frame, warm, next, || Ok(()))?.0)
    }

    /// The same; `look` is called before what is measured and after it.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn measure_while<T>(
        &self,
        frame: &[u8],
        warm: u32,
        mut next: impl FnMut() -> Aim,
        look: impl Fn() -> Result<T>,
    ) -> Result<(Carried, T, T)> {
        let mut generator = Generator::new(self.from, frame).context("the generator")?;
        let batch = if pace::is_slow() { PLAN / 16 } else { PLAN / 4 };
        let mut send = |packets: u32| -> Result<()> {
            generator.send(packets, &mut next).context("send live frames: this needs Linux 5.18")
        };
        // Routes, connections and flows are made.
        for _ in 0..warm.div_ceil(batch) {
            send(batch.min(warm))?;
        }
        std::thread::sleep(SETTLE);
        let seen_before = look()?;
        let (start, before) = (Instant::now(), self.read()?);
        while self.handler.time()? - before.time < TIME && start.elapsed() < PATIENCE {
            send(batch)?;
        }
        std::thread::sleep(SETTLE);
        let (after, seen_after) = (self.read()?, look()?);
        let carried = Carried {
            entered: after.entered - before.entered,
            arrived: after.arrived - before.arrived,
            time: after.time - before.time,
        };
        ensure!(
            carried.arrived >= carried.entered * 99 / 100 && carried.arrived > 1_000,
            "of {} packets that came in at {} {} came to {}",
            carried.entered,
            self.input,
            carried.arrived,
            self.output
        );
        Ok((carried, seen_before, seen_after))
    }

    /// The counters. Nobody reads the device at the end, so that it drops nearly all that it is given.
    fn read(&self) -> Result<Carried> {
        Ok(Carried {
            entered: counter(self.input, "rx_packets")?,
            arrived: counter(self.output, "tx_packets")? + counter(self.output, "tx_dropped")?,
            time: self.handler.time()?,
        })
    }
}

/// The kernel's thread that handles what comes in at an interface, and the one that takes over from it what is too much at
/// a time.
struct Handler {
    clocks: [ClockId; 2],
}

impl Handler {
    /// Gives the interface such a thread, on this processor.
    fn of(interface: &str, processor: usize) -> Result<Self> {
        let prefix = format!("napi/{interface}-");
        let before = threads(&prefix)?;
        std::fs::write(format!("/sys/class/net/{interface}/threaded"), "1").context("threaded NAPI")?;
        let mut new = threads(&prefix)?.into_iter().filter(|thread| !before.contains(thread));
        let (Some(thread), None) = (new.next(), new.next()) else {
            anyhow::bail!("there is not one thread that handles {interface}'s packets");
        };
        pin(Pid::from_raw(thread), processor..processor + 1)?;
        let name = format!("ksoftirqd/{processor}");
        let second = threads(&name)?.first().copied().with_context(|| format!("there is no thread {name}"))?;
        let clock = |thread| clock_getcpuclockid(Pid::from_raw(thread)).context("the clock of a kernel's thread");
        Ok(Self { clocks: [clock(thread)?, clock(second)?] })
    }

    /// Time of a processor that they have had.
    fn time(&self) -> Result<Duration> {
        self.clocks
            .iter()
            .map(|clock| -> Result<Duration> { Ok(clock_gettime(*clock).context("a thread's clock")?.into()) })
            .sum()
    }
}

/// Kernel threads by the beginning of their names.
fn threads(prefix: &str) -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // One that ends meanwhile is none of ours.
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.trim_end().starts_with(prefix) {
            found.insert(number);
        }
    }
    Ok(found)
}
