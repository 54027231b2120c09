//! Daemons that are killed, restarted and upgraded under load.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{PATIENCE, PORT};
use crate::figures::Figures;
use crate::mesh::{Gateway, Mesh};
use crate::traffic::{Report, UdpReceiver, UdpSender, UdpSpec};

/// Packets per second that daemons should die under.
const AIM: f64 = 50_000.0;
/// Packets per second that are tried, until one is found at which an undisturbed machine loses nothing.
const RATES: [f64; 8] = [AIM / SHARE, 50_000.0, 35_000.0, 25_000.0, 15_000.0, 10_000.0, 5_000.0, 2_000.0];
/// Share of that which is sent while something happens: a daemon that starts needs the processors, too.
const SHARE: f64 = 0.7;
const FLOWS: u32 = 50;
/// Of the IP packet, bytes.
const SIZE: usize = 100;
/// For how long a rate is tried.
const TRIAL: Duration = Duration::from_secs(3);
/// Before and after what happens.
const MARGIN: Duration = Duration::from_secs(1);

/// The figures of all that can happen to site a's daemon.
pub(super) fn all(mesh: &Mesh, figures: &mut Figures, say: impl Fn(&str)) {
    type What = fn(&Gateway) -> Result<()>;
    let cases: [(&str, What); 3] = [("kill9", kill), ("restart", restart), ("upgrade", upgrade)];
    let rate = steady_rate(mesh, &say);
    for (name, what) in cases {
        let figure = format!("failover.{name}.lost_packets");
        let outcome = match &rate {
            Ok(rate) => under_load(mesh, *rate, what),
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        match outcome {
            Ok(report) => {
                say(&format!("{name}: {} of {} packets lost", report.lost, report.sent));
                figures.add(&figure, report.lost as f64, "packets", report.sent);
            }
            Err(error) => figures.missing(&figure, "packets", format!("{error:#}")),
        }
    }
}

/// A rate that this machine carries without a loss when nothing happens, with room for a daemon's start.
fn steady_rate(mesh: &Mesh, say: impl Fn(&str)) -> Result<f64> {
    for rate in RATES {
        let report = load(mesh, rate, || {
            sleep(TRIAL);
            Ok(())
        })?;
        let carried = report.sent as f64 >= rate * TRIAL.as_secs_f64() * 0.98;
        if report.lost == 0 && carried {
            let under_load = (rate * SHARE).min(AIM);
            say(&format!("{rate:.0} packets/s are carried without a loss; {under_load:.0} while daemons die"));
            return Ok(under_load);
        }
    }
    anyhow::bail!("this machine loses packets at {} packets/s already", RATES[RATES.len() - 1])
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
