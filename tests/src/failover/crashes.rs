//! Daemons that are killed, restarted and upgraded under load.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{PATIENCE, PORT};
use crate::figures::Figures;
use crate::mesh::{Gateway, Mesh};
use crate::traffic::{Report, UdpReceiver, UdpSender, UdpSpec};

/// Packets per second, highest first: what daemons should die under, and what slower machines carry.
const RATES: [f64; 7] = [50_000.0, 35_000.0, 25_000.0, 15_000.0, 10_000.0, 5_000.0, 2_000.0];
const FLOWS: u32 = 50;
/// Of the IP packet, bytes.
const SIZE: usize = 100;
/// For how long a rate is tried.
const TRIAL: Duration = Duration::from_secs(3);
/// Before and after what happens.
const MARGIN: Duration = Duration::from_secs(1);

/// The figures of all that can happen to site a's daemon: what is lost at the highest rate at which nothing is lost while
/// nothing happens, or, where a daemon that starts leaves too little of the processors for that, at a lower one.
pub(super) fn all(mesh: &Mesh, figures: &mut Figures, say: impl Fn(&str)) {
    type What = fn(&Gateway) -> Result<()>;
    let cases: [(&str, What); 3] = [("kill9", kill), ("restart", restart), ("upgrade", upgrade)];
    let carried = carried(mesh, &say);
    for (name, what) in cases {
        let names = [format!("failover.{name}.lost_packets"), format!("failover.{name}.packets_per_second")];
        let outcome = match &carried {
            Ok(rates) => at_highest(mesh, rates, name, what, &say),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        match outcome {
            Ok((rate, report)) => {
                figures.add(&names[0], report.lost as f64, "packets", report.sent);
                figures.add(&names[1], rate, "packets/s", 1);
            }
            Err(error) => {
                figures.missing(&names[0], "packets", format!("{error:#}"));
                figures.missing(&names[1], "packets/s", format!("{error:#}"));
            }
        }
    }
}

/// The rates that this machine carries without a loss when nothing happens.
fn carried(mesh: &Mesh, say: impl Fn(&str)) -> Result<&'static [f64]> {
    for (at, rate) in RATES.into_iter().enumerate() {
        let report = load(mesh, rate, || {
            sleep(TRIAL);
            Ok(())
        })?;
        if report.lost == 0 && report.sent as f64 >= rate * TRIAL.as_secs_f64() * 0.98 {
            say(&format!("{rate:.0} packets/s are carried without a loss"));
            return Ok(&RATES[at..]);
        }
    }
    anyhow::bail!("this machine loses packets at {} packets/s already", RATES[RATES.len() - 1])
}

/// Lets it happen under the highest rate, and under the next lower one if packets are lost: once only, for a daemon that starts
/// takes no more than a part of the processors.
fn at_highest(
    mesh: &Mesh,
    rates: &[f64],
    name: &str,
    what: fn(&Gateway) -> Result<()>,
    say: impl Fn(&str),
) -> Result<(f64, Report)> {
    let mut last = None;
    for rate in rates.iter().take(2) {
        let report = under_load(mesh, *rate, what)?;
        say(&format!("{name} at {rate:.0} packets/s: {} of {} lost", report.lost, report.sent));
        let done = report.lost == 0;
        last = Some((*rate, report));
        if done {
            break;
        }
    }
    last.context("there is no rate")
}

fn under_load(mesh: &Mesh, rate: f64, what: fn(&Gateway) -> Result<()>) -> Result<Report> {
    let gateway = mesh.gateway("a");
    load(mesh, rate, || {
        sleep(MARGIN);
        what(gateway)?;
        mesh.wait_until_up(PATIENCE)?;
        sleep(MARGIN);
        Ok(())
    })
}

/// Sends from site a to site b while something happens.
fn load(mesh: &Mesh, rate: f64, what: impl FnOnce() -> Result<()>) -> Result<Report> {
    let (a, b) = (mesh.bed().site("a").host(0), mesh.bed().site("b").host(0));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), PORT + 1))?;
    let spec = UdpSpec { flows: FLOWS, size: SIZE, ..UdpSpec::new(receiver.local(), rate) };
    let sender = UdpSender::start(a, spec)?;
    what()?;
    let sent = sender.stop()?;
    let report = receiver.finish(&sent, Duration::from_secs(1))?;
    ensure!(report.socket_dropped == 0, "the receiver itself was too slow for {rate:.0} packets/s");
    Ok(report)
}

/// SIGKILL, a second without a daemon, and a new one.
fn kill(gateway: &Gateway) -> Result<()> {
    gateway.kill()?;
    sleep(MARGIN);
    Ok(gateway.start()?)
}

/// What `systemctl restart` does.
fn restart(gateway: &Gateway) -> Result<()> {
    gateway.stop()?;
    Ok(gateway.start()?)
}

/// A restart by which the data path's ABI changes: what the new daemon finds is pinned as of another version.
fn upgrade(gateway: &Gateway) -> Result<()> {
    gateway.stop()?;
    gateway.age_pins().context("the pins can be made those of an older version")?;
    Ok(gateway.start()?)
}
