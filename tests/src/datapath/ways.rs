//! Who carries packets from the LAN into the tunnel: ours, the floor, and what people use instead.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use sdwan::dataplane::Dataplane;

use super::packets::Arrivals;
use super::raw::{self, Object};
use super::stage::{LAN, Stage, TUNNEL, run};

/// First routing table of the rivals, and their nftables table.
const FIRST_TABLE: u32 = 1_000;

/// Who carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Our data path.
    Ours,
    /// A program that only redirects.
    Floor,
    /// The same, into a tunnel at which our program counts what the stack sends: what every packet pays for that.
    CountedFloor,
    /// The kernel's forwarding, by one route.
    Kernel,
    /// nftables marks and `ip rule`, one routing table per mark: so many of them.
    Rules(u32),
    /// The kernel's forwarding behind an nftables flowtable.
    Flowtable,
    /// tc: a flower filter per port, each of which redirects (mirred). Nobody takes a hop off the TTL.
    Flower,
}

impl Way {
    /// Does something while it carries the packets.
    ///
    /// # Errors
    /// When it can't be set up here, or that fails.
    pub fn during<T>(self, stage: &Stage, ours: &mut Dataplane, what: impl FnOnce() -> Result<T>) -> Result<T> {
        // What is half set up is taken down as well; then its first failure is the one to tell.
        let outcome = self.set_up(stage, ours).and_then(|held| {
            let outcome = what();
            drop(held);
            outcome
        });
        let down = self.tear_down(stage, ours);
        let outcome = outcome?;
        down?;
        Ok(outcome)
    }

    /// One flow to each port that has a rule, or as many flows as ours gets.
    pub fn arrivals(self) -> Arrivals {
        match self {
            Self::Rules(count) => Arrivals::Uniform(u64::from(count)),
            _ => super::packets::FEW,
        }
    }

    /// Sets it up; what is returned holds it.
    fn set_up(self, stage: &Stage, ours: &mut Dataplane) -> Result<Option<Object>> {
        match self {
            Self::Ours => stage.attach(ours).map(|()| None),
            Self::Floor => floor(stage, raw::redirect(stage.tunnel)).map(Some),
            Self::CountedFloor => {
                stage.attach_counting(ours)?;
                floor(stage, raw::redirect_counted(stage.tunnel)).map(Some)
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
                ))
                .context("a flowtable needs nf_flow_table and nft_flow_offload in the kernel")?;
                run(&format!("ip route add 10.2.0.0/16 dev {TUNNEL}"))?;
                Ok(None)
            }
            Self::Flower => {
                flower().context("this needs cls_flower and act_mirred in the kernel")?;
                Ok(None)
            }
        }
    }

    fn tear_down(self, stage: &Stage, ours: &mut Dataplane) -> Result<()> {
        match self {
            Self::Ours | Self::CountedFloor => stage.detach(ours),
            Self::Floor => Ok(()),
            Self::Flower => run(&format!("tc qdisc del dev {LAN} clsact")),
            Self::Kernel => run("ip route del 10.2.0.0/16"),
            Self::Flowtable => {
                nft("delete table inet bench")?;
                run("ip route del 10.2.0.0/16")
            }
            Self::Rules(count) => {
                nft("delete table inet bench")?;
                let lines = (0..count).map(|number| {
                    let table = FIRST_TABLE + number;
                    format!("rule del fwmark {} lookup {table}\nroute flush table {table}\n", number + 1)
                });
                feed("ip", &["-batch", "-"], &lines.collect::<String>())
            }
        }
    }
}

fn floor(stage: &Stage, program: io::Result<Object>) -> Result<Object> {
    let link = program.and_then(|program| program.attach(stage.lan));
    link.context("attach a program that redirects: this needs Linux 6.6")
}

/// As hand-written set-ups do it: each rule looks for one port and sets a mark, each mark has a rule that leads to a table of
/// its own. The generator's packets spread over all of them, by the lower bits of their destination port.
fn rules(count: u32) -> Result<()> {
    let marks: Vec<String> =
        (0..count).map(|number| format!("udp dport {} meta mark set {}", 0x2000 + number, number + 1)).collect();
    let chain = marks.join("\n");
    let hook = "type filter hook prerouting priority -150";
    nft(&format!("table inet bench {{\n chain classify {{\n {hook}\n {chain}\n }}\n}}\n"))?;
    let lines = (0..count).map(|number| {
        let table = FIRST_TABLE + number;
        format!("route add default dev {TUNNEL} table {table}\nrule add fwmark {} lookup {table}\n", number + 1)
    });
    feed("ip", &["-batch", "-"], &lines.collect::<String>())
}

/// One filter for each of 64 ports, as one would send classes to different tunnels.
fn flower() -> Result<()> {
    run(&format!("tc qdisc add dev {LAN} clsact"))?;
    let lines = (0x2000..0x2040).map(|port| {
        let matches = format!("flower ip_proto udp dst_ip 10.2.0.0/16 dst_port {port}");
        let action = format!("action mirred egress redirect dev {TUNNEL}");
        format!("filter add dev {LAN} ingress protocol ip prio 1 {matches} {action}\n")
    });
    feed("tc", &["-batch", "-"], &lines.collect::<String>())
}

fn nft(text: &str) -> Result<()> {
    feed("nft", &["-f", "-"], text).context("nft comes with nftables")
}

/// Runs a program on a text.
fn feed(program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    // One that ends early says why.
    let written = child.stdin.take().context("a pipe")?.write_all(text.as_bytes());
    let output = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    // The first line names what failed, and what follows is more of the same.
    anyhow::ensure!(output.status.success(), "{program}: {}", words.lines().next().unwrap_or("failed"));
    Ok(written?)
}
