//! Packets per second from the LAN into the tunnel, end to end, by an in-kernel generator (XDP live frames): ours, the floor,
//! and what people use instead.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::raw::{self, Object};
use super::stage::{LAN, Stage, TUNNEL, run};
use super::test_run::udp;

/// How long a measurement lasts, at least.
const TIME: Duration = Duration::from_millis(700);
/// Packets that the generator sends per call.
const BATCH: u32 = 524_288;
/// First routing table of the rivals, and their nftables table.
const FIRST_TABLE: u32 = 1_000;
/// Bytes of the small packets (IP).
pub const SMALL: usize = 60;

/// Who carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Our data path, attached by the caller.
    Ours,
    /// A program that only redirects.
    Floor,
    /// The kernel's forwarding, by one route.
    Kernel,
    /// nftables marks and `ip rule`, one routing table per mark: so many of them.
    Rules(u32),
    /// The same behind an nftables flowtable.
    Flowtable,
}

impl Way {
    /// Sets it up; what is returned holds it.
    fn set_up(self, stage: &Stage) -> Result<Option<Object>> {
        match self {
            Self::Ours => Ok(None),
            Self::Floor => {
                let link = raw::redirect(stage.tunnel).and_then(|program| program.attach(stage.lan));
                link.map(Some).context("attach a program that redirects: this needs Linux 6.6")
            }
            Self::Kernel => {
                run(&format!("ip route add 10.2.0.0/16 dev {TUNNEL}"))?;
                Ok(None)
            }
            Self::Rules(count) => {
                rules(count)?;
                Ok(None)
            }
            Self::Flowtable => {
                nft(&format!(
                    "table inet bench {{\n flowtable f {{\n hook ingress priority 0\n devices = {{ {LAN} }}\n }}\n\
                     chain forward {{\n type filter hook forward priority 0\n ip protocol udp flow add @f\n }}\n}}\n"
                ))?;
                run(&format!("ip route add 10.2.0.0/16 dev {TUNNEL}"))?;
                Ok(None)
            }
        }
    }

    fn tear_down(self) -> Result<()> {
        match self {
            Self::Ours | Self::Floor => Ok(()),
            Self::Kernel => run("ip route del 10.2.0.0/16"),
            Self::Flowtable => {
                nft("delete table inet bench")?;
                run("ip route del 10.2.0.0/16")
            }
            Self::Rules(count) => {
                nft("delete table inet bench")?;
                for number in 0..count {
                    run(&format!("ip rule del fwmark {} lookup {}", number + 1, FIRST_TABLE + number))?;
                    run(&format!("ip route flush table {}", FIRST_TABLE + number))?;
                }
                Ok(())
            }
        }
    }
}

/// As hand-written set-ups do it: each rule looks for one port and sets a mark, each mark has a rule that leads to a table of
/// its own. The generator's packets spread over all of them, by the lower bits of their destination port.
fn rules(count: u32) -> Result<()> {
    let marks: Vec<String> =
        (0..count).map(|number| format!("udp dport {} meta mark set {}", 0x2000 + number, number + 1)).collect();
    let chain = marks.join("\n");
    let hook = "type filter hook prerouting priority -150";
    nft(&format!("table inet bench {{\n chain classify {{\n {hook}\n {chain}\n }}\n}}\n"))?;
    for number in 0..count {
        run(&format!("ip route add default dev {TUNNEL} table {}", FIRST_TABLE + number))?;
        run(&format!("ip rule add fwmark {} lookup {}", number + 1, FIRST_TABLE + number))?;
    }
    Ok(())
}

fn nft(text: &str) -> Result<()> {
    let what = || format!("run nft, which comes with nftables, on {text:?}");
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(what)?;
    nft.stdin.take().context("a pipe")?.write_all(text.as_bytes())?;
    let output = nft.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "{}: {}", what(), String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// What the generator sends.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bits of the source port that vary.
    pub source_ports: u16,
    /// Bits of the destination port that vary.
    pub destination_ports: u16,
    /// Bytes of the IP packets.
    pub size: usize,
}

impl Load {
    /// One flow.
    pub const ONE: Self = Self { source_ports: 0, destination_ports: 0, size: SMALL };
    /// One flow to each of 64 ports.
    pub const FEW: Self = Self { destination_ports: 63, ..Self::ONE };
    /// 1,048,576 flows.
    pub const MANY: Self = Self { source_ports: 0x3fff, destination_ports: 63, size: SMALL };
}

impl Way {
    /// One flow to each port that has a rule, or as many flows as ours gets.
    pub fn load(self) -> Load {
        match self {
            Self::Rules(count) => Load { destination_ports: count as u16 - 1, ..Load::ONE },
            _ => Load::FEW,
        }
    }
}

/// Packets per second that one way carries. The generator runs on this thread, as fast as it goes, and the packets are
/// handled on another processor: what arrives is what that one can carry.
///
/// # Errors
/// When the way can't be set up, or carries nothing.
pub fn rate(stage: &Stage, way: Way, load: Load) -> Result<f64> {
    let held = way.set_up(stage)?;
    let measured = measure(stage, load);
    drop(held);
    way.tear_down()?;
    measured.with_context(|| format!("{way:?}"))
}

/// Sends packets into the LAN, and waits until they are handled.
///
/// # Errors
/// When the kernel has no live frames.
pub fn send(stage: &Stage, load: Load, packets: u32) -> Result<()> {
    let generator = raw::generator(stage.sender, load.source_ports, load.destination_ports).context("the generator")?;
    let frame = udp(0x4000, 0x2000, load.size);
    generator.send(&frame, packets).context("send live frames: this needs Linux 5.18")?;
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

fn measure(stage: &Stage, load: Load) -> Result<f64> {
    let generator = raw::generator(stage.sender, load.source_ports, load.destination_ports).context("the generator")?;
    let frame = udp(0x4000, 0x2000, load.size);
    // Routes, connections and flows are made.
    generator.send(&frame, BATCH).context("send live frames: this needs Linux 5.18")?;
    let (start, before) = (Instant::now(), carried()?);
    let mut sent = 0_u64;
    while start.elapsed() < TIME {
        generator.send(&frame, BATCH)?;
        sent += u64::from(BATCH);
    }
    let (time, arrived) = (start.elapsed(), carried()? - before);
    anyhow::ensure!(arrived > sent / 100, "of {sent} packets {arrived} came to the tunnel");
    Ok(arrived as f64 / time.as_secs_f64())
}

/// Packets that the tunnel device was given: nobody reads them, so that it drops nearly all.
fn carried() -> Result<u64> {
    let counter = |name: &str| -> Result<u64> {
        let file = format!("/sys/class/net/{TUNNEL}/statistics/{name}");
        Ok(std::fs::read_to_string(&file).with_context(|| file.clone())?.trim().parse()?)
    };
    Ok(counter("tx_packets")? + counter("tx_dropped")?)
}
